package oci

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// command is a verb: it registers its flags and gives what runs with the arguments left.
type command struct {
	summary  string
	args     string // as the usage line has them
	min, max int    // how many arguments; max -1 for any number
	last     bool   // flags end at the first argument: what follows is another program's
	build    func(*app, *flag.FlagSet) func(args []string) error
}

func commands() map[string]command {
	const id = "<container-id>"
	return map[string]command{
		"create":     {"create a container", id, 1, 1, false, (*app).create},
		"start":      {"executes the user defined process in a created container", id, 1, 1, false, (*app).start},
		"run":        {"create and run a container", id, 1, 1, false, (*app).run},
		"state":      {"output the state of a container", id, 1, 1, false, (*app).state},
		"kill":       {"sends a signal (default: SIGTERM) to the container's init process", id + " [signal]", 1, 2, false, (*app).kill},
		"delete":     {"delete any resources held by the container", id, 1, 1, false, (*app).delete},
		"exec":       {"execute a new process inside the container", id + " <command> [arguments]  || -p process.json " + id, 1, -1, true, (*app).exec},
		"ps":         {"displays the processes running inside a container", id + " [ps options]", 1, -1, true, (*app).ps},
		"pause":      {"suspends all processes inside the container", id, 1, 1, false, (*app).pause},
		"resume":     {"resumes all processes that have been paused", id, 1, 1, false, (*app).resume},
		"update":     {"update container resource constraints", id, 1, 1, false, (*app).update},
		"events":     {"display container events such as OOM notifications, cpu, memory, and IO usage statistics", id, 1, 1, false, (*app).events},
		"list":       {"lists the containers of the given root", "", 0, 0, false, (*app).list},
		"mounts":     {"add or remove mounts of a running container", "add|remove " + id + " <file>", 3, 3, false, (*app).mounts},
		"features":   {"show the enabled features", "", 0, 0, false, (*app).features},
		"spec":       {"create a new specification file", "", 0, 0, false, (*app).spec},
		"checkpoint": {"checkpoint a running container", id, 1, 1, false, (*app).checkpoint},
		"restore":    {"restore a container from a previous checkpoint", id, 1, 1, false, (*app).restore},
	}
}

// usageError is a mistake in a command line: the help goes with it.
type usageError struct {
	err   error
	title string // of the help
	help  func()
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// newFlags is a set whose mistakes are errors like any other.
func newFlags(name string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	return f
}

// parse reads a verb's flags, which may stand behind its arguments, and counts the arguments. It may show the help instead:
// then it gives flag.ErrHelp.
func (a *app) parse(name string, c *command, f *flag.FlagSet, args []string) ([]string, error) {
	if !c.last {
		args = flagsFirst(f, args)
	}
	help := func() { a.commandHelp(name, c, f) }
	err := f.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		help()
		return nil, err
	}
	if err != nil {
		title := "Incorrect Usage: " + err.Error()
		if flag := undefined(err); a.globalFlags(&globals{}).Lookup(flag) != nil {
			err = fmt.Errorf("%w: --%s is a global option, and stands before the command: brig-oci --%s ... %s", err, flag, flag, name)
		}
		return nil, &usageError{err, title, help}
	}
	wrong := func(word string, n int) error {
		return &usageError{fmt.Errorf("brig-oci: %q requires %s %d argument(s)", name, word, n), "Incorrect Usage.", help} // runc's words
	}
	switch n := f.NArg(); {
	case c.min == c.max && n != c.min:
		return nil, wrong("exactly", c.min)
	case n < c.min:
		return nil, wrong("a minimum of", c.min)
	case c.max >= 0 && n > c.max:
		return nil, wrong("a maximum of", c.max)
	}
	return f.Args(), nil
}

// undefined gives the name of the flag that a flag.FlagSet does not have, "" for another mistake.
func undefined(err error) string {
	name, _ := strings.CutPrefix(err.Error(), "flag provided but not defined: ")
	if name == err.Error() {
		return ""
	}
	return strings.TrimLeft(name, "-")
}

