package gvisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"brig/internal/mac"
	"brig/internal/mac/selinux"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// labelName is the file in a sandbox's folder that has the SELinux label of the kernel process, where it has one of Brig's. What
// other processes make for it has their own label, which it may not use; and of a connection it gets the categories of who made it
// (selinux_socket_unix_stream_connect in security/selinux/hooks.c).
const labelName = "gvisor.label"

// label is the SELinux label that the kernel process gets from Brig, or "".
func label(spec *specs.Spec) string {
	if _, own := selinux.FileLabel(spec.Process.SelinuxLabel); own && mac.ReadHost().SELinux {
		return spec.Process.SelinuxLabel
	}
	return ""
}

// mediated tells whether a security module asks what the kernel process does with a file of the host's that it is handed, as an image: it knows
// the files of the sandbox's tree only. Then the file server serves the image's mount, which is in that tree.
func mediated(spec *specs.Spec) bool {
	profile := spec.Process.ApparmorProfile
	return label(spec) != "" || profile != "" && profile != "unconfined" && mac.ReadHost().AppArmor
}

// labelFile gives a file in memory the label of the sandbox's files.
func labelFile(spec *specs.Spec, f *os.File) error {
	if label(spec) == "" {
		return nil
	}
	return selinux.SetLabel(f, spec.Linux.MountLabel)
}

// keepLabel gives the label, and leaves it to those who will connect.
func (s *start) keepLabel() (string, error) {
	l := label(s.spec)
	if l == "" {
		return "", nil
	}
	return l, os.WriteFile(filepath.Join(s.options.Dir, labelName), []byte(l), 0o600)
}

// keptLabel gives the label of the sandbox whose folder is dir, or "".
func keptLabel(dir string) (string, error) {
	text, err := os.ReadFile(filepath.Join(dir, labelName))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(text), err
}

// labelSockets gives the sockets that do makes on its own thread a label; the usual one with "".
func labelSockets(label string, do func() error) error {
	if label == "" {
		return do()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := selinux.LabelSockets(label); err != nil {
		return fmt.Errorf("give a socket the SELinux label %s: %w", label, err)
	}
	err := do()
	if undo := selinux.LabelSockets(""); undo != nil {
		err = errors.Join(err, fmt.Errorf("give sockets their usual SELinux label again: %w", undo))
	}
	return err
}
