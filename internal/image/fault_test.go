//go:build faults

package image

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"brig/internal/testenv"
)

// TestMain is the process that is killed, too: with BRIG_TEST_DO it does that to the store BRIG_TEST_STORE.
func TestMain(m *testing.M) {
	do := os.Getenv("BRIG_TEST_DO")
	if do == "" {
		os.Exit(m.Run())
	}
	s, err := Open(os.Getenv("BRIG_TEST_STORE"))
	if err == nil {
		err = deeds[do](s)
	}
	switch {
	case err == nil:
		os.Exit(0)
	case errors.Is(err, ErrNotHere):
		os.Exit(notHere)
	}
	fmt.Fprintln(os.Stderr, do+":", err)
	os.Exit(1)
}

// notHere is the exit code for an image that is not in the store.
const notHere = 3

// deeds are what a process may be killed at.
var deeds = map[string]func(*Store) error{
	"pull":  pullApp,
	"use":   useImage,
	"rm":    func(s *Store) error { r, _ := ParseRef(app); _, err := s.Remove(r); return err },
	"prune": func(s *Store) error { _, err := s.Prune(false); return err },
	"all":   func(s *Store) error { _, err := s.Prune(true); return err },
	"check": checkAll,
}

// process does one deed in a process of its own, which is killed at the point of that number.
func process(t *testing.T, dir, do string, point int) (code int, killed bool, told string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "BRIG_TEST_DO="+do, "BRIG_TEST_STORE="+dir)
	if point > 0 {
		cmd.Env = append(cmd.Env, "BRIG_FAULT="+strconv.Itoa(point))
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), strings.Contains(cmd.ProcessState.String(), "killed"), out.String()
}

func do(t *testing.T, dir string, deeds ...string) {
	t.Helper()
	for _, d := range deeds {
		if code, _, told := process(t, dir, d, 0); code != 0 {
			t.Errorf("%s: exit code %d: %s", d, code, told)
		}
	}
}

// TestKilled kills a process at every point of what it does to a store, and proves that nothing half-made is seen, that the next one does
// the work, and that nothing is left.
func TestKilled(t *testing.T) {
	testenv.Check(t, testenv.Root)
	for _, c := range []struct {
		name   string
		before []string
		deed   string
		damage func(*Store) string
	}{
		{name: "pull", deed: "pull"},
		{name: "pull again", before: []string{"pull", "use"}, deed: "pull"},
		{name: "use", before: []string{"pull"}, deed: "use"},
		{name: "rm", before: []string{"pull", "use"}, deed: "rm"},
		{name: "prune", before: []string{"pull", "use"}, deed: "prune"},
		{name: "prune all", before: []string{"pull", "use"}, deed: "all"},
		{name: "mend", before: []string{"pull", "use"}, deed: "pull", damage: imageOf},
		{name: "verify", before: []string{"pull", "use"}, deed: "check", damage: imageOf},
		{name: "verify a name", before: []string{"pull", "use"}, deed: "check", damage: func(s *Store) string { return s.refPath(app) }},
		{name: "touched", before: []string{"pull"}, deed: "use", damage: imageOf},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for n := 1; ; n++ {
				s, err := Open(t.TempDir())
				if err != nil {
					t.Fatal(err)
				}
				do(t, s.dir, c.before...)
				if c.damage != nil {
					change := flip(100)
					if c.name == "touched" { // the same content, and another time
						change = func(path string) error { return os.Chmod(path, 0o600) }
					}
					if err := change(c.damage(s)); err != nil {
						t.Fatal(err)
					}
				}
				_, killed, _ := process(t, s.dir, c.deed, n)
				afterKill(t, s, c.damage != nil && c.name != "touched")
				if !killed {
					if n == 1 {
						t.Error("it passed no point")
					}
					t.Logf("%d points", n-1)
					return
				}
				if t.Failed() {
					t.Fatalf("after the kill at point %d", n)
				}
			}
		})
	}
}

func imageOf(s *Store) string {
	list, err := filepath.Glob(s.path("roots", "*.erofs"))
	if err != nil || len(list) != 1 {
		panic(fmt.Sprint(list, err))
	}
	return list[0]
}

func afterKill(t *testing.T, s *Store, damaged bool) {
	t.Helper()
	if !damaged {
		if code, _, told := process(t, s.dir, "use", 0); code != 0 && code != notHere {
			t.Errorf("something half-made is seen: %s", told)
		}
		do(t, s.dir, "check")
	}
	do(t, s.dir, "pull", "use", "check", "rm", "prune")
	nothingLeft(t, s)
}

// nothingLeft demands that a store is as empty as it was when it was made.
func nothingLeft(t *testing.T, s *Store) {
	t.Helper()
	for _, dir := range []string{"blobs/sha256", "refs", "attached", "roots", "tmp", "locks"} {
		files, err := os.ReadDir(s.path(dir))
		if err != nil {
			t.Error(err)
		}
		for _, f := range files {
			if dir != "locks" || f.Name() != "store" && f.Name() != "refs" {
				t.Errorf("left: %s/%s", dir, f.Name())
			}
		}
	}
	if exists(s.mounts) {
		t.Errorf("left: %s", s.mounts)
	}
}

// TestCrowd has 20 processes at once do all that can be done to one store, and kills a third of them somewhere.
func TestCrowd(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Root)
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"pull", "pull", "pull", "use", "use", "use", "use", "rm", "prune", "all", "check"}
	seed := uint64(time.Now().UnixNano()) //nolint:gosec // any number
	t.Logf("seed %d", seed)
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(i))) //nolint:gosec // a test
			for range 15 {
				name, point := names[r.IntN(len(names))], 0
				if r.IntN(3) == 0 {
					point = 1 + r.IntN(20)
				}
				code, killed, told := process(t, s.dir, name, point)
				if !killed && code != 0 && code != notHere {
					t.Errorf("%s: %s", name, told)
				}
			}
		})
	}
	all.Wait()
	afterKill(t, s, false)
}