// verbsWith lists the commands that have a flag.
func (a *app) verbsWith(name string) (verbs []string) {
	list := commands()
	for _, verb := range slices.Sorted(maps.Keys(list)) {
		f := newFlags(verb)
		c := list[verb]
		c.build(a, f)
		if f.Lookup(name) != nil {
			verbs = append(verbs, verb)
		}
	}
	return verbs
}

// flagsFirst puts the flags before the arguments, up to a "--": `update ID --memory 1` is as good as the other way round.
func flagsFirst(f *flag.FlagSet, args []string) []string {
	var flags, rest []string
	for i := 0; i < len(args); i++ {
		if args[i] == "--" {
			rest = append(rest, args[i:]...)
			break
		}
		name, isFlag := strings.CutPrefix(args[i], "-")
		name, _, withValue := strings.Cut(strings.TrimPrefix(name, "-"), "=")
		known := f.Lookup(name)
		switch {
		case !isFlag || known == nil && name != "h" && name != "help":
			rest = append(rest, args[i])
		default:
			flags = append(flags, args[i])
			if known != nil && !withValue && !isBool(known) && i+1 < len(args) {
				i++
				flags = append(flags, args[i])
			}
		}
	}
	return append(flags, rest...)
}

func isBool(f *flag.Flag) bool {
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}

// commandHelp has the form of runc's: suites look for its first lines.
func (a *app) commandHelp(name string, c *command, f *flag.FlagSet) {
	fmt.Fprintf(a.out, "NAME:\n   runc %s - %s, as brig-oci does it\n\nUSAGE:\n   brig-oci %s [command options] %s\n", name, c.summary, name, c.args)
	if usage, ok := crunUsage[name]; ok {
		fmt.Fprintf(a.out, "\nIn crun's words:\n   Usage: crun [OPTION...] %s\n", usage)
	}
	a.flagHelp("OPTIONS", f)
}

// crunUsage has the usage lines of crun's that its suite looks for.
var crunUsage = map[string]string{
	"start": "start CONTAINER", "delete": "delete CONTAINER", "update": "update [OPTION]... CONTAINER", "mounts": "mounts [add|remove] CONTAINER FILE",
}

func (a *app) globalHelp(f *flag.FlagSet) {
	fmt.Fprint(a.out, `NAME:
   runc - Open Container Initiative runtime, as brig-oci does it

brig-oci runs the containers that engines describe in OCI bundles: a folder with config.json and a root file system. Its
command line is runc's. To start a container by hand:

    # brig-oci run [ -b bundle ] <container-id>

USAGE:
   brig-oci [global options] command [command options] [arguments...]

COMMANDS:
`)
	list := commands()
	for _, name := range slices.Sorted(maps.Keys(list)) {
		fmt.Fprintf(a.out, "   %-11s %s\n", name, list[name].summary)
	}
	fmt.Fprintf(a.out, "   %-11s %s\n", "help, h", "shows the commands, or the help of one command")
	a.flagHelp("GLOBAL OPTIONS", f)
}

// alias begins the usage of a flag that is another name of one.
const alias = "short for --"

func (a *app) flagHelp(title string, f *flag.FlagSet) {
	short := map[string]string{}
	f.VisitAll(func(x *flag.Flag) {
		if long, ok := strings.CutPrefix(x.Usage, alias); ok {
			short[long] = x.Name
		}
	})
	fmt.Fprintf(a.out, "\n%s:\n", title)
	f.VisitAll(func(x *flag.Flag) {
		if strings.HasPrefix(x.Usage, alias) {
			return
		}
		value := " value"
		if isBool(x) {
			value = ""
		}
		names := "--" + x.Name + value
		if s := short[x.Name]; s != "" {
			names += ", -" + s + value
		}
		fmt.Fprintf(a.out, "   %-34s  %s", names, x.Usage)
		if d := x.DefValue; d != "" && d != "0" && d != "false" {
			fmt.Fprintf(a.out, " (default: %s)", d)
		}
		fmt.Fprintln(a.out)
	})
	fmt.Fprintf(a.out, "   %-34s  show help\n", "--help, -h")
}
