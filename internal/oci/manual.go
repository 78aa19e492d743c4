package oci

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// option is a flag as documentation has it.
type option struct {
	name, short, usage, byDefault string
	value                         bool // takes one
}

// options reads a flag set; a short name stands with its long one.
func options(f *flag.FlagSet) (list []option) {
	short := map[string]string{}
	f.VisitAll(func(x *flag.Flag) {
		if long, ok := strings.CutPrefix(x.Usage, alias); ok {
			short[long] = x.Name
		}
	})
	f.VisitAll(func(x *flag.Flag) {
		if strings.HasPrefix(x.Usage, alias) {
			return
		}
		o := option{x.Name, short[x.Name], x.Usage, x.DefValue, !isBool(x)}
		switch {
		case o.name == "root":
			o.byDefault = "/run/brig-oci; another user's $XDG_RUNTIME_DIR/brig-oci"
		case o.byDefault == "0", o.byDefault == "false":
			o.byDefault = ""
		}
		list = append(list, o)
	})
	return list
}

// documented is the command line as documentation has it: the global options and, for each verb, its own.
func documented() (global []option, verbs []string, list map[string]command, local map[string][]option) {
	a := &app{}
	list, local = commands(), map[string][]option{}
	for verb, c := range list {
		f := newFlags(verb)
		c.build(a, f)
		local[verb] = options(f)
	}
	return options(a.globalFlags(&globals{})), slices.Sorted(maps.Keys(list)), list, local
}

// Manual is the page brig-oci(8), made from the flag sets of the program itself.
func Manual() []byte {
	global, verbs, list, local := documented()
	var b bytes.Buffer
	b.WriteString(`.TH "BRIG-OCI" "8" "" "Brig" "Brig"
.SH NAME
brig\-oci \- run the containers that engines describe in OCI bundles
.SH SYNOPSIS
\fBbrig\-oci\fP [\fIglobal options\fP] \fIcommand\fP [\fIoptions\fP] [\fIarguments\fP]
.SH DESCRIPTION
The command line is that of runc(8), in whose place containerd, Docker, Podman and CRI\-O call it. A bundle is a folder with
config.json and a root file system. It is obeyed as written; what cannot be honoured is an error that names the field. Global
options stand before the command; a command's options stand anywhere behind it, those of exec and ps before the first argument.
.PP
A container shares the host's kernel. Against a hole in that kernel only the bundle's system\-call filter and namespaces stand.
.SH GLOBAL OPTIONS
`)
	manOptions(&b, global)
	b.WriteString(".SH COMMANDS\n")
	for _, verb := range verbs {
		fmt.Fprintf(&b, ".SS %s %s\n%s.\n", roff(verb), roff(list[verb].args), roff(list[verb].summary))
		manOptions(&b, local[verb])
	}
	b.WriteString(`.SH EXIT STATUS
Of run and exec that of the program, 128+n for signal n. 1 for an error, 255 for one of exec, 3 for an unknown command.
.SH FILES
.TP
/etc/brig/config.toml
the operator's policy, which makes every bundle tighter or refuses it
.TP
/run/brig\-oci
the state of root's containers
.SH SEE ALSO
\fBbrig\fP(1), \fBrunc\fP(8), \fBcrun\fP(1)
`)
	return b.Bytes()
}

func manOptions(b *bytes.Buffer, list []option) {
	for _, o := range list {
		value := ""
		if o.value {
			value = " \\fIvalue\\fP"
		}
		fmt.Fprintf(b, ".TP\n\\fB%s\\fP%s", roff("--"+o.name), value)
		if o.short != "" {
			fmt.Fprintf(b, ", \\fB%s\\fP%s", roff("-"+o.short), value)
		}
		fmt.Fprintf(b, "\n%s", roff(o.usage))
		if o.byDefault != "" {
			fmt.Fprintf(b, " (default: %s)", roff(o.byDefault))
		}
		b.WriteByte('\n')
	}
}

var roffs = strings.NewReplacer(`\`, `\e`, "-", `\-`)

// roff is a text that troff(1) prints as it is. None begins with a dot or a quote.
func roff(text string) string { return roffs.Replace(text) }

// dashed gives the words of options.
func dashed(list []option) string {
	var words []string
	for _, o := range list {
		words = append(words, "--"+o.name)
		if o.short != "" {
			words = append(words, "-"+o.short)
		}
	}
	return strings.Join(append(words, "--help"), " ")
}

// Completions are scripts for bash and fish, by the names of their files: commands, options, and the ids of containers. zsh reads
// the one for bash after `bashcompinit`.
func Completions() map[string][]byte {
	global, verbs, list, local := documented()
	var bash, fish bytes.Buffer
	fmt.Fprintf(&bash, "# bash completion for brig-oci. Written by make doc.\n_brig_oci() {\n\tlocal word=${COMP_WORDS[COMP_CWORD]} verb= words= root=() i\n"+
		"\tfor ((i = 1; i < COMP_CWORD; i++)); do\n\t\tcase ${COMP_WORDS[i]} in\n\t\t--root) root=(--root \"${COMP_WORDS[++i]}\") ;;\n\t\t%s) verb=${COMP_WORDS[i]}; break ;;\n\t\tesac\n\tdone\n\tcase $verb in\n", strings.Join(verbs, " | "))
	fmt.Fprintf(&bash, "\t'') words=%q ;;\n", strings.Join(verbs, " ")+" help "+dashed(global))
	fish.WriteString("# fish completion for brig-oci. Written by make doc.\ncomplete -c brig-oci -f\n")
	begin := "complete -c brig-oci -n '__fish_use_subcommand'"
	fishOptions(&fish, begin, global)
	for _, verb := range verbs {
		fmt.Fprintf(&bash, "\t%s) words=%q ;;\n", verb, dashed(local[verb]))
		fmt.Fprintf(&fish, "%s -a %s -d %q\n", begin, verb, list[verb].summary)
		inVerb := fmt.Sprintf("complete -c brig-oci -n '__fish_seen_subcommand_from %s'", verb)
		fishOptions(&fish, inVerb, local[verb])
		if takesID(verb) {
			fmt.Fprintf(&fish, "%s -a '(brig-oci list -q 2>/dev/null)'\n", inVerb)
		}
	}
	bash.WriteString("\tesac\n\tcase $verb in\n\t'' | create | run | restore | list | features | spec) ;;\n" +
		"\t*) words+=\" $(brig-oci \"${root[@]}\" list -q 2>/dev/null)\" ;;\n\tesac\n\tmapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$word\")\n}\n")
	bash.WriteString("complete -o default -F _brig_oci brig-oci\n")
	return map[string][]byte{"brig-oci.bash": bash.Bytes(), "brig-oci.fish": fish.Bytes()}
}

// takesID tells whether a verb's argument is a container that is there.
func takesID(verb string) bool {
	return !slices.Contains([]string{"create", "run", "restore", "list", "features", "spec"}, verb)
}

func fishOptions(b *bytes.Buffer, begin string, list []option) {
	for _, o := range list {
		b.WriteString(begin)
		if len(o.name) == 1 {
			fmt.Fprintf(b, " -s %s", o.name)
		} else {
			fmt.Fprintf(b, " -l %s", o.name)
		}
		if o.short != "" {
			fmt.Fprintf(b, " -s %s", o.short)
		}
		if o.value {
			b.WriteString(" -r -F")
		}
		fmt.Fprintf(b, " -d %q\n", o.usage)
	}
}
