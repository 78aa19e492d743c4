package plan

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"brig/internal/annotation"
	"brig/internal/caps"
	"brig/internal/launch"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// process is everything between the finished file system and execve.
func (b *builder) process() error {
	pr := b.spec.Process
	for _, step := range []func(*specs.Process) error{b.unsupported, b.ranges, b.personality, b.terminal, b.prepareLandlock, b.workdir, b.findProgram, b.label, b.limits, b.scheduler, b.ioPriority, b.memoryPolicy} {
		if err := step(pr); err != nil {
			return err
		}
	}
	// An agent has the listener before create returns, as with runc.
	if !pr.NoNewPrivileges && b.notifies() {
		if err := b.seccomp(); err != nil {
			return err
		}
	}
	for _, step := range []func(*specs.Process) error{b.user, b.enterLandlock, b.start} {
		if err := step(pr); err != nil {
			return err
		}
	}
	b.streams()
	if !pr.NoNewPrivileges {
		if err := b.privilegedFilter(); err != nil {
			return err
		}
	}
	b.takeLabel()
	b.leaveReaper()
	if err := b.oneProgram(pr); err != nil {
		return err
	}
	if pr.NoNewPrivileges {
		if err := b.unixSockets(); err != nil {
			return err
		}
		if err := b.seccomp(); err != nil {
			return err
		}
	}
	return b.exec(pr)
}

