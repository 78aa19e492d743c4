package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"brig/internal/launch"
)

// program is a launch program as text, which is what a person is shown.
type program struct {
	t     *testing.T
	g     *golden
	lines []string
	names []string // of the calls
	nnp   bool
}

func programs(t *testing.T, f func(*program)) {
	t.Helper()
	for _, g := range goldens {
		if g.hook == "createContainer" {
			continue // a program of the host's, with all rights
		}
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			spec, facts := g.inputs(t)
			plan, err := g.run(spec, facts)
			if err != nil {
				t.Fatal(err)
			}
			p := &program{t: t, g: &g, nnp: spec.Process.NoNewPrivileges}
			for i := range plan.Program.Instructions {
				in := &plan.Program.Instructions[i]
				if in.Layer == "" || in.Why == "" {
					t.Errorf("%d  %s: has no layer or no reason", i, plan.Program.Text(in))
				}
				p.lines, p.names = append(p.lines, plan.Program.Text(in)), append(p.names, in.Name)
			}
			f(p)
		})
	}
}

// first and last find the lines that have a part; -1 when there is none.
func (p *program) first(part string) int {
	return slices.IndexFunc(p.lines, func(l string) bool { return strings.Contains(l, part) })
}

func (p *program) last(part string) int {
	for i := len(p.lines) - 1; i >= 0; i-- {
		if strings.Contains(p.lines[i], part) {
			return i
		}
	}
	return -1
}

// must is first, for a line that there has to be.
func (p *program) must(part string) int {
	p.t.Helper()
	i := p.first(part)
	if i < 0 {
		p.t.Fatalf("no line has %q", part)
	}
	return i
}

func (p *program) before(a, b int, rule string) {
	p.t.Helper()
	if a < 0 || b < 0 || a >= b {
		line := func(i int) string {
			if i < 0 {
				return "(none)"
			}
			return fmt.Sprintf("%d  %s", i, p.lines[i])
		}
		p.t.Errorf("%s:\n%s\nmust come before\n%s", rule, line(a), line(b))
	}
}

// entered is where the host's files are out of reach: after the old root is gone, or, for a further process, after it
// has joined the sandbox's namespaces.
func (p *program) entered() int {
	if at := p.first("chroot("); at >= 0 {
		return at // of a sandbox in the host's mount namespace
	}
	if p.g.exec {
		return p.must("setns(<sandbox>")
	}
	return p.must("umount2(")
}

// TestTheLastSteps: nothing but execve comes after the filter, and nothing that opens a file after close_range.
func TestTheLastSteps(t *testing.T) {
	t.Parallel()
	programs(t, func(p *program) {
		exec, closed := p.must("execve("), p.must("close_range(")
		for i, name := range p.names[exec:] {
			if name != "execve" {
				t.Errorf("%s comes after execve", p.lines[exec+i])
			}
		}
		for _, line := range p.lines[closed+1:] {
			opens := strings.Contains(line, " = <") && !strings.Contains(line, "<listener>") && !strings.Contains(line, "<controlling terminal>")
			if opens || strings.HasPrefix(line, "dup3") {
				p.t.Errorf("%s comes after close_range: the file would cross execve", line)
			}
		}
		if filter := p.first("seccomp("); filter >= 0 {
			// A profile is written for the program: it may deny whatever Brig calls.
			handOver := []string{"send <listener> to the parent", `await the parent at point "agent"`, "close(<listener>)"}
			after := p.lines[filter+1 : exec]
			if !p.nnp { // but these, which need a capability that the filter's loading needs, too
				after = slices.DeleteFunc(slices.Clone(after), func(l string) bool { return strings.HasPrefix(l, "capset(") || isLabel(l) })
			}
			late := len(after) == 0 || slices.Equal(after, handOver)
			if early := !p.nnp && p.first("send <listener>") >= 0; !late && !early {
				p.t.Errorf("%q come between the filter and execve", after)
			} else if early {
				p.before(filter, p.must("prctl(PR_CAPBSET_DROP"), "without no_new_privs the filter needs CAP_SYS_ADMIN")
			} else {
				p.before(closed, filter, "the filter may deny close_range")
			}
			p.before(filter, exec, "the filter is loaded")
		}
		if tail := p.lines[len(p.lines)-1]; strings.Contains(tail, "  or ") {
			p.t.Errorf("the last execve tolerates errors: %s", tail)
		}
		if p.nnp {
			p.before(closed, exec, "files are closed at execve")
		}
	})
}

