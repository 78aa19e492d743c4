package imagecli

import "context"

// unlessStopped does something that cannot be told to stop: it waits for the lock of another command, or reads the whole store. When the
// command is to end it goes on for as long as the process is there; the store may be left at any instruction.
func unlessStopped(ctx context.Context, do func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
