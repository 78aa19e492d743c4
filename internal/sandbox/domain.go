package sandbox

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"brig/internal/isolation/gvisor"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// domain is the trust domain of a warm kernel, as a name: who asks for the same policy, image and programs of Brig's may have the
// kernel, and nobody else. All that a spec says is in it but for the words and the environment of the program, which come with
// the job. So is what a process gives to those it starts, whatever the policy says. The user is in it by the state folder, which is one user's.
func domain(req *Request) (string, error) {
	if err := warmable(req); err != nil {
		return "", err
	}
	spec, pr := *req.Spec, *req.Spec.Process
	pr.Args, pr.Env = nil, nil
	spec.Process = &pr
	kernel, err := gvisor.Identity()
	if err != nil {
		return "", err
	}
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		return "", err
	}
	given, err := standing()
	if err != nil {
		return "", err
	}
	there, err := places(req)
	if err != nil {
		return "", err
	}
	text, err := json.Marshal([]any{spec, req.Image, kernel, gvisor.FileIdentity(self), there, given})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16]), nil
}

// places are the folders and files that the paths of a request lead to now, by device and inode, and what is mounted there and below. A warm
// sandbox has mounted what was there when it was made, and is not for a request whose path leads to another, to a mount that has become
// read-only since, or to one with other mounts below it.
func places(req *Request) (list []string, err error) {
	var paths []string
	if req.Image == nil && req.Spec.Root != nil { // an image is named by its digest
		paths = append(paths, req.Spec.Root.Path)
	}
	for _, m := range req.Spec.Mounts {
		if m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind") {
			paths = append(paths, m.Source)
		}
	}
	if len(paths) == 0 {
		return nil, nil
	}
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		var st unix.Statx_t
		if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_INO|unix.STATX_MNT_ID, &st); err != nil {
			list = append(list, err.Error())
			continue
		}
		list = append(list, fmt.Sprintf("%d:%d:%d", st.Dev_major, st.Dev_minor, st.Ino))
		path, err = filepath.EvalSymlinks(path)
		if err != nil {
			return nil, err
		}
		below := strings.TrimSuffix(path, "/") + "/"
		for _, m := range mounts {
			if uint64(m.ID) == st.Mnt_id || strings.HasPrefix(m.Mountpoint, below) {
				list = append(list, fmt.Sprintf("%d:%d %q %q %s", m.Major, m.Minor, m.Root, m.Mountpoint, m.Options))
			}
		}
	}
	return list, nil
}

// warmable tells why a sandbox cannot be had on a warm kernel.
func warmable(req *Request) error {
	switch {
	case isolation(req.Spec) != "gvisor":
		return fmt.Errorf("isolation %s has no kernel to be kept warm: --isolation gvisor", isolation(req.Spec))
	case req.Spec.Process.Terminal:
		return errors.New("a terminal (-t) is made with the sandbox, and a warm one is there before")
	case len(req.PassFDs) > 0:
		return errors.New("open files (--pass-fd) come with the sandbox, and a warm one is there before")
	case req.Checkpoint != nil:
		return errors.New("a checkpoint is gone on from by a kernel of its own")
	}
	return nil
}

// sameUser tells whether the process at the other end of a connection is the caller's own user (unix(7), SO_PEERCRED).
func sameUser(fd int) error {
	c, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return fmt.Errorf("ask who is at the other end: %w", err)
	}
	if int(c.Uid) != os.Geteuid() {
		return fmt.Errorf("at the other end is user %d", c.Uid)
	}
	return nil
}
