package sandbox

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"brig/internal/annotation"
	"brig/internal/fault"
	"brig/internal/isolation/gvisor"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A checkpoint is a folder with the state of a gVisor kernel, in three files, and a manifest of what it belongs to. The state holds the
// memory of the program, so all of it is its owner's alone. The manifest has the policy that the sandbox goes on with: it is
// sealed with a key that only its maker has, so that nobody else's folder becomes a policy (as in containerd's
// CVE-2026-53488), and it names the content of the files.

// manifestFile is written last: without it there is no checkpoint.
const manifestFile = "manifest.json"

// checkpointVersion changes when an older brig could misread a manifest.
const checkpointVersion = 1

// manifest says what a saved state belongs to.
type manifest struct {
	Version int       `json:"version"`
	Created time.Time `json:"created"`
	Sandbox string    `json:"sandbox"`
	// Kernel is the build of gVisor's kernel that has written it, and can read it.
	Kernel  string   `json:"kernel"`
	Request *Request `json:"request"`
	// Files are those of gvisor.SavedFiles, in their order.
	Files []savedFile `json:"files"`
}

type savedFile struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Checkpoint is a saved sandbox whose files have been held against its manifest.
type Checkpoint struct {
	// Created is when it was saved; Sandbox is the id it had.
	Created time.Time
	Sandbox string
	// Request is what the sandbox was run with.
	Request *Request

	files []*os.File
}

// saved are the files of the kernel's state, none without a checkpoint.
func (c *Checkpoint) saved() []*os.File {
	if c == nil {
		return nil
	}
	return c.files
}

// Close closes the files.
func (c *Checkpoint) Close() error {
	var err error
	for _, f := range c.files {
		err = errors.Join(err, f.Close())
	}
	c.files = nil
	return err
}

// askedFile is the request as it was made, in the folder of a sandbox that can be saved.
const askedFile = "request.json"

// remember keeps what was asked for: ids, labels and profiles that the sandbox gets are no other's.
func (v *supervisor) remember() (err error) {
	if v.onGVisor() && len(v.req.PassFDs) == 0 {
		v.asked, err = json.Marshal(v.req)
	}
	return err
}

// asked gives the request that a sandbox was made from, with the limits that it has by now.
func (b *Sandbox) asked() (*Request, error) {
	spec, err := b.Spec()
	if err != nil {
		return nil, err
	}
	if name := isolation(spec); name != "gvisor" {
		return nil, fmt.Errorf("sandbox %s has the isolation %s: %w", b.ID, name, gvisor.Checkpointable(spec, false))
	}
	var req Request
	err = b.read(askedFile, &req)
	if errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("sandbox %s was given open files (--pass-fd), which are the host's and cannot be saved", b.ID)
	}
	if err != nil {
		return nil, err
	}
	if err := gvisor.Checkpointable(spec, req.Image != nil); err != nil {
		return nil, fmt.Errorf("sandbox %s cannot be saved: %w", b.ID, err)
	}
	req.Spec.Linux.Resources = spec.Linux.Resources
	return &req, nil
}

// ErrInterrupted is a checkpoint that its caller gave up.
var ErrInterrupted = errors.New("interrupted; the sandbox goes on")

// Checkpoint saves the running sandbox into a new folder. Unless it is to go on, it ends behind that; where the saving fails, it
// goes on in any case. The end of ctx undoes it, as far as the kernel lets it: a state that it has begun to write it writes to the end.
// tell hears why it takes long.
func (b *Sandbox) Checkpoint(ctx context.Context, dir string, leaveRunning bool, tell func(error)) (err error) {
	st, err := b.running()
	if err != nil {
		return err
	}
	if st.Status == Paused {
		return fmt.Errorf("sandbox %s is paused, and its kernel with it; resume it first", b.ID)
	}
	req, err := b.asked()
	if err != nil {
		return err
	}
	if e := st.asked().Stopped(false); e != nil { // what the kernel was asked for it would do later, with nobody there
		return fmt.Errorf("sandbox %s cannot be saved: %w", b.ID, b.toContinue(e))
	}
	m := &manifest{Version: checkpointVersion, Created: time.Now(), Sandbox: b.ID, Request: req}
	if m.Kernel, err = gvisor.Version(); err != nil {
		return err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return err
	}
	above, folder, err := makeFolder(dir)
	if err != nil {
		return fmt.Errorf("make a folder for the checkpoint: %w", err)
	}
	defer above.Close()  //nolint:errcheck // it is not written
	defer folder.Close() //nolint:errcheck // synced
	defer func() {
		if err != nil {
			err = errors.Join(err, dropFolder(above, folder, filepath.Base(dir)))
		}
	}()
	defer st.asked().WhenStopped(func(e *gvisor.StoppedError) { tell(fmt.Errorf("the checkpoint waits: %w", b.toContinue(e))) })()
	s, err := b.beginSaving(leaveRunning)
	if err != nil {
		return err
	}
	if s.spec, err = b.Spec(); err != nil {
		return errors.Join(err, s.rollBack())
	}
	if err := b.saveInto(ctx, m, folder, s); err != nil {
		return errors.Join(fmt.Errorf("save sandbox %s in %s: %w", b.ID, dir, err), s.rollBack())
	}
	return s.finish(dir)
}

