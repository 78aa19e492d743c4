package operator

import (
	"path/filepath"
	"slices"
	"strings"

	"brig/internal/annotation"
)

// isolations from the weakest boundary to the strongest.
var isolations = []string{"native", "gvisor", "vm"}

// ChooseIsolation is the strongest isolation that somebody asks for: the name the runtime is called by ("brig-gvisor-handler",
// "brig-vm-handler": a link is all that a RuntimeClass needs), the bundle's annotation run.brig.isolation, the policy. A bundle cannot
// ask for less than the others. p may be nil.
func (p *Policy) ChooseIsolation(program string, annotations map[string]string) (string, error) {
	asked := []string{"native"}
	if name, ok := strings.CutSuffix(filepath.Base(program), "-handler"); ok {
		if name, ok = strings.CutPrefix(name, "brig-"); ok {
			asked = append(asked, name)
		}
	}
	if name := annotations[annotation.Isolation]; name != "" {
		asked = append(asked, name)
	}
	if p != nil {
		if p.Isolation.Default != "" {
			asked = append(asked, p.Isolation.Default)
		}
		for _, r := range p.Isolation.Rules {
			if v, ok := annotations[r.Annotation]; ok && v == r.Value {
				asked = append(asked, r.Isolation)
			}
		}
	}
	chosen := 0
	for _, name := range asked {
		if err := oneOf("isolation", name, isolations); err != nil {
			return "", err
		}
		chosen = max(chosen, slices.Index(isolations, name))
	}
	return isolations[chosen], nil
}
