package idmap

import (
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	// Size is how many ids a range has: all that 16 bits can say, which is what images and programs expect.
	Size = 1 << 16
	// First is the smallest id that is given away.
	First = 524288
	// Last is the largest.
	Last = 1879048191

	slots = (Last - First + 1) / Size
)

// MachineDir is where root's ranges stand: one pool for the machine, whatever makes the sandboxes, for no two of them may
// have the same host ids.
const MachineDir = "/run/brig/ids"

// Range is ids First … First+Size-1 of the host.
type Range struct {
	First uint32 `json:"first"`
	Size  uint32 `json:"size"`
}

// Mappings maps 0 … Size-1 inside to the range outside, for uids and gids alike.
func (r Range) Mappings() []specs.LinuxIDMapping {
	return []specs.LinuxIDMapping{{ContainerID: 0, HostID: r.First, Size: r.Size}}
}

// ErrExhausted says that every range is taken.
var ErrExhausted = fmt.Errorf("no host ids left: all %d ranges between %d and %d are taken; remove sandboxes, or run brig ps to clear up after crashed ones", slots, First, Last)

// Allocate takes a range for owner, who is named by what proves that it lives: the path of a sandbox's folder. dir is a folder that only the allocating user may write; it is made when
// missing. Ranges that /etc/subuid, /etc/subgid or a user of /etc/passwd overlaps are passed over.
//
// Preconditions: Sweep's alive already says yes to owner.
func Allocate(dir, owner string) (Range, error) {
	if owner == "" || strings.Contains(owner, "\x00") {
		return Range{}, fmt.Errorf("take host ids for %q: that is no name of an owner", owner)
	}
	taken, err := reserved()
	if err != nil {
		return Range{}, fmt.Errorf("take host ids: %w", err)
	}
	h := fnv.New32a()
	h.Write([]byte(owner))
	start := h.Sum32() % slots
	for i := range uint32(slots) {
		first := First + (start+i)%slots*Size
		if taken.overlaps(first, Size) {
			continue
		}
		err := takeSlot(dir, owner, first)
		if err == nil {
			return Range{First: first, Size: Size}, nil
		}
		if !errors.Is(err, unix.EEXIST) {
			return Range{}, fmt.Errorf("take host ids: %w", err)
		}
	}
	return Range{}, ErrExhausted
}

func slotName(dir string, first uint32) string {
	return filepath.Join(dir, strconv.FormatUint(uint64(first), 10))
}

func takeSlot(dir, owner string, first uint32) error {
	name := slotName(dir, first)
	err := unix.Symlink(owner, name)
	if err == unix.ENOENT {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		err = unix.Symlink(owner, name)
	}
	if err != nil {
		return &os.PathError{Op: "symlink", Path: name, Err: err}
	}
	return nil
}

// Release gives owner's range back. A range that is not owner's (any more) is left alone and is no error, so that
// releasing twice is safe.
func Release(dir, owner string, r Range) error {
	if _, err := drop(dir, owner, r.First); err != nil {
		return fmt.Errorf("give host ids back: %w", err)
	}
	return nil
}

// drop removes a slot if it is owner's, under a lock on the folder: between reading the owner and the removal, another
// process might drop the slot and a third take it.
func drop(dir, owner string, first uint32) (bool, error) {
	lock, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(lock) // which unlocks
	for {
		if err = unix.Flock(lock, unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return false, &os.PathError{Op: "lock", Path: dir, Err: err}
	}
	name := slotName(dir, first)
	now, err := os.Readlink(name)
	if errors.Is(err, os.ErrNotExist) || err == nil && now != owner {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, os.Remove(name)
}

// Sweep gives back the ranges whose owners are not alive, and says how many they were. It is for recovery after a
// crash; several at once are safe.
func Sweep(dir string, alive func(owner string) bool) (int, error) {
	ranges, err := Owners(dir)
	if err != nil {
		return 0, err
	}
	n := 0
	var errs []error
	for first, owner := range ranges {
		if alive(owner) {
			continue
		}
		dropped, err := drop(dir, owner, first)
		if err != nil {
			errs = append(errs, err)
		}
		if dropped {
			n++
		}
	}
	return n, errors.Join(errs...)
}

// Owners lists who has which range, by its first id. A missing folder has none.
func Owners(dir string) (map[uint32]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list host id ranges: %w", err)
	}
	owners := make(map[uint32]string, len(entries))
	for _, e := range entries {
		first, err := strconv.ParseUint(e.Name(), 10, 32)
		if err != nil {
			continue // not ours
		}
		if owner, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			owners[uint32(first)] = owner
		}
	}
	return owners, nil
}
