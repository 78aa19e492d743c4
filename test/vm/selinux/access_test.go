//go:build vm

package selinux

import (
	"io"
	"os"
	"testing"

	"brig/internal/mac/selinux"
)

// TestAllowed: what the loaded policy says of labels, by its rules and by categories.
func TestAllowed(t *testing.T) {
	need(t)
	const root, net = "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023", "system_u:system_r:brig_net_t:s0:c1,c2"
	for _, c := range []struct {
		subject, object, class, permission string
		want                               bool
	}{
		{root, net, "process", "transition", true},
		{root, net, "process2", "nnp_transition", true},
		{root, "system_u:system_r:container_t:s0:c1,c2", "process", "transition", false},
		{root, "system_u:system_r:brig_test_t:s0:c1,c2", "process2", "nnp_transition", false},
		{net, "system_u:object_r:brig_file_t:s0:c1,c2", "file", "write", true},
		{net, "system_u:object_r:brig_file_t:s0:c1,c3", "file", "write", false},
		{net, selinux.Shared, "file", "write", true},
		{net, selinux.Image, "file", "read", true},
		{net, selinux.Image, "file", "write", false},
		{net, root, "fifo_file", "write", false},
		{net, "unconfined_u:unconfined_r:unconfined_t:s0", "fifo_file", "write", true},
		{net, net, "process", "sigkill", true},
		{net, "system_u:system_r:brig_net_t:s0:c1,c3", "process", "sigkill", false},
		{net, "system_u:system_r:brig_t:s0:c1,c3", "process", "ptrace", false},
		{net, "system_u:system_r:brig_net_t:s0:c1,c3", "unix_stream_socket", "connectto", false},
		{net, "system_u:system_r:brig_net_t:s0:c1,c3", "process", "signull", false},
		{net, root, "process", "sigkill", false},
		{net, net, "cap_userns", "sys_admin", false},
		{"system_u:system_r:brig_t:s0:c1,c2", "system_u:system_r:brig_t:s0:c1,c2", "tcp_socket", "create", false},
		{net, "system_u:system_r:brig_net_t:s0:c1,c3", "shm", "read", false},
		{net, "system_u:object_r:etc_t:s0", "file", "write", false},
	} {
		got, err := selinux.Allowed(c.subject, c.object, c.class, c.permission)
		if err != nil || got != c.want {
			t.Errorf("%s %s on %s: %t, %v", c.subject, c.permission, c.object, got, err)
		}
	}
}

// TestMayInherit: a pipe of root's login is closed to a sandbox, and its maker can use it when it has the sandbox's label.
func TestMayInherit(t *testing.T) {
	need(t)
	labels, err := selinux.ForPair(selinux.Local, 5)
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close() //nolint:errcheck // a test's
	for _, f := range []*os.File{r, w} {
		if ok, err := selinux.MayInherit(labels.Process, f); ok || err != nil {
			t.Errorf("with the caller's categories: %t, %v", ok, err)
		}
	}
	if err := selinux.SetLabel(r, labels.File); err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString("x"); err != nil {
		t.Error(err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if text, err := io.ReadAll(r); err != nil || string(text) != "x" {
		t.Errorf("the maker of a labelled pipe reads %q, %v", text, err)
	}
}
