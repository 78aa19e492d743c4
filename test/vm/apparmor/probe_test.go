//go:build vm

package apparmor

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// probe is the program in the sandbox. It tries one thing and says "done", or the name of the error.
func probe(verb string, args []string) int {
	switch err := attacks[verb](args); {
	case err == nil:
		fmt.Println("done")
	default:
		var e unix.Errno
		if errors.As(err, &e) {
			fmt.Println(unix.ErrnoName(e))
		} else {
			fmt.Println(err)
		}
	}
	return 0
}

func open(name string, flags int) error {
	f, err := os.OpenFile(name, flags, 0o600)
	if err == nil {
		err = f.Close()
	}
	return err
}

func socket(family, kind, protocol int) error {
	fd, err := unix.Socket(family, kind, protocol)
	if err == nil {
		err = unix.Close(fd)
	}
	return err
}

func target(args []string) int {
	pid, err := strconv.Atoi(args[0])
	if err != nil {
		panic(err)
	}
	return pid
}

var attacks = map[string]func([]string) error{
	"mount": func([]string) error {
		if err := os.MkdirAll("/tmp/on", 0o700); err != nil {
			return err
		}
		return unix.Mount("none", "/tmp/on", "tmpfs", 0, "")
	},
	"umount":  func([]string) error { return unix.Unmount("/tmp", unix.MNT_DETACH) },
	"remount": func([]string) error { return unix.Mount("", "/tmp", "", unix.MS_REMOUNT|unix.MS_BIND, "") },
	"movemount": func([]string) error {
		fd, err := unix.OpenTree(unix.AT_FDCWD, "/tmp", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return err
		}
		return unix.MoveMount(fd, "", unix.AT_FDCWD, "/run", unix.MOVE_MOUNT_F_EMPTY_PATH)
	},
	"pivot_root": func([]string) error {
		if err := os.MkdirAll("/tmp/old", 0o700); err != nil {
			return err
		}
		return unix.PivotRoot("/tmp", "/tmp/old")
	},
	"hostname":  func([]string) error { return unix.Sethostname([]byte("taken")) },
	"chown":     func([]string) error { return os.Chown("/tmp", 1, 1) },
	"rawsocket": func([]string) error { return socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) },
	"packet":    func([]string) error { return socket(unix.AF_PACKET, unix.SOCK_RAW, 0) },
	"datagram":  func([]string) error { return socket(unix.AF_INET, unix.SOCK_DGRAM, 0) },
	"signal":    func(a []string) error { return unix.Kill(target(a), 0) },
	"ptrace":    func(a []string) error { return unix.PtraceSeize(target(a)) },
	"write":     func(a []string) error { return open(a[0], os.O_WRONLY) },
	"create":    func(a []string) error { return open(a[0], os.O_WRONLY|os.O_CREATE) },
	"read":      func(a []string) error { return open(a[0], os.O_RDONLY) },
	"execute": func(a []string) error {
		data, err := os.ReadFile("/proc/self/exe")
		if err == nil {
			err = os.WriteFile(a[0], data, 0o700) //nolint:gosec // it is to be executed
		}
		if err != nil {
			return err
		}
		return exec.Command(a[0], "-probe", "nothing").Run()
	},
	"nothing": func([]string) error { return nil },
	"change": func([]string) error {
		return os.WriteFile("/proc/self/attr/apparmor/current", []byte("changeprofile unconfined"), 0)
	},
	"wait": func([]string) error {
		fmt.Println("READY")
		time.Sleep(10 * time.Minute)
		return nil
	},
	"own": func([]string) error {
		// What every program does must go on working.
		if err := os.WriteFile("/proc/self/comm", []byte("other"), 0); err != nil {
			return fmt.Errorf("comm: %w", err)
		}
		if err := os.WriteFile("/tmp/a", []byte("a"), 0o600); err != nil {
			return err
		}
		if err := os.Link("/tmp/a", "/tmp/b"); err != nil {
			return fmt.Errorf("link: %w", err)
		}
		if err := os.Rename("/tmp/b", "/tmp/c"); err != nil {
			return err
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		child := exec.Command("/proc/self/exe", "-probe", "wait")
		if err := child.Start(); err != nil {
			return fmt.Errorf("start: %w", err)
		}
		if err := child.Process.Kill(); err != nil {
			return fmt.Errorf("kill: %w", err)
		}
		_ = child.Wait()
		return errors.Join(c.Close(), l.Close())
	},
}
