package oci

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestReadOnlyAboveMounts: a file system that is read-only has what is mounted in it, and /dev is what the bundle says of it.
func TestReadOnlyAboveMounts(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.tool("touch")
	for i := range e.spec.Mounts {
		if m := &e.spec.Mounts[i]; m.Destination == "/dev" {
			m.Options = append(m.Options, "ro")
		}
	}
	e.mount(specs.Mount{Destination: "/run", Type: "tmpfs", Options: []string{"ro", "mode=755"}})
	e.mount(specs.Mount{Destination: "/run/in", Type: "tmpfs"})
	e.script(`try() { "$@" 2>/dev/null && echo yes || echo no; }
try touch /dev/x; try touch /run/x; try touch /dev/shm/x; try touch /run/in/x; echo >/dev/null && [ -c /dev/null ] && [ -d /dev/mqueue ] && echo there`)
	e.want(0, "no\nno\nyes\nyes\nthere\n", "run", "--bundle", e.bundle, "above")
}

// TestNothingRunsInDev: neither in /dev nor in what is mounted there, with noexec.
func TestNothingRunsInDev(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.tool("cp")
	for i := range e.spec.Mounts {
		if m := &e.spec.Mounts[i]; m.Destination == "/dev" {
			m.Options = append(m.Options, "noexec")
		}
	}
	e.script("cp /bin/busybox /dev/true && ! /dev/true 2>/dev/null && cp /bin/busybox /dev/shm/true && ! /dev/shm/true 2>/dev/null && echo none")
	e.want(0, "none\n", "run", "--bundle", e.bundle, "devexec")
}

// TestBundleWithoutMounts runs.
func TestBundleWithoutMounts(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.spec.Mounts = nil
	e.script("echo ran; [ -e /proc/self ] || echo no processes")
	e.want(0, "ran\nno processes\n", "run", "--bundle", e.bundle, "bare")
}
