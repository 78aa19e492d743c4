package gvisor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"

	"brig/internal/annotation"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// SavedFiles are the names of the files that a kernel's state is saved in, in the order in which it takes them: its objects, where
// the pages of its memory are, and the pages.
var SavedFiles = []string{"state", "pages.meta", "pages"}

// Checkpointable refuses a sandbox of which a part lies outside of its kernel, and would be lost. image says that its root is one.
func Checkpointable(spec *specs.Spec, image bool) error {
	kind := spec.Annotations[annotation.RootWritable]
	switch {
	case spec.Annotations[annotation.Isolation] != "gvisor":
		return errors.New("only a sandbox on gVisor's kernel has a state that can be saved: run it with --isolation gvisor")
	case kind == "disk":
		return errors.New("what it writes to its root lies on disk, beside the kernel's state (--writable disk), and would not be saved")
	case kind != "" && !image:
		return errors.New("what it writes to its root lies over the folder, beside the kernel's state, and would not be saved; an image's is saved")
	}
	return nil
}

// SameGuest refuses a guest that is not the one that was saved, and names what differs.
func SameGuest(saved, spec *specs.Spec) error {
	before, err := fields(saved)
	if err != nil {
		return err
	}
	now, err := fields(spec)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if !bytes.Equal(before[name], now[name]) {
			return fmt.Errorf("the policy gives the program another %s than it was saved with (%s, and not %s)", name, short(now[name]), short(before[name]))
		}
		delete(now, name)
	}
	for _, name := range slices.Sorted(maps.Keys(now)) {
		return fmt.Errorf("the policy gives the program a %s, and it was saved without", name)
	}
	return nil
}

// fields are the parts of what a guest sees, by the names of the runtime-spec.
func fields(spec *specs.Spec) (map[string]json.RawMessage, error) {
	guest, _, err := guestSpec(spec)
	if err != nil {
		return nil, err
	}
	all := map[string]json.RawMessage{}
	for _, part := range []struct {
		prefix string
		of     any
	}{{"", guest}, {"process.", guest.Process}, {"linux.", guest.Linux}} {
		text, err := json.Marshal(part.of)
		if err != nil {
			return nil, err
		}
		var list map[string]json.RawMessage
		if err := json.Unmarshal(text, &list); err != nil {
			return nil, err
		}
		for name, value := range list {
			all[part.prefix+name] = value
		}
	}
	delete(all, "process")
	delete(all, "linux")
	return all, nil
}

// short is a value as an error shows it.
func short(text json.RawMessage) string {
	const most = 100
	switch {
	case text == nil:
		return "none"
	case len(text) > most:
		return string(text[:most]) + "…"
	}
	return string(text)
}

// Version says which kernel is installed: a saved state belongs to one build of it.
func Version() (string, error) {
	f, err := open("")
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // read only
	out, err := exec.Command(f.Name(), "version").Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", f.Name(), err)
	}
	return string(bytes.TrimSpace(out)), nil
}

// Pause stops every task of the guest, until Unpause.
func Pause(dir string) error { return call(dir, "containerManager.Pause", nil, nil, nil) }

// Unpause ends what Pause began. Without a pause it would end the kernel.
func Unpause(dir string) error { return call(dir, "containerManager.Resume", nil, nil, nil) }

// Save writes the kernel's state into files, in the order of SavedFiles. The guest stands still meanwhile.
func Save(dir string, files []*os.File) error {
	args := struct {
		HavePagesFile bool              `json:"have_pages_file"`
		Metadata      map[string]string `json:"metadata"`
		Resume        bool
	}{true, map[string]string{"compression": "none"}, true}
	return call(dir, "containerManager.Checkpoint", args, files, nil)
}

// restore has the kernel go on from a saved state in place of a start.
func (s *start) restore() error {
	err := call(s.options.Dir, "containerManager.SetNetworkArgs", loopback, nil, nil)
	if err == nil {
		err = call(s.options.Dir, "containerManager.Restore", struct{ HavePagesFile bool }{true}, s.options.Saved, nil)
	}
	if err != nil {
		return fmt.Errorf("go on from the checkpoint: %w", err)
	}
	return nil
}
