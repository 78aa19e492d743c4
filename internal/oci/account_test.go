package oci

import (
	"os"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestSetHome(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	if err := os.Mkdir(root+"/etc", 0o755); err != nil {
		t.Fatal(err)
	}
	passwd := "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\nup:x:1001:0::/../up:/bin/sh\nrel:x:1002:0::rel:/bin/sh\nshort:x:1003\n"
	if err := os.WriteFile(root+"/etc/passwd", []byte(passwd), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		uid  uint32
		env  []string
		want string
	}{
		{0, nil, "HOME=/root"}, {1000, []string{"A=b"}, "HOME=/home/app"}, {1001, nil, "HOME=/"}, {1002, nil, "HOME=/"}, {1003, nil, "HOME=/"},
		{5000, nil, "HOME=/"}, {1000, []string{"HOME=/own", "A=b"}, "A=b"}, {1000, []string{"HOME="}, "HOME=/home/app"},
	} {
		p := &specs.Process{Env: slices.Clone(c.env), User: specs.User{UID: c.uid}}
		setHome(p, root)
		if got := p.Env[len(p.Env)-1]; got != c.want {
			t.Errorf("user %d, %q: %q, want %q", c.uid, c.env, got, c.want)
		}
	}
}

// TestPasswdOutside holds that a link in an image does not have a host's file read.
func TestPasswdOutside(t *testing.T) {
	t.Parallel()
	root, outside := t.TempDir(), t.TempDir()
	if err := os.WriteFile(outside+"/passwd", []byte("root:x:0:0:root:/secret:/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, root+"/etc"); err != nil {
		t.Fatal(err)
	}
	if got := home(root, 0); got != "/" {
		t.Errorf("the home is %q", got)
	}
}
