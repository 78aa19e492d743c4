package plan

import (
	"strings"
	"testing"

	"brig/internal/caps"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestCapabilitiesThatCannotBeGranted: an engine's container runs with less and its log says so; a sandbox of Brig's own is refused.
func TestCapabilitiesThatCannotBeGranted(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		change   func(*specs.Spec, *Facts)
		want     caps.Set
		warnings string
		refused  string
	}{
		{"all there", func(*specs.Spec, *Facts) {}, 3, "", ""},
		{
			"the runtime lacks one", func(_ *specs.Spec, f *Facts) { f.Caps = caps.All &^ caps.Cap(1).Mask() }, 1,
			"left out what cannot be granted, for the runtime itself does not have it: CAP_DAC_OVERRIDE", "CAP_DAC_OVERRIDE cannot be granted",
		},
		{"a user namespace has all", func(s *specs.Spec, f *Facts) {
			f.Caps = 0
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		}, 3, "", ""},
		{
			"a name of the future", func(s *specs.Spec, _ *Facts) {
				s.Process.Capabilities.Permitted = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FLY"}
			}, 3,
			"left out what this kernel does not know: CAP_FLY", `unknown capability "CAP_FLY"`,
		},
		{"a kernel of the past", func(_ *specs.Spec, f *Facts) { f.LastCap = 0 }, 1, "does not know: CAP_DAC_OVERRIDE", "this kernel has no CAP_DAC_OVERRIDE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			both := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE"}
			spec := bundle(func(s *specs.Spec) {
				without(s, specs.UserNamespace)
				s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: both, Effective: both, Permitted: both}
			})
			facts := testFacts()
			c.change(spec, facts)
			b := &builder{spec: spec, linux: spec.Linux, facts: facts, plan: &Plan{}}
			_, err := b.capabilities(spec.Process.Capabilities)
			if c.refused == "" && err != nil || c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)) {
				t.Errorf("alone: %v, want %q", err, c.refused)
			}
			facts.Lenient, b.plan = true, &Plan{}
			sets, err := b.capabilities(spec.Process.Capabilities)
			if err != nil || sets.permitted != c.want {
				t.Errorf("lenient: %s, %v; want %s", sets.permitted, err, c.want)
			}
			if got := strings.Join(b.plan.Warnings, "\n"); !strings.Contains(got, c.warnings) || (got == "") != (c.warnings == "") {
				t.Errorf("warnings %q, want %q", got, c.warnings)
			}
		})
	}
}
