package plan

import (
	"bytes"
	"strings"
	"testing"

	"brig/internal/annotation"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// linesOf compiles a spec and gives the program's lines below the step why.
func linesOf(t *testing.T, spec *specs.Spec, facts *Facts, why string) []string {
	t.Helper()
	p, err := Compile(spec, facts)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for i := range p.Program.Instructions {
		if in := &p.Program.Instructions[i]; in.Why == why {
			lines = append(lines, p.Program.Text(in))
		}
	}
	return lines
}

// hostView is a bundle with a root in RAM.
func hostView(change func(*specs.Spec)) *specs.Spec {
	return bundle(func(s *specs.Spec) {
		s.Annotations[annotation.Root] = "ram"
		change(s)
	})
}

// TestMasks: a path is masked by what it is at that moment: the image's, a bind mount's, a file system's of the launch's
// own, or one behind a link that the launch makes. What is nowhere is passed over, as the runtime-spec has it.
func TestMasks(t *testing.T) {
	t.Parallel()
	link := func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/usr", Source: "/usr", Options: []string{"rbind"}},
			specs.Mount{Destination: "/bin", Source: "/bin", Type: "bind", Options: []string{"copy-symlink"}})
	}
	shm := addMount(specs.Mount{Destination: "/dev/shm", Type: "tmpfs"})
	hosts := addMount(specs.Mount{Destination: "/etc/hosts", Type: "bind", Source: "/run/pod/hosts"})
	data := addMount(specs.Mount{Destination: "/data", Type: "bind", Source: "/srv/data"})
	for _, c := range []struct {
		path, opened, with string
		change             func(*specs.Spec)
		ram                bool
	}{
		{path: "/proc/kcore", opened: "proc/kcore", with: "<mask>"},
		{path: "/proc/acpi", opened: "proc/acpi", with: "<empty folder>"},
		{path: "/proc/no-such"},
		{path: "/etc/passwd", opened: "etc/passwd", with: "<mask>"},
		{path: "/srv", opened: "srv", with: "<empty folder>"},
		{path: "/no-such"},
		{path: "/sys/firmware"}, // there is no sysfs here
		{path: "/dev/full", opened: "dev/full", with: "<mask>"},
		{path: "/dev/no-such"},
		{path: "/dev/shm", opened: "dev/shm", with: "<empty folder>", change: shm},
		{path: "/dev/shm/no-such", change: shm},
		{path: "/etc/hosts", opened: "etc/hosts", with: "<mask>", change: hosts},
		{path: "/data", opened: "data", with: "<empty folder>", change: data},
		{path: "/data/in", opened: "data/in", with: "<empty folder>", change: data},
		{path: "/data/no-such", change: data},
		{path: "/etc/hosts", opened: "etc/hosts", with: "<mask>", change: hosts, ram: true},
		{path: "/bin", opened: "usr/bin", with: "<empty folder>", change: link, ram: true},
		{path: "/tmp", ram: true},
	} {
		t.Run(strings.TrimPrefix(c.path, "/"), func(t *testing.T) {
			t.Parallel()
			spec := bundle(func(s *specs.Spec) {
				if c.ram {
					s.Annotations[annotation.Root] = "ram"
				}
				if c.change != nil {
					c.change(s)
				}
				s.Linux.MaskedPaths = []string{c.path}
			})
			lines := linesOf(t, spec, testFacts(), "mask "+c.path)
			if c.opened == "" {
				if lines != nil {
					t.Errorf("masked: %q", lines)
				}
				return
			}
			if len(lines) < 2 {
				t.Fatalf("not masked: %q", lines)
			}
			open, attach := lines[0], lines[len(lines)-1]
			if !strings.HasPrefix(open, `openat2(<root>, "`+c.opened+`", {O_PATH|O_CLOEXEC, RESOLVE_IN_ROOT|RESOLVE_NO_SYMLINKS`) {
				t.Errorf("opens %s", open)
			}
			if !strings.HasPrefix(attach, "move_mount("+c.with+`, "", <`) {
				t.Errorf("attaches %s, want %s", attach, c.with)
			}
			if strings.Contains(open, "<mask>") || strings.Contains(strings.Join(lines, "\n"), "/dev/null") {
				t.Errorf("the sandbox's own /dev/null is looked up (CVE-2025-31133): %q", lines)
			}
		})
	}
}