// TestPrivilegesGoInOrder: bounding set, ids, the other sets, no_new_privs, then what needs only that.
func TestPrivilegesGoInOrder(t *testing.T) {
	t.Parallel()
	programs(t, func(p *program) {
		drop, user, capset := p.last("PR_CAPBSET_DROP"), p.last("setresuid("), p.must("capset(")
		p.before(drop, user, "the bounding set needs CAP_SETPCAP, which goes with the user")
		if !strings.HasSuffix(p.g.name, "host-processes") { // which keeps the groups
			p.before(p.last("setgroups("), p.last("setresgid("), "groups go before the group")
		} else if p.last("setgroups(") >= 0 {
			p.t.Errorf("the groups are not kept")
		}
		p.before(p.last("setresgid("), user, "the group goes before the user")
		p.before(user, capset, "ids are changed with capabilities")
		if bits := p.last("prctl(PR_SET_SECUREBITS"); bits >= 0 {
			p.before(bits, capset, "securebits need CAP_SETPCAP")
		}
		p.before(capset, p.must("execve("), "capabilities are dropped")
		if p.nnp {
			nnp := p.must("prctl(PR_SET_NO_NEW_PRIVS, 1")
			p.before(capset, nnp, "")
			for _, part := range []string{"landlock_restrict_self(", "seccomp("} {
				if i := p.first(part); i >= 0 {
					p.before(nnp, i, "no_new_privs comes first")
				}
			}
		} else if p.first("NO_NEW_PRIVS") >= 0 {
			p.t.Error("no_new_privs is set where the spec has it off")
		}
		if i := p.first("landlock_restrict_self("); i >= 0 {
			p.before(p.first("landlock_create_ruleset("), i, "")
			p.before(p.last("landlock_add_rule("), i, "")
			p.before(i, p.must("await the parent at point \"ready\""), "confinement is complete before the start is given")
			if !p.g.exec {
				p.before(p.last("move_mount("), i, "mounts change before Landlock, which forbids it (landlock(7))")
			}
		}
	})
}

// TestOutOfReach: the process is not dumpable before it touches the root or meets the sandbox's processes, and again
// after each change of ids, which resets it (prctl(2), PR_SET_DUMPABLE).
func TestOutOfReach(t *testing.T) {
	t.Parallel()
	programs(t, func(p *program) {
		const dumpable = "prctl(PR_SET_DUMPABLE, 0"
		at := p.must(dumpable)
		for _, part := range []string{"fsopen(", "open_tree(", "move_mount(", "mount_setattr(", "setns(", "unshare(", "<root>"} {
			if i := p.first(part); i >= 0 {
				if (p.g.name == "rootless" || p.g.name == "nested") && part == "unshare(" {
					continue // the parent writes the id maps first; a cgroup namespace is nobody's but the child's
				}
				p.before(at, i, "out of reach first")
			}
		}
		// Between a change of ids and the next chance of anybody else, an await or a step in the root.
		for i, name := range p.names {
			if name != "setresuid" {
				continue
			}
			next := slices.IndexFunc(p.lines[i:], func(l string) bool { return strings.Contains(l, dumpable) })
			awaits := slices.IndexFunc(p.names[i:], func(n string) bool { return n == "await" || n == "openat2" || n == "fsopen" })
			if next < 0 || awaits >= 0 && next > awaits {
				p.t.Errorf("%d  %s: no %s follows", i, p.lines[i], dumpable)
			}
		}
		if p.last("PR_SET_PDEATHSIG") >= 0 {
			p.before(p.last("setresuid("), p.last("PR_SET_PDEATHSIG"), "a change of credentials clears PR_SET_PDEATHSIG (pr_set_pdeathsig(2const))")
		}
	})
}

// isLabel tells a change to an AppArmor profile or SELinux label that holds from there on.
func isLabel(line string) bool {
	return strings.HasPrefix(line, "write(<attr/") && strings.Contains(line, "current")
}

// TestLabelsDoNotOutliveTheParent: a supervised program has its label before execve, which clears the parent-death signal
// when it changes one, and after all that a profile has no rule for. Below a reaper, and of nobody's, it comes at execve.
func TestLabelsDoNotOutliveTheParent(t *testing.T) {
	t.Parallel()
	programs(t, func(p *program) {
		if strings.HasPrefix(p.g.name, "labels") && p.g.name != "labels-init" && !slices.ContainsFunc(p.lines, isLabel) {
			p.t.Error("no label is taken")
		}
		for i, line := range p.lines {
			if isLabel(line) {
				p.before(p.last("capset("), i, "a profile need not allow what is set up before")
				p.before(p.last("setresuid("), i, "a profile need not allow a change of ids")
				p.before(p.last(`await the parent at point "ready"`), i, "a profile need not allow to talk to the parent")
				if last := p.last("seccomp("); p.nnp && last >= 0 {
					p.before(i, last, "the filter may deny write")
				}
			}
			if strings.HasPrefix(line, "write(<attr/") && !isLabel(line) && p.last("PR_SET_PDEATHSIG") >= 0 && !slices.Contains(p.lines, "fork, stay as init") && !strings.Contains(line, "exec unconfined") {
				p.t.Errorf("%s: the program would outlive its parent", line)
			}
		}
	})
}

