// Package vmm runs a virtual machine for a while: a kernel out of a distribution's package, a root file system that is an EROFS
// image, folders carried in and files carried out, programs run inside with their streams and exit codes. QEMU is the monitor.
//
// Its place on the road: none of the native isolation's. The tests that need another kernel stand on it, and the isolation vm
// will. Package vmm/agent is its other end, the first program inside.
//
// A Machine leaves nothing: its disks and initramfs are files without a name, its channel is a socket pair, and QEMU ends with
// whoever started it.
package vmm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"brig/internal/vmm/agent"

	"github.com/hashicorp/yamux"
)

// Folder is one of the host that is carried into the machine, read-only, as a copy made at the start.
type Folder struct {
	Host, Guest string
}

// Config says what machine is started.
type Config struct {
	Kernel *Kernel
	// Agent is the file of brig-agent.
	Agent string
	// Root is an EROFS image; the machine writes above it into memory.
	Root    string
	Folders []Folder
	// Disks are raw files that the machine writes to: /dev/disk/by-id is not made, their serial numbers are "disk0", ….
	Disks []string
	// Modules are loaded beside those that the machine itself needs, in this order.
	Modules []string
	// Cmdline are further words for the kernel.
	Cmdline []string
	// Memory is in bytes (0: 1 GiB), CPUs a number (0: 1).
	Memory int64
	CPUs   int
	// Init is run as process 1, instead of the agent, which serves beside it.
	Init []string
	// Console takes what the kernel and Init print; nil keeps the last of it for errors only.
	Console io.Writer
}

// Machine is one that runs.
type Machine struct {
	session *yamux.Session
	console *tail
	cancel  context.CancelFunc
	qemu    *process
}

// Command is a program to be run inside.
type Command struct {
	Argv []string
	// Env is the whole environment; nil is the agent's: PATH, HOME and TERM.
	Env      []string
	Dir      string
	UID, GID uint32
	Stdin    io.Reader
	Stdout   io.Writer
	Stderr   io.Writer
}

// Start boots a machine and returns when its agent answers. The machine ends with ctx.
func Start(ctx context.Context, c Config) (*Machine, error) {
	ctx, cancel := context.WithCancel(ctx)
	m := &Machine{cancel: cancel, console: &tail{also: c.Console}}
	if err := m.start(ctx, &c); err != nil {
		return nil, errors.Join(fmt.Errorf("start a virtual machine: %w", err), m.Close())
	}
	return m, nil
}

func (m *Machine) start(ctx context.Context, c *Config) error {
	files, err := prepare(c)
	defer files.close()
	if err != nil {
		return err
	}
	channel, err := m.launch(ctx, c, files)
	if err != nil {
		return err
	}
	if m.session, err = yamux.Client(channel, agent.Mux()); err != nil {
		return errors.Join(err, channel.Close())
	}
	if _, err := m.Run(ctx, Command{Argv: []string{"/bin/true"}}); err != nil {
		return err
	}
	return nil
}

// Run runs a program to its end and gives its exit code. It fails when the program cannot be started, or the machine ends.
// When ctx ends, the program is killed.
func (m *Machine) Run(ctx context.Context, c Command) (int, error) {
	req := agent.Request{Kind: agent.Run, Argv: c.Argv, Env: c.Env, Dir: c.Dir, UID: c.UID, GID: c.GID}
	e, err := m.call(ctx, req, c.Stdin, c.Stdout, c.Stderr)
	if err != nil {
		return 0, fmt.Errorf("run %s in the virtual machine: %w", strings.Join(c.Argv, " "), err)
	}
	return e.Code, nil
}

// Push copies a folder's contents, or a file, into a folder of the machine.
func (m *Machine) Push(ctx context.Context, host, guest string) error {
	r, w := io.Pipe()
	go func() { w.CloseWithError(agent.Pack(host, w)) }()
	defer r.Close()
	if _, err := m.call(ctx, agent.Request{Kind: agent.Put, Dir: guest}, r, nil, nil); err != nil {
		return fmt.Errorf("copy %s into the virtual machine: %w", host, err)
	}
	return nil
}

