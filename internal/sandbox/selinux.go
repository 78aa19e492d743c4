package sandbox

import (
	"fmt"
	"os"
	"strings"

	"brig/internal/annotation"
	"brig/internal/mac"
	"brig/internal/mac/selinux"
	"brig/internal/plan"
)

// chooseLabel gives the sandbox SELinux labels of its own, where the policy asks for them. The categories come from its host ids:
// no two sandboxes of a machine have the same.
func (v *supervisor) chooseLabel() error {
	spec := v.req.Spec
	if file, ok := selinux.FileLabel(spec.Process.SelinuxLabel); ok {
		spec.Linux.MountLabel = file
	}
	if spec.Annotations[annotation.SELinux] != "auto" || spec.Process.SelinuxLabel != "" {
		return nil
	}
	labels, missing, err := v.labels()
	if err != nil {
		return err
	}
	if missing != "" {
		if !v.allowed(string(mac.SELinux)) {
			return &plan.MissingLayerError{Layer: string(mac.SELinux), Reason: missing}
		}
		v.state.Missing = append(v.state.Missing, plan.MissingLayer{Layer: string(mac.SELinux), Reason: missing})
		return nil
	}
	spec.Process.SelinuxLabel, spec.Linux.MountLabel = labels.Process, labels.File
	return nil
}

// labels are the sandbox's, or why it can have none.
func (v *supervisor) labels() (labels selinux.Labels, missing string, err error) {
	host := mac.ReadHost()
	switch {
	case !host.SELinux:
		return labels, "this kernel runs without SELinux: enable it", nil
	case !host.Enforcing:
		return labels, "SELinux is permissive here, and a label stops nothing: setenforce 1", nil
	case v.state.IDs == nil:
		return labels, "a label of its own comes with host ids of its own, which this sandbox has not", nil
	}
	own, err := mac.Current(host, os.Getpid())
	if err != nil {
		return labels, "", err
	}
	if _, level, ok := strings.Cut(own.Name, ":s0"); ok && level != "" {
		return labels, fmt.Sprintf("brig itself runs with categories (%s), and a sandbox may use no pipe of such a process: start it with runcon -l s0", own.Name), nil
	}
	labels, err = selinux.ForPair(int(v.state.IDs.First / v.state.IDs.Size))
	if err != nil {
		return labels, "", err
	}
	known, err := selinux.Known(labels.Process)
	if err != nil {
		return labels, "", err
	}
	if !known {
		return labels, "the loaded policy has no domain of Brig's: brig selinux install", nil
	}
	return labels, "", nil
}
