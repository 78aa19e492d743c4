package gvisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"brig/internal/annotation"
	"brig/internal/mac/selinux"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
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
	case mediated(spec) && label(spec) == "":
		return errors.New("AppArmor lets its kernel receive no file to save its state in: --security-opt apparmor=unconfined")
	case kind != "" && (!image || mediated(spec)):
		return errors.New("what it writes to its root lies over the folder or image, beside the kernel's state, and would not be saved")
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
			is, was := differing(now[name], before[name])
			return fmt.Errorf("the policy gives the program another %s than it was saved with (%s, and not %s)", name, short(is), short(was))
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
	limitProcesses(guest, spec.Linux.Resources)
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

// differing leaves of two lists what is not in both, where the whole is more than short shows.
func differing(a, b json.RawMessage) (json.RawMessage, json.RawMessage) {
	var one, other []json.RawMessage
	if max(len(a), len(b)) <= mostShown || json.Unmarshal(a, &one) != nil || json.Unmarshal(b, &other) != nil {
		return a, b
	}
	less := func(list, without []json.RawMessage) []json.RawMessage {
		return slices.DeleteFunc(slices.Clone(list), func(e json.RawMessage) bool {
			return slices.ContainsFunc(without, func(o json.RawMessage) bool { return bytes.Equal(e, o) })
		})
	}
	only, lacks := less(one, other), less(other, one)
	if len(only)+len(lacks) == 0 { // the same in another order
		return a, b
	}
	return list(only), list(lacks)
}

// list is a list as JSON, nil for an empty one.
func list(of []json.RawMessage) json.RawMessage {
	if len(of) == 0 {
		return nil
	}
	text, err := json.Marshal(of)
	if err != nil {
		return nil // it was read from JSON
	}
	return text
}

// mostShown is how much of a value an error shows.
const mostShown = 300

// short is a value as an error shows it.
func short(text json.RawMessage) string {
	switch {
	case text == nil:
		return "none"
	case len(text) > mostShown:
		return string(text[:mostShown]) + "…"
	}
	return string(text)
}

const pauseMethod = "containerManager.Pause"

// Pause stops every task of the guest, until Unpause. It waits for the kernel for as long as that takes: one that is not waited for would
// pause the guest later, and nobody let it go on.
func Pause(dir string) error {
	return call(context.Background(), dir, pauseMethod, nil, nil, nil)
}

// Unpause ends what Pause began. Without a pause it would end the kernel.
func Unpause(dir string) error { return callSoon(dir, "containerManager.Resume", nil, nil) }

// Save writes the kernel's state into files, in the order of SavedFiles. The guest stands still meanwhile. spec is the sandbox's.
func Save(dir string, spec *specs.Spec, files []*os.File) (err error) {
	back, err := lend(spec, files)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, back()) }()
	args := struct {
		HavePagesFile bool              `json:"have_pages_file"`
		Metadata      map[string]string `json:"metadata"`
		Resume        bool
	}{true, map[string]string{"compression": "none"}, true}
	return stateError("write the state", call(context.Background(), dir, "containerManager.Checkpoint", args, files, nil))
}

// What gVisor says of a state: a value of its own, a file that the guest had open, and the end of what it reads. They are compiled where one is
// looked for: at package level every command would wait for it.
const (
	goValue  = `&wire\.[A-Za-z]+\{[^}]*\}`
	notOpen  = `failed to walk ("[^"]*") of type [0-7]+ in mount "[^":]*:([^"]*)": (.*)$`
	tooEarly = `(unexpected )?EOF$`
)

// stateError makes a person's what gVisor says of a state that it cannot write or read.
func stateError(what string, err error) error {
	if err == nil {
		return nil
	}
	var remote *remoteError
	if !errors.As(err, &remote) {
		return fmt.Errorf("%s: %w", what, err)
	}
	for _, errno := range []unix.Errno{unix.ENOSPC, unix.EDQUOT, unix.EFBIG, unix.EIO} {
		if strings.HasSuffix(remote.text, errno.Error()) {
			return fmt.Errorf("%s: %w", what, errno)
		}
	}
	if m := regexp.MustCompile(notOpen).FindStringSubmatch(remote.text); m != nil {
		return fmt.Errorf("%s: the program has a file open that is not there as it was: %s in what is mounted on %s: %s", what, m[1], m[2], m[3])
	}
	text := regexp.MustCompile(goValue).ReplaceAllString(remote.text, "a part of it")
	return fmt.Errorf("%s: gVisor's kernel: %s", what, regexp.MustCompile(tooEarly).ReplaceAllString(text, "it ends too early"))
}

// restore has the kernel go on from a saved state in place of a start.
func (s *start) restore(ctx context.Context) (err error) {
	back, err := lend(s.spec, s.options.Saved)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, back()) }()
	err = call(ctx, s.options.Dir, "containerManager.SetNetworkArgs", loopback, nil, nil)
	if err == nil {
		err = call(ctx, s.options.Dir, "containerManager.Restore", struct{ HavePagesFile bool }{true}, s.options.Saved, nil)
	}
	return stateError("go on from the checkpoint", otherGuest(err))
}

// otherGuest says it in few words when gVisor finds that the guest is another than the one that was saved. Its own end in both values, of which
// one alone may fill a screen.
func otherGuest(err error) error {
	var remote *remoteError
	if !errors.As(err, &remote) {
		return err
	}
	before, _, other := strings.Cut(remote.text, " does not match across checkpoint restore")
	if !other {
		return err
	}
	return fmt.Errorf("this brig gives the guest another %s than the one that has saved it: a checkpoint belongs to the build that made it", before[strings.LastIndex(before, " ")+1:])
}

// lend gives files the SELinux label that the kernel may use, until the function it gives is called.
func lend(spec *specs.Spec, files []*os.File) (back func() error, err error) {
	back = func() error { return nil }
	if label(spec) == "" {
		return back, nil
	}
	var before []string
	back = func() error {
		var err error
		for i, l := range before {
			err = errors.Join(err, selinux.SetLabel(files[i], l))
		}
		return err
	}
	for _, f := range files {
		l, err := selinux.Label(f)
		if err == nil {
			err = labelFile(spec, f)
		}
		if err != nil {
			return nil, errors.Join(err, back())
		}
		before = append(before, l)
	}
	return back, nil
}
