package sandbox

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"brig/internal/fault"
	"brig/internal/idmap"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Store is the folder of all sandboxes of one user. Any number of processes use it at once.
type Store struct {
	root string
	// keys is where the key of checkpoints lies, "" for root: it outlives the machine's next start where the state does not.
	keys string
}

// Open opens the store and makes it when it is missing. An empty root means /run/brig for root, and
// $XDG_RUNTIME_DIR/brig for others.
func Open(root string) (*Store, error) {
	if root == "" {
		root = defaultRoot()
	}
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("find the state folder: %w", err)
	}
	s := &Store{root: root}
	if root == defaultRoot() {
		s.keys = defaultKeys()
	}
	for _, dir := range []string{root, s.path("sandboxes"), s.path("names")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make the state folder: %w", err)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(root, &st); err != nil {
		return nil, fmt.Errorf("look at the state folder %s: %w", root, err)
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return nil, fmt.Errorf("the state folder %s belongs to user %d with mode %#o; it must be yours and writable by you alone", root, st.Uid, st.Mode&0o777)
	}
	return s, nil
}

const systemRoot = "/run/brig"

func defaultRoot() string {
	if os.Geteuid() == 0 {
		return systemRoot
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "brig")
	}
	return fmt.Sprintf("/tmp/brig-%d", os.Geteuid())
}

func (s *Store) path(parts ...string) string {
	return filepath.Join(append([]string{s.root}, parts...)...)
}

// Sandbox is one sandbox of a store.
type Sandbox struct {
	ID string

	store *Store
	dir   string
}

func (s *Store) sandbox(id string) *Sandbox {
	return &Sandbox{ID: id, store: s, dir: s.path("sandboxes", id)}
}

// newPrefix begins the name of a folder that is not a sandbox yet: it is renamed when its lock is held.
const newPrefix = ".new-"

// create makes the folder of a new sandbox with its lock held and its name taken.
func (s *Store) create(id string, req *Request) (*Sandbox, *os.File, error) {
	b := s.sandbox(id)
	making, err := s.lockMaking(unix.LOCK_SH)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = making.Close() }()
	fresh := s.path("sandboxes", newPrefix+b.ID)
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return nil, nil, fmt.Errorf("make the sandbox's folder: %w", err)
	}
	fault.Point("folder made")
	lock, err := createLock(fresh)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make the sandbox's folder: %w", err), os.RemoveAll(fresh))
	}
	fault.Point("folder locked")
	if err := os.Rename(fresh, b.dir); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make the sandbox's folder: %w", err), os.RemoveAll(fresh), lock.Close())
	}
	fault.Point("folder named")
	if err := b.takeName(req.Name); err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(b.dir), lock.Close())
	}
	fault.Point("name taken")
	return b, lock, nil
}

