package policy

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// maxFile bounds a policy file. Nothing a person writes comes near it.
const maxFile = 1 << 20

// Load reads a policy file, YAML or JSON. Whatever is wrong with it comes back as *Error with the place.
func Load(name string) (*Policy, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read the policy: %w", err)
	}
	return Parse(name, data)
}

// Parse reads a policy from data; name is for messages. Contradictions inside the file are errors; what depends on a
// preset or on flags is checked again when all are merged.
func Parse(name string, data []byte) (*Policy, error) {
	if len(data) > maxFile {
		return nil, &Error{File: name, Msg: fmt.Sprintf("is %d bytes long; a policy has at most %d", len(data), maxFile)}
	}
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return nil, syntaxError(name, err)
	}
	if len(file.Docs) > 1 {
		return nil, &Error{File: name, Msg: "has more than one document; a policy is one"}
	}
	for _, doc := range file.Docs {
		if err := plain(name, doc); err != nil {
			return nil, err
		}
	}
	p := &Policy{}
	if err := unknownKeys(name, file); err != nil {
		return nil, err
	}
	if err := yaml.UnmarshalWithOptions(data, p, yaml.Strict()); err != nil {
		return nil, syntaxError(name, err)
	}
	if err := p.Validate(); err != nil {
		return nil, locate(name, file, err)
	}
	return p, nil
}

// plain refuses anchors and aliases: with them a small file can stand for a huge document, and nothing here needs them.
func plain(name string, doc *ast.DocumentNode) error {
	for _, kind := range []ast.NodeType{ast.AnchorType, ast.AliasType, ast.MergeKeyType} {
		if doc.Body == nil {
			return nil
		}
		if found := ast.Filter(kind, doc.Body); len(found) > 0 {
			pos := found[0].GetToken().Position
			return &Error{File: name, Line: pos.Line, Column: pos.Column, Msg: "anchors, aliases and merge keys are not supported; write it out"}
		}
	}
	return nil
}

// syntaxError makes one line of what the YAML library reports over several.
func syntaxError(name string, err error) error {
	var y yaml.Error
	if errors.As(err, &y) {
		e := &Error{File: name, Msg: y.GetMessage()}
		if t := y.GetToken(); t != nil && t.Position != nil {
			e.Line, e.Column = t.Position.Line, t.Position.Column
		}
		return e
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	return &Error{File: name, Msg: first}
}

// unknownKeys finds keys that the format does not have, with a suggestion.
func unknownKeys(name string, file *ast.File) error {
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if err := checkKeys(name, doc.Body, reflect.TypeFor[Policy](), ""); err != nil {
			return err
		}
	}
	return nil
}

func checkKeys(name string, node ast.Node, t reflect.Type, path string) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch n := node.(type) {
	case *ast.SequenceNode:
		if t.Kind() != reflect.Slice {
			return nil
		}
		for i, v := range n.Values {
			if err := checkKeys(name, v, t.Elem(), fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
	case *ast.MappingNode:
		if t.Kind() != reflect.Struct {
			return nil
		}
		for _, v := range n.Values {
			if err := checkKey(name, v, t, path); err != nil {
				return err
			}
		}
	case *ast.MappingValueNode:
		if t.Kind() == reflect.Struct {
			return checkKey(name, n, t, path)
		}
	}
	return nil
}

func checkKey(name string, v *ast.MappingValueNode, t reflect.Type, path string) error {
	key := v.Key.GetToken().Value
	var known []string
	for i := range t.NumField() {
		f, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		if f == key {
			return checkKeys(name, v.Value, t.Field(i).Type, strings.TrimPrefix(path+"."+key, "."))
		}
		known = append(known, f)
	}
	pos := v.Key.GetToken().Position
	return &Error{File: name, Line: pos.Line, Column: pos.Column, Path: path, Msg: "unknown key " + quote(key) + nearest(key, known...)}
}

// locate finds where in the file the key of an error stands.
func locate(name string, file *ast.File, err error) error {
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	e.File = name
	for path := e.Path; path != ""; path = parent(path) {
		y, perr := yaml.PathString("$." + path)
		if perr != nil {
			return e
		}
		node, ferr := y.FilterFile(file)
		if ferr != nil || node == nil || node.GetToken() == nil {
			continue
		}
		e.Line, e.Column = node.GetToken().Position.Line, node.GetToken().Position.Column
		return e
	}
	return e
}

// parent is the key above: "a.b[1]" → "a.b" → "a" → "".
func parent(path string) string {
	if i := strings.LastIndexAny(path, ".["); i >= 0 {
		return path[:i]
	}
	return ""
}

// Marshal writes a policy as YAML, without what is not set.
func Marshal(p *Policy) ([]byte, error) { return yaml.Marshal(p) }
