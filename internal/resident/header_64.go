//go:build !arm

package resident

// programHeader is Elf64_Phdr (elf(5)).
type programHeader struct {
	Type, Flags                                  uint32
	Offset, Vaddr, Paddr, Filesz, Memsz, Aligned uint64
}