// pathCalls are calls that resolve a path; the ones that take a directory must be given one.
var pathCalls = []string{"openat2", "mkdirat", "symlinkat", "mknodat", "open_tree", "fchownat", "mount_setattr", "move_mount"}

// TestNoPathOutOfTheRoot: once the root is entered, every path is resolved below a descriptor, in the root or in the
// private procfs, and never through a magic link (CVE-2019-16884, CVE-2021-30465, CVE-2024-21626 and their like).
func TestNoPathOutOfTheRoot(t *testing.T) {
	t.Parallel()
	programs(t, func(p *program) {
		for i, line := range p.lines[p.entered()+1:] {
			name := p.names[p.entered()+1+i]
			switch name {
			case "mount", "umount2", "pivot_root", "chroot", "open", "openat", "creat", "mkdir", "mknod", "symlink", "rename", "renameat2", "link", "linkat", "unlinkat":
				p.t.Errorf("%s takes a path or mounts", line)
			case "chdir":
				if line != `chdir("/")` {
					p.t.Errorf("%s: the working directory is entered by its descriptor", line)
				}
			}
			if slices.Contains(pathCalls, name) && strings.Contains(line, "AT_FDCWD") {
				if own := `openat2(AT_FDCWD, "/", {O_PATH|O_DIRECTORY|O_CLOEXEC, 0}, 24) = <root>`; !p.g.exec || line != own {
					p.t.Errorf("%s is relative to the working directory", line)
				}
				continue
			}
			if name == "openat2" {
				in := strings.Contains(line, "RESOLVE_IN_ROOT") || strings.Contains(line, "openat2(<private proc>") && strings.Contains(line, "RESOLVE_BENEATH|RESOLVE_NO_XDEV")
				if !in || !strings.Contains(line, "RESOLVE_NO_MAGICLINKS") {
					p.t.Errorf("%s can lead out", line)
				}
				for _, dir := range []string{`"proc`, `"sys/`, `"dev`} {
					if strings.Contains(line, "<root>, "+dir) && !strings.Contains(line, "RESOLVE_NO_SYMLINKS") && !strings.Contains(line, "<place ") {
						p.t.Errorf("%s follows links in a place where one is an attack", line)
					}
				}
				if strings.Contains(line, "O_CREAT") && !strings.Contains(line, "O_NOFOLLOW") {
					p.t.Errorf("%s makes a file behind a link", line)
				}
			}
			if name == "open_tree" && !strings.Contains(line, "AT_EMPTY_PATH") {
				p.t.Errorf("%s copies a mount by its path", line)
			}
		}
	})
}

// TestMountsGoToDescriptors: every mount is attached to a descriptor, but the root, which goes over the old one; and all
// files are close-on-exec.
func TestMountsGoToDescriptors(t *testing.T) {
	t.Parallel()
	programs(t, func(p *program) {
		roots := 0
		for i, name := range p.names {
			line := p.lines[i]
			switch name {
			case "move_mount":
				if line == `move_mount(<root>, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH)` || strings.Contains(line, "<place of the root>") {
					roots++
				} else if strings.Contains(line, `AT_FDCWD, "/proc"`) || strings.Contains(line, `AT_FDCWD, "/dev/null"`) {
					// On the old root for an instant, to be copied.
					p.before(i, p.must("umount2("), "what is on the old root goes with it")
					if !strings.HasPrefix(p.lines[i+1], "open_tree(") {
						p.t.Errorf("%s: %s follows, no copy", line, p.lines[i+1])
					}
				} else if !strings.Contains(line, "MOVE_MOUNT_F_EMPTY_PATH|MOVE_MOUNT_T_EMPTY_PATH") || strings.Contains(line, "AT_FDCWD") {
					p.t.Errorf("%s attaches by a path", line)
				}
			case "openat2", "open_tree", "fsopen", "fsmount":
				if !strings.Contains(line, "CLOEXEC") {
					p.t.Errorf("%s is not close-on-exec", line)
				}
			}
		}
		want := 1
		if p.g.exec {
			want = 0
		}
		if roots != want {
			p.t.Errorf("the root is attached %d times", roots)
		}
		if p.g.exec && p.last("mount(") >= 0 && strings.Contains(p.lines[p.last("mount(")], "move_mount") {
			p.t.Error("a further process mounts")
		}
		if at := p.first("chroot("); at >= 0 {
			if !strings.HasPrefix(p.lines[at-1], "fchdir(<root") || p.last("pivot_root(")+p.last("umount2(") >= 0 {
				p.t.Errorf("around chroot: %q, or a change of the host's mounts", p.lines[at-1:at+1])
			}
		} else if !p.g.exec {
			pivot := p.must("pivot_root(")
			if p.lines[pivot+1] != `umount2(".", MNT_DETACH)` || p.lines[pivot+2] != `chdir("/")` || p.lines[pivot-1] != "fchdir(<root>)" {
				p.t.Errorf("around pivot_root: %q", p.lines[pivot-1:pivot+3])
			}
			p.before(p.must("MS_PRIVATE"), pivot, "mount events stay inside before the root moves")
		}
	})
}

