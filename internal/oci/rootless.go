package oci

import (
	"os"

	"brig/internal/host"
)

// rootless tells whether the state belongs below XDG_RUNTIME_DIR. As in runc, root of a user namespace counts as a user, unless the
// environment says that it is the root of a system container: there Podman gives XDG_RUNTIME_DIR to some of its calls only.
func rootless() bool {
	return os.Geteuid() != 0 || os.Getenv("XDG_RUNTIME_DIR") != "" && os.Getenv("USER") != "root" && host.InUserNamespace()
}
