package oci

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// same holds decodeSpec against the judge: what encoding/json makes of the text.
func same(t *testing.T, text []byte) {
	t.Helper()
	var want specs.Spec
	wrong := json.Unmarshal(text, &want)
	got, err := decodeSpec(text)
	if (err != nil) != (wrong != nil) {
		t.Fatalf("%q: %v, want %v", text, err, wrong)
	}
	if err == nil && !reflect.DeepEqual(got, &want) {
		t.Fatalf("%q:\n%+v\nwant\n%+v", text, got, &want)
	}
}

// everything is a spec in which no field is zero.
func everything() []byte {
	var s specs.Spec
	fill(reflect.ValueOf(&s).Elem(), 12)
	text, err := json.Marshal(&s)
	if err != nil {
		panic(err)
	}
	return text
}

func fill(v reflect.Value, depth int) {
	if depth == 0 {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), depth-1)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), depth-1)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), depth-1)
		fill(v.Index(1), depth-1)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, depth-1)
		fill(value, depth-1)
		v.SetMapIndex(key, value)
	case reflect.String:
		v.SetString("text")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(7)
	case reflect.Interface:
		v.Set(reflect.ValueOf("text"))
	}
}

// TestDecodeSpec: every field of a spec is read, and every mistake told, as encoding/json does it.
func TestDecodeSpec(t *testing.T) {
	t.Parallel()
	same(t, everything())
	for _, text := range []string{
		"", "null", "{}", "[]", "{", `{"process":null,"linux":null}`, `{"process":{},"linux":{}}`, `{"linux":{"resources":null}}`, `{"linux":{"resources":{}}}`,
		`{"OCIVERSION":"1.0.0","PROCESS":{"ARGS":["x"]},"Linux":{"RESOURCES":{"blockio":{"weight":1}}}}`, `{"windows":7}`, `{"windows":{"devices":"x"}}`,
		`{"linux":{"seccomp":{"defaultAction":7}}}`, `{"linux":{"devices":{}}}`, `{"process":{"scheduler":[]}}`, `{"hooks":{"prestart":{}}}`, `{"linux":{"resources":{"rdma":7}}}`,
		`{"process":"x"}`, `{"linux":[]}`, `{"mounts":[{"destination":7}]}`, `{"hooks":null,"linux":{"seccomp":null,"devices":null}}`, `{"hooks":{}} x`,
	} {
		same(t, []byte(text))
	}
	files, err := filepath.Glob("../plan/testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		same(t, text)
	}
}

// FuzzDecodeSpec is the same for any text. A key that is there twice is no spec that anybody writes, and the two may differ there: it
// is passed over.
func FuzzDecodeSpec(f *testing.F) {
	f.Add(everything())
	f.Add([]byte(`{"ociVersion":"1.3.0","process":{"args":["sh"],"cwd":"/"},"linux":{"resources":{"pids":{"limit":5}},"seccomp":{"defaultAction":"SCMP_ACT_ALLOW"}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if !repeats(text) {
			same(t, text)
		}
	})
}

// repeats tells whether an object has a key twice, in whatever case. Preconditions: none; what is no JSON repeats nothing.
func repeats(text []byte) bool {
	d := json.NewDecoder(bytes.NewReader(text))
	var open []map[string]bool // nil for an array
	key := false               // the next token is a key
	for {
		token, err := d.Token()
		if err != nil {
			return false
		}
		switch v := token.(type) {
		case json.Delim:
			switch v {
			case '{':
				open, key = append(open, map[string]bool{}), true
				continue
			case '[':
				open, key = append(open, nil), false
				continue
			}
			open = open[:len(open)-1]
		case string:
			if key {
				name := strings.ToLower(strings.ToUpper(v)) // as encoding/json folds
				keys := open[len(open)-1]
				if keys[name] {
					return true
				}
				keys[name], key = true, false
				continue
			}
		}
		key = len(open) > 0 && open[len(open)-1] != nil
	}
}
