package inspect

import (
	"bytes"
	"fmt"

	"brig/internal/launch"
	"brig/internal/seccomp"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Calls is what the filters in the kernel do with each system call.
type Calls struct {
	// Same: the one filter in force is, byte for byte, the one the spec compiles to.
	Same bool `json:"same_as_spec"`
	// Reason says why the filter could not be read.
	Reason  string   `json:"reason,omitempty"`
	Allowed []string `json:"allowed,omitempty"`
	Depends []string `json:"allowed_by_arguments,omitempty"`
	Refused []string `json:"refused,omitempty"`
}

func (c *Calls) String() string {
	if c.Reason != "" {
		return "not readable: " + c.Reason
	}
	text := fmt.Sprintf("%d calls allowed, %d by their arguments, %d refused", len(c.Allowed), len(c.Depends), len(c.Refused))
	if c.Same {
		return text + "; the very filter that was asked for"
	}
	return text + "; differs from what was asked for"
}

// readCalls reads the youngest filter of a process (PTRACE_SECCOMP_GET_FILTER, which needs CAP_SYS_ADMIN and a kernel
// with CONFIG_CHECKPOINT_RESTORE, see ptrace(2)) and says what it does.
func readCalls(pid int, spec *specs.Spec) (*Calls, error) {
	raw, err := launch.FilterOf(pid)
	if err != nil {
		return &Calls{Reason: err.Error()}, nil //nolint:nilerr // the report says so
	}
	program := seccomp.FromBytes(raw)
	c := &Calls{}
	if spec.Linux.Seccomp != nil {
		asked, err := seccomp.Compile(spec.Linux.Seccomp, seccomp.Options{})
		if err != nil {
			return nil, err
		}
		c.Same = bytes.Equal(asked.Bytes(), raw)
	}
	for _, call := range seccomp.Summarize(program, seccomp.Native()) {
		switch {
		case call.Conditional():
			c.Depends = append(c.Depends, call.Name)
		case len(call.Verdicts) == 1 && (call.Verdicts[0].Kind() == seccomp.Allow || call.Verdicts[0].Kind() == seccomp.Log):
			c.Allowed = append(c.Allowed, call.Name)
		default:
			c.Refused = append(c.Refused, call.Name)
		}
	}
	return c, nil
}
