package sandbox

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"

	"brig/internal/isolation/gvisor"

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
	text, err := json.Marshal([]any{spec, req.Image, kernel, gvisor.FileIdentity(self), places(req), given})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16]), nil
}

// places are the folders and files that the paths of a request lead to now, by device and inode. A warm sandbox has mounted those that they led
// to when it was made, and is not for a request whose path leads to another.
func places(req *Request) (list []string) {
	var paths []string
	if req.Image == nil && req.Spec.Root != nil { // an image is named by its digest
		paths = append(paths, req.Spec.Root.Path)
	}
	for _, m := range req.Spec.Mounts {
		if m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind") {
			paths = append(paths, m.Source)
		}
	}
	for _, path := range paths {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			list = append(list, err.Error())
			continue
		}
		list = append(list, fmt.Sprintf("%d:%d", st.Dev, st.Ino))
	}
	return list
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