// lockMaking takes the store's lock on folders in the making: shared to make one, alone to remove what a killed maker
// left.
func (s *Store) lockMaking(how int) (*os.File, error) {
	f, err := os.OpenFile(s.path("making"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the state folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil { //nolint:gosec // a file descriptor
		return nil, errors.Join(fmt.Errorf("lock the state folder: %w", err), f.Close())
	}
	return f, nil
}

func newID() string {
	var b [6]byte
	// Twelve digits of the kernel's: never fewer, never interrupted (getrandom(2)). crypto/rand would cost the start 50 µs.
	_, _ = unix.Getrandom(b[:], 0)
	return hex.EncodeToString(b[:])
}

// CheckName refuses names that are no single plain word.
func CheckName(name string) error {
	ok := len(name) <= 128 && name != ""
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		ok = ok && (letter || i > 0 && strings.ContainsRune("_.-", r))
	}
	if !ok {
		return fmt.Errorf("the name %q is not valid: up to 128 letters, digits, '_', '.' and '-', the first a letter or digit", name)
	}
	return nil
}

// takeName claims a name: a symlink to the id, which only one can make.
func (b *Sandbox) takeName(name string) error {
	if name == "" {
		return nil
	}
	if err := CheckName(name); err != nil {
		return err
	}
	link := b.store.path("names", name)
	for range 2 {
		err := os.Symlink(b.ID, link)
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		owner, err := os.Readlink(link)
		if err != nil {
			continue
		}
		if _, err := os.Stat(b.store.path("sandboxes", owner)); err == nil {
			return &NameInUseError{name, owner}
		}
		_ = os.Remove(link) // of a sandbox that is gone
	}
	return &NameInUseError{name, "another"}
}

// save writes the state: a temporary file, renamed. It is not synced: what it describes does not outlive the machine, and
// a file that a power cut left empty is swept like that of any killed supervisor.
func (b *Sandbox) save(st *State) error { return b.write("state.json", st) }

func (b *Sandbox) write(name string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s of sandbox %s: %w", name, b.ID, err)
	}
	tmp := filepath.Join(b.dir, "."+name)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		_, err = f.Write(text)
		err = errors.Join(err, f.Close())
	}
	if err == nil {
		err = os.Rename(tmp, filepath.Join(b.dir, name))
	}
	if err != nil {
		return fmt.Errorf("write %s of sandbox %s: %w", name, b.ID, err)
	}
	return nil
}

