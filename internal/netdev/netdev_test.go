package netdev

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCheckName(t *testing.T) {
	t.Parallel()
	for name, ok := range map[string]bool{
		"eth0": true, "veth%d": true, "fifteen-bytes-x": true, "sixteen-bytes-lo": false,
		"": false, ".": false, "..": false, "a/b": false, "a:b": false, "a b": false, "a\tb": false, "a\x00": false,
	} {
		if err := CheckName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestAnswer(t *testing.T) {
	t.Parallel()
	if err := answer(order.AppendUint32(nil, 0)); err != nil {
		t.Error(err)
	}
	if err := answer(order.AppendUint32(nil, ^uint32(unix.EEXIST)+1)); err != unix.EEXIST { //nolint:errorlint // the very errno
		t.Error(err)
	}
	if err := answer(nil); err == nil {
		t.Error("no error for an empty answer")
	}
}

// TestAttribute: the length counts without the padding, and the padding is there (rtnetlink(3)).
func TestAttribute(t *testing.T) {
	t.Parallel()
	b := attribute(nil, unix.IFLA_IFNAME, []byte("eth0\x00"))
	if len(b) != 12 || order.Uint16(b) != 9 || order.Uint16(b[2:]) != unix.IFLA_IFNAME || !strings.HasPrefix(string(b[4:]), "eth0\x00\x00") {
		t.Errorf("%v", b)
	}
}
