package host

import (
	"fmt"
	"strings"

	"brig/internal/caps"
)

// Status is how much of a layer this machine can give.
type Status string

// The statuses.
const (
	Full    Status = "full"
	Partial Status = "partial"
	Absent  Status = "absent"
)

// Layer is one row of the report; the names are those of the design's table of layers.
type Layer struct {
	Layer  string `json:"layer"`
	Status Status `json:"status"`
	// Detail is what was found.
	Detail string `json:"detail"`
	// Meaning is what that means for a sandbox here. Empty for a full layer.
	Meaning string `json:"meaning,omitempty"`
	// Remedy is what to do about it. Empty when nothing is to do, or can be done.
	Remedy string `json:"remedy,omitempty"`
}

// Note is about the host around the sandbox: no layer lacks, but a person would want to know.
type Note struct {
	Setting string `json:"setting"`
	Value   string `json:"value"`
	Meaning string `json:"meaning"`
	Remedy  string `json:"remedy,omitempty"`
}

// FeatureReport is one probe's result.
type FeatureReport struct {
	Name  string `json:"name"`
	Since string `json:"since,omitempty"`
	Finding
}

// Report is what brig doctor prints.
type Report struct {
	Kernel string `json:"kernel"`
	Arch   string `json:"arch"`
	User   string `json:"user"` // "root" or "uid 1000"
	// MissingCaps are capabilities that root would have and the caller has not.
	MissingCaps []string        `json:"missing_capabilities"`
	Layers      []Layer         `json:"layers"`
	Features    []FeatureReport `json:"features"`
	Notes       []Note          `json:"notes"`
}

// Doctor looks at this machine.
func Doctor() Report { return Collect().Report() }

// Report judges the facts. It is pure.
func (f Facts) Report() Report {
	r := Report{
		Kernel: f.Kernel.Release, Arch: f.Arch, User: "root", Notes: f.notes(),
		MissingCaps: (caps.All.Upto(f.LastCap) &^ f.Caps).Names(),
		Layers: []Layer{
			f.namespaces(), f.ids(), f.capabilities(), f.noNewPrivs(), f.seccomp(), f.landlock(), f.mac(), f.root(),
			f.devices(), f.cgroup(), f.network(), f.procSys(), f.terminals(), f.supervision(),
		},
	}
	if f.EUID != 0 {
		r.User = fmt.Sprintf("uid %d", f.EUID)
		r.MissingCaps = []string{}
	}
	for _, feature := range Features() {
		r.Features = append(r.Features, FeatureReport{feature.Name, feature.Since, f.Features[feature.Name]})
	}
	return r
}

func (f *Facts) namespaces() Layer {
	l := Layer{Layer: "namespaces", Status: Full, Detail: "user pid mount net ipc uts cgroup time"}
	if u := f.Features[UserNamespaces.Name]; u.Outcome != Yes {
		l.Status, l.Detail = Absent, "user namespaces: "+u.Detail
		l.Meaning = "no sandbox starts here: root inside would be root outside"
		l.Remedy = "allow user namespaces as the detail says"
		return l
	}
	if !f.has(TimeNamespaces) {
		l.Detail = "user pid mount net ipc uts cgroup; no time namespace"
		l.Meaning = "the sandbox sees the host's uptime; --time-offset is refused"
	}
	if !f.Kernel.AtLeast(Oldest.Major, Oldest.Minor) {
		l.Status, l.Meaning = Partial, "Brig is tested with "+Oldest.String()+" and newer"
		l.Remedy = "run a newer kernel"
	}
	return l
}

