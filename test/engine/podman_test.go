package engine

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brig/internal/testenv"
)

// podman is an installation of this test's own, for root or for a user that exists for as long as the test: its own
// configuration, storage and state. Debian's Podman has no daemon; what outlives a command is conmon, one for each container, and for a
// user one process that holds the user namespace.
type podman struct {
	t    *testing.T
	dir  string
	user string   // whose containers they are; empty for root
	ids  string   // a user with subordinate ids
	pod  string   // the cgroup above all
	kube []string // the groups above the pods of `play kube` that were there before

	limits string // for containers.conf
}

// startPodman makes one. Root's containers have low limits: by default Podman raises two, for which root of the test
// machine lacks CAP_SYS_RESOURCE, and runc and crun fail, too.
func startPodman(t *testing.T, rootless bool) *podman {
	t.Helper()
	testenv.Check(t, testenv.Root, testenv.Program("podman"), testenv.Program("conmon"), testenv.Program("catatonit"))
	if rootless {
		testenv.Check(t, testenv.Unprivileged, testenv.Program("newuidmap"))
	}
	dir, err := os.MkdirTemp("/run", "brig-podman-")
	if err != nil {
		t.Fatal(err)
	}
	p := &podman{t: t, dir: dir, pod: "/" + filepath.Base(dir), ids: fmt.Sprintf("brig-%d", time.Now().UnixNano()%1e12)}
	p.kube, _ = filepath.Glob(kubeGroups)
	t.Cleanup(p.remove)
	p.makeUser()
	limits := `default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]`
	if rootless {
		p.user, limits = p.ids, ""
	}
	p.file(filepath.Base(runtime), runtime, 0o755)
	if testenv.Isolation() != "native" {
		p.file("brig-gvisor", filepath.Join(filepath.Dir(runtime), "brig-gvisor"), 0o755)
	}
	p.limits = limits
	p.configure("brig-oci")
	p.text("storage.conf", fmt.Sprintf(`[storage]
driver = "vfs"
runroot = "%[1]s/run"
graphroot = "%[1]s/root"
rootless_storage_path = "%[1]s/root"
[storage.options]
root-auto-userns-user = "%[2]s"
`, dir, p.ids))
	for _, name := range []string{"root", "run", "tmp", "home", "home/vol"} {
		p.check(os.Mkdir(filepath.Join(dir, name), 0o700))
	}
	p.text("home/vol/file", "text\n")
	if rootless {
		p.own(filepath.Join(dir, "root"), filepath.Join(dir, "run"), filepath.Join(dir, "tmp"), filepath.Join(dir, "home"))
	}
	p.check(os.Chmod(dir, 0o755))
	p.importImage()
	return p
}

// configure writes containers.conf: what docs/engines.md has, with the runtime that new containers get, and what keeps this
// installation apart.
func (p *podman) configure(name string) {
	p.t.Helper()
	block := strings.ReplaceAll(documented(p.t, "[engine.runtimes]"), "\n    ", "\n")
	block = strings.ReplaceAll(strings.TrimSpace(block), installed, filepath.Join(p.dir, filepath.Base(runtime)))
	block = strings.Replace(block, `runtime = "brig-oci"`, `runtime = "`+name+`"`, 1)
	p.text("containers.conf", fmt.Sprintf(`[containers]
%s
init_path = "/usr/bin/catatonit"
[network]
network_backend = "cni"
network_config_dir = "%s/home/net"
%s
`, p.limits, p.dir, strings.Replace(block, "[engine]\n", `[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
`, 1)))
}

func (p *podman) check(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *podman) text(name, text string) {
	p.t.Helper()
	p.check(os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o644))
}

// file copies by another process: a file that this one has open for writing could be busy in a child of another test.
func (p *podman) file(name, from string, mode os.FileMode) {
	p.t.Helper()
	to := filepath.Join(p.dir, name)
	if out, err := exec.Command("cp", from, to).CombinedOutput(); err != nil {
		p.t.Fatalf("%v: %s", err, out)
	}
	p.check(os.Chmod(to, mode))
}

func (p *podman) own(dirs ...string) {
	p.t.Helper()
	if out, err := exec.Command("chown", append([]string{"-R", p.user + ":"}, dirs...)...).CombinedOutput(); err != nil {
		p.t.Fatalf("%v: %s", err, out)
	}
}

