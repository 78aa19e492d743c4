package policy

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"brig/internal/annotation"
	"brig/internal/caps"
	"brig/internal/seccomp"

	"github.com/opencontainers/runtime-spec/specs-go"
)

var update = flag.Bool("update", false, "write the golden files anew")

// A machine of the tests' own: nothing of the one at hand gets into a golden file. It is a merged-/usr machine of 8 GiB.
var (
	testLinks = map[string]string{"/bin": "usr/bin", "/sbin": "usr/sbin", "/lib": "usr/lib", "/lib64": "usr/lib64"}
	testPaths = []string{
		"/usr", "/etc/alternatives", "/etc/ld.so.cache", "/etc/localtime", "/etc/nsswitch.conf", "/etc/resolv.conf", "/etc/ssl/certs",
		"/srv/root", "/srv/data", "/srv/data/in", "/home/me/work", "/home/me/work/src", "/home/me/work/a b",
	}
	testDevices = map[string][3]any{"/dev/fuse": {"c", 10, 229}, "/dev/kvm": {"c", 10, 232}, "/dev/sda": {"b", 8, 0}, "/dev/vda": {"b", 254, 0}}
	testFiles   = map[string]string{"/home/me/work/profile.json": `{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
		{"names": ["read", "write", "exit_group"], "action": "SCMP_ACT_ALLOW"},
		{"names": ["chroot"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_CHROOT"]}}]}`}
	testInRoot = map[string]string{
		"/srv/root/etc/passwd": "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\r\nrelative:x:7:7::home:/bin/sh\n" +
			"word:x:abc:0::/:/bin/sh\nwordgid:x:5:abc::/:/bin/sh\nhuge:x:4294967295:0::/:/bin/sh\nminus:x:-1:0::/:/bin/sh\nempty:x:::::\nshort:x\n2000:x:5:5::/:/bin/sh\n",
		"/srv/root/etc/group": "root:x:0:\nstaff:x:50:app\nword:x:abc:\n",
	}
)

func testHost() *Host {
	return &Host{
		Cwd: "/home/me/work", MemTotal: 8 << 30, NoFile: 1 << 20, LastCap: caps.Max,
		Lookup: func(k string) (string, bool) {
			v, ok := map[string]string{"LANG": "C.UTF-8", "EMPTY": ""}[k]
			return v, ok
		},
		Link:   func(name string) (string, bool) { to, ok := testLinks[name]; return to, ok },
		Exists: func(name string) bool { _, link := testLinks[name]; return link || slices.Contains(testPaths, name) },
		Read: func(name string) ([]byte, error) {
			if text, ok := testFiles[name]; ok {
				return []byte(text), nil
			}
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		},
		ReadInRoot: func(root, name string) ([]byte, error) {
			if text, ok := testInRoot[root+name]; ok {
				return []byte(text), nil
			}
			return nil, &fs.PathError{Op: "open", Path: root + name, Err: fs.ErrNotExist}
		},
		Device: func(name string) (string, uint32, uint32, error) {
			d, ok := testDevices[name]
			if !ok {
				return "", 0, 0, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
			}
			return d[0].(string), uint32(d[1].(int)), uint32(d[2].(int)), nil
		},
	}
}

func testImage() *ImageFacts {
	return &ImageFacts{
		Root: "/srv/root", Env: []string{"PATH=/app/bin:/bin", "APP=1", "LANG=C"}, Entrypoint: []string{"/app/entry"}, Cmd: []string{"serve"},
		WorkingDir: "app", User: "app", Volumes: []string{"/var/lib/app", "/srv/in/", "/tmp"},
	}
}

// over gives a policy on top of its preset, as `brig run --policy` does.
func over(t testing.TB, p *Policy) *Policy {
	t.Helper()
	base, err := Preset(p.Preset)
	if err != nil {
		t.Fatal(err)
	}
	return Merge(base, p)
}

// hosts are the machines of golden files whose name begins so.
var hosts = map[string]func(*Host){
	"cgroup2":      func(h *Host) { h.CgroupV2 = true },
	"image":        func(h *Host) { h.Image = testImage() },
	"unprivileged": func(h *Host) { h.EUID, h.EGID, h.NoFile, h.OOMScoreAdj = 1000, 1000, 512, 800 },
}

