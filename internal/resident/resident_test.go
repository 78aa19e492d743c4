package resident

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"unsafe"
)

// waiter makes the test's program the process that TestTrim looks at.
const waiter = "BRIG_TEST_WAITER"

func TestMain(m *testing.M) {
	if os.Getenv(waiter) != "" {
		wait()
		return
	}
	os.Exit(m.Run())
}

// wait goes through the life of a process that trims itself, a line at a time.
func wait() {
	in := bufio.NewReader(os.Stdin)
	next := func(word string) {
		fmt.Println(word)
		if _, err := in.ReadString('\n'); err != nil {
			os.Exit(1)
		}
	}
	before := digest(readOnly())
	next("read")
	Trim()
	next("trimmed")
	if digest(readOnly()) != before {
		next("changed")
	}
	next("read again")
}

// TestTrim: little is mapped of the file of a process that waits after it, by the kernel's own count, and what it reads is the same.
func TestTrim(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(exe)
	c.Env = append(os.Environ(), waiter+"=1")
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer c.Wait() //nolint:errcheck // it is told to end
	defer in.Close()
	lines := bufio.NewReader(out)
	after := func(word string) int {
		if line, err := lines.ReadString('\n'); line != word+"\n" {
			t.Fatalf("it says %q, want %q: %v", line, word, err)
		}
		n := mapped(t, c.Process.Pid, exe)
		if _, err := fmt.Fprintln(in); err != nil {
			t.Fatal(err)
		}
		return n
	}
	full, trimmed, again := after("read"), after("trimmed"), after("read again")
	t.Logf("%d KiB, %d trimmed, %d read again", full, trimmed, again)
	if trimmed > full*2/3 {
		t.Errorf("%d KiB are mapped after Trim, and were %d", trimmed, full)
	}
	if again < full*7/8 {
		t.Errorf("%d KiB are mapped when all has been read again, and were %d: this test counts something else", again, full)
	}
}

// digest reads all of the segments.
func digest(segments []segment) [sha256.Size]byte {
	h := sha256.New()
	for _, s := range segments {
		start := *(*unsafe.Pointer)(unsafe.Pointer(&s.start)) // of no memory of Go's
		h.Write(unsafe.Slice((*byte)(start), s.end-s.start))
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// mapped is how much of a file a process has mapped that it cannot write, in KiB (proc_pid_smaps(5)).
func mapped(t *testing.T, pid int, file string) int {
	t.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps")
	if err != nil {
		t.Fatal(err)
	}
	sum, counted := 0, false
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		switch {
		case strings.Contains(f[0], "-"):
			counted = len(f) == 6 && f[5] == file && f[1][1] == '-'
		case counted && f[0] == "Rss:":
			n, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			sum += n
		}
	}
	return sum
}
