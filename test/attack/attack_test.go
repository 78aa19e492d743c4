// Package attack proves that Brig's sandboxes hold hostile programs. Each attack is run in sandboxes, where it must be
// held, and once without the layer that holds it, where it must succeed: an attack that never works proves nothing.
// README.md tells what is attacked and which test stands for which published escape.
package attack

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"brig/internal/testenv"

	"golang.org/x/sys/unix"
)

// bench is what all tests share: the programs, a root file system, and things of the host's to be attacked.
var bench struct {
	dir      string // everything else is below
	brig     string
	attacker string // static, of this machine's architecture
	old      string // the same for the 32-bit architecture that the machine also runs, or ""
	rootfs   string
	state    string // brig --root
	store    string // of images
	policy   string // a policy file that names the image
	canary   string // a file of the host's, in no sandbox
	mark     string // in the environment of every process that the tests start
	victim   *process
	err      error
}

func TestMain(m *testing.M) {
	if os.Geteuid() == 0 {
		bench.err = prepare()
	}
	watching := watchIDs()
	code := m.Run()
	if bench.dir != "" {
		if bench.victim != nil {
			bench.victim.kill()
		}
		if bench.store != "" {
			if err := dropImage(); err != nil {
				fmt.Fprintln(os.Stderr, "FAIL:", err)
				code = 1
			}
		}
		if left := leftovers(watching()); len(left) > 0 {
			fmt.Fprintln(os.Stderr, "FAIL: left behind:\n  "+strings.Join(left, "\n  "))
			code = 1
		}
		if err := os.RemoveAll(bench.dir); err != nil {
			fmt.Fprintln(os.Stderr, "FAIL:", err)
			code = 1
		}
	}
	tell()
	os.Exit(code)
}

// prepare builds the programs and the root file system.
func prepare() error {
	var err error
	if bench.dir, err = os.MkdirTemp("", "brig-attack-"); err != nil {
		return err
	}
	if err := os.Chmod(bench.dir, 0o755); err != nil { //nolint:gosec // users of sandboxes go through it
		return err
	}
	if err := testenv.Share(bench.dir); err != nil {
		return err
	}
	at := func(name string) string { return filepath.Join(bench.dir, name) }
	bench.brig, bench.attacker, bench.rootfs, bench.state, bench.canary = at("brig"), at("attack"), at("rootfs"), at("state"), at("canary")
	bench.mark = "BRIG_ATTACK=" + filepath.Base(bench.dir)
	if err := testenv.Build(bench.brig, "brig/cmd/brig"); err != nil {
		return err
	}
	if err := testenv.BuildIsolation(bench.dir); err != nil {
		return err
	}
	if err := testenv.Build(bench.attacker, "brig/test/attack/attacker"); err != nil {
		return err
	}
	if runtime.GOARCH == "amd64" {
		bench.old = at("attack386")
		if err := testenv.BuildFor("386", bench.old, "brig/test/attack/attacker"); err != nil {
			return err
		}
	}
	if err := os.WriteFile(bench.canary, []byte("the host's\n"), 0o644); err != nil { //nolint:gosec // to be found
		return err
	}
	if err := os.MkdirAll(at("volume"), 0o777); err != nil { //nolint:gosec // a volume
		return err
	}
	if err := os.WriteFile(at("volume/file"), []byte("of the volume\n"), 0o666); err != nil { //nolint:gosec // a volume
		return err
	}
	if err := makeRootfs(bench.rootfs); err != nil {
		return err
	}
	bench.store, bench.policy = at("images"), at("image.yaml")
	return makeImage()
}

// makeRootfs makes a small root file system: busybox, the attacker, and a set-user-ID and a capable copy of it.
func makeRootfs(root string) error {
	for _, dir := range []string{"bin", "etc", "proc", "sys", "dev", "tmp", "run", "root", "usr/bin", "var/lib", "home/user"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil { //nolint:gosec // a root file system
			return err
		}
	}
	if err := os.Symlink("../bin/busybox", filepath.Join(root, "usr/bin/env")); err != nil {
		return err
	}
	files := map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n",
		"etc/group":  "root:x:0:\nuser:x:1000:\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil { //nolint:gosec // a root file system
			return err
		}
	}
	copies := map[string]string{"attack": bench.attacker, "attack-setuid": bench.attacker, "attack-capable": bench.attacker, "bin/busybox": "/bin/busybox"}
	if bench.old != "" {
		copies["attack386"] = bench.old
	}
	for name, from := range copies {
		if err := copyFile(from, filepath.Join(root, name)); err != nil {
			return err
		}
	}
	if err := os.Link(filepath.Join(root, "bin/busybox"), filepath.Join(root, "bin/sh")); err != nil {
		return err
	}
	if err := os.Chmod(filepath.Join(root, "attack-setuid"), os.ModeSetuid|0o755); err != nil {
		return err
	}
	// struct vfs_cap_data of linux/capability.h: version 2, effective, CAP_SYS_ADMIN (21) permitted and inheritable.
	capable := []byte{1, 0, 0, 2, 0, 0, 0x20, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	return unix.Setxattr(filepath.Join(root, "attack-capable"), "security.capability", capable, 0)
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o755) //nolint:gosec // a program
}

