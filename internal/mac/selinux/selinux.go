// Package selinux gives each sandbox a label of its own: a domain of Brig's policy module with two categories that no other
// sandbox of the machine has, so that SELinux keeps two sandboxes apart that run under the same user id.
//
// Its place on the road: package sandbox asks for the labels before the start and writes them into the spec
// (process.selinuxLabel, linux.mountLabel); package mac makes the write out of the first, package plan the mounts' option out of
// the second. `brig selinux` installs the module.
package selinux

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Module is the policy module, in CIL.
//
//go:embed brig.cil
var Module []byte

// ModuleName is its name for semodule(8).
const ModuleName = "brig"

// categories are those of the policies for MCS: c0 to c1023.
const categories = 1024

// Pairs is the number of pairs of categories.
const Pairs = categories * (categories - 1) / 2

// Labels are those of one sandbox.
type Labels struct {
	Process string // of its processes
	File    string // of the file systems made for it, and of volumes with the option Z
}

// ForPair gives the labels with the pair number n of the machine's, counted from 0. Two numbers never give the same pair, and a
// set of two is part of no other set of two: neither dominates the other.
func ForPair(n int) (Labels, error) {
	if n < 0 || n >= Pairs {
		return Labels{}, fmt.Errorf("there are %d pairs of SELinux categories, and sandbox number %d needs one of its own", Pairs, n)
	}
	high := 1
	for high*(high+1)/2 <= n {
		high++
	}
	low := n - high*(high-1)/2
	level := fmt.Sprintf("s0:c%d,c%d", low, high)
	return Labels{Process: "system_u:system_r:brig_t:" + level, File: "system_u:object_r:brig_file_t:" + level}, nil
}

// FileLabel is the label of the file systems of a sandbox whose processes have a label of Brig's domain.
func FileLabel(process string) (string, bool) {
	level, ok := strings.CutPrefix(process, "system_u:system_r:brig_t:")
	return "system_u:object_r:brig_file_t:" + level, ok
}

// Known asks the kernel whether the loaded policy has a label: whether Brig's module is installed.
func Known(label string) (bool, error) {
	f, err := os.OpenFile("/sys/fs/selinux/context", os.O_RDWR, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	_, err = f.Write([]byte(label))
	if errors.Is(err, unix.EINVAL) {
		return false, nil
	}
	return err == nil, err
}
