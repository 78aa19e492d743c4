package oci

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestHostMounts: a bundle without a mount namespace runs in that of the runtime, by chroot, also under exec; when it is gone, so
// are its mounts. The runtime's mount namespace is the test's own here, with everything shared as systemd has it.
func TestHostMounts(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.tool("readlink", "grep")
	without(e.spec, specs.MountNamespace)
	e.spec.Linux.MaskedPaths, e.spec.Linux.ReadonlyPaths = nil, nil
	e.spec.Process.Args = []string{"sleep", "1000"}
	e.write()
	e.isRefused()
	script := `set -e
brig() { timeout 30 "$RUNTIME" --root "$STATE" "$@"; }
trap 'brig delete --force host' EXIT
mount --make-rshared /
readlink /proc/self/ns/mnt
brig create --bundle "$BUNDLE" host >/dev/null 2>&1 </dev/null
brig start host
brig exec host readlink /proc/self/ns/mnt; brig exec host readlink /proc/1/ns/mnt
brig exec host sh -c 'echo $(echo /*)'
grep -c "$BUNDLE/rootfs" /proc/self/mountinfo
brig delete --force host
grep "$BUNDLE/rootfs" /proc/self/mountinfo || echo clean
grep -c ' / / .* shared:' /proc/self/mountinfo`
	cmd := exec.Command("unshare", "-m", "--propagation", "private", "sh", "-c", script)
	cmd.Env = append(os.Environ(), "RUNTIME="+runtime, "STATE="+e.root, "BUNDLE="+e.bundle)
	out, err := cmd.CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if err != nil || len(lines) != 7 || lines[0] != lines[1] || lines[1] != lines[2] || lines[3] != "/bin /dev /proc /run /sys /tmp" || lines[4] == "0" ||
		lines[5] != "clean" || lines[6] != "1" {
		t.Errorf("%v\n%s", err, out)
	}

	// What else comes to the path is not unmounted.
	other := t.TempDir()
	script = `set -e
brig() { timeout 30 "$RUNTIME" --root "$STATE" "$@"; }
brig create --bundle "$BUNDLE" host >/dev/null 2>&1 </dev/null
mkdir "$OTHER/rootfs"; mount -t tmpfs precious "$OTHER/rootfs"
mv "$BUNDLE" "$BUNDLE.away"; ln -s "$OTHER" "$BUNDLE"
brig delete --force host || echo refused
grep -c " $OTHER/rootfs " /proc/self/mountinfo
rm "$BUNDLE"; mv "$BUNDLE.away" "$BUNDLE"
brig delete --force host
grep "$BUNDLE/rootfs" /proc/self/mountinfo || echo clean`
	cmd = exec.Command("unshare", "-m", "--propagation", "private", "sh", "-c", script)
	cmd.Env = append(os.Environ(), "RUNTIME="+runtime, "STATE="+e.root, "BUNDLE="+e.bundle, "OTHER="+other)
	if out, err = cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "it is not what was mounted there") || !strings.HasSuffix(string(out), "refused\n1\nclean\n") {
		t.Errorf("%v\n%s", err, out)
	}

	// One that cannot be made leaves none either.
	e.spec.Mounts = append(e.spec.Mounts, specs.Mount{Destination: "/bin/sh", Type: "tmpfs"})
	e.write()
	script = `timeout 30 "$RUNTIME" --root "$STATE" create --bundle "$BUNDLE" host </dev/null; grep "$BUNDLE/rootfs" /proc/self/mountinfo && exit 1; exit 7`
	cmd = exec.Command("unshare", "-m", "--propagation", "private", "sh", "-c", script)
	cmd.Env = append(os.Environ(), "RUNTIME="+runtime, "STATE="+e.root, "BUNDLE="+e.bundle)
	out, err = cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 || !strings.Contains(string(out), "is a file in the root file system") {
		t.Errorf("%v\n%s", err, out)
	}

	e.spec.Linux.MaskedPaths = []string{"/proc/kcore"}
	e.write()
	e.want(1, "unable to restrict sys entries without a private MNT namespace", "create", "--bundle", e.bundle, "host")
}

func without(s *specs.Spec, kind specs.LinuxNamespaceType) {
	for i, n := range s.Linux.Namespaces {
		if n.Type == kind {
			s.Linux.Namespaces = append(s.Linux.Namespaces[:i], s.Linux.Namespaces[i+1:]...)
			return
		}
	}
}

// TestHostMountsStayTheirs: `mounts` does nothing to a container whose mounts are the host's: their paths would be the host's, too.
func TestHostMountsStayTheirs(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	without(e.spec, specs.MountNamespace)
	e.spec.Linux.MaskedPaths, e.spec.Linux.ReadonlyPaths = nil, nil
	e.spec.Process.Args = []string{"sleep", "1000"}
	e.write()
	victim := t.TempDir()
	list := filepath.Join(t.TempDir(), "mounts.json")
	if err := os.WriteFile(list, []byte(`[{"destination":"`+victim+`","type":"tmpfs","source":"tmpfs"}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	e.isRefused()
	script := `brig() { timeout 30 "$RUNTIME" --root "$STATE" "$@"; }
trap 'brig delete --force host' EXIT
brig run --detach --bundle "$BUNDLE" host >/dev/null 2>&1 </dev/null
brig mounts add host "$LIST"; grep "$VICTIM" /proc/self/mountinfo && exit 1
mount -t tmpfs mine "$VICTIM"; brig mounts remove host "$LIST"; grep -q "$VICTIM" /proc/self/mountinfo`
	cmd := exec.Command("unshare", "-m", "--propagation", "private", "sh", "-c", script)
	cmd.Env = append(os.Environ(), "RUNTIME="+runtime, "STATE="+e.root, "BUNDLE="+e.bundle, "LIST="+list, "VICTIM="+victim)
	if out, err := cmd.CombinedOutput(); err != nil || strings.Count(string(out), "need a mount namespace of its own") != 2 {
		t.Errorf("%v\n%s", err, out)
	}
}
