package launch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"unsafe"
)

// maxRegs bounds the registers of one program.
const maxRegs = 1024

// emptyReg is what a register holds before it is filled, and after a tolerated failure.
const emptyReg = ^uintptr(0)

// machineCode is an instruction as the child reads it, every address already computed.
type machineCode struct {
	nr       uintptr
	args     [6]uintptr
	store    unsafe.Pointer // where to store register storeReg as an int32 first; nil for nowhere
	expect   uint16
	tolerate [tolerated]uint16
	dst      uint16
	storeReg uint16
	op       opcode
	regArgs  uint8 // bit n: args[n] is a register
	sticky   bool
	either   bool
}

// message is what the child writes to its parent.
type message struct {
	kind  uint32
	index uint32 // of the instruction, or the Point
	errno uint32
	_     uint32
	value uint64
}

const (
	messageReached = iota + 1 // an await was reached: index is the Point
	messageFailed             // an instruction failed
	messageForked             // value is the pid of the process that goes on
	messageFD                 // a file descriptor comes with it
)

const messageSize = int(unsafe.Sizeof(message{}))

// image is a linked program: everything the child touches, kept alive by the parent until the child is forked. The
// child is a copy of the parent's memory, so the addresses hold there too.
type image struct {
	code   *machineCode
	count  uintptr
	regs   *[maxRegs]uintptr
	ctl    uintptr // the child's end of the control socket
	parent uintptr // the parent's end

	argv     unsafe.Pointer // see hideArguments
	argvSize uintptr

	out    message
	word   [8]byte
	action [64]byte // a struct sigaction of the kernel's, all zero: SIG_DFL

	// For opSendFD: a struct msghdr and what it points to.
	send sendBuffer

	keep []any
}

// link lays the program's memory out and computes every address. Inputs are set by bind.
func (p *Program) link(inputs map[Reg]int, parent, ctl int) (*image, error) {
	if len(p.names) > maxRegs {
		return nil, fmt.Errorf("launch program needs %d registers, more than %d", len(p.names), maxRegs)
	}
	if len(p.Instructions) == 0 {
		return nil, errors.New("empty launch program")
	}
	code := make([]machineCode, len(p.Instructions))
	im := &image{code: &code[0], count: uintptr(len(code)), regs: new([maxRegs]uintptr), ctl: uintptr(ctl), parent: uintptr(parent)}
	im.argv, im.argvSize = unsafe.Pointer(unsafe.SliceData(argv)), uintptr(len(argv))
	im.send.init()
	im.keep = append(im.keep, code)
	for i := range im.regs {
		im.regs[i] = emptyReg
	}
	for _, in := range p.Inputs {
		fd, ok := inputs[in.Reg]
		if !ok {
			return nil, fmt.Errorf("launch program input %q is not bound", in.Name)
		}
		im.regs[in.Reg] = uintptr(fd)
	}
	for i := range p.Instructions {
		im.encode(&code[i], &p.Instructions[i])
	}
	return im, nil
}

func (im *image) encode(m *machineCode, in *Instruction) {
	m.op, m.nr, m.dst, m.sticky, m.either = in.op, in.nr, uint16(in.dst), in.sticky, in.either
	m.expect = uint16(in.expect) //nolint:gosec // an errno is below 4096
	for i, e := range in.tolerate {
		m.tolerate[i] = uint16(e) //nolint:gosec // an errno is below 4096
	}
	if in.op == opAwait {
		m.args[0] = uintptr(in.point)
	}
	for i, a := range in.args {
		switch a.kind {
		case argConst:
			m.args[i] = uintptr(a.value)
		case argReg:
			m.args[i] = uintptr(a.value)
			m.regArgs |= 1 << i
		case argMem:
			m.args[i] = im.hold(a.mem)
			if a.fd != 0 {
				m.store, m.storeReg = unsafe.Pointer(&a.mem[a.fdAt]), uint16(a.fd)
			}
		case argVector:
			m.args[i] = im.vector(a.vector)
		case argFprog:
			m.args[i] = im.fprog(a.mem, a.value)
		}
	}
}

// hold keeps b alive and gives its address. Heap objects do not move, and b is on the heap because im holds it.
func (im *image) hold(b []byte) uintptr {
	if len(b) == 0 {
		b = make([]byte, 1)
	}
	im.keep = append(im.keep, b)
	return uintptr(unsafe.Pointer(&b[0]))
}

// vector lays out a NULL-terminated array of pointers and its strings in one piece.
func (im *image) vector(list []string) uintptr {
	size := 0
	for _, s := range list {
		size += len(s) + 1
	}
	text := make([]byte, 0, size+1)
	pointers := make([]uintptr, len(list)+1)
	base := uintptr(unsafe.Pointer(unsafe.SliceData(text[:1])))
	for i, s := range list {
		pointers[i] = base + uintptr(len(text))
		text = append(append(text, s...), 0)
	}
	im.keep = append(im.keep, text, pointers)
	return uintptr(unsafe.Pointer(&pointers[0]))
}

// fprog lays out a struct sock_fprog: an unsigned short count, and the address of the filter at pointer alignment.
func (im *image) fprog(filter []byte, count uint64) uintptr {
	const ptr = int(unsafe.Sizeof(uintptr(0)))
	b := make([]byte, 2*ptr)
	binary.NativeEndian.PutUint16(b, uint16(count)) //nolint:gosec // the compiler bounds it by 4096
	address := uint64(im.hold(filter))
	if ptr == 8 {
		binary.NativeEndian.PutUint64(b[ptr:], address)
	} else {
		binary.NativeEndian.PutUint32(b[ptr:], uint32(address)) //nolint:gosec // a 32-bit machine
	}
	return im.hold(b)
}

// release ends the life of the image's memory in the parent.
func (im *image) release() { runtime.KeepAlive(im) }
