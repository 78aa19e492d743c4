package attack

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"brig/internal/testenv"

	"golang.org/x/sys/unix"
)

// pty makes a terminal.
func pty(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	fd := int(master.Fd()) //nolint:gosec // a descriptor
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slave.Close() })
	return master, slave
}

// TestTerminal types into the caller's terminal, and into one of the sandbox's own.
func TestTerminal(t *testing.T) {
	t.Parallel()
	need(t)
	run := func(name string, args ...string) result {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, slave := pty(t)
		c := command(ctx, name, args...)
		// The caller's terminal is standard input and the controlling terminal.
		c.Stdin, c.SysProcAttr = slave, &syscall.SysProcAttr{Setsid: true, Setctty: true}
		r := finish(c)
		r.out = strings.TrimLeft(strings.ReplaceAll(r.out, "\r", ""), "x") // what was typed is echoed
		return r
	}
	for _, preset := range presets {
		for _, extra := range [][]string{{"-i"}, {"-it"}, {"-t", "--init"}} {
			each(t, append([]string{"--preset", preset}, extra...), func(t *testing.T, flags []string) {
				word, reason := run(bench.brig, append([]string{"--root", bench.state}, runArgs(views()[0], flags, "tiocsti")...)...).verdict()
				// In compat Docker's filter allows the ioctl: it types into the sandbox's own terminal, where there is one.
				if own := preset == "compat" && extra[0] != "-i"; word != "HELD" && !(own && word == "ESCAPED") {
					t.Errorf("%s: %s", word, reason)
				}
			})
		}
	}
	if word, reason := run(bench.attacker, "tiocsti").verdict(); word != "ESCAPED" {
		t.Errorf("control: %s: %s", word, reason)
	}
}

// TestOldArchitecture runs the attacker built for the 32-bit architecture. Default and strict kill it at its first call;
// in compat, which serves that architecture, it must be held as the other is.
func TestOldArchitecture(t *testing.T) {
	t.Parallel()
	need(t)
	if bench.old == "" {
		t.Log("this machine has no second architecture")
		return
	}
	if _, ok := testenv.Differs(t); ok {
		r := brig(t, append(append([]string{"run"}, testenv.IsolationFlags()...), "--rootfs", bench.rootfs, "--", "/attack386", "keyctl")...)
		if r.code != 126 {
			t.Errorf("%+v", r)
		}
		return
	}
	old := func(preset string, attack ...string) result {
		return brig(t, append([]string{"run", "-e", bench.mark, "--rootfs", bench.rootfs, "--preset", preset, "--", "/attack386"}, attack...)...)
	}
	for _, preset := range []string{"default", "strict"} {
		if r := old(preset, "keyctl"); r.code != 128+int(unix.SIGSYS) || r.out != "" {
			t.Errorf("%s: %+v", preset, r)
		}
	}
	for _, r := range rows() {
		_, granted := r.granted["compat"]
		if granted || len(r.flags) > 0 || r.only != "" || len(r.attack) == 0 || strings.Contains(r.name, "int80") || strings.Contains(r.name, "x32") {
			continue
		}
		switch r.attack[0] {
		case "fill", "inodes", "hog", "walk", "fork-bomb", "devices":
			continue // as the other's
		case "tcp", "abstract", "abstract-datagram":
			continue // the sockets of a 32-bit Go program are made by socketcall, which is refused
		}
		t.Run(r.name, func(t *testing.T) {
			word, reason := old("compat", fill(t, r.attack)...).verdict()
			count("i386 compat", word)
			if word != "HELD" {
				t.Errorf("%s: %s", word, reason)
			}
		})
	}
	// The control: the same program without the filter.
	r := brig(t, slices.Concat([]string{"run", "-e", bench.mark, "--rootfs", bench.rootfs}, noFilter, noModule, []string{"--", "/attack386", "keyctl"})...)
	if word, reason := r.verdict(); word != "ESCAPED" {
		t.Errorf("control: %s: %s", word, reason)
	}
}