// TestLinks follows the links that the launch makes: what is mounted in /bin goes to /usr/bin.
func TestLinks(t *testing.T) {
	t.Parallel()
	for to, want := range map[string]string{"usr/bin": "/usr/bin/tool", "/usr/bin": "/usr/bin/tool", "./usr/../usr/bin": "/usr/bin/tool"} {
		facts := testFacts()
		facts.Link = func(name string) (string, bool) { return to, name == "/bin" }
		spec := hostView(func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/usr/bin", Type: "tmpfs"},
				specs.Mount{Destination: "/bin", Source: "/bin", Type: "bind", Options: []string{"copy-symlink"}},
				specs.Mount{Destination: "/bin/tool", Source: "/run/pod/hosts", Type: "bind"})
		})
		lines := linesOf(t, spec, facts, "mount /run/pod/hosts on /bin/tool")
		if len(lines) != 2 || !strings.HasPrefix(lines[0], `openat2(<tmpfs /usr/bin>, "tool", {O_CREAT|O_EXCL`) || !strings.HasSuffix(lines[0], "= <target "+want+">") {
			t.Errorf("behind a link to %s: %q", to, lines)
		}
	}
	// A link to itself ends the search, not the program.
	facts := testFacts()
	facts.Link = func(name string) (string, bool) { return "/bin/x", name == "/bin" }
	spec := hostView(func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/bin", Source: "/bin", Type: "bind", Options: []string{"copy-symlink"}},
			specs.Mount{Destination: "/bin/tool", Type: "tmpfs"})
	})
	if _, err := Compile(spec, facts); err != nil {
		t.Error(err)
	}
}

// TestFilesUnderMounts: small files go into the root in RAM even when a mount will cover their folder; they never reach
// a folder of the host.
func TestFilesUnderMounts(t *testing.T) {
	t.Parallel()
	spec := hostView(func(s *specs.Spec) {
		s.Annotations[annotation.Files] = `{"/etc/passwd": "x", "/a/b/c": "y", "/top": "z"}`
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/etc", Source: "/srv/data", Type: "bind"}, specs.Mount{Destination: "/a/b", Type: "tmpfs"})
	})
	for name, want := range map[string][]string{
		"/etc/passwd": {`mkdirat(<root>, "etc", 0755)`, `openat2(<root>, "etc", {O_PATH`, `openat2(<target /etc>, "passwd", {O_WRONLY|O_CREAT|O_EXCL|O_NOFOLLOW`, `write(</etc/passwd>, "x", 1)`, "close(</etc/passwd>)"},
		"/a/b/c":      {`mkdirat(<root>, "a", 0755)`, `mkdirat(<root>, "a/b", 0755)`, `openat2(<root>, "a/b", {O_PATH`, `openat2(<target /a/b>, "c", {O_WRONLY|O_CREAT|O_EXCL|O_NOFOLLOW`, `write(`, `close(`},
		"/top":        {`openat2(<root>, "top", {O_WRONLY|O_CREAT|O_EXCL|O_NOFOLLOW`, `write(`, `close(`},
	} {
		lines := linesOf(t, spec, testFacts(), "write "+name)
		if len(lines) != len(want) {
			t.Fatalf("%s: %q", name, lines)
		}
		for i := range want {
			if !strings.HasPrefix(lines[i], want[i]) {
				t.Errorf("%s: %s, want %s", name, lines[i], want[i])
			}
		}
	}
}

