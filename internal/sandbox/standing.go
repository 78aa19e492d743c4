package sandbox

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strings"

	"brig/internal/host"

	"golang.org/x/sys/unix"
)

// given are the lines of /proc/self/status (proc_pid_status(5)) that tell what a process gives to those it starts, beside what a policy says.
var given = map[string]bool{
	"Uid": true, "Gid": true, "Groups": true, "CapInh": true, "CapPrm": true, "CapEff": true, "CapBnd": true, "CapAmb": true, "NoNewPrivs": true, "Seccomp": true,
	"Seccomp_filters": true, "Speculation_Store_Bypass": true, "SpeculationIndirectBranch": true, "THP_enabled": true, "untag_mask": true,
	"Cpus_allowed": true, "Mems_allowed": true,
}

// standing is what the caller gives to every process it starts: a warm sandbox has that of the `brig warm` that it is from, and a run that
// was started with another nice value, on other processors, below other limits or in other namespaces gets what is its own, cold.
func standing() ([]string, error) {
	var list []string
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil, err
	}
	for lines := bufio.NewScanner(bytes.NewReader(status)); lines.Scan(); {
		if name, _, _ := strings.Cut(lines.Text(), ":"); given[name] {
			list = append(list, lines.Text())
		}
	}
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return nil, err
	}
	// Fields 18, 19, 40 and 41 of proc_pid_stat(5): priority, nice value, priority in real time, policy.
	f := bytes.Fields(stat[bytes.LastIndex(stat, []byte(") "))+2:])
	if len(f) < 39 {
		return nil, fmt.Errorf("/proc/self/stat has %d fields", len(f))
	}
	slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0) // /proc/self/timerslack_ns is the first thread's, and kept from others
	if err != nil {
		return nil, err
	}
	list = append(list, fmt.Sprintf("%s %s %s %s %d", f[15], f[16], f[37], f[38], slack))
	for _, name := range []string{"limits", "personality", "coredump_filter", "attr/current"} {
		text, _ := os.ReadFile("/proc/self/" + name) // not every kernel has all of them
		list = append(list, string(text))
	}
	for _, name := range []string{"cgroup", "ipc", "mnt", "net", "pid_for_children", "time_for_children", "user", "uts"} {
		link, _ := os.Readlink("/proc/self/ns/" + name)
		list = append(list, link)
	}
	if os.Geteuid() == 0 {
		return list, nil // its groups are the machine's
	}
	tree, err := host.Cgroups()
	if err != nil {
		return nil, err
	}
	dir, _ := tree.Delegated() // none: there are no groups
	return append(list, dir), nil
}