// makeUser makes the user, in a group beside its own. Another test may have the lock of /etc/passwd.
func (p *podman) makeUser() {
	p.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		out, err := exec.Command("useradd", "--no-create-home", "--shell", "/bin/sh", "--groups", "audio", p.ids).CombinedOutput()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("useradd: %v: %s", err, out)
		}
	}
}

// importImage makes an image of busybox whose user is "me", by name.
func (p *podman) importImage() {
	p.t.Helper()
	root := rootfs(p.t)
	for _, name := range strings.Fields("touch tty stty stat readlink wc") {
		p.check(os.Symlink("busybox", filepath.Join(root, "bin", name)))
	}
	p.check(os.Chmod(filepath.Join(root, "tmp"), 0o1777|os.ModeSticky))
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nme:x:1000:1000::/tmp:/bin/sh\n", "etc/group": "root:x:0:\nme:x:1000:\ndisk:x:6:me\n", "data/file": "copied\n",
	} {
		p.check(os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
		p.check(os.WriteFile(filepath.Join(root, name), []byte(text), 0o644))
	}
	archive := filepath.Join(p.dir, "image.tar")
	if out, err := exec.Command("tar", "-C", root, "--owner=0", "--group=0", "-cf", archive, ".").CombinedOutput(); err != nil {
		p.t.Fatalf("%v: %s", err, out)
	}
	p.want(0, "sha256:", "import", archive, "box")
	p.want(0, "sha256:", "import", "--change", "USER me", archive, "mine")
}

// command is podman with what this installation needs.
func (p *podman) command(args ...string) *exec.Cmd {
	line := []string{"timeout", "-k", "1", "60"}
	if p.user != "" {
		line = append(line, "setpriv", "--reuid", p.user, "--regid", p.user, "--init-groups")
	}
	line = append(line, "podman", "--root", p.dir+"/root", "--runroot", p.dir+"/run", "--tmpdir", p.dir+"/tmp", "--cgroup-manager=cgroupfs")
	cmd := exec.Command(line[0], append(line[1:], args...)...)
	cmd.Dir = p.dir + "/home"
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm", "HOME=" + p.dir + "/home", "XDG_RUNTIME_DIR=" + p.dir + "/run",
		"CONTAINERS_CONF=" + p.dir + "/containers.conf", "CONTAINERS_STORAGE_CONF=" + p.dir + "/storage.conf",
	}
	return cmd
}

