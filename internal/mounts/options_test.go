package mounts

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestParse reads the options of mount(8), "FILESYSTEM-INDEPENDENT MOUNT OPTIONS", those of the runtime-spec
// (config.md, "Linux mount options") and crun's few.
func TestParse(t *testing.T) {
	t.Parallel()
	const (
		ro, nosuid, nodev, noexec = unix.MOUNT_ATTR_RDONLY, unix.MOUNT_ATTR_NOSUID, unix.MOUNT_ATTR_NODEV, unix.MOUNT_ATTR_NOEXEC
		atime                     = unix.MOUNT_ATTR__ATIME
	)
	for in, want := range map[string]Options{
		"":                         {},
		"defaults,async,silent":    {},
		"ro,nosuid,mode=755":       {Set: ro | nosuid, Data: []string{"mode=755"}},
		"ro,rw":                    {Clear: ro},
		"rw,ro":                    {Set: ro},
		"nodev,dev,nodev":          {Set: nodev},
		"noexec,suid":              {Set: noexec, Clear: nosuid},
		"nodiratime":               {Set: unix.MOUNT_ATTR_NODIRATIME},
		"nosymfollow":              {Set: unix.MOUNT_ATTR_NOSYMFOLLOW},
		"symfollow":                {Clear: unix.MOUNT_ATTR_NOSYMFOLLOW},
		"bind":                     {Bind: true},
		"rbind,rro":                {Bind: true, Recursive: true, RecursiveSet: ro},
		"rbind,rro,rrw":            {Bind: true, Recursive: true, RecursiveClear: ro},
		"rnosuid,rnodev,ro":        {Set: ro, RecursiveSet: nosuid | nodev},
		"noatime":                  {Set: unix.MOUNT_ATTR_NOATIME, Clear: atime},
		"noatime,strictatime":      {Set: unix.MOUNT_ATTR_STRICTATIME, Clear: atime},
		"strictatime,relatime":     {Clear: atime},
		"noatime,atime":            {Clear: atime},
		"rnoatime":                 {RecursiveSet: unix.MOUNT_ATTR_NOATIME, RecursiveClear: atime},
		"size=64m,nr_inodes=10":    {Data: []string{"size=64m", "nr_inodes=10"}},
		"private":                  {Propagation: unix.MS_PRIVATE},
		"rslave":                   {Propagation: unix.MS_SLAVE, PropagationRecursive: true},
		"rshared,unbindable":       {Propagation: unix.MS_UNBINDABLE},
		"idmap":                    {IDMap: true},
		"ridmap":                   {IDMap: true, IDMapRecursive: true},
		"bind,copy-symlink,nofail": {Bind: true, CopySymlink: true, Optional: true},
		"src-nofollow":             {SrcNoFollow: true},
		"dest-nofollow,tmpcopyup":  {DestNoFollow: true, TmpCopyUp: true},
		"RO,No-Such":               {Data: []string{"RO", "No-Such"}}, // the kernel refuses what it does not know
	} {
		o, err := Parse(strings.Split(in, ","))
		o.Remount = Remount{} // TestRemount has it
		if err != nil || !reflect.DeepEqual(o, want) {
			t.Errorf("%q: %+v, %v\nwant %+v", in, o, err, want)
		}
	}
	if o, err := Parse(nil); err != nil || !reflect.DeepEqual(o, Options{}) {
		t.Errorf("nothing: %+v, %v", o, err)
	}
	for _, in := range []string{"\x00", "mode=7\x0055", "ro\x00"} {
		if _, err := Parse([]string{"ro", in}); err == nil || !strings.Contains(err.Error(), "NUL byte") {
			t.Errorf("%q: %v", in, err)
		}
	}
}

// TestReadOnly tells how the mount itself ends up.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]bool{"": false, "ro": true, "rw": false, "ro,rw": false, "rw,ro": true, "rro": true, "nosuid": false} {
		o, err := Parse(strings.Split(in, ","))
		if err != nil || o.ReadOnly() != want {
			t.Errorf("%q: %v, %v", in, o.ReadOnly(), err)
		}
	}
}

// FuzzParse holds what mount_setattr(2) wants of its bits, whatever the options: nothing is both set and cleared, and
// access-time modes are set only where the whole of them is cleared.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"ro,nosuid", "rbind,rro,noatime", "strictatime,rnoatime,rw", "idmap,private,size=1", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		options := strings.Split(text, ",")
		o, err := Parse(options)
		mapped := slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(strings.TrimPrefix(o, "r"), "idmap=") })
		if nul := strings.Contains(text, "\x00"); nul && err == nil || err != nil && !nul && !mapped {
			t.Fatalf("%q: %v", text, err)
		}
		if err != nil {
			return
		}
		for _, p := range [][2]uint64{{o.Set, o.Clear}, {o.RecursiveSet, o.RecursiveClear}} {
			set, cleared := p[0], p[1]
			if set&cleared&^unix.MOUNT_ATTR__ATIME != 0 {
				t.Errorf("%q: %#x is set and cleared", text, set&cleared)
			}
			if cleared&unix.MOUNT_ATTR__ATIME != 0 && cleared&unix.MOUNT_ATTR__ATIME != unix.MOUNT_ATTR__ATIME ||
				set&unix.MOUNT_ATTR__ATIME != 0 && cleared&unix.MOUNT_ATTR__ATIME == 0 {
				t.Errorf("%q: access times: set %#x, clear %#x", text, set, cleared)
			}
		}
		for _, d := range o.Data {
			if !slices.Contains(options, d) {
				t.Errorf("%q: data %q comes from nowhere", text, d)
			}
		}
	})
}

func TestIDMapOption(t *testing.T) {
	t.Parallel()
	o, err := Parse([]string{"rbind", "ridmap=uids=0-1-10#@10-11-10;gids=0-100-10"})
	if err != nil || !o.IDMap || !o.IDMapRecursive || len(o.Data) > 0 ||
		!slices.Equal(o.UID, []IDRange{{0, 1, 10, false}, {10, 11, 10, true}}) || !slices.Equal(o.GID, []IDRange{{0, 100, 10, false}}) {
		t.Errorf("%+v, %v", o, err)
	}
	for _, bad := range []string{
		"idmap=", "idmap=uids=", "idmap=uids=0-0-1", "idmap=uids=0-0-1;gids=", "idmap=uids=0-0-1;gids=0-0-1;", "idmap=uids=0-0-1;gids=0-0", "idmap=uids=0-0-1;gids=0-0-1-1",
		"idmap=uids=-1-0-1;gids=0-0-1", "idmap=uids=0-0-4294967296;gids=0-0-1", "idmap=uids=0-0-1#;gids=0-0-1", "idmap=x=0-0-1",
	} {
		if o, err := Parse([]string{bad}); err == nil {
			t.Errorf("%q: %+v", bad, o)
		}
	}
}
