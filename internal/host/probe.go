package host

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// Outcome is what a probe found.
type Outcome uint8

// The outcomes. The zero value is Unknown, so that nothing reads as present by accident.
const (
	Unknown Outcome = iota
	No
	Yes
)

func (o Outcome) String() string { return [...]string{"unknown", "no", "yes"}[o] }

// MarshalText makes JSON show the word.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// Finding is an outcome with the reason, or with the level that a yes reaches.
type Finding struct {
	Outcome Outcome `json:"outcome"`
	Detail  string  `json:"detail,omitempty"`
}

func yes(format string, a ...any) Finding { return Finding{Yes, fmt.Sprintf(format, a...)} }
func no(format string, a ...any) Finding  { return Finding{No, fmt.Sprintf(format, a...)} }
func unknown(format string, a ...any) Finding {
	return Finding{Unknown, fmt.Sprintf(format, a...)}
}

// Feature is a named probe.
type Feature struct {
	Name string
	// Since is the kernel version that brought it, as people know it; for the text of a no.
	Since string

	mu    sync.Mutex // guards found
	found Finding
	probe func() Finding
}

// Check runs the probe, or gives what it found before. An unknown is not remembered.
func (f *Feature) Check() Finding {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.found.Outcome == Unknown {
		f.found = f.probe()
	}
	return f.found
}

// syscallFinding reads the errno of a call that was made so that it must fail: any answer but ENOSYS comes from an
// implementation. EPERM may come from a seccomp filter around us as well as from the call.
func syscallFinding(err error, expect ...unix.Errno) Finding {
	var errno unix.Errno
	if err == nil || !errors.As(err, &errno) {
		return yes("")
	}
	for _, e := range expect {
		if errno == e {
			return yes("")
		}
	}
	switch errno {
	case unix.ENOSYS:
		return no("the kernel lacks the system call")
	case unix.EPERM, unix.EACCES:
		return unknown("refused: %v; a seccomp filter around Brig, or missing privilege", errno)
	}
	return unknown("unexpected: %v", errno)
}