// finish runs a command with its output in a file: conmon holds what it inherits.
func (p *podman) finish(cmd *exec.Cmd) (string, int) {
	out, err := os.CreateTemp(p.dir, "out-")
	if err != nil {
		return err.Error(), -1
	}
	defer out.Close()
	defer os.Remove(out.Name())
	cmd.Stdout, cmd.Stderr = out, out
	_ = cmd.Run()
	text, err := os.ReadFile(out.Name())
	if err != nil {
		return err.Error(), -1
	}
	var kept []string
	for line := range strings.Lines(string(text)) {
		if !strings.Contains(line, "is not a shared mount") { // a warning on every call of a user's
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, ""), cmd.ProcessState.ExitCode()
}

func (p *podman) want(code int, words string, args ...string) string {
	p.t.Helper()
	out, got := p.finish(p.command(args...))
	hold(p.t, got == code && strings.Contains(out, words), "podman "+plain(args), fmt.Sprintf("exit code %d, %q; want %d, %q", got, out, code, words))
	return out
}

// plain are arguments as one text, without what fresh adds to all.
func plain(args []string) string {
	return regexp.MustCompile(`--network none |--cgroup-parent \S+ `).ReplaceAllString(strings.Join(args, " "), "")
}

// fresh are the arguments of a new container: it has no network unless one is named, and root's a cgroup below this test's own.
func (p *podman) fresh(verb string, args ...string) []string {
	list := []string{verb}
	if !slices.Contains(args, "--network") {
		list = append(list, "--network", "none")
	}
	if p.user == "" && !slices.Contains(args, "--cgroups=disabled") {
		list = append(list, "--cgroup-parent", p.pod)
	}
	return append(list, args...)
}

// run is `podman run --rm` of a script.
func (p *podman) run(code int, words, flags, script string) {
	p.t.Helper()
	p.want(code, words, p.fresh("run", append(append([]string{"--rm"}, strings.Fields(flags)...), "box", "sh", "-c", script)...)...)
}

// start leaves a container running, or makes it.
func (p *podman) start(verb, name, flags, script string) {
	p.t.Helper()
	p.want(0, "", p.fresh(verb, append(append([]string{"--name", name}, strings.Fields(flags)...), "box", "sh", "-c", script)...)...)
}

// terminal runs `podman run -it` on a pseudo terminal of its own, types, and gives what was to be seen.
func (p *podman) terminal(typed string, args ...string) (string, int) {
	p.t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	p.check(err)
	defer master.Close()
	p.check(unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	p.check(err)
	p.check(unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 77}))
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	p.check(err)
	if p.user != "" {
		p.check(unix.Fchmod(int(slave.Fd()), 0o666))
	}
	cmd := p.command(args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	p.check(cmd.Start())
	p.check(slave.Close())
	_, err = master.WriteString(typed)
	p.check(err)
	seen, _ := io.ReadAll(master) // ends with EIO when the last slave is closed
	_ = cmd.Wait()
	return string(seen), cmd.ProcessState.ExitCode()
}

// remove leaves nothing behind: no container, process, mount, cgroup, user.
func (p *podman) remove() {
	t := p.t
	p.finish(p.command("pod", "rm", "-fa", "-t", "0"))
	p.finish(p.command("rm", "-fa", "-t", "0"))
	if p.user != "" {
		p.finish(p.command("system", "migrate")) // ends the process that holds the user namespace
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], p.dir) {
			t.Errorf("a mount is left: %s", f[4])
			_ = unix.Unmount(f[4], unix.MNT_DETACH)
		}
	}
	p.removeCgroups()
	if err := os.RemoveAll(p.dir); err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		out, err := exec.Command("userdel", p.ids).CombinedOutput()
		if err == nil || exec.Command("id", p.ids).Run() != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("userdel: %v: %s", err, out)
			break
		}
	}
}

// kubeGroups are above the pods of `podman play kube`, which takes no --cgroup-parent. Podman leaves a pod's group in the
// hierarchies that it has no controller in.
const kubeGroups = "/sys/fs/cgroup/*/libpod_parent"

// removeCgroups removes what Podman itself has made: groups above the containers', and, where a hierarchy is not mounted,
// plain folders in /sys/fs/cgroup, with files in them. A group of a container's that is left is the runtime's fault.
func (p *podman) removeCgroups() {
	p.t.Helper()
	tops, _ := filepath.Glob("/sys/fs/cgroup/*" + p.pod)
	kube, _ := filepath.Glob(kubeGroups)
	tops = append(tops, slices.DeleteFunc(kube, func(dir string) bool { return slices.Contains(p.kube, dir) })...)
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		left, _ := filepath.Glob("/sys/fs/cgroup/*" + p.pod + "/libpod-*/cgroup.procs")
		conmons, _ := filepath.Glob("/sys/fs/cgroup/*" + p.pod + "/conmon/cgroup.procs")
		if len(left) == 0 && !slices.ContainsFunc(conmons, func(f string) bool { text, _ := os.ReadFile(f); return len(text) > 0 }) {
			break
		}
		if time.Now().After(deadline) {
			p.t.Errorf("cgroups are left: %v %v", left, conmons)
			break
		}
	}
	for _, top := range tops {
		var dirs []string
		_ = filepath.WalkDir(top, func(name string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, name)
			}
			return nil
		})
		var fs unix.Statfs_t
		if unix.Statfs(top, &fs) == nil && fs.Type == unix.TMPFS_MAGIC {
			_ = os.RemoveAll(top)
			_ = os.Remove(filepath.Dir(top)) // if it was made for this
			continue
		}
		for _, dir := range slices.Backward(dirs) {
			_ = unix.Rmdir(dir)
		}
	}
}

