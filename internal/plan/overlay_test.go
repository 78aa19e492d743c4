package plan

import (
	"strings"
	"testing"

	"brig/internal/annotation"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestOverlayOnlyWhereNeeded: a root that has every place that something is mounted on gets no mount beside its own, and one that can
// be written gets the places made in it.
func TestOverlayOnlyWhereNeeded(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		facts   func(*Facts)
		change  func(*specs.Spec)
		overlay bool
	}{
		{"all there", readOnlyFileSystem, nil, false},
		{"a place is missing", readOnlyFileSystem, addMount(specs.Mount{Type: "tmpfs", Destination: "/nowhere"}), true},
		{"a place below another mount", readOnlyFileSystem, addMount(specs.Mount{Type: "tmpfs", Destination: "/tmp/nowhere"}), false},
		{"the working directory is missing", readOnlyFileSystem, func(s *specs.Spec) { s.Process.Cwd = "/nowhere" }, true},
		{"the working directory is in a mount", readOnlyFileSystem, func(s *specs.Spec) { s.Process.Cwd = "/tmp/nowhere" }, false},
		{"a writable file system", nil, addMount(specs.Mount{Type: "tmpfs", Destination: "/nowhere"}), false},
		{"without root", func(f *Facts) { readOnlyFileSystem(f); f.Privileged = false }, addMount(specs.Mount{Type: "tmpfs", Destination: "/nowhere"}), false},
	} {
		facts := testFacts()
		if c.facts != nil {
			c.facts(facts)
		} else {
			facts.Attributes = func(string) uint64 { return 0 }
		}
		spec := readSpec(t, "rootfs")
		if c.change != nil {
			c.change(spec)
		}
		p, err := Compile(spec, facts)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := p.Overlay != nil; got != c.overlay {
			t.Errorf("%s: overlay %v, want %v", c.name, got, c.overlay)
		}
		if o := p.Overlay; o != nil && (o.Size != placesSize || o.Disk || !o.Lower.OwnIDs || o.Lower.Reg != 0) {
			t.Errorf("%s: %+v", c.name, o)
		}
	}
}

func TestOverlayRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		want         string
		pairs        []string
		unprivileged bool
	}{
		{"unknown value", []string{annotation.RootWritable, "cloud"}, false},
		{annotation.RootWritableSize, []string{annotation.RootWritable, "ram"}, false},
		{annotation.RootWritableSize, []string{annotation.RootWritable, "ram", annotation.RootWritableSize, "-1"}, false},
		{annotation.RootWritableSize, []string{annotation.RootWritable, "disk", annotation.RootWritableSize, "1g"}, false},
		{"needs root", []string{annotation.RootWritable, "ram", annotation.RootWritableSize, "1048576"}, true},
	} {
		spec := readSpec(t, "rootfs")
		annotate(c.pairs...)(spec)
		facts := testFacts()
		facts.Privileged = !c.unprivileged
		if _, err := Compile(spec, facts); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.pairs, err, c.want)
		}
	}
}
