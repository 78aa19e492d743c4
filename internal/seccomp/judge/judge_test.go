//go:build cgo && libseccomp

package judge

import (
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	libseccomp "github.com/seccomp/libseccomp-golang"

	"brig/internal/seccomp"
)

var actions = map[specs.LinuxSeccompAction]libseccomp.ScmpAction{
	specs.ActAllow: libseccomp.ActAllow, specs.ActErrno: libseccomp.ActErrno, specs.ActKillProcess: libseccomp.ActKillProcess,
	specs.ActKillThread: libseccomp.ActKillThread, specs.ActTrap: libseccomp.ActTrap, specs.ActLog: libseccomp.ActLog, specs.ActTrace: libseccomp.ActTrace,
}

var operators = map[specs.LinuxSeccompOperator]libseccomp.ScmpCompareOp{
	specs.OpNotEqual: libseccomp.CompareNotEqual, specs.OpLessThan: libseccomp.CompareLess, specs.OpLessEqual: libseccomp.CompareLessOrEqual,
	specs.OpEqualTo: libseccomp.CompareEqual, specs.OpGreaterEqual: libseccomp.CompareGreaterEqual, specs.OpGreaterThan: libseccomp.CompareGreater,
	specs.OpMaskedEqual: libseccomp.CompareMaskedEqual,
}

var architectures = map[specs.Arch]libseccomp.ScmpArch{
	specs.ArchX86_64: libseccomp.ArchAMD64, specs.ArchX86: libseccomp.ArchX86, specs.ArchX32: libseccomp.ArchX32,
	specs.ArchAARCH64: libseccomp.ArchARM64, specs.ArchARM: libseccomp.ArchARM, specs.ArchRISCV64: libseccomp.ArchRISCV64,
}

func verdict(a specs.LinuxSeccompAction, errno *uint) libseccomp.ScmpAction {
	v := actions[a]
	if a == specs.ActErrno || a == specs.ActTrace {
		code := int16(1)
		if errno != nil {
			code = int16(*errno)
		}
		v = v.SetReturnCode(code)
	}
	return v
}

// theirs compiles the profile for one architecture, adding rules the way runc does. ok is false when libseccomp refuses a rule.
func theirs(t testing.TB, p *specs.LinuxSeccomp, a specs.Arch, optimize bool) (program []seccomp.Instruction, ok bool) {
	t.Helper()
	def := verdict(p.DefaultAction, p.DefaultErrnoRet)
	f, err := libseccomp.NewFilter(def)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Release()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(f.AddArch(architectures[a]))
	if host, _ := libseccomp.GetNativeArch(); host != architectures[a] {
		must(f.RemoveArch(host))
	}
	must(f.SetBadArchAction(libseccomp.ActKillProcess))
	if optimize {
		must(f.SetOptimize(2))
	}
	for _, e := range p.Syscalls {
		action := verdict(e.Action, e.ErrnoRet)
		if action == def {
			continue
		}
		var conds []libseccomp.ScmpCondition
		var seen [6]int
		split := false
		for _, arg := range e.Args {
			values := []uint64{arg.Value}
			if arg.Op == specs.OpMaskedEqual {
				values = append(values, arg.ValueTwo)
			}
			c, err := libseccomp.MakeCondition(arg.Index, operators[arg.Op], values...)
			must(err)
			conds = append(conds, c)
			seen[arg.Index]++
			split = split || seen[arg.Index] > 1
		}
		for _, name := range e.Names {
			nr, err := libseccomp.GetSyscallFromName(name)
			if err != nil {
				continue
			}
			switch {
			case len(conds) == 0:
				err = f.AddRule(nr, action)
			case split:
				for _, c := range conds {
					if err == nil {
						err = f.AddRuleConditional(nr, action, []libseccomp.ScmpCondition{c})
					}
				}
			default:
				err = f.AddRuleConditional(nr, action, conds)
			}
			if err != nil {
				return nil, false
			}
		}
	}
	out, err := os.CreateTemp(t.TempDir(), "filter")
	must(err)
	defer out.Close()
	must(f.ExportBPF(out)) // to memory only from 2.6 on
	raw, err := os.ReadFile(out.Name())
	must(err)
	must(os.Remove(out.Name()))
	for ; len(raw) >= 8; raw = raw[8:] {
		program = append(program, seccomp.Instruction{Code: binary.NativeEndian.Uint16(raw), Jt: raw[2], Jf: raw[3], K: binary.NativeEndian.Uint32(raw[4:])})
	}
	return program, true
}

// loadsNumber tells the programs that libseccomp got wrong for want of loading the number: package documentation.
func loadsNumber(program []seccomp.Instruction) bool {
	first := slices.IndexFunc(program, func(in seccomp.Instruction) bool { return in.Code == 0x20 && in.K == 0 })
	return first >= 0 || len(program) <= 4
}

