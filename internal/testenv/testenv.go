// Package testenv is what tests ask about the machine they run on: the one way to skip a test.
//
// Its place on the road: none; only tests import it.
package testenv

import (
	"bufio"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"brig/internal/host"
)

//go:embed skips.txt
var allowed string

// Need is something that a test cannot do without.
type Need struct {
	// Name is the word that skips.txt has.
	Name string
	// Missing says why it is not there, or "".
	Missing func() string
}

// Root is uid 0 with the capabilities to make sandboxes.
var Root = Need{"root", func() string {
	if os.Geteuid() != 0 {
		return "needs root"
	}
	return ""
}}

// Unprivileged is the possibility to become another user, and that user's to have user namespaces.
var Unprivileged = Need{"unprivileged", func() string {
	if os.Geteuid() != 0 {
		return "needs root, to become another user"
	}
	if f := host.UserNamespaces.Check(); f.Outcome != host.Yes {
		return "unprivileged user namespaces: " + f.Detail
	}
	return ""
}}

// Swap is a machine with swap.
var Swap = Need{"swap", func() string {
	if !host.SwapOn() {
		return "the machine has no swap"
	}
	return ""
}}

// AppArmor and SELinux are kernels with these modules on.
var (
	AppArmor = lsm("apparmor")
	SELinux  = lsm("selinux")
)

func lsm(name string) Need {
	return Need{name, func() string {
		data, err := os.ReadFile("/sys/kernel/security/lsm")
		if err == nil && strings.Contains(","+string(data)+",", ","+name+",") {
			return ""
		}
		return "the kernel has no " + name
	}}
}

// Landlock is a kernel whose Landlock has this ABI at least.
func Landlock(least int) Need {
	return Need{"landlock-abi", func() string {
		if abi, _ := host.LandlockABI(); abi < least {
			return fmt.Sprintf("Landlock has ABI %d here, and %d is needed", abi, least)
		}
		return ""
	}}
}

// FUSE is a kernel in which a process can be a file system.
var FUSE = Need{"fuse", func() string {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return err.Error()
	}
	_ = f.Close()
	return ""
}}

// CgroupV2 is a machine with cgroup version 2 alone.
var CgroupV2 = Need{"cgroup-v2", func() string {
	if tree, err := host.Cgroups(); err != nil || !tree.V2() {
		return "cgroup version 2 is not alone here"
	}
	return ""
}}

// UserNamespaces is a kernel that lets this user have one.
var UserNamespaces = Need{"user-namespaces", func() string {
	if f := host.UserNamespaces.Check(); f.Outcome != host.Yes {
		return "user namespaces: " + f.Detail
	}
	return ""
}}

// CgroupV1Devices is a machine with the devices controller of cgroup version 1.
var CgroupV1Devices = Need{"cgroup-v1-devices", func() string {
	if tree, err := host.Cgroups(); err != nil || tree.V2() || !tree.Available("devices") {
		return "the devices controller of cgroup version 1 is not here"
	}
	return ""
}}

// CgroupV2Mounted is a machine with cgroup version 2, alone or beside version 1.
var CgroupV2Mounted = Need{"cgroup-v2-mounted", func() string {
	if tree, err := host.Cgroups(); err != nil || tree.Unified == "" {
		return "cgroup version 2 is not mounted"
	}
	return ""
}}

// AMD64 is a machine whose system calls have x86_64's numbers.
var AMD64 = Need{"amd64", func() string {
	if runtime.GOARCH != "amd64" {
		return "what the test knows are numbers of x86_64"
	}
	return ""
}}

// File is a file of a Debian package.
func File(name, pkg string) Need {
	return Need{pkg, func() string {
		if _, err := os.Stat(name); err != nil {
			return err.Error() + "; it comes with " + pkg
		}
		return ""
	}}
}

// Program is an executable in PATH.
func Program(name string) Need {
	return Need{name, func() string {
		if _, err := exec.LookPath(name); err != nil {
			return err.Error() + "; scripts/setup.sh installs it"
		}
		return ""
	}}
}

// SkipMark is what begins the words of a test that was skipped because the machine lacks something.
const SkipMark = "SKIP "

// Check skips the test when something it needs is missing. With BRIG_TEST_STRICT=1, as in CI, a skip that skips.txt
// does not list is a failure.
func Check(t testing.TB, needs ...Need) {
	t.Helper()
	for _, n := range needs {
		reason := n.Missing()
		if reason == "" {
			continue
		}
		if os.Getenv("BRIG_TEST_STRICT") == "1" && !listed(n.Name) {
			t.Fatalf("%s: %s; this must not be skipped (internal/testenv/skips.txt)", n.Name, reason)
		}
		t.Skipf("%s%s: %s", SkipMark, n.Name, reason)
	}
}

func listed(name string) bool {
	for s := bufio.NewScanner(strings.NewReader(allowed)); s.Scan(); {
		word, _, _ := strings.Cut(s.Text(), " ")
		if word == name {
			return true
		}
	}
	return false
}
