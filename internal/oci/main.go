package oci

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"brig/internal/launch"
	"brig/internal/version"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// app is one invocation.
type app struct {
	args         []string // of the command line, behind the program's name
	in, out, err *os.File
	root         string // folder of the containers' state
	log          log
	systemd      bool
	noCgroup     bool
	rootless     bool      // do without cgroups that may not be made
	sealed       bool      // no container can write to this program's file
	beside       string    // the folder of that file, where another one is executed in its place
	criu         string    // its name or path
	notify       *notifier // of the container that was started, when a service manager wants to know of it
	code         int
}

// Run is the whole program: it gives the exit code.
func Run(args []string, in, out, errw *os.File) int {
	debug.SetGCPercent(400) // a short life: fewer collections, a few MiB at most
	a := &app{args: args, in: in, out: out, err: errw, log: log{to: errw}}
	if err := a.dispatch(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		var usage *usageError
		if errors.As(err, &usage) && usage.help != nil {
			fmt.Fprintf(a.out, "%s\n\n", usage.title)
			usage.help()
		}
		a.report(err)
		return max(a.code, 1)
	}
	return a.code
}

// globals are the flags before the verb.
type globals struct {
	log, logFormat, manager, rootless string
	version, debug                    bool
}

func (a *app) globalFlags(g *globals) *flag.FlagSet {
	f := newFlags("brig-oci")
	f.StringVar(&a.root, "root", defaultRoot(), "folder of the containers' state, on a tmpfs")
	f.StringVar(&g.log, "log", "", "file for the log, or file:PATH, syslog:NAME, journald:NAME; without it standard error")
	f.StringVar(&g.logFormat, "log-format", "text", "text or json")
	f.BoolVar(&a.systemd, "systemd-cgroup", false, "have systemd make the cgroups; cgroupsPath is slice:prefix:name")
	f.StringVar(&g.manager, "cgroup-manager", "", "cgroupfs, systemd or disabled")
	f.BoolVar(&g.debug, "debug", false, "log what is being done")
	f.StringVar(&g.rootless, "rootless", "auto", "do without cgroups that may not be made: true, false or auto")
	f.StringVar(&a.criu, "criu", "criu", "the criu program of checkpoint and restore")
	f.BoolVar(&g.version, "version", false, "print the version")
	f.BoolVar(&g.version, "v", false, alias+"version")
	return f
}

func (a *app) dispatch(args []string) error {
	var g globals
	global := a.globalFlags(&g)
	help := func() { a.globalHelp(global) }
	if err := global.Parse(args); errors.Is(err, flag.ErrHelp) {
		help()
		return err
	} else if err != nil {
		title := "Incorrect Usage. " + err.Error()
		if verbs := a.verbsWith(undefined(err)); len(verbs) > 0 {
			err = fmt.Errorf("%w: it is an option of %s, and stands behind the command", err, strings.Join(verbs, ", "))
		}
		return &usageError{err, title, help}
	}
	if g.version {
		return a.version()
	}
	if global.NArg() == 0 {
		help()
		return nil
	}
	name, rest := global.Arg(0), global.Args()[1:]
	if name == "help" || name == "h" {
		if len(rest) == 0 {
			help()
			return nil
		}
		name, rest = rest[0], []string{"--help"}
	}
	switch name {
	case attendVerb:
		return a.attendGuest(rest)
	case memberVerb:
		return a.standForContainer(rest)
	}
	c, ok := commands()[name]
	if !ok {
		a.code = 3                                                                            // runc's
		return fmt.Errorf("No help topic for '%s': `brig-oci help` lists the commands", name) //nolint:staticcheck // runc's words
	}
	if err := a.settle(&g); err != nil {
		return err
	}
	local := newFlags(name)
	do := c.build(a, local)
	left, err := a.parse(name, &c, local, rest)
	if err != nil {
		return err
	}
	switch name {
	case "features", "spec", "state", "list", "help":
	default: // they act on processes and mounts, or on what such an act has left
		if err := launch.CheckKernel(); err != nil {
			return err
		}
	}
	return do(left)
}

// settle checks the global flags and opens the log.
func (a *app) settle(g *globals) error {
	if err := a.openLog(g.log, g.logFormat, g.debug); err != nil {
		return err
	}
	switch g.manager {
	case "", "cgroupfs":
	case "systemd":
		a.systemd = true
	case "disabled":
		a.noCgroup = true
	default:
		return fmt.Errorf("--cgroup-manager %q: there are cgroupfs, systemd and disabled", g.manager)
	}
	a.rootless = rootless()
	if g.rootless != "auto" && g.rootless != "" {
		yes, err := strconv.ParseBool(g.rootless)
		if err != nil {
			return fmt.Errorf("--rootless %q: there are true, false and auto", g.rootless)
		}
		a.rootless = yes
	}
	root, err := filepath.Abs(a.root)
	if err != nil {
		return fmt.Errorf("--root: %w", err)
	}
	if root == "/" {
		return errors.New("option --root argument should not be set to '/'") // runc's words
	}
	a.root = root
	return checkStateFolder(root)
}

// compatible is the version of runc whose command line this is; suites and engines look for the first two words.
const compatible = "runc version 1.4.0"

// version prints what engines parse: a line with "version", the commit, the version of runtime-spec.
func (a *app) version() error {
	_, err := fmt.Fprintf(a.out, "brig-oci, in place of %s\ncommit: %s\nspec: %s\ngo: %s\n", compatible, version.Version, specs.Version, runtime.Version())
	return err
}

func defaultRoot() string {
	if !rootless() {
		return "/run/brig-oci"
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return dir + "/brig-oci"
	}
	return fmt.Sprintf("/tmp/brig-oci-%d", os.Geteuid())
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
