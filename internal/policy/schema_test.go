package policy

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// schema is as much of JSON Schema (draft 2020-12) as the policy's uses.
type schema struct {
	Type                 string             `json:"type"`
	Description          string             `json:"description"`
	Properties           map[string]*schema `json:"properties"`
	Required             []string           `json:"required"`
	AdditionalProperties json.RawMessage    `json:"additionalProperties"`
	Items                *schema            `json:"items"`
	Enum                 []any              `json:"enum"`
}

func readSchema(t *testing.T) *schema {
	t.Helper()
	data := Schema()
	var words map[string]any
	if err := json.Unmarshal(data, &words); err != nil {
		t.Fatal(err)
	}
	onlyKnown(t, "", words)
	s := &schema{}
	if err := json.Unmarshal(data, s); err != nil {
		t.Fatal(err)
	}
	return s
}

// onlyKnown fails when the schema says something that check below does not understand: it would then accept too much.
func onlyKnown(t *testing.T, path string, words map[string]any) {
	t.Helper()
	known := []string{"$schema", "$id", "title", "description", "type", "properties", "required", "additionalProperties", "items", "enum"}
	for k, v := range words {
		if !slices.Contains(known, k) {
			t.Errorf("%s: the schema has the word %q, which this test does not check", path, k)
		}
		inner, ok := v.(map[string]any)
		switch {
		case !ok:
		case k == "properties":
			for name, p := range inner {
				onlyKnown(t, path+"."+name, p.(map[string]any))
			}
		default:
			onlyKnown(t, path+"."+k, inner)
		}
	}
}

// check tells what is wrong with a value.
func (s *schema) check(path string, v any) error {
	if s.Enum != nil && !slices.ContainsFunc(s.Enum, func(e any) bool { return fmt.Sprint(e) == fmt.Sprint(v) }) {
		return fmt.Errorf("%s: %v is none of %v", path, v, s.Enum)
	}
	switch s.Type {
	case "string":
		if _, ok := v.(string); !ok {
			return fmt.Errorf("%s: %v is no string", path, v)
		}
	case "boolean":
		if _, ok := v.(bool); !ok {
			return fmt.Errorf("%s: %v is no boolean", path, v)
		}
	case "integer":
		if n, ok := v.(float64); !ok || n != math.Trunc(n) {
			return fmt.Errorf("%s: %v is no integer", path, v)
		}
	case "array":
		list, ok := v.([]any)
		if !ok {
			return fmt.Errorf("%s: %v is no array", path, v)
		}
		for i, e := range list {
			if err := s.Items.check(fmt.Sprintf("%s[%d]", path, i), e); err != nil {
				return err
			}
		}
	case "object":
		return s.object(path, v)
	default:
		return fmt.Errorf("%s: type %q", path, s.Type)
	}
	return nil
}

func (s *schema) object(path string, v any) error {
	m, ok := v.(map[string]any)
	if !ok {
		return fmt.Errorf("%s: %v is no object", path, v)
	}
	for _, k := range s.Required {
		if _, ok := m[k]; !ok {
			return fmt.Errorf("%s: %s is missing", path, k)
		}
	}
	for k, e := range m {
		inner := s.Properties[k]
		if inner == nil {
			if string(s.AdditionalProperties) == "false" {
				return fmt.Errorf("%s: unknown key %s", path, k)
			}
			inner = &schema{}
			if err := json.Unmarshal(s.AdditionalProperties, inner); err != nil {
				return err
			}
		}
		if err := inner.check(path+"."+k, e); err != nil {
			return err
		}
	}
	return nil
}

func asJSON(t *testing.T, text []byte) any {
	t.Helper()
	data, err := yaml.YAMLToJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestSchemaHasEveryKey compares the schema with the format itself, both ways, and wants each key explained.
func TestSchemaHasEveryKey(t *testing.T) {
	t.Parallel()
	compareKeys(t, "policy", readSchema(t), reflect.TypeFor[Policy]())
}

func compareKeys(t *testing.T, path string, s *schema, typ reflect.Type) {
	t.Helper()
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	switch typ.Kind() {
	case reflect.Slice:
		compareKeys(t, path+"[]", s.Items, typ.Elem())
	case reflect.Struct:
		if string(s.AdditionalProperties) != "false" {
			t.Errorf("%s: the schema takes any key", path)
		}
		var keys []string
		for i := range typ.NumField() {
			f := typ.Field(i)
			key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			if j, _, _ := strings.Cut(f.Tag.Get("json"), ","); j != key {
				t.Errorf("%s.%s is %s in JSON", path, key, j)
			}
			keys = append(keys, key)
			inner := s.Properties[key]
			if inner == nil {
				t.Errorf("%s.%s is not in the schema", path, key)
				continue
			}
			if inner.Description == "" {
				t.Errorf("%s.%s is not explained", path, key)
			}
			compareKeys(t, path+"."+key, inner, f.Type)
		}
		for key := range maps.Keys(s.Properties) {
			if !slices.Contains(keys, key) {
				t.Errorf("%s.%s is in the schema alone", path, key)
			}
		}
	}
}

// TestExamplesFitTheSchema: what Parse takes, an editor with the schema takes too.
func TestExamplesFitTheSchema(t *testing.T) {
	t.Parallel()
	s := readSchema(t)
	files, err := filepath.Glob("testdata/*.policy.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.check("policy", asJSON(t, text)); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	for _, name := range []string{Default, Strict, Compat} {
		p, err := Preset(name)
		if err != nil {
			t.Fatal(err)
		}
		text, err := Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.check("policy", asJSON(t, text)); err != nil {
			t.Errorf("preset %s: %v", name, err)
		}
	}
}

// TestSchemaRefuses: the schema finds an editor's typing errors.
func TestSchemaRefuses(t *testing.T) {
	t.Parallel()
	s := readSchema(t)
	for text, want := range map[string]string{
		"memory: 5m":                      "unknown key memory",
		"limits: {memroy: 5m}":            "unknown key memroy",
		"args: id":                        "is no array",
		"terminal: perhaps":               "is no boolean",
		"version: 2":                      "is none of [1]",
		"preset: strikt":                  "is none of [default strict compat]",
		"landlock: {mode: maybe}":         "is none of [on strict off]",
		"namespaces: {user: private}":     "is none of [auto host]",
		"network: bridge":                 "is none of",
		"mounts: [{source: /a}]":          "target is missing",
		"mounts: [{type: x, target: /a}]": "is none of [bind tmpfs]",
		"labels: {a: {b: c}}":             "is no string",
	} {
		if err := s.check("policy", asJSON(t, []byte(text))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
