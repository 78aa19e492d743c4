package main

import (
	"fmt"
	"path"
	"slices"

	"brig/internal/isolation/gvisor/job"

	"github.com/opencontainers/runtime-spec/specs-go"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/mqfs"
	sentrykernel "gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/runsc/boot"
)

// What a spec asks for and gVisor's kernel can do, but its loader never asks it for, is set here when the mounts are made (see masks).

// score gives a container's first process its place among those that the guest's kernel would kill for memory, which programs read and hand
// on (proc_pid_oom_score_adj(5)). What it counts for on the host is the kernel process's, which has the same.
func score(leader *sentrykernel.Task, spec *specs.Spec) error {
	if spec.Process == nil || spec.Process.OOMScoreAdj == nil {
		return nil
	}
	if err := leader.SetOOMScoreAdj(int32(*spec.Process.OOMScoreAdj)); err != nil { //nolint:gosec // -1000 to 1000, which is checked
		return fmt.Errorf("set oom_score_adj in the guest: %w", err)
	}
	return nil
}

// queues mounts the message queues of a container (mq_overview(7)), which gVisor can and its loader does not: it passes over file systems
// whose name it does not know (runsc/boot, getMountNameAndOptions). They are those of the process that m is for.
func (m *masker) queues(mounts []specs.Mount) error {
	for i := range mounts {
		if mounts[i].Type != mqfs.Name {
			continue
		}
		at := path.Clean(mounts[i].Destination)
		err := m.fs.MakeSyntheticMountpoint(m.ctx, at, m.root, m.creds)
		if err == nil {
			_, err = m.fs.MountAt(m.ctx, m.creds, mqfs.Name, m.at(at), mqfs.Name, boot.ParseMountOptions(mounts[i].Options))
		}
		if err != nil {
			return fmt.Errorf("mount mqueue on %s in the guest: %w", at, err)
		}
	}
	return nil
}

// sealed makes mounts read-only that could not be while others were made in them.
func (m *masker) sealed(mounts []specs.Mount) error {
	for i := range mounts {
		if !slices.Contains(mounts[i].Options, job.SealedLater) {
			continue
		}
		if err := m.readOnly(path.Clean(mounts[i].Destination)); err != nil {
			return fmt.Errorf("make %s read-only in the guest: %w", mounts[i].Destination, err)
		}
	}
	return nil
}
