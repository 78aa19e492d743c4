package idmap

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Maps are a sandbox's id maps and the way they can be written.
type Maps struct {
	UID []specs.LinuxIDMapping
	GID []specs.LinuxIDMapping
	// Helpers says that newuidmap and newgidmap must write them, for the caller may not.
	Helpers bool
	// Reduced says why there is one id only; empty when there are more.
	Reduced string
}

// OneID maps root inside to the caller, and nothing else: all that the kernel allows an unprivileged user without
// helpers (user_namespaces(7)). Files of other owners show as nobody's, and no other user can be had inside.
func OneID(euid, egid int) Maps {
	return Maps{
		UID: []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(euid), Size: 1}},
		GID: []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(egid), Size: 1}},
	}
}

// User is who runs Brig.
type User struct {
	Name       string // may be empty when unknown; ranges are then found by number
	EUID, EGID int
}

// Rootless gives the best maps that an unprivileged user can have: root inside is the user, and 1 upwards is the user's first range of
// /etc/subuid and /etc/subgid, where those and the setuid helpers exist. Else one id, and why.
func Rootless(u User) Maps { return rootlessAt("/etc", u, helperPath) }

// Helpers says which of the setuid helpers is missing and how to get it; nil when both are there.
func Helpers() error { return helpersBy(helperPath) }

func helpersBy(find func(string) (string, error)) error {
	for _, name := range []string{"newuidmap", "newgidmap"} {
		if _, err := find(name); err != nil {
			return err
		}
	}
	return nil
}

func rootlessAt(etc string, u User, find func(string) (string, error)) Maps {
	one := OneID(u.EUID, u.EGID)
	if err := helpersBy(find); err != nil {
		one.Reduced = err.Error()
		return one
	}
	uids, err := subIDs(filepath.Join(etc, "subuid"), u)
	if err != nil {
		one.Reduced = err.Error()
		return one
	}
	gids, err := subIDs(filepath.Join(etc, "subgid"), u)
	if err != nil {
		one.Reduced = err.Error()
		return one
	}
	return Maps{
		UID:     append(one.UID, specs.LinuxIDMapping{ContainerID: 1, HostID: uint32(uids.first), Size: size(uids)}),
		GID:     append(one.GID, specs.LinuxIDMapping{ContainerID: 1, HostID: uint32(gids.first), Size: size(gids)}),
		Helpers: true,
	}
}

func size(s span) uint32 { return uint32(min(s.count, Size)) }

// subIDs is the user's first range; a name is preferred to a number, as newuidmap does.
func subIDs(path string, u User) (span, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return span{}, fmt.Errorf("no range of ids for this user: %w", err)
	}
	number := strconv.Itoa(u.EUID)
	for line := range strings.Lines(string(text)) {
		owner, r, ok := subIDLine(line)
		if ok && (owner == u.Name && u.Name != "" || owner == number) && r.first+r.count <= 1<<32-1 {
			return r, nil
		}
	}
	return span{}, fmt.Errorf("%s has no range for this user: root can add one with usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s", path, u.Name)
}

// helperDirs are where distributions install setuid programs. PATH is not asked: it may be anybody's.
var helperDirs = []string{"/usr/bin", "/bin", "/usr/local/bin", "/run/wrappers/bin"}

func helperPath(name string) (string, error) {
	for _, dir := range helperDirs {
		path := filepath.Join(dir, name)
		if unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed: install the package uidmap (Debian) or shadow-utils", name)
}
