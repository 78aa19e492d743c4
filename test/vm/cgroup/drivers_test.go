//go:build vm

package cgroup

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// patience bounds every wait; a guest under software emulation is slow.
const patience = 120 * time.Second

// ask is what a sandbox is started with.
type ask struct {
	flags  []string                    // of brig run
	set    func(*specs.LinuxResources) // of a bundle
	access string                      // to the disk; rw if empty
	spec   func(*specs.Spec)           // more of a bundle
}

func (a ask) disk() string {
	if a.access == "" {
		return "rw"
	}
	return a.access
}

// driver is a way to a sandbox with limits.
type driver struct {
	name string
	// start has the probe started in a sandbox.
	start func(t *testing.T, id string, a ask, args []string) *exec.Cmd
	// policy says that limits are given by flags, not by a bundle.
	policy bool
}

// brigRun has the host's programs and the probe: kernels before 6.3 have no idmapped mounts of tmpfs, which a guest's root is.
var brigRun = driver{"brig run", func(_ *testing.T, id string, a ask, args []string) *exec.Cmd {
	words := append([]string{"--root", filepath.Join(bench.dir, "state"), "run", "-i", "--name", id, "--device", bench.disk + ":/dev/disk:" + a.disk()}, a.flags...)
	return exec.Command(bench.brig, append(append(words, "--", bench.probe), args[1:]...)...)
}, true}

var brigOCI = driver{"brig-oci by cgroupfs", func(t *testing.T, id string, a ask, args []string) *exec.Cmd {
	bundle := makeBundle(t, "/brig-vm/"+id, args, a)
	return exec.Command(bench.oci, "--root", filepath.Join(bench.dir, "oci"), "run", "--bundle", bundle, id)
}, false}

var bySystemd = driver{"brig-oci by systemd", func(t *testing.T, id string, a ask, args []string) *exec.Cmd {
	bundle := makeBundle(t, "system.slice:brigvm:"+id, args, a)
	return exec.Command(bench.oci, "--root", filepath.Join(bench.dir, "oci"), "--systemd-cgroup", "run", "--bundle", bundle, id)
}, false}

// drivers are those that this guest has: with systemd as its first process there is one more. Where time is short one does for
// bundles: what writes into the files by itself is the same as for `brig run`.
func drivers() []driver {
	switch {
	case !systemdRuns():
		return []driver{brigRun, brigOCI}
	case testing.Short():
		return []driver{brigRun, bySystemd}
	}
	return []driver{brigRun, brigOCI, bySystemd}
}

func systemdRuns() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}

// box is a sandbox whose probe waits for the word.
type box struct {
	t     *testing.T
	id    string
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
	errs  bytes.Buffer
	group string // its folder
	pid   int
}

// probe starts the probe in a sandbox and finds its group.
func (d driver) probe(t *testing.T, a ask, verb ...string) *box {
	t.Helper()
	b := &box{t: t, id: fmt.Sprintf("box%08x", rand.Uint32())}
	b.cmd = d.start(t, b.id, a, append([]string{"/probe", b.id}, verb...))
	b.begin()
	return b
}

func (b *box) begin() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	b.t.Cleanup(cancel)
	stop := context.AfterFunc(ctx, func() { _ = b.cmd.Process.Kill() })
	b.t.Cleanup(func() { stop() })
	var err error
	if b.in, err = b.cmd.StdinPipe(); err != nil {
		b.t.Fatal(err)
	}
	out, err := b.cmd.StdoutPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	b.out, b.cmd.Stderr = bufio.NewReader(out), &b.errs
	if err := b.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = b.in.Close(); _ = b.cmd.Wait() }) // the probe ends with its input
	if line, err := b.out.ReadString('\n'); line != "READY\n" {
		_ = b.cmd.Wait()
		b.t.Fatalf("the probe did not start: %q, %v: %s", line, err, b.errs.String())
	}
	b.locate()
}

// locate finds the probe by its mark, and its group.
func (b *box) locate() {
	b.t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		b.t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if words := strings.SplitN(string(text), "\x00", 3); err == nil && strings.HasSuffix(words[0], "/probe") && words[1] == b.id {
			text, err := os.ReadFile(filepath.Join(filepath.Dir(file), "cgroup"))
			if err != nil {
				b.t.Fatal(err)
			}
			_, path, ok := strings.Cut(strings.TrimSpace(string(text)), "0::/")
			if !ok || path == "" {
				b.t.Fatalf("the probe is in %q", text)
			}
			b.group = filepath.Join("/sys/fs/cgroup", path)
			_, _ = fmt.Sscanf(file, "/proc/%d/", &b.pid)
			return
		}
	}
	b.t.Fatal("the probe is not found")
}

// file is what a control file says, on one line.
func (b *box) file(name string) string {
	text, err := os.ReadFile(filepath.Join(b.group, name))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text))
}

// key is the number of a key in a control file.
func (b *box) key(file, key string) (n int) {
	for line := range strings.Lines(b.file(file)) {
		if _, err := fmt.Sscanf(line, key+" %d", &n); err == nil {
			return n
		}
	}
	return -1
}

// release lets the probe go.
func (b *box) release() {
	b.t.Helper()
	if _, err := io.WriteString(b.in, "go\n"); err != nil {
		b.t.Fatal(err)
	}
}

// result is how the probe ended.
type result struct {
	code int
	said string
	errs string // the runtime's own words
}

// number is the number that the probe said after a word; -1 when it said something else.
func (r result) number(word string) int {
	n := -1
	_, _ = fmt.Sscanf(r.said, word+" %d", &n)
	return n
}

// end waits for the end, and sees that the group has gone with the sandbox.
func (b *box) end() result {
	b.t.Helper()
	said, _ := io.ReadAll(b.out)
	err := b.cmd.Wait()
	code := b.cmd.ProcessState.ExitCode()
	if s, ok := b.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		b.t.Errorf("the runtime itself was ended: %v", err)
	}
	if _, err := os.Stat(b.group); err == nil {
		b.t.Errorf("the group %s is left", b.group)
	}
	return result{code, strings.TrimSpace(string(said)), b.errs.String()}
}

func (b *box) finish() result {
	b.t.Helper()
	b.release()
	return b.end()
}