// keepPodmanOut gives what removes the folders of root's that Podman makes whatever its flags say, a cache of images among them. Those
// that were there before stay.
func keepPodmanOut() (remove func()) {
	var absent []string
	for _, dir := range []string{"/var/lib/containers", "/run/containers"} {
		if _, err := os.Lstat(dir); os.IsNotExist(err) {
			absent = append(absent, dir)
		}
	}
	return func() {
		for _, dir := range absent {
			_ = os.RemoveAll(dir)
		}
	}
}

// TestPodman is what root's Podman does with containers, each line with the exit code and words that runc gives.
func TestPodman(t *testing.T) {
	t.Parallel()
	p := startPodman(t, false)
	p.programs()
	p.confinement()
	p.volumes()
	p.userNamespaces()
	p.namespaces()
	p.life()
	p.control()
	p.pods()
	p.outOfMemory()
	p.wantNothing("/run/brig-oci")
}

// TestPodmanRootless is the same for a user, without systemd, without a cgroup that is the user's.
func TestPodmanRootless(t *testing.T) {
	t.Parallel()
	p := startPodman(t, true)
	p.programs()
	p.userVolumes()
	p.keptIDs()
	p.namespaces()
	p.life()
	p.pods()
	p.run(0, "fine", "--cgroups=disabled", "echo fine")
	p.run(0, "Seccomp:\t2", "", "grep Seccomp: /proc/self/status")
	p.run(0, "CapEff:\t000001ffffffffff", "--privileged", "grep CapEff /proc/self/status")
	p.run(0, "1,   5", "--device /dev/zero:/dev/nought", "ls -l /dev/nought")
	p.want(125, "checkpointing a container requires root", "container", "checkpoint", "nobody")
	p.wantNothing(p.dir + "/run/brig-oci")
}

// wantNothing looks for what is left when every container is gone.
func (p *podman) wantNothing(state string) {
	p.t.Helper()
	ids := strings.Fields(p.want(0, "", "ps", "-aq", "--no-trunc"))
	p.want(0, "", "rm", "-fa", "-t", "0")
	for _, id := range ids {
		if _, err := os.Stat(filepath.Join(state, id)); err == nil {
			p.t.Errorf("the state of %s is left", id)
		}
	}
	if p.user != "" {
		if left, _ := os.ReadDir(state); len(left) > 0 {
			p.t.Errorf("state is left: %v", left)
		}
	}
}

// programs: exit codes, streams, terminals, users.
func (p *podman) programs() {
	p.run(5, "out", "", "echo out; exit 5")
	p.want(127, "executable file not found in $PATH", p.fresh("run", "--rm", "box", "nosuch")...)
	p.want(126, "permission denied", p.fresh("run", "--rm", "box", "/etc/passwd")...)
	p.run(0, "/dev/pts/0", "-t", "tty")
	seen, code := p.terminal("tty; stty size; ls -l /dev/console; exit 7\n", p.fresh("run", "--rm", "-it", "box", "sh")...)
	hold(p.t, strings.Contains(seen, "/dev/pts/0") && strings.Contains(seen, "136,"), "podman run -it: its terminal's name", fmt.Sprintf("%q", seen))
	if code != 7 || !strings.Contains(seen, "33 77") {
		p.t.Errorf("podman run -it: exit code %d, %q", code, seen)
	}
	p.run(0, "uid=1000(me) gid=1000(me) groups=6(disk),1000(me)", "--user me", "id")
	p.run(0, "uid=4242(4242) gid=4343(4343)", "--user 4242:4343", "id")
	p.want(0, "uid=1000(me)", p.fresh("run", "--rm", "mine", "id")...)
	p.run(0, "77\n99\n", "--ulimit nofile=77:99 --ulimit nproc=4000:4000", "ulimit -n; ulimit -Hn")
	p.run(0, "podman-init -- sh -c", "--init", "ps")
	p.run(0, "0077", "--umask 0077", "umask")
	p.run(0, "Read-only file system\nfine", "--read-only", "touch /x 2>&1; touch /tmp/x /run/x && echo fine")
	p.run(0, "copied", "--mount type=tmpfs,destination=/data,tmpcopyup", "cat /data/file; touch /data/x")
	p.run(0, "size=1024k", "--tmpfs /t:size=1m,mode=1777", "grep ' /t ' /proc/self/mountinfo")
	p.run(0, "tmpfs on /var/log/journal\npodman", "--systemd=always", "mount | grep -o '^tmpfs on /var/log/journal'; echo $container")
	given, err := os.Open(filepath.Join(p.dir, "home/vol/file"))
	p.check(err)
	defer given.Close()
	cmd := p.command(p.fresh("run", "--rm", "--preserve-fds", "1", "box", "sh", "-c", "cat <&3")...)
	cmd.ExtraFiles = []*os.File{given}
	if out, code := p.finish(cmd); code != 0 || out != "text\n" {
		p.t.Errorf("--preserve-fds: exit code %d, %q", code, out)
	}
}