// TestBindFlags: what is read-only on the host stays so. "ro" and its like are the mount's own, "rro" and its like reach every
// mount below, too.
func TestBindFlags(t *testing.T) {
	t.Parallel()
	for options, want := range map[string][]string{
		"rbind":               nil,
		"bind,ro":             {`AT_EMPTY_PATH, {set RDONLY}`},
		"rbind,ro":            {`AT_EMPTY_PATH, {set RDONLY}`},
		"rbind,rw":            {`AT_EMPTY_PATH, {clear RDONLY}`},
		"bind,rw,nosuid":      {`AT_EMPTY_PATH, {set NOSUID, clear RDONLY}`},
		"rbind,rw,nosuid":     {`AT_EMPTY_PATH, {set NOSUID, clear RDONLY}`},
		"rbind,rnosuid,rw":    {`AT_EMPTY_PATH, {clear RDONLY}`, `AT_EMPTY_PATH|AT_RECURSIVE, {set NOSUID}`},
		"rbind,exec,dev":      {`AT_EMPTY_PATH, {clear NODEV|NOEXEC}`},
		"rbind,noatime":       {`AT_EMPTY_PATH, {set NOATIME, clear _ATIME}`},
		"rbind,rro":           {`AT_EMPTY_PATH|AT_RECURSIVE, {set RDONLY}`},
		"rbind,rrw":           {`AT_EMPTY_PATH|AT_RECURSIVE, {clear RDONLY}`}, // asked for by name
		"bind,rslave":         {`AT_EMPTY_PATH|AT_RECURSIVE, {propagation MS_SLAVE}`},
		"bind,shared":         {`AT_EMPTY_PATH, {propagation MS_SHARED}`},
		"rbind,rprivate":      nil,
		"rbind,ro,rw":         {`AT_EMPTY_PATH, {clear RDONLY}`},
		"rbind,ro,unbindable": {`AT_EMPTY_PATH, {set RDONLY}`, `AT_EMPTY_PATH, {propagation MS_UNBINDABLE}`},
	} {
		spec := bundle(addMount(specs.Mount{Destination: "/data", Source: "/srv/data", Options: strings.Split(options, ",")}))
		var got []string
		for _, line := range linesOf(t, spec, testFacts(), "mount /srv/data on /data") {
			if strings.HasPrefix(line, "mount_setattr(") {
				got = append(got, strings.TrimSuffix(strings.TrimPrefix(line, `mount_setattr(</srv/data>, "", `), ", 32)"))
			}
		}
		if strings.Join(got, "; ") != strings.Join(want, "; ") {
			t.Errorf("%s: %q, want %q", options, got, want)
		}
	}
}

// TestDevices: in a user namespace nodes are the host's, bound; without one they are made, with the modes of the spec.
func TestDevices(t *testing.T) {
	t.Parallel()
	device := func(s *specs.Spec) {
		s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}}
	}
	lines := linesOf(t, bundle(device), testFacts(), "device /dev/fuse")
	if len(lines) != 2 || !strings.HasPrefix(lines[1], "move_mount(</dev/fuse>") {
		t.Errorf("in a user namespace: %q", lines)
	}
	lines = linesOf(t, bundle(func(s *specs.Spec) { device(s); without(s, specs.UserNamespace) }), testFacts(), "device /dev/fuse")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], `mknodat(<tmpfs /dev>, "fuse", 020666, 2789)`) || !strings.Contains(lines[1], "O_NOFOLLOW") {
		t.Errorf("without one: %q", lines)
	}
	// A /dev of the host's has its own nodes.
	p, err := Compile(bundle(func(s *specs.Spec) {
		s.Mounts[1] = specs.Mount{Destination: "/dev", Type: "bind", Source: "/dev", Options: []string{"rbind"}}
	}), testFacts())
	if err != nil || strings.Contains(text(t, p), "mknodat") || strings.Contains(text(t, p), "device /dev") {
		t.Errorf("a bound /dev is filled: %v", err)
	}
}

