package seccomp

import (
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Options says for whom a profile is compiled.
type Options struct {
	// Native is the architecture of the machine; empty means this program's own.
	Native specs.Arch

	// Strict refuses what a bundle of an engine is forgiven: names that are no system call anywhere, architectures
	// without a table, and rules that can never take effect. It is for profiles a person wrote for Brig.
	Strict bool
}

// UnknownCallError is a name in a profile that is no system call of any architecture.
type UnknownCallError struct {
	Name    string
	Nearest string // the known name most like it, "" when none is
}

func (e *UnknownCallError) Error() string {
	if e.Nearest == "" {
		return fmt.Sprintf("seccomp: unknown system call %q: remove it from the profile", e.Name)
	}
	return fmt.Sprintf("seccomp: unknown system call %q: did you mean %q?", e.Name, e.Nearest)
}

// TooLongError is a profile whose program passes the kernel's limit.
type TooLongError struct{ Instructions int }

func (e *TooLongError) Error() string {
	return fmt.Sprintf("seccomp: the profile compiles to %d instructions or more; the kernel takes %d: use fewer architectures or fewer argument conditions",
		e.Instructions, MaxInstructions)
}

// rule is one entry of a profile, or a part of one: an action under conditions that must all hold.
type rule struct {
	action Action
	conds  []cond // at most one an argument; empty: always
	entry  int    // index in the profile's syscalls, for messages
}

// Compile turns a profile into a filter. It is pure: no system call, and the same profile gives the same program.
//
// How rules on one system call combine follows libseccomp as runc drives it; package documentation has the list.
func Compile(p *specs.LinuxSeccomp, o Options) (Filter, error) {
	if o.Native == "" {
		o.Native = Native()
	}
	def, err := parseAction(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		return Filter{}, fmt.Errorf("seccomp: defaultAction: %w", err)
	}
	if def.Kind() == Notify {
		return Filter{}, errors.New("seccomp: SCMP_ACT_NOTIFY cannot be the default action: the calls that hand the listener over would wait for it")
	}
	flags, err := parseFlags(p.Flags)
	if err != nil {
		return Filter{}, err
	}
	if p.ListenerMetadata != "" && p.ListenerPath == "" {
		return Filter{}, errors.New("seccomp: listenerMetadata is set without listenerPath")
	}
	as, err := resolveArchs(p.Architectures, o.Native, o.Strict)
	if err != nil {
		return Filter{}, err
	}
	r, err := resolve(p, def, as, o.Strict)
	if err != nil {
		return Filter{}, err
	}
	if r.notify {
		if p.ListenerPath == "" {
			return Filter{}, errors.New("seccomp: a rule uses SCMP_ACT_NOTIFY, but listenerPath names no agent")
		}
		flags |= FlagNewListener
	} else {
		flags &^= FlagWaitKillableRecv // the kernel refuses it without a listener
	}
	program, err := generate(r, as, def)
	if err != nil {
		return Filter{}, err
	}
	return Filter{Program: program, Flags: flags, Notify: r.notify, Unknown: r.unknown}, nil
}

// resolved is a profile with names turned into numbers.
type resolved struct {
	rules   []rule
	calls   [][]uint64 // for each architecture, number<<32 | rule index, sorted
	largest []int64    // for each architecture, the largest number any entry names; -1: none
	notify  bool
	unknown []string
}

// resolve reads every entry of the profile.
func resolve(p *specs.LinuxSeccomp, def Action, as []*arch, strict bool) (*resolved, error) {
	r := &resolved{calls: make([][]uint64, len(as)), largest: make([]int64, len(as))}
	for i := range as {
		r.largest[i] = -1
		r.calls[i] = make([]uint64, 0, 512)
	}
	for n := range p.Syscalls {
		if err := r.entry(n, &p.Syscalls[n], def, as, strict); err != nil {
			return nil, err
		}
	}
	for i := range r.calls {
		slices.Sort(r.calls[i])
	}
	if strict {
		return r, r.contradictions(as)
	}
	return r, nil
}

// entry reads one element of syscalls.
func (r *resolved) entry(n int, e *specs.LinuxSyscall, def Action, as []*arch, strict bool) error {
	if len(e.Names) == 0 {
		return fmt.Errorf("seccomp: syscalls[%d] names no system call", n)
	}
	action, err := parseAction(e.Action, e.ErrnoRet)
	if err != nil {
		return fmt.Errorf("seccomp: syscalls[%d] (%s): %w", n, e.Names[0], err)
	}
	conds, alternatives, err := parseArgs(e.Args)
	if err != nil {
		return fmt.Errorf("seccomp: syscalls[%d] (%s): %w", n, e.Names[0], err)
	}
	first := len(r.rules)
	if action != def { // runc drops a rule that repeats the default, and so does this
		r.notify = r.notify || action.Kind() == Notify
		if alternatives {
			for _, c := range conds {
				r.rules = append(r.rules, rule{action, []cond{c}, n})
			}
		} else {
			r.rules = append(r.rules, rule{action, conds, n})
		}
	}
	last := len(r.rules)
	for _, name := range e.Names {
		i := callIndex(name)
		if i < 0 {
			if strict {
				return &UnknownCallError{name, nearest(name)}
			}
			r.unknown = append(r.unknown, name)
			continue
		}
		for k, a := range as {
			if nr := callNumbers[a.column][i]; nr >= 0 {
				r.largest[k] = max(r.largest[k], int64(nr))
				for id := first; id < last; id++ {
					r.calls[k] = append(r.calls[k], uint64(nr)<<32|uint64(id))
				}
			}
			if m := muxOf(a, name); m.nr >= 0 && first < last {
				r.largest[k] = max(r.largest[k], int64(m.nr))
				if len(conds) > 0 && action.rank() >= def.rank() {
					continue // arguments lie behind a pointer: cannot be checked, so not opened
				}
				r.rules = append(r.rules, rule{action, []cond{{op: cmpMasked, arg: 0, mask: m.mask, value: uint64(m.call)}}, n})
				r.calls[k] = append(r.calls[k], uint64(m.nr)<<32|uint64(len(r.rules)-1))
			}
		}
	}
	return nil
}

// contradictions finds rules that can never take effect because another entry answers the call first.
func (r *resolved) contradictions(as []*arch) error {
	for k, a := range as {
		for calls := r.calls[k]; len(calls) > 0; {
			n := sameCall(calls)
			always := -1
			for _, c := range calls[:n] {
				if id := int(uint32(c)); len(r.rules[id].conds) == 0 && always < 0 {
					always = id
				}
			}
			for _, c := range calls[:n] {
				if id := int(uint32(c)); always >= 0 && r.rules[id].action != r.rules[always].action {
					return fmt.Errorf("seccomp: syscalls[%d] says %q for %s, but syscalls[%d] says %q for it without conditions, which is what holds: remove one of the two",
						r.rules[id].entry, r.rules[id].action, a.callName(uint32(calls[0]>>32)), r.rules[always].entry, r.rules[always].action)
				}
			}
			calls = calls[n:]
		}
	}
	return nil
}

// sameCall counts the entries at the head of calls that have its first number.
func sameCall(calls []uint64) int {
	n := 1
	for n < len(calls) && calls[n]>>32 == calls[0]>>32 {
		n++
	}
	return n
}
