//go:build vm

package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// probe is the program in the sandbox: it says READY, waits for a line, tries to use something up, and says how far it came.
// Its arguments are a mark, by which it is found from outside, a verb and what the verb needs.
func probe(args []string) int {
	fmt.Println("READY")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return 9
	}
	said, err := verbs[args[1]](args[2:])
	if err != nil {
		fmt.Println("error", err)
		return 1
	}
	fmt.Println(said)
	return 0
}

var verbs = map[string]func([]string) (string, error){
	"eat":       eat,
	"eatslowly": eatSlowly,
	"eatchild":  eatInChild,
	"eatwait":   eatInChildAndWait,
	"spin":      spin,
	"fork":      forkMany,
	"read":      func(a []string) (string, error) { return transfer(a, os.O_RDONLY, unix.Pread) },
	"write":     func(a []string) (string, error) { return transfer(a, os.O_WRONLY, unix.Pwrite) },
	"readfor":   readFor,
	"open":      open,
	"cpus":      cpus,
	"huge":      huge,
	"lift":      lift,
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		panic(err)
	}
	return n
}

func anonymous(size, flags int) ([]byte, error) {
	return unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|flags)
}

// eat takes so many MiB of memory at once, each page with other bytes.
func eat(a []string) (string, error) {
	memory, err := anonymous(number(a[0])<<20, 0)
	if err != nil {
		return "", err
	}
	touch(memory)
	return "ate " + a[0], nil
}

func touch(memory []byte) {
	for i := 0; i < len(memory); i += 4096 {
		memory[i] = byte(i>>12) | 1
	}
}

// eatSlowly takes a MiB after the other, until all is taken or the seconds are over.
func eatSlowly(a []string) (string, error) {
	memory, err := anonymous(number(a[0])<<20, 0)
	if err != nil {
		return "", err
	}
	end := time.Now().Add(time.Duration(number(a[1])) * time.Second)
	done := 0
	for ; done < len(memory) && time.Now().Before(end); done += 1 << 20 {
		touch(memory[done : done+1<<20])
	}
	return fmt.Sprintf("ate %d", done>>20), nil
}

// eatInChild has another process eat, and tells of its own survival.
func eatInChild(a []string) (string, error) {
	c := exec.Command("/proc/self/exe", "child", "eat", a[0])
	c.Args[0] = "/probe"
	c.Stdin = strings.NewReader("\n")
	err := c.Run()
	return fmt.Sprintf("survived a child that ended with %v", err), nil
}

// eatInChildAndWait does so and stays until another line comes: whoever watches the group has seen what happened by then.
func eatInChildAndWait(a []string) (string, error) {
	said, err := eatInChild(a)
	if err == nil {
		_, err = bufio.NewReader(os.Stdin).ReadString('\n')
	}
	return said, err
}

// spin keeps a processor busy for so many milliseconds and gives the time that it had one.
func spin(a []string) (string, error) {
	before, err := processorTime()
	if err != nil {
		return "", err
	}
	end := time.Now().Add(time.Duration(number(a[0])) * time.Millisecond)
	for n := 0; time.Now().Before(end); n++ {
	}
	after, err := processorTime()
	return fmt.Sprintf("ran %d", (after - before).Milliseconds()), err
}

func processorTime() (time.Duration, error) {
	var use unix.Rusage
	err := unix.Getrusage(unix.RUSAGE_SELF, &use)
	return time.Duration(use.Utime.Nano() + use.Stime.Nano()), err
}

// forkMany starts so many processes, or as many as it may.
func forkMany(a []string) (string, error) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return "", err
	}
	n := 0
	for ; n < number(a[0]); n++ {
		c := exec.Command(busybox, "sleep", "100")
		if err := c.Start(); errors.Is(err, unix.EAGAIN) {
			break
		} else if err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("forked %d", n), nil
}

// transfer reads or writes so many blocks of so many KiB, past the page cache, and gives the milliseconds that it took.
func transfer(a []string, mode int, call func(int, []byte, int64) (int, error)) (string, error) {
	fd, err := unix.Open(a[0], mode|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	blocks, size := number(a[1]), number(a[2])<<10
	buffer, err := anonymous(size, 0)
	if err != nil {
		return "", err
	}
	start := time.Now()
	for i := range blocks {
		if n, err := call(fd, buffer, int64(i*size)); err != nil || n != size {
			return "", fmt.Errorf("block %d: %d bytes: %w", i, n, err)
		}
	}
	return fmt.Sprintf("took %d", time.Since(start).Milliseconds()), nil
}

// readFor reads blocks of 4 KiB for so many milliseconds with eight threads, and gives how many.
func readFor(a []string) (string, error) {
	fd, err := unix.Open(a[0], unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var total atomic.Int64
	var group sync.WaitGroup
	failed := make([]error, 8)
	end := time.Now().Add(time.Duration(number(a[1])) * time.Millisecond)
	for worker := range failed {
		group.Go(func() {
			buffer, err := anonymous(4096, 0)
			for i := worker; err == nil && time.Now().Before(end); i++ {
				_, err = unix.Pread(fd, buffer, int64(i*7%4096)<<12)
				total.Add(1)
			}
			failed[worker] = err
		})
	}
	group.Wait()
	return fmt.Sprintf("read %d", total.Load()), errors.Join(failed...)
}

// open opens a device to read and write it.
func open(a []string) (string, error) {
	fd, err := unix.Open(a[0], unix.O_RDWR|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EPERM) { // the device filter's word; file permissions and Landlock say EACCES
		return "refused", nil
	}
	if err != nil {
		return "", err
	}
	return "opened", unix.Close(fd)
}

// cpus is the list of processors that it may run on.
func cpus([]string) (string, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return "", err
	}
	said := "cpus"
	for i := range 64 {
		if set.IsSet(i) {
			said += fmt.Sprint(" ", i)
		}
	}
	return said, nil
}

// huge takes so many huge pages of 2 MiB.
func huge(a []string) (string, error) {
	memory, err := anonymous(number(a[0])<<21, unix.MAP_HUGETLB)
	if errors.Is(err, unix.ENOMEM) {
		return "refused", nil
	}
	if err != nil {
		return "", err
	}
	*(*byte)(unsafe.Pointer(&memory[0])) = 1
	return "took", nil
}

// lift writes into a control file of its own group's.
func lift(a []string) (string, error) {
	switch err := os.WriteFile("/sys/fs/cgroup/"+a[0], []byte(a[1]), 0); {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES), errors.Is(err, unix.EROFS):
		return "refused", nil
	case err != nil:
		return "", err
	}
	return "lifted", nil
}
