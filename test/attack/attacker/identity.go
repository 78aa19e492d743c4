package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// identityAttacks ask what the program is and holds: ids, capabilities, descriptors, its root.
var identityAttacks = []attack{
	{"caps", func(args []string) verdict { return capsOf(readStatus("self"), args) }},
	{"regain", regain},
	{"setuid", setuid},
	{"whoami", whoami},
	{"fds", fds},
	{"cwd", cwd},
	{"own-exe", ownExe},
	{"inside", inside},
	{"ids", func([]string) verdict {
		// Not an attack: who it is.
		if os.Getuid() != os.Geteuid() || os.Getgid() != os.Getegid() {
			return escaped("real and effective ids differ")
		}
		return held("%d:%d", os.Getuid(), os.Getgid())
	}},
	{"memfd", memfd},
	{"layers", layers},
	{"environ", func(args []string) verdict {
		word := []byte(argument(args, 0, "-"))
		for _, pid := range append(pids(), os.Getpid()) {
			text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
			if bytes.Contains(text, word) {
				return escaped("process %d has %s in its environment", pid, word)
			}
		}
		return held("no environment in sight has %s", word)
	}},
	{"oom-score", func([]string) verdict {
		before, _ := os.ReadFile("/proc/self/oom_score_adj")
		for _, score := range []string{"-1000", "0"} {
			_ = os.WriteFile("/proc/self/oom_score_adj", []byte(score), 0)
			after, err := os.ReadFile("/proc/self/oom_score_adj")
			if err == nil && string(after) != string(before) {
				return escaped("oom_score_adj went from %s to %s", bytes.TrimSpace(before), bytes.TrimSpace(after))
			}
		}
		return held("oom_score_adj stays %s", bytes.TrimSpace(before))
	}},
	{"rlimits", rlimits},
	{"keep-privileges", func([]string) verdict {
		// Once set it cannot be taken back, for the whole tree of processes.
		if set, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err == nil && set == 1 {
			return held("no_new_privs is set")
		}
		return escaped("execve may still give privileges")
	}},
}

func readStatus(pid string) map[string]string {
	text, _ := os.ReadFile("/proc/" + pid + "/status")
	m := map[string]string{}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		m[key] = strings.TrimSpace(value)
	}
	return m
}

// capsOf looks for capabilities in the sets that are named, or in all five.
func capsOf(status map[string]string, sets []string) verdict {
	if len(sets) == 0 {
		sets = []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}
	}
	for _, set := range sets {
		n, err := strconv.ParseUint(status[set], 16, 64)
		if err != nil {
			return broken("%s: %v", set, err)
		}
		if n != 0 {
			return escaped("%s is %s", set, status[set])
		}
	}
	return held("%s are empty", strings.Join(sets, " "))
}

// regain gives all capabilities away, and tries every way to get one back without a file that has it: root's execve
// among them.
func regain([]string) verdict {
	_ = unix.Prctl(unix.PR_SET_SECUREBITS, 0, 0, 0, 0)
	_ = unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0)
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&hdr, &none[0]); err != nil {
		return judge("capset", err)
	}
	all := [2]unix.CapUserData{
		{Effective: ^uint32(0), Permitted: ^uint32(0), Inheritable: ^uint32(0)},
		{Effective: 0x1ff, Permitted: 0x1ff, Inheritable: 0x1ff},
	}
	_ = unix.Capset(&hdr, &all[0])
	for c := range 41 {
		_ = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(c), 0, 0)
	}
	_ = raw(unix.SYS_SETRESUID, 0, 0, 0)
	if v := capsOf(readStatus("thread-self"), []string{"CapPrm", "CapEff", "CapAmb"}); v.word != "HELD" {
		return v
	}
	// This goroutine holds its thread, and the child is forked from that.
	return relay(exec.Command("/proc/self/exe", "caps", "CapPrm", "CapEff", "CapAmb"))
}

// relay gives the verdict of another run of the attacker.
func relay(c *exec.Cmd) verdict {
	out, err := c.CombinedOutput()
	word, reason, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	switch word {
	case "HELD", "ESCAPED", "BROKEN":
		return verdict{word, reason}
	}
	return judge("run "+c.Path, unwrapErrno(err))
}

// setuid runs a set-user-ID or capable file that the root file system has.
func setuid(args []string) verdict {
	return relay(exec.Command(argument(args, 0, ""), "whoami", strconv.Itoa(os.Getuid())))
}

// whoami tells whether the process is more than the user that is named.
func whoami(args []string) verdict {
	if want := argument(args, 0, ""); strconv.Itoa(os.Geteuid()) != want {
		return escaped("effective user %d, and not %s", os.Geteuid(), want)
	}
	return capsOf(readStatus("self"), []string{"CapPrm", "CapEff"})
}

// fds looks for descriptors other than 0, 1, 2 and those that are named.
func fds(args []string) verdict {
	var found []string
	for fd := 3; fd < 4096; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil { //nolint:gosec // small
			continue
		}
		to, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if strings.HasPrefix(to, "anon_inode:[event") { // the Go runtime's poller
			continue
		}
		found = append(found, fmt.Sprintf("%d (%s)", fd, to))
	}
	if len(found) > 0 {
		return escaped("open: %s", strings.Join(found, ", "))
	}
	return held("0, 1 and 2 are open, %d named", len(args))
}

