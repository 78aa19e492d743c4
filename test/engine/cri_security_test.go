package engine

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// status gives what the kernel says of a container's program.
func (p *pod) status(t *testing.T, name string, context object) map[string]string {
	t.Helper()
	found := map[string]string{}
	for line := range strings.Lines(p.output(t, name, "cat /proc/self/status", secure(context))) {
		key, value, _ := strings.Cut(line, ":")
		found[key] = strings.Join(strings.Fields(value), " ")
	}
	return found
}

func expect(t *testing.T, status map[string]string, want map[string]string) {
	t.Helper()
	for k, v := range want {
		if status[k] != v {
			t.Errorf("%s is %q, want %q", k, status[k], v)
		}
	}
}

func criUser(t *testing.T, c *cri) {
	p := c.pod(t, nil)
	expect(t, p.status(t, "user", object{"run_as_user": object{"value": 1000}, "run_as_group": object{"value": 2000}, "supplemental_groups": []int{3000}}),
		map[string]string{"Uid": "1000 1000 1000 1000", "Gid": "2000 2000 2000 2000", "Groups": "2000 3000", "CapEff": "0000000000000000"})
	expect(t, p.status(t, "nnp", object{"no_new_privs": true, "run_as_user": object{"value": 1}}), map[string]string{"NoNewPrivs": "1"})
	expect(t, p.status(t, "no-nnp", object{}), map[string]string{"NoNewPrivs": "0", "Seccomp": "0"})
}

// criAccount has what an image's programs expect of a runtime: HOME from the image's passwd, and standard streams that can be
// opened again by name.
func criAccount(t *testing.T, c *cri) {
	p := c.pod(t, nil)
	script := "echo $HOME; echo out > /dev/stdout; echo err > /dev/stderr; echo x > /dev/null && echo null"
	for name, s := range map[string]struct {
		uid  int
		want string
	}{"root": {0, "/root"}, "app": {1000, "/home/app"}, "unknown": {4711, "/"}} {
		context := object{"run_as_user": object{"value": s.uid}}
		out := p.output(t, name, script, secure(context))
		for _, want := range []string{s.want + "\n", "out\n", "err\n", "null\n"} {
			if !strings.Contains(out, want) {
				t.Errorf("%s: %q lacks %q", name, out, want)
			}
		}
		id := p.run(t, name+"-exec", forever, secure(context))
		c.want(t, s.want+"\nout\n", "exec", "-s", id, "/bin/sh", "-c", "echo $HOME; echo out > /dev/stdout")
	}
}

// criNull holds that root in a container without a user namespace has no node of the host's at hand: neither /dev/null nor
// what masks files of /proc.
func criNull(t *testing.T, c *cri) {
	var before, after unix.Stat_t
	if err := unix.Stat("/dev/null", &before); err != nil {
		t.Fatal(err)
	}
	p := c.pod(t, nil)
	out := p.output(t, "c", "busybox chown 12345 /dev/null && busybox chmod 0600 /dev/null && echo changed; for f in kcore keys timer_list; do busybox chmod 0640 /proc/$f; busybox chown 12345 /proc/$f; done", nil)
	if !strings.Contains(out, "changed") {
		t.Errorf("the container cannot change its own /dev/null: %q", out)
	}
	if err := unix.Stat("/dev/null", &after); err != nil {
		t.Fatal(err)
	}
	if after.Mode != before.Mode || after.Uid != before.Uid {
		_ = os.Chmod("/dev/null", 0o666)
		_ = os.Chown("/dev/null", int(before.Uid), int(before.Gid))
		t.Errorf("the host's /dev/null was changed: mode %o, owner %d", after.Mode, after.Uid)
	}
}

func criReadOnly(t *testing.T, c *cri) {
	p := c.pod(t, nil)
	write := "echo x > /file && echo written; echo x > /vol/file && echo volume; echo x > /dev/shm/file && echo shm"
	volume := []object{{"host_path": c.dir + "/logs/volume", "container_path": "/vol"}}
	for _, s := range []struct {
		name   string
		config object
		want   string
	}{
		{"rw", object{"mounts": volume}, "written\nvolume\nshm\n"},
		{"ro", object{"mounts": volume, "linux": object{"security_context": object{"readonly_rootfs": true}}}, "volume\nshm\n"},
		{"ro-volume", object{"mounts": []object{{"host_path": c.dir + "/logs/volume", "container_path": "/vol", "readonly": true}}}, "written\nshm\n"},
	} {
		if err := os.MkdirAll(c.dir+"/logs/volume", 0o755); err != nil {
			t.Fatal(err)
		}
		out := ""
		for line := range strings.Lines(p.output(t, s.name, write, s.config)) {
			if !strings.Contains(line, "Read-only file system") {
				out += line
			}
		}
		if out != s.want {
			t.Errorf("%s: %q, want %q", s.name, out, s.want)
		}
	}
}

