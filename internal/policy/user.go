package policy

import (
	"errors"
	"fmt"
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
	if p.User == "" {
		return u, nil
	}
	name, group, hasGroup := strings.Cut(p.User, ":")
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
	}
	return u, nil
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
	if p.Root != nil && p.Root.Path != "" {
		var err error
		if data, err = h.ReadInRoot(absolute(p.Root.Path, h.Cwd), file); err != nil {
			return nil, false
		}
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
