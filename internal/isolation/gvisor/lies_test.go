package gvisor

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode"

	"golang.org/x/sys/unix"
)

// liar is a kernel in a guest's hand: it takes one connection and does with it as it likes. It gives the sandbox's folder.
func liar(t *testing.T, says func(c *net.UnixConn)) string {
	t.Helper()
	dir := t.TempDir()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, socketName)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.AcceptUnix()
		if err != nil {
			return
		}
		defer c.Close()
		says(c)
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return dir
}

// hear takes a short request.
func hear(c *net.UnixConn) { _, _ = c.Read(make([]byte, 4096)) }

func say(text string) func(c *net.UnixConn) {
	return func(c *net.UnixConn) {
		hear(c)
		_, _ = io.WriteString(c, text)
	}
}

// endless says a beginning, and then the same again and again, for as long as somebody listens.
func endless(begin, more string) func(c *net.UnixConn) {
	return func(c *net.UnixConn) {
		hear(c)
		_, err := io.WriteString(c, begin)
		for chunk := strings.Repeat(more, 1<<16/len(more)); err == nil; {
			_, err = io.WriteString(c, chunk)
		}
	}
}

// TestLies: whatever a kernel answers, Brig keeps little of it, and says something that can be shown.
func TestLies(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		says func(c *net.UnixConn)
		err  string
	}{
		"an endless text":     {endless(`{"success":false,"err":"`, "x"), "longer than"},
		"an endless result":   {endless(`{"success":true,"result":[1`, ",1"), "longer than"},
		"endless space":       {endless("", " "), "longer than"},
		"endless members":     {endless(`{"success":true`, `,"success":true`), "longer than"},
		"nested deep":         {say(`{"success":true,"result":` + strings.Repeat("[", 200_000)), "exceeded max depth"},
		"control characters":  {say(`{"success":false,"err":"no\u001b[2J\rbrig: all is well\u0007\u202egood"}`), "no�[2J�brig: all is well��good"},
		"a trace":             {say(`{"success":false,"err":"no room:\ngoroutine 7 [running]:\nmain.main()"}`), "containerManager.Wait: no room"},
		"a long text":         {say(`{"success":false,"err":"` + strings.Repeat("long", 10_000) + `"}`), "longlong…"},
		"no JSON":             {say("\x1b]0;title\a"), `invalid character '\x1b'`},
		"half an answer":      {say(`{"success":`), "has ended without a word"},
		"nothing":             {say(""), "has ended without a word"},
		"a number too large":  {say(`{"success":true,"result":99999999999}`), "cannot unmarshal"},
		"a negative number":   {say(`{"success":true,"result":-1}`), "cannot unmarshal"},
		"no result":           {say(`{"success":true}`), "unexpected end of JSON input"},
		"a text for a number": {say(`{"success":true,"result":"\u001b[2J"}`), "cannot unmarshal"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var status uint32
			err := call(t.Context(), liar(t, c.says), "containerManager.Wait", "id", nil, &status)
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Fatalf("the error is %v, without %q", err, c.err)
			}
			if strings.Contains(err.Error(), "goroutine") || len(err.Error()) > 2*maxText || strings.ContainsFunc(err.Error(), func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("the error is none for a terminal: %q", err)
			}
		})
	}
}

// TestSilence: a kernel that takes a call and does not answer, or answers for ever, keeps nobody who waits no longer.
func TestSilence(t *testing.T) {
	t.Parallel()
	for name, says := range map[string]func(c *net.UnixConn){
		"nothing is read": func(*net.UnixConn) { <-t.Context().Done() },
		"nothing is said": func(c *net.UnixConn) { _, _ = io.Copy(io.Discard, c) },
		"a byte now and then": func(c *net.UnixConn) {
			for err := error(nil); err == nil; time.Sleep(time.Millisecond) {
				_, err = c.Write([]byte(" "))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			why := errors.New("it took too long")
			ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, why)
			defer cancel()
			done := make(chan struct{})
			dir := liar(t, func(c *net.UnixConn) {
				go says(c)
				<-done
			})
			err := call(ctx, dir, "containerManager.Signal", strings.Repeat("long", 1<<20), nil, nil)
			close(done)
			if !errors.Is(err, why) {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

// TestUnaskedFiles: what a kernel sends along is nobody's, and open nowhere.
func TestUnaskedFiles(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	fds := make([]int, 200)
	for i := range fds {
		fds[i] = int(w.Fd())
	}
	dir := liar(t, func(c *net.UnixConn) {
		hear(c)
		_, _, _ = c.WriteMsgUnix([]byte(`{"success":`), unix.UnixRights(fds...), nil)
		_, _, _ = c.WriteMsgUnix([]byte(`true}`), unix.UnixRights(fds...), nil)
	})
	if err := call(t.Context(), dir, "containerManager.Signal", "id", nil, nil); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	_ = r.SetReadDeadline(time.Now().Add(time.Minute))
	if n, err := r.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("somebody has the pipe still: %v", err)
	}
}

// TestLastWord: the status pipe ends for Brig, also when somebody else was given it, and what is in it can be shown.
func TestLastWord(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, err := w.WriteString(`{"status":9,"error":"\u001b[2J"}`); err != nil {
		t.Fatal(err)
	}
	_ = r.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if end, _, err := readEnd(r); err != nil || end.Status != 9 || end.Error != "�[2J" {
		t.Errorf("the end is %+v, %v", end, err)
	}
}

// TestWaitStatus: only what wait(2) can say is taken for the end of a program.
func TestWaitStatus(t *testing.T) {
	t.Parallel()
	for said, ok := range map[uint32]bool{
		0: true, 255 << 8: true, 9: true, 11 | 0x80: true, 64: true,
		0x7f: false, 19<<8 | 0x7f: false, 0xffff: false, 1 << 16: false, 0xffffffff: false, 0x01000100: false,
	} {
		if s, err := waitStatus(said); (err == nil) != ok {
			t.Errorf("%#x: %v, %v", said, s, err)
		}
	}
}

// FuzzAnswer: what a kernel says is read in little memory and without a panic, and what is shown of it is printable.
func FuzzAnswer(f *testing.F) {
	for _, text := range []string{
		`{"success":true,"err":"","result":7}`, `{"success":false,"err":"no such file or directory"}`, `{"success":true,"result":{"a":[1,2]}}`,
		`{"status":256}`, `{"status":0,"error":"\u001b[2J"}`, `{"config":{}}`, "{", "null", "\x00\xff", `{"err":"\ud800"}`, strings.Repeat("[", 20_000),
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		show := func(s string) {
			if len(s) > 10*maxText || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%q is shown", s)
			}
		}
		var result any
		err := answer(answers(bytes.NewReader(text)), "containerManager.Wait", &result)
		if err != nil {
			show(err.Error())
		}
		if remote := (*remoteError)(nil); errors.As(err, &remote) {
			show(programError(remote.text).Error())
		}
		if end, _, err := readEnd(bytes.NewReader(text)); err == nil {
			show(end.Error)
			if s, err := waitStatus(end.Status); err == nil && (s.Exited() == s.Signaled()) {
				t.Errorf("%#x is taken for an end", end.Status)
			}
		} else {
			show(err.Error())
		}
	})
}

// TestAnswerMemory: an answer that does not end costs no more than a few times what is read of it.
func TestAnswerMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_ = call(t.Context(), liar(t, endless(`{"success":false,"err":"`, "x")), "containerManager.Wait", "id", nil, nil)
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 16*maxAnswer {
		t.Errorf("%d KiB were allocated for it", used>>10)
	}
}
