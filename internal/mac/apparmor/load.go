package apparmor

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"brig/internal/mac"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// MachineDir is where compiled profiles are kept: one folder for the machine, as the kernel's list of profiles is one.
const MachineDir = "/run/brig/apparmor"

// securityfs is where AppArmor takes profiles (apparmor(7)).
const securityfs = "/sys/kernel/security/apparmor"

// keep is how many compiled profiles stay when no sandbox uses them.
const keep = 64

// Hold is a loaded profile that stays loaded until it is released.
type Hold struct {
	Name string
	lock *os.File
}

// UnavailableError says why this host's AppArmor takes no profile of Brig's.
type UnavailableError struct{ Reason string }

func (e *UnavailableError) Error() string { return "AppArmor is on, but " + e.Reason }

// Present says whether the kernel has AppArmor at all: one system call.
func Present() bool { return unix.Access("/sys/module/apparmor", unix.F_OK) == nil }

// Load has the profile of a spec compiled unless it was before, loads it, and keeps it loaded.
func Load(spec *specs.Spec, o Options) (*Hold, error) {
	if _, err := os.Stat(securityfs + "/.replace"); err != nil {
		return nil, &UnavailableError{"its interface is not there: mount -t securityfs securityfs /sys/kernel/security"}
	}
	parser, err := findParser()
	if err != nil {
		return nil, err
	}
	o.Mqueue = parser.mqueue()
	name, text, err := parser.named(spec, o)
	if err != nil {
		return nil, err
	}
	dir, err := openCache(MachineDir)
	if err != nil {
		return nil, err
	}
	defer dir.Close() //nolint:errcheck // nothing is written to it
	h, err := hold(dir, name, func() ([]byte, error) { return parser.compileFor(text, name, spec, o, securityfs+"/features") })
	if err != nil {
		return nil, fmt.Errorf("load AppArmor profile %s: %w", name, err)
	}
	return h, nil
}

// Name is what the profile of a spec is called on this host, without loading it.
func Name(spec *specs.Spec, o Options) (string, error) {
	parser, err := findParser()
	if err != nil {
		return "", err
	}
	o.Mqueue = parser.mqueue()
	name, _, err := parser.named(spec, o)
	return name, err
}

// hold opens or makes the compiled profile, with the lock that keeps it loaded, and gives it to the kernel. That is done each
// time: where the very same is loaded already the kernel leaves it, and where somebody has put another in its place it is the
// right one again.
func hold(dir *os.Root, name string, compile func() ([]byte, error)) (*Hold, error) {
	for {
		f, err := openBlob(dir, name)
		if errors.Is(err, fs.ErrNotExist) {
			if err = keepBlob(dir, name, compile); err == nil {
				continue
			}
		}
		if err != nil {
			return nil, err
		}
		var st unix.Stat_t
		err = errors.Join(flock(f, unix.LOCK_SH), unix.Fstat(int(f.Fd()), &st)) //nolint:gosec // a file descriptor
		if err == nil && st.Nlink == 0 {
			_ = f.Close() // it was cleared away just now
			continue
		}
		if err == nil {
			now := time.Now()
			_ = dir.Chtimes(name, now, now) // the oldest is cleared away first
			err = replace(f)
		}
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return &Hold{name, f}, nil
	}
}

// replace gives a compiled profile to the kernel, which takes it in a single write.
func replace(blob *os.File) error {
	data, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", blob.Fd()))
	if err != nil {
		return err
	}
	return command(".replace", data)
}

func command(file string, data []byte) error {
	f, err := os.OpenFile(filepath.Join(securityfs, file), os.O_WRONLY, 0)
	if err == nil {
		_, err = unix.Write(int(f.Fd()), data) //nolint:gosec // a file descriptor
		err = errors.Join(err, f.Close())
	}
	switch {
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return &UnavailableError{"the kernel takes no profiles from this process, which lacks CAP_MAC_ADMIN or is confined itself"}
	case err != nil:
		return fmt.Errorf("write to %s/%s: %w", securityfs, file, err)
	}
	return nil
}