// need skips a test where it cannot run, and fails it where the bench could not be made.
func need(t *testing.T) {
	t.Helper()
	testenv.Check(t, testenv.Root, testenv.Program("busybox"))
	if bench.err != nil {
		t.Fatal(bench.err)
	}
}

// result is how a run ended.
type result struct {
	code        int
	out, errors string
}

// verdict is the word that the attacker printed last, and its reason. Killed by the filter is held, too.
func (r result) verdict() (word, reason string) {
	lines := strings.Split(strings.TrimSpace(r.out), "\n")
	word, reason, _ = strings.Cut(lines[len(lines)-1], " ")
	known := map[string]int{"HELD": 0, "ESCAPED": 42, "BROKEN": 3}
	if code, ok := known[word]; ok && code == r.code {
		return word, reason
	}
	if r.code == 128+int(unix.SIGSYS) {
		return "HELD", "killed by the filter"
	}
	if r.code == 128+int(unix.SIGKILL) && strings.Contains(r.errors, "ran out of the memory") {
		return "HELD", "killed for the memory it took"
	}
	return "BROKEN", fmt.Sprintf("exit code %d, output %q, errors %q", r.code, r.out, r.errors)
}

// patience bounds one run; none takes a tenth of it.
var patience = testenv.Patience(60 * time.Second)

// command makes a command whose processes can be told from all others of the machine.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, name, args...)
	c.Env = append(os.Environ(), bench.mark, "BRIG_TEST_SECRET=of-the-host", "BRIG_STORE="+bench.store)
	c.Dir = bench.dir
	return c
}

func finish(c *exec.Cmd) result {
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return result{code: -1, errors: err.Error()}
	}
	code := c.ProcessState.ExitCode()
	if s, ok := c.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		code = 128 + int(s.Signal())
	}
	return result{code, out.String(), errs.String()}
}

// brig runs a command of brig's.
func brig(t *testing.T, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return finish(brigCommand(ctx, args...))
}

func brigCommand(ctx context.Context, args ...string) *exec.Cmd {
	return command(ctx, bench.brig, append([]string{"--root", bench.state}, args...)...)
}

// view is a way to give the sandbox a root.
type view struct {
	name  string
	flags []string
}

func views() []view {
	return []view{
		{"rootfs", []string{"--rootfs", bench.rootfs}},
		{"host-view", []string{"-v", bench.attacker + ":/attack:ro"}},
		imageView(),
	}
}

// imageView is a sandbox of the image.
func imageView(flags ...string) view {
	return view{"image", append([]string{"--policy", bench.policy}, flags...)}
}

// run runs the attacker in a sandbox.
func run(t *testing.T, v view, flags []string, attack ...string) result {
	t.Helper()
	return brig(t, runArgs(v, flags, attack...)...)
}

// runNative runs it on the host's kernel whatever isolation the suite is run for: a layer that is opened to show that an attack
// works is one of that kernel's.
func runNative(t *testing.T, v view, flags []string, attack ...string) result {
	t.Helper()
	return brig(t, runArgs(v, append(slices.Clone(flags), "--isolation", "native"), attack...)...)
}

func runArgs(v view, flags []string, attack ...string) []string {
	args := append([]string{"run", "-e", bench.mark}, testenv.IsolationFlags()...)
	args = append(args, v.flags...)
	args = append(args, flags...)
	return append(append(args, "--", "/attack"), attack...)
}

// process is a program in the background that the test talks to.
type process struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	once sync.Once
}

