package policy

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// allKeys is the end of the message about a key that is like none.
const allKeys = "; there are version, preset, isolation, image, pull, platform, verify, verifyImage, root, entrypoint, args, env, workdir, user, hostname, terminal, init, mounts, devices, " +
	"capabilities, seccomp, landlock, apparmor, selinux, noNewPrograms, network, namespaces, sysctls, limits, stopTimeout, labels, allowMissing"

// TestParseErrors holds where and how a file's mistakes are told: file:line:column: key: what, and what to do.
func TestParseErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, want string }{
		// Keys that there are not.
		{"args: [id]\nmemory: 5m\n", `2:1: unknown key "memory"` + allKeys},
		{"args: [id]\nlimits:\n  memroy: 5m\n", `3:3: limits: unknown key "memroy"; did you mean "memory"?`},
		{"args: [id]\nmounts:\n  - source: /a\n    target: /b\n    mode: x\n", `5:5: mounts[0]: unknown key "mode"; there are type, source, target, readOnly, options`},
		{"Preset: strict\n", `1:1: unknown key "Preset"; did you mean "preset"?`},
		{"limits:\n  deviceWriteIO: [x]\n", `2:3: limits: unknown key "deviceWriteIO"; did you mean "deviceWriteIops"?`},
		{`{"args": ["id"], "limitz": {}}`, `1:18: unknown key "limitz"; did you mean "limits"?`},
		{"limits: {memory: 1g, limits: {}}\n", `1:22: limits: unknown key "limits"; did you mean "ulimits"?`},
		{"? a\n", `1:1: unknown key "?"` + allKeys},

		// Values of another kind.
		{"args: id\n", `1:7: args: must be a list, as in [a, b]`},
		{"args: [[id]]\n", `1:8: args[0]: must be a text`},
		{"args: [id, ~]\n", `1:12: args[1]: has no value; write "" for an empty text`},
		{"args: [id]\nterminal: perhaps\n", `2:11: terminal: must be true or false`},
		{"terminal: yes\n", `1:11: terminal: must be true or false`},
		{"terminal: \"true\"\n", `1:11: terminal: must be true or false`},
		{"version: two\n", `1:10: version: must be a whole number`},
		{"version: 1.5\n", `1:10: version: must be a whole number`},
		{"limits: 5\n", `1:9: limits: must be keys with values`},
		{"limits: [a]\n", `1:9: limits: must be keys with values`},
		{"mounts: {a: b}\n", `1:9: mounts: must be a list, as in [a, b]`},
		{"mounts:\n  source: /a\n", `2:3: mounts: must be a list, as in [a, b]`},
		{"mounts: [a]\n", `1:10: mounts[0]: must be keys with values`},
		{"hostname: {a: b}\n", `1:11: hostname: must be a text`},
		{"hostname:\n  a: b\n", `2:3: hostname: must be a text`},
		{"labels:\n  a: {b: c}\n", `2:6: labels.a: must be a text`},
		{"labels:\n  a:\n", `2:6: labels.a: has no value; write "" for an empty text`},
		{"sysctls: [a]\n", `1:10: sysctls: must be keys with values`},
		{"[a, b]\n", `1:1: must be keys with values`},
		{"just words\n", `1:1: must be keys with values`},
		{"null\n", `1:1: must be keys with values`},

		// Words that YAML reads as something else than what stands there.
		{"args: [chmod, 0755, /x]\n", `1:15: args[1]: YAML reads 0755 as 493; write it in quotes, "0755"`},
		{"user: 010\n", `1:7: user: YAML reads 010 as 8; write it in quotes, "010"`},
		{"args: [sleep, 1.50]\n", `1:15: args[1]: YAML reads 1.50 as 1.5; write it in quotes, "1.50"`},
		{"limits: {pids: 0x10}\n", `1:16: limits.pids: YAML reads 0x10 as 16; write it in quotes, "0x10"`},
		{"args: [1_000]\n", `1:8: args[0]: YAML reads 1_000 as 1000; write it in quotes, "1_000"`},
		{"labels: {a: True}\n", `1:13: labels.a: YAML reads True as true; write it in quotes, "True"`},
		{"args: [!!int 3]\n", `1:8: args[0]: tags such as !!int are not supported; write the value alone`},

		// What is no YAML, or more than a policy needs of it.
		{"args: [id\n", `1:7: sequence end token ']' not found`},
		{"a: b: c", `1:4: mapping value is not allowed in this context`},
		{"args: [id]\nargs: [ls]\n", `2:1: mapping key "args" already defined at [1:1]`},
		{"limits:\n  memory: 1g\n  memory: 2g\n", `3:3: mapping key "memory" already defined at [2:3]`},
		{"args: &x [id]\nentrypoint: *x\n", `1:7: anchors, aliases and merge keys are not supported; write it out`},
		{"mounts:\n- &a {target: /x}\n", `2:3: anchors, aliases and merge keys are not supported; write it out`},
		{"<<: {args: [id]}\n", `1:1: anchors, aliases and merge keys are not supported; write it out`},
		{"args: [id]\n---\nargs: [ls]\n", ` has more than one document; a policy is one`},
		{"args: [\"\xff\"]\n", ` is no UTF-8 text`},
		{strings.Repeat("#", maxFile+1), ` is 1048577 bytes long; a policy has at most 1048576`},

		// Values that are wrong by themselves.
		{"version: 2\n", `1:10: version: 2 is not known to this brig; it reads version 1`},
		{"preset: strikt\n", `1:9: preset: unknown value "strikt"; did you mean "strict"?`},
		{"isolation: vm\n", `1:12: isolation: vm is not built in yet; there are native and gvisor`},
		{"isolation: gvisor\nargs: [id]\ninit: true\n", `3:7: init: isolation gvisor cannot do it: Brig's init is a process of the host's kernel; the first process of the guest is the program`},
		{"network: host\nisolation: gvisor\n", `1:10: network: isolation gvisor cannot do it: the guest would have the host's sockets, and gVisor's own network nothing to hold`},
		{"isolation: gvisor\ndevices:\n  - /dev/fuse\n", `3:5: devices[0]: isolation gvisor cannot do it: the guest's kernel has no driver for a device of the host's`},
		{"isolation: gvisor\nlandlock:\n  bind: [\"80\"]\n", `3:9: landlock.bind: isolation gvisor cannot do it: the guest's sockets are its own kernel's, of whose ports Landlock knows nothing`},
		{"isolation: docker\n", `1:12: isolation: unknown value "docker"; there are native, gvisor`},
		{"network: bridge\n", `1:10: network: unknown value "bridge"; there are none, host`},
		{"hostname: a_b\n", `1:11: hostname: "a_b" is no host name; write up to 64 letters, digits, hyphens and dots`},
		{"workdir: here\n", `1:10: workdir: "here" must be an absolute path`},
		{"env: [A]\n", `1:7: env[0]: is no environment variable; write KEY=VALUE`},
		{"env:\n  - A=1\n  - =2\n", `3:5: env[1]: is no environment variable; write KEY=VALUE`},
		{"args: [id, \"a\\0b\"]\n", `1:12: args[1]: "a\x00b" has a NUL byte, where the kernel would end it`},
		{"labels: {a: \"\\0\"}\n", `1:9: labels: "a": "\x00" has a NUL byte, where the kernel would end it`},
		{"stopTimeout: never\n", `1:14: stopTimeout: "never" is no time; write one as 30s, 5m or 1h30m`},
		{"devices: [fuse]\n", `1:11: devices[0]: "fuse" is no device; write PATH, PATH:INSIDE or PATH:INSIDE:rwm`},
		{"namespaces:\n  user: private\n", `2:9: namespaces.user: unknown value "private"; there are auto, host`},
		{"capabilities:\n  add: [CHWON]\n", `2:9: capabilities.add[0]: unknown capability "CHWON": did you mean CAP_CHOWN?`},
		{"landlock:\n  mode: yes\n", `2:9: landlock.mode: unknown value "yes"; there are on, strict, off`},
		{"landlock:\n  bind: [\"http\"]\n", `2:10: landlock.bind[0]: "http" is no port; write 0 to 65535, or *`},
		{"landlock:\n  bind: [\"1\", \"65536\"]\n", `2:15: landlock.bind[1]: "65536" is no port; write 0 to 65535, or *`},
		{"limits:\n  memory: 1k\n", `2:11: limits.memory: "1k" is too little: no sandbox starts with less than 4m`},
		{"limits:\n  memory: lots\n", `2:11: limits.memory: "lots" is no size; write a number with a unit, as in 512m or 2g`},
		{"limits:\n  cpus: \"0\"\n", `2:9: limits.cpus: "0" is no number of processors; write one from 0.01 on, as in 0.5 or 2`},
		{"limits:\n  pids: \"0\"\n", `2:9: limits.pids: "0" is no number from 1 to 4194304`},
		{"limits:\n  ulimits:\n    - nofile=1\n    - core=2:1\n", `4:7: limits.ulimits[1]: "core=2:1": the soft limit is above the hard one`},
		{"limits:\n  deviceReadBps: [sda:1m]\n", `2:19: limits.deviceReadBps[0]: "sda:1m" is no rate; write /dev/NAME:RATE`},
		{"limits:\n  timeout: soon\n", `2:12: limits.timeout: "soon" is no time; write one as 30s, 5m or 1h30m`},
		{"mounts:\n  - target: /b\n", `2:5: mounts[0].source: is missing: what of the host is to be at /b?`},
		{"mounts:\n  - source: /a\n", `2:5: mounts[0].target: is missing: where inside is it to be?`},
		{"mounts: [{source: /a}]\n", `1:10: mounts[0].target: is missing: where inside is it to be?`},
		{"mounts:\n  - source: /a\n    target: b\n", `3:13: mounts[0].target: "b" must be an absolute path`},
		{"mounts:\n  - source: /a\n    target: /b/../../c\n", `3:13: mounts[0].target: "/b/../../c" leads out by ".."; write where it is inside`},
		{"mounts:\n  - source: /a\n    target: //\n", `3:13: mounts[0].target: the root itself cannot be mounted over; give it with root.path`},
		{"mounts:\n  - type: nfs\n    source: /a\n    target: /b\n", `2:11: mounts[0].type: unknown value "nfs"; there are bind, tmpfs`},
		{"mounts:\n  - type: tmpfs\n    source: /a\n    target: /b\n", `3:13: mounts[0].source: a tmpfs has no source`},

		// Contradictions: the line is that of the weaker word.
		{"preset: strict\nseccomp: unconfined\n", `2:10: seccomp: unconfined contradicts preset strict; use the preset default`},
		{"namespaces: {user: host}\npreset: strict\n", `1:20: namespaces.user: host contradicts preset strict; use the preset default`},
		{"network: none\nlandlock:\n  connect: [\"80\"]\n", `3:12: landlock.connect: opens ports, but network is none: there is nobody to connect to`},
		{"landlock:\n  mode: off\n  bind: [\"80\"]\n", `3:9: landlock.bind: says which ports are open, but landlock.mode is off`},
		{"capabilities:\n  add: [KILL, CHOWN]\n  drop: [cap_chown]\n", `2:15: capabilities.add[1]: CHOWN is added and dropped; decide for one`},
		{"capabilities:\n  add: [ALL]\n  drop: [all]\n", `2:9: capabilities.add[0]: ALL is added and dropped; decide for one`},
		{"limits:\n  memory: 64m\n  memorySwap: 32m\n", `3:15: limits.memorySwap: 32m is memory and swap together, so it cannot be below limits.memory, 64m`},
		{"limits:\n  memorySwap: 32m\n", `2:15: limits.memorySwap: needs limits.memory: it is memory and swap together`},
		{"mounts:\n  - source: /a\n    target: /b\n  - source: /c\n    target: /b/\n", `5:13: mounts[1].target: /b/ is mounted over twice`},
		{"root:\n  readOnly: false\n", `2:13: root.readOnly: false needs an image or root.path: the view of the host's programs is read-only; for a place to write give a tmpfs`},
	} {
		name := c.text
		if len(name) > 80 {
			name = name[:80]
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := Parse("box.yaml", []byte(c.text))
			if err == nil {
				t.Fatalf("no error: %+v", p)
			}
			if want := "box.yaml:" + c.want; err.Error() != want {
				t.Errorf("got  %s\nwant %s", err, want)
			}
			var e *Error
			if !errors.As(err, &e) || e.File != "box.yaml" {
				t.Errorf("%T is no *Error with the file", err)
			}
		})
	}
}

