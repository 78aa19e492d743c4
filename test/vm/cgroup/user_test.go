//go:build vm

package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"brig/internal/testenv"
)

// manager is a user whose systemd runs.
const manager = 1001

// asManager has that user run a command.
func asManager(t *testing.T, args ...string) string {
	t.Helper()
	id := fmt.Sprint(manager)
	argv := append([]string{"--reuid", id, "--regid", id, "--clear-groups", "env", "-i", "PATH=" + os.Getenv("PATH"), "HOME=/home/brig-manager", "XDG_RUNTIME_DIR=/run/user/" + id}, args...)
	out, err := exec.Command("setpriv", argv...).CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestUsersSystemd: a sandbox that a user starts as a unit of the user's own systemd has its limits, and keeps them when that systemd
// turns off what no unit needs.
func TestUsersSystemd(t *testing.T) {
	testenv.Check(t, needSystemd)
	user, unit := fmt.Sprintf("user@%d.service", manager), "brig-vm-unit"
	if out, err := exec.Command("useradd", "--create-home", "--uid", fmt.Sprint(manager), "brig-manager").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	systemctl(t, "start", user)
	t.Cleanup(func() {
		systemctl(t, "stop", user)
		if out, err := exec.Command("userdel", "--remove", "brig-manager").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	slice := filepath.Join("/sys/fs/cgroup/user.slice", fmt.Sprintf("user-%d.slice", manager), user, "app.slice")
	// settle has the user's systemd write anew what it turns on below the slice.
	settle := func() {
		t.Helper()
		asManager(t, "systemctl", "--user", "daemon-reload")
		asManager(t, "systemd-run", "--user", "--scope", "--quiet", "true")
	}
	settle()
	control := filepath.Join(slice, "control")
	asManager(t, "sh", "-c", "echo +cpu >"+slice+"/cgroup.subtree_control; mkdir "+control+"; echo 50000 100000 >"+control+"/cpu.max")
	settle()
	if _, err := os.Stat(control + "/cpu.max"); !os.IsNotExist(err) {
		t.Errorf("the control, a group right below the slice, has kept its limit: %v", err)
	}
	if err := os.Remove(control); err != nil {
		t.Error(err)
	}

	asManager(t, "systemd-run", "--user", "--quiet", "--unit", unit, bench.brig, "run", "--name", "users", "-m", "32m", "--cpus", "0.5", "--pids-limit", "33", "--", "sleep", "1000")
	var group string
	for deadline := time.Now().Add(patience); group == ""; time.Sleep(20 * time.Millisecond) {
		groups, err := filepath.Glob(slice + "/brig/*/cgroup.procs")
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("no sandbox in %s (%v): %s", slice, err, asManager(t, "systemctl", "--user", "status", unit))
		}
		for _, g := range groups {
			if procs, err := os.ReadFile(g); err == nil && len(procs) > 0 {
				group = filepath.Dir(g)
			}
		}
	}
	check := func(when string) {
		t.Helper()
		for file, want := range map[string]string{"memory.max": "33554432", "cpu.max": "50000 100000", "pids.max": "33", "memory.oom.group": "1"} {
			if got, err := os.ReadFile(filepath.Join(group, file)); err != nil || strings.TrimSpace(string(got)) != want {
				t.Errorf("%s %s says %q, want %q (%v)", when, file, got, want, err)
			}
		}
	}
	check("at first")
	settle()
	check("after the user's systemd has written its own anew")
	asManager(t, "systemctl", "--user", "stop", unit)
	for _, left := range []string{group, filepath.Dir(group)} {
		if _, err := os.Stat(left); !os.IsNotExist(err) {
			t.Errorf("left behind: %s (%v)", left, err)
		}
	}
	testenv.Layer(t, "cgroup of a user's systemd", testenv.Enforced, "brig run as a unit of the user's: memory.max, cpu.max and pids.max are in force, also after that systemd turned off what no unit needs, which takes them from a group right below its slice")
}
