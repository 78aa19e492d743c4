package seccomp

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// reference gives the verdict straight from the OCI object, in the plainest way the package documentation can be
// written down. The compiler is tested against it. as are the architectures of the filter, native first.
func reference(p *specs.LinuxSeccomp, as []*arch, d Data) Action {
	def, _ := parseAction(p.DefaultAction, p.DefaultErrnoRet)
	var a *arch
	for _, c := range as {
		if c.audit == d.Arch && (c.column != colX32 || d.Nr >= x32Bit) && (c.column != colX86_64 || d.Nr < x32Bit || d.Nr == ^uint32(0)) {
			a = c
		}
	}
	if a == nil {
		return KillProcess
	}
	largest := int64(-1)
	var always, some []Action
	for _, e := range p.Syscalls {
		action, _ := parseAction(e.Action, e.ErrnoRet)
		conds, alternatives, _ := parseArgs(e.Args)
		for _, name := range e.Names {
			nr, ok := Number(a.name, name)
			if ok {
				largest = max(largest, int64(nr))
			}
			if m := muxOf(a, name); m.nr >= 0 && action != def {
				largest = max(largest, int64(m.nr))
				if uint32(m.nr) == d.Nr && d.Args[0]&m.mask == uint64(m.call) && (len(conds) == 0 || action.rank() < def.rank()) {
					some = append(some, action)
				}
			}
			if !ok || nr != d.Nr || action == def {
				continue
			}
			met := 0
			all := true // none of the conditions looks at a bit
			for _, c := range conds {
				empty := c.op == cmpMasked && (c.mask == 0 || a.narrow && uint32(c.mask) == 0)
				all = all && empty
				if c.holds(d.Args[c.arg], a.narrow) {
					met++
				}
				if empty && alternatives {
					always = append(always, action)
				}
			}
			switch {
			case len(conds) == 0 || all:
				always = append(always, action)
			case alternatives && met > 0, met == len(conds):
				some = append(some, action)
			}
		}
	}
	switch {
	case len(always) > 0:
		return always[0]
	case len(some) > 0:
		return slices.MinFunc(some, compareActions)
	case !def.permissive() && largest >= 0 && (int64(d.Nr) > largest || a.column == colS390X && d.Nr == 0 && !named(p, a, 0, def)):
		return Errno | Action(enosysOf(a))
	}
	return def
}

// named reports whether an entry speaks of a number.
func named(p *specs.LinuxSeccomp, a *arch, nr uint32, def Action) bool {
	for _, e := range p.Syscalls {
		action, _ := parseAction(e.Action, e.ErrnoRet)
		for _, name := range e.Names {
			if n, ok := Number(a.name, name); ok && n == nr && action != def {
				return true
			}
		}
	}
	return false
}

// boundary values: where comparisons of halves go wrong.
var boundary = []uint64{0, 1, 2, 3, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff, 0x100000000, 0x100000001, 0x1ffffffff, 0x5412, 0x100005412,
	0x7fffffffffffffff, 0x8000000000000000, 0xfffffffffffffffe, 0xffffffffffffffff, 0x7e020000, 0o6000}

func value(r *rand.Rand) uint64 {
	switch r.IntN(8) {
	case 0:
		return r.Uint64()
	case 1:
		return uint64(r.IntN(16))
	}
	return boundary[r.IntN(len(boundary))]
}

var (
	someActions = []specs.LinuxSeccompAction{specs.ActAllow, specs.ActErrno, specs.ActKillProcess, specs.ActLog, specs.ActTrap, specs.ActTrace, specs.ActKillThread}
	someOps     = []specs.LinuxSeccompOperator{specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual}
)

