package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brig/internal/isolation/gvisor/job"

	"github.com/opencontainers/runtime-spec/specs-go"
	"gvisor.dev/gvisor/runsc/specutils"
)

// lookAround tells what a guest may read and write.
const lookAround = `try() { eval "$2" 2>/dev/null && echo "$1: yes" || echo "$1: no"; }
try "write a knob" "echo 90000 >/proc/sys/fs/mount-max"
try "open sysrq" "echo -n >/proc/sysrq-trigger"
try "read a file" '[ -n "$(cat /proc/meminfo)" ]'
try "see into a folder" "[ -e /sys/devices/system ]"
try "read in the image" '[ -n "$(cat /etc/secret)" ]'
try "write in memory" "echo x >/tmp/in/file"
try "write below" "echo x >/tmp/in/deep/file"
try "write a masked folder" "echo x >/sys/devices/file"
try "write beside" "echo x >/tmp/free"
try "have a null device" "echo x >/dev/null"
`

func lookingAround() *specs.Spec {
	s := shell(lookAround)
	for _, at := range []string{"/tmp/in", "/tmp/in/deep"} {
		s.Mounts = append(s.Mounts, specs.Mount{Type: "tmpfs", Destination: at})
	}
	s.Mounts = append(s.Mounts, specs.Mount{Type: "sysfs", Destination: "/sys"})
	return s
}

func masked(s *specs.Spec) *specs.Spec {
	s.Linux.MaskedPaths = []string{"/proc/kcore", "/proc/meminfo", "/sys/devices", "/etc/secret", "/etc/secret", "/proc/version/below"}
	s.Linux.ReadonlyPaths = []string{"/proc/sys", "/proc/sysrq-trigger", "/proc/nowhere", "/tmp/in", "/proc/meminfo"}
	return s
}

const (
	open = "write a knob: yes\nopen sysrq: yes\nread a file: yes\nsee into a folder: yes\nread in the image: yes\n" +
		"write in memory: yes\nwrite below: yes\nwrite a masked folder: no\nwrite beside: yes\nhave a null device: yes\n"
	covered = "write a knob: no\nopen sysrq: no\nread a file: no\nsee into a folder: no\nread in the image: no\n" +
		"write in memory: no\nwrite below: no\nwrite a masked folder: no\nwrite beside: yes\nhave a null device: yes\n"
)

func secretRoot(t *testing.T) *os.File {
	t.Helper()
	root := guestRoot(t)
	if err := os.WriteFile(filepath.Join(root, "etc/secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("loop", filepath.Join(root, "etc/loop")); err != nil {
		t.Fatal(err)
	}
	return image(t, root)
}

// TestMasks: what a spec hides and seals is so, whatever of it the guest has. Without it the same is open.
func TestMasks(t *testing.T) {
	for want, spec := range map[string]*specs.Spec{open: lookingAround(), covered: masked(lookingAround())} {
		k := newKernel(t, spec)
		k.root = secretRoot(t)
		if end, out := k.run(); out != want || end.Error != "" {
			t.Errorf("%+v, it says\n%swant\n%s", end, out, want)
		}
	}
	// With subset=pid there are processes alone in /proc, and what is not asked for is not there.
	s := shell(`ls /sys; ls /proc/self/status; for f in /proc/*; do case $f in */[0-9]*|*/self|*/thread-self|*/net|*/mounts) ;;
*) cat $f; [ -d $f ] && ls $f;; esac; done 2>/dev/null; echo -n >/proc/sysrq-trigger`)
	s.Mounts[0].Options = []string{"subset=pid"}
	k := newKernel(t, s)
	k.root = secretRoot(t)
	if end, out := k.run(); out != "/proc/self/status\n/bin/sh: can't create /proc/sysrq-trigger: Read-only file system\n" {
		t.Errorf("with processes alone: %+v, it says\n%s", end, out)
	}
	s = masked(lookingAround())
	s.Linux.ReadonlyPaths = []string{"/etc/loop"}
	k = newKernel(t, s)
	k.root = secretRoot(t)
	k.boot()
	_ = k.call("containerManager.StartRoot", k.job.ID, nil)
	if end, out := k.end(); out != "" || !strings.HasPrefix(end.Error, "seal /etc/loop in the guest: too many symbolic links") {
		t.Errorf("a guest that cannot be masked: %+v, it says\n%s", end, out)
	}
}

// TestMasksInPod: a further container has its own.
func TestMasksInPod(t *testing.T) {
	k := newKernel(t, shell("sleep 1000"))
	k.root = image(t, guestRoot(t))
	k.job.Pod = true
	k.boot()
	var ready job.Ready
	if err := json.NewDecoder(k.status).Decode(&ready); err != nil {
		t.Fatal(err)
	}
	if err := k.call("containerManager.StartRoot", k.job.ID, nil); err != nil {
		t.Fatal(err)
	}
	for id, c := range map[string]struct {
		spec *specs.Spec
		want string
	}{"open": {lookingAround(), open}, "covered": {masked(lookingAround()), covered}} {
		if text, exit := k.add(id, ready.Config, c.spec, secretRoot(t), specutils.Erofs).wait(); text != c.want || exit != 0 {
			t.Errorf("%s: %#x, it says\n%swant\n%s", id, exit, text, c.want)
		}
	}
	// What cannot be masked does not run.
	s := masked(lookingAround())
	s.Linux.MaskedPaths = []string{"/etc/loop"}
	if text, exit := k.add("refused", ready.Config, s, secretRoot(t), specutils.Erofs).wait(); text != "" || exit != 9 {
		t.Errorf("a container that cannot be masked: %#x, it says\n%s", exit, text)
	}
}
