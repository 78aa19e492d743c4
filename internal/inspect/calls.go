package inspect

import (
	"bytes"
	"fmt"
	"slices"

	"brig/internal/launch"
	"brig/internal/seccomp"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Calls is what the filters in the kernel do with each system call.
type Calls struct {
	// Same: a filter in force is, byte for byte, the one the spec compiles to. Others beside it can only refuse more.
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

// readCalls reads the filters of a process (PTRACE_SECCOMP_GET_FILTER, which needs CAP_SYS_ADMIN and a kernel
// with CONFIG_CHECKPOINT_RESTORE, see ptrace(2)) and says what they do together.
func readCalls(pid int, spec *specs.Spec) (*Calls, error) {
	filters, err := launch.FiltersOf(pid)
	if err != nil {
		return &Calls{Reason: err.Error()}, nil //nolint:nilerr // the report says so
	}
	c := &Calls{}
	if asked := spec.Linux.Seccomp; asked != nil {
		program, err := seccomp.Compile(asked, seccomp.Options{})
		if err != nil {
			return nil, err
		}
		c.Same = slices.ContainsFunc(filters, func(raw []byte) bool { return bytes.Equal(raw, program.Bytes()) })
	}
	c.sort(filters)
	return c, nil
}

// sort puts each call where the filters together leave it: the strictest of them decides (seccomp(2)).
func (c *Calls) sort(filters [][]byte) {
	var names []string
	strictest := map[string]int{}
	for _, raw := range filters {
		for _, call := range seccomp.Summarize(seccomp.FromBytes(raw), seccomp.Native()) {
			at, known := strictest[call.Name]
			if !known {
				names = append(names, call.Name)
			}
			strictest[call.Name] = max(at, strictness(call))
		}
	}
	lists := []*[]string{&c.Allowed, &c.Depends, &c.Refused}
	for _, name := range names {
		list := lists[strictest[name]]
		*list = append(*list, name)
	}
}

// strictness of a filter with a call: 0 allowed, 1 allowed by its arguments, 2 refused.
func strictness(call seccomp.CallSummary) int {
	switch {
	case call.Conditional():
		return 1
	case len(call.Verdicts) == 1 && (call.Verdicts[0].Kind() == seccomp.Allow || call.Verdicts[0].Kind() == seccomp.Log):
		return 0
	}
	return 2
}
