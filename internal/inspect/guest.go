package inspect

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"brig/internal/annotation"
	"brig/internal/isolation/gvisor"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// onGVisor gives the spec of the process that serves the sandbox's program, which is what the host's kernel knows; and what gVisor's own kernel was
// told to keep for the program, which the host's cannot tell. For a sandbox on the host's kernel that is the spec itself, and nothing.
func onGVisor(spec *specs.Spec) (host *specs.Spec, guest []Line) {
	if spec.Annotations[annotation.Isolation] != "gvisor" {
		return spec, nil
	}
	guest = slices.DeleteFunc(Asked(spec), func(l Line) bool {
		return !slices.Contains([]string{"capabilities", "no new privileges", "seccomp"}, l.Layer)
	})
	if r := spec.Linux.Resources; r != nil && r.Pids != nil && r.Pids.Limit != nil && *r.Pids.Limit > 0 {
		guest = append(guest, Line{"processes", fmt.Sprintf("%d", *r.Pids.Limit)})
	}
	if text := describeMasks(spec); text != "" {
		guest = append(guest, Line{"proc and sys", text})
	}
	host = gvisor.KernelSpec(spec)
	host.Annotations = maps.Clone(host.Annotations)
	host.Annotations[annotation.Seccomp] = "for gVisor's kernel"
	return host, guest
}

// describeMasks is what is covered in the guest's /proc and /sys, and elsewhere.
func describeMasks(spec *specs.Spec) string {
	var words []string
	for _, m := range spec.Mounts {
		if m.Type == "proc" && slices.Contains(m.Options, "subset=pid") {
			words = append(words, "processes alone")
		}
	}
	if hidden, sealed := len(spec.Linux.MaskedPaths), len(spec.Linux.ReadonlyPaths); hidden+sealed > 0 {
		words = append(words, fmt.Sprintf("%d paths hidden, %d read-only", hidden, sealed))
	}
	return strings.Join(words, ", ")
}