// TestSearch looks for the program as execvp(3) does, but in no folder relative to the working directory.
func TestSearch(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"PATH=/a:/b": "/a/sh /b/sh /b/sh", "PATH=.:/a::bin": "/a/sh /a/sh", "PATH=": "/usr/local/sbin/sh /usr/local/bin/sh /usr/sbin/sh /usr/bin/sh /sbin/sh /bin/sh /bin/sh",
		"HOME=/": "/usr/local/sbin/sh /usr/local/bin/sh /usr/sbin/sh /usr/bin/sh /sbin/sh /bin/sh /bin/sh",
	} {
		lines := linesOf(t, bundle(func(s *specs.Spec) {
			s.Process.Args, s.Process.Env = []string{"sh", "-c", "id"}, []string{path, "SECRET=hidden"}
		}), testFacts(), "run sh")
		var got []string
		for _, line := range lines {
			name, rest, _ := strings.Cut(strings.TrimPrefix(line, `execve("`), `"`)
			got = append(got, name)
			if strings.Contains(rest, "hidden") {
				t.Errorf("the environment's values are in the text: %s", line)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %q, want %s", path, got, want)
		}
	}
	if lines := linesOf(t, bundle(func(s *specs.Spec) { s.Process.Args = []string{"./tool"} }), testFacts(), "run ./tool"); len(lines) != 1 || !strings.HasPrefix(lines[0], `execve("./tool"`) {
		t.Errorf("%q", lines)
	}
}

// TestUmask: the spec's, or 022; never the caller's.
func TestUmask(t *testing.T) {
	t.Parallel()
	for mask, want := range map[uint32]string{0o22: "umask(022)", 0o77: "umask(077)", 0: "umask(0)"} {
		p, err := Compile(bundle(func(s *specs.Spec) { s.Process.User.Umask = &mask }), testFacts())
		if err != nil || !strings.Contains(text(t, p), "  "+want+"\n") {
			t.Errorf("%o: %v", mask, err)
		}
	}
	p, err := Compile(bundle(nil), testFacts())
	if err != nil || strings.Count(text(t, p), "umask(") != 2 || !strings.Contains(text(t, p), "  umask(022)\n") {
		t.Errorf("without a word: %v", err)
	}
}

// TestCloneText names the namespaces as a person does.
func TestCloneText(t *testing.T) {
	t.Parallel()
	p, err := Compile(bundle(nil), testFacts())
	if err != nil || CloneText(p.CloneFlags) != "new user, new pid, new network, new ipc, new uts, new mount" || !p.UserNS {
		t.Errorf("%q, %v", CloneText(p.CloneFlags), err)
	}
	if CloneText(0) != "" {
		t.Error("nothing has a name")
	}
}

// TestWithoutProc: a process that shows to others what it sees has no procfs and no sysfs, from before Landlock shuts the mounts.
func TestWithoutProc(t *testing.T) {
	t.Parallel()
	spec := bundle(func(*specs.Spec) {})
	facts := testFacts()
	facts.WithoutProc = true
	p, err := CompileExec(spec, facts)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := p.Program.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	at := -1
	for _, want := range []string{"setns", "unshare(CLONE_NEWNS)", "umount2(\"/proc\"", "capset"} {
		i := strings.Index(text.String(), want)
		if i < at {
			t.Errorf("%s is missing, or out of order: %s", want, text.String())
		}
		at = i
	}
}

// TestWorkdirOfAGuest: the folder that a guest begins in is made where that leaves nothing behind, and has to be there elsewhere; the
// process itself begins where it begins.
func TestWorkdirOfAGuest(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, dir string
		made      bool
	}{{"in a new tmpfs", "/dev/made/here", true}, {"in the folder", "/here", false}} {
		facts := testFacts()
		facts.Workdir = c.dir
		p, err := Compile(bundle(func(*specs.Spec) {}), facts)
		if err != nil {
			t.Fatal(err)
		}
		var text bytes.Buffer
		if err := p.Program.WriteText(&text); err != nil {
			t.Fatal(err)
		}
		if made := strings.Contains(text.String(), "make the working directory "+c.dir); made != c.made {
			t.Errorf("%s: made is %v: %s", c.name, made, text.String())
		}
		guest, own := strings.Index(text.String(), "enter the working directory "+c.dir), strings.Index(text.String(), "enter the working directory /\n")
		if guest < 0 || own < guest {
			t.Errorf("%s: the guest's at %d, its own at %d: %s", c.name, guest, own, text.String())
		}
	}
}
