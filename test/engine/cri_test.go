package engine

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brig/internal/testenv"
)

// cri is a containerd of this test's own with the CRI plugin, as a kubelet's: in network and mount namespaces that the
// test makes, so that no bridge, no route and no mount of a pod is the host's.
type cri struct {
	t      *testing.T
	dir    string
	crictl string
	cgroup string    // below which all pods are
	holder *exec.Cmd // keeps the namespaces
	daemon *exec.Cmd
	log    *os.File
	pods   int
	mu     sync.Mutex
}

// criConfig is a node's before anything is done about brig-oci: Debian's runc is everybody's runtime.
const criConfig = `version = 2
root = "%[1]s/root"
state = "%[1]s/state"
[grpc]
  address = "%[1]s/sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "%[2]s"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "%[1]s/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
`

// criNetwork is a bridge without address translation: nothing of it needs iptables.
const criNetwork = `{"cniVersion": "0.4.0", "name": "brig-test", "plugins": [{
  "type": "bridge", "bridge": "brig0", "isGateway": true,
  "ipam": {"type": "host-local", "subnet": "10.231.0.0/16", "dataDir": "%s/ipam"}
}]}`

// crictlOnce is crictl from its module: test/engine/crictl has a go.mod of its own, so that what it needs is nowhere else.
var crictlOnce = sync.OnceValues(func() (string, error) {
	path := filepath.Join(filepath.Dir(runtime), "crictl")
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", path, "sigs.k8s.io/cri-tools/cmd/crictl")
	cmd.Dir, cmd.Env = "crictl", append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build crictl: %w\n%s", err, out)
	}
	return path, nil
})

func startCRI(t *testing.T) *cri {
	t.Helper()
	testenv.Check(t, testenv.Root, testenv.Program("containerd"), testenv.Program("ctr"), testenv.Program("nsenter"),
		testenv.File("/usr/lib/cni/bridge", "containernetworking-plugins"))
	crictl, err := crictlOnce()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/run", "brig-cri-")
	if err != nil {
		t.Fatal(err)
	}
	c := &cri{t: t, dir: dir, crictl: crictl, cgroup: "/" + filepath.Base(dir)}
	t.Cleanup(c.stop)
	c.configure(brigHandler(t), everybodysRuntime(t, "brig"))
	c.write("cni/10-brig.conflist", fmt.Sprintf(criNetwork, dir))
	if c.log, err = os.Create(dir + "/log"); err != nil {
		t.Fatal(err)
	}
	c.namespaces()
	c.start()
	if out, err := c.enter("ctr", "-a", dir+"/sock", "-n", "k8s.io", "images", "import", imageArchive(t, rootfs(t), boxImages())); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return c
}

// configure writes containerd's configuration: the node's, and what docs/engines.md adds to it.
func (c *cri) configure(added ...string) {
	c.t.Helper()
	config := fmt.Sprintf(criConfig, c.dir, imagePause)
	for _, block := range added {
		header, rest, _ := strings.Cut(strings.TrimLeft(block, " "), "\n")
		if key, _, _ := strings.Cut(strings.TrimSpace(rest), " ="); strings.Contains(config, header) { // below the table that is there
			var lines []string
			for line := range strings.Lines(config) {
				if strings.HasPrefix(strings.TrimSpace(line), key+" =") {
					line = rest
				}
				lines = append(lines, line)
			}
			config = strings.Join(lines, "")
			continue
		}
		config += block
	}
	c.write("config.toml", config)
}

// brigHandler is the documented table of the handler, with the binary that is tested.
func brigHandler(t *testing.T) string {
	t.Helper()
	block := documented(t, "containerd.runtimes.brig]")
	if !strings.Contains(block, installed) {
		t.Fatalf("docs/engines.md: no %s in %s", installed, block)
	}
	return strings.ReplaceAll(block, installed, runtime)
}

// everybodysRuntime is the documented choice of the runtime for every pod, or the way back.
func everybodysRuntime(t *testing.T, name string) string {
	t.Helper()
	return strings.ReplaceAll(documented(t, "default_runtime_name = "), `"brig"`, `"`+name+`"`)
}

// installed is where the documentation has the binary.
const installed = "/usr/local/bin/brig-oci"

// documented gives the block of docs/engines.md that has the words: its lines are indented.
func documented(t *testing.T, words string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/engines.md")
	if err != nil {
		t.Fatal(err)
	}
	for block := range strings.SplitSeq(string(text), "\n\n") {
		if strings.HasPrefix(block, "    ") && strings.Contains(block, words) {
			return block + "\n"
		}
	}
	t.Fatalf("docs/engines.md has no block with %q", words)
	return ""
}

func (c *cri) write(name, text string) string {
	c.t.Helper()
	path := filepath.Join(c.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		c.t.Fatal(err)
	}
	return path
}

