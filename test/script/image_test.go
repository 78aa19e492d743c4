package script

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"brig/internal/erofs"
	"brig/internal/image"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// addImage REF DIR [CONFIG] puts an image into the script's store: the tree in DIR, and CONFIG, a file of JSON as an image's "config" is.
func addImage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: image REF DIR [CONFIG]")
	}
	config := []byte("{}")
	if len(args) == 3 {
		config = []byte(ts.ReadFile(args[2]))
	}
	ts.Check(makeImage(ts.Getenv("BRIG_STORE"), args[0], ts.MkAbs(args[1]), config))
}

func makeImage(store, name, dir string, config []byte) error {
	s, err := image.Open(store)
	if err != nil {
		return err
	}
	session, err := s.Begin()
	if err != nil {
		return err
	}
	defer session.End()
	platform := image.ThisPlatform()
	text, err := json.Marshal(map[string]any{
		"os": platform.OS, "architecture": platform.Architecture, "config": json.RawMessage(config),
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{}}, "comment": dir, // every script has a tree of its own
	})
	if err != nil {
		return err
	}
	configDigest, err := s.Put(text)
	if err != nil {
		return err
	}
	m := image.Manifest{SchemaVersion: 2, MediaType: image.MediaManifest, Config: image.Descriptor{MediaType: image.MediaConfig, Digest: configDigest, Size: int64(len(text))}}
	text, err = json.Marshal(m)
	if err != nil {
		return err
	}
	digest, err := s.Put(text)
	if err != nil {
		return err
	}
	parsed, err := s.ImageConfig(&m)
	if err != nil {
		return err
	}
	if _, err := s.MakeRoot(digest, parsed, func(f *os.File) (int64, error) { return writeTree(f, dir) }); err != nil {
		return err
	}
	ref, err := image.ParseRef(name)
	if err != nil {
		return err
	}
	return s.Tag(ref, image.Descriptor{MediaType: image.MediaManifest, Digest: digest, Size: int64(len(text))}, platform, digest)
}

// writeTree writes the files of a folder as an EROFS image.
func writeTree(f *os.File, dir string) (int64, error) {
	w, err := erofs.NewWriter(f)
	if err != nil {
		return 0, err
	}
	nodes := map[string]*erofs.Inode{}
	err = filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return err
		}
		n := &erofs.Inode{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Mtime: st.Mtim.Sec}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			n.Children = map[string]*erofs.Inode{}
		case unix.S_IFLNK:
			n.Target, err = os.Readlink(name)
		case unix.S_IFREG:
			var in *os.File
			if in, err = os.Open(name); err == nil {
				n.Data, err = w.Copy(in)
				err = errors.Join(err, in.Close())
			}
		}
		nodes[name] = n
		if name != dir {
			nodes[filepath.Dir(name)].Children[filepath.Base(name)] = n
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	return w.Close(nodes[dir])
}

// dropImages takes away what a script that failed may have left: sandboxes of images, and the mounts of its store.
func dropImages(work string) {
	if _, err := os.Stat(work + "/images"); err != nil || os.Geteuid() != 0 {
		return
	}
	_ = exec.Command("/bin/sh", "-c", `for s in $("$0" ps --root "$1" -aq); do "$0" rm --root "$1" -f $s; done`, bin+"/brig", work+"/run/brig").Run()
	_ = exec.Command(bin+"/brig", "image", "--store", work+"/images", "prune", "--all").Run()
}
