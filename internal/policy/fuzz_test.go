package policy

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// FuzzParse reads anything as a policy. What is no policy is an error of one line with the file's name; what is one
// gives a spec or an error, means the same when it is written and read again, and gives a spec that survives JSON.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.policy.yaml")
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse("box.yaml", data)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.File != "box.yaml" || strings.Contains(err.Error(), "\n") || e.Line < 0 || e.Line > 0 && e.Column < 1 {
				t.Fatalf("%T %q", err, err)
			}
			return
		}
		text, err := Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse("again.yaml", text)
		if err != nil {
			t.Fatalf("written as\n%s\nand read: %v", text, err)
		}
		if !reflect.DeepEqual(meaning(p), meaning(again)) {
			t.Fatalf("written as\n%s\n%+v\n%+v", text, meaning(p), meaning(again))
		}
		base, err := Preset(p.Preset)
		if err != nil {
			t.Fatal(err) // Validate knows the presets
		}
		spec, err := Merge(base, p).Spec(testHost())
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Fatalf("%q", err)
			}
			return
		}
		checkSpec(t, spec)
	})
}

// meaning is a policy without what means nothing: empty lists, where none is the same, and empty structures.
func meaning(p *Policy) *Policy {
	out := copied(p)
	forget(reflect.ValueOf(out).Elem())
	return out
}

func forget(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return
		}
		forget(v.Elem())
		if v.Elem().Kind() == reflect.Struct && v.Elem().IsZero() {
			v.SetZero()
		}
	case reflect.Struct:
		for i := range v.NumField() {
			field := v.Type().Field(i)
			if !strings.Contains(field.Tag.Get("yaml"), "omitzero") {
				forget(v.Field(i))
			}
		}
	case reflect.Slice, reflect.Map:
		if v.Len() == 0 {
			v.SetZero()
			return
		}
		if v.Kind() == reflect.Slice {
			for i := range v.Len() {
				forget(v.Index(i))
			}
		}
	}
}

// checkSpec holds what no policy can lose.
func checkSpec(t *testing.T, s *specs.Spec) {
	t.Helper()
	if !s.Process.NoNewPrivileges || len(s.Process.Args) == 0 || s.Linux.Resources.Memory == nil || s.Linux.Resources.Devices[0].Allow {
		t.Errorf("a layer that every sandbox has is off: %+v", s)
	}
	seen := map[string]bool{}
	for _, m := range s.Mounts {
		if !filepath.IsAbs(m.Destination) || filepath.Clean(m.Destination) != m.Destination || m.Destination == "/" || seen[m.Destination] {
			t.Errorf("mount target %q", m.Destination)
		}
		seen[m.Destination] = true
		if m.Type == "bind" && !filepath.IsAbs(m.Source) {
			t.Errorf("mount source %q", m.Source)
		}
	}
	for _, n := range s.Linux.Namespaces {
		if n.Path != "" {
			t.Errorf("a policy joins the namespace %s", n.Path)
		}
	}
	if s.Hooks != nil {
		t.Error("a policy has hooks")
	}
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var again specs.Spec
	if err := json.Unmarshal(data, &again); err != nil {
		t.Fatal(err)
	}
	if len(again.Process.Args) != len(s.Process.Args) {
		t.Errorf("arguments %q are %q in the bundle", s.Process.Args, again.Process.Args)
		return
	}
	for i, a := range s.Process.Args {
		if again.Process.Args[i] != a {
			t.Errorf("argument %q is %q in the bundle", a, again.Process.Args[i])
		}
	}
}

// FuzzValues reads anything as every kind of value. What is accepted must make a policy that gives a spec, or an error
// that names it.
func FuzzValues(f *testing.F) {
	for _, text := range []string{"512m", "1.5", "90s", "0-2,4", "/a:/b:ro", "type=tmpfs,dst=/t,tmpfs-size=1m", "/t:size=1m", "nofile=1:2", "/dev/a:/dev/b:r", "/dev/sda:1mb", "A=1", "box", "1000:1000"} {
		f.Add(text)
	}
	h := testHost()
	f.Fuzz(func(t *testing.T, text string) {
		if n, err := ParseSize(text); err == nil && n < 0 {
			t.Errorf("size %d", n)
		}
		if quota, period, err := ParseCPUs(text); err == nil && (quota < 1000 || period != 100000) {
			t.Errorf("cpus %d of %d", quota, period)
		}
		if d, err := ParseDuration(text); err == nil && d < 0 {
			t.Errorf("duration %s", d)
		}
		if l, err := ParseUlimit(text); err == nil && l.Soft > l.Hard {
			t.Errorf("ulimit %+v", l)
		}
		if d, err := ParseDevice(text); err == nil && (!filepath.IsAbs(d.Source) || filepath.Clean(d.Target) != d.Target || strings.Trim(d.Access, "rwm") != "") {
			t.Errorf("device %+v", d)
		}
		if e, ok, err := ParseEnv(text, h.Lookup); err == nil && ok && !strings.Contains(e, "=") {
			t.Errorf("environment %q", e)
		}
		if _, err := ParseEnvFile("env", []byte(text), h.Lookup); err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%q", err)
		}
		if CheckHostname(text) == nil && (len(text) > 64 || strings.ContainsAny(text, "/_ \n\x00")) {
			t.Errorf("host name %q", text)
		}
		if err := CheckCPUSet(text); err == nil && strings.Trim(text, "0123456789-,") != "" {
			t.Errorf("cpu set %q", text)
		}
		if u, err := User(h, "/srv/root", text); err == nil && u.UID == 0 && strings.Trim(text, "0:") != "" {
			if name, _, _ := strings.Cut(text, ":"); name != "root" && strings.Trim(name, "0") != "" {
				t.Errorf("user %q is root", text)
			}
		}
		for _, parse := range []func(string) (Mount, error){ParseVolume, ParseMount, ParseTmpfs} {
			m, err := parse(text)
			if err != nil {
				continue
			}
			if s, err := over(t, &Policy{Args: []string{"id"}, Mounts: []Mount{m}}).Spec(h); err == nil {
				checkSpec(t, s)
			}
		}
	})
}
