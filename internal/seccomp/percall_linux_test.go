package seccomp

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What a filter costs each system call, measured in the kernel. Since Linux 5.11 a call that is allowed whatever its
// arguments passes by a bitmap and never reaches the filter (seccomp_cache_check_allow in kernel/seccomp.c), so besides
// such a call two are measured that do reach it: one whose arguments are looked at, and one that is refused.

// The child, told by its environment: which filter to load, which call to make how often.
const (
	childFilter = "BRIG_TEST_SECCOMP_FILTER"
	childCall   = "BRIG_TEST_SECCOMP_CALL"
	childCount  = "BRIG_TEST_SECCOMP_COUNT"
)

// measured are calls that do next to nothing in the kernel.
var measured = []struct {
	name string
	nr   uintptr
	args [3]uintptr
}{
	{"always-allowed", unix.SYS_GETPPID, [3]uintptr{}},
	{"by-argument", unix.SYS_IOCTL, [3]uintptr{^uintptr(0), 0x5401}}, // EBADF
	{"refused", unix.SYS_UNSHARE, [3]uintptr{0}},                     // does nothing where it is allowed
}

// measure loads the filter and prints how long the calls took, in nanoseconds.
func measure(count string) {
	die := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(99)
	}
	n, err := strconv.Atoi(count)
	if err != nil {
		die(err)
	}
	if file := os.Getenv(childFilter); file != "" {
		raw, err := os.ReadFile(file)
		if err != nil {
			die(err)
		}
		if err := load(Filter{Program: FromBytes(raw)}); err != nil {
			die(err)
		}
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
		fmt.Println(time.Since(start).Nanoseconds())
	}
	os.Exit(0)
}

// perCall runs b.N calls under a filter, or under none, in a process of their own.
func perCall(b *testing.B, call string, filter []byte) {
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childCall+"="+call, childCount+"="+strconv.Itoa(b.N), childFilter+"=")
	if filter != nil {
		file := b.TempDir() + "/filter"
		if err := os.WriteFile(file, filter, 0o600); err != nil {
			b.Fatal(err)
		}
		cmd.Env[len(cmd.Env)-1] += file
	}
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

// BenchmarkPerCall is the real cost of a call under each built-in profile; judge has libseccomp's beside it.
func BenchmarkPerCall(b *testing.B) {
	for _, c := range measured {
		b.Run(c.name+"/none", func(b *testing.B) { perCall(b, c.name, nil) })
		for _, name := range []string{Default, Strict, Compat} {
			p, err := Profile(name, nil)
			if err != nil {
				b.Fatal(err)
			}
			f, err := Compile(p, Options{})
			if err != nil {
				b.Fatal(err)
			}
			b.Run(c.name+"/"+name, func(b *testing.B) { perCall(b, c.name, f.Bytes()) })
		}
	}
}