// saveInto writes the state and the manifest.
func (b *Sandbox) saveInto(ctx context.Context, m *manifest, folder *os.File, s *saving) (err error) {
	var files []*os.File
	defer func() {
		for _, f := range files {
			if err != nil {
				_ = f.Truncate(0) // the kernel keeps one of a saving that failed open, and with it its place on the disk
			}
			_ = f.Close()
		}
	}()
	for range gvisor.SavedFiles {
		f, err := unnamed(folder)
		if err != nil {
			return err
		}
		files = append(files, f)
	}
	if ctx.Err() != nil {
		return ErrInterrupted
	}
	if err := s.pause(); err != nil {
		return err
	}
	if err := gvisor.Save(b.dir, s.spec, files); err != nil {
		return err
	}
	fault.Point("state saved")
	for i, f := range files {
		if ctx.Err() != nil {
			return ErrInterrupted
		}
		saved := savedFile{Name: gvisor.SavedFiles[i]}
		var err error
		if saved.SHA256, saved.Size, err = digest(f); err == nil {
			err = f.Sync()
		}
		if err == nil {
			err = name(f, folder, saved.Name)
		}
		if err != nil {
			return err
		}
		m.Files = append(m.Files, saved)
	}
	key, err := b.store.key(true)
	if err == nil {
		err = m.write(folder, key)
	}
	if err == nil && ctx.Err() != nil {
		err = ErrInterrupted
	}
	return err
}

// makeFolder makes a folder that is not there yet, and gives the one above it, too. A path is not followed a second time: it may lead elsewhere
// by then.
func makeFolder(dir string) (above, folder *os.File, err error) {
	if above, err = os.Open(filepath.Dir(dir)); err != nil {
		return nil, nil, err
	}
	at, base := int(above.Fd()), filepath.Base(dir) //nolint:gosec // a file descriptor
	if err = unix.Mkdirat(at, base, 0o700); err != nil {
		err = &fs.PathError{Op: "mkdir", Path: dir, Err: err}
		if errors.Is(err, fs.ErrExist) {
			err = fmt.Errorf("%w; a checkpoint has a folder of its own, which it makes", err)
		}
	} else {
		folder, err = openOwn(at, base, unix.O_DIRECTORY)
	}
	if err != nil {
		return nil, nil, errors.Join(err, above.Close())
	}
	return above, folder, nil
}

// dropFolder removes a folder with the files of a checkpoint, and no others.
func dropFolder(above, folder *os.File, base string) error {
	for _, name := range append([]string{manifestFile}, gvisor.SavedFiles...) {
		_ = unix.Unlinkat(int(folder.Fd()), name, 0) //nolint:gosec // a file descriptor
	}
	return unix.Unlinkat(int(above.Fd()), base, unix.AT_REMOVEDIR) //nolint:gosec // a file descriptor
}

// digest reads a file from its start to its end, and leaves its position where it is.
func digest(f *os.File) (sum string, size int64, err error) {
	h := sha256.New()
	size, err = io.Copy(h, io.NewSectionReader(f, 0, 1<<62))
	return hex.EncodeToString(h.Sum(nil)), size, err
}

// OpenCheckpoint opens a checkpoint, and refuses one that is not the caller's own, not whole, or another kernel's. The caller closes it.
func (s *Store) OpenCheckpoint(dir string) (_ *Checkpoint, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("checkpoint %s: %w", dir, err)
		}
	}()
	folder, err := openOwn(unix.AT_FDCWD, dir, unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("there is no such folder; `brig checkpoint SANDBOX FOLDER` makes one")
	}
	if err != nil {
		return nil, err
	}
	defer folder.Close() //nolint:errcheck // read only
	m, err := s.readManifest(folder)
	if err != nil {
		return nil, err
	}
	kernel, err := gvisor.Version()
	if err != nil {
		return nil, err
	}
	if kernel != m.Kernel {
		return nil, fmt.Errorf("its state was written by another kernel (%s), and only that can read it; here is %s", m.Kernel, kernel)
	}
	c := &Checkpoint{Created: m.Created, Sandbox: m.Sandbox, Request: m.Request}
	if err := c.open(folder, m); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// readManifest reads the manifest, and believes it when its seal is whole.
func (s *Store) readManifest(folder *os.File) (*manifest, error) {
	f, err := openOwn(int(folder.Fd()), manifestFile, 0) //nolint:gosec // a file descriptor
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("it has no " + manifestFile + ": it is none, or the making of it was ended")
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	text, err := io.ReadAll(io.LimitReader(f, 16<<20))
	if err != nil {
		return nil, err
	}
	key, err := s.key(false)
	if err != nil {
		return nil, err
	}
	body, err := unseal(text, key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", manifestFile, err)
	}
	return parseManifest(body)
}

