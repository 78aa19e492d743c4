package caps

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Last is the newest capability of the running kernel, from /proc/sys/kernel/cap_last_cap. It may be above Max: the
// bounding set must then be emptied of numbers that have no name here, too.
func Last() (Cap, error) {
	const path = "/proc/sys/kernel/cap_last_cap"
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read the kernel's newest capability: %w", err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 8)
	if err != nil || n > 63 {
		return 0, fmt.Errorf("read the kernel's newest capability: %s holds %q, not a number from 0 to 63", path, text)
	}
	return Cap(n), nil
}

// Own are the caller's permitted capabilities. An error of capget(2), which there is none for the caller itself, gives none.
func Own() Set {
	var data [2]unix.CapUserData
	if unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]) != nil {
		return 0
	}
	return Set(data[0].Permitted) | Set(data[1].Permitted)<<32
}
