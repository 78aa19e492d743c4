package main

import (
	"math/rand/v2"
	"slices"
	"testing"

	"brig/internal/isolation/gvisor/job"
	"brig/internal/seccomp"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/bpf"
	sentrylinux "gvisor.dev/gvisor/pkg/sentry/syscalls/linux"
	guestseccomp "gvisor.dev/gvisor/runsc/specutils/seccomp"
)

// TestGuestFilter: what gVisor makes of a guest's filter refuses what Brig's own makes of it, each call with every argument that the
// filter looks at, and lets through what that lets through.
func TestGuestFilter(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct {
		profile string
		caps    []string
	}{
		{seccomp.Default, nil}, {seccomp.Strict, nil}, {seccomp.Compat, nil}, {seccomp.Default, []string{"CAP_NET_RAW"}},
		{seccomp.Default, []string{"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_FSETID"}}, {seccomp.Compat, []string{"CAP_SYS_ADMIN"}},
	} {
		p, err := seccomp.Profile(c.profile, c.caps)
		if err != nil {
			t.Fatal(err)
		}
		compareGuest(t, c.profile, p, r, 4000)
	}
	errno := uint(unix.EACCES)
	open := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"umount2", "mount", "pivot_root"}, Action: specs.ActErrno, ErrnoRet: &errno},
		{Names: []string{"ptrace"}, Action: specs.ActKillProcess},
		{Names: []string{"ioctl"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 1, Op: specs.OpEqualTo, Value: unix.TIOCSTI}}},
		{Names: []string{"ioctl"}, Action: specs.ActLog},
		{Names: []string{"socket"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 0, Op: specs.OpGreaterThan, Value: 2}, {Index: 0, Op: specs.OpEqualTo, Value: 1}}},
	}}
	compareGuest(t, "open", open, r, 4000)
}

func compareGuest(t *testing.T, name string, p *specs.LinuxSeccomp, r *rand.Rand, times int) {
	t.Helper()
	own, err := seccomp.Compile(p, seccomp.Options{Native: seccomp.Native()})
	if err != nil {
		t.Fatal(err)
	}
	ordered, err := job.Filter(p, nil, seccomp.Native())
	if err != nil {
		t.Fatal(err)
	}
	program, err := guestseccomp.BuildProgram(job.Refusals(ordered, calls()))
	if err != nil {
		t.Fatal(err)
	}
	audit := seccomp.AuditArch(seccomp.Native())
	table := sentrylinux.AMD64
	if audit == linux.AUDIT_ARCH_AARCH64 {
		table = sentrylinux.ARM64
	}
	var calls []uint32
	for nr := range table.Table { // those that the guest's kernel has
		calls = append(calls, uint32(nr)) //nolint:gosec // a number of a system call
	}
	slices.Sort(calls)
	for i := range times {
		d := seccomp.Data{Arch: audit, Nr: calls[i%len(calls)]} // each of them
		callArguments(r, p, &d)
		want, _ := seccomp.Evaluate(own.Program, d)
		s := linux.SeccompData{Nr: int32(d.Nr), Arch: d.Arch, Args: d.Args}
		input := make([]byte, s.SizeBytes())
		s.MarshalBytes(input)
		got, err := bpf.Exec[bpf.NativeEndian](program, input)
		if err != nil {
			t.Fatal(err)
		}
		if got := seccomp.Action(got); got != inGuest(want) {
			t.Errorf("%s: %s%x: gVisor says %s, Brig's filter %s", name, seccomp.Name(seccomp.Native(), d.Nr), d.Args, got, want)
		}
	}
}

// TestRefusals: what gVisor has to compile is shorter than a list of what is allowed.
func TestRefusals(t *testing.T) {
	for _, profile := range []string{seccomp.Default, seccomp.Strict, seccomp.Compat} {
		p, err := seccomp.Profile(profile, nil)
		if err != nil {
			t.Fatal(err)
		}
		ordered, err := job.Filter(p, nil, seccomp.Native())
		if err != nil {
			t.Fatal(err)
		}
		short := job.Refusals(ordered, calls())
		if short.DefaultAction != specs.ActAllow || 2*names(short) > names(ordered)+names(short)/2 {
			t.Errorf("%s: %d names, and %d were allowed", profile, names(short), names(ordered))
		}
	}
	if f := (&specs.LinuxSeccomp{DefaultAction: specs.ActAllow}); job.Refusals(f, calls()) != f || job.Refusals(nil, calls()) != nil {
		t.Error("what is allowed by default has nothing to be turned around")
	}
}

func names(p *specs.LinuxSeccomp) (n int) {
	for _, e := range p.Syscalls {
		n += len(e.Names)
	}
	return n
}

// callArguments chooses those that the profile compares, mostly.
func callArguments(r *rand.Rand, p *specs.LinuxSeccomp, d *seccomp.Data) {
	for i := range d.Args {
		d.Args[i] = []uint64{0, 1, 2, 10, 16, 38, 40, 0x5412, 0x10000000, 0xffffffff, 1 << 32, 1<<32 + 0x5412, 0o6755, r.Uint64()}[r.IntN(14)]
	}
	for _, e := range p.Syscalls {
		if slices.Contains(e.Names, seccomp.Name(seccomp.Native(), d.Nr)) && r.IntN(2) == 0 {
			for _, a := range e.Args {
				d.Args[a.Index] = []uint64{a.Value, a.ValueTwo, a.Value + 1, a.ValueTwo | 1<<32}[r.IntN(4)]
			}
		}
	}
}

// inGuest is the nearest thing that gVisor has to a verdict.
func inGuest(a seccomp.Action) seccomp.Action {
	switch a.Kind() {
	case seccomp.KillProcess:
		return seccomp.KillThread
	case seccomp.Log:
		return seccomp.Allow
	case seccomp.Trace:
		return seccomp.Errno | seccomp.Action(unix.ENOSYS)
	case seccomp.Errno:
		if a.Data() != uint16(unix.ENOSYS) {
			return seccomp.Errno | seccomp.Action(unix.EPERM)
		}
	}
	return a
}
