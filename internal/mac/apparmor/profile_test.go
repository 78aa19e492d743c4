package apparmor

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// features are a kernel's that apparmor's package brings along.
const features = "/usr/share/apparmor-features/features"

var judge = testenv.File(features, "apparmor")

// dump has apparmor_parser compile a profile, and gives what it says on the way.
func dump(t testing.TB, text, what string) string {
	t.Helper()
	cmd := exec.Command("/usr/sbin/apparmor_parser", "--config-file=/dev/null", "-QK", "-M", features, "-S", "-D", what)
	cmd.Stdin = strings.NewReader(text)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s\n%s", err, errs.Bytes(), text)
	}
	return errs.String()
}

// expressions are the rules as the parser understood them.
func expressions(t testing.TB, text string) []string {
	t.Helper()
	return strings.Split(dump(t, text, "rule-exprs"), "rule: ")[1:]
}

func spec(ms ...specs.Mount) *specs.Spec {
	return &specs.Spec{Root: &specs.Root{Readonly: true}, Process: &specs.Process{}, Linux: &specs.Linux{}, Mounts: ms}
}

func mount(to string, options ...string) specs.Mount {
	return specs.Mount{Destination: to, Type: "bind", Source: "/x", Options: append([]string{"bind"}, options...)}
}

func TestRulesFollowMounts(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		writable   bool
		mounts     []specs.Mount
		want, lack []string
	}{
		"read-only root":                 {want: []string{"/{,**} rkmix,"}, lack: []string{`"/proc{,/**}" rw`}},
		"writable root":                  {writable: true, want: []string{"/{,**} rwlkmix,", `deny "/sys{,/**}" wl,`}},
		"writable mount":                 {mounts: []specs.Mount{mount("/a")}, want: []string{`"/a{,/**}" rwlkmix,`}},
		"noexec mount":                   {mounts: []specs.Mount{mount("/a", "noexec")}, want: []string{`"/a{,/**}" rwlk,`, `deny "/a{,/**}" mx,`}},
		"read-only in a writable root":   {writable: true, mounts: []specs.Mount{mount("/a", "ro")}, want: []string{`deny "/a{,/**}" wl,`}},
		"recursively read-only":          {writable: true, mounts: []specs.Mount{mount("/a", "rro", "rnoexec")}, want: []string{`deny "/a{,/**}" wl,`, `deny "/a{,/**}" mx,`}},
		"writable in what is not":        {writable: true, mounts: []specs.Mount{mount("/a", "ro"), mount("/a/b")}, want: []string{`"/a/b{,/**}" rwlkmix,`}, lack: []string{`deny "/a{,/**}" wl`}},
		"a neighbour with the same head": {writable: true, mounts: []specs.Mount{mount("/a", "ro"), mount("/ab")}, want: []string{`deny "/a{,/**}" wl,`}},
		"the later of two":               {mounts: []specs.Mount{mount("/a"), mount("/a", "ro")}, lack: []string{`"/a{,/**}" rw`}},
		"root mounted over":              {mounts: []specs.Mount{mount("/")}, want: []string{"/{,**} rwlkmix,"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := spec(c.mounts...)
			s.Root.Readonly = !c.writable
			text, err := Profile("p", s, Options{})
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range c.want {
				if !strings.Contains(text, "  "+w) {
					t.Errorf("no rule %s in\n%s", w, text)
				}
			}
			for _, w := range c.lack {
				if strings.Contains(text, w) {
					t.Errorf("rule %s in\n%s", w, text)
				}
			}
		})
	}
}