// terminal makes the sandbox's own pty. The slave comes from the master by TIOCGPTPEER, never by a path
// (CVE-2025-52565).
func (b *builder) terminal(pr *specs.Process) error {
	if !pr.Terminal {
		return nil
	}
	b.p.Step(launch.Terminal, "a terminal of the sandbox's own")
	master := b.p.Openat2("master", b.root, "dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY, 0, launch.NoLinks)
	b.p.IoctlBytes(master, unix.TIOCSPTLCK, []byte{0, 0, 0, 0}, "0")
	b.slave = b.p.Ioctl("slave", master, unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if pr.User.UID != 0 {
		b.p.Fchown(b.slave, pr.User.UID, ^uint32(0))
	}
	if s := pr.ConsoleSize; s != nil {
		rows, cols := byte(s.Height), byte(s.Width)
		size := []byte{rows, byte(s.Height >> 8), cols, byte(s.Width >> 8), 0, 0, 0, 0}
		b.p.IoctlBytes(b.slave, unix.TIOCSWINSZ, size, fmt.Sprintf("{%d rows, %d columns}", s.Height, s.Width))
	}
	b.p.SendFD(master)
	b.p.Await(launch.PointTerminal)
	b.plan.Terminal = true
	b.p.Step(launch.Terminal, "use the terminal, and let go of the caller's streams: an engine reads them to their end")
	for fd := range 3 {
		b.p.Dup3(b.slave, fd)
	}
	if b.console != 0 {
		b.p.MoveMount(b.p.OpenTree("console", b.slave, "", unix.AT_EMPTY_PATH), b.console)
	}
	return nil
}

// makeWorkdir makes a working directory that is missing, for engines: runc and crun do. Otherwise it is made where nothing of it
// outlives the sandbox. In an exec it must be there.
func (b *builder) makeWorkdir() error {
	cwd := b.beginning()
	if cwd == "" {
		return nil
	}
	if err := checkTarget(cwd, "process.cwd"); err != nil {
		return err
	}
	cwd = path.Clean(cwd)
	m, rel := b.deepest(cwd)
	if cwd == "/" || b.find(m, rel) != Missing {
		return nil
	}
	if passing := b.plan.Overlay != nil || m.fresh && m.path != "/"; !b.facts.Held && !b.facts.Lenient && !passing {
		return nil // a person who mistypes it is not to find it in the folder afterwards
	}
	b.p.Step(launch.Root, "make the working directory "+cwd)
	_, err := b.target(cwd, Dir)
	return err
}

// beginning is where the program begins, or that of the guest.
func (b *builder) beginning() string { return cmp.Or(b.facts.Workdir, b.spec.Process.Cwd) }

// workdir enters the working directory by a descriptor inside the root: it cannot lie outside (CVE-2024-21626). It is
// opened as root of the sandbox and entered again as the user in user, as runc does.
func (b *builder) workdir(pr *specs.Process) error {
	if b.facts.Workdir != "" { // which the guest's kernel would make wherever it can
		if _, err := b.openWorkdir(b.facts.Workdir); err != nil {
			return err
		}
	}
	fd, err := b.openWorkdir(cmp.Or(pr.Cwd, "/"))
	if err == nil {
		b.p.Fchdir(fd)
	}
	return err
}

func (b *builder) openWorkdir(cwd string) (launch.Reg, error) {
	if err := checkTarget(cwd, "process.cwd"); err != nil {
		return 0, err
	}
	b.p.Step(launch.Exec, "enter the working directory "+cwd)
	rel := cmp.Or(strings.TrimPrefix(path.Clean(cwd), "/"), ".")
	return b.p.Openat2("working directory", b.root, rel, unix.O_PATH|unix.O_DIRECTORY, 0, launch.InRoot), nil
}

var rlimits = []struct {
	name     string
	resource int
}{
	{"RLIMIT_AS", unix.RLIMIT_AS}, {"RLIMIT_CORE", unix.RLIMIT_CORE}, {"RLIMIT_CPU", unix.RLIMIT_CPU}, {"RLIMIT_DATA", unix.RLIMIT_DATA},
	{"RLIMIT_FSIZE", unix.RLIMIT_FSIZE}, {"RLIMIT_LOCKS", unix.RLIMIT_LOCKS}, {"RLIMIT_MEMLOCK", unix.RLIMIT_MEMLOCK},
	{"RLIMIT_MSGQUEUE", unix.RLIMIT_MSGQUEUE}, {"RLIMIT_NICE", unix.RLIMIT_NICE}, {"RLIMIT_NOFILE", unix.RLIMIT_NOFILE},
	{"RLIMIT_NPROC", unix.RLIMIT_NPROC}, {"RLIMIT_RSS", unix.RLIMIT_RSS}, {"RLIMIT_RTPRIO", unix.RLIMIT_RTPRIO},
	{"RLIMIT_RTTIME", unix.RLIMIT_RTTIME}, {"RLIMIT_SIGPENDING", unix.RLIMIT_SIGPENDING}, {"RLIMIT_STACK", unix.RLIMIT_STACK},
}

func (b *builder) limits(pr *specs.Process) error {
	for _, l := range pr.Rlimits {
		i := slices.IndexFunc(rlimits, func(r struct {
			name     string
			resource int
		}) bool {
			return r.name == l.Type
		})
		if i < 0 {
			return &UnsupportedError{"process.rlimits", fmt.Sprintf("unknown limit %q", l.Type)}
		}
		if l.Soft > l.Hard {
			return &UnsupportedError{"process.rlimits", fmt.Sprintf("%s: the soft limit %d is above the hard one, %d", l.Type, l.Soft, l.Hard)}
		}
		b.p.Step(launch.Limits, fmt.Sprintf("set %s to %d:%d (raising a hard limit needs CAP_SYS_RESOURCE on the host)", l.Type, l.Soft, l.Hard))
		if b.facts.Held && l.Type == "RLIMIT_NOFILE" {
			// The held child has many files open and needs one more when it is started: a low limit comes after that. One
			// that is raised is raised now, while it may be.
			b.lateLimit = func() { b.p.Prlimit(rlimits[i].resource, l.Type, l.Soft, l.Hard) }
			if l.Hard >= manyFiles {
				b.p.Prlimit(rlimits[i].resource, l.Type, l.Hard, l.Hard)
			}
			continue
		}
		b.p.Prlimit(rlimits[i].resource, l.Type, l.Soft, l.Hard)
	}
	return nil
}

// manyFiles is more than a launch program has open.
const manyFiles = 1024

// secure bits: uid 0 means nothing, changing ids changes no capability, nothing can be raised into the ambient set; all
// locked (capabilities(7), "The securebits flags").
const lockedSecureBits = 1<<0 | 1<<1 | 1<<2 | 1<<3 | 1<<5 | 1<<6 | 1<<7

// user drops capabilities and becomes the user.
func (b *builder) user(pr *specs.Process) error {
	sets, err := b.capabilities(pr.Capabilities)
	if err != nil {
		return err
	}
	b.sets = sets
	b.p.Step(launch.Capabilities, "drop capabilities from the bounding set")
	for c := caps.Cap(0); c <= b.facts.LastCap; c++ {
		if !sets.bounding.Has(c) {
			b.p.Prctl(unix.PR_CAPBSET_DROP, uint64(c))
		}
	}
	if b.annotated(annotation.LockCaps, "true") {
		b.p.Step(launch.Capabilities, "lock the securebits: uid 0 and setuid files give no capability")
		b.p.Prctl(unix.PR_SET_SECUREBITS, lockedSecureBits)
	} else {
		b.p.Step(launch.Capabilities, "keep capabilities over the change of user")
		b.p.Prctl(unix.PR_SET_KEEPCAPS, 1)
	}
	b.becomeUser(pr)
	filter := b.filterCap(pr)
	b.p.Step(launch.Capabilities, "keep only "+(sets.permitted|filter).String())
	b.p.Capset(uint64(sets.effective|filter), uint64(sets.permitted|filter), uint64(sets.inheritable))
	if !b.annotated(annotation.LockCaps, "true") {
		b.p.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL)
		for c := caps.Cap(0); c <= b.facts.LastCap; c++ {
			if sets.ambient.Has(c) {
				b.p.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uint64(c))
			}
		}
	}
	if pr.NoNewPrivileges {
		b.p.Step(launch.NoNewPrivs, "never gain privileges by execve")
		b.p.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1)
	}
	return nil
}

