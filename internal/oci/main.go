package oci

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// app is one invocation.
type app struct {
	in, out, err *os.File
	root         string // folder of the containers' state
	log          string
	logFormat    string
	systemd      bool
	noCgroup     bool
	code         int
}

// command is a verb: it registers its flags and gives what runs with the arguments left.
type command struct {
	usage string
	build func(*app, *flag.FlagSet) func(args []string) error
}

func commands() map[string]command {
	return map[string]command{
		"create":     {"create [flags] ID", (*app).create},
		"start":      {"start ID", (*app).start},
		"run":        {"run [flags] ID", (*app).run},
		"state":      {"state ID", (*app).state},
		"kill":       {"kill [flags] ID [SIGNAL]", (*app).kill},
		"delete":     {"delete [flags] ID", (*app).delete},
		"exec":       {"exec [flags] ID [PROGRAM ARG...]", (*app).exec},
		"ps":         {"ps [flags] ID", (*app).ps},
		"pause":      {"pause ID", (*app).pause},
		"resume":     {"resume ID", (*app).resume},
		"update":     {"update [flags] ID", (*app).update},
		"events":     {"events [flags] ID", (*app).events},
		"list":       {"list [flags]", (*app).list},
		"features":   {"features", (*app).features},
		"spec":       {"spec [flags]", (*app).spec},
		"checkpoint": {"checkpoint ID", (*app).checkpoint},
		"restore":    {"restore ID", (*app).checkpoint},
	}
}

// Version is set by the build.
var Version = "development"

// Run is the whole program: it gives the exit code.
func Run(args []string, in, out, errw *os.File) int {
	debug.SetGCPercent(400) // a short life: fewer collections, a few MiB at most
	a := &app{in: in, out: out, err: errw}
	if err := a.dispatch(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		a.report(err)
		return max(a.code, 1)
	}
	return a.code
}

func (a *app) dispatch(args []string) error {
	global := a.flags("brig-oci", "brig-oci [global flags] COMMAND")
	var version, ignoredBool bool
	var manager, ignored string
	global.StringVar(&a.root, "root", defaultRoot(), "folder of the containers' state")
	global.StringVar(&a.log, "log", "", "file for the log")
	global.StringVar(&a.logFormat, "log-format", "text", "text or json")
	global.BoolVar(&a.systemd, "systemd-cgroup", false, "have systemd make the cgroups; cgroupsPath is slice:prefix:name")
	global.StringVar(&manager, "cgroup-manager", "", "cgroupfs, systemd or disabled")
	global.BoolVar(&ignoredBool, "debug", false, "taken for runc's sake")
	global.StringVar(&ignored, "rootless", "", "taken for runc's sake")
	global.BoolVar(&version, "version", false, "print the version")
	global.BoolVar(&version, "v", false, "print the version")
	if err := global.Parse(args); err != nil {
		return err
	}
	if version {
		_, err := fmt.Fprintf(a.out, "brig-oci version %s\nspec: %s\n", Version, specs.Version)
		return err
	}
	switch manager {
	case "", "cgroupfs":
	case "systemd":
		a.systemd = true
	case "disabled":
		a.noCgroup = true
	default:
		return fmt.Errorf("--cgroup-manager %q: there are cgroupfs, systemd and disabled", manager)
	}
	if global.NArg() == 0 {
		global.Usage()
		return flag.ErrHelp
	}
	name := global.Arg(0)
	c, ok := commands()[name]
	if !ok {
		return fmt.Errorf("unknown command %q; brig-oci --help lists the commands", name)
	}
	if name == "create" || name == "run" || name == "exec" {
		if err := seal(args); err != nil {
			return err
		}
	}
	local := a.flags("brig-oci "+name, "brig-oci "+c.usage)
	do := c.build(a, local)
	if err := local.Parse(global.Args()[1:]); err != nil {
		return err
	}
	return do(local.Args())
}

// flags is a set whose mistakes are errors like any other.
func (a *app) flags(name, usage string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Usage = func() {
		f.SetOutput(a.out)
		fmt.Fprintf(a.out, "usage: %s\n", usage)
		if name == "brig-oci" {
			fmt.Fprintf(a.out, "commands: %s\n", strings.Join(slices.Sorted(maps.Keys(commands())), " "))
		}
		f.PrintDefaults()
		f.SetOutput(io.Discard)
	}
	return f
}

// report prints the error, and writes it to the log in the form that engines read.
func (a *app) report(err error) {
	text := strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ")
	fmt.Fprintf(a.err, "brig-oci: %s\n", text)
	if a.log == "" {
		return
	}
	f, oerr := os.OpenFile(a.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if oerr != nil {
		return // the engine has the line on standard error
	}
	defer f.Close() //nolint:errcheck // a log
	now := time.Now().Format(time.RFC3339)
	if a.logFormat == "json" {
		line, _ := json.Marshal(map[string]string{"level": "error", "msg": text, "time": now})
		fmt.Fprintf(f, "%s\n", line)
		return
	}
	fmt.Fprintf(f, "time=%q level=error msg=%q\n", now, text)
}

func defaultRoot() string {
	if os.Geteuid() == 0 {
		return "/run/brig-oci"
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return dir + "/brig-oci"
	}
	return fmt.Sprintf("/tmp/brig-oci-%d", os.Geteuid())
}

// one demands a single argument, the id.
func one(args []string) (string, error) {
	if len(args) != 1 {
		return "", errors.New("give one container id")
	}
	return args[0], nil
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
