package gvisor

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"brig/internal/isolation/gvisor/job"
)

// TestListen: what a kernel says at its end is heard by who has opened its status pipe, and nothing but that very pipe is opened.
func TestListen(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status func(pipe *os.File) *os.File // what the kernel has under the number
		says   string
		want   string
	}{
		"its words":      {func(pipe *os.File) *os.File { return pipe }, "panic: \x1b[2Jboom", "gVisor's kernel has ended, and said: panic: �[2Jboom"},
		"an error":       {func(pipe *os.File) *os.File { return pipe }, `{"error":"no"}`, "gVisor's kernel failed: no"},
		"an end":         {func(pipe *os.File) *os.File { return pipe }, `{"status":9}`, "gVisor's kernel has ended without a word"},
		"another pipe":   {func(*os.File) *os.File { _, w, _ := os.Pipe(); return w }, "lies", ""},
		"another's file": {func(*os.File) *os.File { f, _ := os.Open("/etc/passwd"); return f }, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			st, err := w.Stat()
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			text, _ := json.Marshal(&kept{Status: st.Sys().(*syscall.Stat_t).Ino})
			if err := os.WriteFile(filepath.Join(dir, settingsFile), text, 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("sh", "-c", `read go; printf %s "$1" >&$2`, "sh", c.says, "5")
			for len(cmd.ExtraFiles) < job.StatusFD-3 {
				cmd.ExtraFiles = append(cmd.ExtraFiles, r)
			}
			cmd.ExtraFiles = append(cmd.ExtraFiles, c.status(w))
			cmd.Args[len(cmd.Args)-1] = string(rune('0' + job.StatusFD))
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			_ = w.Close()
			said := Listen(dir, cmd.Process.Pid)
			defer said.Close()
			_, _ = in.Write([]byte("go\n"))
			_ = cmd.Wait()
			if c.want == "" {
				if said != nil || said.Lines() != nil || said.explain(&goneError{}).Error() != (&goneError{}).Error() {
					t.Errorf("it has opened something: %+v", said)
				}
				return
			}
			if said == nil {
				t.Fatal("it has opened nothing")
			}
			if err := said.explain(&goneError{}); !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("%q", err)
			}
		})
	}
	if Listen(t.TempDir(), os.Getpid()) != nil {
		t.Error("a kernel of which nothing is kept is listened to")
	}
}