// confinement: what keeps a container in.
func (p *podman) confinement() {
	p.run(0, "Seccomp:\t2", "", "grep Seccomp: /proc/self/status")
	p.run(0, "Seccomp:\t0", "--security-opt seccomp=unconfined", "grep Seccomp: /proc/self/status")
	p.run(0, "NoNewPrivs:\t1", "--security-opt no-new-privileges", "grep NoNewPrivs /proc/self/status")
	p.run(0, "CapEff:\t0000000000002000", "--cap-drop all --cap-add net_raw", "grep CapEff /proc/self/status")
	p.run(0, "0\n", "--security-opt mask=/etc/passwd", "wc -c </etc/passwd")
	p.run(0, " /proc/sys ", "", "grep ' /proc/sys ' /proc/self/mountinfo")
	p.run(1, "", "--security-opt unmask=ALL", "grep ' /proc/sys ' /proc/self/mountinfo")
	p.run(0, "hidepid=invisible", "--security-opt proc-opts=hidepid=2", "grep ' /proc ' /proc/self/mountinfo")
	p.run(0, "", "--security-opt label=disable --security-opt apparmor=unconfined", "true")
	p.run(0, "Seccomp:\t0", "--privileged", "grep Seccomp: /proc/self/status; ls /dev/loop-control")
	p.run(0, "1,   5", "--device /dev/zero:/dev/nought", "ls -l /dev/nought")
	p.run(0, "9000", "--sysctl kernel.msgmax=9000", "cat /proc/sys/kernel/msgmax")
	p.run(0, "67108864\n50", "--memory 64m --memory-swap 64m --memory-reservation 32m --pids-limit 50 --cpus 0.5 --cpuset-cpus 0 --cpu-shares 200",
		"cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max")
	p.run(0, "500", "--oom-score-adj 500", "cat /proc/self/oom_score_adj")
	p.run(0, "fine", "--cgroups=disabled", "echo fine")
	p.run(0, "uid=0(root)", "--annotation run.oci.keep_original_groups=1", "id")
}

func (p *podman) volumes() {
	vol := p.dir + "/home/vol"
	p.run(1, "Read-only file system", "-v "+vol+":/v:ro", "cat /v/file && touch /v/x")
	p.run(0, "wrote", "-v "+vol+":/v:z", "touch /v/x && echo wrote")
	p.run(0, "nosuid,nodev,noexec", "-v "+vol+":/v:rshared,noexec,nodev,nosuid", "grep ' /v ' /proc/self/mountinfo")
	p.run(0, "1000", "--uidmap 0:300000:5000 --user me -v "+vol+":/v:U", "stat -c %u /v/file")
	p.check(os.Chown(vol+"/file", 0, 0))
	p.check(os.Chown(vol, 0, 0))
	p.run(0, "0\nwrote", "--uidmap 0:300000:5000 -v "+vol+":/v:idmap", "stat -c %u /v/file; touch /v/mapped && echo wrote")
	var made unix.Stat_t
	if err := unix.Stat(vol+"/mapped", &made); err != nil || made.Uid != 0 {
		p.t.Errorf("on an idmapped volume a file is %d's (%v), not root's", made.Uid, err)
	}
	p.run(0, "over", "-v "+vol+":/v:O", "touch /v/over; ls /v")
	if _, err := os.Stat(vol + "/over"); err == nil {
		p.t.Error("an overlay volume wrote to the folder under it")
	}
	p.run(0, "copied", "-v named:/data", "cat /data/file; echo kept >/data/kept")
	p.run(0, "kept", "-v named:/data", "cat /data/kept")
	p.want(0, "named", "volume", "rm", "named")
	p.run(1, "No such file", "--mount type=tmpfs,destination=/data,notmpcopyup", "cat /data/file")
	p.run(0, "", "--mount type=devpts,destination=/dev/pts", "ls -l /dev/pts/ptmx")
}

