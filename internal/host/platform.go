package host

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// Serving is how a machine runs programs of an architecture.
type Serving int

// The ways there are.
const (
	Native   Serving = iota + 1 // its own
	Sibling                     // the 32-bit one of its own
	Emulated                    // an interpreter that binfmt_misc starts
)

// ArchError is an architecture whose programs this machine cannot run.
type ArchError struct{ Arch, Machine, Reason string }

func (e *ArchError) Error() string {
	return fmt.Sprintf("programs for %s do not run on this machine (%s): %s", e.Arch, e.Machine, e.Reason)
}

// elfMachines are the numbers of architectures in an ELF header (elf.h, EM_…), by Go's names, and which of them are big-endian.
var elfMachines = map[string]struct {
	machine uint16
	big     bool
}{
	"386": {3, false}, "amd64": {62, false}, "arm": {40, false}, "arm64": {183, false}, "riscv64": {243, false}, "loong64": {258, false},
	"ppc64le": {21, false}, "s390x": {22, true}, "mips64le": {8, false}, "mips64": {8, true}, "mipsle": {8, false}, "mips": {8, true},
}

// Serves tells how this machine runs programs of an architecture, by its name in Go and in images.
func Serves(arch string) (Serving, error) {
	return serves(runtime.GOARCH, arch, "/proc/sys/fs/binfmt_misc")
}

func serves(machine, arch, binfmt string) (Serving, error) {
	switch {
	case arch == machine:
		return Native, nil
	case machine == "amd64" && arch == "386", machine == "arm64" && arch == "arm":
		return Sibling, nil
	}
	fail := func(reason string) (Serving, error) { return 0, &ArchError{arch, machine, reason} }
	elf, known := elfMachines[arch]
	if !known {
		return fail("it is no architecture that Linux programs are known for here")
	}
	entries, err := os.ReadDir(binfmt)
	if err != nil || len(entries) == 0 {
		return fail("no emulator is registered (binfmt_misc is not mounted); on Debian install qemu-user-static")
	}
	var without string
	for _, e := range entries {
		switch ok, fixed := interprets(filepath.Join(binfmt, e.Name()), elf.machine, elf.big); {
		case ok && fixed:
			return Emulated, nil
		case ok:
			without = e.Name()
		}
	}
	if without != "" {
		return fail(fmt.Sprintf("its emulator %s is registered without the flag F (fix-binary), so that a sandbox would have to have it inside; register it anew with the flag", without))
	}
	return fail("no emulator for it is registered in binfmt_misc; on Debian install qemu-user-static")
}

// interprets tells whether a registration of binfmt_misc is for ELF programs of a machine, and whether the kernel holds its
// interpreter open (the kernel's Documentation/admin-guide/binfmt-misc.rst).
func interprets(file string, machine uint16, big bool) (ok, fixed bool) {
	text, err := os.ReadFile(file)
	if err != nil || !strings.HasPrefix(string(text), "enabled") {
		return false, false
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch key {
		case "flags:":
			fixed = strings.Contains(value, "F")
		case "magic":
			magic, err := hex.DecodeString(value)
			if err != nil || len(magic) < 20 || string(magic[:4]) != "\x7fELF" {
				continue
			}
			found, order := uint16(magic[18])|uint16(magic[19])<<8, magic[5] == 2 // e_machine at 18, EI_DATA at 5 (elf(5))
			if order {
				found = found>>8 | found<<8
			}
			ok = found == machine && order == big
		}
	}
	return ok, fixed
}
