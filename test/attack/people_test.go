package attack

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestHostileUsers has user names and numbers that a loose reader takes for root (CVE-2026-30892, CVE-2024-40635), and
// passwd files that lead out of the root (CVE-2019-14271).
func TestHostileUsers(t *testing.T) {
	t.Parallel()
	need(t)
	o := newOutside(t)
	root := newRoot(t)
	write(t, filepath.Join(root, "etc/passwd"), strings.Join([]string{
		"root:x:0:0:root:/root:/bin/sh", "1000:x:0:0:a number:/:/bin/sh", "-1:x:0:0::/:/bin/sh", "4294967296:x:0:0::/:/bin/sh",
		"huge:x:4294967296:0::/:/bin/sh", "wrap:x:4294967295:0::/:/bin/sh", "minus:x:-1:0::/:/bin/sh", "plus:x:+0:0::/:/bin/sh",
		"hex:x:0x0:0::/:/bin/sh", "blank:x: 0:0::/:/bin/sh", "empty:x:::/:/bin/sh", "user:x:1234:1234::/:/bin/sh", "group:x:1234:4294967296::/:/bin/sh", "",
	}, "\n"))
	write(t, filepath.Join(root, "etc/group"), "root:x:0:\n1000:x:0:\nhuge:x:4294967296:\nminus:x:-1:\ncrew:x:77:\n")
	for user, want := range map[string]string{
		"1000": "1000:0", "user": "1234:1234", "1234": "1234:1234", "user:crew": "1234:77", "7:8": "7:8", "0": "0:0", "007": "7:0", "65535:65535": "65535:65535",
		// Refused.
		"-1": "", "4294967296": "", "4294967295": "", "huge": "", "wrap": "", "minus": "", "plus": "", "hex": "", "blank": "", "empty": "", "group": "",
		"+0": "", "0x0": "", " 0": "", "0 ": "", "1000:huge": "", "1000:minus": "", "1000:-1": "", "1000:4294967295": "", "nobody-has-this": "", ":": "", ":0": "",
		"0:": "", "1e3": "", "18446744073709551616": "", "1000:1000:0": "", "65536": "", "70000:0": "", "user\n0": "", "user:crew\n": "",
	} {
		t.Run(fmt.Sprintf("%q", user), func(t *testing.T) {
			r := run(t, view{flags: []string{"--rootfs", root}}, []string{"-u", user}, "ids")
			switch got := strings.TrimSpace(r.out); {
			case want == "" && !r.refused():
				t.Errorf("was not refused: %+v", r)
			case want != "" && got != "HELD "+want:
				t.Errorf("ran as %s, want %s: %+v", got, want, r)
			}
		})
	}
	for name, change := range map[string]func(passwd string){
		"link":    func(p string) { replace(t, p, linkTo(o.dir+"/passwd")) },
		"link-up": func(p string) { replace(t, p, linkTo(strings.Repeat("../", 20)+o.dir+"/passwd")) },
		"fifo":    func(p string) { replace(t, p, func(p string) error { return unix.Mkfifo(p, 0o666) }) },
		"folder":  func(p string) { replace(t, p, func(p string) error { return os.Mkdir(p, 0o755) }) }, //nolint:gosec // hostile
		"zero":    func(p string) { replace(t, p, linkTo("/dev/zero")) },
		"node": func(p string) {
			replace(t, p, func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) })
		}, //nolint:gosec // a device
		"magic":    func(p string) { replace(t, p, linkTo("/proc/self/root"+o.dir+"/passwd")) },
		"large":    func(p string) { write(t, p, strings.Repeat("#\n", 1<<20)+"evil:x:0:0::/:/bin/sh\n") },
		"etc-link": func(p string) { replace(t, filepath.Dir(p), linkTo(o.dir)) },
		"missing":  func(p string) { replace(t, p, func(string) error { return nil }) },
	} {
		t.Run("passwd-"+name, func(t *testing.T) {
			root := newRoot(t)
			change(filepath.Join(root, "etc/passwd"))
			if r := run(t, view{flags: []string{"--rootfs", root}}, []string{"-u", "evil"}, "ids"); !r.refused() {
				t.Errorf("a user of the host's file was not refused: %+v", r)
			}
			if r := run(t, view{flags: []string{"--rootfs", root}}, []string{"-u", "5:6"}, "ids"); strings.TrimSpace(r.out) != "HELD 5:6" {
				t.Errorf("numbers need no file: %+v", r)
			}
		})
	}
	// The control: the host's file does have that user.
	if text, err := os.ReadFile(o.dir + "/passwd"); err != nil || !strings.Contains(string(text), "evil:") {
		t.Errorf("control: %v %s", err, text)
	}
	o.unchanged(t)
}

