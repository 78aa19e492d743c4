package seccomp

import "encoding/binary"

// Instruction is one classic BPF instruction, the kernel's struct sock_filter (include/uapi/linux/filter.h).
type Instruction struct {
	Code   uint16 // operation: class, size or condition, source
	Jt, Jf uint8  // instructions to skip when a conditional jump's test is true, false
	K      uint32 // operand
}

// MaxInstructions is the kernel's limit for one program (BPF_MAXINSNS).
const MaxInstructions = 4096

// The operations a seccomp filter is made of here; the kernel allows a few more (seccomp_check_filter).
const (
	opLoad = 0x20 // BPF_LD|BPF_W|BPF_ABS: A = the 32-bit word of seccomp_data at byte K
	opAnd  = 0x54 // BPF_ALU|BPF_AND|BPF_K: A &= K
	opJump = 0x05 // BPF_JMP|BPF_JA: skip K instructions
	opJeq  = 0x15 // BPF_JMP|BPF_JEQ|BPF_K
	opJgt  = 0x25 // BPF_JMP|BPF_JGT|BPF_K, unsigned
	opJge  = 0x35 // BPF_JMP|BPF_JGE|BPF_K, unsigned
	opJset = 0x45 // BPF_JMP|BPF_JSET|BPF_K: A & K != 0
	opRet  = 0x06 // BPF_RET|BPF_K: the verdict
	opRetA = 0x16 // BPF_RET|BPF_A, never written here, met in filters read back from the kernel
)

// Offsets in struct seccomp_data (include/uapi/linux/seccomp.h).
const (
	offNr   = 0
	offArch = 4
	offIP   = 8
	offArgs = 16
	sizeOf  = 64
)

// Flags of seccomp(2), SECCOMP_SET_MODE_FILTER (include/uapi/linux/seccomp.h).
const (
	FlagTSync            = 1 << 0 // SECCOMP_FILTER_FLAG_TSYNC
	FlagLog              = 1 << 1 // SECCOMP_FILTER_FLAG_LOG
	FlagSpecAllow        = 1 << 2 // SECCOMP_FILTER_FLAG_SPEC_ALLOW
	FlagNewListener      = 1 << 3 // SECCOMP_FILTER_FLAG_NEW_LISTENER
	FlagWaitKillableRecv = 1 << 5 // SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, Linux 5.19
)

// Filter is a compiled profile: what seccomp(2) wants, as plain values.
type Filter struct {
	// Program is at most MaxInstructions long and passes the kernel's checker.
	Program []Instruction

	// Flags go into the second argument of seccomp(SECCOMP_SET_MODE_FILTER, …). FlagNewListener is among them when
	// Notify is set: the call then gives a listener fd, which whoever loads the filter has to hand to the agent.
	Flags uint32

	// Notify says that some rule answers SCMP_ACT_NOTIFY.
	Notify bool

	// Unknown holds names of the profile that are no system call anywhere; they were skipped. Strict compilation
	// refuses them instead.
	Unknown []string
}

// Bytes gives Program in the byte order of this machine: the memory struct sock_fprog points to, eight bytes an
// instruction.
func (f Filter) Bytes() []byte {
	b := make([]byte, 0, 8*len(f.Program))
	for _, in := range f.Program {
		b = binary.NativeEndian.AppendUint16(b, in.Code)
		b = append(b, in.Jt, in.Jf)
		b = binary.NativeEndian.AppendUint32(b, in.K)
	}
	return b
}

// FromBytes is the other way round, for a filter read back from the kernel. Half an instruction at the end is dropped.
func FromBytes(b []byte) []Instruction {
	program := make([]Instruction, 0, len(b)/8)
	for ; len(b) >= 8; b = b[8:] {
		program = append(program, Instruction{
			Code: binary.NativeEndian.Uint16(b), Jt: b[2], Jf: b[3], K: binary.NativeEndian.Uint32(b[4:]),
		})
	}
	return program
}
