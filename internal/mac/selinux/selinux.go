// Package selinux gives each sandbox a label of its own: a domain of Brig's policy module with two categories that no other
// sandbox of the machine has, so that SELinux keeps two sandboxes apart that run under the same user id.
//
// Its place on the road: package policy chooses the domain, package sandbox asks for the labels before the start and writes them into
// the spec (process.selinuxLabel, linux.mountLabel); package mac makes the write out of the first, package plan the mounts' option out
// of the second. `brig selinux` installs the module.
package selinux

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"
)

// Module is the policy module, in CIL.
//
//go:embed brig.cil
var Module []byte

// ModuleName is its name for semodule(8).
const ModuleName = "brig"

// Domain is a type of the module that a sandbox's processes have.
type Domain string

// The domains.
const (
	Local   Domain = "brig_t"     // no sockets but Unix ones
	Network Domain = "brig_net_t" // TCP, UDP and ping too
)

// Domains are all of them.
var Domains = []Domain{Local, Network}

// Image is the label of a mounted image, which every sandbox may read.
const Image = "system_u:object_r:brig_image_t:s0"

// Shared is the label of a volume with the option z.
const Shared = "system_u:object_r:brig_share_t:s0"

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
func ForPair(domain Domain, n int) (Labels, error) {
	if n < 0 || n >= Pairs {
		return Labels{}, fmt.Errorf("there are %d pairs of SELinux categories, and sandbox number %d needs one of its own", Pairs, n)
	}
	high := 1
	for high*(high+1)/2 <= n {
		high++
	}
	low := n - high*(high-1)/2
	level := fmt.Sprintf("s0:c%d,c%d", low, high)
	return Labels{Process: "system_u:system_r:" + string(domain) + ":" + level, File: "system_u:object_r:brig_file_t:" + level}, nil
}

// FileLabel is the label of the file systems of a sandbox whose processes have a label of Brig's domains.
func FileLabel(process string) (string, bool) {
	parts := strings.SplitN(process, ":", 4)
	if len(parts) < 4 || !slices.Contains(Domains, Domain(parts[2])) {
		return "", false
	}
	return "system_u:object_r:brig_file_t:" + parts[3], true
}
