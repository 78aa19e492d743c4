package policy

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"brig/internal/caps"

	"golang.org/x/sys/unix"
)

// ThisHost is the machine at hand. cgroupV2 comes from package host.
func ThisHost(cgroupV2 bool) (*Host, error) {
	cwd, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	h := &Host{
		EUID: os.Geteuid(), EGID: os.Getegid(), Cwd: cwd, CgroupV2: cgroupV2, Lookup: os.LookupEnv,
		Link:       func(name string) (string, bool) { to, err := os.Readlink(name); return to, err == nil },
		Exists:     func(name string) bool { return unix.Access(name, unix.F_OK) == nil },
		Read:       os.ReadFile,
		ReadInRoot: readInRoot,
		Device:     device,
	}
	if h.LastCap, err = caps.Last(); err != nil {
		return nil, err
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return nil, err
	}
	h.MemTotal = uint64(info.Totalram) * uint64(info.Unit) //nolint:unconvert // 32 bits wide on some machines
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil, err
	}
	h.NoFile = limit.Max
	text, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return nil, err
	}
	if h.OOMScoreAdj, err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil {
		return nil, fmt.Errorf("read /proc/self/oom_score_adj: %w", err)
	}
	return h, nil
}

// maxPasswd bounds a passwd or group file that an image brings.
const maxPasswd = 1 << 20

// readInRoot opens a file below root without following any link out of it (CVE-2019-14271 was a look-up through the
// image's own libraries; this reads data).
func readInRoot(root, name string) ([]byte, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: root, Err: err}
	}
	defer func() { _ = unix.Close(dir) }()
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(dir, strings.TrimPrefix(name, "/"), &how)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: root + name, Err: err}
	}
	f := os.NewFile(uintptr(fd), root+name)
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxPasswd {
		return nil, &os.PathError{Op: "read", Path: root + name, Err: unix.EINVAL}
	}
	data := make([]byte, st.Size())
	n, err := f.ReadAt(data, 0)
	if n == len(data) {
		err = nil
	}
	return data[:n], err
}

func device(name string) (kind string, major, minor uint32, err error) {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return "", 0, 0, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		kind = "c"
	case unix.S_IFBLK:
		kind = "b"
	default:
		return "", 0, 0, &os.PathError{Op: "use as a device", Path: name, Err: unix.ENODEV}
	}
	dev := uint64(st.Rdev) //nolint:unconvert // 32 bits wide on some machines
	return kind, unix.Major(dev), unix.Minor(dev), nil
}
