package gvisor

import (
	"encoding/json"
	"errors"
	"fmt"

	"brig/internal/isolation/gvisor/job"

	"golang.org/x/sys/unix"
)

// ready waits until a kernel that is held takes calls.
func (p *Process) ready() error {
	var said struct {
		job.Ready
		job.End
	}
	switch err := json.NewDecoder(p.status).Decode(&said); {
	case err != nil:
		return fmt.Errorf("gVisor's kernel ended before it was ready: %w", err)
	case said.Error != "":
		return fmt.Errorf("gVisor's kernel failed: %s", said.Error)
	}
	return nil
}

// Begin starts the program of a sandbox that was started with Options.Held. dir and id are those it was started with.
func Begin(dir, id string) error {
	err := call(dir, "containerManager.StartRoot", id, nil, nil)
	var remote *remoteError
	if errors.As(err, &remote) {
		return programError(remote.text)
	}
	return err
}

// Signal sends a signal to the first program of a sandbox, or to all of them.
func Signal(dir, id string, s unix.Signal, all bool) error {
	args := signalArgs{CID: id, Signo: int32(s)}
	if all {
		args.Mode = 1 // boot.DeliverToAllProcesses
	}
	return call(dir, "containerManager.Signal", args, nil, nil)
}
