package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// greedAttacks use up what the machine has, or do not go when they are told to.
var greedAttacks = []attack{
	{"fork-bomb", forkBomb},
	{"bomb", bomb},
	{"hog", hog},
	{"flood", func([]string) verdict {
		b := bytes.Repeat([]byte("brig attack "), 4096)
		for {
			if _, err := os.Stdout.Write(b); err != nil {
				return held("%v", err)
			}
		}
	}},
	{"ignore", func([]string) verdict {
		signal.Ignore()
		fmt.Println("READY")
		for {
			_ = unix.Pause()
		}
	}},
	{"sleep", func([]string) verdict {
		for {
			_ = unix.Pause()
		}
	}},
	{"orphan", orphan},
	{"undying", func([]string) verdict {
		// Not to die with the supervisor: the signal for that is the process's own to change.
		// The filter of two presets knows: then it lives as long as its supervisor, and that is what the test sees.
		_ = unix.Prctl(unix.PR_SET_PDEATHSIG, 0, 0, 0, 0)
		signal.Ignore()
		fmt.Println("READY")
		for {
			_ = unix.Pause()
		}
	}},
}

// forkBomb makes processes until it may not, or the argument is passed. They live until it ends.
func forkBomb(args []string) verdict {
	limit, err := strconv.Atoi(argument(args, 0, "200"))
	if err != nil {
		return broken("%v", err)
	}
	var none [6]uintptr
	var children []int
	defer func() {
		for _, pid := range children {
			_ = unix.Kill(pid, unix.SIGKILL)
			_, _ = unix.Wait4(pid, nil, 0, nil)
		}
	}()
	for n := range limit + 1 {
		pid, e := fork(0, unix.SYS_RT_SIGSUSPEND, suspend(&none))
		if e == unix.EAGAIN {
			return held("EAGAIN after %d processes", n)
		}
		if e != 0 {
			return broken("fork: %v", e)
		}
		children = append(children, int(pid))
	}
	return escaped("made more than %d processes", limit)
}

// suspend are the arguments of a wait for a signal that never comes.
func suspend(a *[6]uintptr) *[6]uintptr {
	a[0], a[1] = address(make([]byte, 8)), 8
	return a
}

// bomb forks as fast as it can, in every process, and never ends by itself.
func bomb([]string) verdict {
	fmt.Println("READY")
	for {
		pid, _, _ := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		_ = pid
	}
}

// hog takes memory of one kind until it is refused or killed, or the second argument (MiB) is passed.
func hog(args []string) verdict {
	limit, err := strconv.Atoi(argument(args, 1, "256"))
	if err != nil {
		return broken("%v", err)
	}
	take := map[string]func() error{"anonymous": hogAnonymous, "memfd": hogMemfd, "shm": hogShm, "pipes": hogPipes, "sockets": hogSockets, "files": hogFiles}[argument(args, 0, "anonymous")]
	if take == nil {
		return broken("there are anonymous, memfd, shm, pipes, sockets and files")
	}
	for n := range limit {
		if err := take(); err != nil {
			return held("%v after %d MiB", err, n)
		}
	}
	return escaped("took %d MiB as %s", limit, argument(args, 0, "anonymous"))
}

func hogAnonymous() error {
	_, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
	return err
}

func hogMemfd() error {
	fd, err := unix.MemfdCreate("hog", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, make([]byte, 1<<20))
	return err
}

func hogShm() error {
	id, err := unix.SysvShmGet(0, 1<<20, 0o1600)
	if err != nil {
		return err
	}
	b, err := unix.SysvShmAttach(id, 0, 0)
	if err != nil {
		return err
	}
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	return nil
}

// hogPipes fills pipes: memory of the kernel's own.
func hogPipes() error {
	b := make([]byte, 64<<10)
	for taken := 0; taken < 1<<20; {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
			return err
		}
		n, err := unix.Write(p[1], b)
		if err != nil {
			return err
		}
		taken += n
	}
	return nil
}

func hogSockets() error {
	b := make([]byte, 32<<10)
	for taken := 0; taken < 1<<20; {
		p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		for {
			n, err := unix.Write(p[0], b)
			if err != nil {
				break
			}
			taken += n
		}
	}
	return nil
}

var hogged int

func hogFiles() error {
	hogged++
	fd, err := unix.Open(fmt.Sprintf("/tmp/hog-%d", hogged), unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	_, err = unix.Write(fd, make([]byte, 1<<20))
	return err
}

// orphan leaves a process behind that has nothing to do with it any more: another parent, another session, no streams.
// With an argument it is the one in between, or the one that stays.
func orphan(args []string) verdict {
	next := map[string]string{"": "between", "between": "last"}[argument(args, 0, "")]
	if next == "" {
		signal.Ignore()
		os.Stdout.WriteString("READY\n") //nolint:errcheck // nobody may listen
		for fd := range 3 {
			_ = unix.Close(fd)
		}
		for {
			_ = unix.Pause()
		}
	}
	c := exec.Command("/proc/self/exe", "orphan", next)
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := c.StdoutPipe()
	if err != nil {
		return broken("%v", err)
	}
	if err := c.Start(); err != nil {
		return broken("%v", err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "READY\n" {
		return broken("the orphan said %q, %v", line, err)
	}
	os.Stdout.WriteString("READY\n") //nolint:errcheck // the driver sees
	if next == "between" {
		return held("a process is left behind")
	}
	os.Exit(0)
	return verdict{}
}