func (f *Facts) ids() Layer {
	l := Layer{Layer: "ids", Status: Full}
	if f.EUID != 0 {
		if h := f.Features[IDHelpers.Name]; h.Outcome != Yes {
			l.Status, l.Detail = Partial, "one id: "+h.Detail
			l.Meaning = "programs that change to another user fail inside; two sandboxes of this user share an id outside"
			l.Remedy = "install newuidmap and give the user a range in /etc/subuid and /etc/subgid"
			return l
		}
		l.Status, l.Detail = Partial, "the user's own id and its range of /etc/subuid"
		l.Meaning = "all sandboxes of this user share one range of host ids"
		return l
	}
	l.Detail = "65,536 host ids for each sandbox; idmapped mounts on " + f.idMappedText()
	if f.Caps&caps.SetFCap.Mask() == 0 {
		// Since 5.12 a namespace may map host root only with CAP_SETFCAP; our ranges never do.
		l.Detail += "; without CAP_SETFCAP"
	}
	if !f.has(MountSetattr) {
		l.Status = Partial
		l.Meaning = "files of a root folder belong to nobody inside, for their owners cannot be shifted"
		l.Remedy = "run kernel 5.12 or newer, or give the root folder to the sandbox's ids"
	}
	return l
}

func (f *Facts) idMappedText() string {
	var yes, no []string
	for _, dir := range []string{"/", "/tmp", "/var/lib", "/dev/shm", "/home"} {
		switch f.IDMapped[dir].Outcome {
		case Yes:
			yes = append(yes, dir)
		case No:
			no = append(no, dir)
		}
	}
	text := "nothing known"
	if len(yes) > 0 {
		text = strings.Join(yes, " ")
	}
	if len(no) > 0 {
		text += ", not on " + strings.Join(no, " ")
	}
	return text
}

func (f *Facts) capabilities() Layer {
	l := Layer{Layer: "capabilities", Status: Full, Detail: "none inside; sets, bounding set and securebits are locked"}
	if f.LastCap > caps.Max {
		l.Detail += fmt.Sprintf("; the kernel has %d newer ones than Brig has names for, which are dropped by number", f.LastCap-caps.Max)
	}
	if f.EUID == 0 && !f.Caps.Has(caps.SysResource) {
		l.Detail += "; Brig itself runs without CAP_SYS_RESOURCE"
		l.Meaning = "--ulimit cannot raise a hard limit above Brig's own"
		l.Remedy = "start Brig with CAP_SYS_RESOURCE if sandboxes need higher limits"
	}
	return l
}

func (f *Facts) noNewPrivs() Layer {
	return Layer{Layer: "no new privileges", Status: Full, Detail: "prctl(PR_SET_NO_NEW_PRIVS)"}
}

func (f *Facts) seccomp() Layer {
	l := Layer{Layer: "seccomp", Status: Full, Detail: "actions " + strings.Join(f.Seccomp, " ")}
	switch {
	case len(f.Seccomp) == 0:
		l.Status, l.Detail = Absent, "the kernel has no seccomp filters"
		l.Meaning = "no sandbox starts here: every system call of the kernel would be in reach"
		l.Remedy = "run a kernel with CONFIG_SECCOMP_FILTER"
	case !f.action("user_notif") || !f.action("kill_process") || !f.action("log"):
		l.Status, l.Meaning = Partial, "profiles that use the missing actions are refused"
		l.Remedy = "run kernel 5.0 or newer"
	}
	return l
}

// landlockLevels say what each ABI brought, Documentation/userspace-api/landlock.rst.
var landlockLevels = []string{
	1: "file rights", 2: "renames between folders", 3: "truncation", 4: "TCP bind and connect",
	5: "ioctl on devices", 6: "abstract sockets and signals", 7: "audit",
}

func (f *Facts) landlock() Layer {
	l := Layer{Layer: "Landlock", Status: Full, Detail: fmt.Sprintf("ABI %d", f.Landlock)}
	switch {
	case f.Landlock == 0:
		l.Status, l.Detail = Absent, f.LandlockWhy
		l.Meaning = "policies that ask for Landlock, as the presets do, are refused; mounts alone bound the files"
		l.Remedy = "boot with landlock in lsm=, or accept less with --allow-missing=landlock"
	case f.Landlock < 6:
		l.Status = Partial
		l.Meaning = "not enforced by this layer here: " + strings.Join(landlockLevels[f.Landlock+1:7], ", ") + "; namespaces and seccomp still bound them"
		if f.Landlock < 3 {
			l.Meaning += "; landlock=strict is refused with a writable root or volume, whose files could be truncated"
		}
		l.Remedy = "run kernel 6.12 or newer"
	}
	return l
}

