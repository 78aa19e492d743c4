package attack

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"brig/internal/annotation"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// hostileKernel gives a copy of brig or brig-oci whose kernel process and file server are the attacker.
func hostileKernel(t *testing.T, front string) string {
	t.Helper()
	dir := filepath.Join(bench.dir, "hostile-kernel-"+random())
	if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // programs
		t.Fatal(err)
	}
	for from, to := range map[string]string{front: filepath.Base(front), bench.attacker: "brig-gvisor"} {
		if err := copyFile(from, filepath.Join(dir, to)); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, filepath.Base(front))
}

// ofCompromised says what has to become of an attack there.
func ofCompromised(preset, from, name string) (word, why string) {
	if preset == "strict" && name == "plant-setuid" {
		return "HELD", "the file server may make no file there at all"
	}
	switch from + "/" + name {
	case "kernel/ptrace-child":
		return "ESCAPED", "gVisor's platform systrap traces the stubs, children of the kernel process"
	case "gofer/plant-setuid":
		return "ESCAPED", "the guest's files have the modes that its filter lets it give them, and openat2 has a file's mode behind a pointer; they belong to ids of the sandbox"
	case "gofer/caps", "gofer/CVE-2022-29162-inheritable", "gofer/memfd-sheds-layers":
		return "BROKEN", "they ask /proc, which the file server does not see"
	}
	if from == "gofer" && (strings.Contains(name, "int80") || strings.HasPrefix(name, "x32")) {
		return "BROKEN", "another architecture's call ends it, and so nobody says it"
	}
	return "HELD", "in no policy is it theirs to do"
}

// captured are attacks on what only the two have.
var captured = [][]string{{"descriptors"}, {"in-gofer", "descriptors"}, {"in-gofer", "procfd"}}

// TestCompromisedKernel has a guest that got hold of gVisor's kernel process: the attacker is executed in its place, with none of gVisor's
// filters, and runs every attack against the host from there and from the file server. What holds it is what Brig has put
// around them, whatever the policy opens for the guest.
func TestCompromisedKernel(t *testing.T) {
	t.Parallel()
	need(t)
	brig := hostileKernel(t, bench.brig)
	attack := func(t *testing.T, flags []string, args ...string) result {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		all := slices.Concat([]string{"--root", bench.state, "run", "-e", bench.mark, "--isolation", "gvisor", "--rootfs", bench.rootfs}, flags, []string{"--", "/attack"}, args)
		return finish(command(ctx, brig, all...))
	}
	for name, flags := range map[string][]string{
		"default": nil, "strict": {"--preset", "strict"}, "compat": {"--preset", "compat"},
		"open": {"--security-opt", "seccomp=unconfined", "--security-opt", "landlock=off", "--cap-add", "ALL", "--read-only=false"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, from := range []string{"kernel", "gofer"} {
				for _, r := range rows() {
					if len(r.flags) > 0 || r.only == "host-view" || slices.Contains([]string{"fill", "inodes", "hog", "fork-bomb", "walk"}, r.attack[0]) {
						continue
					}
					t.Run(from+"/"+r.name, func(t *testing.T) {
						args := fill(t, r.attack)
						if from == "gofer" {
							args = append([]string{"in-gofer"}, args...)
						}
						word, reason := attack(t, flags, args...).verdict()
						count("compromised "+from, word)
						if want, why := ofCompromised(name, from, r.name); word != want {
							t.Errorf("%s, not %s (%s): %s", word, want, why, reason)
						}
					})
				}
			}
			for _, args := range captured {
				t.Run(strings.Join(args, "/"), func(t *testing.T) {
					if word, reason := attack(t, flags, args...).verdict(); word != "HELD" {
						t.Errorf("%s: %s", word, reason)
					}
				})
			}
			// Each against the other, which is another user with other rights. To open a pidfd is the kernel process's to do, for its stubs; it
			// can wait by one, and no more.
			for _, call := range []string{"ptrace", "vm-read", "kcmp", "pidfd-getfd", "signal", "priority-of", "affinity-of", "rlimit-of", "pry"} {
				t.Run("kernel/"+call+"-gofer", func(t *testing.T) {
					if word, reason := attack(t, flags, call, "{gofer}").verdict(); word != "HELD" {
						t.Errorf("%s: %s", word, reason)
					}
				})
			}
		})
	}
	// The control: it is the attacker that runs there, and what it says of an attack that nothing holds is heard.
	t.Run("control", func(t *testing.T) {
		for _, args := range [][]string{{"read", "/etc/passwd"}, {"in-gofer", "read", "/etc/passwd"}} {
			if word, reason := attack(t, nil, args...).verdict(); word != "ESCAPED" {
				t.Errorf("%s: %s: %s", strings.Join(args, " "), word, reason)
			}
		}
	})
}

// TestCompromisedKernelOfBundle is the same where an engine gives no user namespace: the kernel process is a user of the host's without any
// right, and the file server is its root with five capabilities. What a bundle does not ask for (Landlock, a filter) the guest
// does not have; they have theirs.
func TestCompromisedKernelOfBundle(t *testing.T) {
	t.Parallel()
	ociBuilt(t)
	oci := hostileKernel(t, bundles.oci)
	attack := func(t *testing.T, args ...string) result {
		t.Helper()
		c := newContainer(t, bench.rootfs, func(s *specs.Spec) {
			s.Annotations = map[string]string{annotation.Isolation: "gvisor"}
			s.Linux.Seccomp = nil
		}, append([]string{"/attack"}, args...)...)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		r := finish(command(ctx, oci, "--root", c.state(), "run", "--bundle", c.bundle, c.id))
		c.gone()
		return r
	}
	for _, from := range []string{"kernel", "gofer"} {
		for _, r := range rows() {
			if len(r.flags) > 0 || r.only == "host-view" || slices.Contains([]string{"fill", "inodes", "hog", "fork-bomb", "walk"}, r.attack[0]) {
				continue
			}
			t.Run(from+"/"+r.name, func(t *testing.T) {
				args := fill(t, r.attack)
				if from == "gofer" {
					args = append([]string{"in-gofer"}, args...)
				}
				word, reason := attack(t, args...).verdict()
				count("compromised "+from+" of a bundle", word)
				if want, why := ofCompromised("", from, r.name); word != want {
					t.Errorf("%s, not %s (%s): %s", word, want, why, reason)
				}
			})
		}
	}
	for _, args := range captured {
		t.Run(strings.Join(args, "/"), func(t *testing.T) {
			if word, reason := attack(t, args...).verdict(); word != "HELD" {
				t.Errorf("%s: %s", word, reason)
			}
		})
	}
	t.Run("control", func(t *testing.T) {
		if word, reason := attack(t, "in-gofer", "read", "/etc/passwd").verdict(); word != "ESCAPED" {
			t.Errorf("%s: %s", word, reason)
		}
	})
}
