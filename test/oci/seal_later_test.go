package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestSealedForHooks: a startContainer hook is a program of the container's, executed by `start`. One that is a link to
// /proc/self/exe executes the runtime, and must no more get its file than the container's own program may (CVE-2019-5736).
func TestSealedForHooks(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	mine := filepath.Join(t.TempDir(), "brig-oci") // nobody else executes it
	copyFile(t, runtime, mine)
	e.wrap = []string{"sh", "-c", "shift && exec $0 \"$@\"", mine}
	rootfs := filepath.Join(e.bundle, "rootfs")
	if err := errors.Join(os.Symlink("/proc/self/exe", filepath.Join(rootfs, "bin/hook")), unix.Mkfifo(filepath.Join(rootfs, "fifo"), 0o600)); err != nil {
		t.Fatal(err)
	}
	// It stands still while it opens its log, until somebody reads there.
	e.spec.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/hook", Args: []string{"hook", "--log", "/fifo", "list"}}}}
	e.spec.Process.Args = []string{"sleep", "1000"}
	e.write()
	e.want(0, "", "create", "--bundle", e.bundle, "hooked")
	t.Cleanup(func() { e.call("delete", "--force", "hooked") })
	started := make(chan string, 1)
	go func() {
		out, _ := e.call("start", "hooked")
		started <- out
	}()
	hook := e.second("hooked")
	exe, err := unix.Open(fmt.Sprintf("/proc/%d/exe", hook), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(exe)
	log, err := os.OpenFile(filepath.Join(rootfs, "fifo"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	t.Log(<-started)
	e.want(0, "", "delete", "--force", "hooked")
	if f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", exe), os.O_WRONLY, 0); !errors.Is(err, unix.EROFS) {
		t.Errorf("the runtime's binary that a hook executed, opened for writing: %v, want EROFS", err)
		_ = f.Close()
	}
}

// second waits for another process than the first in a container, which has executed the runtime.
func (e *engine) second(id string) int {
	e.t.Helper()
	for deadline := time.Now().Add(testenv.Patience(30 * time.Second)); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		out, code := e.call("ps", "--format", "json", id)
		var pids []int
		if code != 0 || json.Unmarshal([]byte(out), &pids) != nil {
			continue
		}
		for _, pid := range pids {
			line, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
			if strings.HasPrefix(string(line), "hook\x00") {
				return pid
			}
		}
	}
	e.t.Fatal("no second process came")
	return 0
}

// TestSealedForMounts: so is the process that `mounts` has in the container's namespaces, where root may look at it with
// CAP_SYS_PTRACE.
func TestSealedForMounts(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.spec.Process.Args = []string{"sleep", "1000"}
	e.write()
	e.want(0, "", "run", "--bundle", e.bundle, "--detach", "sealed-mounts")
	t.Cleanup(func() { e.call("delete", "--force", "sealed-mounts") })
	list := filepath.Join(t.TempDir(), "mounts.json")
	if err := os.WriteFile(list, []byte(`[{"destination":"/tmp","type":"tmpfs","source":"tmpfs"}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	e.want(0, "exeseal", "--debug", "mounts", "add", "sealed-mounts", list)
}

// TestForgedSeal: the variable alone is no seal.
func TestForgedSeal(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.wrap = []string{"env", "_BRIG_OCI_SEALED=1"}
	e.write()
	e.want(1, "is not sealed", "run", "--bundle", e.bundle, "forged")
}
