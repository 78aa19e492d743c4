package host

import (
	"os"
	"strings"
)

// InUserNamespace tells whether this process is in a user namespace other than the first one, as under a rootless Podman: its
// uid 0 is then somebody else outside. The first one's map is the identity over all ids (user_namespaces(7)).
func InUserNamespace() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false
	}
	f := strings.Fields(string(text))
	return len(f) != 3 || f[0] != "0" || f[1] != "0" || f[2] != "4294967295"
}
