package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"brig/internal/image"
	"brig/internal/image/build"
	"brig/internal/layers"
)

// Options of a load or an import.
type Options struct {
	Build build.Options
	// Name is what the image is called, whatever the archive calls it. The archive must have one image then.
	Name string
	// Platform is the one to take; "" for this machine's, or the only one there is.
	Platform string
	// AllPlatforms takes every image that the archive has of an index, too.
	AllPlatforms bool
	// Accept is asked before an image is unpacked and gets its name: trust may be demanded by name. It may be nil.
	Accept func(ref image.Ref, target, manifest image.Digest) error
	// Progress is told of bytes that are to be brought in, and of those that were. It may be nil.
	Progress func(want, done int64)
	// Notice is told what was left out. It may be nil.
	Notice func(text string)
}

// Loaded is an image that came in.
type Loaded struct {
	Ref      image.Ref
	Target   image.Descriptor // an index or a manifest
	Platform image.Platform
	Manifest image.Digest
}

// unnamed is what images without a name are kept under, with their digest.
const unnamed = "localhost/unnamed"

// Load brings the images of an archive in: an OCI image layout or an archive of docker's, as a folder or a tar, which may be
// compressed. An archive that is both, as docker writes them since version 25, is read as a layout. Names are given last: when one image of
// the archive cannot be used, none of them has a name.
func Load(ctx context.Context, s *image.Store, in Input, o Options) ([]Loaded, error) {
	session, err := s.Begin()
	if err != nil {
		return nil, err
	}
	defer session.End()
	l := &loader{ctx: ctx, s: s, o: o}
	src, err := openSource(ctx, s, in, o.Build.Limits, l.progress)
	if err != nil {
		return nil, err
	}
	defer src.close() //nolint:errcheck // read only
	l.src = src
	if err := l.find(); err != nil {
		return nil, err
	}
	if err := l.named(); err != nil {
		return nil, err
	}
	var done []Loaded
	for _, f := range l.found {
		loaded, err := f.bring()
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", f.title(), err)
		}
		done = append(done, loaded...)
	}
	return done, l.tag(done)
}

// loader is one load.
type loader struct {
	ctx   context.Context
	s     *image.Store
	src   source
	o     Options
	found []*found
	// referrers are artifacts of the layout by the digest that they refer to, and loose ones refer to the image that is beside them.
	referrers map[image.Digest][]image.Descriptor
	loose     []image.Descriptor
	// packed are compressed layers that were brought in, by their names in the archive.
	packed map[string]image.Descriptor
}

// found is an image that the archive has.
type found struct {
	*loader
	names []image.Ref
	// where is the image's place in the archive, for errors where there is no name.
	where string
	// target is what a layout's index points to; docker is an entry of a manifest.json.
	target image.Descriptor
	docker *dockerImage
}

func (f *found) title() string {
	if len(f.names) > 0 {
		return f.names[0].String()
	}
	return f.where
}

// bring has the image in the store, with its root file system, under no name.
func (f *found) bring() ([]Loaded, error) {
	if f.docker != nil {
		return f.bringDocker()
	}
	return f.bringTarget()
}

// find tells by its files which kind of archive it is.
func (l *loader) find() error {
	switch {
	case has(l.src, "index.json"):
		return l.findLayout()
	case has(l.src, "manifest.json"):
		return l.findDocker()
	case has(l.src, "repositories"):
		return errors.New("the archive was saved by a docker older than 1.10, which knew no digests: load it there and save it anew")
	}
	if t, ok := l.src.(*tarball); ok && len(t.files) == 0 {
		return errors.New("it is empty")
	}
	return errors.New("this is no archive of images: it has neither index.json nor manifest.json; a root file system is brought in by `brig image import`")
}

// named gives the one image the name that was asked for.
func (l *loader) named() error {
	if l.o.Name == "" || len(l.found) == 0 {
		return nil
	}
	if len(l.found) > 1 {
		var titles []string
		for _, f := range l.found {
			titles = append(titles, f.title())
		}
		return fmt.Errorf("one name cannot be that of %d images; the archive has %s", len(titles), strings.Join(titles, ", "))
	}
	ref, err := image.ParseRef(l.o.Name)
	if err != nil {
		return err
	}
	if ref.Digest() != "" {
		return fmt.Errorf("%s: a digest is no name that can be given", l.o.Name)
	}
	l.found[0].names = []image.Ref{ref}
	return nil
}

