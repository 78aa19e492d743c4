package seccomp

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"brig/internal/testenv"

	"golang.org/x/sys/unix"
)

// The tests here load filters into the kernel. A filter cannot be taken off, so each runs in a process of its own: the
// test binary again, told by the environment what to do.
const (
	childProfile = "BRIG_TEST_SECCOMP_PROFILE"
	childCalls   = "BRIG_TEST_SECCOMP_CALLS"
)

func TestMain(m *testing.M) {
	if name := os.Getenv(childProfile); name != "" {
		child(name)
	}
	if n := os.Getenv(childCount); n != "" {
		measure(n)
	}
	os.Exit(m.Run())
}

// child loads a profile and then makes calls, or executes the program its arguments name.
func child(name string) {
	die := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(99)
	}
	p, err := Profile(name, nil)
	if err != nil {
		die(err)
	}
	f, err := Compile(p, Options{Strict: true})
	if err != nil {
		die(err)
	}
	if err := load(f); err != nil {
		die(err)
	}
	if calls := os.Getenv(childCalls); calls != "" {
		for _, c := range strings.Split(calls, ";") {
			var a [7]uint64
			for i, s := range strings.Fields(c) {
				if a[i], err = strconv.ParseUint(s, 0, 64); err != nil {
					die(err)
				}
			}
			_, _, errno := syscall.RawSyscall6(uintptr(a[0]), uintptr(a[1]), uintptr(a[2]), uintptr(a[3]), uintptr(a[4]), uintptr(a[5]), uintptr(a[6]))
			fmt.Println(int(errno))
		}
		os.Exit(0)
	}
	env := append(os.Environ(), childProfile+"=")
	die(syscall.Exec(os.Args[1], os.Args[1:], env))
}

// load puts the filter over every thread of this process.
func load(f Filter) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	b := f.Bytes()
	prog := struct {
		n uint16
		p *byte
	}{uint16(len(f.Program)), &b[0]}
	_, _, errno := syscall.Syscall(unix.SYS_SECCOMP, 1, uintptr(f.Flags|FlagTSync), uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(b)
	if errno != 0 {
		return fmt.Errorf("loading a filter of %d instructions: %w", len(f.Program), errno)
	}
	return nil
}

// under runs this binary again with the profile loaded.
func under(t *testing.T, profile, calls string, argv ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, argv...)
	cmd.Env = append(os.Environ(), childProfile+"="+profile, childCalls+"="+calls)
	cmd.Dir = t.TempDir()
	return cmd
}

func TestKernelAnswers(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.AMD64)
	const minus1 = "0xffffffffffffffff"
	for _, c := range []struct {
		what, profile, call string
		errno               syscall.Errno
	}{
		{"getpid", Default, "39", 0},
		{"socket unix", Default, "41 1 1 0", 0},
		{"socket tcp with flags", Default, "41 2 0x80801 6", 0},
		{"socket udp6", Default, "41 10 2 17", 0},
		{"socket netlink route", Default, "41 16 3 0", 0},
		{"socket netlink netfilter", Default, "41 16 3 12", syscall.EPERM},
		{"socket raw", Default, "41 2 3 1", syscall.EPERM},
		{"socket packet", Default, "41 17 3 0", syscall.EPERM},
		{"socket vsock", Default, "41 40 1 0", syscall.EPERM},
		{"socket alg", Default, "41 38 5 0", syscall.EPERM},
		{"socket alg, high bits set", Default, "41 0x100000026 5 0", syscall.EPERM},
		{"socket tcp under strict", Strict, "41 2 1 6", syscall.EPERM},
		{"socket vsock, high bits set, compat", Compat, "41 0x100000028 1 0", syscall.EAFNOSUPPORT},
		{"TIOCSTI", Default, "16 0 0x5412 0", syscall.EACCES},
		{"TIOCSTI, high bits set", Default, "16 0 0x100005412 0", syscall.EACCES},
		{"TIOCLINUX", Default, "16 0 0x541c 0", syscall.EACCES},
		{"other ioctl on no descriptor", Default, "16 " + minus1 + " 0x5401 0", syscall.EBADF},
		{"clone with a user namespace", Default, "56 0x10000011 0 0 0 0", syscall.EPERM},
		{"clone3", Default, "435 0 0", syscall.ENOSYS},
		{"openat2", Default, "437 0 0 0 0", syscall.ENOSYS},
		{"io_uring_setup", Default, "425 1 0", syscall.ENOSYS},
		{"unshare", Default, "272 0x10000000", syscall.EPERM},
		{"setns", Default, "308 0 0", syscall.EPERM},
		{"mount", Default, "165 0 0 0 0 0", syscall.EPERM},
		{"bpf", Default, "321 0 0 0", syscall.EPERM},
		{"ptrace", Default, "101 0 0 0 0", syscall.EPERM},
		{"keyctl", Default, "250 0 0 0 0 0", syscall.EPERM},
		{"personality, layout", Default, "135 0x40000", syscall.EPERM},
		{"personality, asking", Default, "135 0xffffffff", 0},
		{"a setuid file", Default, "91 " + minus1 + " 04755", syscall.EPERM},
		{"an ordinary mode", Default, "91 " + minus1 + " 0755", syscall.EBADF},
		{"a call from the future", Default, "2000", syscall.ENOSYS},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			cmd := under(t, c.profile, c.call)
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.TrimSpace(string(out)); got != strconv.Itoa(int(c.errno)) {
				t.Errorf("errno %s, want %d (%v)", got, int(c.errno), c.errno)
			}
		})
	}
}