func TestOnlyWhatIsGranted(t *testing.T) {
	t.Parallel()
	text, err := Profile("p", spec(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"capability", "raw,", "packet", "mount", "umount", "pivot_root", "change_profile", "userns", "ux", "px"} {
		if line := regexp.MustCompile(`(?m)^ *(?:network inet6?|)[ ]*` + word + `.*$`).FindString(text); line != "" {
			t.Errorf("%s is allowed: %s", word, line)
		}
	}
	s := spec()
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_NET_RAW", "CAP_CHOWN"}, Permitted: []string{"CAP_CHOWN"}}
	if text, err = Profile("p", s, Options{Mqueue: true, Peer: "ci runner"}); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"capability chown,", "capability net_raw,", "network inet raw,", "network packet,", "mqueue type=posix,", `signal (receive) peer="ci\040runner",`,
	} {
		if strings.Count(text, "  "+line+"\n") != 1 {
			t.Errorf("%s is not there once in\n%s", line, text)
		}
	}
}

func TestLinksAreFollowed(t *testing.T) {
	t.Parallel()
	text, err := Profile("p", spec(mount("/var/run/x")), Options{Resolve: func(p string) string { return strings.Replace(p, "/var/run", "/run", 1) }})
	if err != nil || !strings.Contains(text, `"/run/x{,/**}" rwlkmix`) {
		t.Errorf("%v\n%s", err, text)
	}
}