// namespaces makes the daemon's world: the folders that containerd's shims and CNI have no setting for are its own too, and
// what /run has is on a shared mount, as systemd leaves it.
func (c *cri) namespaces() {
	c.t.Helper()
	c.holder = exec.Command("unshare", "--net", "--mount", "--propagation", "private", "sh", "-c",
		"ip link set lo up && mkdir -p /run/containerd && mount -t tmpfs tmpfs /run/containerd && mount -t tmpfs tmpfs /var/lib &&"+
			" mount --bind "+c.dir+" "+c.dir+" && mount --make-shared "+c.dir+" && echo ready && exec sleep infinity")
	c.holder.Stderr = os.Stderr
	c.holder.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	out, err := c.holder.StdoutPipe()
	if err == nil {
		err = c.holder.Start()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("ready"))); err != nil {
		c.t.Fatalf("make namespaces: %v", err)
	}
}

func (c *cri) command(args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"-t", strconv.Itoa(c.holder.Process.Pid), "--net", "--mount", "--"}, args...)...)
}

func (c *cri) start() {
	c.t.Helper()
	c.daemon = c.command("containerd", "-c", c.dir+"/config.toml")
	c.daemon.Stdout, c.daemon.Stderr = c.log, c.log
	if err := c.daemon.Start(); err != nil {
		c.t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		out, err := c.try("info")
		if err == nil && strings.Contains(out, `"lastCNILoadStatus": "OK"`) {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("the CRI plugin does not answer: %v: %s", err, out)
		}
	}
}

func (c *cri) halt() {
	_ = c.daemon.Process.Kill()
	_ = c.daemon.Wait()
}

// stop ends everything: by the daemon if it can, else by force. What is left then is an error.
func (c *cri) stop() {
	if c.holder == nil || c.holder.Process == nil {
		_ = os.RemoveAll(c.dir)
		return
	}
	if c.daemon != nil && c.daemon.Process != nil {
		if out, err := c.try("rmp", "--all", "--force"); err != nil {
			c.t.Errorf("remove the pods: %v: %s", err, out)
		}
		c.halt()
	}
	if left := c.processes(); len(left) > 1 {
		c.t.Errorf("processes are left: %v", left)
	}
	c.sweep()
	_ = c.holder.Process.Kill()
	_ = c.holder.Wait()
	if c.t.Failed() {
		if text, err := os.ReadFile(c.dir + "/log"); err == nil {
			lines := strings.Split(string(text), "\n")
			c.t.Logf("containerd's log ends:\n%s", strings.Join(lines[max(0, len(lines)-25):], "\n"))
		}
	}
	if c.log != nil {
		_ = c.log.Close()
	}
	if err := os.RemoveAll(c.dir); err != nil {
		c.t.Error(err)
	}
}

