package seccomp

import (
	"fmt"
	"strings"
)

// String lists the program, one instruction a line: its place, what it does, where it goes, and in a comment the
// system call or architecture its number means. Jump targets are absolute.
func (f Filter) String() string { return Disassemble(f.Program) }

// Disassemble is Filter.String for a bare program.
func Disassemble(program []Instruction) string {
	archAt := archesOf(program)
	var b strings.Builder
	for i, in := range program {
		fmt.Fprintf(&b, "%4d: ", i)
		yes, no := i+1+int(in.Jt), i+1+int(in.Jf)
		comment := ""
		switch in.Code {
		case opLoad:
			fmt.Fprintf(&b, "load %s", loadName(in.K, program))
		case opAnd:
			fmt.Fprintf(&b, "and  %#x", in.K)
		case opJump:
			fmt.Fprintf(&b, "goto %d", i+1+int(in.K))
		case opRet:
			fmt.Fprintf(&b, "ret  %s", Action(in.K))
		case opJeq, opJgt, opJge, opJset:
			op := map[uint16]string{opJeq: "==", opJgt: ">", opJge: ">=", opJset: "&"}[in.Code]
			fmt.Fprintf(&b, "if %s %#x goto %d else %d", op, in.K, yes, no)
			comment = archAt.comment(i, in.K)
		default:
			fmt.Fprintf(&b, "code %#x jt %d jf %d k %#x", in.Code, in.Jt, in.Jf, in.K)
		}
		if comment != "" {
			fmt.Fprintf(&b, "  ; %s", comment)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// loadName names a word of seccomp_data; the byte order is told by the architectures the program asks for.
func loadName(off uint32, program []Instruction) string {
	switch {
	case off == offNr:
		return "nr"
	case off == offArch:
		return "arch"
	case off < offArgs:
		return fmt.Sprintf("ip+%d", off-offIP)
	}
	little := true
	for _, in := range program[:min(len(program), 2)] {
		if in.Code == opJeq {
			little = littleEndian(in.K)
		}
	}
	half := "low"
	if (off%8 == 4) == little {
		half = "high"
	}
	return fmt.Sprintf("arg%d.%s", (off-offArgs)/8, half)
}

// scope says, for each instruction, what A holds: the architecture, or a number of one.
type scope []struct {
	holdsArch, holdsNr bool
	arch               *arch
}

// archesOf follows the program forward. Instructions reached in different states lose theirs.
func archesOf(program []Instruction) scope {
	s := make(scope, len(program)+1)
	reached := make([]bool, len(program)+1)
	if len(program) > 0 {
		reached[0] = true
	}
	for i, in := range program {
		if !reached[i] {
			continue
		}
		flow := func(to int, holdsArch, holdsNr bool, a *arch) {
			if to >= len(s) {
				return
			}
			if !reached[to] {
				reached[to] = true
				s[to].holdsArch, s[to].holdsNr, s[to].arch = holdsArch, holdsNr, a
				return
			}
			s[to].holdsArch = s[to].holdsArch && holdsArch
			s[to].holdsNr = s[to].holdsNr && holdsNr
			if s[to].arch != a {
				s[to].arch = nil
			}
		}
		c := s[i]
		switch in.Code {
		case opRet, opRetA:
		case opLoad:
			flow(i+1, in.K == offArch, in.K == offNr, c.arch)
		case opJump:
			flow(i+1+int(in.K), c.holdsArch, c.holdsNr, c.arch)
		case opJeq, opJgt, opJge, opJset:
			yes := c.arch
			if c.holdsArch && in.Code == opJeq {
				yes = archOfAudit(in.K)
			}
			flow(i+1+int(in.Jt), c.holdsArch, c.holdsNr, yes)
			flow(i+1+int(in.Jf), c.holdsArch, c.holdsNr, c.arch)
		default:
			flow(i+1, false, false, c.arch)
		}
	}
	return s
}

// comment names what an instruction compares with.
func (s scope) comment(i int, k uint32) string {
	switch c := s[i]; {
	case c.holdsArch && archOfAudit(k) != nil:
		return string(archOfAudit(k).name)
	case c.holdsNr && c.arch != nil:
		a := c.arch
		if a.column == colX86_64 && k >= x32Bit {
			a = findArch("SCMP_ARCH_X32")
			if k == x32Bit {
				return "x32"
			}
		}
		return a.callName(k)
	}
	return ""
}

// archOfAudit gives the architecture of an AUDIT_ARCH_* value; x86_64 for the one x32 shares.
func archOfAudit(audit uint32) *arch {
	for i := range archs {
		if archs[i].audit == audit {
			return &archs[i]
		}
	}
	return nil
}
