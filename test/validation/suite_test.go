// Package validation runs the OCI validation suite, the programs under validation/ of opencontainers/runtime-tools, on
// brig-oci, and what brig-oci fails on runc and crun too.
//
// Every assertion passes or stands in differences.json with a reason. The suite is pinned by suite/go.mod, a module of its own.
package validation

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"brig/internal/testenv"
)

// timeout is more than any program takes: the slowest sleep for 20 s on purpose.
const timeout = 90 * time.Second

// lanes is how many programs run at once. They mostly sleep.
const lanes = 5

// suite is the built suite in a folder of its own.
type suite struct {
	t        *testing.T
	dir      string // working directory of the programs: runtimetest and the root file system are there
	bin      string // the programs
	programs []string
	brig     string
}

// newSuite builds the programs and brig-oci.
func newSuite(t *testing.T) *suite {
	t.Helper()
	testenv.Check(t, testenv.Root, testenv.AMD64)
	s := &suite{t: t, dir: t.TempDir(), bin: t.TempDir()}
	s.brig = filepath.Join(t.TempDir(), "brig-oci")
	s.command("", "go", "build", "-o", s.brig, "brig/cmd/brig-oci")
	handler, err := testenv.Handler(filepath.Dir(s.brig), s.brig)
	if err != nil {
		t.Fatal(err)
	}
	s.brig = handler
	s.command("suite", "go", "build", "-ldflags=-s -w", "-o", s.bin, "tool")
	module := strings.TrimSpace(s.command("suite", "go", "list", "-m", "-f", "{{.Dir}}", "github.com/opencontainers/runtime-tools"))
	entries, err := os.ReadDir(s.bin)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "runtimetest" {
			s.programs = append(s.programs, e.Name())
		}
	}
	s.rootfs(module)
	return s
}

func (s *suite) command(dir, name string, args ...string) string {
	s.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var words strings.Builder
	cmd.Stderr = &words
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("%s %v: %v\n%s", name, args, err, words.String())
	}
	return string(out)
}

// rootfs is the archive that the suite brings, with the program in it that one case (misc_props) expects there. tar(1) tells by
// itself that it is not compressed any more.
func (s *suite) rootfs(module string) {
	s.t.Helper()
	program, err := os.ReadFile(filepath.Join(s.bin, "runtimetest"))
	if err == nil {
		err = os.WriteFile(filepath.Join(s.dir, "runtimetest"), program, 0o755)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	archive := filepath.Join(s.dir, "rootfs-amd64.tar.gz")
	plain := s.command("", "gzip", "-dc", filepath.Join(module, "rootfs-amd64.tar.gz"))
	if err := os.WriteFile(archive, []byte(plain), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.command("", "tar", "-C", s.dir, "--owner=0", "--group=0", "-rf", archive, "./runtimetest")
}

// runtime is one that the suite is run on.
type runtime struct {
	name, program string
	// before is a command for the mount namespace of a run.
	before string
}

func (s *suite) runtimes() []runtime {
	return []runtime{
		{"brig-oci", s.brig, ""},
		{"runc", "runc", ""},
		// crun refuses to start where cgroup version 2 is mounted beside version 1.
		{"crun", "crun", "umount /sys/fs/cgroup/unified 2>/dev/null;"},
	}
}

// fixedCgroup tells programs that name a cgroup that others name, too: they run one after another, or what clean takes away
// after one would be another's.
func fixedCgroup(program string) bool {
	return strings.HasPrefix(program, "linux_cgroups_") || program == "delete_resources" || program == "delete_only_create_resources"
}

// run runs programs and gives the results in their order.
func (s *suite) run(rt *runtime, programs []string) []result {
	results := make([]result, len(programs))
	var lane, one = make(chan struct{}, lanes), sync.Mutex{}
	var all sync.WaitGroup
	for i, p := range programs {
		all.Go(func() {
			if fixedCgroup(p) {
				one.Lock()
				defer one.Unlock()
			}
			lane <- struct{}{}
			defer func() { <-lane }()
			results[i] = s.one(rt, p)
		})
	}
	all.Wait()
	return results
}

// one runs a program in a mount and a pid namespace of its own: what it leaves mounted or running goes with them.
func (s *suite) one(rt *runtime, program string) result {
	dir, err := os.MkdirTemp(s.dir, rt.name+"-"+program+"-")
	if err != nil {
		return result{program: program, failure: err.Error()}
	}
	defer os.RemoveAll(dir)
	// The programs cannot give global flags; and who knows the ids can clean up.
	wrapper, ids := filepath.Join(dir, "runtime"), filepath.Join(dir, "ids")
	script := fmt.Sprintf("#!/bin/sh\necho \"$*\" >>%s\nexec %s --root %s/state \"$@\"\n", ids, rt.program, dir)
	if testenv.Isolation() == "gvisor" {
		script = guestScript(script, program, filepath.Join(dir, "log"))
	}
	if err := os.WriteFile(wrapper, []byte(script), 0o755); err != nil {
		return result{program: program, failure: err.Error()}
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	// The shell is pid 1, which reaps; without the exit it would become the program.
	cmd := exec.CommandContext(ctx, "unshare", "-m", "--propagation", "private", "-p", "--fork", "--kill-child", "--mount-proc",
		"sh", "-c", rt.before+` "$0"; exit $?`, filepath.Join(s.bin, program))
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, "RUNTIME="+wrapper)
	cmd.WaitDelay = 5 * time.Second
	var out, words strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &words
	err = cmd.Run()
	r := parse(program, out.String())
	log, _ := os.ReadFile(filepath.Join(dir, "log"))
	r.words = words.String() + string(log)
	switch {
	case ctx.Err() != nil:
		r.failure = fmt.Sprintf("did not end within %v", timeout)
	case err != nil:
		r.failure = err.Error()
	}
	if err := clean(rt, dir, ids); err != nil {
		r.failure = strings.TrimSpace(r.failure + "\nclean: " + err.Error())
	}
	return r
}

var uuid = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

// clean takes away the cgroups that a run has left: those of its containers, by their ids, and those with the suite's names.
func clean(rt *runtime, dir, ids string) error {
	text, err := os.ReadFile(ids)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	left := uuid.FindAllString(string(text), -1)
	slices.Sort(left)
	left = slices.Compact(left)
	for _, id := range left {
		if _, err := os.Stat(filepath.Join(dir, "state", id)); err == nil {
			_ = exec.Command(rt.program, "--root", filepath.Join(dir, "state"), "delete", "--force", id).Run()
		}
	}
	var groups []string
	err = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil //nolint:nilerr // others' groups come and go
		}
		name := d.Name()
		fixed := fixedCgroup(filepath.Base(dir)[len(rt.name)+1:]) && (name == "cgrouptest" || name == "testdir")
		if fixed || slices.ContainsFunc(left, func(id string) bool { return strings.Contains(name, id) }) {
			groups = append(groups, path)
			return nil
		}
		return nil
	})
	for _, g := range slices.Backward(groups) { // children before their parents
		err = errors.Join(err, removeGroup(g))
	}
	return err
}

func removeGroup(group string) error {
	// The walk gives the folders below, too, but for those with other names.
	var below []string
	_ = filepath.WalkDir(group, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			below = append(below, path)
		}
		return nil
	})
	for _, dir := range slices.Backward(below) {
		// A process that was killed with its namespace may take a moment to go.
		var err error
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if err = syscall.Rmdir(dir); err == nil || errors.Is(err, syscall.ENOENT) {
				err = nil
				break
			}
			if time.Now().After(end) {
				break
			}
		}
		if err != nil {
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
	}
	return nil
}
