package native

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"brig/internal/plan"

	"golang.org/x/sys/unix"
)

// diskFolder is where sandboxes have their places to write. The files in it have no names: each is gone with the last that uses
// it, whoever is killed, and there is nothing to clear up.
const diskFolder = "/var/lib/brig/writable"

// diskRoom is an ext4 in a sparse file without a name, on a loop device that lets go of the file with the last mount.
func diskRoom(p *plan.Overlay) (*os.File, error) {
	file, err := unnamedFile(p.Size)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // the loop device has it
	if err := makeExt4(file); err != nil {
		return nil, err
	}
	loop, err := attachLoop(file)
	if err != nil {
		return nil, fmt.Errorf("attach a loop device: %w", err)
	}
	defer loop.Close() //nolint:errcheck // the mount has it, or nobody
	fs, err := unix.Fsopen("ext4", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("ext4: %w", err)
	}
	defer unix.Close(fs) //nolint:errcheck // the mount is what is kept
	if err := unix.FsconfigSetString(fs, "source", loop.Name()); err != nil {
		return nil, fmt.Errorf("option source=%s: %w", loop.Name(), err)
	}
	// The inode tables of a fresh sparse file are zeros already.
	if err := unix.FsconfigSetFlag(fs, "noinit_itable"); err != nil {
		return nil, fmt.Errorf("option noinit_itable: %w", err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("mount the ext4 on %s: %w", loop.Name(), err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOATIME)
	if err != nil {
		return nil, fmt.Errorf("mount the ext4 on %s: %w", loop.Name(), err)
	}
	mount := os.NewFile(uintptr(fd), "ext4")
	root, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = errors.Join(unix.Fchmod(root, 0o700), unix.Close(root))
	}
	if err != nil {
		return nil, errors.Join(err, mount.Close())
	}
	return mount, nil
}

func unnamedFile(size int64) (*os.File, error) {
	if err := os.MkdirAll(diskFolder, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder for it: %w", err)
	}
	fd, err := unix.Open(diskFolder, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make a file without a name in %s, whose file system must have such (O_TMPFILE): %w", diskFolder, err)
	}
	f := os.NewFile(uintptr(fd), diskFolder)
	if err := f.Truncate(size); err != nil {
		return nil, errors.Join(fmt.Errorf("make a file of %d bytes in %s: %w", size, diskFolder, err), f.Close())
	}
	return f, nil
}

// makeExt4 has e2fsprogs make the file system. It has no journal: after a crash nobody reads it.
func makeExt4(f *os.File) error {
	program := "/usr/sbin/mkfs.ext4"
	if _, err := os.Stat(program); err != nil {
		if program, err = exec.LookPath("mkfs.ext4"); err != nil {
			return errors.New("on disk it needs mkfs.ext4, which is in the package e2fsprogs; install it, or have the place in RAM")
		}
	}
	// -F twice: mkfs takes it for mounted where a mount's source reads /proc/self/fd/3, as an image's may, and nobody can have mounted
	// a file that has no name.
	cmd := exec.Command(program, "-q", "-F", "-F", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", "/proc/self/fd/3") //nolint:gosec // one of two names
	cmd.ExtraFiles = []*os.File{f}
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir = "/"
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.ext4: %w: %s", err, strings.ReplaceAll(string(bytes.TrimSpace(out)), "\n", "; "))
	}
	return nil
}

// loopTries is how often somebody else may take the device that was free a moment ago.
const loopTries = 64

// attachLoop gives a loop device over the file; it lets go of it by itself when nobody has it open or mounted (loop(4),
// LO_FLAGS_AUTOCLEAR).
func attachLoop(f *os.File) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close() //nolint:errcheck // no data
	config := unix.LoopConfig{Fd: uint32(f.Fd())}
	config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO
	copy(config.Info.File_name[:], "brig")
	for range loopTries {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, err
		}
		loop, err := os.OpenFile("/dev/loop"+strconv.Itoa(n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		if err = unix.IoctlLoopConfigure(int(loop.Fd()), &config); err == nil {
			return loop, nil
		}
		if err = errors.Join(err, loop.Close()); !errors.Is(err, unix.EBUSY) {
			return nil, err
		}
	}
	return nil, errors.New("others take every one that is free")
}
