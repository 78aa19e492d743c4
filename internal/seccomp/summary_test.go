package seccomp

import (
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestSummarize(t *testing.T) {
	t.Parallel()
	p, err := Profile(Default, nil, specs.ArchX86_64)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Compile(p, Options{Native: specs.ArchX86_64})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]Action{
		"read": {Allow}, "mount": {Errno | 1}, "clone3": {Errno | 38}, "clone": {Errno | 1, Allow}, "ioctl": {Errno | 13, Allow}, "socket": {Errno | 1, Allow},
	}
	for _, c := range Summarize(f.Program, specs.ArchX86_64) {
		if v, ok := want[c.Name]; ok && !slices.Equal(v, c.Verdicts) {
			t.Errorf("%s: %v, want %v", c.Name, c.Verdicts, v)
		}
	}
	text := f.String()
	for _, s := range []string{"; SCMP_ARCH_X86_64", "; clone", "load arg0.low", "ret  kill process"} {
		if !strings.Contains(text, s) {
			t.Errorf("the listing lacks %q:\n%s", s, text)
		}
	}
}

// TestTables checks a few numbers against the kernel's tables, and that the names can be searched.
func TestTables(t *testing.T) {
	t.Parallel()
	if !slices.IsSorted(callNames[:]) {
		t.Fatal("callNames is not sorted")
	}
	for i, name := range callNames {
		if callIndex(name) != i {
			t.Errorf("%s is not found at its place: run go generate", name)
		}
	}
	if callNames[socketcallIndex] != "socketcall" || callNames[ipcIndex] != "ipc" {
		t.Error("the multiplexers' places are wrong: run go generate")
	}
	for _, c := range []struct {
		a    specs.Arch
		name string
		nr   uint32
	}{
		{specs.ArchX86_64, "openat", 257}, {specs.ArchX32, "execve", x32Bit | 520}, {specs.ArchX32, "read", x32Bit}, {specs.ArchX86, "socketcall", 102},
		{specs.ArchAARCH64, "openat", 56}, {specs.ArchARM, "set_tls", 0x0f0005}, {specs.ArchRISCV64, "riscv_flush_icache", 259}, {specs.ArchS390X, "clone", 120},
		{specs.ArchMIPS, "open", 4005}, {specs.ArchMIPSEL64, "open", 5002}, {specs.ArchPPC64LE, "swapcontext", 249}, {specs.ArchX86_64, "listns", 470},
		{specs.ArchLOONGARCH64, "file_setattr", 469}, {specs.ArchX86_64, "open_tree_attr", 467},
	} {
		if nr, ok := Number(c.a, c.name); !ok || nr != c.nr {
			t.Errorf("%s on %s: %d %v, want %d", c.name, c.a, nr, ok, c.nr)
		}
		if got := Name(c.a, c.nr); got != c.name {
			t.Errorf("%d on %s: %q, want %q", c.nr, c.a, got, c.name)
		}
	}
	if _, ok := Number(specs.ArchX32, "epoll_ctl_old"); ok {
		t.Error("x32 has epoll_ctl_old")
	}
}

// TestProfilesNameRealCalls keeps misspelt names out of the sets; ParseProfile does it for other people's.
func TestProfilesNameRealCalls(t *testing.T) {
	t.Parallel()
	for _, set := range [][]string{callsBasic, callsSocket, callsServer, callsCompat, callsAbsent} {
		for _, name := range set {
			if !Known(name) {
				t.Errorf("unknown call %q", name)
			}
		}
	}
}