// TestForeignNumbersKill enters by the x32 numbers.
func TestForeignNumbersKill(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.AMD64)
	err := under(t, Default, "0x40000027").Run()
	var exit *exec.ExitError
	errors.As(err, &exit)
	if exit == nil || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGSYS {
		t.Errorf("getpid by its x32 number: %v, want death by SIGSYS", err)
	}
}

// TestRealPrograms runs programs unchanged under the built-in profiles.
func TestRealPrograms(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		program, script, want string
		strict                bool
	}{
		{"python3", `import subprocess,threading,tempfile
r=[]
t=[threading.Thread(target=lambda: r.append(subprocess.check_output(["echo","x"]))) for _ in range(4)]
[x.start() for x in t]; [x.join() for x in t]
tempfile.NamedTemporaryFile().write(b"y")
print(len(r))`, "4", true},
		{"perl", `my $x = qx(echo perl); print $x`, "perl", true},
		{"node", `console.log(require("child_process").execSync("echo node").toString().trim())`, "node", false},
		{"bash", `for i in 1 2 3; do (echo $i); done | tail -n 1`, "3", true},
		{"busybox", `sh -c 'mkdir d && echo hello > d/f && tar cf d.tar d && rm -r d && tar xf d.tar && cat d/f'`, "hello", true},
		{"tar", ``, "", true},
		{"gcc", `int main(void) { return 0; }`, "", true},
		{"git", ``, "", false},
		{"go", "package main\nfunc main() { println(1) }\n", "", false},
	} {
		path, _ := exec.LookPath(c.program) // Check below says what is wrong
		profiles := []string{Default, Compat}
		if c.strict {
			profiles = append(profiles, Strict)
		}
		for _, profile := range profiles {
			t.Run(c.program+" under "+profile, func(t *testing.T) {
				t.Parallel()
				testenv.Check(t, testenv.Program(c.program))
				argv := []string{path, "-c", c.script}
				switch c.program {
				case "perl", "node":
					argv[1] = "-e"
				case "busybox":
					argv = []string{path, "sh", "-c", c.script}
				}
				dir := t.TempDir()
				switch c.program {
				case "gcc", "go":
					source := filepath.Join(dir, "main."+map[string]string{"gcc": "c", "go": "go"}[c.program])
					if err := os.WriteFile(source, []byte(c.script), 0o600); err != nil {
						t.Fatal(err)
					}
					argv = []string{path, "-o", filepath.Join(dir, "out"), source}
					if c.program == "go" {
						argv = []string{path, "build", "-o", filepath.Join(dir, "out"), source}
					}
				case "git":
					argv = []string{path, "init", "-q", dir}
				case "tar":
					argv = []string{path, "cJf", filepath.Join(t.TempDir(), "x.tar.xz"), "-C", dir, "."}
				}
				out, err := under(t, profile, "", argv...).CombinedOutput()
				if got := strings.TrimSpace(string(out)); err != nil || got != c.want {
					t.Errorf("%v, output %q, want %q", err, got, c.want)
				}
			})
		}
	}
}