// TestGoldenSpecs compiles testdata/NAME.policy.yaml to a spec and compares it with testdata/NAME.spec.json.
func TestGoldenSpecs(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.policy.yaml")
	if err != nil || len(files) < 10 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".policy.yaml")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := testHost()
			for prefix, change := range hosts {
				if strings.HasPrefix(name, prefix) {
					change(h)
				}
			}
			p, err := Load(file)
			if err != nil {
				t.Fatal(err)
			}
			spec, err := over(t, p).Spec(h)
			if err != nil {
				t.Fatal(err)
			}
			checkFilter(t, spec)
			compareGolden(t, "testdata/"+name+".spec.json", spec)
			again, err := over(t, p).Spec(h)
			if err != nil {
				t.Fatal(err)
			}
			checkFilter(t, again)
			if !reflect.DeepEqual(spec, again) {
				t.Error("the same policy gave another spec the second time")
			}
		})
	}
}

// checkFilter takes a built-in filter out of the spec: it has a thousand lines and tests of its own. What has to hold
// here is that it is the one that the policy names, for the capabilities that the spec has.
func checkFilter(t *testing.T, spec *specs.Spec) {
	t.Helper()
	name := spec.Annotations[annotation.Seccomp]
	switch name {
	case Default, Strict, Compat:
		want, err := seccomp.Profile(name, spec.Process.Capabilities.Bounding)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(spec.Linux.Seccomp, want) {
			t.Errorf("linux.seccomp is not the profile %q for the capabilities %q", name, spec.Process.Capabilities.Bounding)
		}
		spec.Linux.Seccomp = nil
	case "unconfined":
		if spec.Linux.Seccomp != nil {
			t.Error("unconfined has a filter")
		}
	}
}

func compareGolden(t *testing.T, file string, v any) {
	t.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	got := b.Bytes()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; go test -update writes it", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; go test -update writes it anew\n%s", file, firstDifference(string(want), string(got)))
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(w), len(g)) {
		if w[i] != g[i] {
			return fmt.Sprintf("line %d: want %q\n        got  %q", i+1, w[i], g[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(g), len(w))
}

// TestPresets holds what every preset promises, and in what they differ.
func TestPresets(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		preset, filter, landlock string
		pids                     int64
		caps                     int
		lockCaps, sys            bool
	}{
		{"", Default, "on", 512, 0, true, true},
		{Default, Default, "on", 512, 0, true, true},
		{Strict, Strict, "strict", 128, 0, true, false},
		{Compat, Compat, "on", 512, 14, false, true},
	} {
		t.Run("preset "+c.preset, func(t *testing.T) {
			t.Parallel()
			s, err := over(t, &Policy{Preset: c.preset, Args: []string{"id"}}).Spec(testHost())
			if err != nil {
				t.Fatal(err)
			}
			a := s.Annotations
			if a[annotation.Seccomp] != c.filter || s.Linux.Seccomp == nil || a[annotation.Landlock] != c.landlock {
				t.Errorf("filter %q, landlock %q", a[annotation.Seccomp], a[annotation.Landlock])
			}
			if got := *s.Linux.Resources.Pids.Limit; got != c.pids {
				t.Errorf("%d processes, want %d", got, c.pids)
			}
			if got := len(s.Process.Capabilities.Bounding); got != c.caps || (a[annotation.LockCaps] == "true") != c.lockCaps {
				t.Errorf("%d capabilities, locked %q", got, a[annotation.LockCaps])
			}
			hasSys := slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/sys" })
			if hasSys != c.sys {
				t.Errorf("/sys is there: %v", hasSys)
			}
			// What none of them leaves out.
			if !s.Process.NoNewPrivileges || !s.Root.Readonly || a[annotation.IDs] != "auto" || len(s.Linux.Namespaces) != 7 {
				t.Errorf("no new privileges %v, read-only %v, ids %q, %d namespaces", s.Process.NoNewPrivileges, s.Root.Readonly, a[annotation.IDs], len(s.Linux.Namespaces))
			}
			if m := s.Linux.Resources.Memory; *m.Limit != 4<<30 || *m.Swap != *m.Limit {
				t.Errorf("memory %d of 8 GiB, with swap %d", *m.Limit, *m.Swap)
			}
			if d := s.Linux.Resources.Devices; len(d) != 9 || d[0].Allow || d[0].Type != "" || d[0].Access != "rwm" {
				t.Errorf("device rules %+v", d)
			}
			if len(s.Process.Capabilities.Ambient)+len(s.Process.Capabilities.Inheritable) != 0 {
				t.Errorf("root's inheritable and ambient sets are not empty: %+v", s.Process.Capabilities)
			}
		})
	}
	if _, err := Preset("strikt"); err == nil || err.Error() != `preset: unknown preset "strikt"; did you mean "strict"?` {
		t.Error(err)
	}
	if _, err := Preset("none"); err == nil || err.Error() != `preset: unknown preset "none"; there are default, strict, compat` {
		t.Error(err)
	}
}
