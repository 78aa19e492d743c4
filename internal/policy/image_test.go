package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestImageProgram: what runs of entrypoint and arguments, in Docker's way.
func TestImageProgram(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name             string
		entrypoint, args []string
		want             string
	}{
		{"the image's", nil, nil, "/app/entry serve"},
		{"arguments replace Cmd", nil, []string{"check"}, "/app/entry check"},
		{"an entrypoint undoes Cmd", []string{"/bin/sh"}, nil, "/bin/sh"},
		{"both", []string{"/bin/sh"}, []string{"-c", "id"}, "/bin/sh -c id"},
		{"no entrypoint", []string{}, []string{"id"}, "id"},
		{"no entrypoint and no program", []string{}, nil, ""},
	} {
		h := testHost()
		h.Image = testImage()
		spec, err := over(t, &Policy{Image: "app", Entrypoint: c.entrypoint, Args: c.args}).Spec(h)
		switch {
		case c.want == "" && err == nil:
			t.Errorf("%s: %q, want an error", c.name, spec.Process.Args)
		case c.want != "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && strings.Join(spec.Process.Args, " ") != c.want:
			t.Errorf("%s: %q, want %q", c.name, spec.Process.Args, c.want)
		}
	}
}

// TestImageUser: names, numbers and groups by the image's own files.
func TestImageUser(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		image, flag string
		uid, gid    uint32
		groups      []uint32
		err         string
	}{
		{"", "", 0, 0, []uint32{0, 10}, ""},
		{"app", "", 1000, 1001, []uint32{1001, 50}, ""},
		{"1000", "", 1000, 1001, []uint32{1001, 50}, ""},
		{"app:staff", "", 1000, 50, nil, ""},
		{"app", "4000:7", 4000, 7, nil, ""},
		{"4000", "", 4000, 0, nil, ""},
		{"nobody-knows", "", 0, 0, nil, "not in the root file system's /etc/passwd"},
		{"word", "", 0, 0, nil, "where an id belongs"},
		{"app", "ghost", 0, 0, nil, "not in the root file system's /etc/passwd"},
	} {
		h := testHost()
		h.Image = testImage()
		h.Image.User = c.image
		h.ReadInRoot = func(root, name string) ([]byte, error) {
			if name == "/etc/group" {
				return []byte("root:x:0:root\nwheel:x:10:root,app2\nstaff:x:50:app\napp:x:1001:app\nagain:x:50:app\n"), nil
			}
			return testHost().ReadInRoot(root, name)
		}
		spec, err := over(t, &Policy{Image: "app", User: c.flag}).Spec(h)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q %q: %v, want %q", c.image, c.flag, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q %q: %v", c.image, c.flag, err)
			continue
		}
		if u := spec.Process.User; u.UID != c.uid || u.GID != c.gid || !slices.Equal(u.AdditionalGids, c.groups) {
			t.Errorf("%q %q: %+v", c.image, c.flag, u)
		}
	}
}

// TestImageRefused: what an image's config cannot mean is refused by name, and what contradicts an image, too.
func TestImageRefused(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	for _, c := range []struct {
		want   string
		policy Policy
		change func(*Host)
	}{
		{"config.Env[1]", Policy{Image: "a"}, func(h *Host) { h.Image.Env = []string{"A=", "NOTHING"} }},
		{"config.Env[0]", Policy{Image: "a"}, func(h *Host) { h.Image.Env = []string{"=x"} }},
		{"config.Volumes", Policy{Image: "a"}, func(h *Host) { h.Image.Volumes = []string{"/"} }},
		{"config.Volumes", Policy{Image: "a"}, func(h *Host) { h.Image.Volumes = []string{"/proc/self"} }},
		{"config.Volumes", Policy{Image: "a"}, func(h *Host) { h.Image.Volumes = []string{"/a/../../b"} }},
		{"config.Volumes", Policy{Image: "a"}, func(h *Host) { h.Image.Volumes = []string{"data"} }},
		{"more than 64", Policy{Image: "a"}, func(h *Host) {
			for i := range 65 {
				h.Image.Volumes = append(h.Image.Volumes, fmt.Sprint("/", i))
			}
		}},
		{"is not here", Policy{Image: "a"}, func(h *Host) { h.Image = nil }},
		{"contradicts image", Policy{Image: "a", Root: &Root{Path: "/srv/root"}}, nil},
		{"contradicts root.writable", Policy{Image: "a", Root: &Root{ReadOnly: &yes, Writable: "ram"}}, nil},
		{"unknown value", Policy{Image: "a", Root: &Root{ReadOnly: &no, Writable: "cloud"}}, nil},
		{"too little", Policy{Image: "a", Root: &Root{WritableSize: "4k"}}, nil},
		{"needs an image or root.path", Policy{Root: &Root{Writable: "ram"}}, nil},
		{"needs root", Policy{Image: "a", Root: &Root{Writable: "ram"}}, func(h *Host) { h.EUID = 1000 }},
		{"pull: is about an image", Policy{Pull: "always"}, nil},
		{"verify: is about an image", Policy{Verify: []string{"key.pub"}}, nil},
		{"unknown value \"sometimes\"", Policy{Image: "a", Pull: "sometimes"}, nil},
	} {
		h := testHost()
		h.Image = testImage()
		if c.change != nil {
			c.change(h)
		}
		if _, err := over(t, &c.policy).Spec(h); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.policy, err, c.want)
		}
	}
}
