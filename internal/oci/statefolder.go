package oci

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// checkStateFolder refuses a folder of containers' states that somebody else could write to: a state names hooks, processes and
// cgroups that this program acts on with its own rights. The default one of a user is in /tmp, where anybody may be first.
func checkStateFolder(name string) error {
	for _, look := range []func(string) (fs.FileInfo, error){os.Lstat, os.Stat} { // a link, and what it leads to
		info, err := look(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look at the state folder: %w", err)
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			continue
		}
		uid, gid, mode := int(st.Uid), int(st.Gid), info.Mode()
		link := mode&fs.ModeSymlink != 0
		if uid != 0 && uid != os.Geteuid() || !link && (mode.Perm()&0o002 != 0 || mode.Perm()&0o020 != 0 && gid != 0 && gid != os.Getegid()) {
			return fmt.Errorf("the state folder %s (owner %d, mode %v) is one that others can write to, and so decide what is done with containers; "+
				"remove it, or name another by --root", name, uid, mode)
		}
	}
	return nil
}
