package attack

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"brig/internal/testenv"

	"golang.org/x/sys/unix"
)

// row is an attack, where it is run, and how it is shown to work.
type row struct {
	name   string
	attack []string // of the attacker; {…} are filled in
	flags  []string // of brig run
	// control runs the attack where it must succeed.
	control control
	// granted are the presets whose policy gives what the attack takes, and why that is no escape.
	granted map[string]string
	// only is the one view that has what the attack needs.
	only string
	// abi is the Landlock that a flag needs: before it Brig refuses the flag, which test/vm/landlock proves.
	abi int
}

// control is a way to run an attack without the layers that hold it.
type control struct {
	// open are flags of brig run that open the layer; nil is no sandbox at all.
	open []string
	// apart are namespaces of its own, so that the host does not feel it.
	apart bool
	// user is who runs it outside.
	user int
	// args stand for the attacker's.
	args []string
	// impossible is why this kernel or machine cannot show that the attack works.
	impossible string
	// prepare changes the command.
	prepare func(c *exec.Cmd)
}

var (
	host  = control{}
	apart = control{apart: true}
)

func opened(flags ...string) control      { return control{open: flags} }
func impossible(reason string) control    { return control{impossible: reason} }
func hostArgs(args ...string) control     { return control{args: args} }
func compat(why string) map[string]string { return map[string]string{"compat": why} }

var presets = []string{"default", "strict", "compat"}

// TestAttacks runs every row in every preset, with a root folder and with the host's programs.
func TestAttacks(t *testing.T) {
	t.Parallel()
	need(t)
	for _, r := range rows() {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			testenv.Check(t, testenv.Landlock(r.abi))
			for _, preset := range presets {
				t.Run(preset, func(t *testing.T) {
					for _, v := range views() {
						if r.only == "" || r.only == v.name {
							t.Run(v.name, func(t *testing.T) { r.sandboxed(t, preset, v) })
						}
					}
				})
			}
			t.Run("control", r.proves)
		})
	}
}

// sandboxed runs the attack where it must be held.
func (r *row) sandboxed(t *testing.T, preset string, v view) {
	flags := append([]string{"--preset", preset}, fill(t, r.flags)...)
	got := run(t, v, flags, fill(t, r.attack)...)
	word, reason := got.verdict()
	count(preset, word)
	why, granted := r.granted[preset]
	switch {
	case r.otherwise(t, preset, got):
	case granted && word == "HELD":
		t.Errorf("held (%s), but the table says that the policy grants it: %s", reason, why)
	case granted && word == "ESCAPED":
		count(preset, "granted")
	case word != "HELD":
		t.Errorf("%s: %s", word, reason)
	}
}

// listed is a test under the name that its row has in the list of what is otherwise: its own, or that with the preset.
type listed struct {
	*testing.T
	name string
}

func (l listed) Name() string { return l.name }

// otherwise holds what is otherwise under another isolation than native, if the suite's list names the row.
func (r *row) otherwise(t *testing.T, preset string, got result) bool {
	t.Helper()
	for _, name := range []string{"TestAttacks/" + r.name, "TestAttacks/" + r.name + "/" + preset} {
		d, ok := testenv.Differs(listed{t, name})
		if !ok {
			continue
		}
		if outcome := r.outcome(preset, got); outcome != d.Outcome {
			_, reason := got.verdict()
			t.Errorf("testdata/%s.json says %s of %s, and it is %s: %s", testenv.Isolation(), d.Outcome, name, outcome, reason)
		}
		return true
	}
	return false
}

// outcome is a word of testenv.Outcomes for what is otherwise than the table says, or the attacker's verdict.
func (r *row) outcome(preset string, got result) string {
	word, reason := got.verdict()
	_, granted := r.granted[preset]
	switch {
	case strings.Contains(got.errors, "isolation "+testenv.Isolation()+" cannot do it"):
		return "refused"
	case word == "ESCAPED" && !granted, word == "BROKEN" && (r.attack[0] == "fork-bomb" || strings.HasSuffix(reason, unix.EIO.Error())):
		return "differs" // a guest that takes every process it may have ends with its kernel; what cannot be read was opened for writing
	case word == "HELD" && granted, word == "BROKEN" && strings.HasSuffix(reason, unix.EINVAL.Error()):
		return "absent"
	}
	return word
}