func (p *podman) userNamespaces() {
	p.run(0, "0     300000       5000\nuid=0(root)", "--uidmap 0:300000:5000 --gidmap 0:300000:5000", "cat /proc/self/uid_map; id")
	p.run(0, "5000\n", "--userns=auto:size=5000", "cat /proc/self/uid_map")
	p.run(0, "uid=1000(me)", "--uidmap 0:300000:5000 --user me", "id")
}

// keptIDs: a user keeps its id inside, and its groups.
func (p *podman) keptIDs() {
	out, err := exec.Command("id", "-u", p.user).Output()
	p.check(err)
	uid := strings.TrimSpace(string(out))
	p.run(0, "uid="+uid+"("+p.user+")", "--userns=keep-id", "id; touch /tmp/x; stat -c %u /tmp/x")
	p.run(0, "uid=0(root)", "--userns=keep-id --user 0", "id")
	p.run(0, uid+"\nwrote", "--userns=keep-id -v "+p.dir+"/home/vol:/v", "stat -c %u /v/file; touch /v/k && echo wrote")
	p.run(0, "1024\n", "--userns=auto", "cat /proc/self/uid_map")
	p.run(0, "uid=0(root)", "--userns=nomap", "id")
	p.run(0, "0          1       5000", "--uidmap 0:1:5000 --gidmap 0:1:5000", "cat /proc/self/uid_map")
	p.run(0, "65534", "--group-add keep-groups", "id") // audio has no id inside
	p.run(0, "groups=0(root)\n", "", "id; echo groups=0'(root)'")
}

func (p *podman) userVolumes() {
	vol := p.dir + "/home/vol"
	p.run(1, "Read-only file system", "-v "+vol+":/v:ro", "cat /v/file && touch /v/x")
	p.run(0, "0\nwrote", "-v "+vol+":/v:z", "stat -c %u /v/file; touch /v/x && echo wrote")
	p.run(0, "1000", "--user me -v "+vol+":/v:U", "stat -c %u /v/file")
	p.want(0, "", "unshare", "chown", "-R", "0:0", vol)
	p.run(0, "over", "-v "+vol+":/v:O", "touch /v/over; ls /v")
	p.run(0, "copied", "-v named:/data", "cat /data/file")
	p.want(0, "named", "volume", "rm", "named")
}

// namespaces that are the host's or another container's.
func (p *podman) namespaces() {
	p.run(0, "host", "--pid host", "test -d /proc/2 && echo host")
	host, err := os.Readlink("/proc/self/ns/uts")
	p.check(err)
	p.run(0, host, "--uts host", "readlink /proc/self/ns/uts")
	p.start("run", "one", "-d --hostname first", "sleep 1000")
	own := strings.TrimSpace(p.want(0, "net:[", "exec", "one", "readlink", "/proc/self/ns/net"))
	p.want(0, own, p.fresh("run", "--rm", "--network", "container:one", "--ipc", "container:one", "box", "readlink", "/proc/self/ns/net")...)
	p.run(0, "sleep 1000", "--pid container:one", "ps")
	out := p.want(0, "net:[", p.fresh("run", "--rm", "--network", "host", "box", "readlink", "/proc/self/ns/net")...)
	net, err := os.Readlink("/proc/self/ns/net")
	hold(p.t, err == nil && strings.TrimSpace(out) == net, "podman run --network host", fmt.Sprintf("%q, want %q (%v)", out, net, err))
	p.want(0, "one", "rm", "-f", "-t", "0", "one")
}