// plain are calls that no old ABI multiplexes.
var plain = []string{"read", "write", "close", "openat", "ioctl", "clone", "getpid", "personality", "mmap", "mprotect", "fchmodat", "mkdirat", "kill",
	"prctl", "unshare", "execve", "exit", "fcntl", "dup", "epoll_ctl", "rt_sigaction", "pidfd_open", "open", "chmod", "faccessat2"}

var boundary = []uint64{0, 1, 2, 3, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff, 0x100000000, 0x100000001, 0x1ffffffff, 0x5412, 0x100005412,
	0x7fffffffffffffff, 0x8000000000000000, 0xfffffffffffffffe, 0xffffffffffffffff, 0x7e020000, 0o6000}

func value(r *rand.Rand) uint64 {
	if r.IntN(8) == 0 {
		return r.Uint64()
	}
	return boundary[r.IntN(len(boundary))]
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

var actionNames = []specs.LinuxSeccompAction{specs.ActAllow, specs.ActErrno, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap, specs.ActLog, specs.ActTrace}

// use says how an argument of a call is compared already.
type use int

const (
	nothing use = iota
	equal
	ordered
)

func orders(op specs.LinuxSeccompOperator) bool {
	return op != specs.OpEqualTo && op != specs.OpMaskedEqual
}

// profile makes a random profile in which all conditional rules of one call have one action.
func profile(r *rand.Rand, more []specs.Arch) *specs.LinuxSeccomp {
	ops := []specs.LinuxSeccompOperator{specs.OpNotEqual, specs.OpLessThan, specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual}
	if len(more) == 0 {
		ops = append(ops, specs.OpLessEqual) // wrong in libseccomp on 32-bit ABIs, see the package documentation
	}
	p := &specs.LinuxSeccomp{DefaultAction: pick(r, actionNames), Architectures: more}
	of := map[string]specs.LinuxSeccompAction{}
	on := map[string]*[3]use{}
	for range r.IntN(10) {
		name := pick(r, plain)
		if of[name] == "" {
			of[name] = pick(r, actionNames)
		}
		e := specs.LinuxSyscall{Names: []string{name}, Action: of[name]}
		if on[name] == nil {
			on[name] = new([3]use)
		}
		for range r.IntN(4) {
			a := specs.LinuxSeccompArg{Index: uint(r.IntN(3)), Op: pick(r, ops), Value: value(r), ValueTwo: value(r)}
			if seen := &on[name][a.Index]; !orders(a.Op) && *seen != ordered || *seen == nothing {
				// Two conditions on an argument, one of them an order or NE, are wrong in libseccomp: package documentation.
				*seen = equal
				if orders(a.Op) {
					*seen = ordered
				}
				e.Args = append(e.Args, a)
			}
		}
		if len(e.Args) == 0 { // unconditional rules may disagree: the first holds
			e.Action = pick(r, actionNames)
			e.Names = append(e.Names, pick(r, []string{"socket", "connect", "semget", "shmat", "futex"}))
		}
		p.Syscalls = append(p.Syscalls, e)
	}
	return p
}

func call(r *rand.Rand, p *specs.LinuxSeccomp, as []specs.Arch) seccomp.Data {
	a := pick(r, as)
	d := seccomp.Data{Nr: uint32(r.IntN(450)), Arch: seccomp.AuditArch(a)}
	if r.IntN(20) == 0 {
		d.Arch = seccomp.AuditArch(pick(r, seccomp.Architectures()))
	}
	if r.IntN(20) == 0 {
		d.Nr |= 0x40000000
	}
	for i := range d.Args {
		d.Args[i] = value(r)
	}
	if len(p.Syscalls) > 0 && r.IntN(10) > 0 {
		e := pick(r, p.Syscalls)
		if nr, ok := seccomp.Number(a, pick(r, e.Names)); ok {
			d.Nr = nr
		}
		for _, c := range e.Args {
			switch r.IntN(4) {
			case 0:
				d.Args[c.Index] = c.Value
			case 1:
				d.Args[c.Index] = c.Value + 1
			case 2:
				d.Args[c.Index] = c.ValueTwo
			}
		}
	}
	return d
}

func permissive(a specs.LinuxSeccompAction) bool {
	return a == specs.ActAllow || a == specs.ActLog || a == specs.ActTrace
}

// newer reports whether the ENOSYS answer for calls newer than the profile applies, which libseccomp does not have.
func newer(p *specs.LinuxSeccomp, as []specs.Arch, d seccomp.Data) bool {
	if permissive(p.DefaultAction) {
		return false
	}
	for _, a := range as {
		if seccomp.AuditArch(a) != d.Arch || (a == specs.ArchX32) != (d.Nr >= 0x40000000 && seccomp.AuditArch(specs.ArchX32) == d.Arch) {
			continue
		}
		largest := uint32(0)
		for _, e := range p.Syscalls {
			for _, name := range e.Names {
				if nr, ok := seccomp.Number(a, name); ok {
					largest = max(largest, nr)
				}
			}
		}
		return d.Nr > largest
	}
	return false
}

func TestAgreesWithLibseccomp(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(7, 8))
	sets := []struct {
		native specs.Arch
		more   []specs.Arch
	}{
		{specs.ArchX86_64, nil}, {specs.ArchX86_64, []specs.Arch{specs.ArchX86}}, {specs.ArchX86_64, []specs.Arch{specs.ArchX86, specs.ArchX32}},
		{specs.ArchAARCH64, nil}, {specs.ArchAARCH64, []specs.Arch{specs.ArchARM}}, {specs.ArchRISCV64, nil},
	}
	profiles, refused, calls := 0, 0, 0
	for range 5000 {
		s := pick(r, sets)
		p := profile(r, s.more)
		as := append([]specs.Arch{s.native}, s.more...)
		their := map[specs.Arch][]seccomp.Instruction{}
		optimize := r.IntN(2) == 0 && len(p.Syscalls) > 0
		for _, a := range as {
			if program, ok := theirs(t, p, a, optimize); ok && loadsNumber(program) {
				their[a] = program
			}
		}
		if len(their) < len(as) {
			refused++
			continue
		}
		our, err := seccomp.Compile(p, seccomp.Options{Native: s.native})
		if err != nil {
			t.Fatal(err)
		}
		profiles++
		for range 60 {
			d := call(r, p, as)
			if newer(p, as, d) {
				continue
			}
			calls++
			other := their[s.native]
			for _, a := range as {
				if x32 := seccomp.AuditArch(a) == seccomp.AuditArch(specs.ArchX32) && d.Nr >= 0x40000000 && their[specs.ArchX32] != nil; seccomp.AuditArch(a) == d.Arch && (a == specs.ArchX32) == x32 {
					other = their[a]
				}
			}
			a, _ := seccomp.Evaluate(our.Program, d)
			b, _ := seccomp.Evaluate(other, d)
			if a != b {
				text, _ := json.Marshal(p)
				t.Fatalf("native %s, call %+v: Brig %s, libseccomp %s\n%s\n%s\n%s", s.native, d, a, b, text, our, seccomp.Disassemble(other))
			}
		}
	}
	t.Logf("%d profiles (%d more refused by libseccomp), %d calls", profiles, refused, calls)
	if profiles < 3000 || calls < 100000 {
		t.Error("too little was compared")
	}
}

