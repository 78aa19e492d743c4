package sandbox

import (
	"fmt"
	"os"
	"slices"

	"brig/internal/annotation"
	"brig/internal/fault"
	"brig/internal/idmap"
	"brig/internal/mac"
	"brig/internal/mac/selinux"
	"brig/internal/plan"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// chooseLabel gives the sandbox SELinux labels of its own, where the policy asks for them and the host has SELinux, and labels the
// volumes that are to have them.
func (v *supervisor) chooseLabel() error {
	spec := v.req.Spec
	relabels := TakeRelabels(spec)
	if file, ok := selinux.FileLabel(spec.Process.SelinuxLabel); ok {
		spec.Linux.MountLabel = file
	}
	wanted, missing, err := LabelWanted(spec)
	if err != nil {
		return err
	}
	if missing != "" {
		v.state.Missing = append(v.state.Missing, plan.MissingLayer{Layer: string(mac.SELinux), Reason: missing})
	}
	if wanted {
		if err := v.ownLabel(); err != nil {
			return err
		}
	}
	if spec.Process.SelinuxLabel == "" || !mac.ReadHost().SELinux {
		return nil // nobody looks at the labels of files here, or no sandbox's processes have one
	}
	return relabel(spec, relabels)
}

// LabelWanted tells whether a sandbox of the spec gets SELinux labels of its own here, and what is missing where it should have labels
// that protect it. On a host that has SELinux and not Brig's module that is an error, unless the spec accepts it.
func LabelWanted(spec *specs.Spec) (wanted bool, missing string, err error) {
	if spec.Annotations[annotation.SELinux] == "" || spec.Process.SelinuxLabel != "" {
		return false, "", nil
	}
	host := mac.ReadHost()
	switch {
	case !host.SELinux:
		return false, "", nil
	case os.Geteuid() != 0:
		return false, "SELinux labels with categories that no other sandbox has are given out by root alone; one can be named with --security-opt label=LABEL", nil
	case !host.Module && host.Enforcing:
		missing = "SELinux is on, but Brig's policy module, which has the domains of sandboxes, is not installed: brig selinux install"
		if !accepts(spec, string(mac.SELinux)) {
			err = &plan.MissingLayerError{Layer: string(mac.SELinux), Reason: missing}
		}
		return false, missing, err
	case !host.Enforcing:
		return host.Module, "SELinux is permissive here, and a label stops nothing: setenforce 1", nil
	}
	return true, "", nil
}

// ownLabel takes a pair of categories. It comes from the sandbox's host ids, of which no two sandboxes of a machine have the same; one
// that has the host's own ids takes some all the same, and leaves them unused.
func (v *supervisor) ownLabel() error {
	ids := v.state.IDs
	if ids == nil {
		r, err := idmap.Allocate(idmap.MachineDir, v.dir)
		if err != nil {
			return fmt.Errorf("categories for SELinux: %w", err)
		}
		v.state.Categories, ids = &r, &r
		fault.Point("categories taken")
	}
	labels, err := Labels(v.req.Spec, *ids)
	if err != nil {
		return err
	}
	v.req.Spec.Process.SelinuxLabel, v.req.Spec.Linux.MountLabel = labels.Process, labels.File
	return nil
}

// Labels are those of a sandbox of the spec that has a range of host ids.
func Labels(spec *specs.Spec, ids idmap.Range) (selinux.Labels, error) {
	return selinux.ForPair(selinux.Domain(spec.Annotations[annotation.SELinux]), int(ids.First/ids.Size))
}

// inherits tells whether the program may have an open file of the caller's. Where SELinux says no, the kernel would put the null device
// in its place, and nobody would be told.
func inherits(spec *specs.Spec, f *os.File) bool {
	label := spec.Process.SelinuxLabel
	if label == "" || !mac.ReadHost().Enforcing {
		return true
	}
	ok, err := selinux.MayInherit(label, f)
	return ok && err == nil
}

// labelPipe gives a pipe to the sandbox a label that it may use.
func (v *supervisor) labelPipe(f *os.File) error {
	spec := v.req.Spec
	if _, own := selinux.FileLabel(spec.Process.SelinuxLabel); !own || !mac.ReadHost().SELinux {
		return nil
	}
	return selinux.SetLabel(f, spec.Linux.MountLabel)
}

// Relabel is a volume whose files get the label of the sandbox, or of all.
type Relabel struct {
	Source string
	Shared bool // the option z; else Z
}

// TakeRelabels takes docker's options z and Z out of the spec's mounts: they are no options of a mount.
func TakeRelabels(spec *specs.Spec) (list []Relabel) {
	for i := range spec.Mounts {
		m := &spec.Mounts[i]
		own, shared := slices.Contains(m.Options, "Z"), slices.Contains(m.Options, "z")
		if m.Type != "bind" || !own && !shared {
			continue
		}
		m.Options = slices.DeleteFunc(m.Options, func(o string) bool { return o == "z" || o == "Z" })
		list = append(list, Relabel{m.Source, !own})
	}
	return list
}

func relabel(spec *specs.Spec, list []Relabel) error {
	for _, r := range list {
		label := selinux.Shared
		if !r.Shared {
			label = spec.Linux.MountLabel
		}
		if label == "" {
			return fmt.Errorf("volume %s: the option Z gives its files the label of the sandbox's, and label=%s is of none of Brig's domains; label the folder with chcon(1)",
				r.Source, spec.Process.SelinuxLabel)
		}
		if err := selinux.Relabel(r.Source, label); err != nil {
			return fmt.Errorf("volume %s: %w", r.Source, err)
		}
	}
	return nil
}
