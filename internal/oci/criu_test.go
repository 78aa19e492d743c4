package oci

import (
	"bytes"
	"testing"
)

func TestCRIUErrors(t *testing.T) {
	for _, c := range []struct{ log, want string }{
		{"", ""},
		{"(00.0) Version: 3.17.1\n(00.1) Dumping\n", ""},
		{"criu: not for this machine\n", ": criu: not for this machine"},
		{"Error (criu/vdso.c:381): vdso: Unexpected rt vDSO area bounds\nError (criu/crtools.c:260): Could not initialize.\n", ": vdso: Unexpected rt vDSO area bounds; Could not initialize."},
		{"(00.1) Error (a.c:1): one\n(00.2) fine\nError (a.c:2): two\nError (a.c:3): three\nError (a.c:4): four\nError (a.c:5): five\n", ": two; three; four; five"},
	} {
		if got := criuErrors(c.log); got != c.want {
			t.Errorf("%q: %q, want %q", c.log, got, c.want)
		}
	}
}

func TestWire(t *testing.T) {
	var w wire
	w.number(1, 300)
	w.flag(2, true)
	w.flag(3, false)
	w.text(37, "mnt[/a]:/b")
	w.pair(27, "key", func(w *wire) { w.number(2, 5) })
	// protoc --encode of the same: 300 as a varint is ac 02, the key of field 37 is aa 02, that of 27 is da 01.
	want := []byte("\x08\xac\x02\x10\x01\xaa\x02\x0amnt[/a]:/b\xda\x01\x07\x0a\x03key\x10\x05")
	if !bytes.Equal(w, want) {
		t.Errorf("%x, want %x", []byte(w), want)
	}
}

func TestCRIUAnswer(t *testing.T) {
	var notify, answer wire
	notify.text(1, "setup-namespaces")
	notify.number(2, 77)
	answer.number(1, criuNotify)
	answer.number(2, 1)
	answer.bytes(5, notify)
	var got criuAnswer
	if err := got.decode(answer); err != nil || got != (criuAnswer{kind: criuNotify, success: true, pid: 77, stage: "setup-namespaces"}) {
		t.Errorf("%+v, %v", got, err)
	}
	for n := 1; n < len(answer); n++ {
		if err := new(criuAnswer).decode(answer[:n]); err == nil && n != 2 && n != 4 { // where a field ends
			t.Errorf("%d bytes of %d are taken for an answer", n, len(answer))
		}
	}
	var wrong, inner wire
	inner.number(1, maxPID+1)
	wrong.bytes(4, inner)
	if err := new(criuAnswer).decode(wrong); err == nil {
		t.Error("a process id that no process can have is taken")
	}
}
