package mounts

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// flagNames are the words that /proc/PID/mountinfo has for them.
func flagNames(attrs uint64) string {
	list := []string{"rw"}
	if attrs&unix.MOUNT_ATTR_RDONLY != 0 {
		list[0] = "ro"
	}
	for _, f := range []struct {
		flag uint64
		name string
	}{
		{unix.MOUNT_ATTR_NOSUID, "nosuid"}, {unix.MOUNT_ATTR_NODEV, "nodev"}, {unix.MOUNT_ATTR_NOEXEC, "noexec"},
		{unix.MOUNT_ATTR_NODIRATIME, "nodiratime"}, {unix.MOUNT_ATTR_NOSYMFOLLOW, "nosymfollow"},
	} {
		if attrs&f.flag != 0 {
			list = append(list, f.name)
		}
	}
	switch attrs & unix.MOUNT_ATTR__ATIME {
	case unix.MOUNT_ATTR_NOATIME:
		list = append(list, "noatime")
	case unix.MOUNT_ATTR_RELATIME:
		list = append(list, "relatime")
	}
	return strings.Join(list, ",")
}

func TestRemount(t *testing.T) {
	t.Parallel()
	parse := func(text string) *Options {
		o, err := Parse(strings.Split(text, ","))
		if err != nil {
			t.Fatal(err)
		}
		return &o
	}
	for _, c := range []struct{ host, options, want, locked string }{ // locked "" is a refusal, "same" the same
		{"ro,noexec,nosymfollow,nodiratime", "bind,dev", "rw,nodiratime,relatime", "ro,noexec,nodiratime,relatime"},
		{"ro", "bind,nosuid,nodev,rprivate", "rw,nosuid,nodev,relatime", "ro,nosuid,nodev,relatime"},
		{"ro", "bind,rw,nosuid", "rw,nosuid,relatime", ""},
		{"nosuid,nodev,noexec,noatime", "bind,dev,suid,exec,atime", "rw,noatime", ""},
		{"nosuid,nodev,noexec,noatime", "bind,ro", "ro,noatime", "ro,nosuid,nodev,noexec,noatime"},
		{"nodev,nosymfollow", "bind,ro,symfollow", "ro,relatime", "ro,nodev,relatime"},
		{"noatime", "bind,norelatime", "rw,noatime", "same"},
		{"noatime", "bind,relatime", "rw,relatime", ""},
		{"noatime", "bind,nodiratime,strictatime", "rw,nodiratime", ""},
		{"noatime", "bind,nodiratime,norelatime", "rw,nodiratime,relatime", ""},
		{"nodiratime", "bind,strictatime", "rw", ""},
		{"nodiratime", "bind,nodiratime", "rw,nodiratime,relatime", "same"},
		{"strictatime", "bind,noatime", "rw,noatime", ""},
		{"ro,noatime", "bind,nosuid,atime", "rw,nosuid,noatime", ""},
		{"ro,noatime", "bind,nosuid,noatime", "rw,nosuid,noatime", "ro,nosuid,noatime"},
	} {
		host := parse(c.host).Set
		o := parse(c.options)
		set, unset := o.Remount.Attributes()
		if got := flagNames(host&^unset | set); got != c.want {
			t.Errorf("%s with %s is %s, want %s", c.host, c.options, got, c.want)
		}
		set, unset, ok := o.Remount.Locked(host)
		got := flagNames(host&^unset | set)
		if want := strings.Replace(c.locked, "same", c.want, 1); ok != (want != "") || ok && got != want {
			t.Errorf("%s with %s, locked, is %s, %t; want %s", c.host, c.options, got, ok, want)
		}
	}
	if parse("bind,rprivate").Remount.Named {
		t.Error("without a flag the mount stays as it is")
	}
}