// The parser takes every byte of a path for itself.
func TestParserTakesEveryByte(t *testing.T) {
	t.Parallel()
	testenv.Check(t, judge)
	for c := 1; c < 256; c++ {
		if c == '/' {
			continue
		}
		injected(t, "/a"+string([]byte{byte(c)})+"b")
	}
	for _, text := range []string{
		`/a" rw, /etc/** rw, "`, "/a\n  capability sys_admin,\n", "/a{b,c}", "/a*", "/@{HOME}", "/a#b", "/a,b", `/a\`, `/a\"`, "/a} profile x { /** rw,", "/[a-z]", "/a^b", "/\xff\xfe", "/\\052", "/a -> /b",
		"/include <x>", "/ä",
	} {
		injected(t, text)
	}
}

// injected holds that a mount on the path gives the rules that a mount on a plain path gives, and that the expressions have
// the path's bytes alone.
func injected(t testing.TB, name string) {
	t.Helper()
	const plain = "/PLAIN"
	want, err := Profile("p", spec(mount(plain)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	have, err := Profile("p", spec(mount(name)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if w, h := len(strings.Split(want, "\n")), len(strings.Split(have, "\n")); w != h {
		t.Fatalf("a mount on %q gives %d lines, not %d:\n%s", name, h, w, have)
	}
	if w, h := expressions(t, want), expressions(t, have); len(w) != len(h) {
		t.Fatalf("a mount on %q gives %d rules, not %d", name, len(h), len(w))
	}
	if got := matched(t, quote(name)); got != name {
		t.Fatalf("the rule for %q is for %q", name, got)
	}
}

// matched has the parser make the automaton of one rule, and gives the one text that it takes; it fails when there are more.
func matched(t testing.TB, quoted string) string {
	t.Helper()
	var text []byte
	states := strings.SplitAfter(dump(t, "profile p {\n "+quoted+" r,\n}\n", "dfa-states"), "{1} <==")[1] // the second automaton is of what has no path
	for i, step := range regexp.MustCompile(`0x([0-9a-f]+) -> \{(\d+)\}`).FindAllStringSubmatch(states, -1) {
		var c byte
		if _, err := fmt.Sscanf(step[1], "%x", &c); err != nil || step[2] != fmt.Sprint(i+2) {
			t.Fatalf("the rule for %s is a pattern", quoted)
		}
		text = append(text, c)
	}
	return string(text)
}

func FuzzNoRuleIsInjected(f *testing.F) {
	testenv.Check(f, judge)
	for _, text := range []string{"a", `a" rw,`, "a\nb", "{a,b}", "@{x}", `\`, "*", "ü", "#", "a/b"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		name := filepath.Clean("/" + text)
		if strings.IndexByte(name, 0) >= 0 || len(name) > 200 || name == "/" || strings.HasPrefix(name, "/proc") || strings.HasPrefix(name, "/sys") || strings.HasPrefix(name, "/dev") {
			t.Skip()
		}
		injected(t, name)
		s := spec()
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = []string{name}, []string{name}
		s.Linux.Devices = []specs.LinuxDevice{{Path: name}}
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{text}}
		have, err := Profile(text, s, Options{Files: []string{name}, Peer: text})
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(have, "\n"); n > 45 || strings.Count(have, "{\n") != 1 || strings.Count(have, "\n}\n") != 1 {
			t.Fatalf("%q has given more than a rule each:\n%s", text, have)
		}
	})
}

func TestCompiledProfilesOfOthersAreNotUsed(t *testing.T) {
	t.Parallel()
	compile := func() ([]byte, error) { return []byte("compiled"), nil }
	fresh := func(t *testing.T) string {
		dir := filepath.Join(t.TempDir(), "cache")
		root, err := openCache(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		for range 2 { // the second finds it
			if err := keepBlob(root, prefix+"1", compile); err != nil {
				t.Fatal(err)
			}
		}
		f, err := openBlob(root, prefix+"1")
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		return dir
	}
	for name, spoil := range map[string]func(dir string) error{
		"a folder that others write to": func(dir string) error { return os.Chmod(dir, 0o777) },
		"a link in the folder's place": func(dir string) error {
			return errors.Join(os.Rename(dir, dir+"2"), os.Symlink(dir+"2", dir))
		},
		"a file that others write to": func(dir string) error { return os.Chmod(dir+"/"+prefix+"1", 0o666) },
		"a link in the file's place": func(dir string) error {
			return errors.Join(os.Rename(dir+"/"+prefix+"1", dir+"/x"), os.Symlink("x", dir+"/"+prefix+"1"))
		},
		"a folder in the file's place": func(dir string) error {
			return errors.Join(os.Remove(dir+"/"+prefix+"1"), os.Mkdir(dir+"/"+prefix+"1", 0o700))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := fresh(t)
			if err := spoil(dir); err != nil {
				t.Fatal(err)
			}
			root, err := openCache(dir)
			if err == nil {
				defer root.Close()
				_, err = openBlob(root, prefix+"1")
			}
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("it is used: %v", err)
			}
		})
	}
}

func TestOldestCompiledProfilesGo(t *testing.T) {
	t.Parallel()
	root, err := openCache(filepath.Join(t.TempDir(), "cache"))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	compile := func() ([]byte, error) { return []byte("compiled"), nil }
	for i := range keep + 5 {
		if err := keepBlob(root, fmt.Sprint(prefix, i), compile); err != nil {
			t.Fatal(err)
		}
		if i == 0 { // a sandbox holds the first
			f, err := openBlob(root, prefix+"0")
			if err != nil || flock(f, 1) != nil {
				t.Fatal(err)
			}
			defer f.Close()
		}
	}
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil || len(entries) > keep+1 {
		t.Errorf("%d are kept, %v", len(entries), err)
	}
	if f, err := openBlob(root, prefix+"0"); err != nil {
		t.Error("one that a sandbox holds was removed")
	} else {
		_ = f.Close()
	}
}

// TestOlderParser: Debian 12's knows no message queues, whatever the kernel knows.
func TestOlderParser(t *testing.T) {
	t.Parallel()
	testenv.Check(t, judge)
	p, err := findParser()
	if err != nil {
		t.Fatal(err)
	}
	s := spec()
	text, err := Profile("brig-x", s, Options{Mqueue: true})
	if err != nil {
		t.Fatal(err)
	}
	blob, err := p.compileFor(text, "brig-x", s, Options{Mqueue: true}, features)
	if err != nil || !bytes.Contains(blob, []byte("brig-x")) {
		t.Errorf("%d bytes, %v", len(blob), err)
	}
	if blob, err := p.compileFor(text+"}", "brig-x", s, Options{}, features); err == nil || len(blob) > 0 {
		t.Errorf("what no parser takes: %d bytes, no error", len(blob))
	}
}
