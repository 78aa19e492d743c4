package oci

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestEvents: runc's keys, an event for each OOM, and the end with the container.
func TestEvents(t *testing.T) {
	t.Parallel()
	e, otherwise := newEngine(t), differs(t)
	e.spec.Process.Args = []string{"sleep", "1000"}
	limit := int64(32 << 20)
	e.spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
	e.write()
	e.want(0, "", "run", "--detach", "--bundle", e.bundle, "eventful")
	t.Cleanup(func() { e.call("delete", "--force", "eventful") })
	e.want(1, "duration interval must be greater than 0", "events", "--interval", "0", "eventful")

	out := e.want(0, `{"type":"stats","id":"eventful","data":{"cpu":{"usage":{`, "events", "--stats", "eventful")
	var line struct {
		Data struct {
			CPU struct {
				Usage struct{ Total, Kernel, User uint64 }
			}
			Memory struct {
				Usage struct{ Limit, Usage uint64 }
				Raw   map[string]uint64
			}
			Pids struct{ Current uint64 }
		}
	}
	if err := json.Unmarshal([]byte(out), &line); err != nil {
		t.Fatal(err)
	}
	if d := line.Data; d.CPU.Usage.Total == 0 || d.Memory.Usage.Limit != uint64(limit) || d.Memory.Usage.Usage == 0 || len(d.Memory.Raw) == 0 || (d.Pids.Current != 1) != otherwise {
		t.Errorf("the numbers are %+v", d)
	}

	cmd := exec.Command(runtime, "--root", e.root, "events", "--interval", "50ms", "eventful")
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(testenv.Patience(60*time.Second), func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	stats, oom := 0, 0
	for s := bufio.NewScanner(pipe); s.Scan(); {
		switch text := s.Text(); {
		case strings.HasPrefix(text, `{"type":"stats","id":"eventful","data":{`):
			if stats++; stats == 3 {
				e.call("exec", "eventful", "sh", "-c", `x=$(cat /dev/zero | tr '\0' x)`)
			}
		case text == `{"type":"oom","id":"eventful"}`:
			if oom++; oom == 1 {
				e.call("delete", "--force", "eventful")
			}
		default:
			t.Errorf("line %q", text)
		}
	}
	if err := cmd.Wait(); err != nil || oom == 0 {
		t.Errorf("%d stats, %d OOMs, then %v", stats, oom, err)
	}
}

// TestEventsEnd: the files of a group go one after the other, and one that is read meanwhile is no error of `events`.
func TestEventsEnd(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.spec.Process.Args = []string{"sleep", "1000"}
	e.write()
	t.Cleanup(func() { e.call("delete", "--force", "ending") })
	for range 12 {
		e.want(0, "", "run", "--detach", "--bundle", e.bundle, "ending")
		cmd := exec.Command("timeout", "60", runtime, "--root", e.root, "events", "--interval", "1ms", "ending")
		var said strings.Builder
		cmd.Stderr = &said
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(pipe)
		lines.Scan()
		deleted := make(chan int, 1)
		go func() {
			_, code := e.call("delete", "--force", "ending")
			deleted <- code
		}()
		for lines.Scan() {
		}
		if err := cmd.Wait(); err != nil || <-deleted != 0 {
			t.Fatalf("events: %v: %s", err, said.String())
		}
	}
}
