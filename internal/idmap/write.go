package idmap

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// WriteMaps writes the maps of a process that sits in a fresh user namespace and waits. pid must be a child that the caller has not
// waited for, so that the number cannot be another process's.
//
// An unprivileged caller without helpers can map only itself, and must give up setgroups(2) for the namespace first
// (CVE-2014-8989: dropping a group can give access), which this does.
func WriteMaps(pid int, m Maps) error {
	if err := Validate("uid", m.UID); err != nil {
		return err
	}
	if err := Validate("gid", m.GID); err != nil {
		return err
	}
	if m.Helpers {
		if err := runHelper("newuidmap", pid, m.UID); err != nil {
			return err
		}
		return runHelper("newgidmap", pid, m.GID)
	}
	dir, err := unix.Open("/proc/"+strconv.Itoa(pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("write the id maps of process %d: open /proc/%d: %w", pid, pid, err)
	}
	defer unix.Close(dir)
	err = writeAt(dir, "gid_map", format(m.GID))
	if errors.Is(err, unix.EPERM) && os.Geteuid() != 0 {
		if err := writeAt(dir, "setgroups", []byte("deny")); err != nil {
			return mapError("setgroups", err, m.GID)
		}
		err = writeAt(dir, "gid_map", format(m.GID))
	}
	if err != nil {
		return mapError("gid_map", err, m.GID)
	}
	if err := writeAt(dir, "uid_map", format(m.UID)); err != nil {
		return mapError("uid_map", err, m.UID)
	}
	return nil
}

func writeAt(dir int, name string, data []byte) error {
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, data)
	return err
}

// mapError says what the errno of a map file means here, by user_namespaces(7).
func mapError(file string, err error, m []specs.LinuxIDMapping) error {
	why := ""
	switch {
	case errors.Is(err, unix.EPERM) && os.Geteuid() != 0:
		why = ": an unprivileged user can map its own id only; install newuidmap, or allow user namespaces on this host"
	case errors.Is(err, unix.EPERM):
		why = ": the host ids are not mapped in the namespace Brig itself runs in, or the map is written already"
	case errors.Is(err, unix.EINVAL):
		why = ": the kernel takes no such ranges"
	}
	return fmt.Errorf("write %s %q: %w%s", file, strings.TrimSpace(string(format(m))), err, why)
}

// runHelper lets a setuid helper write a map. It gets no environment but a fixed PATH.
func runHelper(name string, pid int, m []specs.LinuxIDMapping) error {
	path, err := helperPath(name)
	if err != nil {
		return err
	}
	args := []string{strconv.Itoa(pid)}
	for _, l := range m {
		for _, n := range []uint32{l.ContainerID, l.HostID, l.Size} {
			args = append(args, strconv.FormatUint(uint64(n), 10))
		}
	}
	cmd := exec.Command(path, args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	if out, err := cmd.CombinedOutput(); err != nil {
		text, _, _ := strings.Cut(string(bytes.TrimSpace(out)), "\n")
		return fmt.Errorf("%s could not write the map: %w: %s: check the user's lines in /etc/subuid and /etc/subgid", path, err, text)
	}
	return nil
}