// defaultUmask is runc's and crun's: the caller's would make the same sandbox differ from one shell to the next.
const defaultUmask = 0o022

// keepsGroups tells whether the caller's supplementary groups stay.
func (b *builder) keepsGroups() bool {
	_, ok := b.spec.Annotations[annotation.KeepGroups]
	return ok
}

// ranges refuses numbers that the kernel would take for something else. The largest id means "leave it as it is" to setresuid(2) and
// setresgid(2): a program that was to be that user would run as root (the like of CVE-2024-40635).
func (b *builder) ranges(pr *specs.Process) error {
	const none = ^uint32(0)
	if pr.User.UID == none || pr.User.GID == none || slices.Contains(pr.User.AdditionalGids, none) {
		return &UnsupportedError{"process.user", fmt.Sprintf("%d is no id: the kernel takes it for \"no change\"", none)}
	}
	if n := pr.OOMScoreAdj; n != nil && (*n < -1000 || *n > 1000) {
		return &UnsupportedError{"process.oomScoreAdj", fmt.Sprintf("%d is not between -1000 and 1000", *n)}
	}
	return nil
}

func (b *builder) becomeUser(pr *specs.Process) {
	u := pr.User
	if u.UID != 0 || u.GID != 0 || len(u.AdditionalGids) > 0 {
		b.p.Step(launch.IDs, fmt.Sprintf("become user %d:%d", u.UID, u.GID))
	} else {
		b.p.Step(launch.IDs, "stay user 0:0")
	}
	if !b.keepsGroups() {
		groups := b.p.Setgroups(u.AdditionalGids)
		if len(u.AdditionalGids) == 0 {
			groups.Tolerate(unix.EPERM) // denied where only one group is mapped
		}
	}
	b.p.Setresgid(u.GID)
	b.p.Setresuid(u.UID)
	mask := uint32(defaultUmask)
	if u.Umask != nil {
		mask = *u.Umask
	}
	b.p.Umask(mask)
	if b.facts.Supervised {
		b.p.Step(launch.Supervision, "die with the parent: the change of credentials has cleared it")
		b.p.Prctl(unix.PR_SET_PDEATHSIG, uint64(unix.SIGKILL))
	}
	b.nonDumpable()
}

// start is the last stop: the parent gives the word, or is gone, and then the child ends too.
func (b *builder) start(*specs.Process) error {
	b.p.Step(launch.Supervision, "wait for the start")
	b.p.Await(launch.PointReady)
	if b.facts.Held {
		b.p.Step(launch.Supervision, "part from the parent, and wait for whoever gives the start")
		b.plan.Start = b.p.Input("start socket")
		b.p.Hold(b.plan.Start, 3+b.facts.PassFDs)
		if b.lateLimit != nil {
			b.p.Step(launch.Limits, "set RLIMIT_NOFILE")
			b.lateLimit()
		}
	}
	return nil
}