// processes are those in the holder's mount namespace or below the pods' cgroup.
func (c *cri) processes() []string {
	own, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", c.holder.Process.Pid))
	var left []string
	list, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range list {
		ns, _ := os.Readlink(p + "/ns/mnt")
		group, _ := os.ReadFile(p + "/cgroup")
		if ns == own || bytes.Contains(group, []byte(":"+c.cgroup)) {
			line, _ := os.ReadFile(p + "/cmdline")
			left = append(left, filepath.Base(p)+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return left
}

// sweep ends what a failed test left, and removes the cgroup of the pods, which is nobody's else.
func (c *cri) sweep() {
	holder := strconv.Itoa(c.holder.Process.Pid)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		left := c.processes()
		if len(left) <= 1 {
			break
		}
		for _, p := range left {
			if id, _, _ := strings.Cut(p, " "); id != holder {
				pid, _ := strconv.Atoi(id)
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
	}
	roots, _ := filepath.Glob("/sys/fs/cgroup/*" + c.cgroup)
	roots = append(roots, "/sys/fs/cgroup"+c.cgroup)
	for _, root := range roots {
		var dirs []string
		_ = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
				if len(d.Name()) == 64 { // a container's; those between are a kubelet's to remove
					c.t.Errorf("a cgroup is left: %s", path)
				}
			}
			return nil
		})
		slices.Reverse(dirs)
		for _, d := range dirs {
			_ = os.Remove(d)
		}
	}
}

// enter runs a program in the daemon's namespaces, with its output in a file: a container left running would hold a pipe.
func (c *cri) enter(args ...string) (string, error) {
	out, err := os.CreateTemp(c.dir, "out-")
	if err != nil {
		return "", err
	}
	defer out.Close()
	defer os.Remove(out.Name())
	cmd := c.command(append([]string{"timeout", "--foreground", "-k", "1", "60"}, args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	text, rerr := os.ReadFile(out.Name())
	if err == nil {
		err = rerr
	}
	return string(text), err
}

func (c *cri) try(args ...string) (string, error) {
	sock := "unix://" + c.dir + "/sock"
	return c.enter(append([]string{c.crictl, "--config", "/dev/null", "-t", "30s", "-r", sock, "-i", sock}, args...)...)
}

// want runs crictl, which must succeed and say the words.
func (c *cri) want(t *testing.T, words string, args ...string) string {
	t.Helper()
	out, err := c.try(args...)
	if !hold(t, err == nil && strings.Contains(out, words), "crictl "+strings.Join(args, " "), fmt.Sprintf("%v, %q; want %q", err, out, words)) {
		t.FailNow()
	}
	return out
}

// until repeats crictl until it says the words.
func (c *cri) until(t *testing.T, words string, args ...string) string {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		out, err := c.try(args...)
		if err == nil && strings.Contains(out, words) {
			return out
		}
		if time.Now().After(deadline) {
			t.Fatalf("crictl %v never says %q: %v: %s", args, words, err, out)
		}
	}
}

// object is what crictl's configuration files are made of.
type object = map[string]any

// pod is a pod sandbox, with its configuration, which every container needs again.
type pod struct {
	c      *cri
	id     string
	config string
}

// pod runs a pod sandbox. linux is its part of the configuration; flags are crictl's.
func (c *cri) pod(t *testing.T, linux object, flags ...string) *pod {
	t.Helper()
	p, out, err := c.tryPod(t, linux, flags...)
	if !hold(t, err == nil, "run the pod", fmt.Sprintf("%v: %s", err, out)) {
		t.FailNow()
	} else if err != nil {
		panic(refused{})
	}
	return p
}

func (c *cri) tryPod(t *testing.T, linux object, flags ...string) (*pod, string, error) {
	t.Helper()
	c.mu.Lock()
	c.pods++
	name := fmt.Sprintf("pod-%d", c.pods)
	c.mu.Unlock()
	if linux == nil {
		linux = object{}
	}
	if linux["cgroup_parent"] == nil {
		linux["cgroup_parent"] = c.cgroup
	}
	ownPIDs(linux)
	config := object{
		"metadata":      object{"name": name, "namespace": "default", "uid": name, "attempt": 1},
		"log_directory": c.dir + "/logs/" + name, "linux": linux,
	}
	if !strings.Contains(string(jsonOf(t, linux)), `"network":`) {
		config["hostname"] = name // a kubelet gives none to a pod in the node's network, whose UTS namespace is the node's
	}
	p := &pod{c: c, config: c.write(name+".json", string(jsonOf(t, config)))}
	out, err := c.try(append(append([]string{"runp"}, flags...), p.config)...)
	p.id = strings.TrimSpace(out)
	return p, out, err
}

// ownPIDs has a PID namespace for each container, which is Kubernetes' default and not the interface's, unless the
// configuration says otherwise.
func ownPIDs(linux object) {
	if linux["security_context"] == nil {
		linux["security_context"] = object{}
	}
	if sc, ok := linux["security_context"].(object); ok && sc["namespace_options"] == nil {
		sc["namespace_options"] = object{"pid": nsContainer}
	}
}

// The modes of a namespace (CRI, NamespaceMode).
const (
	nsPod = iota
	nsContainer
	nsNode
	nsTarget
)

// secure is the configuration of a container with a security context.
func secure(context object) object { return object{"linux": object{"security_context": context}} }

// remove removes the pod while the test goes on.
func (p *pod) remove(t *testing.T) {
	t.Helper()
	p.c.want(t, "", "stopp", p.id)
	p.c.want(t, "", "rmp", p.id)
}

// create makes a container of the pod that runs a shell's script. more is merged into its configuration.
func (p *pod) create(t *testing.T, name, script string, more object) string {
	t.Helper()
	id, out, err := p.tryCreate(t, name, script, more)
	if err != nil {
		t.Fatalf("create a container: %v: %s", err, out)
	}
	return id
}

func (p *pod) tryCreate(t *testing.T, name, script string, more object) (id, out string, err error) {
	t.Helper()
	config := object{
		"metadata": object{"name": name}, "image": object{"image": imageBox}, "command": []string{"/bin/sh", "-c", script},
		"log_path": name + ".log", "linux": object{},
	}
	maps.Copy(config, more)
	linux, ok := config["linux"].(object)
	if !ok {
		t.Fatal("linux is no object")
	}
	ownPIDs(linux)
	file := p.c.write(filepath.Base(p.config)+"-"+name, string(jsonOf(t, config)))
	out, err = p.c.try("create", p.id, file, p.config)
	return strings.TrimSpace(out), out, err
}

// run creates a container and starts it.
func (p *pod) run(t *testing.T, name, script string, more object) string {
	t.Helper()
	id := p.create(t, name, script, more)
	if out, err := p.c.try("start", id); !hold(t, err == nil, "start "+name, fmt.Sprintf("%v: %s", err, out)) {
		t.FailNow()
	} else if err != nil {
		panic(refused{})
	}
	return id
}

// output runs a container to its end and gives what it said.
func (p *pod) output(t *testing.T, name, script string, more object) string {
	t.Helper()
	id := p.run(t, name, script, more)
	p.c.until(t, "CONTAINER_EXITED", "inspect", id)
	return p.c.want(t, "", "logs", id)
}

// forever is the script of a container that waits for its end.
const forever = "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"
