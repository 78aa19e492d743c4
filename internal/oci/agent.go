package oci

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"brig/internal/isolation/native"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// seccompReceiver is crun's annotation, and its environment variable, that name the agent of a profile without listenerPath.
const (
	seccompReceiver    = "run.oci.seccomp.receiver"
	seccompReceiverEnv = "RUN_OCI_SECCOMP_RECEIVER"
)

// nameAgent fills in the agent of a seccomp profile that names none.
func nameAgent(spec *specs.Spec) {
	s := spec.Linux.Seccomp
	if s == nil || s.ListenerPath != "" {
		return
	}
	if s.ListenerPath = spec.Annotations[seccompReceiver]; s.ListenerPath == "" {
		s.ListenerPath = os.Getenv(seccompReceiverEnv)
	}
}

// agent gives what hands the listener of a process' seccomp filter to the agent that the spec names (runtime-spec
// config-linux.md, "Seccomp" and "Container Process State"): one message on a connection of its own.
func (c *container) agent(spec *specs.Spec, status string) func(*native.Process, *os.File) error {
	return func(p *native.Process, listener *os.File) error {
		return c.tellAgent(spec, status, p.PID, listener)
	}
}

// tellAgent closes the listener: from then on the agent alone answers, and when it ends, the kernel does, with ENOSYS
// (seccomp_unotify(2)).
func (c *container) tellAgent(spec *specs.Spec, status string, pid int, listener *os.File) error {
	defer listener.Close() //nolint:errcheck // the agent has its own
	s := spec.Linux.Seccomp
	if !filepath.IsAbs(s.ListenerPath) { // "@name" would be an abstract socket, which anybody in the network namespace can take
		return fmt.Errorf("config.json: linux.seccomp.listenerPath: %q is not an absolute path", s.ListenerPath)
	}
	state := c.ociState(status)
	state.Annotations = spec.Annotations
	if state.Pid == 0 {
		state.Pid = pid
	}
	text, err := json.Marshal(&specs.ContainerProcessState{
		Version: specs.Version, Fds: []string{specs.SeccompFdName}, Pid: pid, Metadata: s.ListenerMetadata, State: *state,
	})
	if err != nil {
		return err
	}
	if err := sendFD(s.ListenerPath, listener, text); err != nil {
		return fmt.Errorf("failed to connect with seccomp agent specified in the seccomp profile, %s: %w", s.ListenerPath, err)
	}
	return nil
}
