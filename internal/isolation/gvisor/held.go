package gvisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"brig/internal/isolation/gvisor/job"

	"golang.org/x/sys/unix"
)

// ready waits until a kernel that is held takes calls, and keeps its settings in the sandbox's folder.
func (p *Process) ready(ctx context.Context, dir string) error {
	said, err := p.awaitReady(ctx)
	if err != nil {
		return err
	}
	st, err := p.status.Stat()
	if err != nil {
		return err
	}
	text, err := json.Marshal(&kept{*said, st.Sys().(*syscall.Stat_t).Ino}) //nolint:forcetypeassert // of a file
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, settingsFile), text, 0o600)
}

// awaitReady waits until a kernel has prepared all that calls of its control server rely on.
func (p *Process) awaitReady(ctx context.Context) (*job.Ready, error) {
	stop := context.AfterFunc(ctx, func() { _ = p.status.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var said struct {
		job.Ready
		job.End
	}
	var read bytes.Buffer
	switch err := json.NewDecoder(io.TeeReader(io.LimitReader(p.status, mostSaid), &read)).Decode(&said); {
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil && read.Len() > 0:
		_ = p.Signal(unix.SIGKILL) // should it live
		_ = p.status.SetReadDeadline(time.Now().Add(answerTime))
		rest, _ := io.ReadAll(io.LimitReader(p.status, mostSaid))
		return nil, fmt.Errorf("gVisor's kernel ended before it was ready, and said: %s", strings.Join(words(append(read.Bytes(), rest...)), "\n"))
	case errors.Is(err, io.EOF):
		return nil, &goneError{}
	case err != nil:
		return nil, fmt.Errorf("wait for gVisor's kernel: %w", err)
	case said.Error != "":
		return nil, fmt.Errorf("gVisor's kernel failed: %s", shown(said.Error))
	}
	return &said.Ready, nil
}

// Begin connects the network of a sandbox that was started with Options.Held, and starts its program. dir and id are those it was started
// with, and kernel is its process. The network not before: hooks, and engines between create and start, put devices there.
func Begin(dir, id string, kernel int) error {
	said := Listen(dir, kernel)
	defer said.Close()
	ctx, done := Asked{Kernel: kernel}.Watched(context.Background())
	defer done()
	err := connect(ctx, dir, kernel)
	if err == nil {
		err = call(ctx, dir, "containerManager.StartRoot", id, nil, nil)
	}
	var remote *remoteError
	if errors.As(err, &remote) {
		return programError(remote.text)
	}
	return givenUp(said.explain(err))
}

// Began asks whether the program of a sandbox that was started with Options.Held has been started. A kernel that does not answer is taken to
// serve one.
func Began(dir, id string) bool {
	var processes []json.RawMessage
	err := callSoon(dir, "containerManager.Processes", id, &processes)
	return err != nil || len(processes) > 0
}

const signalMethod = "containerManager.Signal"

// Signal sends a signal to the first program of a sandbox, or to all of them.
func Signal(dir, id string, s unix.Signal, all bool) error {
	args := signalArgs{CID: id, Signo: int32(s)}
	if all {
		args.Mode = 1 // boot.DeliverToAllProcesses
	}
	return callSoon(dir, signalMethod, args, nil)
}
