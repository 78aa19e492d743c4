package engine

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The images of every pod: both have the root file system of rootfs.
const (
	imageBox   = "brig.test/box:1"   // runs a shell
	imagePause = "brig.test/pause:1" // sleeps, and collects orphans: a pod's first process
)

// image is what an archive has beside a root file system.
type image struct {
	name    string
	program []string
	user    string
}

// boxImages are the two that the tests here use.
func boxImages() []image {
	return []image{{name: imageBox, program: []string{"/bin/sh"}}, {name: imagePause, program: []string{"/bin/sh", "-c", forever}}}
}

// imageArchive writes an OCI image layout with images of one root file system as a tar archive (image-spec, "image-layout.md").
func imageArchive(t *testing.T, root string, images []image) string {
	t.Helper()
	blobs := map[string][]byte{}
	blob := func(data []byte, mediaType string) map[string]any {
		digest := fmt.Sprintf("%x", sha256.Sum256(data))
		blobs["blobs/sha256/"+digest] = data
		return map[string]any{"mediaType": mediaType, "digest": "sha256:" + digest, "size": len(data)}
	}
	const kind = "application/vnd.oci.image."
	layer := blob(tarOf(t, root), kind+"layer.v1.tar")
	var manifests []map[string]any
	for _, i := range images {
		config := blob(jsonOf(t, map[string]any{
			"architecture": "amd64", "os": "linux",
			"config": map[string]any{"Entrypoint": i.program, "Env": []string{"PATH=/bin"}, "User": i.user},
			"rootfs": map[string]any{"type": "layers", "diff_ids": []any{layer["digest"]}},
		}), kind+"config.v1+json")
		manifest := blob(jsonOf(t, map[string]any{"schemaVersion": 2, "config": config, "layers": []any{layer}}), kind+"manifest.v1+json")
		manifest["annotations"] = map[string]string{"io.containerd.image.name": i.name}
		manifests = append(manifests, manifest)
	}
	blobs["oci-layout"] = jsonOf(t, map[string]string{"imageLayoutVersion": "1.0.0"})
	blobs["index.json"] = jsonOf(t, map[string]any{"schemaVersion": 2, "manifests": manifests})

	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for name, data := range blobs {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "images.tar")
	if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// tarOf is a folder as a layer, owned by root.
func tarOf(t *testing.T, dir string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	err := filepath.Walk(dir, func(path string, st os.FileInfo, err error) error {
		if err != nil || path == dir {
			return err
		}
		link := ""
		if st.Mode()&os.ModeSymlink != 0 {
			if link, err = os.Readlink(path); err != nil {
				return err
			}
		}
		h, err := tar.FileInfoHeader(st, link)
		if err != nil {
			return err
		}
		h.Name, h.Uid, h.Gid = strings.TrimPrefix(path, dir+"/"), 0, 0
		if err := w.WriteHeader(h); err != nil || !st.Mode().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err == nil {
			_, err = w.Write(data)
		}
		return err
	})
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func jsonOf(t *testing.T, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
