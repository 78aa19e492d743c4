package gvisor

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// TestStateError: what is said of a checkpoint that does not work is a person's, with nothing of gVisor's insides.
func TestStateError(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, want string }{
		{"error serializing object &wire.Struct{TypeID:0xed, fields:(*wire.multipleObjects)(0x28a869443788)}: no space left on device", "x: no space left on device"},
		{"closing state file failed: input/output error", "x: input/output error"},
		{"failed to load kernel: error decoding from 0x1e8: EOF", "x: gVisor's kernel: failed to load kernel: error decoding from 0x1e8: it ends too early"},
		{
			"error decoding object ID 9 (a.b) from &wire.Struct{TypeID:0x148, fields:(*wire.multipleObjects)(0x8f6d66a900)}: no such type",
			"x: gVisor's kernel: error decoding object ID 9 (a.b) from a part of it: no such type",
		},
		{
			`failed to load kernel: vfs.CompleteRestore() failed: failed to walk "a/f" of type 0100000 in mount "__no_name_0:/vol": no such file or directory`,
			`x: the program has a file open that is not there as it was: "a/f" in what is mounted on /vol: no such file or directory`,
		},
	} {
		if err := stateError("x", &remoteError{"m", c.text}); err.Error() != c.want {
			t.Errorf("%q", err)
		}
	}
	if err := stateError("x", &goneError{}); err.Error() != "x: gVisor's kernel has ended without a word" || !Gone(err) {
		t.Errorf("%q", err)
	}
	if err := stateError("x", &remoteError{"m", "write: no space left on device"}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%v is no ENOSPC", err)
	}
	if err := stateError("x", nil); err != nil {
		t.Error(err)
	}
}
