package main

import (
	"fmt"
	"path"

	"github.com/opencontainers/runtime-spec/specs-go"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/mqfs"
	"gvisor.dev/gvisor/runsc/boot"
)

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
