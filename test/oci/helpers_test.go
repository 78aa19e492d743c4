package oci

import (
	"os"
	"path/filepath"
	"testing"

	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// addApplets adds programs of busybox to the root file system.
func (e *engine) addApplets(names ...string) {
	e.t.Helper()
	for _, name := range names {
		err := os.Symlink("busybox", filepath.Join(e.bundle, "rootfs/bin", name))
		if err != nil && !os.IsExist(err) {
			e.t.Fatal(err)
		}
	}
}

// isRefused ends a test whose bundle is refused by the isolation it runs on, as listed.
func (e *engine) isRefused() {
	e.t.Helper()
	if testenv.Isolation() != "native" {
		e.call("run", "--bundle", e.bundle, "refused")
	}
}

// ownUsers gives the container a user namespace: its root is 1,000,000 on the host.
func (e *engine) ownUsers() {
	e.spec.Linux.Namespaces = append(e.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	e.spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1_000_000, Size: 65536}}
	e.spec.Linux.GIDMappings = e.spec.Linux.UIDMappings
}

// openFolder is a folder of the host's that everybody may enter and write, root of a user namespace too.
func openFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "brig-open-")
	if err == nil {
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		err = os.Chmod(dir, 0o777) //nolint:gosec // on purpose
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
