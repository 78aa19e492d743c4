package oci

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestSealedWhereItMatters: what a created container's process executes is the runtime. Ids of its own cannot write to that
// file, so it is left as it is; the user's own file is executed from a copy that nobody can write to (CVE-2019-5736).
func TestSealedWhereItMatters(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.ownUsers()
	e.open()
	e.write()
	pidFile := filepath.Join(t.TempDir(), "pid")
	e.want(0, "", "create", "--bundle", e.bundle, "--pid-file", pidFile, "unsealed")
	mapped := e // e is another below, when the clean-up runs
	t.Cleanup(func() { mapped.call("delete", "--force", "unsealed") })
	want := runtime
	if differs(t) {
		want = filepath.Join(filepath.Dir(runtime), "brig-gvisor")
	}
	if exe := executes(t, pidFile); exe != want {
		t.Errorf("it executes %s, want %s", exe, want)
	}

}

// TestUsersOwnFileIsCopied is the other half.
func TestUsersOwnFileIsCopied(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Unprivileged, testenv.Program("setpriv"))
	const user = 23456
	dir := openFolder(t)
	mine := filepath.Join(dir, "brig-oci")
	copyFile(t, runtime, mine)
	if err := os.Chown(mine, user, user); err != nil {
		t.Fatal(err)
	}
	e := newEngine(t)
	e.open()
	e.root = filepath.Join(dir, "state")
	e.spec.Linux.Namespaces = append(e.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	e.ownCgroups()
	e.spec.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: user, Size: 1}}
	e.spec.Linux.GIDMappings, e.spec.Linux.Resources = e.spec.Linux.UIDMappings, nil
	e.write()
	pidFile := filepath.Join(dir, "pid")
	call := func(args ...string) {
		args = append([]string{"--reuid", strconv.Itoa(user), "--regid", strconv.Itoa(user), "--clear-groups", mine, "--root", e.root}, args...)
		cmd := exec.Command("setpriv", args...)
		cmd.Dir = e.bundle
		if out, err := os.CreateTemp(t.TempDir(), "out"); err == nil {
			cmd.Stdout, cmd.Stderr = out, out
			if err := cmd.Run(); err != nil {
				text, _ := os.ReadFile(out.Name())
				t.Errorf("%v: %v: %s", args, err, text)
			}
			out.Close()
		}
	}
	call("create", "--bundle", e.bundle, "--pid-file", pidFile, "copied")
	t.Cleanup(func() { call("delete", "--force", "copied") })
	if exe := executes(t, pidFile); !strings.Contains(exe, "memfd:brig-oci") {
		t.Errorf("it executes %s, want a copy in RAM", exe)
	}
	pid, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile("/proc/"+string(pid)+"/exe", os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt([]byte("#!/evil"), 0)
		f.Close()
	}
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, syscall.ETXTBSY) {
		t.Errorf("writing to it gives %v", err)
	}
}

// TestReadOnlyMountIsSealed: what is executed from a read-only mount needs no other seal, and the file cannot be written to.
func TestReadOnlyMountIsSealed(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.write()
	mine := filepath.Join(t.TempDir(), "brig-oci") // nobody else executes it
	copyFile(t, runtime, mine)
	e.wrap = []string{"unshare", "-m", "--propagation", "private", "sh", "-c", "mount --bind $0 $0 && mount -o remount,bind,ro $0 && shift && exec $0 \"$@\"", mine}
	pidFile := filepath.Join(t.TempDir(), "pid")
	e.want(0, "", "create", "--bundle", e.bundle, "--pid-file", pidFile, "on-read-only")
	t.Cleanup(func() { e.call("delete", "--force", "on-read-only") })
	if exe := executes(t, pidFile); exe != "/" { // the root of the mount, which is the file alone; the overlay would show its name
		t.Errorf("it executes %s, want what is mounted", exe)
	}
	pid, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := unix.Open("/proc/"+string(pid)+"/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(exe)
	e.wrap = nil
	e.want(0, "", "delete", "--force", "on-read-only")
	if _, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", exe), os.O_WRONLY, 0); !errors.Is(err, unix.EROFS) {
		t.Errorf("the runtime's binary opened for writing: %v, want EROFS", err)
	}
}

// executes tells which file the process of a pid file executes.
func executes(t *testing.T, pidFile string) string {
	t.Helper()
	pid, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Readlink("/proc/" + string(pid) + "/exe")
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	r, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, r); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}