// cost gives the mean number of instructions run over the system calls of x86_64 with plain arguments.
func cost(program []seccomp.Instruction, names []seccomp.CallSummary, only func(seccomp.CallSummary) bool) (mean float64) {
	n := 0
	for _, c := range names {
		if !only(c) {
			continue
		}
		_, steps := seccomp.Evaluate(program, seccomp.Data{Nr: c.Nr, Arch: seccomp.AuditArch(specs.ArchX86_64)})
		mean += float64(steps)
		n++
	}
	return mean / float64(n)
}

// TestCostAgainstLibseccomp counts interpreted instructions, a measure that does not depend on the machine.
func TestCostAgainstLibseccomp(t *testing.T) {
	t.Parallel()
	for _, name := range []string{seccomp.Default, seccomp.Strict, seccomp.Compat} {
		p, err := seccomp.Profile(name, nil, specs.ArchX86_64)
		if err != nil {
			t.Fatal(err)
		}
		our, err := seccomp.Compile(p, seccomp.Options{Native: specs.ArchX86_64})
		if err != nil {
			t.Fatal(err)
		}
		their, ok := theirs(t, p, specs.ArchX86_64, true)
		if !ok {
			t.Fatalf("%s: libseccomp refuses the profile", name)
		}
		calls := seccomp.Summarize(our.Program, specs.ArchX86_64)
		for what, only := range map[string]func(seccomp.CallSummary) bool{
			"all calls":         func(seccomp.CallSummary) bool { return true },
			"conditional calls": seccomp.CallSummary.Conditional,
		} {
			a, b := cost(our.Program, calls, only), cost(their, calls, only)
			t.Logf("%s, %s: %.1f instructions against %.1f, ratio %.2f (programs of %d and %d)", name, what, a, b, a/b, len(our.Program), len(their))
			if a > b {
				t.Errorf("%s, %s: dearer than libseccomp's filter", name, what)
			}
		}
	}
}