// Pull copies a folder's contents, or a file, of the machine into a folder of the host. What a machine names cannot lie outside
// of it.
func (m *Machine) Pull(ctx context.Context, guest, host string) error {
	r, w := io.Pipe()
	unpacked := make(chan error, 1)
	go func() {
		err := agent.Unpack(host, r)
		r.CloseWithError(err)
		unpacked <- err
	}()
	_, err := m.call(ctx, agent.Request{Kind: agent.Take, Dir: guest}, nil, w, nil)
	_ = w.CloseWithError(err) // no error is the end of the file
	if err := errors.Join(err, <-unpacked); err != nil {
		return fmt.Errorf("copy %s out of the virtual machine: %w", guest, err)
	}
	return nil
}

func (m *Machine) call(ctx context.Context, req agent.Request, in io.Reader, out, errs io.Writer) (agent.Exit, error) {
	stream, err := m.session.Open()
	if err != nil {
		return agent.Exit{}, m.why(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = stream.Close() })
	defer stop()
	e, err := agent.Call(stream, req, in, out, errs)
	switch {
	case ctx.Err() != nil:
		return e, context.Cause(ctx)
	case err != nil:
		return e, m.why(err)
	case e.Error != "":
		return e, errors.New(e.Error)
	}
	return e, nil
}

// why says what the machine's end was, when that is the reason.
func (m *Machine) why(err error) error {
	if m.session.IsClosed() {
		return fmt.Errorf("it has ended: %w; the last it said:\n%s", err, m.console)
	}
	return err
}

// Close ends the machine and frees what it had. A second one does nothing.
func (m *Machine) Close() error {
	m.cancel()
	var err error
	if m.session != nil {
		err = m.session.Close()
	}
	if m.qemu != nil {
		m.qemu.wait()
	}
	return err
}

// prepared are files without a name, which QEMU gets as descriptors.
type prepared struct {
	initramfs *os.File
	folders   []*os.File
}

func (p *prepared) close() {
	for _, f := range append(p.folders, p.initramfs) {
		if f != nil {
			_ = f.Close()
		}
	}
}

func prepare(c *Config) (*prepared, error) {
	p := &prepared{}
	for _, folder := range c.Folders {
		f, err := nameless()
		if err != nil {
			return p, err
		}
		p.folders = append(p.folders, f)
		if err := folderImage(folder.Host, f); err != nil {
			return p, err
		}
	}
	var err error
	if p.initramfs, err = nameless(); err != nil {
		return p, err
	}
	return p, writeInitramfs(p.initramfs, c)
}

// nameless makes a file in the folder for temporary ones, and takes its name away.
func nameless() (*os.File, error) {
	f, err := os.CreateTemp("", "brig-vm-")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

// needed are the modules that a machine itself has to have. Where one is built in, or the kernel has none by that name, as with
// crc32c_generic, which erofs looks for by the name of the algorithm, nothing is loaded.
var (
	needed   = []string{"virtio_pci", "virtio_blk", "virtio_console", "erofs", "overlay"}
	optional = []string{"crc32c_generic"}
)

func writeInitramfs(w io.Writer, c *Config) error {
	var modules []string
	for _, m := range optional {
		if c.Kernel.Has(m) {
			modules = append(modules, m)
		}
	}
	modules = append(append(modules, needed...), c.Modules...)
	files, err := c.Kernel.resolve(modules)
	if err != nil {
		return err
	}
	boot := agent.Boot{Init: c.Init, Name: "brig"}
	a := newArchive(w)
	if err := a.folder("modules"); err != nil {
		return err
	}
	for i, file := range files {
		name := fmt.Sprintf("modules/%03d-%s", i, filepath.Base(file))
		if err := a.file(name, 0o644, file); err != nil {
			return err
		}
		boot.Modules = append(boot.Modules, "/"+name)
	}
	for _, f := range c.Folders {
		boot.Folders = append(boot.Folders, f.Guest)
	}
	data, err := json.Marshal(boot)
	if err != nil {
		return err
	}
	if err := a.bytes(agent.BootFile[1:], 0o644, data); err != nil {
		return err
	}
	// The kernel opens the console for process 1, and there is no devtmpfs yet.
	if err := a.folder("dev"); err != nil {
		return err
	}
	if err := a.device("dev/console", 5, 1); err != nil {
		return err
	}
	if err := a.file("init", 0o755, c.Agent); err != nil {
		return err
	}
	return a.close()
}

// tail keeps the last of what is written, and passes all of it on.
type tail struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	also io.Writer
}

const tailSize = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(p)
	if over := t.buf.Len() - tailSize; over > 0 {
		t.buf.Next(over)
	}
	if t.also != nil {
		return t.also.Write(p)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ToValidUTF8(t.buf.String(), "?")
}
