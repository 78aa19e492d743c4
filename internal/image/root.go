package image

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"brig/internal/fault"
	"brig/internal/fsverity"

	"golang.org/x/sys/unix"
)

// Record is what the store knows of the EROFS image of a manifest.
type Record struct {
	Version  int    `json:"version"`
	Manifest Digest `json:"manifest"`
	Config   Config `json:"config"`
	// Size of the EROFS image in bytes, and its fs-verity digest (sha256, blocks of 4 KiB, no salt), in hexadecimal.
	Size   int64  `json:"size"`
	Verity string `json:"verity"`
	// Sealed: fs-verity is on, and the kernel checks every page it reads.
	Sealed bool `json:"sealed,omitempty"`
	// Checked is the file as it was when its digest was last computed.
	Checked identity  `json:"checked"`
	Built   time.Time `json:"built"`
}

// recordVersion changes when the same manifest gives another EROFS image, or an older brig could misread a record.
const recordVersion = 1

// identity tells a file that nobody has touched since: any write moves the change time, which nobody can set back but by
// setting the clock back. Boot: a power cut can lose what was never written to the disk and keep size and times, so
// after a boot the file is another until it was checked again.
type identity struct {
	Size    int64  `json:"size"`
	Device  uint64 `json:"device"`
	Inode   uint64 `json:"inode"`
	Changed int64  `json:"changed"` // nanoseconds since 1970
	Boot    string `json:"boot"`
}

// bootID is the kernel's, of this boot (proc_sys_kernel(5)).
var bootID = sync.OnceValues(func() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id)), err
})

func identityOf(f *os.File) (identity, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil { //nolint:gosec // a file descriptor
		return identity{}, err
	}
	boot, err := bootID()
	if err != nil {
		return identity{}, err
	}
	return identity{Size: st.Size, Device: uint64(st.Dev), Inode: st.Ino, Changed: st.Ctim.Nano(), Boot: boot}, nil //nolint:unconvert // 32 bits elsewhere
}

func (s *Store) imagePath(d Digest) string  { return s.path("roots", d.Hex()+".erofs") }
func (s *Store) recordPath(d Digest) string { return s.path("roots", d.Hex()) }

// Record reads the record of a manifest; ErrNotHere when it has no EROFS image.
func (s *Store) Record(d Digest) (*Record, error) {
	var r Record
	path := s.recordPath(d)
	switch err := readFile(path, &r); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("the root file system of %s: %w", d, ErrNotHere)
	case err != nil:
		return nil, err
	case r.Manifest != d:
		return nil, &CorruptError{path, "it is of " + string(r.Manifest)}
	case r.Version != recordVersion:
		return nil, fmt.Errorf("the root file system of %s was made by another version of brig: %w", d, ErrNotHere)
	}
	return &r, nil
}

// MakeRoot makes the EROFS image of a manifest, unless it is here. fill writes it into an empty file and gives its size. Of
// many that want it at once, one makes it, and the others wait.
func (s *Store) MakeRoot(d Digest, config *Config, fill func(*os.File) (int64, error)) (*Record, error) {
	l, err := s.acquire("make-"+d.Hex(), unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer l.release()
	if r, err := s.intact(d); err == nil { // else it is made anew
		return r, nil
	}
	tmp := s.path("tmp", "root-"+d.Hex())
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, s.full(fmt.Errorf("make the root file system of %s: %w", d, err))
	}
	fault.Point("root begun")
	r, err := describe(f, d, config, fill)
	if err = errors.Join(err, f.Close()); err == nil {
		err = s.publish(tmp, r)
	}
	if err != nil {
		return nil, s.full(errors.Join(err, remove(tmp)))
	}
	return r, nil
}

// intact gives the record of an image whose file is what was checked. The caller has the lock "make-".
func (s *Store) intact(d Digest) (*Record, error) {
	r, err := s.Record(d)
	if err != nil {
		return nil, err
	}
	f, id, err := s.openRoot(r)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	if r.Sealed {
		return r, confirmSealed(f, r)
	}
	if id != r.Checked {
		err = s.recheck(f, id, r)
	}
	return r, err
}

// describe has the image written, and computes its digest.
func describe(f *os.File, d Digest, config *Config, fill func(*os.File) (int64, error)) (*Record, error) {
	size, err := fill(f)
	if err != nil {
		return nil, err
	}
	fault.Point("root filled")
	flush(f, 0)
	sum, err := fsverity.Digest(f, size)
	if err != nil {
		return nil, fmt.Errorf("compute the digest of the root file system: %w", err)
	}
	r := &Record{Version: recordVersion, Manifest: d, Config: *config, Size: size, Verity: hex.EncodeToString(sum[:]), Built: time.Now().UTC()}
	return r, f.Chmod(0o400)
}

