package seccomp

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestBoth: what is made of two profiles answers each call with the stricter answer of the two filters, or says which comparison it cannot
// join.
func TestBoth(t *testing.T) {
	t.Parallel()
	const a = specs.ArchX86_64
	r := rand.New(rand.NewPCG(9, 10))
	as, err := resolveArchs(nil, a, false)
	if err != nil {
		t.Fatal(err)
	}
	named := []string{Default, Strict, Compat}
	joined := 0
	for n := range 3000 {
		var list [2]*specs.LinuxSeccomp
		var filters [2]Filter
		for i := range list {
			list[i] = randomProfile(r, nil)
			if n < 9 {
				list[i], _ = Profile(named[[2]int{n / 3, n % 3}[i]], nil, a)
				list[i].Architectures = nil
			}
			if filters[i], err = Compile(list[i], Options{Native: a}); err != nil {
				break
			}
		}
		if err != nil {
			continue
		}
		x, err := InOrder(list[0], a)
		if err != nil {
			t.Fatal(err)
		}
		y, err := InOrder(list[1], a)
		if err != nil {
			t.Fatal(err)
		}
		both, err := Both(x, y)
		if err != nil && n >= 9 && strings.Contains(err.Error(), "cannot be said in one") {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		joined++
		for i := range 200 {
			d := randomCall(r, list[i%2], as)
			if d.Arch != as[0].audit || Name(a, d.Nr) == "" {
				continue
			}
			one, _ := Evaluate(filters[0].Program, d)
			two, _ := Evaluate(filters[1].Program, d)
			if compareActions(two, one) < 0 {
				one = two
			}
			if got := firstFit(both, as[0], d); got != one {
				text, _ := json.Marshal(list)
				again, _ := json.Marshal(both)
				t.Fatalf("call %+v: %s, and the filters say %s\n%s\n%s", d, got, one, text, again)
			}
		}
	}
	if joined < 1000 {
		t.Errorf("only %d pairs could be joined", joined)
	}
}
