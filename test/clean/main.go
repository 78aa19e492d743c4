// Command clean proves that tests leave the machine as they found it: `clean snapshot FILE` before, `clean check FILE`
// after. It compares cgroups, mounts, loop devices, the state folder, id ranges, and looks for processes in namespaces that are
// not its own.
package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) != 3 {
		fail("usage: clean snapshot|check FILE")
	}
	switch os.Args[1] {
	case "snapshot":
		data, err := json.Marshal(look())
		if err == nil {
			err = os.WriteFile(os.Args[2], data, 0o600)
		}
		if err != nil {
			fail(err)
		}
	case "check":
		check(os.Args[2])
	default:
		fail("usage: clean snapshot|check FILE")
	}
}

// check gives what is dying a moment: a process killed by the last test may still be a zombie.
func check(file string) {
	data, err := os.ReadFile(file)
	if err != nil {
		fail(err)
	}
	before := map[string]bool{}
	if err := json.Unmarshal(data, &before); err != nil {
		fail(err)
	}
	var left []string
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		left = nil
		for thing := range look() {
			if !before[thing] {
				left = append(left, thing)
			}
		}
		if len(left) == 0 {
			fmt.Println("the machine is as it was")
			return
		}
		if time.Now().After(deadline) {
			break
		}
	}
	sort.Strings(left)
	fail(strings.Join(append([]string{"the tests left behind:"}, left...), "\n  "))
}

func fail(what any) {
	fmt.Fprintln(os.Stderr, what)
	os.Exit(1)
}

// look is everything that a sandbox makes on a machine.
func look() map[string]bool {
	things := map[string]bool{}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && !standing(path) {
			things["cgroup "+path] = true
		}
		return nil
	})
	_ = filepath.WalkDir("/run/brig", func(path string, _ fs.DirEntry, err error) error {
		depth := strings.Count(path, "/")
		if err == nil && depth > 3 { // its own folders may stay: they are the store
			things["state "+path] = true
		}
		return nil
	})
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 {
			things["mount "+f[4]] = true
		}
	}
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file") // loop(4): there while the device has a file
	for _, name := range files {
		file, _ := os.ReadFile(name)
		things["loop device "+strings.Split(name, "/")[3]+" of "+strings.TrimSpace(string(file))] = true
	}
	processes(things)
	// Device nodes that sandboxes see: a runtime that chowns a standard stream can hand the host's to a stranger.
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		var st syscall.Stat_t
		if err := syscall.Stat("/dev/"+name, &st); err == nil {
			things[fmt.Sprintf("/dev/%s of %d:%d, mode %#o", name, st.Uid, st.Gid, st.Mode)] = true
		}
	}
	return things
}

// standing says that a cgroup is the parent of all sandboxes' groups, which the first of them makes and none removes: an
// rmdir in each hierarchy, at each end, would race with the next start for nothing. What lies below it is looked at.
func standing(path string) bool {
	name, ok := strings.CutPrefix(path, "/sys/fs/cgroup/")
	hierarchy, below, inside := strings.Cut(name, "/")
	return ok && (inside && below == "brig" || hierarchy == "brig" && !inside)
}

// ours are the programs that nothing but a test leaves behind.
var ours = map[string]bool{"brig": true, "brig-image": true, "docker-registry": true}

// processes are those in a user or pid namespace other than this one's, Brig's own, and the registries of tests.
func processes(things map[string]bool) {
	own := [2]string{}
	own[0], _ = os.Readlink("/proc/self/ns/user")
	own[1], _ = os.Readlink("/proc/self/ns/pid")
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		user, uerr := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", pid))
		ns, perr := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
		foreign := uerr == nil && perr == nil && (user != own[0] || ns != own[1])
		if name := strings.TrimSpace(string(comm)); foreign || ours[name] {
			things[fmt.Sprintf("process %d %s", pid, name)] = true
		}
	}
}
