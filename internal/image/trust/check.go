package trust

import (
	"fmt"
	"slices"
	"strings"

	"brig/internal/image"
	"brig/internal/operator"
)

// Demand is that an image be signed.
type Demand struct {
	// By is who demands it, for people.
	By string
	// Ref is the name that the image is used by.
	Ref  image.Ref
	Keys []Key
	// All: by every key, and not by any one of them.
	All bool
	// SignedAs are prefixes of repositories that the signature may name in the place of the image's own.
	SignedAs []string
}

// RejectedError is an image that the operator does not want, signed or not.
type RejectedError struct {
	Ref     image.Ref
	Section string
}

func (e *RejectedError) Error() string {
	return fmt.Sprintf("image %s is rejected by %s of %s", e.Ref, e.Section, operator.File)
}

// UnsignedError is an image without the signatures that are demanded of it.
type UnsignedError struct {
	Demand Demand
	Digest image.Digest
	Reason string
}

func (e *UnsignedError) Error() string {
	var names []string
	for _, k := range e.Demand.Keys {
		names = append(names, k.Name)
	}
	word := " or "
	if e.Demand.All {
		word = " and "
	}
	return fmt.Sprintf("image %s (%s) is not signed by %s, as %s demands: %s", e.Demand.Ref, e.Digest, strings.Join(names, word), e.Demand.By, e.Reason)
}

// Demands gives what has to be proved before an image is used under a name: by the operator's policy, which may be nil, and by files of
// keys, of which any one is enough. The second adds to the first and takes nothing from it. A *RejectedError when nothing
// helps.
func Demands(p *operator.Policy, ref image.Ref, keyFiles []string) ([]Demand, error) {
	want := p.Demand(ref.Registry() + "/" + ref.Repository())
	if want.Reject {
		return nil, &RejectedError{ref, want.Section}
	}
	var list []Demand
	if want.Signed {
		keys, err := readRootKeys(want.Keys)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", operator.File, want.Section, err)
		}
		list = append(list, Demand{By: want.Section + " of " + operator.File, Ref: ref, Keys: keys, All: want.All, SignedAs: want.SignedAs})
	}
	if len(keyFiles) > 0 {
		keys, err := ReadKeys(keyFiles...)
		if err != nil {
			return nil, fmt.Errorf("--verify: %w", err)
		}
		list = append(list, Demand{By: "--verify", Ref: ref, Keys: keys, SignedAs: want.SignedAs})
	}
	return list, nil
}

// Require is all of it at once: it holds an image in the store against the operator's policy and the given files of keys. names are
// what it is called: the reference that the store has it under, and what was asked for. Every one has to be allowed; a
// digest without a name has no say. A few hexadecimal digits are a name as well ("facade"): who makes an image can have its digest begin
// with them, so what is demanded of that name holds. target is what the name points to: manifest, or the index that manifest was chosen from.
func Require(s *image.Store, names []string, target, manifest image.Digest, keyFiles []string) error {
	policy, err := operator.Load()
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for i, name := range names {
		ref, err := image.ParseRef(name)
		if i > 0 && (err != nil || image.IsDigest(name)) || seen[ref.Name()] {
			continue
		}
		if err != nil {
			return err
		}
		seen[ref.Name()] = true
		demands, err := Demands(policy, ref, keyFiles)
		if err != nil {
			return err
		}
		if err := Check(s, target, manifest, demands); err != nil {
			return err
		}
	}
	return nil
}

// Check holds an image against demands, with what is in the store alone. The first that is not met is an *UnsignedError.
func Check(s *image.Store, target, manifest image.Digest, demands []Demand) error {
	if len(demands) == 0 {
		return nil
	}
	digests, err := subjects(s, target, manifest)
	if err != nil {
		return err
	}
	list, damage := candidates(s, digests)
	for _, d := range demands {
		if reason := d.met(list, digests); reason != "" {
			if damage != nil {
				reason += "; " + damage.Error()
			}
			return &UnsignedError{d, manifest, reason}
		}
	}
	return nil
}

// subjects gives the digests whose signature counts: the manifest's, and that of the index if the manifest is in it.
func subjects(s *image.Store, target, manifest image.Digest) ([]image.Digest, error) {
	if target == "" || target == manifest {
		return []image.Digest{manifest}, nil
	}
	in, err := within(s, target, manifest, map[image.Digest]bool{}, 0)
	if err != nil {
		return nil, err
	}
	if !in {
		return nil, fmt.Errorf("the index %s has no manifest %s", target, manifest)
	}
	return []image.Digest{manifest, target}, nil
}

