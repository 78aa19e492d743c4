// Package image proves what `brig image` and `brig run IMAGE` do with images of others' making, from a registry of others' making: umoci, buildah and
// skopeo build them, Debian's docker-registry serves them, umoci's unpacked tree is what a sandbox has to see.
package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"brig/internal/testenv"
	"brig/test/image/fixture"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// bin has the binaries under test and the walker; faults has those with the points at which a test kills them.
var bin, faults string

// shared is a registry with every image of the fixture, which nobody pushes to.
var shared *fixture.Registry

// images are what it has.
var images *fixture.Shop

// small are the images that every run of the tests makes.
var small = []string{
	"busybox:1", "busybox:v2s2", "busybox:zstd", "busybox:index", "plain:1", "scratch:1", "users:1", "forty:1", "sparse:1", "devices:1", "debian:1",
}

// programs are what the fixture is made by.
var programs = []testenv.Need{
	testenv.Root, testenv.Program("docker-registry"), testenv.Program("umoci"), testenv.Program("skopeo"), testenv.Program("buildah"),
	testenv.Program("debootstrap"), testenv.Program("busybox"),
}

func TestMain(m *testing.M) { os.Exit(prepare(m)) }

// prepare makes what all tests share. What is missing is told by the tests, which then skip.
func prepare(m *testing.M) (code int) {
	for _, n := range programs {
		if n.Missing() != "" {
			return m.Run()
		}
	}
	dir, err := os.MkdirTemp("", "brig-image-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = ready(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer shared.Stop()
	return m.Run()
}

func ready(dir string) (err error) {
	if err = os.Chmod(dir, 0o755); err != nil { // the walker is seen from inside
		return err
	}
	bin, faults = filepath.Join(dir, "bin"), filepath.Join(dir, "faults")
	packages := []string{"brig/cmd/brig", "brig/cmd/brig-image"}
	if err = build(bin, append(packages, "brig/test/image/walker")...); err != nil {
		return err
	}
	if err = build(faults, append([]string{"-tags", "faults"}, packages...)...); err != nil {
		return err
	}
	names := small
	if os.Getenv("BRIG_TEST_STRICT") == "1" { // in CI: it takes a minute and four gigabytes to make
		names = append(names, "big:1")
	}
	if images, err = fixture.Make("../../build/images", names...); err != nil {
		return err
	}
	at := filepath.Join(dir, "registry")
	if err = os.Mkdir(at, 0o700); err != nil {
		return err
	}
	storage, err := filepath.Abs(images.Storage)
	if err == nil {
		shared, err = fixture.Start(at, fixture.Options{Storage: storage})
	}
	return err
}

func build(to string, args ...string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	cmd := exec.Command("go", append([]string{"build", "-o", to}, args...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// machine is an image store, a sandbox store and a home of a test's own.
type machine struct {
	t      *testing.T
	dir    string
	store  string   // of images
	env    []string // beside the test's
	before []string // what brig is executed by
	bin    string
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	testenv.Check(t, programs...)
	m := &machine{t: t, dir: t.TempDir(), bin: bin}
	m.store = filepath.Join(m.dir, "images")
	m.mkdir("home")
	t.Cleanup(m.clear)
	return m
}

func (m *machine) mkdir(name string) string {
	m.t.Helper()
	dir := filepath.Join(m.dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		m.t.Fatal(err)
	}
	return dir
}

// mounts is where the images of the store are mounted.
func (m *machine) mounts() []string {
	m.t.Helper()
	var st unix.Stat_t
	if unix.Stat(m.store, &st) != nil {
		return nil
	}
	list, err := mountinfo.GetMounts(mountinfo.PrefixFilter(fmt.Sprintf("/run/brig/images/of-%x-%x", st.Dev, st.Ino)))
	if err != nil {
		m.t.Fatal(err)
	}
	var paths []string
	for _, i := range list {
		paths = append(paths, i.Mountpoint)
	}
	return paths
}

// clear has the store let go of its mounts, and takes away what it leaves.
func (m *machine) clear() {
	if m.mounts() == nil {
		return
	}
	m.bin = bin
	if r := m.brig("image", "prune"); r.code != 0 {
		m.t.Errorf("brig image prune: %s", r.err)
	}
	for _, dir := range m.mounts() {
		m.t.Errorf("%s is still mounted after a prune without sandboxes", dir)
		_ = unix.Unmount(dir, unix.MNT_DETACH)
		_ = os.Remove(dir)
		_ = os.Remove(filepath.Dir(dir))
	}
}

// result is how a command ended.
type result struct {
	out, err string
	code     int
	killed   bool
}

// brig runs a command of brig's to its end: the first word is the command, as in `brig run`.
func (m *machine) brig(args ...string) result {
	m.t.Helper()
	return m.within(2*time.Minute, args...)
}

func (m *machine) within(limit time.Duration, args ...string) result {
	m.t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), limit)
	defer stop()
	cmd := m.command(ctx, args...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		m.t.Fatal(err)
	}
	if ctx.Err() != nil {
		m.t.Fatalf("brig %s: no end after %v: %s", strings.Join(args, " "), limit, complaint.String())
	}
	return result{out.String(), complaint.String(), cmd.ProcessState.ExitCode(), cmd.ProcessState.ExitCode() == -1}
}

// command is brig with the stores of this machine. Commands of sandboxes get their store by a flag, which comes behind the command's name.
func (m *machine) command(ctx context.Context, args ...string) *exec.Cmd {
	if args[0] != "image" {
		args = append([]string{args[0], "--root", filepath.Join(m.dir, "sandboxes")}, args[1:]...)
	}
	argv := append(append(append([]string{}, m.before...), filepath.Join(m.bin, "brig")), args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "BRIG_STORE="+m.store, "HOME="+filepath.Join(m.dir, "home"), "DOCKER_CONFIG=", "REGISTRY_AUTH_FILE=", "XDG_RUNTIME_DIR=")
	cmd.Env = append(cmd.Env, m.env...)
	return cmd
}

// ok is a command that has to succeed; it gives what it printed.
func (m *machine) ok(args ...string) string {
	m.t.Helper()
	r := m.brig(args...)
	if r.code != 0 {
		m.t.Fatalf("brig %s: exit code %d: %s%s", strings.Join(args, " "), r.code, r.out, r.err)
	}
	return r.out
}

// fails is a command that has to fail and to say each of the words.
func (m *machine) fails(words []string, args ...string) string {
	m.t.Helper()
	r := m.brig(args...)
	if r.code == 0 {
		m.t.Fatalf("brig %s: succeeded: %s%s", strings.Join(args, " "), r.out, r.err)
	}
	for _, w := range words {
		if !strings.Contains(r.err, w) {
			m.t.Errorf("brig %s: the error does not say %q: %s", strings.Join(args, " "), w, r.err)
		}
	}
	return r.err
}

// output is what another tool prints; it has to succeed.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// ref is an image of the shared registry.
func ref(name string) string { return shared.Host + "/" + name }