// finish makes the root file system of a manifest whose blobs are here, and gives what it is under each of its names. Before
// anything of the image is unpacked it is asked whether it may have them.
func (f *found) finish(target image.Descriptor, manifest image.Digest) ([]Loaded, error) {
	if err := f.bringAttached(target.Digest, manifest); err != nil {
		return nil, err
	}
	names := f.names
	if len(names) == 0 {
		ref, err := image.ParseRef(unnamed + "@" + string(target.Digest))
		if err != nil {
			return nil, err
		}
		names = []image.Ref{ref}
	}
	for _, n := range names {
		if f.o.Accept == nil {
			break
		}
		if err := f.o.Accept(n, target.Digest, manifest); err != nil {
			return nil, err
		}
	}
	platform, err := f.root(manifest)
	if err != nil {
		return nil, err
	}
	var list []Loaded
	for _, n := range names {
		list = append(list, Loaded{
			Ref: n, Target: image.Descriptor{MediaType: target.MediaType, Digest: target.Digest, Size: target.Size},
			Platform: platform, Manifest: manifest,
		})
	}
	return list, nil
}

// root makes the root file system, unless it is here. It does not wait for its end when the command is to end: a half-made one is nothing, and
// is written over by the next.
func (f *found) root(manifest image.Digest) (image.Platform, error) {
	type result struct {
		record *image.Record
		err    error
	}
	done := make(chan result, 1)
	go func() {
		r, err := build.Root(f.s, manifest, f.o.Build)
		done <- result{r, err}
	}()
	select {
	case <-f.ctx.Done():
		return image.Platform{}, context.Cause(f.ctx)
	case r := <-done:
		if r.err != nil {
			return image.Platform{}, r.err
		}
		if p := r.record.Config.Platform; p.OS != "" || p.Architecture != "" {
			return p, nil
		}
		p, _, err := f.platform() // old tools say nothing
		return p, err
	}
}

// tag gives the names.
func (l *loader) tag(list []Loaded) error {
	for _, i := range list {
		if err := l.s.Tag(i.Ref, i.Target, i.Platform, i.Manifest); err != nil {
			return err
		}
	}
	return nil
}

// platform is the one asked for, and whether it was asked for.
func (l *loader) platform() (image.Platform, bool, error) {
	p, err := image.ParsePlatform(l.o.Platform)
	return p, l.o.Platform != "", err
}

// reference reads a name that an archive gives. One that is no reference is no name.
func (l *loader) reference(text string) (image.Ref, bool) {
	ref, err := image.ParseRef(text)
	if err != nil {
		l.notice("the archive's name " + quote(text) + " is left out: it is no image reference")
		return image.Ref{}, false
	}
	return ref, ref.Digest() == ""
}

func (l *loader) notice(text string) {
	if l.o.Notice != nil {
		l.o.Notice(text)
	}
}

func (l *loader) progress(want, done int64) {
	if l.o.Progress != nil {
		l.o.Progress(want, done)
	}
}

// ingest brings a blob in from the archive's file of a name.
func (l *loader) ingest(name string, d image.Digest, size int64) error {
	if l.s.HasBlob(d, size) {
		return nil
	}
	f, err := l.src.open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the archive lacks %s", quote(name))
	}
	if err != nil {
		return err
	}
	defer f.close() //nolint:errcheck // read only
	if size >= 0 && f.size != size {
		return fmt.Errorf("%s has %d bytes, and %d were announced", quote(name), f.size, size)
	}
	if f.size > l.o.Build.Limits.Size {
		return &layers.LimitError{Limit: "Size", Max: l.o.Build.Limits.Size, What: quote(name) + " has more bytes than it may"}
	}
	return l.copy(f, f.name, d, f.size)
}

// copy brings a blob in.
func (l *loader) copy(r io.Reader, name string, d image.Digest, size int64) error {
	if err := l.s.Room(size); err != nil {
		return err
	}
	l.progress(size, 0)
	err := l.s.Ingest(d, size, func(p *image.Partial) error {
		// What another attempt left may be of another archive; to read it all again costs little here.
		if err := p.Reset(); err != nil {
			return err
		}
		_, err := io.Copy(p, &meter{reader{l.ctx, r}, l.progress})
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", quote(name), err)
	}
	return nil
}

// needed are a manifest's blobs, each once.
func needed(m *image.Manifest) []image.Descriptor {
	var list []image.Descriptor
	for _, d := range append([]image.Descriptor{m.Config}, m.Layers...) {
		if !slices.ContainsFunc(list, func(x image.Descriptor) bool { return x.Digest == d.Digest }) {
			list = append(list, d)
		}
	}
	return list
}
