package seccomp

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// CallSummary is what a filter does with one system call.
type CallSummary struct {
	Name     string
	Nr       uint32
	Verdicts []Action // one: whatever the arguments; several: it depends on them; least permissive first
}

// Conditional reports whether the verdict depends on the arguments.
func (c CallSummary) Conditional() bool { return len(c.Verdicts) > 1 }

// Summarize walks every way through a program, whoever wrote it, and says for each system call of an architecture which
// verdicts can come out. Ways that no argument can take together are not told apart, so a call may be shown as
// conditional that is not; never the other way round.
func Summarize(program []Instruction, a specs.Arch) []CallSummary {
	d := findArch(a)
	if d == nil {
		return nil
	}
	var out []CallSummary
	for i, nr := range callNumbers[d.column] {
		if nr >= 0 {
			out = append(out, CallSummary{callNames[i], uint32(nr), verdicts(program, d.audit, uint32(nr))})
		}
	}
	slices.SortFunc(out, func(x, y CallSummary) int { return int(int64(x.Nr) - int64(y.Nr)) })
	return out
}

// abstract is a machine state in which A is a known value or anything.
type abstract struct {
	pc    int
	a     uint32
	known bool
}

// verdicts explores the program for one call. Jumps go forward, so each of the few states of an instruction is
// visited once.
func verdicts(program []Instruction, audit, nr uint32) []Action {
	var out []Action
	seen := map[abstract]bool{}
	todo := []abstract{{known: true}}
	for len(todo) > 0 {
		s := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if s.pc >= len(program) || seen[s] {
			continue
		}
		seen[s] = true
		in := program[s.pc]
		s.pc++
		switch in.Code {
		case opRet:
			out = append(out, Action(in.K))
			continue
		case opLoad:
			switch in.K {
			case offNr:
				s.a, s.known = nr, true
			case offArch:
				s.a, s.known = audit, true
			default:
				s.a, s.known = 0, false
			}
		case opAnd:
			s.a &= in.K
		case opJump:
			s.pc += int(in.K)
		case opJeq, opJgt, opJge, opJset:
			t := test{code: in.Code, k: in.K, and: ^uint32(0)}
			yes, no := s, s
			yes.pc += int(in.Jt)
			no.pc += int(in.Jf)
			if !s.known || t.outcome(s.a) {
				todo = append(todo, yes)
			}
			if !s.known || !t.outcome(s.a) {
				todo = append(todo, no)
			}
			continue
		default:
			// Not from this compiler, nor from libseccomp's: the rest of the way may give anything.
			out = append(out, KillProcess, Allow)
			continue
		}
		todo = append(todo, s)
	}
	slices.SortFunc(out, func(x, y Action) int { return compareActions(x, y) })
	return slices.Compact(out)
}
