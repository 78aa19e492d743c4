package oci

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// mistakes are what people get wrong in a bundle, as a change of one that runs, and words of what they read then.
var mistakes = []struct {
	name   string
	change func(*specs.Spec)
	words  string
}{
	{"an empty root", func(s *specs.Spec) { s.Root.Path = "" }, "root.path: is missing"},
	{"a missing root", func(s *specs.Spec) { s.Root.Path = "nowhere" }, "/nowhere: no such file or directory"},
	{"a file as the root", func(s *specs.Spec) { s.Root.Path = "config.json" }, "config.json: not a directory"},
	{"another version", func(s *specs.Spec) { s.Version = "2.0.0" }, `ociVersion "2.0.0": this runtime knows version 1`},
	{"a missing program", running("nosuch"), `exec: "nosuch": executable file not found in $PATH`},
	{"a missing path", running("/bin/nosuch"), `exec: "/bin/nosuch": stat /bin/nosuch: no such file or directory`},
	{"a file that nobody may execute", running("plain"), `exec: "plain": permission denied`},
	{"another machine's program", running("foreign"), `exec: "foreign": exec format error`},
	{"a missing interpreter", running("script"), "exec /bin/script: no such file or directory"},
	{"a relative working directory", func(s *specs.Spec) { s.Process.Cwd = "tmp" }, `process.cwd: "tmp" must be an absolute path`},
	{"a file as the working directory", func(s *specs.Spec) { s.Process.Cwd = "/bin/busybox" }, "enter the working directory /bin/busybox: not a directory"},
	{"the largest user id", func(s *specs.Spec) { s.Process.User.UID = ^uint32(0) }, "process.user: 4294967295 is no id"},
	{"the largest group id", func(s *specs.Spec) { s.Process.User.GID = ^uint32(0) }, "process.user: 4294967295 is no id"},
	{"the largest further group id", func(s *specs.Spec) { s.Process.User.AdditionalGids = []uint32{5, ^uint32(0)} }, "process.user: 4294967295 is no id"},
	{"a user without a map", func(s *specs.Spec) { ownIDs(s); s.Process.User.UID = 70000 }, "become user 70000:0: invalid argument: the user namespace maps no such id"},
	{"a user namespace without a map", func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	}, "map at least one id"},
	{"effective beyond permitted", func(s *specs.Spec) { s.Process.Capabilities.Permitted = nil }, "effective and ambient capabilities must be among the permitted ones"},
	{"an OOM score out of range", func(s *specs.Spec) { n := 5000; s.Process.OOMScoreAdj = &n }, "process.oomScoreAdj: 5000 is not between -1000 and 1000"},
	{"an unknown file system", withMount(specs.Mount{Type: "nosuchfs", Source: "none"}), "a new nosuchfs for /tmp: no such device: this kernel has no such file system"},
	{"an unknown option", withMount(specs.Mount{Type: "tmpfs", Options: []string{"nosuch"}}), "one of the mount's options is none of this file system's"},
	{"a missing source", withMount(specs.Mount{Type: "bind", Source: "/nowhere"}), "mounts /tmp: the source /nowhere does not exist"},
	{"a file over a folder", withMount(specs.Mount{Type: "bind", Source: "/etc/passwd"}), "/tmp is a directory in the root file system, and a file is mounted there"},
	{"a device below zero", withDevice(-1, 3), "/dev/x: there is no device -1:3"},
	{"a device out of range", withDevice(1, 1<<20), "/dev/x: there is no device 1:1048576"},
	{"a network namespace that is none", func(s *specs.Spec) { joinPath(s, specs.NetworkNamespace, "/proc/self/ns/uts") }, "the file is no namespace of this type"},
	{"a sysctl of the host's", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.panic": "1"} }, `"kernel.panic" belongs to no namespace`},
	{"a mistyped action", func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_ALOW"} }, `unknown action "SCMP_ACT_ALOW"`},
	{"a mistyped annotation", func(s *specs.Spec) { s.Annotations = map[string]string{"run.brig.landlok": "on"} }, "annotation run.brig.landlok: there is none of this name"},
	{"memory below what a start takes", func(s *specs.Spec) {
		n := int64(4096)
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &n}
	}, "container init was OOM-killed (memory limit too low?)"},
	{"a controller that is not there", func(s *specs.Spec) {
		s.Linux.Resources.HugepageLimits = []specs.LinuxHugepageLimit{{Pagesize: "3MB", Limit: 1}}
	}, "hugepageLimits"},
	{"a missing hook", withHook(func(h *specs.Hooks, l []specs.Hook) { h.CreateRuntime = l }), "error running createRuntime hook #0: /nowhere/hook: "},
	{"a missing hook of the container's making", withHook(func(h *specs.Hooks, l []specs.Hook) { h.CreateContainer = l }), "error running createContainer hook #0: /nowhere/hook: "},
	{"a missing hook of the container's", withHook(func(h *specs.Hooks, l []specs.Hook) { h.StartContainer = l }), "error running startContainer hook #0: /nowhere/hook: "},
}

