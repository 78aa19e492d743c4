//go:build arm

package resident

// programHeader is Elf32_Phdr (elf(5)).
type programHeader struct {
	Type, Offset, Vaddr, Paddr, Filesz, Memsz, Flags, Aligned uint32
}
