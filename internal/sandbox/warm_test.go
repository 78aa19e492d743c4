package sandbox

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestHandover has a run say what no run says: each is refused in words.
func TestHandover(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		word, request string
		more          int
		want          string
	}{
		"other word":  {"?", "{}", 0, `the run said "?" with 1 files`},
		"too many":    {warmDetach, "{}", 1, `the run said "detach" with 2 files`},
		"no JSON":     {warmRun, "{", 0, "read the request: unexpected EOF"},
		"no program":  {warmRun, "{}", 0, "read the request: it has no program"},
		"half a spec": {warmDetach, `{"Spec": {"ociVersion": "1.0"}}`, 0, "read the request: it has no program"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ours, theirs := connected(t)
			f, err := memory([]byte(c.request))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			rights := []int{int(f.Fd())}
			for range c.more {
				rights = append(rights, int(f.Fd()))
			}
			if err := unix.Sendmsg(int(theirs.Fd()), []byte(c.word), unix.UnixRights(rights...), nil, 0); err != nil {
				t.Fatal(err)
			}
			run := &client{conn: ours}
			if err := run.receive(); err == nil || err.Error() != c.want {
				t.Errorf("%v, and not %s", err, c.want)
			}
		})
	}
}

func connected(t *testing.T) (a, b *os.File) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, b = os.NewFile(uintptr(pair[0]), "a"), os.NewFile(uintptr(pair[1]), "b")
	t.Cleanup(func() { _ = a.Close(); _ = b.Close() })
	return a, b
}
