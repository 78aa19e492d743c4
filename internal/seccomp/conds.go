package seccomp

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// comparison is the operator of a condition. All compare unsigned, as libseccomp does.
type comparison uint8

const (
	cmpNE comparison = iota
	cmpLT
	cmpLE
	cmpEQ
	cmpGE
	cmpGT
	cmpMasked // argument & mask == value
)

// cond compares one argument of a call.
type cond struct {
	op    comparison
	arg   uint8 // 0 to 5
	value uint64
	mask  uint64 // cmpMasked only
}

var comparisons = [...]struct {
	name specs.LinuxSeccompOperator
	op   comparison
}{
	{specs.OpNotEqual, cmpNE}, {specs.OpLessThan, cmpLT}, {specs.OpLessEqual, cmpLE}, {specs.OpEqualTo, cmpEQ},
	{specs.OpGreaterEqual, cmpGE}, {specs.OpGreaterThan, cmpGT}, {specs.OpMaskedEqual, cmpMasked},
}

// parseArgs reads the conditions of one entry. Conditions on different arguments must all hold; as soon as two are on
// the same argument, runc makes each its own rule, so that any of them is enough: alternatives.
func parseArgs(args []specs.LinuxSeccompArg) (conds []cond, alternatives bool, err error) {
	if len(args) == 0 {
		return nil, false, nil
	}
	conds = make([]cond, 0, len(args))
	var seen [6]bool
	for _, a := range args {
		if a.Index > 5 {
			return nil, false, fmt.Errorf("argument index %d: a system call has arguments 0 to 5", a.Index)
		}
		i := slices.IndexFunc(comparisons[:], func(c struct {
			name specs.LinuxSeccompOperator
			op   comparison
		}) bool {
			return c.name == a.Op
		})
		if i < 0 {
			return nil, false, fmt.Errorf("unknown operator %q", a.Op)
		}
		c := cond{op: comparisons[i].op, arg: uint8(a.Index), value: a.Value}
		if c.op == cmpMasked {
			// Bits of the value outside the mask can never match; libseccomp takes them away, so this does.
			c.mask, c.value = a.Value, a.ValueTwo&a.Value
		}
		alternatives = alternatives || seen[a.Index]
		seen[a.Index] = true
		conds = append(conds, c)
	}
	slices.SortStableFunc(conds, func(a, b cond) int { return cmp.Compare(a.arg, b.arg) })
	return conds, alternatives, nil
}

// holds says whether an argument meets the condition; the meaning the compiler is tested against.
func (c cond) holds(arg uint64, narrow bool) bool {
	value, mask := c.value, c.mask
	if narrow { // as libseccomp: 32-bit ABIs compare low words alone
		arg, value, mask = uint64(uint32(arg)), uint64(uint32(value)), uint64(uint32(mask))
	}
	switch c.op {
	case cmpNE:
		return arg != value
	case cmpLT:
		return arg < value
	case cmpLE:
		return arg <= value
	case cmpEQ:
		return arg == value
	case cmpGE:
		return arg >= value
	case cmpGT:
		return arg > value
	}
	return arg&mask == value
}
