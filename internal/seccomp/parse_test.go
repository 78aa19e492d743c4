package seccomp

import (
	"os"
	"strings"
	"testing"

	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestParseProfile(t *testing.T) {
	t.Parallel()
	const docker = `{
	"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
	"archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}, {"architecture": "SCMP_ARCH_AARCH64"}],
	"syscalls": [
		{"names": ["read"], "action": "SCMP_ACT_ALLOW", "comment": "always"},
		{"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
		{"names": ["chroot"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_CHROOT"]}},
		{"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
		{"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64"]}}
	]}`
	for _, c := range []struct {
		o    ParseOptions
		want string
	}{
		{ParseOptions{Native: specs.ArchX86_64, Kernel: "6.1.0-13-amd64"}, "read ptrace clone3 arch_prctl"},
		{ParseOptions{Native: specs.ArchX86_64, Kernel: "4.4"}, "read clone3 arch_prctl"},
		{ParseOptions{Native: specs.ArchAARCH64, Caps: []string{"SYS_CHROOT", "CAP_SYS_ADMIN"}}, "read ptrace chroot"},
	} {
		p, err := ParseProfile(strings.NewReader(docker), c.o)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, s := range p.Syscalls {
			names = append(names, s.Names...)
		}
		if got := strings.Join(names, " "); got != c.want {
			t.Errorf("%+v: rules for %q, want %q", c.o, got, c.want)
		}
		if _, err := Compile(p, Options{Native: c.o.Native, Strict: true}); err != nil {
			t.Error(err)
		}
	}
}

func TestBadProfilesAreNamed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ what, text, want string }{
		{"unknown call", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["ptrac"],"action":"SCMP_ACT_ERRNO"}]}`, `unknown system call "ptrac": did you mean "ptrace"?`},
		{"syntax", "{\n  \"defaultAction\": \"SCMP_ACT_ALLOW\",\n  oops\n}", "line 3 column 3"},
		{"unknown key", "{\n  \"defaultAktion\": \"SCMP_ACT_ALLOW\"}", `line 2 column 3: json: unknown field "defaultAktion"`},
		{"wrong type", "{\n\"defaultAction\": 7}", "line 2"},
		{"unknown action", `{"defaultAction":"ALLOW"}`, `defaultAction: unknown action "ALLOW"`},
		{"unknown operator", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":1,"op":"EQ"}]}]}`, `unknown operator "EQ"`},
		{"argument index", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{"index":6,"value":1,"op":"SCMP_CMP_EQ"}]}]}`, "argument index 6"},
		{"errno of allow", `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","errnoRet":1}]}`, "returns no errno"},
		{"contradiction", `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["ioctl"],"action":"SCMP_ACT_ALLOW"},{"names":["ioctl"],"action":"SCMP_ACT_KILL_PROCESS","args":[{"index":1,"value":1,"op":"SCMP_CMP_EQ"}]}]}`, "remove one of the two"},
		{"no names", `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":[],"action":"SCMP_ACT_ALLOW"}]}`, "names no system call"},
		{"flag", `{"defaultAction":"SCMP_ACT_ERRNO","flags":["X"]}`, `unknown flag "X"`},
		{"architecture", `{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_Z80"]}`, `unknown architecture "SCMP_ARCH_Z80"`},
		{"notify by default", `{"defaultAction":"SCMP_ACT_NOTIFY"}`, "cannot be the default"},
		{"notify to nobody", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mount"],"action":"SCMP_ACT_NOTIFY"}]}`, "listenerPath"},
		{"two profiles", `{"defaultAction":"SCMP_ACT_ALLOW"} {}`, "closing brace"},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			p, err := ParseProfile(strings.NewReader(c.text), ParseOptions{})
			if err == nil {
				_, err = Compile(p, Options{Strict: true})
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q, want one line with %q", err, c.want)
			}
		})
	}
}

// TestPodmansProfile reads the profile Debian ships for Podman, where it is installed.
func TestPodmansProfile(t *testing.T) {
	t.Parallel()
	const file = "/usr/share/containers/seccomp.json"
	testenv.Check(t, testenv.File(file, "golang-github-containers-common"))
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p, err := ParseProfile(f, ParseOptions{Native: specs.ArchX86_64})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Compile(p, Options{Native: specs.ArchX86_64}); err != nil {
		t.Error(err)
	}
}

func TestBundlesAreForgiven(t *testing.T) {
	t.Parallel()
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchMIPS64N32},
		Syscalls: []specs.LinuxSyscall{{Names: []string{"frobnicate", "mount"}, Action: specs.ActErrno}}}
	f, err := Compile(p, Options{Native: specs.ArchMIPS64})
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Unknown) != 1 || f.Unknown[0] != "frobnicate" {
		t.Errorf("unknown calls %q, want frobnicate", f.Unknown)
	}
}

func TestNotifyAsksForAListener(t *testing.T) {
	t.Parallel()
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/run/agent", Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv, specs.LinuxSeccompFlagLog},
		Syscalls: []specs.LinuxSyscall{{Names: []string{"mount"}, Action: specs.ActNotify}}}
	f, err := Compile(p, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !f.Notify || f.Flags != FlagNewListener|FlagWaitKillableRecv|FlagLog {
		t.Errorf("notify %v, flags %#x", f.Notify, f.Flags)
	}
}

func TestTooManyConditionsAreRefused(t *testing.T) {
	t.Parallel()
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
	for i := range uint64(5000) {
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{"ioctl"}, Action: specs.ActAllow,
			Args: []specs.LinuxSeccompArg{{Index: 1, Value: i * 7 << 31, Op: specs.OpEqualTo}}})
	}
	if _, err := Compile(p, Options{}); err == nil || !strings.Contains(err.Error(), "4096") {
		t.Errorf("error %v, want the kernel's limit", err)
	}
}