func (f *Facts) mac() Layer {
	l := Layer{Layer: "AppArmor / SELinux", Status: Full}
	switch {
	case f.MAC.AppArmor && f.MAC.SELinux:
		l.Detail = "both, stacked"
	case f.MAC.AppArmor && f.NoParser:
		l.Status, l.Detail = Absent, "AppArmor, without apparmor_parser"
		l.Meaning = "brig run is refused: the profile of a sandbox cannot be compiled"
		l.Remedy = "install the package apparmor, or accept less with --allow-missing=apparmor"
	case f.MAC.AppArmor && f.EUID != 0:
		l.Status, l.Detail = Partial, "AppArmor"
		l.Meaning, l.Remedy = "a sandbox has no profile of its own: root alone loads profiles", "name a loaded one with --security-opt apparmor=NAME"
	case f.MAC.AppArmor:
		l.Detail = "AppArmor"
	case f.MAC.SELinux && f.MAC.Enforcing && !f.MAC.Module:
		l.Status, l.Detail = Absent, "SELinux, without Brig's policy module"
		l.Meaning = "brig run is refused: the policy has no domain for a sandbox"
		l.Remedy = "brig selinux install, or accept less with --allow-missing=selinux"
	case f.MAC.SELinux && f.MAC.Enforcing && f.EUID != 0:
		l.Status, l.Detail = Partial, "SELinux, enforcing"
		l.Meaning, l.Remedy = "a sandbox has no label of its own: root alone gives out categories", "name one with --security-opt label=LABEL"
	case f.MAC.SELinux && f.MAC.Enforcing:
		l.Detail = "SELinux, enforcing"
	case f.MAC.SELinux:
		l.Status, l.Detail = Partial, "SELinux, permissive"
		l.Meaning, l.Remedy = "labels are set and stop nothing", "setenforce 1"
	default:
		l.Status, l.Detail = Absent, "the kernel runs with neither"
		l.Meaning = "a policy or bundle that names a profile or a label is refused; the other layers do not depend on it"
		l.Remedy = "boot with lsm=…,apparmor where the distribution supports it"
	}
	return l
}

func (f *Facts) root() Layer {
	l := Layer{Layer: "root file system", Status: Full, Detail: "read-only, writes in RAM"}
	if !f.has(MountAPI) || !f.has(Openat2) {
		l.Status = Absent
		l.Detail = "mount API: " + f.Features[MountAPI.Name].Detail + "; openat2: " + f.Features[Openat2.Name].Detail
		l.Meaning, l.Remedy = "no sandbox starts here: mounts could not be made without trusting paths", "run kernel 5.15 or newer"
		return l
	}
	var lacks []string
	for _, x := range []*Feature{Overlay, EROFS} {
		switch f.Features[x.Name].Outcome {
		case No:
			lacks = append(lacks, x.Name)
			l.Status = Partial
		case Unknown:
			l.Detail += "; " + x.Name + " " + f.Features[x.Name].Detail
		}
	}
	if len(lacks) > 0 {
		l.Detail += "; no " + strings.Join(lacks, ", no ")
		l.Meaning = "folders as roots work; images need erofs, and writable roots that are thrown away need overlay"
		l.Remedy = "load or install the modules " + strings.Join(lacks, " and ")
	} else if !f.has(EROFSFile) {
		l.Detail += "; image files through loop devices"
	}
	return l
}

func (f *Facts) devices() Layer {
	l := Layer{Layer: "devices", Status: Full, Detail: "a /dev of its own with null zero full random urandom tty ptmx; cgroup device rules"}
	if f.EUID != 0 {
		l.Detail = "a /dev of its own; no cgroup device rules"
		l.Meaning = "none is needed: an unprivileged user's sandbox can make no device node and its mounts are nodev"
		return l
	}
	if f.Cgroups == nil || len(f.Cgroups.Legacy) > 0 && !f.Cgroups.Available("devices") {
		l.Status, l.Detail = Partial, "a /dev of its own; the kernel has no device rules"
		l.Meaning = "only the missing CAP_MKNOD and nodev mounts keep other devices away"
		l.Remedy = "build the kernel with CONFIG_CGROUP_DEVICE or use cgroup version 2"
	}
	return l
}

