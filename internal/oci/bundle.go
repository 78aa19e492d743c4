package oci

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// loadBundle reads a bundle's config.json and makes its relative paths absolute: they are the bundle's (runtime-spec,
// "bundle.md" and "config.md#mounts").
//
// config is the file's name, relative to the bundle (crun's --config).
func (a *app) loadBundle(bundle, config string) (b *bundled, err error) {
	b = &bundled{}
	if b.dir, err = filepath.Abs(bundle); err != nil {
		return nil, err
	}
	name := config
	if !filepath.IsAbs(name) {
		name = filepath.Join(b.dir, config)
	}
	b.text, err = os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		hint := "`brig-oci spec` writes one to begin with"
		if _, err := os.Stat(b.dir); err != nil {
			hint = "there is no such folder"
		}
		return nil, fmt.Errorf("JSON specification file %s not found in %s: %s", config, b.dir, hint) // the first words are runc's
	}
	if err != nil {
		return nil, fmt.Errorf("read the bundle, which --bundle names as a folder: %w", err)
	}
	b.spec, err = a.sealedSpec(b.text, b.dir)
	return b, err
}

// sealedSpec reads the config.json of a container that is about to get a process, and seals the runtime against it. Without id
// maps it has to be sealed, which is done first: it is all done again then.
func (a *app) sealedSpec(text []byte, dir string) (*specs.Spec, error) {
	if !bytes.Contains(text, []byte("uidMappings")) {
		if err := a.seal(); err != nil {
			return nil, err
		}
	}
	spec, err := readSpec(text, dir)
	if err != nil {
		return nil, err
	}
	return spec, a.sealFor(spec)
}

// sealedSpecOf is sealedSpec for a container that is there, and is to get another process.
func (a *app) sealedSpecOf(c *container) (*specs.Spec, error) {
	text, err := c.specText()
	if err != nil {
		return nil, err
	}
	return a.sealedSpec(text, c.Bundle)
}

// bundled is a bundle as it was read.
type bundled struct {
	dir  string
	text []byte // of config.json
	spec *specs.Spec
}

// readSpec reads the config.json of the bundle at dir.
func readSpec(text []byte, dir string) (*specs.Spec, error) {
	spec, err := decodeSpec(text)
	if err != nil {
		// Once more as a whole: parts of it count their offsets anew.
		return nil, fmt.Errorf("%s/config.json: %w", dir, placed(text, cmp.Or(json.Unmarshal(text, new(specs.Spec)), err)))
	}
	if major, _, _ := strings.Cut(spec.Version, "."); major != "1" && !strings.HasPrefix(spec.Version, "0.") {
		return nil, fmt.Errorf("config.json: ociVersion %q: this runtime knows version 1 (%s and older)", spec.Version, specs.Version)
	}
	if spec.Linux == nil {
		spec.Linux = &specs.Linux{}
	}
	if spec.Root != nil && spec.Root.Path != "" && !filepath.IsAbs(spec.Root.Path) {
		spec.Root.Path = filepath.Join(dir, spec.Root.Path)
	}
	allowDevices(spec)
	nameAgent(spec)
	likeRunc(spec)
	for i := range spec.Mounts {
		m := &spec.Mounts[i]
		if bindMount(m) && !filepath.IsAbs(m.Source) {
			m.Source = filepath.Join(dir, m.Source)
		}
	}
	return spec, nil
}

// likeRunc fills in what old bundles leave to the runtime: a destination without a slash starts at the root, one that begins
// with the root's own path on the host is inside it, and a filter
// without flags does not ask for mitigations against speculation (Linux 5.16 made that the kernel's own choice, too).
func likeRunc(spec *specs.Spec) {
	root := "/"
	if spec.Root != nil {
		root = path.Clean(spec.Root.Path) + "/"
	}
	for i := range spec.Mounts {
		if d := spec.Mounts[i].Destination; d != "" && !path.IsAbs(d) {
			spec.Mounts[i].Destination = path.Join("/", d)
		} else if inside, ok := strings.CutPrefix(d, root); ok && root != "/" {
			spec.Mounts[i].Destination = path.Join("/", inside)
		}
	}
	if f := spec.Linux.Seccomp; f != nil && f.Flags == nil {
		f.Flags = []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagSpecAllow}
	}
}

func bindMount(m *specs.Mount) bool {
	if m.Type == "bind" {
		return true
	}
	for _, o := range m.Options {
		if o == "bind" || o == "rbind" {
			return true
		}
	}
	return false
}
