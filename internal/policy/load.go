package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"unicode/utf8"

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
	if !utf8.Valid(data) {
		return nil, &Error{File: name, Msg: "is no UTF-8 text"}
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

// unknownKeys finds keys that the format does not have, with a suggestion, and values of another kind than the key has.
func unknownKeys(name string, file *ast.File) error {
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if doc.Body.Type() == ast.CommentType {
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
	if tag, ok := node.(*ast.TagNode); ok {
		return at(name, tag, path, "tags such as %s are not supported; write the value alone", tag.GetToken().Value)
	}
	if err := checkKind(name, node, t, path); err != nil {
		return err
	}
	switch n := node.(type) {
	case *ast.SequenceNode:
		for i, v := range n.Values {
			if err := checkElement(name, v, t.Elem(), fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
	case *ast.MappingNode:
		for _, v := range n.Values {
			if err := checkKey(name, v, t, path); err != nil {
				return err
			}
		}
	case *ast.MappingValueNode:
		return checkKey(name, n, t, path)
	}
	return nil
}

// checkElement is checkKeys for what must have a value: of a key, none is the same as the key left out.
func checkElement(name string, node ast.Node, t reflect.Type, path string) error {
	if node.Type() == ast.NullType {
		return at(name, node, path, `has no value; write "" for an empty text`)
	}
	return checkKeys(name, node, t, path)
}

func checkKey(name string, v *ast.MappingValueNode, t reflect.Type, path string) error {
	key := v.Key.GetToken().Value
	inner := strings.TrimPrefix(path+"."+key, ".")
	if t.Kind() == reflect.Map {
		return checkElement(name, v.Value, t.Elem(), inner)
	}
	var known []string
	for i := range t.NumField() {
		f, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		if f == key {
			return checkKeys(name, v.Value, t.Field(i).Type, inner)
		}
		known = append(known, f)
	}
	return at(name, v.Key, path, "unknown key %s%s", quote(key), nearest(key, known...))
}

// checkKind says in a person's words what the YAML library would say in Go's.
func checkKind(name string, node ast.Node, t reflect.Type, path string) error {
	ok, want := true, ""
	_, sequence := node.(*ast.SequenceNode)
	_, mapping := node.(ast.MapNode)
	switch t.Kind() {
	case reflect.Slice:
		ok, want = sequence, "a list, as in [a, b]"
	case reflect.Struct, reflect.Map:
		ok, want = mapping, "keys with values"
	case reflect.Bool:
		ok, want = node.Type() == ast.BoolType, "true or false"
	case reflect.Int:
		ok, want = node.Type() == ast.IntegerType, "a whole number"
	case reflect.String:
		if sequence || mapping {
			ok, want = false, "a text"
			break
		}
		return checkText(name, node, path)
	}
	if ok || node.Type() == ast.NullType && path != "" {
		return nil
	}
	return at(name, node, path, "must be %s", want)
}

// checkText refuses words that YAML reads as something else than what stands there: 0755 would arrive as 493, 1.50 as 1.5.
func checkText(name string, node ast.Node, path string) error {
	var text string
	switch node.Type() {
	case ast.IntegerType, ast.FloatType, ast.InfinityType, ast.NanType, ast.BoolType:
	default:
		return nil
	}
	if err := yaml.NodeToValue(node, &text); err != nil {
		return syntaxError(name, err)
	}
	if written := node.GetToken().Value; written != text {
		return at(name, node, path, "YAML reads %s as %s; write it in quotes, %q", written, text, written)
	}
	return nil
}

// at is an error at a node.
func at(name string, node ast.Node, path, format string, args ...any) error {
	pos := first(node).GetToken().Position
	return &Error{File: name, Line: pos.Line, Column: pos.Column, Path: path, Msg: fmt.Sprintf(format, args...)}
}

// first is where a node begins; the token of a mapping is its first colon.
func first(node ast.Node) ast.Node {
	switch n := node.(type) {
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return n.Values[0].Key
		}
	case *ast.MappingValueNode:
		return n.Key
	}
	return node
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
		pos := first(node).GetToken().Position
		e.Line, e.Column = pos.Line, pos.Column
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

// Marshal writes a policy as YAML, without what is not set. Parse gives the same policy back.
func Marshal(p *Policy) ([]byte, error) {
	return yaml.MarshalWithOptions(p, yaml.CustomMarshaler(marshalText))
}

// marshalText quotes all but plain words: the library writes control characters, "---" and "..." as they are, and then
// they read as something else.
func marshalText(s string) ([]byte, error) {
	if s != "" && strings.Trim(s, plainCharacters) == "" && strings.ContainsAny(s[:1], plainCharacters[:plainFirst]) {
		return yaml.Marshal(s) // with quotes where the word means something, such as true
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(s) // a string of JSON is one of YAML
	return b.Bytes(), err
}

// Of plainCharacters only the first plainFirst may begin a word that needs no quotes.
const (
	plainCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ/_.-=+0123456789"
	plainFirst      = 2*26 + 2
)
