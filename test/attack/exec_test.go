package attack

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"brig/internal/testenv"
)

// TestExec runs the attacks by `brig exec` in sandboxes that are up: a further process must be held as the first is.
func TestExec(t *testing.T) {
	t.Parallel()
	need(t)
	for _, preset := range presets {
		t.Run(preset, func(t *testing.T) {
			t.Parallel()
			name := "exec-" + random()
			if r := run(t, views()[0], []string{"--preset", preset, "-d", "--name", name}, "sleep"); r.code != 0 {
				t.Fatalf("%+v", r)
			}
			t.Cleanup(func() { _ = brigRemove(name) })
			for _, r := range rows() {
				// What fills a place or the limits would meet its own kind.
				if len(r.flags) > 0 || r.only == "host-view" || slices.Contains([]string{"fill", "inodes", "hog", "fork-bomb", "walk"}, r.attack[0]) {
					continue
				}
				t.Run(r.name, func(t *testing.T) {
					got := brig(t, append([]string{"exec", name, "/attack"}, fill(t, r.attack)...)...)
					word, reason := got.verdict()
					count("exec "+preset, word)
					if r.otherwise(t, preset, got) {
						return
					}
					if _, granted := r.granted[preset]; word != "HELD" && !(granted && word == "ESCAPED") {
						t.Errorf("%s: %s", word, reason)
					}
				})
			}
		})
	}
}

func brigRemove(name string) error {
	c := brigCommand(context.Background(), "rm", "-f", name)
	return c.Run()
}

// TestCVE_2016_9962 watches, from inside, every process that enters by `brig exec`, and tries to get hold of it, of its
// descriptors and of the host's runtime behind it before it is the program.
func TestCVE_2016_9962(t *testing.T) {
	t.Parallel()
	need(t)
	for _, flags := range [][]string{
		{"--preset", "default"}, {"--preset", "strict"}, {"--preset", "compat"},
		// Landlock keeps processes of two rulesets apart; without it, what holds is that the entering one cannot be dumped.
		noLandlock,
		{"--security-opt", "seccomp=unconfined", "--security-opt", "landlock=off", "--cap-add", "ALL"},
		// As Docker's containers are: root of the host, without CAP_SYS_PTRACE.
		{"--preset", "compat", "--userns", "host", "--security-opt", "landlock=off"},
	} {
		each(t, flags, func(t *testing.T, flags []string) {
			t.Parallel()
			p, name := watching(t, flags, identity(t, bench.brig))
			for i := range 60 {
				args := []string{"exec"}
				if i%2 == 1 {
					args = append(args, "-w", "/tmp")
				}
				if r := brig(t, append(args, name, "/attack", "ids")...); r.code != 0 {
					t.Fatalf("%+v; the watcher: %+v", r, p.end())
				}
			}
			word, reason := p.end().verdict()
			if word != "HELD" {
				t.Errorf("%s: %s", word, reason)
			}
			t.Log(reason)
			if strings.HasSuffix(reason, ", 0 while they were entering") {
				t.Logf("no process was seen while it was entering")
			}
		})
	}
	t.Run("control", func(t *testing.T) {
		t.Parallel()
		// A program of the sandbox's own stands for the runtime: once it is executed, nothing hides it.
		p, name := watching(t, slices.Concat(noLandlock, noModule), identity(t, filepath.Join(bench.rootfs, "bin/busybox")))
		brig(t, "exec", name, "/bin/busybox", "sleep", "10") // ends with the sandbox
		word, reason := p.end().verdict()
		if word == "HELD" {
			word = "absent"
		}
		testenv.Outcome(t, "ESCAPED", word, reason)
	})
}

// watching starts a sandbox whose first process watches.
func watching(t *testing.T, flags []string, want string) (*process, string) {
	t.Helper()
	name := "watch-" + random()
	c := brigCommand(t.Context(), runArgs(views()[0], append([]string{"-i", "--name", name}, flags...), "watch", want)...)
	p, err := start(c)
	if err != nil {
		t.Fatal(err)
	}
	return p, name
}