func running(args ...string) func(*specs.Spec) { return func(s *specs.Spec) { s.Process.Args = args } }

func withMount(m specs.Mount) func(*specs.Spec) {
	m.Destination = "/tmp"
	return func(s *specs.Spec) { s.Mounts = append(s.Mounts, m) }
}

func withDevice(major, minor int64) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "c", Major: major, Minor: minor}}
	}
}

func withHook(set func(*specs.Hooks, []specs.Hook)) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{}
		set(s.Hooks, []specs.Hook{{Path: "/nowhere/hook"}})
	}
}

func ownIDs(s *specs.Spec) {
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 1_000_000, Size: 65536}}
	s.Linux.GIDMappings = s.Linux.UIDMappings
}

func joinPath(s *specs.Spec, kind specs.LinuxNamespaceType, path string) {
	for i := range s.Linux.Namespaces {
		if s.Linux.Namespaces[i].Type == kind {
			s.Linux.Namespaces[i].Path = path
		}
	}
}

// inside is what no message may show: Go's types and functions, a failure stacked on a failure, and flags that brig-oci has not.
var inside = regexp.MustCompile(`Go (struct|value)|strconv\.|failed to .*failed to |--allow-missing|instruction \d|0x[0-9a-f]{6}`)

// oneError wants one line of runc's form with the words, and nothing from inside.
func oneError(t *testing.T, out, words string) {
	t.Helper()
	form := regexp.MustCompile(`^time="[^"]+" level=error msg=".*"\n$`)
	plain := strings.HasPrefix(out, "exec ") && strings.Count(out, "\n") == 1 // what execve says stands alone
	if !form.MatchString(out) && !plain || !strings.Contains(strings.ReplaceAll(out, `\"`, `"`), words) {
		t.Errorf("%q; want one error that says %q", out, words)
	}
	if bad := inside.FindString(out); bad != "" {
		t.Errorf("%q shows %q", out, bad)
	}
}