// streams lays the standard streams and the passed files, and closes everything else at execve. It is done for all
// numbers at once, whatever leaked (CVE-2016-9962, CVE-2024-21626).
func (b *builder) streams() {
	first := 3 + b.facts.PassFDs
	switch {
	case b.slave != 0:
		if !b.reaper() {
			b.p.Step(launch.Terminal, "be in control of the terminal")
			b.p.Ioctl("controlling terminal", b.slave, unix.TIOCSCTTY, 0)
		}
	case !b.facts.InheritStdio:
		b.p.Step(launch.Exec, "standard input, output and error")
		for fd, name := range []string{"standard input", "standard output", "standard error"} {
			in := b.p.Input(name)
			b.plan.Stdio = append(b.plan.Stdio, in)
			b.p.Dup3(in, fd)
		}
	}
	for i := range b.facts.PassFDs {
		if slices.Contains(b.facts.ClosedFDs, 3+i) {
			b.plan.PassFDs = append(b.plan.PassFDs, 0)
			continue
		}
		in := b.p.Input(fmt.Sprintf("passed file %d", 3+i))
		b.plan.PassFDs = append(b.plan.PassFDs, in)
		b.p.Dup3(in, 3+i)
	}
	if b.facts.PassFDs > 0 {
		b.plan.HighFD = first
	}
	b.p.Step(launch.Exec, "no other file crosses execve")
	b.p.CloseOnExecFrom(first)
}

// leaveReaper makes the program a child of Brig's own init.
func (b *builder) leaveReaper() {
	if !b.reaper() {
		return
	}
	b.p.Step(launch.Exec, "leave a reaper at pid 1")
	b.p.ForkInit()
	b.p.Setsid()
	if b.slave != 0 {
		b.p.Ioctl("controlling terminal", b.slave, unix.TIOCSCTTY, 0) // the program's, not the reaper's
	}
}

// reaper says that the program is not pid 1 but the child of Brig's own init.
func (b *builder) reaper() bool { return b.annotated(annotation.Init, "true") && !b.isExec() }

// exec runs the program: as it is named, or from the first folder of PATH that has it, as execvp(3).
func (b *builder) exec(pr *specs.Process) error {
	if len(pr.Args) == 0 || pr.Args[0] == "" {
		return &UnsupportedError{"process.args", "is empty; there is nothing to run"}
	}
	for _, s := range slices.Concat(pr.Args, pr.Env) {
		if strings.IndexByte(s, 0) >= 0 {
			return &UnsupportedError{"process", fmt.Sprintf("%q has a NUL byte", s)}
		}
	}
	name := pr.Args[0]
	if b.program != "" {
		name = b.program
	}
	if b.plan.Exe != 0 {
		b.p.Step(launch.Exec, "run "+name+", which the parent has opened")
		b.p.ExecFD(b.plan.Exe, pr.Args, pr.Env)
		return nil
	}
	b.p.Step(launch.Exec, "run "+name)
	if strings.Contains(name, "/") {
		b.p.Execve(name, pr.Args, pr.Env)
		return nil
	}
	dirs := searchPath(pr.Env)
	for _, dir := range dirs {
		b.p.Execve(path.Join(dir, name), pr.Args, pr.Env).Tolerate(unix.ENOENT, unix.ENOTDIR, unix.EACCES).Sticky()
	}
	// The last word: fails with what execvp would.
	in := b.p.Execve(path.Join(dirs[len(dirs)-1], name), pr.Args, pr.Env)
	in.Sticky()
	return nil
}

// searchPath is PATH, or the default that execvp uses. Relative folders in it are left out: they are the working
// directory's to fill.
func searchPath(env []string) []string {
	var dirs []string
	for _, e := range env {
		if list, ok := strings.CutPrefix(e, "PATH="); ok {
			dirs = dirs[:0]
			for _, dir := range strings.Split(list, ":") {
				if path.IsAbs(dir) {
					dirs = append(dirs, dir)
				}
			}
		}
	}
	if len(dirs) == 0 {
		return []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}
	}
	return dirs
}
