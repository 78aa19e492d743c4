package seccomp

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Both gives one profile that answers each call as two filters do which the kernel asks one after the other: with the stricter of their
// answers (seccomp(2)). It is for a reader that has one filter only, and the three are written as [InOrder] writes them.
func Both(a, b *specs.LinuxSeccomp) (*specs.LinuxSeccomp, error) {
	out := &specs.LinuxSeccomp{Architectures: a.Architectures}
	last, err := stricter(&specs.LinuxSyscall{Action: a.DefaultAction, ErrnoRet: a.DefaultErrnoRet}, &specs.LinuxSyscall{Action: b.DefaultAction, ErrnoRet: b.DefaultErrnoRet})
	if err != nil {
		return nil, err
	}
	out.DefaultAction, out.DefaultErrnoRet = last.Action, last.ErrnoRet
	ofA, ofB := byName(a), byName(b)
	var names []string
	for _, p := range []*specs.LinuxSeccomp{a, b} {
		for i := range p.Syscalls {
			names = append(names, p.Syscalls[i].Names...)
		}
	}
	slices.Sort(names)
	known := map[string]int{}
	var alike [][]specs.LinuxSyscall
	for _, name := range slices.Compact(names) {
		list, err := product(ofA(name), ofB(name))
		if err != nil {
			return nil, fmt.Errorf("seccomp: %s: %w", name, err)
		}
		key, err := json.Marshal(list)
		if err != nil {
			return nil, err
		}
		n, ok := known[string(key)]
		if !ok {
			n = len(alike)
			known[string(key)], alike = n, append(alike, list)
		}
		for i := range alike[n] {
			alike[n][i].Names = append(alike[n][i].Names, name)
		}
	}
	out.Syscalls = slices.Concat(alike...)
	return out, nil
}

// byName gives what a profile says of a call, in order, and its default last.
func byName(p *specs.LinuxSeccomp) func(string) []*specs.LinuxSyscall {
	list := map[string][]*specs.LinuxSyscall{}
	for i := range p.Syscalls {
		for _, name := range p.Syscalls[i].Names {
			list[name] = append(list[name], &p.Syscalls[i])
		}
	}
	last := &specs.LinuxSyscall{Action: p.DefaultAction, ErrnoRet: p.DefaultErrnoRet}
	return func(name string) []*specs.LinuxSyscall { return append(slices.Clip(list[name]), last) }
}

// product has an entry for each pair that a call may fit, the first that it fits of both first.
func product(a, b []*specs.LinuxSyscall) (list []specs.LinuxSyscall, err error) {
	for _, x := range a {
		for _, y := range b {
			args, possible, err := together(x.Args, y.Args)
			if err != nil {
				return nil, err
			}
			if !possible {
				continue
			}
			e, err := stricter(x, y)
			if err != nil {
				return nil, err
			}
			list = append(list, specs.LinuxSyscall{Action: e.Action, ErrnoRet: e.ErrnoRet, Args: args})
			if len(args) == 0 {
				return list, nil
			}
			if len(y.Args) == 0 {
				break
			}
		}
	}
	return list, nil
}

// stricter gives the one of two entries whose answer the kernel obeys.
func stricter(x, y *specs.LinuxSyscall) (*specs.LinuxSyscall, error) {
	ax, err := parseAction(x.Action, x.ErrnoRet)
	if err != nil {
		return nil, err
	}
	ay, err := parseAction(y.Action, y.ErrnoRet)
	if err != nil {
		return nil, err
	}
	if compareActions(ay, ax) < 0 {
		return y, nil
	}
	return x, nil
}

// together joins the conditions of two entries. An entry has one condition for each argument only, and two on one argument are made one.
func together(a, b []specs.LinuxSeccompArg) (list []specs.LinuxSeccompArg, possible bool, err error) {
	list = slices.Clone(a)
	for _, y := range b {
		i := slices.IndexFunc(list, func(x specs.LinuxSeccompArg) bool { return x.Index == y.Index })
		if i < 0 {
			list = append(list, y)
			continue
		}
		one, possible, err := merge(list[i], y)
		if err != nil || !possible {
			return nil, false, err
		}
		list[i] = one
	}
	return list, true, nil
}

// merge makes one condition of two on the same argument: of bits that have to be so, or of one that says what the other says already.
func merge(x, y specs.LinuxSeccompArg) (one specs.LinuxSeccompArg, possible bool, err error) {
	switch {
	case x == y || always(y):
		return x, true, nil
	case always(x):
		return y, true, nil
	}
	maskX, valueX, bitsX := bitsOf(x)
	maskY, valueY, bitsY := bitsOf(y)
	switch {
	case bitsX && bitsY:
		if common := maskX & maskY; valueX&common != valueY&common || valueX&^maskX != 0 || valueY&^maskY != 0 {
			return one, false, nil
		}
		one = specs.LinuxSeccompArg{Index: x.Index, Op: specs.OpMaskedEqual, Value: maskX | maskY, ValueTwo: valueX | valueY}
		if one.Value == ^uint64(0) {
			one = specs.LinuxSeccompArg{Index: x.Index, Op: specs.OpEqualTo, Value: one.ValueTwo}
		}
		return one, true, nil
	case x.Op == specs.OpEqualTo:
		return x, compares(y, x.Value), nil
	case y.Op == specs.OpEqualTo:
		return y, compares(x, y.Value), nil
	}
	return one, false, fmt.Errorf("two filters compare argument %d, by %s and %s, which cannot be said in one", x.Index, x.Op, y.Op)
}

// always tells whether a condition holds of any value: profiles say so to have an entry ranked among those with conditions.
func always(c specs.LinuxSeccompArg) bool {
	return c.Op == specs.OpGreaterEqual && c.Value == 0 || c.Op == specs.OpLessEqual && c.Value == ^uint64(0)
}

// bitsOf gives the bits that a condition looks at, and what they have to be.
func bitsOf(c specs.LinuxSeccompArg) (mask, value uint64, ok bool) {
	switch c.Op {
	case specs.OpEqualTo:
		return ^uint64(0), c.Value, true
	case specs.OpMaskedEqual:
		return c.Value, c.ValueTwo, true
	}
	return 0, 0, false
}

// compares tells whether a condition that is none of bits holds of a value.
func compares(c specs.LinuxSeccompArg, value uint64) bool {
	switch c.Op {
	case specs.OpNotEqual:
		return value != c.Value
	case specs.OpLessThan:
		return value < c.Value
	case specs.OpLessEqual:
		return value <= c.Value
	case specs.OpGreaterEqual:
		return value >= c.Value
	case specs.OpGreaterThan:
		return value > c.Value
	}
	return false
}