func (b *Sandbox) read(name string, v any) error {
	text, err := os.ReadFile(filepath.Join(b.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", b.ID, ErrNotFound)
	}
	if err == nil {
		err = json.Unmarshal(text, v)
	}
	if err != nil {
		return fmt.Errorf("read %s of sandbox %s: %w", name, b.ID, err)
	}
	return nil
}

// stateTimeout bounds how long State waits for a sandbox that is being started.
const stateTimeout = 2 * time.Second

// supervised says whether a sandbox has a supervisor.
func (b *Sandbox) supervised() bool {
	lock, err := os.OpenFile(filepath.Join(b.dir, lockFile), os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer func() { _ = lock.Close() }()
	free, err := tryLock(lock)
	return err == nil && !free
}

// State reads the state, with what only the kernel knows: whether the sandbox is paused.
func (b *Sandbox) State() (*State, error) {
	var st State
	err := b.read("state.json", &st)
	young := func() bool { return errors.Is(err, ErrNotFound) || err == nil && st.Status == Ready && !b.offered() }
	for deadline := time.Now().Add(stateTimeout); young() && time.Now().Before(deadline) && b.supervised(); {
		time.Sleep(2 * time.Millisecond) // it is so young that it is not written down yet
		err = b.read("state.json", &st)
	}
	if err != nil {
		return nil, err
	}
	if st.Status == Running && len(st.Cgroups) > 0 {
		if frozen, err := b.group(&st).Frozen(); err == nil && frozen {
			st.Status = Paused
		}
	}
	return &st, nil
}

// Spec reads the spec that the sandbox was started with.
func (b *Sandbox) Spec() (*specs.Spec, error) {
	var spec specs.Spec
	if err := b.read("config.json", &spec); err != nil {
		return nil, err
	}
	return &spec, nil
}

// List gives the state of every sandbox that has a program, the oldest first. What killed supervisors left is cleared before.
func (s *Store) List() ([]*State, error) {
	return s.list(func(st *State) bool { return st.Status != Ready })
}

// Waiting gives the sandboxes that are kept warm and have no program yet.
func (s *Store) Waiting() ([]*State, error) {
	return s.list(func(st *State) bool { return st.Status == Ready })
}

func (s *Store) list(wanted func(*State) bool) ([]*State, error) {
	if err := s.Sweep(); err != nil {
		return nil, err
	}
	ids, err := s.ids()
	if err != nil {
		return nil, err
	}
	var list []*State
	for _, id := range ids {
		st, err := s.sandbox(id).State()
		if errors.Is(err, ErrNotFound) {
			continue // it has just ended, or is just being made
		}
		if err != nil {
			return nil, err
		}
		if wanted(st) {
			list = append(list, st)
		}
	}
	slices.SortFunc(list, func(a, b *State) int { return a.Created.Compare(b.Created) })
	return list, nil
}

func (s *Store) ids() ([]string, error) {
	entries, err := os.ReadDir(s.path("sandboxes"))
	if err != nil {
		return nil, fmt.Errorf("list the sandboxes: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// Find finds a sandbox by its name, its id, or the beginning of its id.
func (s *Store) Find(ref string) (*Sandbox, error) {
	if err := s.Sweep(); err != nil {
		return nil, err
	}
	if CheckName(ref) != nil {
		return nil, fmt.Errorf("%q: %w", ref, ErrNotFound)
	}
	if id, err := os.Readlink(s.path("names", ref)); err == nil {
		if _, err := os.Stat(s.path("sandboxes", id)); err == nil {
			return s.sandbox(id), nil
		}
	}
	ids, err := s.ids()
	if err != nil {
		return nil, err
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return !strings.HasPrefix(id, ref) })
	switch len(ids) {
	case 0:
		return nil, fmt.Errorf("%q: %w", ref, ErrNotFound)
	case 1:
		return s.sandbox(ids[0]), nil
	}
	return nil, &AmbiguousError{ref, ids}
}

// Sweep clears what killed supervisors left behind: processes, cgroups, id ranges, names, folders. It is cheap when
// there is nothing to clear: two system calls a sandbox.
func (s *Store) Sweep() error {
	entries, err := os.ReadDir(s.path("sandboxes"))
	if err != nil {
		return fmt.Errorf("list the sandboxes: %w", err)
	}
	var found bool
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), newPrefix) {
			found = true
			if err := s.sweepNew(e.Name()); err != nil {
				return err
			}
			continue
		}
		if !e.IsDir() {
			continue // nothing of ours
		}
		orphan, err := s.sandbox(e.Name()).sweep()
		if err != nil {
			return err
		}
		found = found || orphan
	}
	if !found {
		return nil
	}
	_, err = idmap.Sweep(idmap.MachineDir, func(folder string) bool {
		_, err := os.Lstat(folder)
		return !errors.Is(err, fs.ErrNotExist) // any doubt leaves the range taken
	})
	return errors.Join(err, s.sweepNames(), s.sweepWarm())
}

// nameOf gives the name of a sandbox that has not written it down: its maker was killed. While the folder's lock is held nobody makes
// one. sweepNames would miss it where that process is not quite gone, and nothing is left then by which a later sweep would look again.
func (s *Store) nameOf(id string) string {
	names, _ := os.ReadDir(s.path("names"))
	for _, n := range names {
		if owner, err := os.Readlink(s.path("names", n.Name())); err == nil && owner == id {
			return n.Name()
		}
	}
	return ""
}

// sweepNames removes names whose sandbox is gone. Nobody takes one meanwhile: takers hold the lock on the making.
func (s *Store) sweepNames() error {
	alone, making, err := s.tryMaking()
	if err != nil || !alone {
		return err
	}
	defer func() { _ = making.Close() }()
	names, err := os.ReadDir(s.path("names"))
	if err != nil {
		return err
	}
	for _, n := range names {
		id, err := os.Readlink(s.path("names", n.Name()))
		if err != nil {
			continue
		}
		if _, err := os.Lstat(s.path("sandboxes", id)); errors.Is(err, fs.ErrNotExist) {
			if err := os.Remove(s.path("names", n.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// tryMaking takes the lock on folders in the making alone, unless somebody is at it.
func (s *Store) tryMaking() (alone bool, making *os.File, err error) {
	making, err = os.OpenFile(s.path("making"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return false, nil, err
	}
	if unix.Flock(int(making.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil { //nolint:gosec // a file descriptor
		return false, nil, making.Close()
	}
	return true, making, nil
}

// sweepNew removes a folder in the making whose maker was killed.
func (s *Store) sweepNew(name string) error {
	alone, making, err := s.tryMaking()
	if err != nil || !alone {
		return err
	}
	defer func() { _ = making.Close() }()
	return os.RemoveAll(s.path("sandboxes", name))
}

// sweep clears the sandbox if its supervisor was killed. A detached sandbox stays in the list, as lost.
func (b *Sandbox) sweep() (bool, error) {
	lock, err := os.OpenFile(filepath.Join(b.dir, lockFile), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		// It is just being removed, or its remover was killed before its last call: the lock goes last but one.
		_ = os.Remove(b.dir)
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at sandbox %s: %w", b.ID, err)
	}
	defer func() { _ = lock.Close() }()
	free, err := tryLock(lock)
	if err != nil {
		return false, err
	}
	if !free {
		return false, b.sweepCheckpoint()
	}
	return b.sweepLocked()
}

// sweepLocked is sweep for a sandbox that has no supervisor, and gets none: the lock is the caller's.
func (b *Sandbox) sweepLocked() (bool, error) {
	var st State
	err := b.read("state.json", &st)
	if err == nil && st.Status == Stopped {
		if st.Detached && !st.Remove {
			return false, nil
		}
		return true, b.removeFolder(st.Name) // killed between the end and the removal
	}
	// No state, or an unreadable one: it was killed before, or while, the first was written.
	if err != nil {
		st.Name = b.store.nameOf(b.ID)
	}
	if err := b.clear(context.Background(), &st); err != nil {
		return true, err
	}
	if !st.Detached || st.Remove || err != nil {
		return true, b.removeFolder(st.Name)
	}
	st.Status, st.IDs, st.Categories, st.Cgroups, st.PID = Stopped, nil, nil, nil, 0
	st.Result = &Result{ExitCode: 137, Cause: Lost, Message: "its monitor was killed, and the sandbox with it"}
	return true, b.save(&st)
}

// undo removes what a monitor made that was killed before it could answer: nobody knows of it. The monitor itself is gone, but a process
// that it was just starting may need a moment to end, and has the lock until then.
func (b *Sandbox) undo() error {
	lock, err := os.OpenFile(filepath.Join(b.dir, lockFile), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it had made nothing, or somebody else has swept it
	}
	if err != nil {
		return fmt.Errorf("look at sandbox %s: %w", b.ID, err)
	}
	defer func() { _ = lock.Close() }()
	for deadline := time.Now().Add(cleanTimeout); ; time.Sleep(2 * time.Millisecond) {
		free, err := tryLock(lock)
		if free {
			break
		}
		if err != nil || time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("clear up sandbox %s: a process of it has not ended", b.ID), err)
		}
	}
	// Written down first, as in Remove: should this process be killed, too, a sandbox would stay in the list, and without its name.
	var st State
	if err := b.read("state.json", &st); err == nil {
		st.Remove = true
		if err := b.save(&st); err != nil {
			return err
		}
	}
	fault.Point("removal recorded")
	_, err = b.sweepLocked()
	return err
}

// removeFolder removes the name and the folder, and of the folder the lock last: what a killed remover leaves is then
// found by sweep.
func (b *Sandbox) removeFolder(name string) error {
	if name != "" {
		link := b.store.path("names", name)
		if owner, err := os.Readlink(link); err == nil && owner == b.ID {
			if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	fault.Point("name removed")
	entries, err := os.ReadDir(b.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove sandbox %s: %w", b.ID, err)
	}
	for _, e := range entries {
		if e.Name() != lockFile {
			err = errors.Join(err, os.RemoveAll(filepath.Join(b.dir, e.Name())))
		}
	}
	fault.Point("files removed")
	if err == nil {
		err = os.RemoveAll(filepath.Join(b.dir, lockFile))
		fault.Point("lock removed")
		err = errors.Join(err, os.RemoveAll(b.dir))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove sandbox %s: %w", b.ID, err)
	}
	return nil
}
