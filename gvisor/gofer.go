package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"brig/internal/isolation/gvisor/job"
	"brig/internal/resident"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/lisafs"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/unet"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/fsgofer"
)

// gofer serves the files of a sandbox that has not all of them in its image: the kernel process opens none itself, and asks
// here by gVisor's protocol, LISAFS. It ends when the last of its sockets is closed, which is when the kernel process ends.
//
// Where gVisor's own gofer makes itself a root folder, mounts into it and drops rights, this one starts in what Brig made of the
// sandbox's mounts, with the five capabilities over files and no other. What is left is gVisor's filter of system calls.
func gofer() error {
	files, err := readFiles()
	if err != nil {
		return err
	}
	log.SetTarget(log.GoogleEmitter{Writer: &log.Writer{Next: io.Discard}})
	if err := openProc(); err != nil {
		return err
	}
	server := lisafs.NewServer()
	connections, err := connect(server, files)
	if err != nil {
		return err
	}
	unix.Umask(0) // a mode is the guest's, with the guest's mask
	if err := installGoferFilter(); err != nil {
		return err
	}
	for _, c := range connections {
		server.StartConnection(c)
	}
	settled := time.AfterFunc(resident.Settled, resident.Trim)
	defer settled.Stop()
	server.Wait()
	server.Destroy()
	return nil
}

func readFiles() (*job.Files, error) {
	f := os.NewFile(job.FilesFD, "files")
	defer f.Close() //nolint:errcheck // it was only read
	files := &job.Files{}
	if err := json.NewDecoder(f).Decode(files); err != nil {
		return nil, fmt.Errorf("this program is brig's own and reads from file descriptor %d what it serves: %w", job.FilesFD, err)
	}
	if len(files.Served) == 0 {
		return nil, fmt.Errorf("file descriptor %d names nothing to serve", job.FilesFD)
	}
	for _, s := range files.Served {
		if !filepath.IsAbs(s.Path) {
			return nil, fmt.Errorf("serve %q: not an absolute path", s.Path)
		}
	}
	return files, nil
}

// openProc gives gVisor /proc/self/fd of a procfs that is in no tree. It takes a path only.
func openProc() error {
	if err := unix.Fchdir(job.ProcFD); err != nil {
		return fmt.Errorf("enter the procfs that is file descriptor %d: %w", job.ProcFD, err)
	}
	if err := fsgofer.OpenProcSelfFD("self/fd"); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("leave the procfs: %w", err)
	}
	return unix.Close(job.ProcFD)
}

// connect makes a connection of each socket.
func connect(server *lisafs.Server, files *job.Files) ([]*lisafs.Connection, error) {
	conf := &fsgofer.Config{
		HostUDS: config.HostUDSNone, HostFifo: config.HostFifoNone, CharDevicePolicy: config.CharDevEmulatedOnly,
		RUID: unix.Getuid(), EUID: unix.Geteuid(), RGID: unix.Getgid(), EGID: unix.Getegid(),
	}
	var connections []*lisafs.Connection
	for i, s := range files.Served {
		socket, err := unet.NewSocket(job.FirstServedFD + i)
		if err != nil {
			return nil, fmt.Errorf("serve %s on file descriptor %d: %w", s.Path, job.FirstServedFD+i, err)
		}
		c, err := server.CreateConnection(socket, s.Path, fsgofer.ConnectionOpts(s.ReadOnly), fsgofer.NewConnectionImpl(conf))
		if err != nil {
			return nil, fmt.Errorf("serve %s: %w", s.Path, err)
		}
		connections = append(connections, c)
	}
	return connections, nil
}