// cwd tries to leave the root by the working directory, and by every descriptor (CVE-2024-21626). The argument is a
// file that only the host has.
func cwd(args []string) verdict {
	canary := strings.TrimPrefix(argument(args, 0, "/nonexistent"), "/")
	up := strings.Repeat("../", 40)
	for _, dir := range append([]int{unix.AT_FDCWD}, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10) {
		var st unix.Stat_t
		if unix.Fstatat(dir, up+canary, &st, 0) == nil {
			return escaped("%s is reached from descriptor %d", canary, dir)
		}
		if fd, err := unix.Openat(dir, up, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
			var here, root unix.Stat_t
			if unix.Fstat(fd, &here) == nil && unix.Stat("/", &root) == nil && (here.Dev != root.Dev || here.Ino != root.Ino) {
				return escaped("the top from descriptor %d is not the root", dir)
			}
			_ = unix.Close(fd)
		}
	}
	buf := make([]byte, 4096)
	n, err := unix.Getcwd(buf)
	if err == nil && !strings.HasPrefix(string(buf[:n]), "/") {
		return escaped("the working directory is %s", buf[:n-1])
	}
	if err != nil {
		return held("the working directory: %v", err)
	}
	return held("the working directory is %s", buf[:n-1])
}

// ownExe looks at the programs of all processes in sight for one that is not of this root, and tries to write them
// (CVE-2019-5736). The argument is "DEVICE:INODE" of the host's runtime.
func ownExe(args []string) verdict {
	for _, pid := range append(pids(), os.Getpid()) {
		base := fmt.Sprintf("/proc/%d/", pid)
		var st unix.Stat_t
		if unix.Stat(base+"exe", &st) == nil && fmt.Sprintf("%d:%d", st.Dev, st.Ino) == argument(args, 0, "") {
			return escaped("process %d is the host's runtime", pid)
		}
		if fd, err := unix.Open(base+"exe", unix.O_WRONLY|unix.O_CLOEXEC, 0); err == nil {
			_ = unix.Close(fd)
			return escaped("%sexe can be written", base)
		}
	}
	return held("no program in sight is the host's, none can be written")
}

// inside looks whether the places that every sandbox has are what they should be, whatever the root file system had in
// their stead, and that nothing of the host's is in sight. The argument is a file that only the host has.
func inside(args []string) verdict {
	var fs unix.Statfs_t
	for path, magic := range map[string]int64{"/proc": unix.PROC_SUPER_MAGIC, "/dev": unix.TMPFS_MAGIC, "/dev/pts": unix.DEVPTS_SUPER_MAGIC} {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return escaped("%s is no directory: mode %o, %v", path, st.Mode, err)
		}
		if err := unix.Statfs(path, &fs); err != nil || int64(fs.Type) != magic { //nolint:unconvert // 32 bits wide on some machines
			return escaped("%s has magic %x, %v", path, fs.Type, err)
		}
	}
	for path, dev := range map[string]uint64{"/dev/null": unix.Mkdev(1, 3), "/dev/zero": unix.Mkdev(1, 5), "/dev/urandom": unix.Mkdev(1, 9)} {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || uint64(st.Rdev) != dev { //nolint:unconvert // see above
			return escaped("%s is not the device: mode %o, device %x, %v", path, st.Mode, st.Rdev, err)
		}
	}
	for _, path := range []string{"/proc/kallsyms", "/proc/keys", "/proc/timer_list", "/proc/kcore", "/sys/firmware/dmi/tables/DMI"} {
		if b, err := os.ReadFile(path); err == nil && len(b) > 0 {
			return escaped("%s is not masked", path)
		}
	}
	canary := argument(args, 0, "/nonexistent")
	for _, dir := range []string{"/", "/tmp", "/run", "/proc", "/sys", "/dev", "/dev/shm", "/data", "/etc", "/proc/1/root", "/proc/self/cwd"} {
		for _, up := range []string{"", "../../../../../../.."} {
			if _, err := os.Stat(dir + "/" + up + canary); err == nil {
				return escaped("%s of the host is in sight from %s", canary, dir)
			}
		}
		if _, err := os.Stat(dir + "/" + filepath.Base(canary)); err == nil {
			return escaped("the host's folder is at %s", dir)
		}
	}
	if v := cwd(args); v.word != "HELD" {
		return v
	}
	for _, path := range []string{"/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/kernel/hostname", "/proc/sys/vm/drop_caches"} {
		if fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0); err == nil {
			_ = unix.Close(fd)
			return escaped("%s can be written", path)
		}
	}
	return held("everything is in its place, and nothing of the host's")
}

// memfd runs a program that no file system holds; it must be confined like any other.
func memfd([]string) verdict {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return broken("%v", err)
	}
	fd, err := unix.MemfdCreate("attack", 0)
	if err != nil {
		return judge("memfd_create", err)
	}
	if _, err := unix.Write(fd, self); err != nil {
		return broken("%v", err)
	}
	return relay(exec.Command(fmt.Sprintf("/proc/self/fd/%d", fd), "layers"))
}

func unwrapErrno(err error) error {
	if e, ok := err.(*os.PathError); ok { //nolint:errorlint // os/exec's
		return e.Err
	}
	return err
}

// layers looks for a process that lost a layer over fork and execve.
func layers([]string) verdict {
	s := readStatus("self")
	if s["Seccomp"] != "2" || s["NoNewPrivs"] != "1" {
		return escaped("Seccomp %s, NoNewPrivs %s", s["Seccomp"], s["NoNewPrivs"])
	}
	return held("Seccomp 2, NoNewPrivs 1")
}

// rlimits tries to raise every hard limit that is not infinite.
func rlimits([]string) verdict {
	count := 0
	for r := range 16 {
		var l unix.Rlimit
		if err := unix.Getrlimit(r, &l); err != nil || l.Max == ^uint64(0) {
			continue
		}
		count++
		l.Max++
		if err := unix.Prlimit(0, r, &l, nil); err == nil {
			return escaped("raised limit %d to %d", r, l.Max)
		}
	}
	if count == 0 {
		return broken("no limit is finite")
	}
	return held("none of %d hard limits can be raised", count)
}
