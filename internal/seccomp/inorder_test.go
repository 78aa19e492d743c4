package seccomp

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// firstFit gives the verdict of the first entry that fits.
func firstFit(p *specs.LinuxSeccomp, a *arch, d Data) Action {
	name := Name(a.name, d.Nr)
	for _, e := range p.Syscalls {
		conds, _, _ := parseArgs(e.Args)
		if slices.Contains(e.Names, name) && !slices.ContainsFunc(conds, func(c cond) bool { return !c.holds(d.Args[c.arg], a.narrow) }) {
			action, _ := parseAction(e.Action, e.ErrnoRet)
			return action
		}
	}
	def, _ := parseAction(p.DefaultAction, p.DefaultErrnoRet)
	return def
}

// TestInOrder: a reader that takes the first entry that fits comes to the verdicts of the filter.
func TestInOrder(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(7, 8))
	for n := range 2000 {
		a := []specs.Arch{specs.ArchX86_64, specs.ArchAARCH64}[n%2]
		p := randomProfile(r, nil)
		if n < 6 {
			p, _ = Profile([]string{Default, Strict, Compat}[n/2], nil, a)
			p.Architectures = nil
		}
		f, err := Compile(p, Options{Native: a})
		if err != nil {
			continue
		}
		ordered, err := InOrder(p, a)
		if err != nil {
			t.Fatal(err)
		}
		as, _ := resolveArchs(nil, a, false)
		for range 200 {
			d := randomCall(r, p, as)
			if d.Arch != as[0].audit || Name(a, d.Nr) == "" {
				continue
			}
			want, _ := Evaluate(f.Program, d)
			if got := firstFit(ordered, as[0], d); got != want {
				text, _ := json.Marshal(p)
				again, _ := json.Marshal(ordered)
				t.Fatalf("call %+v: %s, and the filter says %s\n%s\n%s", d, got, want, text, again)
			}
		}
	}
}

// TestInOrderRefuses what the compiler refuses.
func TestInOrderRefuses(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]*specs.LinuxSeccomp{
		"an unknown action":  {DefaultAction: "SCMP_ACT_WHATEVER"},
		"no call":            {DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{Action: specs.ActAllow}}},
		"a seventh argument": {DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}}},
	} {
		if _, err := InOrder(p, specs.ArchX86_64); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	if _, err := InOrder(&specs.LinuxSeccomp{DefaultAction: specs.ActErrno}, "SCMP_ARCH_PDP11"); err == nil {
		t.Error("an unknown architecture was taken")
	}
}