// life: exec, stop, restart, kill, logs, a health check.
func (p *podman) life() {
	p.start("run", "long", "-d --health-cmd true --health-interval disable", "echo said; echo badly >&2; exec sleep 1000")
	p.want(0, "second", "exec", "long", "echo", "second")
	p.want(9, "", "exec", "long", "sh", "-c", "exit 9")
	p.want(127, "executable file not found in $PATH", "exec", "long", "nosuch")
	p.want(0, "/dev/pts/0", "exec", "-t", "long", "tty")
	if seen, code := p.terminal("tty; exit 6\n", "exec", "-it", "long", "sh"); true {
		hold(p.t, code == 6 && strings.Contains(seen, "/dev/pts/0"), "podman exec -it", fmt.Sprintf("exit code %d, %q", code, seen))
	}
	p.want(0, "uid=1000(me) gid=1000(me) groups=6(disk)", "exec", "-u", "me", "-w", "/tmp", "-e", "A=b", "long", "id")
	p.want(0, "", "exec", "-d", "long", "touch", "/tmp/detached")
	p.want(0, "sleep 1000", "top", "long")
	p.want(0, "running", "inspect", "-f", "{{.State.Status}}", "long")
	p.want(0, "said\nbadly\n", "logs", "long")
	p.want(0, "", "healthcheck", "run", "long")
	p.want(0, "healthy", "inspect", "-f", "{{.State.Health.Status}}", "long")
	p.want(0, "", "exec", "long", "ls", "/tmp/detached")
	p.want(0, "long", "restart", "-t", "0", "long")
	p.want(0, "long", "stop", "-t", "0", "long")
	p.want(0, "exited 137", "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "long")
	p.want(0, "long", "start", "long")
	p.want(0, "long", "kill", "-s", "KILL", "long")
	p.want(0, "137", "wait", "long")
	p.want(0, "long", "start", "long")
	p.want(0, "long", "rm", "-f", "-t", "0", "long")
}

// control: what needs a cgroup, which only root has here; and a runtime that is asked behind Podman's back.
func (p *podman) control() {
	p.start("run", "held", "-d", "while :; do sleep 1; done")
	p.want(0, "held", "pause", "held")
	p.want(0, "paused", "inspect", "-f", "{{.State.Status}}", "held")
	p.want(0, "held", "unpause", "held")
	out := p.want(0, "held", "stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}} {{.CPUNano}}", "held")
	if f := strings.Fields(out); len(f) != 3 || f[2] == "0" {
		p.t.Errorf("stats: %q; no time of the processor is counted", out)
	}
	p.want(0, "", "update", "--memory", "64m", "held")
	p.want(0, "67108864", "exec", "held", "cat", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
	// Podman says it itself where there is no criu, else the runtime does.
	if out, code := p.finish(p.command("container", "checkpoint", "held")); code != 125 || !strings.Contains(strings.ToLower(out), "criu") {
		p.t.Errorf("checkpoint: exit code %d, %q", code, out)
	}

	id := strings.TrimSpace(p.want(0, "", "inspect", "-f", "{{.Id}}", "held"))
	if out, err := exec.Command(runtime, "delete", "--force", id).CombinedOutput(); err != nil {
		p.t.Errorf("delete --force: %v: %s", err, out)
	}
	if out, err := exec.Command(runtime, "state", id).CombinedOutput(); err == nil || !strings.Contains(string(out), "does not exist") {
		p.t.Errorf("state of what is gone: %v: %s", err, out)
	}
	p.want(0, "Exited", "ps", "-a", "--sync", "--filter", "name=held")
	p.want(0, "held", "rm", "-f", "held")
}

// pods: containers that share the namespaces of a pause container.
func (p *podman) pods() {
	p.want(0, "", append([]string{"pod"}, p.fresh("create", "--name", "pod", "--infra-image", "localhost/box", "--infra-command", "/bin/sleep 1000")...)...)
	p.want(0, "", "run", "-d", "--pod", "pod", "--name", "a", "box", "sleep", "1000")
	p.want(0, "", "run", "-d", "--pod", "pod", "--name", "b", "box", "sh", "-c", "hostname >/dev/shm/shared; sleep 1000")
	links := "for n in net ipc uts; do readlink /proc/self/ns/$n; done"
	p.want(0, p.want(0, "net:[", "exec", "a", "sh", "-c", links), "exec", "b", "sh", "-c", links)
	p.want(0, "pod", "exec", "a", "cat", "/dev/shm/shared")
	p.want(0, "Running", "pod", "ps")
	if p.user == "" {
		p.want(0, "", "pod", "stats", "--no-stream", "pod")
		p.want(0, "", "pod", "pause", "pod")
		p.want(0, "", "pod", "unpause", "pod")
	}
	p.want(0, "", "pod", "stop", "-t", "0", "pod")
	p.want(0, "", "pod", "start", "pod")
	p.removePod("rm", "-f", "-t", "0", "pod")

	p.text("kube.yaml", kube)
	p.want(0, "", "play", "kube", "--network", "none", p.dir+"/kube.yaml")
	p.want(0, "from two", "logs", "kpod-two")
	p.want(0, "sleep 1000", "exec", "kpod-one", "ps")
	p.removePod("rm", "-f", "-t", "0", "kpod")
}

const kube = `apiVersion: v1
kind: Pod
metadata:
  name: kpod
spec:
  containers:
  - name: one
    image: localhost/box:latest
    command: ["sleep", "1000"]
  - name: two
    image: localhost/box:latest
    command: ["sh", "-c", "echo from two; exec sleep 1000"]
`

// removePod removes a pod. On a machine whose hugetlb controller is not mounted as cgroup version 1 root's Podman 4.3 then
// fails over a folder of its own making, under any runtime; the containers must be gone all the same.
func (p *podman) removePod(args ...string) {
	p.t.Helper()
	out, code := p.finish(p.command(append([]string{"pod"}, args...)...))
	if code != 0 && !strings.Contains(out, "/sys/fs/cgroup/hugetlb") {
		p.t.Errorf("podman pod %v: exit code %d, %q", args, code, out)
	}
	if out := p.want(0, "", "ps", "-aq"); out != "" {
		p.t.Errorf("podman pod %v leaves %q", args, out)
	}
}

// outOfMemory: conmon learns of it from the container's cgroup. Podman 4.3 has it written into the working directory and looks for it
// in the container's folder, so it is started there.
func (p *podman) outOfMemory() {
	p.start("create", "hog", "--memory 16m", "sh -c 'x=a; while :; do x=$x$x; done'; sleep 1; exit 3")
	cmd := p.command("start", "-a", "hog")
	cmd.Dir = strings.TrimSpace(p.want(0, "/", "inspect", "-f", "{{.StaticDir}}", "hog"))
	out, code := p.finish(cmd)
	hold(p.t, code == 3, "podman start -a: a program that is killed for its memory", fmt.Sprintf("exit code %d: %s", code, out))
	p.want(0, "true", "inspect", "-f", "{{.State.OOMKilled}}", "hog")
	p.want(0, "hog", "rm", "hog")
}

// TestPodmanSwitch does what docs/engines.md says: over to brig-oci by one flag and by containers.conf, and back, while a
// container runs.
func TestPodmanSwitch(t *testing.T) {
	t.Parallel()
	p := startPodman(t, false)
	made := func(name, runtime string) {
		p.want(0, runtime+"\n", "inspect", "-f", "{{.OCIRuntime}}", name)
	}
	p.configure("runc")
	p.start("run", "runc", "-d", "exec sleep 1000")
	made("runc", "runc")
	p.want(0, "tried", append([]string{"--runtime", filepath.Join(p.dir, filepath.Base(runtime))}, p.fresh("run", "--rm", "box", "echo", "tried")...)...)
	p.configure("brig-oci")
	p.start("run", "brig", "-d", "exec sleep 1000")
	made("brig", "brig-oci")
	p.want(0, "old", "exec", "runc", "echo", "old")
	p.configure("runc")
	p.start("run", "back", "-d", "exec sleep 1000")
	made("back", "runc")
	p.want(0, "brig", "restart", "-t", "0", "brig")
	made("brig", "brig-oci")
	p.want(0, "new", "exec", "brig", "echo", "new")
	p.want(0, "", "rm", "-f", "-t", "0", "runc", "brig", "back")
	p.wantNothing("/run/brig-oci")
}

func TestPodmanTwentyAtOnce(t *testing.T) {
	t.Parallel()
	p := startPodman(t, false)
	var wg sync.WaitGroup
	limit := make(chan struct{}, 6)
	for i := range 20 {
		wg.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			name := fmt.Sprintf("many-%d", i)
			p.start("run", name, "-d", "echo "+name+"; exit 4")
			p.want(0, "4", "wait", name)
			p.want(0, name+"\n", "logs", name)
			p.want(0, name, "rm", name)
		})
	}
	wg.Wait()
	p.wantNothing("/run/brig-oci")
}
