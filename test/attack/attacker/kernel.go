package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"brig/internal/isolation/gvisor/job"

	"golang.org/x/sys/unix"
)

// Under the name brig-gvisor this program stands for gVisor's kernel process, or its file server, in a guest's hand: it is started as they
// are, and loads none of the filters that they load. What it tries is the program that Brig asks it to start.

// compromised are the two, and what Brig asks before a checkpoint.
var compromised = map[string]func() error{
	"sentry": compromisedKernel, "gofer": compromisedGofer,
	"version": func() error { _, err := fmt.Println("compromised\ninterface", job.Interface); return err },
}

// compromisedKernel does as the kernel process until the program is to be started, and attacks then.
func compromisedKernel() error {
	j := &job.Job{}
	if err := json.NewDecoder(os.NewFile(job.FD, "job")).Decode(j); err != nil {
		return err
	}
	if j.Pod { // for an engine, which hears of the start apart from the making
		if _, err := unix.Write(job.StatusFD, []byte(`{"config":{}}`+"\n")); err != nil {
			return err
		}
	}
	if args := j.Spec.Process.Args[1:]; args[0] == "lie" {
		return lie(args[1], args[2])
	}
	for method := ""; method != "containerManager.StartRoot"; {
		var err error
		if method, err = answer(); err != nil {
			return err
		}
	}
	v := asKernel(j, j.Spec.Process.Args[1:])
	fmt.Println(v.word, v.text)
	status, err := json.Marshal(job.End{Status: uint32(codes[v.word]) << 8})
	if err == nil {
		_, err = unix.Write(job.StatusFD, status)
	}
	if err == nil && j.Exits {
		os.Exit(codes[v.word])
	}
	return err
}

// answer says yes to one call of Brig's.
func answer() (method string, err error) {
	fd, _, err := unix.Accept4(job.ControlFD, unix.SOCK_CLOEXEC)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), "control") //nolint:gosec // a descriptor
	defer f.Close()                         //nolint:errcheck // said
	var asked struct{ Method string }
	if err := json.NewDecoder(f).Decode(&asked); err != nil {
		return "", err
	}
	_, err = io.WriteString(f, `{"success":true}`)
	return asked.Method, err
}

// asKernel attacks: "in-gofer ATTACK…" has the file server do it, and {gofer} is that one's pid.
func asKernel(j *job.Job, args []string) verdict {
	if args[0] != "in-gofer" && !slices.Contains(args, "{gofer}") {
		return perform(args)
	}
	if !j.Gofer {
		return broken("there is no file server")
	}
	if args[0] == "in-gofer" {
		v, err := askGofer(args[1:])
		if err != nil {
			return broken("ask the file server: %v", err)
		}
		return v
	}
	v, err := askGofer([]string{"pid"})
	if err != nil {
		return broken("ask the file server: %v", err)
	}
	args = slices.Clone(args)
	args[slices.Index(args, "{gofer}")] = v.text
	return perform(args)
}

var errEnded = errors.New("it ended")

func askGofer(args []string) (verdict, error) {
	if _, err := unix.Write(job.RootFD, []byte(strings.Join(args, "\x00"))); err != nil {
		return verdict{}, err
	}
	b := make([]byte, 4096)
	n, err := unix.Read(job.RootFD, b)
	if err != nil || n == 0 {
		return verdict{}, errors.Join(errEnded, err)
	}
	word, text, _ := strings.Cut(string(b[:n]), " ")
	return verdict{word, text}, nil
}

// compromisedGofer does what comes over its first connection until that is closed.
func compromisedGofer() error {
	b := make([]byte, 4096)
	for {
		n, err := unix.Read(job.FirstServedFD, b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return err
		}
		v := verdict{"HELD", strconv.Itoa(os.Getpid())}
		if args := strings.Split(string(b[:n]), "\x00"); args[0] != "pid" {
			v = perform(args)
		}
		if _, err := unix.Write(job.FirstServedFD, []byte(v.word+" "+v.text)); err != nil {
			return err
		}
	}
}
