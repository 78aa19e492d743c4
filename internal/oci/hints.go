package oci

import (
	"errors"
	"fmt"
	"strings"

	"brig/internal/annotation"
	"brig/internal/cgroup"
	"brig/internal/launch"
	"brig/internal/plan"

	"golang.org/x/sys/unix"
)

// hints say what a refusal of the kernel's usually means for a bundle: its own words for an errno are the same whatever it was that
// it did not like. The first one whose call and errno are the step's holds.
var hints = []struct {
	call  string // how the step's system call begins
	errno unix.Errno
	text  string
}{
	{"fsopen(", unix.ENODEV, "this kernel has no such file system"},
	{"fsconfig(", unix.EINVAL, "one of the mount's options is none of this file system's, or has a wrong value"},
	{"setns(", unix.EINVAL, "the file is no namespace of this type"},
	{"setresuid(", unix.EINVAL, "the user namespace maps no such id: linux.uidMappings"},
	{"setresgid(", unix.EINVAL, "the user namespace maps no such id: linux.gidMappings"},
	{"setgroups(", unix.EINVAL, "the user namespace maps no such id: linux.gidMappings"},
	{"capset(", unix.EPERM, "effective and ambient capabilities must be among the permitted ones, and those among the bounding ones"},
}

// explained adds to an error what to do about it, where its own words leave a person of brig-oci with none.
func (a *app) explained(err error) error {
	var step *launch.StepError
	var layer *plan.MissingLayerError
	var limit *cgroup.MissingError
	switch {
	case errors.As(err, &layer):
		return fmt.Errorf("%s: %s; to accept a container without it: the annotation %s=%s", layer.Layer, layer.Reason, annotation.AllowMissing, layer.Layer)
	case errors.As(err, &limit): // no annotation makes brig-oci leave a limit out
		limit.Remedy, _, _ = strings.Cut(limit.Remedy, ", or accept less with ")
	case errors.Is(err, launch.ErrGone):
		return fmt.Errorf("%w: container init was OOM-killed (memory limit too low?)", err) // the last words are runc's
	case errors.As(err, &step):
		for _, h := range hints {
			if step.Errno == h.errno && strings.HasPrefix(step.Call, h.call) {
				return fmt.Errorf("%w: %s", err, h.text)
			}
		}
	}
	return err
}
