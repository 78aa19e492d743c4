package agent

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// ask sends one request to a server in this process.
func ask(t *testing.T, req Request, stdin io.Reader) (Exit, string, string) {
	t.Helper()
	host, guest := net.Pipe()
	go answer(guest)
	var out, errs bytes.Buffer
	e, err := Call(host, req, stdin, &out, &errs)
	if err != nil {
		t.Fatal(err)
	}
	return e, out.String(), errs.String()
}

func TestPrograms(t *testing.T) {
	t.Parallel()
	sh := func(script string) Request { return Request{Kind: Run, Argv: []string{"/bin/sh", "-c", script}} }
	for _, c := range []struct {
		what, script, stdin string
		code                int
		out, errs           string
	}{
		{"streams", "echo out; echo err >&2", "", 0, "out\n", "err\n"},
		{"a code", "exit 3", "", 3, "", ""},
		{"a signal", "kill -9 $$", "", 137, "", ""},
		{"input", "cat", strings.Repeat("line\n", 100000), 0, strings.Repeat("line\n", 100000), ""},
		{"input that nobody reads", "exit 4", "x", 4, "", ""},
	} {
		e, out, errs := ask(t, sh(c.script), strings.NewReader(c.stdin))
		if e.Code != c.code || e.Error != "" || out != c.out || errs != c.errs {
			t.Errorf("%s: %+v, %.40q, %.40q", c.what, e, out, errs)
		}
	}
	if e, _, _ := ask(t, Request{Kind: Run, Argv: []string{"/nowhere"}}, nil); e.Code != 127 || !strings.Contains(e.Error, "/nowhere") {
		t.Errorf("no such program: %+v", e)
	}
}

// The end of a program that reads nothing may come before its input does.
func TestEndBeforeInput(t *testing.T) {
	t.Parallel()
	for range 200 {
		host, guest := net.Pipe()
		go func() {
			defer guest.Close()
			_, _, _ = readFrame(guest)
			_ = writeJSON(guest, frameExit, Exit{Code: 4})
		}()
		if e, err := Call(host, Request{Kind: Run}, strings.NewReader("x"), nil, nil); err != nil || e.Code != 4 {
			t.Fatalf("%+v, %v", e, err)
		}
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("the disk is broken") }

// An input that cannot be read to its end ends the call: the guest would wait for the rest.
func TestBrokenInput(t *testing.T) {
	t.Parallel()
	host, guest := net.Pipe()
	go answer(guest)
	_, err := Call(host, Request{Kind: Run, Argv: []string{"/bin/cat"}}, broken{}, nil, nil)
	if err == nil || !strings.Contains(err.Error(), "the disk is broken") {
		t.Errorf("%v", err)
	}
}

// endless is an input that never ends, and tells of its third piece: then the first is in the program's pipe and the second, which has no
// room there, is with the agent.
type endless struct {
	pieces int
	third  chan struct{}
}

func (e *endless) Read(p []byte) (int, error) {
	if e.pieces++; e.pieces == 3 {
		close(e.third)
	}
	return len(p), nil
}

// Nor does one that sends more than the program reads.
func TestAbandonedWithInput(t *testing.T) {
	t.Parallel()
	for what, script := range map[string]string{"reads nothing": "echo up; exec sleep 20", "reads on": "echo up; cat >/dev/null", "waits for input": "echo up; cat"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			sent := &endless{third: make(chan struct{})}
			var stdin io.Reader = sent
			if what == "waits for input" {
				r, w := io.Pipe()
				defer w.Close()
				stdin = r
				close(sent.third)
			}
			host, guest := net.Pipe()
			answered, called := make(chan struct{}), make(chan error, 1)
			go func() { answer(guest); close(answered) }()
			up, out := io.Pipe()
			go func() {
				_, err := Call(host, Request{Kind: Run, Argv: []string{"/bin/sh", "-c", script}}, stdin, out, nil)
				called <- err
			}()
			if _, err := io.ReadFull(up, make([]byte, len("up\n"))); err != nil {
				t.Fatal(err)
			}
			<-sent.third
			if err := host.Close(); err != nil {
				t.Fatal(err)
			}
			if err := <-called; err == nil {
				t.Error("a call whose stream was closed has ended well")
			}
			select {
			case <-answered:
			case <-time.After(10 * time.Second):
				t.Error("the program runs on")
			}
		})
	}
}

// A host that waits no longer leaves no program behind: answer returns when all that has the output open has ended.
func TestAbandonedPrograms(t *testing.T) {
	t.Parallel()
	host, guest := net.Pipe()
	answered := make(chan struct{})
	go func() { answer(guest); close(answered) }()
	req := Request{Kind: Run, Argv: []string{"/bin/sh", "-c", "echo up; sleep 20 & sleep 20"}}
	if err := writeJSON(host, frameRequest, req); err != nil {
		t.Fatal(err)
	}
	if err := writeFrame(host, frameStdin, nil); err != nil {
		t.Fatal(err)
	}
	if kind, data, err := readFrame(host); kind != frameStdout || string(data) != "up\n" || err != nil {
		t.Fatalf("%d %q %v", kind, data, err)
	}
	if err := host.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-answered:
	case <-time.After(10 * time.Second):
		t.Error("the program runs on")
	}
}

func TestFoldersGoBothWays(t *testing.T) {
	t.Parallel()
	from, in, out := t.TempDir(), filepath.Join(t.TempDir(), "new"), t.TempDir()
	for _, err := range []error{
		os.MkdirAll(from+"/a/b", 0o750), os.WriteFile(from+"/a/b/file", []byte("text"), 0o640), os.Symlink("b/file", from+"/a/link"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var packed bytes.Buffer
	if err := Pack(from, &packed); err != nil {
		t.Fatal(err)
	}
	if e, _, _ := ask(t, Request{Kind: Put, Dir: in}, &packed); e.Error != "" {
		t.Fatal(e.Error)
	}
	_, tarball, _ := ask(t, Request{Kind: Take, Dir: in}, nil)
	if err := Unpack(out, strings.NewReader(tarball)); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(out + "/a/link"); err != nil || string(data) != "text" {
		t.Errorf("through the link: %q, %v", data, err)
	}
	if st, err := os.Stat(out + "/a/b/file"); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", st, err)
	}
}

// A guest is a stranger: what it names must not be written outside of the folder it was asked for.
func TestHostileTarsStayInside(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	for what, headers := range map[string][]tar.Header{
		"dots":     {{Name: "../x", Typeflag: tar.TypeReg}},
		"absolute": {{Name: outside + "/x", Typeflag: tar.TypeReg}},
		"a link":   {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "l/x", Typeflag: tar.TypeReg}},
		"a device": {{Name: "d", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}},
	} {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for i := range headers {
			headers[i].Mode = 0o644
			if err := w.WriteHeader(&headers[i]); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if err := Unpack(t.TempDir(), &buf); err == nil {
			t.Errorf("%s: taken", what)
		}
		if entries, _ := os.ReadDir(outside); len(entries) > 0 {
			t.Errorf("%s: %s was written outside", what, entries[0].Name())
		}
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte{frameRequest, 0, 0, 0, 2, '{', '}'})
	f.Add([]byte{frameStdin, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		for {
			kind, body, err := readFrame(r)
			if err != nil {
				return
			}
			var again bytes.Buffer
			if err := writeFrame(&again, kind, body); err != nil {
				t.Fatal(err)
			}
			k, b, err := readFrame(&again)
			if k != kind || !bytes.Equal(b, body) || err != nil || errors.Is(err, io.EOF) {
				t.Fatalf("%d %x became %d %x", kind, body, k, b)
			}
		}
	})
}