// randomProfile makes a profile on few names, so that rules meet.
func randomProfile(r *rand.Rand, archs []specs.Arch) *specs.LinuxSeccomp {
	names := []string{"read", "write", "openat", "socket", "ioctl", "clone", "getpid", "personality", "semop", "futex_waitv", "setup", "socketcall"}
	p := &specs.LinuxSeccomp{DefaultAction: someActions[r.IntN(len(someActions))], Architectures: archs}
	for range r.IntN(12) {
		e := specs.LinuxSyscall{Action: someActions[r.IntN(len(someActions))]}
		if e.Action == specs.ActErrno {
			e.ErrnoRet = new(uint)
			*e.ErrnoRet = uint(r.IntN(5))
		}
		for range 1 + r.IntN(4) {
			if r.IntN(3) == 0 {
				e.Names = append(e.Names, callNames[r.IntN(len(callNames))])
			} else {
				e.Names = append(e.Names, names[r.IntN(len(names))])
			}
		}
		for range r.IntN(4) {
			e.Args = append(e.Args, specs.LinuxSeccompArg{Index: uint(r.IntN(3)), Op: someOps[r.IntN(len(someOps))], Value: value(r), ValueTwo: value(r)})
		}
		p.Syscalls = append(p.Syscalls, e)
	}
	return p
}

// randomCall makes a call the profile has something to say about, mostly.
func randomCall(r *rand.Rand, p *specs.LinuxSeccomp, as []*arch) Data {
	a := as[r.IntN(len(as))]
	d := Data{Arch: a.audit, Nr: uint32(r.IntN(500))}
	if r.IntN(20) == 0 {
		d.Nr = r.Uint32()
	}
	if r.IntN(20) == 0 {
		d.Arch = archs[r.IntN(len(archs))].audit
	}
	for i := range d.Args {
		d.Args[i] = value(r)
	}
	if len(p.Syscalls) > 0 && r.IntN(10) > 0 {
		e := p.Syscalls[r.IntN(len(p.Syscalls))]
		if nr, ok := Number(a.name, e.Names[r.IntN(len(e.Names))]); ok {
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

func checkAgainstReference(t *testing.T, p *specs.LinuxSeccomp, native specs.Arch, r *rand.Rand, calls int) {
	t.Helper()
	f, err := Compile(p, Options{Native: native})
	if err != nil {
		return
	}
	checkKernel(t, f.Program)
	as, _ := resolveArchs(p.Architectures, native, false)
	for range calls {
		d := randomCall(r, p, as)
		got, _ := Evaluate(f.Program, d)
		if want := reference(p, as, d); got != want {
			text, _ := json.Marshal(p)
			t.Fatalf("native %s, call %+v: filter says %s, reference %s\n%s\n%s", native, d, got, want, text, f)
		}
	}
}

func TestCompiledFilterAgreesWithReference(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	sets := []struct {
		native specs.Arch
		more   []specs.Arch
	}{
		{specs.ArchX86_64, nil}, {specs.ArchX86_64, []specs.Arch{specs.ArchX86}}, {specs.ArchX86_64, []specs.Arch{specs.ArchX86, specs.ArchX32}},
		{specs.ArchAARCH64, []specs.Arch{specs.ArchARM}}, {specs.ArchS390X, nil}, {specs.ArchMIPS64, []specs.Arch{specs.ArchMIPS}},
		{specs.ArchPPC64LE, nil}, {specs.ArchRISCV64, nil},
	}
	for range 4000 {
		s := sets[r.IntN(len(sets))]
		checkAgainstReference(t, randomProfile(r, s.more), s.native, r, 100)
	}
}

func TestProfilesAgreeWithReference(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	for _, name := range []string{Default, Strict, Compat} {
		for _, a := range []specs.Arch{specs.ArchX86_64, specs.ArchAARCH64, specs.ArchS390X, specs.ArchMIPS64} {
			p, err := Profile(name, nil, a)
			if err != nil {
				t.Fatal(err)
			}
			checkAgainstReference(t, p, a, r, 3000)
		}
	}
}

// FuzzCompile feeds arbitrary OCI objects: no panic, a program the kernel takes, and the reference's verdicts.
func FuzzCompile(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 6)) // small seeds: a whole built-in profile takes the fuzzer minutes to cut down
	for range 8 {
		text, _ := json.Marshal(randomProfile(r, []specs.Arch{specs.ArchX86}))
		f.Add(text, r.Uint64())
	}
	f.Fuzz(func(t *testing.T, text []byte, seed uint64) {
		p := new(specs.LinuxSeccomp)
		if json.Unmarshal(text, p) != nil || len(p.Syscalls) > 200 {
			return
		}
		for _, e := range p.Syscalls {
			if len(e.Names) > 100 {
				return
			}
		}
		checkAgainstReference(t, p, specs.ArchX86_64, rand.New(rand.NewPCG(seed, 0)), 50)
	})
}
