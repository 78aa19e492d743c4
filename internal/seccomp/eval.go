package seccomp

// Data is one system call as a filter sees it, the kernel's struct seccomp_data.
type Data struct {
	Nr   uint32
	Arch uint32 // AUDIT_ARCH_*
	IP   uint64
	Args [6]uint64
}

// word gives the 32-bit word at a byte offset, laid out as on the machine that reports d.Arch.
func (d *Data) word(off uint32) uint32 {
	switch {
	case off == offNr:
		return d.Nr
	case off == offArch:
		return d.Arch
	}
	v := d.IP
	if off >= offArgs {
		v = d.Args[(off-offArgs)/8]
	}
	if (off%8 == 0) == littleEndian(d.Arch) {
		return uint32(v)
	}
	return uint32(v >> 32)
}

// Evaluate runs a program on one call, as the kernel does, and gives the verdict and how many instructions that took.
// A program the kernel would refuse answers KillProcess.
func Evaluate(program []Instruction, d Data) (verdict Action, steps int) {
	var a, x uint32
	var mem [16]uint32
	for pc := 0; pc >= 0 && pc < len(program); pc++ {
		in := program[pc]
		steps++
		k := in.K
		skip := func(cond bool) {
			if cond {
				pc += int(in.Jt)
			} else {
				pc += int(in.Jf)
			}
		}
		switch in.Code {
		case opLoad:
			if k%4 != 0 || k >= sizeOf {
				return KillProcess, steps
			}
			a = d.word(k)
		case opRet:
			return Action(k), steps
		case opRetA:
			return Action(a), steps
		case opJump:
			if k > MaxInstructions {
				return KillProcess, steps
			}
			pc += int(k)
		case opJeq:
			skip(a == k)
		case opJgt:
			skip(a > k)
		case opJge:
			skip(a >= k)
		case opJset:
			skip(a&k != 0)
		case opAnd:
			a &= k
		case 0x00: // ld imm
			a = k
		case 0x01: // ldx imm
			x = k
		case 0x80: // ld len
			a = sizeOf
		case 0x60: // ld mem
			a = mem[k&15]
		case 0x61:
			x = mem[k&15]
		case 0x02: // st
			mem[k&15] = a
		case 0x03:
			mem[k&15] = x
		case 0x07: // tax
			x = a
		case 0x87: // txa
			a = x
		case 0x44: // or
			a |= k
		case 0x04: // add
			a += k
		case 0x14: // sub
			a -= k
		case 0x5c: // and x
			a &= x
		case 0x1d:
			skip(a == x)
		case 0x2d:
			skip(a > x)
		case 0x3d:
			skip(a >= x)
		case 0x4d:
			skip(a&x != 0)
		default:
			return KillProcess, steps
		}
	}
	return KillProcess, steps
}