// criReadOnlyBelow holds what Kubernetes promises of a volume that is read-only: itself, and not the mounts in it.
func criReadOnlyBelow(t *testing.T, c *cri) {
	below := c.dir + "/volumes/below/mount"
	if err := os.MkdirAll(below, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := c.enter("mount", "-t", "tmpfs", "below", below); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	p := c.pod(t, nil)
	out := p.output(t, "c", "echo x > /vol/file && echo volume; echo x > /vol/mount/file && echo below",
		object{"mounts": []object{{"host_path": c.dir + "/volumes/below", "container_path": "/vol", "readonly": true}}})
	hold(t, strings.Contains(out, "below\n"), "write below a read-only volume", fmt.Sprintf("%q", out))
	if strings.Contains(out, "volume\n") || !strings.Contains(out, "Read-only file system") {
		t.Errorf("a read-only volume with a mount in it: %q", out)
	}
	p.remove(t)
	if out, err := c.enter("umount", below); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func criCapabilities(t *testing.T, c *cri) {
	p := c.pod(t, nil)
	expect(t, p.status(t, "default", object{}), map[string]string{"CapEff": "00000000a80425fb", "CapBnd": "00000000a80425fb", "CapAmb": "0000000000000000"})
	expect(t, p.status(t, "none", object{"capabilities": object{"drop_capabilities": []string{"ALL"}}}),
		map[string]string{"CapEff": "0000000000000000", "CapPrm": "0000000000000000", "CapBnd": "0000000000000000"})
	expect(t, p.status(t, "one", object{"capabilities": object{"drop_capabilities": []string{"ALL"}, "add_capabilities": []string{"NET_ADMIN"}}}),
		map[string]string{"CapEff": "0000000000001000", "CapBnd": "0000000000001000"})
}

// The kinds of a seccomp profile (CRI, SecurityProfile).
const (
	profileDefault = iota
	profileUnconfined
	profileLocal
)

func criSeccomp(t *testing.T, c *cri) {
	p := c.pod(t, object{"security_context": object{"seccomp": object{"profile_type": profileDefault}, "namespace_options": object{"pid": nsContainer}}})
	expect(t, p.status(t, "default", object{"seccomp": object{"profile_type": profileDefault}}), map[string]string{"Seccomp": "2"})
	expect(t, p.status(t, "unconfined", object{"seccomp": object{"profile_type": profileUnconfined}}), map[string]string{"Seccomp": "0"})
	profile := c.write("profile.json", `{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
		"syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}`)
	local := object{"seccomp": object{"profile_type": profileLocal, "localhost_ref": profile}}
	if out := p.output(t, "local", "busybox mkdir /tmp/x; grep Seccomp: /proc/self/status", secure(local)); true {
		hold(t, strings.Contains(out, "Operation not supported") && strings.Contains(out, "Seccomp:\t2"), "a profile from a file", fmt.Sprintf("%q", out))
	}
	// The runtime's default keeps unshare from a program without CAP_SYS_ADMIN.
	if out := p.output(t, "refused", "busybox unshare -U true && echo done", secure(object{"seccomp": object{"profile_type": profileDefault}})); !strings.Contains(out, "not permitted") {
		t.Errorf("unshare behind the default profile: %q", out)
	}
}

func criPrivileged(t *testing.T, c *cri) {
	context := object{"privileged": true, "namespace_options": object{"pid": nsContainer}}
	p := c.pod(t, object{"security_context": context})
	script := "mount -t tmpfs none /tmp && echo mounted; test -b /dev/vda -o -e /dev/kmsg && echo devices; echo 1 > /proc/sys/net/ipv4/ip_forward && echo sysctl; grep CapEff /proc/self/status; grep ' /sys ' /proc/self/mounts; cat /proc/self/mounts"
	out := p.output(t, "c", script, secure(context))
	for _, want := range []string{"mounted", "devices", "sysctl", "/sys sysfs rw"} {
		if !strings.Contains(out, want) {
			t.Errorf("a privileged container lacks %q: %s", want, out)
		}
	}
	own, err := c.enter("grep", "CapEff", "/proc/self/status")
	if err != nil || !strings.Contains(out, own) {
		t.Errorf("the capabilities of a privileged container are not the node's, %q: %v: %s", own, err, out)
	}
}

// The propagation of a mount (CRI, MountPropagation).
const (
	propagationPrivate = iota
	propagationToContainer
	propagationBoth
)

func criPropagation(t *testing.T, c *cri) {
	context := object{"privileged": true, "namespace_options": object{"pid": nsContainer}}
	p := c.pod(t, object{"security_context": context})
	ids := map[int]string{}
	for kind, name := range []string{"private", "slave", "shared"} {
		dir := c.dir + "/volumes/" + name
		if err := os.MkdirAll(dir+"/from-node", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(dir+"/from-pod", 0o755); err != nil {
			t.Fatal(err)
		}
		ids[kind] = p.run(t, name, forever, object{
			"mounts": []object{{"host_path": dir, "container_path": "/vol", "propagation": kind}},
			"linux":  object{"security_context": object{"privileged": true, "namespace_options": object{"pid": nsContainer}}},
		})
		if out, err := c.enter("mount", "-t", "tmpfs", "fromnode", dir+"/from-node"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		c.want(t, "", "exec", "-s", ids[kind], "mount", "-t", "tmpfs", "frompod", "/vol/from-pod")
		out := c.want(t, "", "exec", "-s", ids[kind], "cat", "/proc/self/mounts")
		if got := strings.Contains(out, "fromnode /vol/from-node"); got != (kind != propagationPrivate) {
			t.Errorf("%s: a mount of the node's is seen: %v", name, got)
		}
		node, err := c.enter("cat", "/proc/self/mounts")
		if got := strings.Contains(node, "frompod "+dir+"/from-pod"); err != nil || got != (kind == propagationBoth) {
			t.Errorf("%s: a mount of the pod's is seen by the node: %v, %v", name, got, err)
		}
	}
	p.remove(t)
	for _, name := range []string{"private", "slave", "shared"} {
		_, _ = c.enter("umount", c.dir+"/volumes/"+name+"/from-node")
	}
	_, _ = c.enter("umount", c.dir+"/volumes/shared/from-pod")
}
