package script

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"brig/internal/testenv"
	"brig/test/image/fixture"
)

// TestWarmAsCold has one program look around in a cold sandbox and in two warm ones of a pool, and looks at each process of theirs on the
// host: what is seen is the same, and what a sandbox must have for itself is no other's.
func TestWarmAsCold(t *testing.T) {
	t.Parallel()
	if testenv.Isolation() != "gvisor" {
		return // only a gVisor sandbox can be there before its program
	}
	testenv.Check(t, testenv.Root, testenv.Program("busybox"))
	dir := testRoot(t)
	if err := fixture.Stored(dir+"/images", "app:1", dir+"/root", []byte(`{"Env": ["FROM=image"], "WorkingDir": "/tmp"}`)); err != nil {
		t.Fatal(err)
	}
	for name, flags := range map[string][]string{
		"an image":               {"app:1"},
		"a folder and a volume":  {"--rootfs", dir + "/root", "-v", dir + "/vol:/vol"},
		"written over, in disk":  {"--writable", "disk", "app:1"},
		"much that can be asked": {"--memory", "90m", "--pids", "200", "--cpus", "1.5", "-u", "1000:6", "-w", "/run", "--hostname", "h", "--cap-add", "CHOWN", "--ulimit", "nofile=300", "--tmpfs", "/t", "app:1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			state := t.TempDir()
			w := &watcher{t: t, dir: dir, state: state + "/warm", flags: flags}
			w.brig("warm", append([]string{"-d", "-n", "2"}, flags...)...)
			t.Cleanup(func() { w.brig("warm", "--stop") })
			cold := (&watcher{t: t, dir: dir, state: state + "/cold", flags: flags}).look(false)
			one, two := w.look(true), w.look(true)
			for _, warm := range []*seen{one, two} {
				sameLines(t, "in the guest", cold.guest, warm.guest)
				if !slices.Equal(slices.Sorted(maps.Keys(cold.host)), slices.Sorted(maps.Keys(warm.host))) || len(cold.host) < 2 {
					t.Fatalf("the processes of a cold sandbox are %q, those of a warm one %q", slices.Sorted(maps.Keys(cold.host)), slices.Sorted(maps.Keys(warm.host)))
				}
				for process, lines := range cold.host {
					sameLines(t, "on the host, "+process, slices.Sorted(slices.Values(lines)), slices.Sorted(slices.Values(warm.host[process])))
				}
			}
			for i := range cold.own {
				if cold.own[i] == one.own[i] || one.own[i] == two.own[i] || len(one.own[i]) < 8 {
					t.Errorf("not each sandbox's own: %q, %q, %q", cold.own[i], one.own[i], two.own[i])
				}
			}
		})
	}
}

