package seccomp

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// InOrder writes a profile anew for a reader that takes the first entry that fits a call, and has no other rule of how entries
// combine (gVisor's kernel is one). What [Compile] makes of the profile on the architecture is what such a reader makes of
// the result, but for numbers that have no name: to them it can say nothing but the default.
func InOrder(p *specs.LinuxSeccomp, a specs.Arch) (*specs.LinuxSeccomp, error) {
	d := findArch(a)
	if d == nil {
		return nil, fmt.Errorf("seccomp: unknown architecture %q", a)
	}
	def, err := parseAction(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		return nil, fmt.Errorf("seccomp: defaultAction: %w", err)
	}
	r, err := resolve(p, def, []*arch{d}, false)
	if err != nil {
		return nil, err
	}
	out := &specs.LinuxSeccomp{Architectures: []specs.Arch{a}}
	out.DefaultAction, out.DefaultErrnoRet = def.spec()
	for _, g := range r.alike(d, def) {
		for _, rule := range g.rules {
			e := specs.LinuxSyscall{Names: g.names}
			e.Action, e.ErrnoRet = rule.action.spec()
			for _, c := range rule.conds {
				e.Args = append(e.Args, c.spec())
			}
			out.Syscalls = append(out.Syscalls, e)
		}
	}
	return out, nil
}

// group are calls with the same rules, those in the order in which they hold.
type group struct {
	names []string
	rules []rule
}

// alike gives what a profile with that default says of each call, the calls with the same answer together.
func (r *resolved) alike(a *arch, def Action) []*group {
	var out []*group
	known := map[string]*group{}
	for i, nr := range callNumbers[a.column] {
		if nr < 0 {
			continue
		}
		rules, key := r.ordered(uint32(nr), a.narrow)
		if len(rules) == 0 {
			if def.permissive() || r.largest[0] < 0 || int64(nr) <= r.largest[0] {
				continue
			}
			rules, key = []rule{{action: Errno | Action(enosysOf(a))}}, "absent"
		}
		g := known[key]
		if g == nil {
			g = &group{rules: rules}
			known[key] = g
			out = append(out, g)
		}
		g.names = append(g.names, callNames[i])
	}
	return out
}

// ordered gives the rules of one call as decide combines them, and what is the same for the same rules.
func (r *resolved) ordered(nr uint32, narrow bool) (list []rule, key string) {
	var ids []uint32
	for _, c := range r.calls[0] {
		if uint32(c>>32) == nr {
			ids = append(ids, uint32(c))
		}
	}
	g := generator{}
	if i := slices.IndexFunc(ids, func(id uint32) bool { return g.always(&r.rules[id], narrow) }); i >= 0 {
		return []rule{{action: r.rules[ids[i]].action}}, r.rules[ids[i]].action.String()
	}
	slices.SortStableFunc(ids, func(a, b uint32) int { return compareActions(r.rules[a].action, r.rules[b].action) })
	var b strings.Builder
	for _, id := range ids {
		list = append(list, r.rules[id])
		b.WriteString(strconv.Itoa(int(id)) + " ")
	}
	return list, b.String()
}

// spec gives the action as the OCI spec has it.
func (a Action) spec() (specs.LinuxSeccompAction, *uint) {
	data := uint(a.Data())
	switch a.Kind() {
	case KillProcess:
		return specs.ActKillProcess, nil
	case Trap:
		return specs.ActTrap, nil
	case Errno:
		return specs.ActErrno, &data
	case Notify:
		return specs.ActNotify, nil
	case Trace:
		return specs.ActTrace, &data
	case Log:
		return specs.ActLog, nil
	case Allow:
		return specs.ActAllow, nil
	}
	return specs.ActKillThread, nil
}

// spec gives the condition as the OCI spec has it.
func (c cond) spec() specs.LinuxSeccompArg {
	a := specs.LinuxSeccompArg{Index: uint(c.arg), Value: c.value}
	if c.op == cmpMasked {
		a.Op, a.Value, a.ValueTwo = specs.OpMaskedEqual, c.mask, c.value
		return a
	}
	for _, known := range comparisons {
		if known.op == c.op {
			a.Op = known.name
		}
	}
	return a
}