// TestParse reads what is right, in the forms that YAML has for it.
func TestParse(t *testing.T) {
	t.Parallel()
	yes := true
	for text, want := range map[string]Policy{
		"":                             {},
		"# nothing\n":                  {},
		"---\n":                        {},
		"limits: ~\nargs:\n":           {},
		"args: [sleep, 60, 1.5, true]": {Args: []string{"sleep", "60", "1.5", "true"}},
		"limits: {cpus: 1.5, pids: 64, memory: 8388608}":                 {Limits: &Limits{CPUs: "1.5", Pids: "64", Memory: "8388608"}},
		"landlock:\n  mode: off\n":                                       {Landlock: &Landlock{Mode: "off"}},
		"landlock: {bind: [80, '443'], connect: []}":                     {Landlock: &Landlock{Bind: []string{"80", "443"}, Connect: []string{}}},
		`{"args": ["id"], "terminal": true, "version": 1}`:               {Version: 1, Args: []string{"id"}, Terminal: &yes},
		"args:\n  - sh\n  - -c\n  - |\n    a\n    b\n":                   {Args: []string{"sh", "-c", "a\nb\n"}},
		"mounts:\n  - {target: /t, type: tmpfs, options: [mode=0755]}\n": {Mounts: []Mount{{Type: "tmpfs", Target: "/t", Options: []string{"mode=0755"}}}},
	} {
		p, err := Parse("box.yaml", []byte(text))
		if err != nil || !reflect.DeepEqual(*p, want) {
			t.Errorf("%q: %+v, %v", text, p, err)
		}
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "box.yaml")
	if err := os.WriteFile(file, []byte("args: [id]\noops: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(file); err == nil || !strings.HasPrefix(err.Error(), file+":2:1: unknown key") {
		t.Error(err)
	}
	if _, err := Load(file + "x"); !errors.Is(err, os.ErrNotExist) || !strings.HasPrefix(err.Error(), "read the policy: open "+file) {
		t.Error(err)
	}
}

// TestSpecErrors are those that only this host, or the whole policy, can tell.
func TestSpecErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		want string
		p    Policy
		host func(*Host)
	}{
		{"args: no program is given; write it after --, or name an image", Policy{}, nil},
		{`root.path: /home/me/work/a\nb\x1b[31m does not exist; give the folder of a root file system`, Policy{Root: &Root{Path: "a\nb\x1b[31m"}}, nil},
		{"root.path: /home/me/work/no does not exist; give the folder of a root file system", Policy{Root: &Root{Path: "no"}}, nil},
		{"mounts[1].source: /srv/no does not exist; make it first",
			Policy{Mounts: []Mount{{Source: "/srv/data", Target: "/a"}, {Source: "../../../srv/no", Target: "/b"}}}, nil},
		{"namespaces.user: host needs root: without a user namespace an unprivileged user can isolate nothing",
			Policy{Namespaces: &Namespaces{User: "host"}}, func(h *Host) { h.EUID = 1000 }},
		{"devices[0]: stat /dev/nul: file does not exist", Policy{Devices: []string{"/dev/nul"}}, nil},
		{"devices[0]: /dev/pts is mounted over already; give the device another place inside", Policy{Devices: []string{"/dev/fuse:/dev/pts"}}, nil},
		{"devices[2]: /dev/x is mounted over already; give the device another place inside",
			Policy{Devices: []string{"/dev/fuse:/dev/x", "/dev/fuse:/dev/x", "/dev/kvm:/dev/x"}}, nil},
		{"limits.deviceReadBps: /dev/fuse is no block device of this host", Policy{Limits: &Limits{DeviceReadBps: []string{"/dev/fuse:1m"}}}, nil},
		{"limits.deviceWriteIops: /dev/sdz is no block device of this host", Policy{Limits: &Limits{DeviceWriteIO: []string{"/dev/sdz:1"}}}, nil},
		{"seccomp: read the profile: open /home/me/work/dfault: file does not exist; the built-in ones are default, strict and compat", Policy{Seccomp: "dfault"}, nil},
		{`seccomp: bad.json: seccomp: the profile, line 1 column 2: json: unknown field "x"`, Policy{Seccomp: "bad.json"},
			func(h *Host) { h.Read = func(string) ([]byte, error) { return []byte(`{"x":1}`), nil } }},
		{`seccomp: typo.json: seccomp: unknown system call "raed": did you mean "read"?`, Policy{Seccomp: "typo.json"},
			func(h *Host) {
				h.Read = func(string) ([]byte, error) {
					return []byte(`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["raed"],"action":"SCMP_ACT_ALLOW"}]}`), nil
				}
			}},
		{`network: unknown value "brdige"; there are none, host`, Policy{Network: "brdige"}, nil},
	} {
		t.Run(c.want, func(t *testing.T) {
			t.Parallel()
			h := testHost()
			if c.host != nil {
				c.host(h)
			}
			if !strings.HasPrefix(c.want, "args") {
				c.p.Args = []string{"id"}
			}
			_, err := over(t, &c.p).Spec(h)
			if err == nil || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

// TestNearest: a word that is nearly one is suggested, others are listed.
func TestNearest(t *testing.T) {
	t.Parallel()
	if got := nearest("CPU", "memory", "pids"); got != "; there are memory, pids" {
		t.Error(got)
	}
	if got := nearest("MEMORY", "memory", "cpus"); got != `; did you mean "memory"?` {
		t.Error(got)
	}
}
