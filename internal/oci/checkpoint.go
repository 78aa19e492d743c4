package oci

import (
	"errors"
	"flag"
	"fmt"
	"os/exec"
	"strings"
)

// checkpoint takes runc's flags, so that what an engine hears is why there is no checkpoint, and not that it has used a wrong flag.
func (a *app) checkpoint(f *flag.FlagSet) func([]string) error {
	criuFlags(f)
	for _, name := range []string{"leave-running", "pre-dump", "lazy-pages"} {
		f.Bool(name, false, "as runc has it")
	}
	for _, name := range []string{"parent-path", "page-server", "status-fd"} {
		f.String(name, "", "as runc has it")
	}
	return func([]string) error { return a.noCheckpoint("checkpoint") }
}

func (a *app) restore(f *flag.FlagSet) func([]string) error {
	criuFlags(f)
	for _, name := range []string{"detach", "d", "no-subreaper", "no-pivot", "lazy-pages"} {
		f.Bool(name, false, "as runc has it")
	}
	for _, name := range []string{"bundle", "b", "pid-file", "console-socket", "lsm-profile", "lsm-mount-context"} {
		f.String(name, "", "as runc has it")
	}
	return func([]string) error { return a.noCheckpoint("restore") }
}

// criuFlags are those that both commands have.
func criuFlags(f *flag.FlagSet) {
	for _, name := range []string{"tcp-established", "tcp-skip-in-flight", "link-remap", "ext-unix-sk", "shell-job", "file-locks", "auto-dedup"} {
		f.Bool(name, false, "as runc has it")
	}
	for _, name := range []string{"image-path", "work-path", "manage-cgroups-mode", "empty-ns"} {
		f.String(name, "", "as runc has it")
	}
}

// noCheckpoint says why not: criu is not there, or does not work on this kernel, or Brig does not use it.
func (a *app) noCheckpoint(what string) error {
	criu, err := exec.LookPath(a.criu)
	if err != nil {
		return fmt.Errorf("%s needs criu, which is not installed", what)
	}
	if out, err := exec.Command(criu, "check").CombinedOutput(); err != nil { //nolint:gosec // the caller's own criu
		first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("%s needs criu, which cannot work here (criu check): %w: %s", what, err, first)
	}
	return errors.New(what + " by criu is not supported yet")
}
