package plan

import (
	"fmt"
	"slices"
	"strings"

	"brig/internal/caps"

	"github.com/opencontainers/runtime-spec/specs-go"
)

type capSets struct{ bounding, effective, permitted, inheritable, ambient caps.Set }

func (s *capSets) all() [5]*caps.Set {
	return [5]*caps.Set{&s.bounding, &s.effective, &s.permitted, &s.inheritable, &s.ambient}
}

// capabilities reads the five sets. What cannot be granted is left out with a warning where Facts.Lenient, as runtime-spec has
// it (config.md, "capabilities": such values "MUST be logged as a warning", and runtimes "SHOULD NOT fail"): a container gets
// less than it asks for, never more. Elsewhere it is an error.
func (b *builder) capabilities(c *specs.LinuxCapabilities) (s capSets, err error) {
	if c == nil {
		return s, nil
	}
	fields := [5]string{"bounding", "effective", "permitted", "inheritable", "ambient"}
	names := [5][]string{c.Bounding, c.Effective, c.Permitted, c.Inheritable, c.Ambient}
	var unknown []string
	for i, set := range s.all() {
		for _, name := range names[i] {
			one, err := caps.Parse(name)
			switch {
			case err == nil && one <= b.facts.LastCap:
				*set |= one.Mask()
			case !b.facts.Lenient && err == nil:
				return s, fmt.Errorf("config.json: process.capabilities.%s: this kernel has no %s", fields[i], one)
			case !b.facts.Lenient:
				return s, fmt.Errorf("config.json: process.capabilities.%s: %w", fields[i], err)
			case !slices.Contains(unknown, name):
				unknown = append(unknown, name)
			}
		}
	}
	if len(unknown) > 0 {
		b.warn("process.capabilities: left out what this kernel does not know: " + strings.Join(unknown, " "))
	}
	if err := b.grantable(&s); err != nil {
		return s, err
	}
	if over := s.ambient &^ (s.permitted & s.inheritable); over != 0 && b.facts.Lenient {
		b.warn("process.capabilities.ambient: left out what is not both permitted and inheritable (capabilities(7)): " + strings.Join(over.Names(), " "))
		s.ambient &^= over
	}
	return s, nil
}

// grantable leaves out what the runtime itself does not have. A new user namespace gives its first process all of them.
func (b *builder) grantable(s *capSets) error {
	if b.hasUserNS() {
		return nil
	}
	lacking := (s.effective | s.permitted | s.inheritable | s.ambient) &^ b.facts.Caps
	switch {
	case lacking == 0:
		return nil
	case !b.facts.Lenient:
		return fmt.Errorf("config.json: process.capabilities: %s cannot be granted: Brig itself does not have it; start Brig with it, or leave it out",
			strings.Join(lacking.Names(), " "))
	}
	b.warn("process.capabilities: left out what cannot be granted, for the runtime itself does not have it: " + strings.Join(lacking.Names(), " "))
	for _, set := range s.all() {
		*set &^= lacking
	}
	return nil
}

// warn notes what a person is told and nothing fails for.
func (b *builder) warn(text string) { b.plan.Warnings = append(b.plan.Warnings, text) }