func (f *Facts) cgroup() Layer {
	l := Layer{Layer: "cgroup", Status: Full}
	if f.CgroupsErr != nil || f.Cgroups == nil {
		l.Status, l.Detail = Absent, "not mounted"
		if f.CgroupsErr != nil {
			l.Detail = f.CgroupsErr.Error()
		}
		l.Meaning, l.Remedy = "limits on memory, processes and CPU are refused", "mount -t cgroup2 none /sys/fs/cgroup"
		return l
	}
	if f.Delegated != nil {
		l.Status, l.Detail = Absent, "none is delegated to this user"
		l.Meaning = "limits on memory, processes and CPU are refused; rlimits remain"
		l.Remedy = "start brig with systemd-run --user --scope -p Delegate=yes, or as root"
		return l
	}
	var have, lack []string
	for _, c := range []string{"memory", "pids", "cpu", "cpuset", "io", "hugetlb"} {
		name := c
		if c == "io" && !f.Cgroups.V2() {
			name = "blkio"
		}
		if f.Cgroups.Available(name) {
			have = append(have, name)
		} else {
			lack = append(lack, name)
		}
	}
	l.Detail = f.Cgroups.Mode() + ": " + strings.Join(have, " ")
	var meanings, remedies []string
	if len(lack) > 0 {
		l.Detail += "; no " + strings.Join(lack, ", no ")
		meanings = append(meanings, "limits that need the missing controllers are refused")
		if strings.Join(lack, "") != "hugetlb" { // hugetlb alone is no loss: huge pages are off unless the host sets some aside
			l.Status = Partial
		}
	}
	if !f.Cgroups.V2() {
		l.Status = Partial
		meanings = append(meanings, "version 1: when memory runs out the kernel ends one process of the sandbox, and Brig the rest")
		remedies = append(remedies, "boot with systemd.unified_cgroup_hierarchy=1")
	}
	if !f.SwapCounted && f.SwapOn {
		l.Status = Partial
		meanings = append(meanings, "swap is on and seems not to be counted: a limit on swap may be refused")
		remedies = append(remedies, "boot with swapaccount=1, or turn swap off")
	}
	l.Meaning, l.Remedy = strings.Join(meanings, "; "), strings.Join(remedies, "; ")
	return l
}

func (f *Facts) network() Layer {
	return Layer{Layer: "network", Status: Full, Detail: "a namespace of its own with loopback alone"}
}

func (f *Facts) procSys() Layer {
	l := Layer{Layer: "proc, sys", Status: Full, Detail: "a private /proc, hidepid; masked and read-only paths"}
	if !f.Kernel.AtLeast(5, 8) {
		l.Status, l.Detail = Partial, "masked and read-only paths"
		l.Meaning, l.Remedy = "a procfs without subset=pid and per-mount hidepid (5.8)", "run kernel 5.8 or newer"
	}
	return l
}

func (f *Facts) terminals() Layer {
	l := Layer{Layer: "sessions, terminals", Status: Full, Detail: "own session, keyring and pty; TIOCSTI and TIOCLINUX filtered"}
	if f.Settings["dev/tty/legacy_tiocsti"] == "0" {
		l.Detail += "; the kernel refuses TIOCSTI, too"
	}
	return l
}

func (f *Facts) supervision() Layer {
	l := Layer{Layer: "supervision", Status: Full, Detail: "pidfd, death with the parent, time and output limits"}
	if !f.has(PIDFD) {
		l.Status, l.Detail = Absent, "pidfd: "+f.Features[PIDFD.Name].Detail
		l.Meaning, l.Remedy = "no sandbox starts here: a process could not be named without a race", "run kernel 5.15 or newer"
	}
	return l
}