const maxNesting = 4

// within looks into each index once: a thousand that each have the next a thousand times would take years.
func within(s *image.Store, index, manifest image.Digest, seen map[image.Digest]bool, depth int) (bool, error) {
	seen[index] = true
	x, err := s.Index(index)
	if err != nil {
		return false, err
	}
	for _, d := range x.Manifests {
		if d.Digest == manifest {
			return true, nil
		}
		if d.IsIndex() && depth < maxNesting && !seen[d.Digest] && s.HasBlob(d.Digest, -1) {
			if in, err := within(s, d.Digest, manifest, seen, depth+1); in && err == nil {
				return true, nil
			}
		}
	}
	return false, nil
}

// met gives why a demand is not met; "" when it is.
func (d Demand) met(list []candidate, digests []image.Digest) string {
	if len(d.Keys) == 0 {
		return "no key is given"
	}
	var why findings
	good := 0
	for _, k := range d.Keys {
		if d.signed(k, list, digests, &why) {
			good++
		}
	}
	if good == len(d.Keys) || good > 0 && !d.All {
		return ""
	}
	return why.text(list, good)
}

// signed tells whether one of the signatures is a key's, and of this image.
func (d Demand) signed(k Key, list []candidate, digests []image.Digest, why *findings) bool {
	for i := range list {
		c := &list[i]
		if !c.signedBy(k) {
			continue
		}
		err := d.fits(c, digests)
		if err == nil {
			return true
		}
		why.add(k, c, err)
	}
	return false
}

// fits tells whether a good signature is one of this image, under this name.
func (d Demand) fits(c *candidate, digests []image.Digest) error {
	said, err := c.claim()
	if err != nil {
		return err
	}
	if err := about(said.digest, digests); err != nil || c.envelope != nil {
		return err
	}
	return d.fitsName(said.reference)
}

// fitsName refuses a signature that was made under another name. cosign itself passes the name over (SIGNATURE_SPEC.md). With a key
// that signs many images that lets whoever controls a registry, or a mirror, serve any of them in the place of any other.
func (d Demand) fitsName(reference string) error {
	said, err := image.ParseRef(reference)
	if err != nil {
		return fmt.Errorf("it names no image: %w", err)
	}
	name := said.Registry() + "/" + said.Repository()
	own := d.Ref.Registry() + "/" + d.Ref.Repository()
	if operator.WithinPrefix(name, own) && operator.WithinPrefix(own, name) {
		return nil
	}
	for _, prefix := range d.SignedAs {
		if operator.WithinPrefix(name, prefix) {
			return nil
		}
	}
	return fmt.Errorf("it was made for %s, and not for %s (`signed-as` of a [[trust.registry]] allows copies)", name, own)
}

// findings collect what people want to know of signatures that do not count.
type findings struct{ lines []string }

func (f *findings) add(k Key, c *candidate, err error) {
	line := fmt.Sprintf("%s has signed %s, but %s", k.Name, c.artifact, err)
	if len(f.lines) < 3 && !slices.Contains(f.lines, line) {
		f.lines = append(f.lines, line)
	}
}

func (f *findings) text(list []candidate, good int) string {
	keyless, broken := 0, 0
	var first error
	for i := range list {
		switch c := &list[i]; {
		case c.err != nil:
			broken++
			if first == nil {
				first = c.err
			}
		case c.keyless:
			keyless++
		}
	}
	lines := f.lines
	switch {
	case len(list) == 0:
		return "nothing is attached to it that could be a signature, neither in the registry when it was pulled nor in the archive that it is from"
	case good > 0:
		lines = append(lines, fmt.Sprintf("only %d of the keys have signed it", good))
	case len(lines) == 0:
		lines = append(lines, fmt.Sprintf("there are %d signatures, and none is by these keys", len(list)))
	}
	if keyless > 0 {
		lines = append(lines, fmt.Sprintf("%d are signed without a key that anybody keeps, by a certificate of Fulcio, which is not supported: sign with `cosign sign --key`", keyless))
	}
	if broken > 0 {
		lines = append(lines, fmt.Sprintf("%d cannot be read: %v", broken, first))
	}
	return strings.Join(lines, "; ")
}

// Names are the names for Require of an image in use.
func Names(i *image.Image) []string { return []string{i.Name, i.Ref} }
