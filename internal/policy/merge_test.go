package policy

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"brig/internal/caps"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// random gives a policy with some of its keys set. It is not a valid one: Merge does not look at what values mean.
func random(r *rand.Rand) *Policy {
	p := &Policy{}
	fill(r, reflect.ValueOf(p).Elem())
	p.Env = unique(p.Env, func(e string) string { k, _, _ := strings.Cut(e, "="); return k })
	p.Mounts = unique(p.Mounts, func(m Mount) string { return m.Target })
	p.Capabilities = randomCaps(r)
	return p
}

func unique[T any](list []T, key func(T) string) []T {
	seen := map[string]bool{}
	return slices.DeleteFunc(list, func(v T) bool {
		had := seen[key(v)]
		seen[key(v)] = true
		return had
	})
}

// fill sets about half of the fields. The words are few, so that policies meet.
func fill(r *rand.Rand, v reflect.Value) {
	if r.IntN(2) == 0 && v.Kind() != reflect.Struct {
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(r, v.Field(i))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(r, v.Elem())
	case reflect.String:
		v.SetString([]string{"a", "b", "c", "A=1", "A=2", "B=1", "B"}[r.IntN(7)])
	case reflect.Int:
		v.SetInt(r.Int64N(3))
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Slice:
		n := 1 + r.IntN(3)
		v.Set(reflect.MakeSlice(v.Type(), n, n+r.IntN(3))) // room at the end shows an append that writes into another's list
		for i := range n {
			fill(r, v.Index(i))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range r.IntN(3) {
			v.SetMapIndex(reflect.ValueOf(fmt.Sprint("k", r.IntN(3))), reflect.ValueOf(fmt.Sprint("v", r.IntN(3))))
		}
	default:
		panic("a policy has a field of a new kind: " + v.Type().String())
	}
}

// randomCaps never contradicts itself, which Validate refuses.
func randomCaps(r *rand.Rand) *Capabilities {
	if r.IntN(3) == 0 {
		return nil
	}
	c := &Capabilities{}
	for _, name := range []string{"CHOWN", "KILL", "NET_RAW", "ALL"} {
		spelt := []string{name, strings.ToLower(name), name}[r.IntN(3)]
		if name != "ALL" && r.IntN(2) == 0 {
			spelt = "CAP_" + name
		}
		switch r.IntN(4) {
		case 0:
			c.Add = append(c.Add, spelt)
		case 1:
			c.Drop = append(c.Drop, spelt)
		}
	}
	return c
}

// clone is a copy that shares nothing.
func clone(v reflect.Value) reflect.Value {
	out := reflect.New(v.Type()).Elem()
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			out.Set(reflect.New(v.Type().Elem()))
			out.Elem().Set(clone(v.Elem()))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			out.Field(i).Set(clone(v.Field(i)))
		}
	case reflect.Slice:
		if !v.IsNil() {
			out.Set(reflect.MakeSlice(v.Type(), v.Len(), v.Len()))
			for i := range v.Len() {
				out.Index(i).Set(clone(v.Index(i)))
			}
		}
	case reflect.Map:
		if !v.IsNil() {
			out.Set(reflect.MakeMap(v.Type()))
			for it := v.MapRange(); it.Next(); {
				out.SetMapIndex(it.Key(), clone(it.Value()))
			}
		}
	default:
		out.Set(v)
	}
	return out
}

func copied(p *Policy) *Policy { return clone(reflect.ValueOf(p)).Interface().(*Policy) }

// capabilities is what a policy gives. It is kept apart: the lists may differ in what they repeat, the set may not.
func capabilities(t *testing.T, p *Policy) caps.Set {
	t.Helper()
	w := &writer{p: p, h: testHost(), spec: &specs.Spec{Process: &specs.Process{}, Annotations: map[string]string{}}}
	if err := w.capabilities(); err != nil {
		t.Fatal(err)
	}
	return w.caps
}

func sameBut(t *testing.T, law string, got, want *Policy) {
	t.Helper()
	if g, w := capabilities(t, got), capabilities(t, want); g != w {
		t.Errorf("%s: capabilities %s, want %s", law, g, w)
	}
	g, w := copied(got), copied(want)
	g.Capabilities, w.Capabilities = nil, nil
	if !reflect.DeepEqual(g, w) {
		t.Errorf("%s:\ngot  %+v\nwant %+v", law, g, w)
	}
}

// TestMergeLaws holds the laws of Merge over random policies: nothing over a policy, or a policy over nothing, is that
// policy; it does not matter which two of three are merged first; and none of the policies is changed.
func TestMergeLaws(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 1))
		a, b, c := random(r), random(r), random(r)
		a0, b0, c0 := copied(a), copied(b), copied(c)
		sameBut(t, "nothing over a", Merge(a, &Policy{}), a0)
		sameBut(t, "a over nothing", Merge(&Policy{}, a), a0)
		ab, bc := Merge(a, b), Merge(b, c)
		ab0 := copied(ab)
		sameBut(t, "c over (b over a) is (c over b) over a", Merge(ab, c), Merge(a, bc))
		Merge(ab, a)
		Merge(ab, b)
		for _, p := range [][2]*Policy{{a, a0}, {b, b0}, {c, c0}, {ab, ab0}} {
			if !reflect.DeepEqual(p[0], p[1]) {
				t.Errorf("Merge changed what it was given:\nnow    %+v\nbefore %+v", p[0], p[1])
			}
		}
		if t.Failed() {
			t.Fatalf("seed %d\na %+v\nb %+v\nc %+v", seed, a0, b0, c0)
		}
	}
}

