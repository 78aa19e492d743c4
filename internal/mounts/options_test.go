package mounts

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		in         []string
		set, clear uint64
		rset       uint64
		data       []string
	}{
		{[]string{"ro", "nosuid", "mode=755"}, unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID, 0, 0, []string{"mode=755"}},
		{[]string{"ro", "rw"}, 0, unix.MOUNT_ATTR_RDONLY, 0, nil},
		{[]string{"rbind", "rro"}, 0, 0, unix.MOUNT_ATTR_RDONLY, nil},
		{[]string{"noatime", "strictatime"}, unix.MOUNT_ATTR_STRICTATIME, unix.MOUNT_ATTR__ATIME, 0, nil},
		{[]string{"size=64m", "nr_inodes=10"}, 0, 0, 0, []string{"size=64m", "nr_inodes=10"}},
	} {
		o, err := Parse(tt.in)
		if err != nil || o.Set != tt.set || o.Clear != tt.clear || o.RecursiveSet != tt.rset || !slices.Equal(o.Data, tt.data) {
			t.Errorf("%q: %+v, %v", tt.in, o, err)
		}
	}
	if _, err := Parse([]string{"mode=7\x0055"}); err == nil {
		t.Error("a NUL byte is accepted")
	}
	if o, _ := Parse([]string{"rslave"}); o.Propagation != unix.MS_SLAVE || !o.PropagationRecursive {
		t.Errorf("rslave: %+v", o)
	}
}
