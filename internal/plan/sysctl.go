package plan

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"brig/internal/launch"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ipcSysctls belong to the IPC namespace (ipc_namespaces(7)).
var ipcSysctls = []string{
	"kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem", "kernel/shmall", "kernel/shmmax", "kernel/shmmni", "kernel/shm_rmid_forced",
}

// sysctlFile turns a key into its file, and refuses what does not belong to a namespace of the sandbox's own: it would
// change the host (CVE-2022-0811 was such a write). Both spellings of sysctl(8) are understood; with slashes, dots are
// part of a name.
func (b *builder) sysctlFile(key string) (string, error) {
	file := key
	if !strings.Contains(key, "/") {
		file = strings.ReplaceAll(key, ".", "/")
	}
	if path.Clean(file) != file || path.IsAbs(file) || strings.HasPrefix(file, "../") || strings.IndexByte(file, 0) >= 0 {
		return "", &UnsupportedError{"linux.sysctl", fmt.Sprintf("%q contains an invalid path", key)}
	}
	if value := b.linux.Sysctl[key]; strings.ContainsAny(value, "\n\x00") {
		// More than a line was the way in of CVE-2022-0811.
		return "", &UnsupportedError{"linux.sysctl", fmt.Sprintf("the value %q of %s is more than one line", value, key)}
	}
	var kind specs.LinuxNamespaceType
	switch {
	case slices.Contains(ipcSysctls, file), strings.HasPrefix(file, "fs/mqueue/"):
		kind = specs.IPCNamespace
	case strings.HasPrefix(file, "net/"):
		kind = specs.NetworkNamespace
	case file == "kernel/hostname":
		return "", &UnsupportedError{"linux.sysctl", fmt.Sprintf("%q has a field of its own: hostname", key)}
	case file == "kernel/domainname":
		if value, field := b.linux.Sysctl[key], b.spec.Domainname; field != "" && field != value {
			return "", &UnsupportedError{"linux.sysctl", fmt.Sprintf("%s=%s contradicts the field domainname, %s", key, value, field)}
		}
		kind = specs.UTSNamespace
	case strings.HasPrefix(file, "user/"):
		kind = specs.UserNamespace
	default:
		return "", &UnsupportedError{"linux.sysctl", fmt.Sprintf("%q belongs to no namespace; setting it would change the host", key)}
	}
	if !b.private(kind) {
		return "", &UnsupportedError{"linux.sysctl", fmt.Sprintf("%q needs a %s namespace of the sandbox's own", key, kind)}
	}
	return "sys/" + file, nil
}

// oomScoreAdj is set before anything else: once the child cannot be dumped, its files in /proc belong to the host's root.
// A child that is born in a user namespace has no CAP_SYS_RESOURCE over the host: it could not go below the caller's score, and
// the kernel would take what it wrote for a wish of its own, which the program may take back (__set_oom_adj in fs/proc/base.c).
// A parent with the host's rights writes it instead, and the program cannot go below.
func (b *builder) oomScoreAdj() {
	if b.spec.Process == nil || b.spec.Process.OOMScoreAdj == nil {
		return
	}
	if path, ok := Namespace(b.spec, specs.UserNamespace); ok && path == "" && !b.further && !b.dumpableFirst() {
		b.plan.OOMScoreAdj = b.spec.Process.OOMScoreAdj
		return
	}
	b.p.Step(launch.Limits, fmt.Sprintf("set oom_score_adj to %d (below the caller's lowest it needs CAP_SYS_RESOURCE on the host)", *b.spec.Process.OOMScoreAdj))
	fd := b.p.Openat2("oom_score_adj", 0, "/proc/self/oom_score_adj", unix.O_WRONLY, 0, 0)
	b.p.Write(fd, strconv.Itoa(*b.spec.Process.OOMScoreAdj))
	b.p.Close(fd)
}
