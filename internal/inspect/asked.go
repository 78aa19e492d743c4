package inspect

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"brig/internal/annotation"
	"brig/internal/host"
	"brig/internal/landlock"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Line is one layer and what is said of it.
type Line struct {
	Layer string `json:"layer"`
	Text  string `json:"asked"`
}

// Asked says in a line for each layer what a spec asks for.
func Asked(spec *specs.Spec) []Line {
	a := spec.Annotations
	var kinds []string
	for _, n := range spec.Linux.Namespaces {
		kinds = append(kinds, string(n.Type))
	}
	lines := []Line{
		{"namespaces", strings.Join(kinds, " ")},
		{"ids", describeIDs(spec)},
		{"capabilities", describeCaps(spec)},
		{"no new privileges", fmt.Sprint(spec.Process.NoNewPrivileges)},
		{"seccomp", a[annotation.Seccomp]},
		{"landlock", describeLandlock(a)},
		{"root file system", describeRoot(spec)},
		{"writable", none(strings.Join(writable(spec), " "), "nothing")},
		{"cgroup", describeLimits(spec.Linux.Resources)},
	}
	if m := spec.Process.ApparmorProfile + spec.Process.SelinuxLabel; m != "" {
		lines = append(lines, Line{"access control", m})
	}
	return lines
}

func none(s, instead string) string {
	if s == "" {
		return instead
	}
	return s
}

func describeCaps(spec *specs.Spec) string {
	if c := spec.Process.Capabilities; c != nil && len(c.Bounding) > 0 {
		return strings.Join(c.Bounding, " ")
	}
	return "none, securebits locked"
}

func describeIDs(spec *specs.Spec) string {
	if spec.Annotations[annotation.IDs] == "auto" {
		return "a range of its own; root inside is nobody outside"
	}
	return "the host's"
}

func describeLandlock(a map[string]string) string {
	mode := landlockMode(a)
	if mode == "" {
		return "off"
	}
	abi, _ := host.LandlockABI()
	return mode + ": " + landlock.Describe(abi)
}

// landlockMode is what is asked for, "" for nothing.
func landlockMode(a map[string]string) string {
	if mode := a[annotation.Landlock]; mode != "off" {
		return mode
	}
	return ""
}

func describeRoot(spec *specs.Spec) string {
	what := spec.Root.Path
	if spec.Annotations[annotation.Root] == "ram" {
		what = "the host's programs and nothing else"
	}
	if spec.Root.Readonly {
		return what + ", read-only"
	}
	if kind := spec.Annotations[annotation.RootWritable]; kind != "" {
		size, _ := strconv.ParseUint(spec.Annotations[annotation.RootWritableSize], 10, 64)
		return fmt.Sprintf("%s, untouched, with %s to write over it (%s)", what, Bytes(size), kind)
	}
	return what + ", writable"
}

// writable lists the targets that can be written.
func writable(spec *specs.Spec) []string {
	var list []string
	for _, m := range spec.Mounts {
		ro := slices.Contains(m.Options, "ro") || slices.Contains(m.Options, "rro")
		link := strings.Contains(strings.Join(m.Options, ","), "copy-symlink")
		if (m.Type == "tmpfs" || m.Type == "bind") && !ro && !link && m.Destination != "/dev" {
			list = append(list, m.Destination)
		}
	}
	return list
}

func describeLimits(r *specs.LinuxResources) string {
	var parts []string
	if r == nil {
		return "none"
	}
	if r.Memory != nil && r.Memory.Limit != nil {
		parts = append(parts, "memory "+Bytes(uint64(*r.Memory.Limit))) //nolint:gosec // not negative
		if r.Memory.Swap != nil && *r.Memory.Swap == *r.Memory.Limit {
			parts = append(parts, "no swap")
		}
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		parts = append(parts, fmt.Sprintf("%d processes", *r.Pids.Limit))
	}
	if r.CPU != nil && r.CPU.Quota != nil && r.CPU.Period != nil {
		parts = append(parts, fmt.Sprintf("%.2f cpus", float64(*r.CPU.Quota)/float64(*r.CPU.Period)))
	}
	return none(strings.Join(parts, ", "), "none")
}

// Bytes is a size as a person reads it.
func Bytes(n uint64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, exponent := float64(n)/unit, 0
	for value >= unit && exponent < 4 {
		value /= unit
		exponent++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTP"[exponent])
}
