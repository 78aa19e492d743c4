//go:build vm

package mac

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"brig/internal/host"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// TestDoctorOnBPFLSM: a program on a hook of the kernel's takes effect where `brig doctor` says so, and nowhere else.
func TestDoctorOnBPFLSM(t *testing.T) {
	const securityfs = "/sys/kernel/security"
	if _, err := os.Stat(securityfs + "/lsm"); errors.Is(err, os.ErrNotExist) {
		if said := doctor(t); said.Outcome != host.Unknown.String() {
			t.Errorf("without securityfs: %+v", said)
		}
		if err := unix.Mount("securityfs", securityfs, "securityfs", 0, ""); err != nil {
			t.Fatal(err)
		}
	}
	said, works := doctor(t), hooked(t)
	if works != (said.Outcome == host.Yes.String()) {
		t.Errorf("doctor says %+v, and a program on a hook took effect: %v", said, works)
	}
}

// word is what doctor says of a feature.
type word struct{ Name, Outcome, Detail string }

func doctor(t *testing.T) word {
	t.Helper()
	out, err := exec.Command(filepath.Join(os.Getenv("BRIG_TEST_BIN"), "brig"), "doctor", "--format", "json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var r struct{ Features []word }
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatal(err)
	}
	for _, w := range r.Features {
		if w.Name == host.BPFLSM.Name {
			return w
		}
	}
	t.Fatalf("no word of BPF LSM: %s", out)
	return word{}
}

// hooked tells whether a program that forbids every change of a priority is obeyed.
func hooked(t *testing.T) bool {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.LSM, AttachType: ebpf.AttachLSMMac, AttachTo: "task_setnice", License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -int32(unix.EPERM)), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	renice := func() error { return unix.Setpriority(unix.PRIO_PROCESS, 0, 1) }
	if err := renice(); err != nil {
		t.Fatal(err)
	}
	l, err := link.AttachLSM(link.LSMOptions{Program: program})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return errors.Is(renice(), unix.EPERM)
}
