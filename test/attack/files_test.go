package attack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"brig/internal/testenv"

	"golang.org/x/sys/unix"
)

// raidGVisor builds brig-gvisor with a kernel that a guest got hold of, which speaks the file server's protocol (gvisor/attack.go).
func raidGVisor(to string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-tags", "attack", "-o", to, ".")
	cmd.Dir = "../../gvisor"
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("build the kernel that attacks: %w: %s", err, out)
	}
	return nil
}

// shares are the volumes of a sandbox, each a folder of the host's, beside a canary that is in none of them.
type shares struct{ dir, readOnly, volume, other string }

func newShares(t *testing.T) *shares {
	t.Helper()
	dir := t.TempDir()
	if err := testenv.Share(dir); err != nil {
		t.Fatal(err)
	}
	s := &shares{dir, filepath.Join(dir, "read-only"), filepath.Join(dir, "volume"), filepath.Join(dir, "other")}
	for _, d := range []string{s.readOnly, s.volume, s.other, filepath.Join(s.volume, "folder"), filepath.Join(s.volume, "swapped"), filepath.Join(dir, "outside")} {
		if err := os.Mkdir(d, 0o755); err != nil { //nolint:gosec // volumes
			t.Fatal(err)
		}
	}
	for _, f := range []string{s.readOnly + "/file", s.volume + "/file", s.other + "/file", dir + "/canary", dir + "/outside/canary"} {
		if err := os.WriteFile(f, []byte("of the host\n"), 0o644); err != nil { //nolint:gosec // to be found
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{
		"to-canary": filepath.Join(dir, "canary"), "to-root": "/", "to-parent": "..", "to-proc": "/proc/self/root", "swap": filepath.Join(dir, "outside"),
	} {
		if err := os.Symlink(to, filepath.Join(s.volume, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(s.volume+"/private", []byte("of another\n"), 0o600), os.Chown(s.volume+"/private", 1000, 1000)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(s.volume, "pipe"), 0o666); err != nil {
		t.Fatal(err)
	}
	return s
}

// outside is what the host has beside the writable volumes, as far as somebody could have changed it.
func (s *shares) outside(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, dir := range []string{s.readOnly, filepath.Join(s.dir, "outside"), filepath.Join(s.dir, "canary")} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			var st unix.Stat_t
			if err := unix.Lstat(path, &st); err != nil {
				return err
			}
			fmt.Fprintln(&b, path, st.Mode, st.Nlink, st.Uid, st.Size, st.Mtim, st.Ctim)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// raids are those of gvisor/attack.go, and the presets that grant what they take.
var raids = map[string][]string{
	"read-only": nil, "names": nil, "links": nil, "nodes": nil, "modes": {"compat"}, "owners": nil, "sockets": nil, "numbers": nil, "race": nil,
	"procfs": nil, "messages": nil, "control": nil,
	"others": {"default", "compat"}, // the file server's capabilities hold for a volume of root's as it is
}

// TestRaidOnFiles has a guest that got hold of gVisor's kernel process ask the file server, by raw messages, for what no guest may have of
// the volumes, and look from there for what lies beside them.
func TestRaidOnFiles(t *testing.T) {
	t.Parallel()
	need(t)
	testenv.Check(t, testenv.Program("go"))
	dir := filepath.Join(bench.dir, "raid-"+random())
	if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // programs
		t.Fatal(err)
	}
	if err := copyFile(bench.brig, filepath.Join(dir, "brig")); err != nil {
		t.Fatal(err)
	}
	if err := raidGVisor(filepath.Join(dir, "brig-gvisor")); err != nil {
		t.Fatal(err)
	}
	for _, preset := range []string{"default", "compat"} {
		for name, granted := range raids {
			t.Run(preset+"/"+name, func(t *testing.T) {
				t.Parallel()
				s := newShares(t)
				l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(s.volume, "socket")})
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				if err := os.Chmod(filepath.Join(s.volume, "socket"), 0o777); err != nil { //nolint:gosec // for everybody
					t.Fatal(err)
				}
				before := s.outside(t)
				stop := s.swap()
				word, reason := s.raid(t, filepath.Join(dir, "brig"), preset, name).verdict()
				stop()
				count("raid on files", word)
				want := "HELD"
				if slices.Contains(granted, preset) {
					want = "ESCAPED"
				}
				if name == "control" {
					want = "ESCAPED"
					if reason != "create, link, chmod, rename, read-only, race" {
						t.Errorf("of what may be done %s", reason)
					}
				}
				if word != want {
					t.Errorf("%s: %s", word, reason)
				}
				if after := s.outside(t); after != before {
					t.Errorf("what is outside of the volumes was\n%s and is\n%s", before, after)
				}
				s.look(t, want == "HELD")
			})
		}
	}
}

func (s *shares) raid(t *testing.T, brig, preset, name string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return finish(command(ctx, brig, "--root", bench.state, "run", "-e", bench.mark, "--isolation", "gvisor", "--preset", preset, "--rootfs", bench.rootfs,
		"--allow-missing=landlock-truncate", "-v", s.readOnly+":/read-only:ro", "-v", s.volume+":/volume", "-v", s.other+":/other", "--", "/attack", name))
}

// swap exchanges a folder of the volume with a link to one outside, until the function it gives is called.
func (s *shares) swap() (stop func()) {
	done := make(chan struct{})
	var swapping sync.WaitGroup
	swapping.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, s.volume+"/swapped", unix.AT_FDCWD, s.volume+"/swap", unix.RENAME_EXCHANGE)
			}
		}
	})
	return func() {
		close(done)
		swapping.Wait()
	}
}

// look goes through what the raid has left in the writable volumes: no devices, and no file by which others get ids.
func (s *shares) look(t *testing.T, plain bool) {
	t.Helper()
	for _, dir := range []string{s.volume, s.other} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			var st unix.Stat_t
			if err := unix.Lstat(path, &st); err != nil {
				return err
			}
			kind, ids := st.Mode&unix.S_IFMT, st.Mode&(unix.S_ISUID|unix.S_ISGID)
			if kind == unix.S_IFBLK || kind == unix.S_IFCHR || plain && kind == unix.S_IFREG && ids != 0 {
				t.Errorf("%s was left, with mode %o", path, st.Mode)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}
