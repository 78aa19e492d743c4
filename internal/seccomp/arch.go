package seccomp

import (
	"fmt"
	"runtime"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Columns of callNumbers. Architectures that differ only in byte order share one.
const (
	colX86_64 = iota
	colX32
	colX86
	colARM64
	colARM
	colRISCV64
	colLoong64
	colMIPS
	colMIPS64
	colPPC
	colPPC64
	colS390X
	numColumns
)

// Flags of AUDIT_ARCH_* values (include/uapi/linux/audit.h); the low half is the ELF machine number.
const (
	audit64 = 0x80000000
	auditLE = 0x40000000
)

// x32Bit marks an x32 call: x32 shares x86_64's AUDIT_ARCH value and differs in this bit of the number alone.
const x32Bit = 0x40000000

// arch is what the compiler has to know of an architecture.
type arch struct {
	name   specs.Arch
	goarch string // the GOARCH it is native to; empty when Go has none for it
	audit  uint32 // AUDIT_ARCH_*, as the kernel puts it into seccomp_data
	column int    // of callNumbers
	narrow bool   // arguments are 32 bits wide: their high words are not looked at
}

// archs lists every architecture Brig has a table for. An architecture of the OCI list that is not here (MIPS64N32,
// PARISC, M68K, SH, 31-bit S390) runs no Go program; a filter treats its calls as foreign and kills.
var archs = [...]arch{
	{specs.ArchX86_64, "amd64", 62 | audit64 | auditLE, colX86_64, false},
	{specs.ArchX32, "", 62 | audit64 | auditLE, colX32, true},
	{specs.ArchX86, "386", 3 | auditLE, colX86, true},
	{specs.ArchAARCH64, "arm64", 183 | audit64 | auditLE, colARM64, false},
	{specs.ArchARM, "arm", 40 | auditLE, colARM, true},
	{specs.ArchRISCV64, "riscv64", 243 | audit64 | auditLE, colRISCV64, false},
	{specs.ArchLOONGARCH64, "loong64", 258 | audit64 | auditLE, colLoong64, false},
	{specs.ArchMIPS, "mips", 8, colMIPS, true},
	{specs.ArchMIPSEL, "mipsle", 8 | auditLE, colMIPS, true},
	{specs.ArchMIPS64, "mips64", 8 | audit64, colMIPS64, false},
	{specs.ArchMIPSEL64, "mips64le", 8 | audit64 | auditLE, colMIPS64, false},
	{specs.ArchPPC, "ppc", 20, colPPC, true},
	{specs.ArchPPC64, "ppc64", 21 | audit64, colPPC64, false},
	{specs.ArchPPC64LE, "ppc64le", 21 | audit64 | auditLE, colPPC64, false},
	{specs.ArchS390X, "s390x", 22 | audit64, colS390X, false},
}

// otherArchs are the architectures of the OCI list without a table here.
var otherArchs = []specs.Arch{specs.ArchMIPS64N32, specs.ArchMIPSEL64N32, specs.ArchS390, specs.ArchPARISC,
	specs.ArchPARISC64, specs.ArchM68K, specs.ArchSH, specs.ArchSHEB}

// Native gives the architecture this program was built for.
func Native() specs.Arch {
	for i := range archs {
		if archs[i].goarch == runtime.GOARCH {
			return archs[i].name
		}
	}
	return ""
}

// Architectures lists those a filter can be compiled for.
func Architectures() []specs.Arch {
	names := make([]specs.Arch, len(archs))
	for i := range archs {
		names[i] = archs[i].name
	}
	return names
}

// AuditArch gives the AUDIT_ARCH_* value the kernel reports for a, 0 for an architecture without a table.
func AuditArch(a specs.Arch) uint32 {
	if d := findArch(a); d != nil {
		return d.audit
	}
	return 0
}

func findArch(name specs.Arch) *arch {
	for i := range archs {
		if archs[i].name == name {
			return &archs[i]
		}
	}
	return nil
}

// littleEndian says how the machine that reports audit lays a 64-bit argument out in seccomp_data.
func littleEndian(audit uint32) bool { return audit&auditLE != 0 }

// resolveArchs turns a profile's list into architectures, native first and always there (config-linux.md: "by
// default only the native architecture of the kernel is permitted"; the list adds to it), each once.
func resolveArchs(list []specs.Arch, native specs.Arch, strict bool) ([]*arch, error) {
	first := findArch(native)
	if first == nil {
		return nil, fmt.Errorf("seccomp: no system-call table for the native architecture %q", native)
	}
	out := []*arch{first}
	for _, name := range list {
		a := findArch(name)
		switch {
		case a == nil && slices.Contains(otherArchs, name) && !strict:
			// No table, so every call of it stays foreign and is killed.
		case a == nil:
			return nil, fmt.Errorf("seccomp: unknown architecture %q; known ones are %v", name, Architectures())
		case littleEndian(a.audit) != littleEndian(first.audit):
			return nil, fmt.Errorf("seccomp: architecture %s has another byte order than %s and cannot share a filter with it", name, native)
		case !slices.Contains(out, a):
			out = append(out, a)
		}
	}
	return out, nil
}
