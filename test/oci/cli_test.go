package oci

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCommandLine: what a wrong or a questioning command line gets. Engines and suites look for runc's words and codes.
func TestCommandLine(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	for _, c := range []struct {
		args  string
		code  int
		words []string
	}{
		{"", 0, []string{"NAME:\n", "COMMANDS:\n", "GLOBAL OPTIONS:\n"}},
		{"--help", 0, []string{"NAME:\n   runc - Open Container Initiative runtime"}},
		{"-h", 0, []string{"NAME:\n   runc - Open Container Initiative runtime"}},
		{"help", 0, []string{"NAME:\n   runc - Open Container Initiative runtime"}},
		{"help kill", 0, []string{"runc kill", "--all, -a"}},
		{"-v", 0, []string{"runc version 1.", "\ncommit: ", "\nspec: 1."}},
		{"--version", 0, []string{"runc version 1."}},
		{"foo", 3, []string{"No help topic for 'foo'"}},
		{"foo -h", 3, []string{"No help topic for 'foo'"}},
		{"--nosuch list", 1, []string{"Incorrect Usage. flag provided but not defined: -nosuch"}},
		{"list --nosuch", 1, []string{"Incorrect Usage: flag provided but not defined: -nosuch", "runc list"}},
		{"list here", 1, []string{`\"list\" requires exactly 0 argument(s)`}},
		{"state", 1, []string{"Incorrect Usage.", `\"state\" requires exactly 1 argument(s)`}},
		{"delete a b", 1, []string{`\"delete\" requires exactly 1 argument(s)`}},
		{"create", 1, []string{`\"create\" requires exactly 1 argument(s)`}},
		{"kill", 1, []string{`\"kill\" requires a minimum of 1 argument(s)`}},
		{"kill a TERM b", 1, []string{`\"kill\" requires a maximum of 2 argument(s)`}},
		{"exec", 1, []string{`\"exec\" requires a minimum of 1 argument(s)`}},
		{"exec nobody true", 255, []string{"does not exist"}},
		{"ps", 1, []string{`\"ps\" requires a minimum of 1 argument(s)`}},
		{"--log-format xml list", 1, []string{"invalid log-format: xml"}},
		{"--rootless perhaps list", 1, []string{"true, false and auto"}},
		{"--rootless=false list", 0, []string{"ID "}},
		{"--criu /usr/sbin/criu list -q", 0, nil},
		{"--root / list", 1, []string{"option --root argument should not be set to '/'"}},
		{"--cgroup-manager none list", 1, []string{"cgroupfs, systemd and disabled"}},
		{"delete nobody --force", 0, nil},
		{"list --format xml", 1, []string{"invalid format option"}},
		{"state a/b", 1, []string{"invalid container ID format"}},
		{"--criu /nowhere/criu checkpoint --image-path /tmp/x nobody", 1, []string{"needs criu, which is not installed"}},
		{"--criu /nowhere/criu restore --detach --image-path /tmp/x nobody", 1, []string{"needs criu, which is not installed"}},
		{"--criu false restore nobody", 1, []string{"needs criu, which cannot work here"}},
		{"--criu true checkpoint nobody", 1, []string{"container does not exist"}},
		{"--criu true restore --bundle /nowhere nobody", 1, []string{"runc restore failed", "config.json not found"}},
		{"checkpoint --lazy-pages nobody", 1, []string{"--lazy-pages is not supported"}},
		{"restore --lazy-pages nobody", 1, []string{"--lazy-pages is not supported"}},
		{"checkpoint --page-server :1 nobody", 1, []string{"--page-server and --status-fd are not supported"}},
		{"checkpoint --manage-cgroups-mode hard nobody", 1, []string{"invalid manage-cgroups-mode value"}},
		{"checkpoint --empty-ns pid nobody", 1, []string{"--empty-ns", "there is network"}},
		{"restore --preserve-fds 1 nobody", 1, []string{"--preserve-fds is not supported with restore"}},
	} {
		out, code := e.call(strings.Fields(c.args)...)
		if code != c.code {
			t.Errorf("%s: exit code %d, want %d: %s", c.args, code, c.code, out)
		}
		for _, w := range c.words {
			if !strings.Contains(out, w) {
				t.Errorf("%s: %q is not in %q", c.args, w, out)
			}
		}
	}
	for _, verb := range strings.Fields("checkpoint create delete events exec features kill list pause ps restore resume run spec start state update") {
		if out, code := e.call(verb, "-h"); code != 0 || !strings.HasPrefix(out, "NAME:\n   runc "+verb+" ") {
			t.Errorf("%s -h: exit code %d, %q", verb, code, out)
		}
	}
}

// TestDebug: --debug says what is done, on standard error or in the log.
func TestDebug(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.spec.Process.Args = []string{"echo", "said"}
	e.write()
	log := filepath.Join(t.TempDir(), "log")
	e.want(0, "level=debug", "--debug", "run", "--bundle", e.bundle, "loud")
	for _, form := range []struct{ name, level string }{{"text", "level=debug"}, {"json", `"level":"debug"`}} {
		out := e.want(0, "said", "--debug", "--log", log, "--log-format", form.name, "run", "--bundle", e.bundle, "quiet")
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range []string{form.level, "nsexec container setup", "child process in init()", "init: closing the pipe to signal completion"} {
			if !strings.Contains(string(text), w) {
				t.Errorf("%s: %q is not in %s", form.name, w, text)
			}
		}
		if strings.Contains(out, "debug") {
			t.Errorf("standard error has %q", out)
		}
	}
}
