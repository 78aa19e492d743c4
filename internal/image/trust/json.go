package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// What is signed is JSON, and what one reader of JSON sees in it another may not: the standard library takes the last of two members
// of one name, and a name in other letters for the same. So here a document is read into a tree by exact names, and one that
// could be read in two ways is refused, even with a good signature.

const maxDepth = 64

// object is a JSON object.
type object map[string]any

// parseObject reads a document that is one object. Of the members at the top that are named in skip only the grammar is checked.
func parseObject(data []byte, skip ...string) (object, error) {
	if !utf8.Valid(data) || !json.Valid(data) {
		return nil, errors.New("it is not valid JSON")
	}
	p := &reader{d: json.NewDecoder(bytes.NewReader(data)), skip: skip}
	p.d.UseNumber()
	v, err := p.value(0)
	if err != nil {
		return nil, err
	}
	o, ok := v.(object)
	if !ok {
		return nil, errors.New("it is no JSON object")
	}
	return o, nil
}

type reader struct {
	d    *json.Decoder
	skip []string
}

func (p *reader) value(depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("its JSON is nested more than %d deep", maxDepth)
	}
	token, err := p.d.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('{'):
		return p.object(depth)
	case json.Delim('['):
		list := []any{}
		for p.d.More() {
			v, err := p.value(depth + 1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := p.d.Token()
		return list, err
	}
	return token, nil
}

func (p *reader) object(depth int) (any, error) {
	o := object{}
	seen := map[string]bool{}
	for p.d.More() {
		token, err := p.d.Token()
		if err != nil {
			return nil, err
		}
		name, _ := token.(string)
		folded := fold(name)
		if seen[folded] {
			return nil, fmt.Errorf("its JSON has the member %.40q twice", name)
		}
		seen[folded] = true
		if depth == 0 && p.skips(name) {
			var raw json.RawMessage
			if err := p.d.Decode(&raw); err != nil {
				return nil, err
			}
			continue
		}
		if o[name], err = p.value(depth + 1); err != nil {
			return nil, err
		}
	}
	_, err := p.d.Token()
	return o, err
}

func (p *reader) skips(name string) bool {
	for _, s := range p.skip {
		if s == name {
			return true
		}
	}
	return false
}

// fold gives one form to names that differ in the case of letters only, the way encoding/json compares them.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return least
	}, s)
}

// object gives a member that is an object; nil when it is none.
func (o object) object(name string) object {
	v, _ := o[name].(object)
	return v
}

func (o object) text(name string) string {
	v, _ := o[name].(string)
	return v
}

func (o object) list(name string) []any {
	v, _ := o[name].([]any)
	return v
}
