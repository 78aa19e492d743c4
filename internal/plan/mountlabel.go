package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"brig/internal/annotation"
	"brig/internal/launch"
	"brig/internal/mac"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// checkMountLabel looks whether linux.mountLabel can be had. Without SELinux the kernel refuses the option, and runc with it.
func (b *builder) checkMountLabel() error {
	label := b.linux.MountLabel
	if label == "" || b.isExec() {
		return nil
	}
	if err := mac.CheckLabel(label); err != nil {
		return &UnsupportedError{"linux.mountLabel", err.Error()}
	}
	if kind, ok := b.spec.Annotations[annotation.MountContext]; ok && !slices.Contains(contexts, kind) {
		return &UnsupportedError{"annotation " + annotation.MountContext, fmt.Sprintf("%q is none of %s", kind, strings.Join(contexts, ", "))}
	}
	if !b.facts.MAC.SELinux {
		return b.missing(string(mac.SELinux), (&mac.MissingError{Module: mac.SELinux, Name: label}).Error())
	}
	b.mountLabel = label
	return nil
}

// contexts are the options of mount(8) that take a label.
var contexts = []string{"context", "fscontext", "defcontext", "rootcontext"}

// labelMount gives a new file system the label of the sandbox's files (selinux(8), "context="). A procfs, a sysfs and the
// cgroups have labels by the policy's own rules, and a bind mount has those of its files; runc labels the same.
func (b *builder) labelMount(fs launch.Reg, kind string) {
	switch kind {
	case "proc", "sysfs", "cgroup", "cgroup2", "mqueue":
	default:
		if b.mountLabel != "" {
			b.p.FsconfigString(fs, cmp.Or(b.spec.Annotations[annotation.MountContext], contexts[0]), b.mountLabel)
		}
	}
}

// labelFolder labels the folder of an mqueue, which takes no context option (runc found that out).
func (b *builder) labelFolder(m *specs.Mount, name string) {
	if b.mountLabel == "" || m.Type != "mqueue" || b.hasUserNS() { // where it keeps the policy's own label, which gives less
		return
	}
	fd := b.p.Openat2("folder "+name, b.root, name[1:], unix.O_RDONLY|unix.O_DIRECTORY, 0, launch.NoLinks)
	b.p.Fsetxattr(fd, "security.selinux", b.mountLabel)
	b.p.Close(fd)
}
