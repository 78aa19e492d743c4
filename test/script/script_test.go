// Package script runs Brig as a person does: every file in testdata is a session at a terminal.
package script

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"brig/internal/testenv"

	"github.com/rogpeppe/go-internal/testscript"
)

var (
	bin     string // the folder with the brig that is tested
	program string // brig, or what runs it where the kernel is to lack something
)

func TestMain(m *testing.M) { os.Exit(build(m)) }

func build(m *testing.M) int {
	dir, err := os.MkdirTemp("", "brig-script-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := testenv.Build(dir+"/", "brig/cmd/brig", "brig/cmd/brig-image"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := testenv.BuildIsolation(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	bin = dir
	if program, err = testenv.Absent(dir, dir+"/brig"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func TestScript(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		Setup:               setup,
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("UPDATE") != "",
		Condition:           condition,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"rootfs": rootfs, "exit": exit, "until": until, "same": same, "user": user, "image": addImage, "differs": differs, "debian": debian,
		},
	})
}

// wrapperText stands for brig in a script: with a store of the script's own, and the isolation that the suite is run for.
const wrapperText = `#!/bin/sh
command=$1
shift
case $command in
run | explain) set -- %s "$@" ;;
esac
[ "$command" = image ] || set -- --root %s/run/brig "$@"
exec %s "$command" "$@"
`

// setup gives every script a store of its own and brig in PATH.
func setup(e *testscript.Env) error {
	wrapper := fmt.Sprintf(wrapperText, strings.Join(testenv.IsolationFlags(), " "), e.WorkDir, program)
	if err := os.MkdirAll(e.WorkDir+"/bin", 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(e.WorkDir+"/bin/brig", []byte(wrapper), 0o755); err != nil {
		return err
	}
	e.Setenv("PATH", e.WorkDir+"/bin:"+e.Getenv("PATH"))
	e.Setenv("BRIG", bin+"/brig")
	e.Setenv("BRIG_STORE", e.WorkDir+"/images")
	e.Defer(func() { dropImages(e.WorkDir) })
	e.Setenv("GOCACHE", filepath.Join(e.WorkDir, "gocache"))
	return os.MkdirAll(e.WorkDir+"/run", 0o700)
}

// condition answers [need:WORD]: false where the machine lacks it, which testenv counts.
func condition(word string) (bool, error) {
	switch word {
	case "gvisor":
		return testenv.Isolation() == "gvisor", nil
	case "programs":
		return programsOfPeople(), nil
	case "root":
		return testenv.Root.Missing() == "", nil
	case "unprivileged":
		return testenv.Unprivileged.Missing() == "", nil
	case "apparmor":
		return testenv.AppArmor.Missing() == "", nil
	case "selinux":
		return testenv.SELinux.Missing() == "", nil
	case "go":
		return testenv.Program("go").Missing() == "", nil
	case "cgroup-v2":
		return testenv.CgroupV2.Missing() == "", nil
	}
	return false, fmt.Errorf("unknown condition %q", word)
}

// rootfs DIR makes a small root file system of busybox.
func rootfs(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: rootfs DIR")
	}
	busybox, err := exec.LookPath("busybox")
	ts.Check(err)
	data, err := os.ReadFile(busybox)
	ts.Check(err)
	dir := ts.MkAbs(args[0])
	for _, d := range []string{"bin", "etc", "proc", "sys", "dev", "tmp", "run", "root"} {
		ts.Check(os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	ts.Check(os.WriteFile(dir+"/bin/busybox", data, 0o755))
	for _, name := range strings.Fields("sh ls cat id ps mount touch sleep echo true false tty stty env hostname mkdir rm kill yes head wc grep dd trap test printf seq") {
		ts.Check(os.Symlink("busybox", dir+"/bin/"+name))
	}
	ts.Check(os.WriteFile(dir+"/etc/passwd", []byte("root:x:0:0:root:/root:/bin/sh\nme:x:1000:1000::/tmp:/bin/sh\n"), 0o644))
	ts.Check(os.WriteFile(dir+"/etc/group", []byte("root:x:0:\nme:x:1000:\ndisk:x:6:me\n"), 0o644))
	ts.Check(testenv.Share(dir))
}

// exit CODE PROGRAM ARG… runs a program and demands an exit code.
func exit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exit CODE PROGRAM [ARG...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	code := 0
	if err != nil {
		code = -1
		var ee *exec.ExitError
		if asExit(err, &ee) {
			code = ee.ExitCode()
		}
	}
	if code != want {
		ts.Fatalf("exit code %d, not %d", code, want)
	}
}

func asExit(err error, ee **exec.ExitError) bool {
	e, ok := err.(*exec.ExitError) //nolint:errorlint // testscript gives it as it is
	*ee = e
	return ok
}

// until PROGRAM ARG… repeats a program until it succeeds, for a bounded time: for events that only show as state.
func until(ts *testscript.TestScript, neg bool, args []string) {
	patience := testenv.Patience(30 * time.Second)
	deadline := time.Now().Add(patience)
	for {
		err := ts.Exec(args[0], args[1:]...)
		if (err == nil) != neg {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s did not come true in %s", strings.Join(args, " "), patience)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// same FILE FILE compares bytes where cmp would want text.
func same(ts *testscript.TestScript, neg bool, args []string) {
	a, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	b, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	if bytes.Equal(a, b) == neg {
		ts.Fatalf("%s and %s: same is %v", args[0], args[1], !neg)
	}
}

// user NAME makes a user with subordinate ids for the time of the script.
func user(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: user NAME")
	}
	ts.Check(ts.Exec("useradd", "--no-create-home", "--shell", "/bin/sh", args[0]))
	ts.Defer(func() { _ = exec.Command("userdel", args[0]).Run() })
}