// publish puts a whole image in its place, and its record after it. Its file is not open for writing any more: fs-verity
// wants that.
func (s *Store) publish(tmp string, r *Record) error {
	f, err := os.Open(tmp) //nolint:gosec // the store's
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	if err := seal(f, r); err != nil {
		return err
	}
	// The old record first: it is of another file.
	if err := os.RemoveAll(s.recordPath(r.Manifest)); err != nil {
		return err
	}
	if err := place(tmp, s.imagePath(r.Manifest)); err != nil {
		return err
	}
	fault.Point("root in place")
	if r.Checked, err = identityOf(f); err != nil {
		return err
	}
	// The lock that its users take, so that they can when the store is read-only.
	l, err := s.acquire("root-"+r.Manifest.Hex(), unix.LOCK_SH)
	if err != nil {
		return err
	}
	l.release()
	if err := s.writeFile(s.recordPath(r.Manifest), r, false); err != nil {
		return err
	}
	fault.Point("record in place")
	return nil
}

// seal turns fs-verity on, where the file system has it, and reads back what the kernel makes of the file.
func seal(f *os.File, r *Record) error {
	switch err := fsverity.Enable(f); {
	case errors.Is(err, fsverity.ErrUnsupported):
		return nil
	case err != nil:
		return fmt.Errorf("seal %s with fs-verity: %w", f.Name(), err)
	}
	r.Sealed = true
	return confirmSealed(f, r)
}

// openRoot opens the EROFS image of a record, and checks nothing of it.
func (s *Store) openRoot(r *Record) (*os.File, identity, error) {
	path := s.imagePath(r.Manifest)
	f, err := openRegular(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, identity{}, &CorruptError{path, "it is gone, or was found damaged and set aside"}
	}
	if err != nil {
		return nil, identity{}, fmt.Errorf("open the root file system: %w", err)
	}
	id, err := identityOf(f)
	if err != nil {
		return nil, identity{}, errors.Join(err, f.Close())
	}
	return f, id, nil
}

// confirm checks that an EROFS image is the one: by fs-verity where it is sealed, else by whether it is untouched since its digest was
// last computed, else by computing it.
func (s *Store) confirm(f *os.File, id identity, r *Record) error {
	if r.Sealed {
		return confirmSealed(f, r)
	}
	if id == r.Checked {
		return nil
	}
	// Of many that start sandboxes after a boot, one computes it.
	l, err := s.acquire("make-"+r.Manifest.Hex(), unix.LOCK_EX)
	if err != nil {
		return checkDigest(f, id.Size, r) // the store cannot be written
	}
	defer l.release()
	if now, err := s.Record(r.Manifest); err == nil && now.Verity == r.Verity && now.Checked == id {
		r.Checked = id
		return nil
	}
	return s.recheck(f, id, r)
}

// verifyRoot computes the digest of an EROFS image, whatever is known of it, and sets it aside when it is another.
func (s *Store) verifyRoot(r *Record) error {
	f, id, err := s.openRoot(r)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	if r.Sealed {
		err = confirmSealed(f, r)
	}
	if err == nil {
		err = checkDigest(f, id.Size, r)
	}
	var damage *CorruptError
	if !errors.As(err, &damage) {
		return err
	}
	l, lockErr := s.acquire("make-"+r.Manifest.Hex(), unix.LOCK_EX|unix.LOCK_NB)
	if lockErr != nil { // it is being made anew, or the store cannot be written
		return err
	}
	defer l.release()
	return errors.Join(err, s.setAside(f.Name(), f))
}

func confirmSealed(f *os.File, r *Record) error {
	sum, err := fsverity.Measure(f)
	if err != nil {
		return &CorruptError{f.Name(), fmt.Sprintf("fs-verity was on and is not: %v", err)}
	}
	if hex.EncodeToString(sum[:]) != r.Verity {
		return &CorruptError{f.Name(), fmt.Sprintf("its fs-verity digest is %x, and %s was recorded", sum, r.Verity)}
	}
	return nil
}

// recheck computes the digest anew, and notes that it did. The caller has the lock "make-".
func (s *Store) recheck(f *os.File, id identity, r *Record) error {
	if err := checkDigest(f, id.Size, r); err != nil {
		return err
	}
	r.Checked = id
	now, err := s.Record(r.Manifest)
	if err != nil || now.Verity != r.Verity {
		return nil //nolint:nilerr // it is of another file by now; this one is what was wanted
	}
	fault.Point("before the note")
	// Who may read the store but not write it checks each time, as long as it is not mounted; so does who has no room to note it.
	err = s.writeFile(s.recordPath(r.Manifest), r, false)
	if errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return nil
	}
	return err
}

func checkDigest(f *os.File, size int64, r *Record) error {
	if size != r.Size {
		return &CorruptError{f.Name(), fmt.Sprintf("it has %d bytes, and had %d", size, r.Size)}
	}
	sum, err := fsverity.Digest(f, size)
	if errors.Is(err, unix.EIO) { // what fs-verity gives, and a broken disk
		return &CorruptError{f.Name(), fmt.Sprintf("it cannot be read: %v", err)}
	}
	if err != nil {
		return fmt.Errorf("check %s: %w", f.Name(), err)
	}
	want, _ := hex.DecodeString(r.Verity)
	if !bytes.Equal(sum[:], want) {
		return &CorruptError{f.Name(), fmt.Sprintf("its digest is %x, and %s was recorded", sum, r.Verity)}
	}
	return nil
}
