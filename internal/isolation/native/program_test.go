package native

import (
	"errors"
	"os"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestMayWrite: who could write to the runtime's file, and so has to be kept from it by a seal (CVE-2019-5736).
func TestMayWrite(t *testing.T) {
	t.Parallel()
	mapped := func(first, size uint32) []specs.LinuxIDMapping {
		return []specs.LinuxIDMapping{{HostID: first, Size: size}}
	}
	own := []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.UserNamespace}}
	for _, c := range []struct {
		what     string
		ns       []specs.LinuxNamespace
		ids      []specs.LinuxIDMapping
		uid, gid uint32
		mode     uint32
		want     bool
	}{
		{"the host's root", nil, nil, 0, 0, 0o755, true},
		{"ids of its own, root's file", own, mapped(100000, 65536), 0, 0, 0o755, false},
		{"a map with the host's root in it", own, mapped(0, 65536), 0, 0, 0o755, true},
		{"an unprivileged user, root's file", own, mapped(1000, 1), 0, 0, 0o755, false},
		{"an unprivileged user's own file", own, mapped(1000, 1), 1000, 1000, 0o755, true},
		{"its own file, though read-only: it may change the mode", own, mapped(1000, 1), 1000, 1000, 0o555, true},
		{"the last mapped id", own, mapped(100000, 65536), 165535, 0, 0o755, true},
		{"the first one behind", own, mapped(100000, 65536), 165536, 0, 0o755, false},
		{"a group that may write", own, mapped(100000, 65536), 0, 100001, 0o775, true},
		{"a group that may read", own, mapped(100000, 65536), 0, 100001, 0o755, false},
		{"everybody may write", own, mapped(100000, 65536), 0, 0, 0o757, true},
		{"a user namespace that is joined", []specs.LinuxNamespace{{Type: specs.UserNamespace, Path: "/proc/1/ns/user"}}, mapped(100000, 65536), 0, 0, 0o755, true},
	} {
		s := &specs.Spec{Linux: &specs.Linux{Namespaces: c.ns, UIDMappings: c.ids, GIDMappings: c.ids}}
		if got := MayWrite(s, &unix.Stat_t{Uid: c.uid, Gid: c.gid, Mode: unix.S_IFREG | c.mode}); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}

// TestSealWhileHeld: a page of the copy that somebody has a hold on delays the seal, and is no error when it is let go.
func TestSealWhileHeld(t *testing.T) {
	t.Parallel()
	held := func() (file, pipe *os.File) {
		t.Helper()
		fd, err := unix.MemfdCreate("held", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		if err != nil {
			t.Fatal(err)
		}
		file = os.NewFile(uintptr(fd), "held")
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _, _ = file.Close(), r.Close(), w.Close() })
		if _, err := file.WriteString("text"); err != nil {
			t.Fatal(err)
		}
		begin := int64(0)
		if n, err := unix.Splice(fd, &begin, int(w.Fd()), nil, 4, 0); n != 4 || err != nil { // the pipe has the page, not a copy of it
			t.Fatal(n, err)
		}
		return file, r
	}
	file, pipe := held()
	sealed := make(chan error)
	go func() { sealed <- Seal(file) }()
	other, _ := held()
	for range 2 { // by when the first try for the file has failed
		if _, err := unix.FcntlInt(other.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE); !errors.Is(err, unix.EBUSY) {
			t.Fatalf("a page in a pipe does not hold up a seal: %v", err)
		}
	}
	if _, err := pipe.Read(make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	if err := <-sealed; err != nil {
		t.Error(err)
	}
	if _, err := file.WriteAt([]byte("x"), 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("it can be written to: %v", err)
	}
}
