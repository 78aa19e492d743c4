package policy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxID is the largest user or group id: 2³²−1 means "none" to the kernel.
const maxID = 1<<32 - 2

// user turns UID[:GID] or NAME[:GROUP] into numbers. Names are looked up as data in the root file system's passwd and
// group; nothing of it is executed. A number is always a number (crun's CVE-2026-30892 and CVE-2024-40635 were about
// numbers read loosely).
func (p *Policy) user(h *Host) (specs.User, error) {
	var u specs.User
	text := p.User
	if text == "" && p.Image != "" && h.Image != nil {
		if text = h.Image.User; text == "" {
			text = "0" // root, with the groups that the image gives it
		}
	}
	if text == "" {
		return u, nil
	}
	name, group, hasGroup := strings.Cut(text, ":")
	uid, isNumber, err := number(name)
	if err != nil {
		return u, bad("user", "%v", err)
	}
	u.UID = uid
	entry, found := p.entry(h, "/etc/passwd", func(f []string) bool {
		return len(f) >= 4 && (isNumber && f[2] == name || !isNumber && f[0] == name)
	})
	switch {
	case found:
		if u.UID, err = recorded(entry[2], "/etc/passwd"); err != nil {
			return u, err
		}
		if u.GID, err = recorded(entry[3], "/etc/passwd"); err != nil {
			return u, err
		}
		name = entry[0]
	case !isNumber:
		return u, bad("user", "%q is not in the root file system's /etc/passwd; give a number", name)
	}
	if hasGroup {
		gid, isNumber, err := number(group)
		if err != nil {
			return u, bad("user", "%v", err)
		}
		u.GID = gid
		if !isNumber {
			entry, found := p.entry(h, "/etc/group", func(f []string) bool { return len(f) >= 3 && f[0] == group })
			if !found {
				return u, bad("user", "group %q is not in the root file system's /etc/group; give a number", group)
			}
			if u.GID, err = recorded(entry[2], "/etc/group"); err != nil {
				return u, err
			}
		}
	} else if found && h.EUID == 0 {
		u.AdditionalGids, err = p.memberships(h, name, u.GID)
	}
	return u, err
}

// maxGroups is the kernel's limit (NGROUPS_MAX of linux/limits.h).
const maxGroups = 65536

// memberships are the further groups of a user by the root file system's /etc/group, as Docker gives them to one for whom no group is
// named. A user outside who is not root can give a sandbox none: setgroups(2) is not theirs.
func (p *Policy) memberships(h *Host, name string, own uint32) (gids []uint32, err error) {
	p.entry(h, "/etc/group", func(f []string) bool {
		if len(f) < 4 || err != nil || !slices.Contains(strings.Split(f[3], ","), name) {
			return false
		}
		var gid uint32
		if gid, err = recorded(f[2], "/etc/group"); err == nil && gid != own && !slices.Contains(gids, gid) {
			gids = append(gids, gid)
		}
		return false
	})
	if len(gids) > maxGroups {
		return nil, bad("user", "the root file system's /etc/group has %d groups for %s; the kernel takes %d", len(gids), name, maxGroups)
	}
	if len(gids) > 0 {
		gids = append([]uint32{own}, gids...) // a program that takes another group on is to keep this one (moby's CVE-2022-36109)
	}
	return gids, err
}

// recorded reads an id of a passwd or group file. A word there is an error: the image wrote it, and 0 would be root.
func recorded(text, file string) (uint32, error) {
	id, isNumber, err := number(text)
	if err != nil || !isNumber {
		return 0, bad("user", "the root file system's %s has %q where an id belongs; give numbers, as in 1000:1000", file, text)
	}
	return id, nil
}

// number reads an id if text is one. Digits that are no valid id are an error, never a name.
func number(text string) (id uint32, isNumber bool, err error) {
	if text == "" {
		return 0, false, errors.New("a user or group is empty; write UID, UID:GID or NAME:GROUP")
	}
	if strings.Trim(text, "0123456789") != "" {
		if text[0] == '-' || text[0] == '+' {
			return 0, false, errNoID(text)
		}
		return 0, false, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n > maxID {
		return 0, true, errNoID(text)
	}
	return uint32(n), true, nil
}

func errNoID(text string) error {
	return fmt.Errorf("%q is no id; write a number from 0 to %d", text, uint32(maxID))
}

// entry finds a line of passwd(5) or group(5) in the root file system.
func (p *Policy) entry(h *Host, file string, match func([]string) bool) ([]string, bool) {
	data := []byte(generatedFiles(p.Hostname)[file])
	root, err := p.rootFolder(h)
	if err == nil && root != "" {
		data, err = h.ReadInRoot(root, file)
	}
	if err != nil {
		return nil, false
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Split(strings.TrimRight(line, "\r\n"), ":")
		if match(f) {
			return f, true
		}
	}
	return nil, false
}

// User reads UID[:GID] or NAME[:GROUP] for a sandbox whose root is the folder root, or the host's programs when it is empty.
func User(h *Host, root, text string) (specs.User, error) {
	p := &Policy{User: text}
	if root != "" {
		p.Root = &Root{Path: root}
	}
	return p.user(h)
}
