package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLogTarget(t *testing.T) {
	t.Parallel()
	for _, c := range [][2]string{
		{"", ""}, {"/var/log/x", "/var/log/x"}, {"/a:b/c", "/a:b/c"}, {"./a:b", "./a:b"}, {"file:/x:y", "/x:y"}, {"file:rel", "rel"},
	} {
		if file, service, err := logTarget(c[0]); file != c[1] || service != nil || err != nil {
			t.Errorf("%q: %q, %v, %v", c[0], file, service, err)
		}
	}
	if _, _, err := logTarget("invalid:/path"); err == nil || !strings.Contains(err.Error(), `unknown log type "invalid"`) {
		t.Errorf("an unknown type: %v", err)
	}
}

// TestLogService: each line of the log is one message, and text from a bundle makes no field and no second line of its own.
func TestLogService(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ kind, name, want string }{
		{"syslog", "box", fmt.Sprintf("<11>box[%d]: it failed; MESSAGE=x", os.Getpid())},
		{"syslog", "", fmt.Sprintf("<11>brig-oci[%d]: it failed; MESSAGE=x", os.Getpid())},
		{"journald", "bo\nx", "MESSAGE=it failed; MESSAGE=x\nPRIORITY=3\nSYSLOG_IDENTIFIER=bo; x\n"},
	} {
		socket := filepath.Join(t.TempDir(), "log")
		if _, err := dialLog(c.kind, c.name, socket); err == nil || !strings.Contains(err.Error(), c.kind+": nobody takes messages") {
			t.Errorf("without a daemon: %v", err)
		}
		daemon, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			defer unix.Close(daemon) //nolint:errcheck // of a test
			err = unix.Bind(daemon, &unix.SockaddrUnix{Name: socket})
		}
		if err != nil {
			t.Fatal(err)
		}
		service, err := dialLog(c.kind, c.name, socket)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(service.fd) //nolint:errcheck // of a test
		l := log{to: service}
		l.line("error", "it failed\nMESSAGE=x")
		got := make([]byte, 1000)
		n, err := unix.Read(daemon, got)
		if err != nil || string(got[:n]) != c.want {
			t.Errorf("%s: %q, %v", c.kind, got[:n], err)
		}
	}
}