// TestMergeFields holds, field by field, that what the upper policy says wins or is joined.
func TestMergeFields(t *testing.T) {
	t.Parallel()
	for seed := range uint64(1000) {
		r := rand.New(rand.NewPCG(seed, 2))
		a, b := random(r), random(r)
		m := Merge(a, b)
		for name, of := range map[string]func(*Policy) string{
			"preset": func(p *Policy) string { return p.Preset }, "user": func(p *Policy) string { return p.User }, "seccomp": func(p *Policy) string { return p.Seccomp },
			"limits.memory": func(p *Policy) string {
				if p.Limits == nil {
					return ""
				}
				return p.Limits.Memory
			},
		} {
			if want := of(b); want != "" && of(m) != want || want == "" && of(m) != of(a) {
				t.Errorf("%s: %q over %q gives %q", name, of(b), of(a), of(m))
			}
		}
		if b.Terminal != nil && *m.Terminal != *b.Terminal {
			t.Error("terminal: false over true, or true over false, is lost")
		}
		if b.Args != nil && !slices.Equal(m.Args, b.Args) || b.Args == nil && !slices.Equal(m.Args, a.Args) {
			t.Errorf("args: %q over %q gives %q", b.Args, a.Args, m.Args)
		}
		if want := slices.Concat(a.AllowMissing, b.AllowMissing); !slices.Equal(m.AllowMissing, want) {
			t.Errorf("allowMissing: %q, want %q", m.AllowMissing, want)
		}
		for k, v := range b.Labels {
			if m.Labels[k] != v {
				t.Errorf("labels: %s is %q, want %q", k, m.Labels[k], v)
			}
		}
		for _, e := range b.Env {
			if !slices.Contains(m.Env, e) {
				t.Errorf("env: %q is lost in %q", e, m.Env)
			}
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// TestMergeCapabilities compares with the plain meaning: each policy in its turn drops all or some, and adds all or some.
// It is docker's: "--cap-drop=ALL --cap-add=X" is X alone, "--cap-add=ALL --cap-drop=X" all but X (docker run, "Runtime
// privilege and Linux capabilities").
func TestMergeCapabilities(t *testing.T) {
	t.Parallel()
	has := func(list []string) bool {
		return slices.ContainsFunc(list, func(n string) bool { return sameCap(n, "ALL") })
	}
	named := func(list []string) (s caps.Set) {
		for _, n := range list {
			if c, err := caps.Parse(n); err == nil {
				s |= c.Mask()
			}
		}
		return s
	}
	for seed := range uint64(5000) {
		r := rand.New(rand.NewPCG(seed, 3))
		p, want := &Policy{}, caps.Set(0)
		var said []string
		for range 1 + r.IntN(4) {
			c := randomCaps(r)
			p = Merge(p, &Policy{Capabilities: c})
			if c == nil {
				continue
			}
			said = append(said, fmt.Sprintf("%+v", *c))
			if has(c.Drop) {
				want = 0
			}
			if has(c.Add) {
				want = everyCap
			}
			want = (want | named(c.Add)) &^ named(c.Drop)
		}
		if err := p.checkCaps(); err != nil {
			t.Fatalf("seed %d: %s are merged into a contradiction, %+v: %v", seed, said, *p.Capabilities, err)
		}
		if got := capabilities(t, p); got != want {
			t.Fatalf("seed %d: %s give %s, want %s (merged: %+v)", seed, said, got, want, *p.Capabilities)
		}
	}
}

func TestMergeMounts(t *testing.T) {
	t.Parallel()
	a := &Policy{Mounts: []Mount{{Source: "/1", Target: "/a"}, {Source: "/2", Target: "/b"}}, Env: []string{"A=1", "B=1"}}
	b := &Policy{Mounts: []Mount{{Source: "/3", Target: "/a/"}, {Source: "/4", Target: "/c"}}, Env: []string{"B=2", "C=", "A=3"}}
	m := Merge(a, b)
	if want := []Mount{{Source: "/3", Target: "/a/"}, {Source: "/2", Target: "/b"}, {Source: "/4", Target: "/c"}}; !reflect.DeepEqual(m.Mounts, want) {
		t.Errorf("%+v", m.Mounts)
	}
	if want := []string{"A=3", "B=2", "C="}; !slices.Equal(m.Env, want) {
		t.Errorf("%q", m.Env)
	}
	if err := m.Validate(); err != nil {
		t.Error(err)
	}
}
