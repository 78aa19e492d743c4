package layers

import (
	"errors"
	"fmt"
)

// EntryError is an entry of a layer that is refused, for what it is or for a limit. Which layer it was is the caller's to add.
type EntryError struct {
	Entry  string // its name, as the archive has it
	Reason error
}

func (e *EntryError) Error() string { return fmt.Sprintf("entry %s: %v", quote(e.Entry), e.Reason) }
func (e *EntryError) Unwrap() error { return e.Reason }

// refusal is the reason of an EntryError to be.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

func refuse(format string, args ...any) error { return refusal{fmt.Errorf(format, args...)} }

// LimitError is a limit of [Limits] that a layer goes beyond.
type LimitError struct {
	Limit string // the name of the field
	Max   int64
	What  string // what there is too much of
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("%s: the limit %s is %d", e.What, e.Limit, e.Max)
}

// named adds the entry's name to what went wrong with it. What is no fault of the entry, such as a full disk, is no EntryError.
func named(entry string, err error) error {
	var refused refusal
	var limit *LimitError
	if errors.As(err, &refused) || errors.As(err, &limit) {
		return &EntryError{Entry: entry, Reason: err}
	}
	return fmt.Errorf("entry %s: %w", quote(entry), err)
}

// quote shows a name of a stranger's choosing: escaped, and its beginning only when it is long.
func quote(name string) string {
	const shown = 200
	if len(name) > shown {
		return fmt.Sprintf("%q… (%d bytes)", name[:shown], len(name))
	}
	return fmt.Sprintf("%q", name)
}
