package gvisor

import (
	"context"
	"errors"
)

// Still has freeze freeze a sandbox's processes while its guest stands still, and lets the guest go on as soon as its kernel does again,
// whoever thaws it. Frozen in the middle of what the two do together, as when gVisor makes a process for a program that begins (a stub, by
// ptrace(2)), the program is killed when it is thawed. dir is the sandbox's folder.
func Still(ctx context.Context, dir string, asked Asked, freeze func(context.Context) error) error {
	if err := asked.Awake(); err != nil {
		return freeze(ctx) // it is in no such middle, or it stays there: and it answers nobody
	}
	watched, done := asked.Watched(ctx)
	err := call(watched, dir, pauseMethod, nil, nil, nil)
	done()
	var stopped *StoppedError
	switch {
	case err == nil, errors.As(err, &stopped) && stopped.PID != asked.Kernel:
		// One that waits for another process which is stopped has begun to have the guest stand still. That may take for ever.
		return errors.Join(freeze(ctx), goOnLater(dir))
	case ctx.Err() != nil: // and so has one that takes too long
		return errors.Join(err, goOnLater(dir))
	}
	return err
}

// goOnLater leaves the kernel the word by which its guest goes on. A kernel that is frozen has it in its queue, and reads it first of all.
func goOnLater(dir string) error {
	c, err := dial(dir)
	if err != nil {
		return err
	}
	return errors.Join(question(c, "containerManager.Resume", nil, nil), c.Close())
}
