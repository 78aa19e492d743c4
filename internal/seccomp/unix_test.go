package seccomp

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestWithoutUnixSockets: no Unix socket that a name can be given or reached with, on any architecture of the machine, and all else.
func TestWithoutUnixSockets(t *testing.T) {
	t.Parallel()
	const unix, inet, stream, dgram, raw, sequenced, cloexec = 1, 2, 1, 2, 3, 5, 0o2000000
	filter, err := Compile(WithoutUnixSockets(specs.ArchX86_64), Options{Native: specs.ArchX86_64})
	if err != nil {
		t.Fatal(err)
	}
	for _, arch := range []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32} {
		for _, c := range []struct {
			call    string
			args    [6]uint64
			refused bool
		}{
			{"socket", [6]uint64{unix, stream}, true},
			{"socket", [6]uint64{unix | 1<<32, dgram | cloexec}, true}, // the kernel does not see the high half
			{"socket", [6]uint64{inet, stream}, false},
			{"socketpair", [6]uint64{unix, stream | cloexec}, false},
			{"socketpair", [6]uint64{unix, sequenced}, false},
			{"socketpair", [6]uint64{unix, dgram | cloexec}, true},
			{"socketpair", [6]uint64{unix, raw}, true},
			{"socketcall", [6]uint64{1}, arch == specs.ArchX86}, // socket
			{"socketcall", [6]uint64{8}, arch == specs.ArchX86}, // socketpair
			{"socketcall", [6]uint64{3}, false},                 // connect
			{"io_uring_setup", [6]uint64{}, true},
			{"connect", [6]uint64{}, false},
			{"execve", [6]uint64{}, false},
		} {
			nr, ok := Number(arch, c.call)
			if !ok {
				continue
			}
			got, _ := Evaluate(filter.Program, Data{Arch: findArch(arch).audit, Nr: nr, Args: c.args})
			if refused := got.Kind() == Errno; refused != c.refused || !refused && got != Allow {
				t.Errorf("%s: %s%v: %s", arch, c.call, c.args, got)
			}
		}
	}
	for _, arch := range []specs.Arch{specs.ArchAARCH64, specs.ArchRISCV64, specs.ArchARM, specs.ArchMIPS64, specs.ArchS390X} {
		if _, err := Compile(WithoutUnixSockets(arch), Options{Native: arch}); err != nil {
			t.Errorf("%s: %v", arch, err)
		}
	}
}
