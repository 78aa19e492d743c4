package seccomp

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestProfilesCompileEverywhere(t *testing.T) {
	t.Parallel()
	for _, name := range []string{Default, Strict, Compat} {
		for _, a := range Architectures() {
			if a == specs.ArchX32 {
				continue
			}
			for _, caps := range [][]string{nil, {"CAP_SYS_ADMIN", "NET_RAW", "CAP_FSETID", "CAP_SYS_PTRACE"}} {
				p, err := Profile(name, caps, a)
				if err != nil {
					t.Fatal(err)
				}
				f, err := Compile(p, Options{Native: a, Strict: true})
				if err != nil {
					t.Errorf("%s on %s with %v: %v", name, a, caps, err)
				}
				checkKernel(t, f.Program)
			}
		}
	}
}

// checkKernel applies the rules of the kernel's bpf_check_classic and seccomp_check_filter.
func checkKernel(t *testing.T, p []Instruction) {
	t.Helper()
	if len(p) == 0 || len(p) > MaxInstructions {
		t.Fatalf("program has %d instructions", len(p))
	}
	for i, in := range p {
		switch in.Code {
		case opRet, opAnd:
		case opLoad:
			if in.K%4 != 0 || in.K >= sizeOf {
				t.Fatalf("%d: load at %d", i, in.K)
			}
		case opJump:
			if i+1+int(in.K) >= len(p) {
				t.Fatalf("%d: jump out of the program", i)
			}
		case opJeq, opJgt, opJge, opJset:
			if i+1+int(in.Jt) >= len(p) || i+1+int(in.Jf) >= len(p) {
				t.Fatalf("%d: conditional jump out of the program", i)
			}
		default:
			t.Fatalf("%d: code %#x", i, in.Code)
		}
	}
	if p[len(p)-1].Code != opRet {
		t.Fatal("the last instruction is no return")
	}
}

func BenchmarkCompileDefault(b *testing.B) {
	p, err := Profile(Default, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Compile(p, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
