package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"brig/internal/isolation/gvisor/job"

	"golang.org/x/sys/unix"
)

// files are the numbers of what a kernel is started with.
type files struct {
	streams               []int
	control, status, root int
	// more are those of the guest, and then the sockets of its mounts.
	more []int
}

// receive gives the job and its files: those that this process was started with, or for a kernel that is kept warm those that come.
// It gives no job when none came.
func receive() (*job.Job, *files, error) {
	var st unix.Stat_t
	if err := unix.Fstat(job.FD, &st); err != nil {
		return nil, nil, fmt.Errorf("this program is brig's own and has its job on file descriptor %d: %w", job.FD, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFSOCK {
		return await()
	}
	return take()
}

// take reads the job, with everything at the numbers of package job.
func take() (*job.Job, *files, error) {
	unix.CloseOnExec(job.StatusFD)
	j, err := readJob(job.FD)
	if err != nil {
		return nil, nil, err
	}
	f := &files{control: job.ControlFD, status: job.StatusFD, root: job.RootFD}
	for i := range j.PassFDs + j.Mounts {
		f.more = append(f.more, job.FirstFD+i)
	}
	if f.streams, err = streams(); err != nil {
		return j, f, err
	}
	if err := lastWords(f.status); err != nil || !j.Exits {
		return j, f, err
	}
	return j, f, lastWordsToo(f.streams[2])
}

// await does what needs no job, and waits for one. What comes gets the numbers that it has for a kernel which is started with its job: a
// guest sees some of them (rfdno in mountinfo).
func await() (*job.Job, *files, error) {
	if err := warm(); err != nil {
		return nil, nil, err
	}
	runtime.GC() // now, and not while the job begins
	if _, err := unix.Write(job.FD, []byte(job.Warm)); err != nil {
		return nil, nil, fmt.Errorf("tell that this kernel is warm: %w", err)
	}
	got, err := receiveFiles(job.FD)
	if err != nil || got == nil {
		return nil, nil, err
	}
	const first = 3 + job.FirstFD - job.FD
	if len(got) < first {
		return nil, nil, fmt.Errorf("a job came with %d files, and not with the %d of each", len(got), first)
	}
	for n, fd := range got {
		if err := place(fd, n); err != nil {
			return nil, nil, err
		}
	}
	j, f, err := take()
	if err == nil && len(got)-first != len(f.more) {
		err = fmt.Errorf("a job with %d files and %d mounts came with %d files for them", j.PassFDs, j.Mounts, len(got)-first)
	}
	return j, f, err
}

// place gives a file a number that has been kept for it: that of a stream, by /dev/null, or for the job by the socket that it came over.
func place(fd, number int) error {
	var st unix.Stat_t
	err := unix.Fstat(number, &st)
	if null := st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3); err == nil && !null && number > job.FD {
		err = errors.New("it is in use")
	}
	if err == nil {
		err = unix.Dup3(fd, number, 0)
	}
	if err != nil {
		return fmt.Errorf("give a file of the job the number %d: %w", number, err)
	}
	return unix.Close(fd)
}

// lastWords has what Go's runtime writes when it cannot go on, to standard error, be said to Brig: beside job.End in its pipe. Nobody reads
// it before this process has ended, so it must not wait there.
func lastWords(status int) error {
	err := unix.SetNonblock(status, true)
	if err == nil {
		err = unix.Dup3(status, int(os.Stderr.Fd()), unix.O_CLOEXEC)
	}
	if err != nil {
		return fmt.Errorf("take the pipe of the end for standard error: %w", err)
	}
	return nil
}

// lastWordsToo has what Go's runtime writes at the end be said to the guest's standard error, too: whoever started this process is gone by
// then, and nobody reads the pipe, but that stream is kept by an engine, and looked at when a container has ended. It is the guest's to write
// to in any case.
func lastWordsToo(stream int) error {
	fd, err := unix.FcntlInt(uintptr(stream), unix.F_DUPFD_CLOEXEC, 0) //nolint:gosec // a file descriptor
	if err != nil {
		return fmt.Errorf("take the guest's standard error for the last words: %w", err)
	}
	f := os.NewFile(uintptr(fd), "standard error") //nolint:gosec // a file descriptor
	defer f.Close()                                //nolint:errcheck // the runtime has its own
	if err := debug.SetCrashOutput(f, debug.CrashOptions{}); err != nil {
		return fmt.Errorf("take the guest's standard error for the last words: %w", err)
	}
	return nil
}

// receiveFiles gives the files of one message, or none when the other side has closed.
func receiveFiles(socket int) ([]int, error) {
	const most = 253 // SCM_MAX_FD of the kernel
	b, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4*most))
	var n, oobn, flags int
	var err error
	for {
		if n, oobn, flags, _, err = unix.Recvmsg(socket, b, oob, unix.MSG_CMSG_CLOEXEC); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("wait for a job: %w", err)
	}
	if n == 0 {
		return nil, nil
	}
	if flags&(unix.MSG_CTRUNC|unix.MSG_TRUNC) != 0 {
		return nil, errors.New("wait for a job: what came was cut off")
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, fmt.Errorf("wait for a job: %w", err)
	}
	if len(messages) != 1 {
		return nil, fmt.Errorf("wait for a job: it came with %d control messages, and not with one", len(messages))
	}
	return unix.ParseUnixRights(&messages[0])
}

// streams are copies of the standard ones, which are the guest's from now on: this process writes no word there.
func streams() ([]int, error) {
	null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0) // Brig's filter lets nothing be opened for writing
	if err != nil {
		return nil, fmt.Errorf("open %s in place of the guest's streams: %w", os.DevNull, err)
	}
	defer unix.Close(null) //nolint:errcheck // not written
	var fds []int
	for n := range 3 {
		c, err := unix.FcntlInt(uintptr(n), unix.F_DUPFD_CLOEXEC, 100)
		if err == nil {
			err = unix.Dup3(null, n, 0)
		}
		if err != nil {
			return nil, fmt.Errorf("take the guest's stream %d: %w", n, err)
		}
		fds = append(fds, c)
	}
	return fds, nil
}
