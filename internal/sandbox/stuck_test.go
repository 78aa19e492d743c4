package sandbox

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"brig/internal/annotation"
	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestStuck has a program of a sandbox wait for a file system that does not answer: who stops the sandbox, or removes it, is told in place of
// waiting with it, and it is over when the file system is gone.
func TestStuck(t *testing.T) {
	testenv.Check(t, testenv.Root, testenv.FUSE)
	t.Parallel()
	dir := t.TempDir()
	asked, abort := silent(t, dir)
	spec := hostView(t, "cat", "/v/file")
	spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace }) // FUSE has no idmapped mounts
	delete(spec.Annotations, annotation.IDs)
	spec.Mounts = append(spec.Mounts, specs.Mount{Type: "bind", Source: dir, Destination: "/v", Options: []string{"bind"}})
	s := openStore(t)
	id, err := s.Detach(&Request{Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	defer abort()
	b, err := s.Find(id)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Patience(time.Minute))
	defer cancel()
	select {
	case <-asked:
	case <-ctx.Done():
		t.Fatal("the program does not look for its file")
	}
	ends := make(chan error, 2)
	go func() { ends <- b.Stop(ctx, time.Millisecond) }()
	go func() { ends <- b.Remove(ctx, true) }()
	for range 2 {
		if err := <-ends; !errors.As(err, new(*StuckError)) || !strings.Contains(err.Error(), "a file system that does not answer") {
			t.Errorf("%v", err)
		}
	}
	abort()
	if err := b.Remove(ctx, true); err != nil {
		t.Error(err)
	}
}

// silent mounts a file system (fuse(4)) that says of its root that it is a folder, and answers nothing else. asked is closed when it is to
// look for a file; abort ends it.
func silent(t *testing.T, dir string) (asked <-chan struct{}, abort func()) {
	t.Helper()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == nil {
		t.Cleanup(func() { _ = unix.Close(fd) })
		err = unix.Mount("silent", dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fd))
	}
	if err != nil {
		t.Fatal(err)
	}
	looked := make(chan struct{})
	go serve(fd, looked)
	over := false
	abort = func() {
		if !over {
			over = true
			_ = unix.Unmount(dir, unix.MNT_FORCE) // every request fails, also where the file system is mounted elsewhere
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	}
	t.Cleanup(abort)
	return looked, abort
}

// serve serves it until it is aborted.
func serve(fd int, looked chan<- struct{}) {
	const lookup, getattr, initialize = 1, 3, 26 // fuse_opcode of linux/fuse.h
	le := binary.LittleEndian
	for in, first := make([]byte, 1<<20), true; ; {
		n, err := unix.Read(fd, in)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil || n < 40 {
			return
		}
		var out []byte
		switch le.Uint32(in[4:]) {
		case initialize: // fuse_init_out
			out = make([]byte, 64)
			le.PutUint32(out, 7)
			le.PutUint32(out[4:], 31)
			le.PutUint32(out[20:], 4096)
		case getattr: // fuse_attr_out
			out = make([]byte, 104)
			le.PutUint64(out[16:], 1)
			le.PutUint32(out[16+60:], unix.S_IFDIR|0o777)
			le.PutUint32(out[16+64:], 2)
		case lookup:
			if first {
				close(looked)
				first = false
			}
			continue
		default:
			continue
		}
		head := make([]byte, 16, 16+len(out)) // fuse_out_header
		le.PutUint32(head, uint32(16+len(out)))
		copy(head[8:], in[8:16])
		_, _ = unix.Write(fd, append(head, out...))
	}
}
