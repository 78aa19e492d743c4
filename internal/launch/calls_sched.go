package launch

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// This file has the calls by which a process says how the kernel's schedulers and allocators are to treat it.

// SchedAttr is struct sched_attr of linux/sched/types.h, as sched_setattr(2) takes it.
type SchedAttr struct {
	Policy                    uint32
	Flags                     uint64
	Nice                      int32
	Priority                  uint32
	Runtime, Deadline, Period uint64 // of SCHED_DEADLINE, in nanoseconds
}

// sizeofSchedAttr is SCHED_ATTR_SIZE_VER0: without the utilization clamps of Linux 5.3, which a spec has no field for.
const sizeofSchedAttr = 48

// SchedSetattr sets policy and parameters of the CPU scheduler. policy is the policy's name, for reading.
func (p *Program) SchedSetattr(a SchedAttr, policy string) *Instruction {
	b := make([]byte, 0, sizeofSchedAttr)
	b = binary.NativeEndian.AppendUint32(b, sizeofSchedAttr)
	b = binary.NativeEndian.AppendUint32(b, a.Policy)
	b = binary.NativeEndian.AppendUint64(b, a.Flags)
	b = binary.NativeEndian.AppendUint32(b, uint32(a.Nice)) //nolint:gosec // the bits of a signed field
	b = binary.NativeEndian.AppendUint32(b, a.Priority)
	b = binary.NativeEndian.AppendUint64(b, a.Runtime)
	b = binary.NativeEndian.AppendUint64(b, a.Deadline)
	b = binary.NativeEndian.AppendUint64(b, a.Period)
	text := fmt.Sprintf("{%s, flags %s, nice %d, priority %d", policy, schedFlags.format(a.Flags), a.Nice, a.Priority)
	if a.Runtime|a.Deadline|a.Period != 0 {
		text += fmt.Sprintf(", runtime %d, deadline %d, period %d", a.Runtime, a.Deadline, a.Period)
	}
	return p.call("sched_setattr", unix.SYS_SCHED_SETATTR, num(0), bytesArg(b).reads(text+"}"), num(0))
}

// schedFlags are the SCHED_FLAG_* of linux/sched.h.
var schedFlags = &symbolSet{zero: "0", names: []symbolName{
	{unix.SCHED_FLAG_RESET_ON_FORK, "RESET_ON_FORK"}, {unix.SCHED_FLAG_RECLAIM, "RECLAIM"}, {unix.SCHED_FLAG_DL_OVERRUN, "DL_OVERRUN"},
	{unix.SCHED_FLAG_KEEP_POLICY, "KEEP_POLICY"}, {unix.SCHED_FLAG_KEEP_PARAMS, "KEEP_PARAMS"},
}}

// SchedSetaffinity sets the CPUs to run on: a mask with bit n for CPU n, in 64-bit words. list is the same for reading.
func (p *Program) SchedSetaffinity(mask []uint64, list string) *Instruction {
	return p.call("sched_setaffinity", unix.SYS_SCHED_SETAFFINITY, num(0), num(uint64(8*len(mask))), bytesArg(longs(mask)).reads("{"+list+"}"))
}

// ioprioWhoPgrp is IOPRIO_WHO_PGRP of linux/ioprio.h.
const ioprioWhoPgrp = 2

// IoprioSet sets class and level of the I/O scheduler for the caller's process group (ioprio_set(2)).
func (p *Program) IoprioSet(class, level int, name string) *Instruction {
	const classShift = 13 // IOPRIO_CLASS_SHIFT
	return p.call("ioprio_set", unix.SYS_IOPRIO_SET, num(ioprioWhoPgrp).reads("IOPRIO_WHO_PGRP"), num(0),
		signed(class<<classShift|level).reads(fmt.Sprintf("%s level %d", name, level)))
}

// SetMempolicy sets the NUMA policy: mode with its flags, and a mask with bit n for node n in 64-bit words, nil for none.
// text is the same for reading.
func (p *Program) SetMempolicy(mode int, nodes []uint64, text string) *Instruction {
	if len(nodes) == 0 {
		return p.call("set_mempolicy", unix.SYS_SET_MEMPOLICY, signed(mode).reads(text), none(), num(0))
	}
	// The kernel takes one bit less than it is told (set_mempolicy(2): maxnode is the number of bits, and get_nodes takes one off).
	return p.call("set_mempolicy", unix.SYS_SET_MEMPOLICY, signed(mode).reads(text), bytesArg(longs(nodes)).reads("{nodes}"), num(uint64(64*len(nodes)+1)))
}

// longs packs a mask as the kernel's arrays of unsigned long. On a 32-bit big-endian machine the halves of a 64-bit word
// would lie the wrong way round; none of those has a build of Brig.
func longs(mask []uint64) []byte { return words(mask...) }