// start starts a program and waits for its first line, READY.
func start(c *exec.Cmd) (*process, error) {
	in, err := c.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var errs bytes.Buffer
	c.Stderr = &errs
	if err := c.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: c, in: in, out: bufio.NewReader(out)}
	if line, err := p.out.ReadString('\n'); line != "READY\n" {
		p.kill()
		return nil, fmt.Errorf("%v said %q, %w: %s", c.Args, line, err, errs.String())
	}
	return p, nil
}

// end closes the program's input and reads its verdict.
func (p *process) end() result {
	_ = p.in.Close()
	text, _ := io.ReadAll(p.out)
	_ = p.cmd.Wait()
	return result{code: p.cmd.ProcessState.ExitCode(), out: string(text)}
}

func (p *process) kill() {
	p.once.Do(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	})
}

var victimOnce sync.Once

// victim is a process of the host's, to be attacked.
func victim(t *testing.T) string {
	t.Helper()
	victimOnce.Do(func() {
		bench.victim, bench.err = start(command(context.Background(), bench.attacker, "victim"))
	})
	if bench.err != nil {
		t.Fatal(bench.err)
	}
	return strconv.Itoa(bench.victim.cmd.Process.Pid)
}

// watchIDs notes the id of every sandbox that the tests make, for foreground ones never say theirs. The function that
// it gives ends the watch.
func watchIDs() func() []string {
	if bench.dir == "" {
		return func() []string { return nil }
	}
	dir := filepath.Join(bench.state, "sandboxes")
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return func() []string { return nil }
	}
	_ = os.MkdirAll(dir, 0o700)
	_ = os.Chmod(bench.state, 0o700) //nolint:gosec // a folder
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONLYDIR); err != nil {
		fmt.Fprintln(os.Stderr, "watch", dir, err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	seen := map[string]bool{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 64<<10)
		for {
			n, err := unix.Read(fd, buf)
			if err != nil || n <= 0 {
				return
			}
			for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
				size := int(uint32(b[12]) | uint32(b[13])<<8)
				name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+size]), "\x00")
				seen[name] = true
				if name == lastWord {
					return
				}
				b = b[unix.SizeofInotifyEvent+size:]
			}
		}
	}()
	return func() []string {
		_ = os.Mkdir(filepath.Join(dir, lastWord), 0o700)
		<-done
		_ = os.Remove(filepath.Join(dir, lastWord))
		_ = f.Close()
		var ids []string
		for id := range seen {
			if id != lastWord {
				ids = append(ids, id)
			}
		}
		return ids
	}
}

// lastWord is the folder whose making ends the watch.
const lastWord = "end-of-the-tests"

// leftovers are what sandboxes left on the machine.
func leftovers(ids []string) []string {
	var left []string
	deadline := time.Now().Add(testenv.Patience(30 * time.Second)) // what is dying needs a moment
	for {
		left = left[:0]
		for _, pid := range marked() {
			left = append(left, "process "+pid)
		}
		for _, id := range ids {
			for _, pattern := range []string{"/sys/fs/cgroup/brig/", "/sys/fs/cgroup/*/brig/"} {
				found, _ := filepath.Glob(pattern + id)
				left = append(left, found...)
			}
		}
		left = append(left, remains()...)
		if len(left) == 0 || time.Now().After(deadline) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if len(ids) == 0 && bench.err == nil && bench.victim != nil && bundles.template == nil {
		left = append(left, "the watch over the state folder saw no sandbox at all")
	}
	return left
}

// remains are files of the state folder, and mounts below the bench's folder.
func remains() []string {
	var left []string
	for _, dir := range []string{"sandboxes", "names"} {
		_ = filepath.WalkDir(filepath.Join(bench.state, dir), func(path string, _ fs.DirEntry, err error) error {
			if err == nil && path != filepath.Join(bench.state, dir) {
				left = append(left, path)
			}
			return nil
		})
	}
	// A range of ids is a link to the folder of the sandbox that has it.
	links, _ := filepath.Glob("/run/brig/ids/*")
	for _, l := range links {
		if owner, err := os.Readlink(l); err == nil && strings.HasPrefix(owner, bench.state+"/") {
			left = append(left, l)
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, bench.dir) {
			left = append(left, "mount "+line)
		}
	}
	return left
}

// marked are the processes that the tests started and that still run.
func marked() []string {
	var pids []string
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		environ, err := os.ReadFile("/proc/" + e.Name() + "/environ")
		if err == nil && bytes.Contains(environ, []byte(bench.mark)) {
			pids = append(pids, e.Name())
		}
	}
	return pids
}
