//go:build cgo && libseccomp

package judge

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"brig/internal/seccomp"
)

// The child, told by its environment: which filter to load, which call to make how often.
const (
	childFilter = "BRIG_TEST_JUDGE_FILTER"
	childCall   = "BRIG_TEST_JUDGE_CALL"
	childCount  = "BRIG_TEST_JUDGE_COUNT"
)

// measured are the calls of package seccomp's benchmark of the same name.
var measured = []struct {
	name string
	nr   uintptr
	args [3]uintptr
}{
	{"always-allowed", unix.SYS_GETPPID, [3]uintptr{}},
	{"by-argument", unix.SYS_IOCTL, [3]uintptr{^uintptr(0), 0x5401}},
	{"refused", unix.SYS_UNSHARE, [3]uintptr{0}},
}

func TestMain(m *testing.M) {
	if n := os.Getenv(childCount); n != "" {
		ns, err := measure(n)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(99)
		}
		fmt.Println(ns)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func measure(count string) (int64, error) {
	n, err := strconv.Atoi(count)
	if err != nil {
		return 0, err
	}
	raw, err := os.ReadFile(os.Getenv(childFilter))
	if err != nil {
		return 0, err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, err
	}
	prog := struct {
		n uint16
		p *byte
	}{uint16(len(raw) / 8), &raw[0]}
	_, _, errno := syscall.Syscall(unix.SYS_SECCOMP, 1, uintptr(seccomp.FlagTSync), uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(raw)
	if errno != 0 {
		return 0, errno
	}
	for _, c := range measured {
		if c.name != os.Getenv(childCall) {
			continue
		}
		for range 1000 { // warm
			_, _, _ = syscall.RawSyscall(c.nr, c.args[0], c.args[1], c.args[2])
		}
		start := time.Now()
		for range n {
			_, _, _ = syscall.RawSyscall(c.nr, c.args[0], c.args[1], c.args[2])
		}
		return time.Since(start).Nanoseconds(), nil
	}
	return 0, fmt.Errorf("no such call")
}

// BenchmarkPerCall sets Brig's program of each profile beside libseccomp's two: its default, and the binary tree of its
// optimization level 2.
func BenchmarkPerCall(b *testing.B) {
	for _, c := range measured {
		for _, name := range []string{seccomp.Default, seccomp.Strict, seccomp.Compat} {
			p, err := seccomp.Profile(name, nil)
			if err != nil {
				b.Fatal(err)
			}
			p.Architectures = p.Architectures[:1] // libseccomp's programs here are for one
			ours, err := seccomp.Compile(p, seccomp.Options{})
			if err != nil {
				b.Fatal(err)
			}
			plain, ok := theirs(b, p, p.Architectures[0], false)
			tree, ok2 := theirs(b, p, p.Architectures[0], true)
			if !ok || !ok2 {
				b.Fatalf("libseccomp refuses the profile %s", name)
			}
			for _, f := range []struct {
				by     string
				filter seccomp.Filter
			}{{"brig", ours}, {"libseccomp", seccomp.Filter{Program: plain}}, {"libseccomp-tree", seccomp.Filter{Program: tree}}} {
				b.Run(c.name+"/"+name+"/"+f.by, func(b *testing.B) { perCall(b, c.name, f.filter.Bytes()) })
			}
		}
	}
}

func perCall(b *testing.B, call string, filter []byte) {
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	file := b.TempDir() + "/filter"
	if err := os.WriteFile(file, filter, 0o600); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childFilter+"="+file, childCall+"="+call, childCount+"="+strconv.Itoa(b.N))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		b.Fatal(err)
	}
	ns, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(ns)/float64(b.N), "ns/call")
	b.ReportMetric(0, "ns/op") // has the start of the process in it
}