// parseManifest reads one that is believed. What this brig does not know in it may be a part of a policy that it would leave out.
func parseManifest(body []byte) (*manifest, error) {
	m := &manifest{}
	if err := json.Unmarshal(body, &struct{ Version *int }{&m.Version}); err != nil {
		return nil, fmt.Errorf("read its %s: %w", manifestFile, err)
	}
	if m.Version != checkpointVersion {
		return nil, fmt.Errorf("it has the version %d, and this brig reads %d", m.Version, checkpointVersion)
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(m); err != nil {
		if field, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok { // the standard library has no type for it
			return nil, fmt.Errorf("its %s has the field %s, which this brig does not know: a newer one has written it", manifestFile, field)
		}
		return nil, fmt.Errorf("read its %s: %w", manifestFile, err)
	}
	if m.Request == nil || m.Request.Spec == nil || m.Request.Spec.Process == nil || m.Request.Spec.Linux == nil {
		return nil, fmt.Errorf("its %s has no program", manifestFile)
	}
	if len(m.Files) != len(gvisor.SavedFiles) {
		return nil, fmt.Errorf("it has %d files, and not %d", len(m.Files), len(gvisor.SavedFiles))
	}
	for i, f := range m.Files {
		if f.Name != gvisor.SavedFiles[i] {
			return nil, fmt.Errorf("it has the file %q, and not %s", f.Name, gvisor.SavedFiles[i])
		}
	}
	return m, nil
}

// open opens the files, and holds against the manifest what it makes of them: copies that nobody can change after that.
func (c *Checkpoint) open(folder *os.File, m *manifest) error {
	for i, name := range gvisor.SavedFiles {
		f, err := openOwn(int(folder.Fd()), name, 0) //nolint:gosec // a file descriptor
		if err != nil {
			return err
		}
		copied, err := m.Files[i].copyOf(folder, f)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		c.files = append(c.files, copied)
	}
	return nil
}

// copyOf copies a file of a folder, if it is the saved one.
func (s *savedFile) copyOf(folder, f *os.File) (*os.File, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() != s.Size {
		return nil, fmt.Errorf("%s is not what was saved: it has %d bytes, and not %d", s.Name, st.Size(), s.Size)
	}
	c, sum, err := private(folder, f, s.Size)
	if err == nil && sum != s.SHA256 {
		err = errors.Join(errChanged, c.Close())
	}
	switch {
	case errors.Is(err, errChanged):
		return nil, fmt.Errorf("%s is not what was saved: %w", s.Name, err)
	case err != nil:
		return nil, fmt.Errorf("copy %s to where nobody else can change it: %w", s.Name, err)
	}
	return c, nil
}

// openOwn opens a file or folder that is the caller's own, and that nobody else can change. In a file nobody else may read.
func openOwn(at int, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	mode, kind := st.Mode&0o777, st.Mode&unix.S_IFMT
	switch {
	case err != nil:
	case int(st.Uid) != os.Geteuid():
		err = fmt.Errorf("%s belongs to user %d, and only your own can be gone on from", name, st.Uid)
	case flags&unix.O_DIRECTORY != 0 && mode&0o022 != 0:
		err = fmt.Errorf("%s has mode %#o: others could change what is in it", name, mode)
	case flags&unix.O_DIRECTORY == 0 && (kind != unix.S_IFREG || mode&0o077 != 0):
		err = fmt.Errorf("%s has mode %#o, or is no plain file: nobody else may read or change it", name, mode)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Fits refuses a sandbox whose program would not be the one that was saved: another program, environment, user, filter, image. Limits,
// names and labels are the new sandbox's.
func (c *Checkpoint) Fits(spec *specs.Spec, image *Image) error {
	if err := gvisor.Checkpointable(spec, image != nil); err != nil {
		return fmt.Errorf("the checkpoint does not fit: %w", err)
	}
	saved, asked := c.Request.Image, image
	if (saved == nil) != (asked == nil) || saved != nil && saved.Digest != asked.Digest {
		return fmt.Errorf("the checkpoint was saved with another root: %s, and not %s", rootName(saved, c.Request.Spec), rootName(asked, spec))
	}
	if err := gvisor.SameGuest(c.Request.Spec, spec); err != nil {
		return fmt.Errorf("the checkpoint does not fit: %w", err)
	}
	for _, key := range []string{annotation.Root, annotation.RootWritable, annotation.RootWritableSize} {
		if before, now := c.Request.Spec.Annotations[key], spec.Annotations[key]; before != now {
			return fmt.Errorf("the checkpoint does not fit: its root file system is another (%s %q, and not %q)", key, now, before)
		}
	}
	return nil
}

func rootName(i *Image, spec *specs.Spec) string {
	if i != nil {
		return i.Ref + " " + i.Digest
	}
	return "the folder " + spec.Root.Path
}