// TestHostilePrograms has programs that lead out of the root or are none.
func TestHostilePrograms(t *testing.T) {
	t.Parallel()
	need(t)
	o := newOutside(t)
	root := newRoot(t)
	for name, to := range map[string]string{
		"out": o.dir + "/prog", "up": strings.Repeat("../", 20) + o.dir + "/prog", "magic": "/proc/1/root" + o.dir + "/prog", "fd": "/proc/self/fd/3", "loop": "loop",
	} {
		replace(t, filepath.Join(root, name), linkTo(to))
	}
	write(t, filepath.Join(root, "interpreter"), "#!"+o.dir+"/prog\n")
	write(t, filepath.Join(root, "interpreter-fd"), "#!/proc/self/fd/5\n")
	write(t, filepath.Join(root, "itself"), "#!/itself\n")
	write(t, filepath.Join(root, "empty"), "")
	write(t, filepath.Join(root, "data/note"), "no program")
	if err := unix.Chmod(filepath.Join(root, "data/note"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(root, "fifo"), 0o777); err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{
		"/out", "/up", "/magic", "/fd", "/loop", "/interpreter", "/interpreter-fd", "/itself", "/empty", "/data/note", "/fifo", "/data", "/", ".", "..", "",
		"attack", "/dev/null", "/proc/self/fd/0", "/dev/fd/5", "/nowhere",
	} {
		for _, preset := range presets {
			t.Run(preset+"/"+program, func(t *testing.T) {
				r := brig(t, "run", "-e", bench.mark, "--rootfs", root, "--preset", preset, "--", program)
				if !r.refused() {
					t.Errorf("was not refused: %+v", r)
				}
			})
		}
	}
	// The control: the host's program runs where there is no root in the way.
	if word, reason := finish(command(t.Context(), filepath.Join(root, "out"))).verdict(); word != "ESCAPED" {
		t.Errorf("control: %s %s", word, reason)
	}
	o.unchanged(t)
}

// TestCVE_2022_0811 puts more than one sysctl's value into a sysctl, and asks for those of the host.
func TestCVE_2022_0811(t *testing.T) {
	t.Parallel()
	need(t)
	read := func() string {
		var text string
		for _, name := range []string{"kernel/core_pattern", "kernel/modprobe", "kernel/panic", "vm/overcommit_memory", "kernel/shm_rmid_forced", "net/ipv4/ip_forward"} {
			b, _ := os.ReadFile("/proc/sys/" + name)
			text += name + "=" + string(b)
		}
		return text
	}
	before := read()
	for _, s := range []string{
		"kernel.core_pattern=|/attack", "kernel/core_pattern=|/attack", "kernel.shm_rmid_forced=1+kernel.core_pattern=|/attack",
		"kernel.shm_rmid_forced=1\nkernel.core_pattern=|/attack", "net/../kernel/core_pattern=|/attack", "net.ipv4.../../kernel/panic=1",
		"net//../kernel/panic=1", "/proc/sys/kernel/panic=1", "../kernel/panic=1", "vm.overcommit_memory=1", "fs.suid_dumpable=2", "kernel.modprobe=/attack",
		"kernel.unprivileged_bpf_disabled=0", "=1", "net=1", "net.ipv4=1", "kernel.hostname",
	} {
		t.Run(fmt.Sprintf("%q", s), func(t *testing.T) {
			r := run(t, views()[0], []string{"--sysctl", s}, "ids")
			if !r.refused() {
				t.Errorf("was not refused: %+v", r)
			}
		})
	}
	// The control: one that is the sandbox's own is set there, and there alone.
	if r := brig(t, "run", "--rootfs", bench.rootfs, "--sysctl", "kernel.shm_rmid_forced=1", "--", "/bin/sh", "-c", "read x < /proc/sys/kernel/shm_rmid_forced; echo $x"); strings.TrimSpace(r.out) != "1" {
		t.Errorf("control: %+v", r)
	}
	if after := read(); after != before {
		t.Errorf("the host's sysctls were %s and are %s", before, after)
	}
}

// TestHugeArguments starts with more arguments and environment than the kernel takes, and with nearly as much.
func TestHugeArguments(t *testing.T) {
	t.Parallel()
	need(t)
	one := strings.Repeat("x", 127<<10) // MAX_ARG_STRLEN is 128 KiB (execve(2))
	file := filepath.Join(bench.dir, "env-"+random())
	write(t, file, "HUGE="+strings.Repeat("y", 129<<10)+"\n")
	if r := run(t, views()[0], []string{"-e", "LARGE=" + one}, "fds", one, one); r.code != 0 {
		t.Errorf("large arguments: code %d, %.200s", r.code, r.errors)
	}
	if r := run(t, views()[0], []string{"--env-file", file}, "fds"); !r.refused() {
		t.Errorf("a variable above the kernel's limit was not refused: code %d, %.200s", r.code, r.errors)
	}
}

// TestCVE_2019_5736 has programs that are /proc/self/exe, at whose execve that is still the host's runtime.
func TestCVE_2019_5736(t *testing.T) {
	t.Parallel()
	need(t)
	root := newRoot(t)
	write(t, filepath.Join(root, "script"), "#!/proc/self/exe\n")
	replace(t, filepath.Join(root, "link"), linkTo("/proc/self/exe"))
	replace(t, filepath.Join(root, "link-thread"), linkTo("/proc/thread-self/exe"))
	programs := []string{"/script", "/link", "/link-thread", "/proc/self/exe", "/proc/thread-self/exe"}
	for _, preset := range presets {
		for _, extra := range [][]string{nil, {"--init"}, {"-u", "1000"}, {"--read-only=false"}} {
			for _, program := range programs {
				t.Run(strings.Join(append([]string{preset, program}, extra...), " "), func(t *testing.T) {
					args := append([]string{"run", "-e", bench.mark, "--rootfs", root, "--preset", preset}, extra...)
					if r := brig(t, append(args, "--", program, "version")...); !r.refused() {
						t.Errorf("the host's runtime was executed inside: %+v", r)
					}
				})
			}
		}
	}
	// The control: without Landlock the kernel does execute it.
	r := brig(t, slices.Concat([]string{"run", "-e", bench.mark, "--rootfs", root}, noLandlock, noModule, []string{"--", "/link", "version"})...)
	if r.code != 0 || !strings.HasPrefix(r.out, "brig ") {
		t.Errorf("control: %+v", r)
	}
	name := "exec-" + random()
	if r := brig(t, "run", "-d", "--name", name, "-e", bench.mark, "--rootfs", root, "--", "/attack", "sleep"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	defer brig(t, "rm", "-f", name)
	for _, program := range programs {
		if r := brig(t, "exec", name, program, "version"); !r.refused() {
			t.Errorf("exec %s: the host's runtime was executed inside: %+v", program, r)
		}
	}
}
