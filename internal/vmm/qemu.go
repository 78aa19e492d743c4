package vmm

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"brig/internal/vmm/agent"

	"golang.org/x/sys/unix"
)

// process is QEMU.
type process struct {
	done chan struct{}
}

func (p *process) wait() { <-p.done }

// launch starts QEMU and gives the host's end of the channel, which the caller closes.
func (m *Machine) launch(ctx context.Context, c *Config, files *prepared) (net.Conn, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	guest, host := os.NewFile(uintptr(pair[0]), "channel"), os.NewFile(uintptr(pair[1]), "channel")
	defer guest.Close()
	defer host.Close()
	channel, err := net.FileConn(host)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64") //nolint:gosec // QEMU
	cmd.ExtraFiles = []*os.File{guest, files.initramfs}
	cmd.Args = append(cmd.Args, machine(c)...)
	for i, f := range files.folders {
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		cmd.Args = append(cmd.Args, drive(fmt.Sprintf("folder%d", i), fmt.Sprintf("/proc/self/fd/%d", 2+len(cmd.ExtraFiles)), true)...)
	}
	cmd.Stdout, cmd.Stderr = m.console, m.console
	confine(cmd)
	if err := m.spawn(cmd); err != nil {
		_ = channel.Close()
		return nil, err
	}
	return channel, nil
}

// confine has the program end with its starter, and not with what is typed at the starter's terminal.
func confine(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

// spawn starts QEMU from a thread that lives as long: the parent-death signal is that of a thread (PR_SET_PDEATHSIG(2const)).
func (m *Machine) spawn(cmd *exec.Cmd) error {
	started := make(chan error, 1)
	p := &process{done: make(chan struct{})}
	go func() {
		runtime.LockOSThread()
		defer close(p.done)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how a machine ends is told by its channel and its console
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("%w: install QEMU (Debian: qemu-system-x86)", err)
	}
	m.qemu = p
	return nil
}

// machine are QEMU's arguments. The emulation is QEMU's own (TCG): a stock kernel does not run under every machine's nested KVM.
// Five-level paging is off because programs that tag pointers fail with it.
//
// The kernel is booted as the package has it. An unpacked vmlinux would spare a tenth of the processor time of a bare boot (2.5 s of 2.75
// with Debian's 6.1), and has its place in memory from the linker: only the bzImage's own start chooses another (KASLR).
func machine(c *Config) []string {
	memory, cpus := c.Memory, c.CPUs
	if memory == 0 {
		memory = 1 << 30
	}
	if cpus == 0 {
		cpus = 1
	}
	cmdline := "console=ttyS0 panic=-1 quiet"
	for _, word := range c.Cmdline {
		cmdline += " " + word
	}
	args := []string{
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none",
		"-accel", "tcg,thread=multi", "-M", "q35", "-cpu", "max,la57=off",
		"-smp", fmt.Sprint(cpus), "-m", fmt.Sprintf("%dk", memory>>10),
		"-kernel", c.Kernel.Image, "-initrd", "/proc/self/fd/4", "-append", cmdline,
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-device", "virtio-serial", "-chardev", "socket,id=channel,fd=3",
		"-device", "virtserialport,chardev=channel,name=" + agent.Port,
	}
	args = append(args, drive("root", c.Root, true)...)
	for i, d := range c.Disks {
		args = append(args, drive(fmt.Sprintf("disk%d", i), d, false)...)
	}
	return args
}

// drive is a virtio disk. A comma in a file's name is written twice (qemu(1)).
func drive(serial, file string, readonly bool) []string {
	access := "off"
	if readonly {
		access = "on"
	}
	return []string{
		"-drive", fmt.Sprintf("if=none,id=%s,format=raw,readonly=%s,file=%s", serial, access, strings.ReplaceAll(file, ",", ",,")),
		"-device", fmt.Sprintf("virtio-blk-pci,drive=%s,serial=%s", serial, serial),
	}
}
