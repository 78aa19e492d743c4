package selinux

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFoldersOfTheHostKeepTheirLabels(t *testing.T) {
	t.Parallel()
	for name, refused := range map[string]bool{
		"/": true, "/usr": true, "/usr/share/x": true, "/etc/app": true, "/home": true, "/home/anna": true, "/root": true, "/var/lib": true,
		"/var/lib/brig/images": true, "/people/anna": true, "/proc/1": true, "/dev/shm/x": true,
		"/home/anna/data": false, "/srv/data": false, "/var/lib/app": false, "/tmp/x": false, "/usrlocal": false, "/etcetera": false,
	} {
		err := checkRelabel(name, "/people/anna")
		var e *RelabelError
		if errors.As(err, &e) != refused || err != nil && !refused {
			t.Errorf("%s: %v", name, err)
		}
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/etc", link); err != nil {
		t.Fatal(err)
	}
	if err := Relabel(link, Shared); err == nil || !strings.Contains(err.Error(), "/etc is not relabelled") {
		t.Errorf("by a link: %v", err)
	}
}