// proves runs the attack where it must succeed.
func (r *row) proves(t *testing.T) {
	c := r.control
	args := r.attack
	if c.args != nil {
		args = c.args
	}
	var got result
	if c.open != nil {
		v := views()[0]
		if r.only == "host-view" {
			v = views()[1]
		}
		got = runNative(t, v, slices.Concat(fill(t, r.flags), noModule, fill(t, c.open)), fill(t, args)...)
	} else {
		got = c.outside(t, fill(t, args))
	}
	word, reason := got.verdict()
	switch {
	case c.impossible != "" && word == "ESCAPED":
		t.Errorf("the attack works here, though the table says that it cannot be shown: %s", c.impossible)
	case c.impossible != "":
		unproved.Store(r.name, c.impossible+" (outside: "+reason+")")
	case word != "ESCAPED":
		t.Errorf("the attack does not work without the layer either: %s: %s", word, reason)
	default:
		count("control", "ESCAPED")
	}
}

// outside runs the attacker without a sandbox.
func (c *control) outside(t *testing.T, args []string) result {
	cmd := command(t.Context(), bench.attacker, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Dir = t.TempDir()
	if c.apart {
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET
		cmd.SysProcAttr.Unshareflags = unix.CLONE_NEWNS // Go makes its mounts private
	}
	if c.user != 0 {
		cmd.Dir = bench.dir
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(c.user), Gid: uint32(c.user)} //nolint:gosec // small
	}
	if c.prepare != nil {
		c.prepare(cmd)
	}
	return finish(cmd)
}

// fill puts what only the running test knows into arguments.
func fill(t *testing.T, args []string) []string {
	t.Helper()
	out := slices.Clone(args)
	for i, a := range out {
		switch {
		case strings.Contains(a, "{victim}"):
			out[i] = strings.ReplaceAll(a, "{victim}", victim(t))
		case strings.Contains(a, "{canary}"):
			out[i] = strings.ReplaceAll(a, "{canary}", bench.canary)
		case strings.Contains(a, "{abstract}"):
			out[i] = strings.ReplaceAll(a, "{abstract}", listener(t).abstract)
		case strings.Contains(a, "{tcp}"):
			out[i] = strings.ReplaceAll(a, "{tcp}", listener(t).tcp)
		case strings.Contains(a, "{port}"):
			_, port, _ := net.SplitHostPort(listener(t).tcp)
			out[i] = strings.ReplaceAll(a, "{port}", port)
		case strings.Contains(a, "{dir}"):
			out[i] = strings.ReplaceAll(a, "{dir}", t.TempDir())
		case strings.Contains(a, "{rootfs}"):
			out[i] = strings.ReplaceAll(a, "{rootfs}", bench.rootfs)
		case strings.Contains(a, "{attacker}"):
			out[i] = strings.ReplaceAll(a, "{attacker}", identity(t, bench.attacker))
		case strings.Contains(a, "{brig}"):
			out[i] = strings.ReplaceAll(a, "{brig}", identity(t, bench.brig))
		}
	}
	return out
}

// listening are sockets of the host's that take every connection.
type listening struct {
	abstract, tcp string
	datagrams     *net.UnixConn
}

var listener = func() func(t *testing.T) listening {
	var once sync.Once
	var l listening
	return func(t *testing.T) listening {
		t.Helper()
		once.Do(func() {
			l.abstract = filepath.Base(bench.dir)
			// What is sent to it stays in its queue.
			var err error
			if l.datagrams, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: "@" + l.abstract}); err != nil {
				t.Error(err)
				return
			}
			for network, address := range map[string]string{"unix": "@" + l.abstract, "tcp": "127.0.0.1:0"} {
				s, err := net.Listen(network, address)
				if err != nil {
					t.Error(err)
					return
				}
				if network == "tcp" {
					l.tcp = s.Addr().String()
				}
				go func() {
					for {
						conn, err := s.Accept()
						if err != nil {
							return
						}
						_ = conn.Close()
					}
				}()
			}
		})
		return l
	}
}()

// identity is "DEVICE:INODE" of a file.
func identity(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

var (
	counts   = map[string]int{}
	countsMu sync.Mutex
	unproved sync.Map
	began    = time.Now()
)

func count(where, word string) {
	countsMu.Lock()
	counts[where+" "+word]++
	countsMu.Unlock()
}

// tell prints what was run, and which attacks this machine cannot show to work.
func tell() {
	if len(counts) == 0 {
		return
	}
	var keys []string
	for k := range counts {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		fmt.Fprintf(os.Stderr, "%-24s %d\n", k, counts[k])
	}
	var list []string
	unproved.Range(func(name, why any) bool {
		list = append(list, fmt.Sprintf("  %-24s %s", name, why))
		return true
	})
	sort.Strings(list)
	fmt.Fprintf(os.Stderr, "%d attacks cannot be shown to work on this machine:\n%s\nin %s\n", len(list), strings.Join(list, "\n"), time.Since(began).Round(time.Second))
}