// tolerable are the errors that a launch may pass over, and why.
var tolerable = map[string]string{
	"setsid":      " EPERM",                                            // is a leader already
	"setgroups":   " EPERM",                                            // where only one group is mapped; the sandbox then has no others
	"keyctl":      " ENOSYS",                                           // a kernel without keys has none to hide
	"mkdirat":     " EEXIST",                                           // a folder of the image's own
	"execve":      " ENOENT, ENOTDIR, EACCES",                          // execvp(3)
	"faccessat2":  " ENOENT, ENOTDIR, EACCES, the first that succeeds", // execvp(3)
	"openat2":     " ENOENT, ENOTDIR",                                  // a mask of what is not there
	"ioctl":       " EPERM",                                            // the loopback stays down
	"epoll_pwait": " EINTR",                                            // stopped and continued; the wait goes on in accept4
}

// TestNothingElseIsTolerated: any other failing step ends the launch.
func TestNothingElseIsTolerated(t *testing.T) {
	t.Parallel()
	programs(t, func(p *program) {
		for i, line := range p.lines {
			_, errnos, ok := strings.Cut(line, "  or")
			if !ok {
				continue
			}
			if tolerable[p.names[i]] != errnos {
				p.t.Errorf("%s: tolerates%s", line, errnos)
			}
			if p.names[i] == "ioctl" && !strings.Contains(p.lines[i], "SIOCSIFFLAGS") {
				p.t.Errorf("%s is not the loopback's", line)
			}
			if p.names[i] == "openat2" && !strings.Contains(p.lines[i], "RESOLVE_NO_SYMLINKS") {
				p.t.Errorf("%s is no mask", line)
			}
			if strings.HasPrefix(line, "setgroups(") && !strings.HasPrefix(line, "setgroups(0,") {
				p.t.Errorf("%s: groups that were asked for may be missing", line)
			}
		}
	})
}

// TestStops: the points come in their order, each once; ids change only after their maps are written.
func TestStops(t *testing.T) {
	t.Parallel()
	programs(t, func(p *program) {
		at := -1
		for _, point := range []launch.Point{launch.PointNamespaces, launch.PointTerminal, launch.PointReady} {
			text := `await the parent at point "` + point.String() + `"`
			i := p.first(text)
			if i < 0 {
				continue
			}
			if p.last(text) != i || i <= at {
				p.t.Errorf("point %s is at %d and %d, after %d", point, i, p.last(text), at)
			}
			at = i
		}
		p.must(`point "ready"`)
		if !p.g.exec {
			p.before(p.must(`point "namespaces"`), p.must("setresuid("), "ids have maps before they change")
		}
		if terminal := p.first("send <master>"); terminal >= 0 && p.lines[terminal+1] != `await the parent at point "terminal"` {
			p.t.Errorf("after the master was sent: %s", p.lines[terminal+1])
		}
	})
}

// TestBoundingSet: every capability that the spec does not have is dropped, up to the kernel's last.
func TestBoundingSet(t *testing.T) {
	t.Parallel()
	programs(t, func(p *program) {
		spec, facts := p.g.inputs(p.t)
		sets, err := (&builder{spec: spec, facts: facts}).capabilities(spec.Process.Capabilities)
		if err != nil {
			p.t.Fatal(err)
		}
		for c := range facts.LastCap + 1 {
			dropped := p.first(fmt.Sprintf("prctl(PR_CAPBSET_DROP, %d, 0", c)) >= 0
			if dropped == sets.bounding.Has(c) {
				p.t.Errorf("%s: in the spec %v, dropped %v", c, sets.bounding.Has(c), dropped)
			}
		}
	})
}