// Release unloads the profile unless another sandbox runs under it. Preconditions: no process of this one's is left, for
// whoever runs under a profile that is removed is confined no more.
func (h *Hold) Release() error {
	if h == nil {
		return nil
	}
	err := h.lock.Close()
	return errors.Join(err, unload(MachineDir, h.Name))
}

// Sweep unloads every profile that nobody holds. It is for what killed supervisors have left: their holds ended with them.
func Sweep() error {
	entries, err := os.ReadDir(MachineDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			err = errors.Join(err, unload(MachineDir, e.Name()))
		}
	}
	return err
}

func unload(cache, name string) error {
	if !strings.HasPrefix(name, prefix) {
		return nil // somebody else's
	}
	dir, err := openCache(cache)
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // nothing is written to it
	f, err := openBlob(dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only its lock counts
	err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil // another sandbox runs under it
	}
	if err == nil {
		err = command(".remove", []byte(name))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // ENOENT: it is not loaded
		return fmt.Errorf("unload AppArmor profile %s: %w", name, err)
	}
	return nil
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how) //nolint:gosec // a file descriptor
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

const prefix = "brig-"

// parser is apparmor_parser of this host.
type parser struct {
	path string
	// version tells one parser from another without running it.
	version string
}

func findParser() (*parser, error) {
	name := mac.Parser()
	var st unix.Stat_t
	if name != "" && unix.Stat(name, &st) == nil {
		return &parser{name, fmt.Sprint(st.Dev, st.Ino, st.Size, st.Mtim)}, nil
	}
	return nil, &UnavailableError{"apparmor_parser, which compiles profiles, is not installed: install the package apparmor"}
}

// mqueue says whether rules for message queues are needed: whether the kernel asks for them, by its features.
func (p *parser) mqueue() bool {
	return unix.Access(securityfs+"/features/ipc/posix_mqueue", unix.F_OK) == nil
}

// named writes the profile of a spec. In its name is a digest of everything that the compiled form depends on: the rules, the
// parser, the kernel's build, which has the features.
func (p *parser) named(spec *specs.Spec, o Options) (name, text string, err error) {
	body, err := rules(spec, o)
	if err != nil {
		return "", "", err
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", "", err
	}
	digest := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s\x00%s", body, p.version, u.Release[:], u.Version[:]))
	name = fmt.Sprintf("%s%x", prefix, digest[:8])
	return name, wrap(name, body), nil
}

// compileFor compiles a text, and without the rules that a parser before 3.1 does not know if it is that old: the kernel asks for
// nothing of which its policy says nothing. The name, which has the parser in it, stays.
func (p *parser) compileFor(text, name string, spec *specs.Spec, o Options, features string) ([]byte, error) {
	blob, err := p.compile(text, features)
	if err == nil || !o.Mqueue {
		return blob, err
	}
	o.Mqueue = false
	older, perr := Profile(name, spec, o)
	if perr != nil {
		return nil, errors.Join(err, perr)
	}
	if blob, perr := p.compile(older, features); perr == nil {
		return blob, nil
	}
	return nil, err
}

// compile has no configuration, include or cache of the host's take part. The features are the kernel's: what it can mediate
// is mediated, and denied where no rule allows it.
func (p *parser) compile(text, features string) ([]byte, error) {
	cmd := exec.Command(p.path, "--config-file=/dev/null", "--skip-kernel-load", "--skip-cache", "--quiet", //nolint:gosec // a fixed path
		"--policy-features="+features, "--kernel-features="+features, "--stdout")
	cmd.Env = []string{"LC_ALL=C"}
	cmd.Dir = "/"
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(text), &out, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("apparmor_parser: %w: %s", err, bytes.TrimSpace(said.Bytes()))
	}
	if out.Len() == 0 {
		return nil, fmt.Errorf("apparmor_parser gave no profile: %s", bytes.TrimSpace(said.Bytes()))
	}
	return out.Bytes(), nil
}
