package native

import (
	"strings"
	"testing"

	"brig/internal/plan"
	"brig/internal/testenv"

	"golang.org/x/sys/unix"
)

// TestBindSwapped: a plan that takes away flags which its user namespace does not lock holds for the mount it has seen, and for no
// other that comes to its path: there they might be locked.
func TestBindSwapped(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Root)
	has := attributes("/proc")
	other := has ^ unix.MOUNT_ATTR_NODEV
	for seen, words := range map[*uint64]string{nil: "", &has: "", &other: "another mount"} {
		l := &launching{}
		err := l.openBind(&plan.Bind{Reg: 1, Source: "/proc", Attributes: seen})
		l.close()
		if (err == nil) != (words == "") || err != nil && !strings.Contains(err.Error(), words) {
			t.Errorf("%v, want %q", err, words)
		}
	}
}