// testRoot makes a folder with a root of busybox and a volume.
func testRoot(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() { dropImages(dir) })
	for _, d := range []string{"root/bin", "root/etc", "root/proc", "root/sys", "root/dev", "root/tmp", "root/run", "root/vol", "root/t", "vol"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(busybox)
	if err == nil {
		err = os.WriteFile(dir+"/root/bin/busybox", data, 0o755)
	}
	for _, name := range strings.Fields("sh cat env find grep head hostname id ls od sed sleep sort tr") {
		if err == nil {
			err = os.Symlink("busybox", dir+"/root/bin/"+name)
		}
	}
	if err == nil {
		err = testenv.Share(dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// lookAround tells what a program sees: first what is its sandbox's own, a line each, then the rest.
const lookAround = `
cat /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid
head -c 16 /dev/urandom | od -An -x
cat /proc/uptime
echo umask $(umask); ulimit -a; ulimit -H -a; env | sort; pwd; id; hostname
for f in /etc/hostname /etc/hosts /etc/machine-id /etc/resolv.conf; do echo $f; cat $f 2>&1; done
for f in status limits mountinfo cgroup oom_score_adj uid_map gid_map cmdline; do echo "== $f"; cat /proc/self/$f | tr '\0' ' '; echo; done
for n in 3 4 5 6 7 8 9 10 11 12 13 14 15 16 100 101 102; do [ ! -e /proc/self/fd/$n ] || echo fd $n; done
cat /proc/version /proc/cmdline /proc/cpuinfo /proc/meminfo
grep -r '' /proc/sys /sys 2>&1 | sort
ls -ln / /dev /tmp /run | sed 's/^\([^ ]*\) *[0-9]* /\1 /; s/ [A-Z][a-z]* *[0-9]* *[0-9:]* / /'
echo END; sleep 1000`

// watcher runs that program, and looks.
type watcher struct {
	t          *testing.T
	dir, state string
	flags      []string
}

// seen is what was seen.
type seen struct {
	own, guest []string
	host       map[string][]string // by the process
}

func (w *watcher) command(verb string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, append([]string{verb, "--root", w.state}, args...)...)
	cmd.Env = append(os.Environ(), "BRIG_STORE="+w.dir+"/images")
	return cmd
}

func (w *watcher) brig(verb string, args ...string) string {
	w.t.Helper()
	out, err := w.command(verb, args...).CombinedOutput()
	if err != nil {
		w.t.Errorf("brig %s: %v: %s", verb, err, out)
	}
	return string(out)
}

func (w *watcher) look(warm bool) *seen {
	w.t.Helper()
	out := filepath.Join(w.t.TempDir(), "out")
	f, err := os.Create(out)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	began := time.Now()
	cmd := w.command("run", slices.Concat(testenv.IsolationFlags(), w.flags, []string{"--", "sh", "-c", lookAround})...)
	if w.flags[len(w.flags)-1] == "app:1" {
		cmd = w.command("run", slices.Concat(testenv.IsolationFlags(), w.flags, []string{"sh", "-c", lookAround})...)
	}
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	defer func() {
		_, _ = cmd.Process.Kill(), cmd.Wait()
		w.brig("ps") // which clears up
	}()
	var text string
	deadline := time.Now().Add(testenv.Patience(60 * time.Second))
	for ; !strings.HasSuffix(text, "END\n"); time.Sleep(10 * time.Millisecond) {
		data, err := os.ReadFile(out)
		if text = string(data); err != nil || time.Now().After(deadline) {
			w.t.Fatalf("the program did not come to its end: %v\n%s", err, text)
		}
	}
	var list []struct {
		ID   string
		Warm bool
	}
	for len(list) == 0 && time.Now().Before(deadline) { // it is written down a little later
		if err := json.Unmarshal([]byte(w.brig("ps", "--format", "json")), &list); err != nil {
			w.t.Fatal(err)
		}
	}
	if len(list) != 1 || list[0].Warm != warm {
		w.t.Fatalf("warm is to be %v: %+v", warm, list)
	}
	return w.sort(text, list[0].ID, time.Since(began))
}

// changing are lines that say how much is in use, or which file of the kernel's.
var changing = regexp.MustCompile(`^(Vm|Rss|MemFree|MemAvailable|Buffers|Cached|Active|Inactive|Shmem|Mapped|AnonPages|Slab|SReclaimable|/proc/sys/kernel/random/|/proc/sys/fs/(file|inode)-|cpu MHz|voluntary_|nonvoluntary_|FDSize)`)

func (w *watcher) sort(text, id string, age time.Duration) *seen {
	w.t.Helper()
	lines := strings.Split(strings.ReplaceAll(text, id, "ID"), "\n")
	s := &seen{own: lines[:3], host: map[string][]string{}}
	first, _, _ := strings.Cut(lines[3], " ")
	if up, err := strconv.ParseFloat(first, 64); err != nil || up > age.Seconds() {
		w.t.Errorf("the guest is up for %q, and was run %s ago", lines[3], age)
	}
	for _, l := range lines[4:] {
		if !changing.MatchString(l) {
			s.guest = append(s.guest, l)
		}
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range processes {
		group, err := os.ReadFile(p + "/cgroup")
		if err != nil || !strings.Contains(string(group), id) {
			continue
		}
		command, _ := os.ReadFile(p + "/cmdline")
		name := strings.TrimSpace(strings.ReplaceAll(string(command), "\x00", " "))
		if name == "" {
			name = "a stub of the guest's"
		}
		for _, l := range process(w.t, p, id) {
			if !slices.Contains(s.host[name], l) { // there are several stubs, and one that others are forked from
				s.host[name] = append(s.host[name], l)
			}
		}
	}
	return s
}

// counted are the lines of a process's status that are its own. Go's runtime blocks signals for the moment in which it makes a thread.
var counted = regexp.MustCompile(`^(SigBlk|Vm|Rss|Hugetlb|Pid|Tgid|PPid|Ngid|NSpid|NStgid|NSpgid|NSsid|Threads|State|SigQ|SigPnd|ShdPnd|FDSize|voluntary_|nonvoluntary_)`)

// process tells what the host's kernel says of one.
func process(t *testing.T, dir, id string) []string {
	t.Helper()
	read := func(name string) string {
		data, err := os.ReadFile(dir + "/" + name)
		if err != nil {
			return err.Error()[strings.LastIndex(err.Error(), ":"):]
		}
		return strings.ReplaceAll(string(data), "\x00", " ")
	}
	var first int
	if _, err := fmt.Sscan(read("uid_map"), new(int), &first); err != nil {
		t.Fatal(err)
	}
	var list []string
	say := func(format string, args ...any) {
		line := strings.Join(strings.Fields(strings.ReplaceAll(fmt.Sprintf(format, args...), id, "ID")), " ")
		list = append(list, regexp.MustCompile(`\d{5,}`).ReplaceAllStringFunc(line, func(n string) string {
			if id, err := strconv.Atoi(n); err == nil && id >= first && id < first+65536 {
				return fmt.Sprintf("ID+%d", id-first)
			}
			return n
		}))
	}
	for line := range strings.Lines(read("status")) {
		if !counted.MatchString(line) {
			say("status %s", line)
		}
	}
	for _, name := range []string{"limits", "oom_score_adj", "attr/current", "cgroup", "uid_map", "gid_map", "setgroups", "timerslack_ns", "personality", "loginuid", "coredump_filter", "timens_offsets", "environ", "cpuset"} {
		say("%s %s", name, read(name))
	}
	for line := range strings.Lines(read("mountinfo")) {
		f := strings.Fields(line) // without the numbers that the mount, its parent and its device happen to have
		say("mount %s", strings.Join(f[3:], " "))
	}
	stat := read("stat")
	f := strings.Fields(stat[strings.LastIndex(stat, ") ")+2:])
	say("priority, nice value, real time, policy: %s %s %s %s; terminal %s", f[15], f[16], f[37], f[38], f[4])
	for _, link := range []string{"root", "cwd", "exe"} {
		to, _ := os.Readlink(dir + "/" + link)
		say("%s %s", link, to)
	}
	namespaces, _ := filepath.Glob(dir + "/ns/*")
	for _, ns := range namespaces {
		theirs, _ := os.Readlink(ns)
		ours, _ := os.Readlink("/proc/self/ns/" + filepath.Base(ns))
		say("namespace %s is the host's: %v", filepath.Base(ns), ours == theirs)
	}
	for _, fd := range descriptors(dir) {
		say("%s", fd)
	}
	return list
}

var numbers = regexp.MustCompile(`\[\d+\]|^/proc/\d+`)

// descriptors are a process's open files: each kind once, as how many eventfds a kernel has at a moment is its own affair; those that it
// was started with by their numbers.
func descriptors(dir string) []string {
	links, _ := filepath.Glob(dir + "/fd/*")
	kinds := map[string]bool{}
	for _, l := range links {
		to, err := os.Readlink(l)
		if err != nil {
			continue
		}
		info, _ := os.ReadFile(dir + "/fdinfo/" + filepath.Base(l))
		_, flags, _ := strings.Cut(string(info), "flags:")
		flags, _, _ = strings.Cut(flags, "\n")
		number := filepath.Base(l)
		if n, err := strconv.Atoi(number); err == nil && n > 7 {
			number = "n"
		}
		kinds["fd "+number+" "+numbers.ReplaceAllString(to, "")+" "+strings.TrimSpace(flags)] = true
	}
	return slices.Sorted(maps.Keys(kinds))
}

// sameLines holds two lists equal, and tells the lines that only one of them has.
func sameLines(t *testing.T, where string, cold, warm []string) {
	t.Helper()
	if slices.Equal(cold, warm) {
		return
	}
	only := func(a, b []string) (list []string) {
		for _, l := range a {
			if !slices.Contains(b, l) {
				list = append(list, l)
			}
		}
		return list
	}
	t.Errorf("%s: cold %q, warm %q", where, only(cold, warm), only(warm, cold))
}