// TestMistakesInABundle: each is told of once, by the field's name, and nothing is left.
func TestMistakesInABundle(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	elf := "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xff\xfe" + strings.Repeat("\x00", 400)
	for name, text := range map[string]string{"foreign": elf, "script": "#!/bin/nosuch\n", "plain": "plain\n"} {
		mode := os.FileMode(0o755)
		if name == "plain" {
			mode = 0o644
		}
		if err := os.WriteFile(filepath.Join(e.bundle, "rootfs/bin", name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	e.spec.Process.Args = []string{"true"}
	good, err := json.Marshal(e.spec)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range mistakes {
		t.Run(c.name, func(t *testing.T) {
			e.t, e.spec = t, &specs.Spec{}
			if err := json.Unmarshal(good, e.spec); err != nil {
				t.Fatal(err)
			}
			c.change(e.spec)
			e.write()
			out, code := e.call("run", "--bundle", e.bundle, "wrong")
			if code == 0 {
				t.Errorf("it ran: %s", out)
			}
			oneError(t, out, c.words)
			e.want(0, "", "delete", "--force", "wrong")
		})
	}
}

// TestMistakesInJSON: an error has its place, as an editor counts.
func TestMistakesInJSON(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	for text, words := range map[string]string{
		"":                                       "/config.json: line 1, column 1: unexpected end of JSON input",
		"[]":                                     "/config.json: line 1, column 1: the whole: must be an object, and is: array",
		"null":                                   `ociVersion ""`,
		"{\n \"process\": {\"args\": [\"a\",]}}": "/config.json: line 2, column 27: invalid character ']'",
		"{\n \"process\": {\"args\": \"a\"}}":    "process.args: must be a list, and is: string",
		"{\"process\":{\"user\":{\"uid\":-1}}}":  "process.user.uid: must be a whole number from 0 on, of 32 bits, and is: number -1",
		"{\n\n\"linux\":{\"resources\":{\"memory\":{\"limit\":\"64m\"}}}}":    "line 3, column ",
		"{\n\n\n\"linux\":{\"resources\":{\"network\":{\"classID\":\"1\"}}}}": "line 4, column ",
		"{\"ociVersion\":\"1.0.2\"} x":                                        "invalid character 'x' after top-level value",
	} {
		if err := os.WriteFile(filepath.Join(e.bundle, "config.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, code := e.call("create", "--bundle", e.bundle, "wrong")
		if code != 1 {
			t.Errorf("%q: exit code %d", text, code)
		}
		oneError(t, out, words)
	}
}

// TestMistakesInACall: with a container there, so that what is wrong is the rest.
func TestMistakesInACall(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.spec.Process.Args = []string{"sleep", "100"}
	e.write()
	t.Cleanup(func() { e.want(0, "", "delete", "--force", "one") })
	e.want(0, "", "run", "--detach", "--bundle", e.bundle, "one")
	long := "/tmp/" + strings.Repeat("x", 120)
	e.spec.Process.Terminal = true
	e.write()
	for args, words := range map[string]string{
		"create --bundle /nowhere two":                                     "JSON specification file config.json not found in /nowhere: there is no such folder",
		"create --bundle " + e.root + " two":                               "`brig-oci spec` writes one",
		"create --bundle " + e.bundle + "/config.json two":                 "read the bundle, which --bundle names as a folder",
		"create --bundle " + e.bundle + " one":                             "cannot allocate tty if runc will detach without setting console socket",
		"create --console-socket /nowhere --bundle " + e.bundle + " b":     "the caller has to listen at this unix socket",
		"create --console-socket " + long + " --bundle " + e.bundle + " c": "the path of a unix socket has at most 107 bytes, and this one 125",
		"start one":                       "cannot start an already running container",
		"start two":                       "container does not exist",
		"resume one":                      "container not paused",
		"kill one NOSUCH":                 `unknown signal "NOSUCH": say a name`,
		"kill one 99":                     `unknown signal "99"`,
		"kill one -1":                     `unknown signal "-1"`,
		"exec --user nobody one true":     `--user "nobody": "nobody" is no number`,
		"exec --user 4294967295 one id":   "4294967295 is no id",
		"exec -g -1 one true":             `"-1" is no number`,
		"exec --process /nowhere one":     "--process: open /nowhere",
		"exec one nosuch":                 `exec: "nosuch": executable file not found in $PATH`,
		"update --cpu-quota x one":        `invalid value for cpu-quota: "x" is no number`,
		"update --memory much one":        "invalid value for memory: invalid size: 'much'",
		"update --cpuset-cpus 0-x one":    "must be a list of numbers and ranges",
		"update --resources /nowhere one": "--resources /nowhere: ",
		"--log /nowhere/x list":           "--log: open /nowhere/x",
		"crate two":                       "No help topic for 'crate': `brig-oci help` lists the commands",
	} {
		out, code := e.call(strings.Fields(args)...)
		if code == 0 {
			t.Errorf("%s: went well: %s", args, out)
		}
		oneError(t, out, words)
	}
	for args, words := range map[string]string{
		"run --root /x two":   "flag provided but not defined: -root: --root is a global option, and stands before the command: brig-oci --root ... run",
		"--bundle /x run two": "flag provided but not defined: -bundle: it is an option of create, restore, run, spec, and stands behind the command",
	} {
		if out, code := e.call(strings.Fields(args)...); code != 1 || !strings.Contains(out, words) {
			t.Errorf("%s: exit code %d: %q", args, code, out)
		}
	}
}

// TestPausedBeforeItsStart: what is paused says so, and can be resumed.
func TestPausedBeforeItsStart(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.spec.Process.Args = []string{"sleep", "100"}
	e.write()
	t.Cleanup(func() { e.want(0, "", "delete", "--force", "cold") })
	e.want(0, "", "create", "--bundle", e.bundle, "cold")
	e.want(0, "", "pause", "cold")
	e.want(0, `"paused"`, "state", "cold")
	e.want(255, "paused", "exec", "cold", "true")
	e.want(1, "", "start", "cold")
	e.want(0, "", "resume", "cold")
	e.want(0, `"created"`, "state", "cold")
	e.want(0, "", "start", "cold")
	e.want(0, `"running"`, "state", "cold")
}
