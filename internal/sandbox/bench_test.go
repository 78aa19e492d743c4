package sandbox

import (
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"brig/internal/idmap"
	"brig/internal/launch"

	"golang.org/x/sys/unix"
)

// BenchmarkRun is one foreground sandbox with every layer on, from request to nothing left.
func BenchmarkRun(b *testing.B) {
	needRoot(b)
	s := openStore(b)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	for b.Loop() {
		if r, err := s.Run(&Request{Spec: hostView(b, "/usr/bin/true")}, Streams{Out: null, Err: null}); err != nil || r.ExitCode != 0 {
			b.Fatal(r, err)
		}
	}
}

// BenchmarkBare is the least that the same namespaces cost: clone3 with the id maps, and execve.
func BenchmarkBare(b *testing.B) {
	needRoot(b)
	runtime.LockOSThread()
	maps := idmap.Range{First: 1 << 20, Size: idmap.Size}.Mappings()
	for b.Loop() {
		p := launch.New()
		p.Await(launch.PointNamespaces)
		p.Execve("/usr/bin/true", []string{"true"}, nil)
		c, err := p.Start(launch.Clone{Flags: unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP}, nil)
		if err != nil {
			b.Fatal(err)
		}
		if err := c.WaitFor(launch.PointNamespaces); err != nil {
			b.Fatal(err)
		}
		if err := idmap.WriteMaps(c.PID, idmap.Maps{UID: maps, GID: maps}); err != nil {
			b.Fatal(err)
		}
		_ = c.Continue()
		if err := c.WaitExec(); err != nil {
			b.Fatal(err)
		}
		_, _ = unix.Wait4(c.PID, nil, 0, nil)
		_ = c.Release()
	}
}

// BenchmarkForkExec is os/exec without any namespace.
func BenchmarkForkExec(b *testing.B) {
	for b.Loop() {
		cmd := exec.Command("/usr/bin/true")
		cmd.SysProcAttr = &syscall.SysProcAttr{}
		if err := cmd.Run(); err != nil {
			b.Fatal(err)
		}
	}
}
