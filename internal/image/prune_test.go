package image

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"brig/internal/testenv"
)

// TestShared: what images share stays with the last of them, and what a prune says it took is what the disk has again.
func TestShared(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	names := []string{"example.test/a:1", "example.test/b:1"}
	for _, n := range names { // one configuration, and a layer each
		addImage(t, s, n, strings.Repeat(n, 10000))
	}
	for i, want := range []Pruned{{Roots: 1, Blobs: 2}, {Roots: 1, Blobs: 3}} {
		ref, err := ParseRef(names[i])
		if err != nil {
			t.Fatal(err)
		}
		before := diskSize(s.path("blobs")) + diskSize(s.path("roots"))
		p, err := s.Remove(ref)
		after := diskSize(s.path("blobs")) + diskSize(s.path("roots"))
		if want.Bytes = before - after; err != nil || p != want {
			t.Errorf("%s: %+v, and it should be %+v: %v", names[i], p, want, err)
		}
		if err := checkAll(s); err != nil {
			t.Error(err)
		}
	}
}

// TestHundreds: so many images are mounted at once, found, and all let go of by one prune.
func TestHundreds(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Root)
	s := newStore(t)
	const many = 200
	images := make([]*Image, many)
	for n := range images {
		name := fmt.Sprintf("example.test/app:%d", n)
		addImage(t, s, name, name)
		i, err := s.Use(name, ThisPlatform())
		if err != nil {
			t.Fatal(err)
		}
		images[n] = i
		if _, err := i.Mount(); err != nil {
			t.Fatal(err)
		}
	}
	if p, err := s.Prune(true); err != nil || p.Roots+p.Blobs > 0 {
		t.Errorf("all are used: %+v, %v", p, err)
	}
	var errs []error
	for _, i := range images {
		errs = append(errs, i.Close())
	}
	if p, err := s.Prune(true); err != nil || p.Roots != many || errors.Join(errs...) != nil {
		t.Errorf("%+v, %v, %v", p, err, errs)
	}
	if exists(s.mounts) {
		t.Error("something is still mounted")
	}
}

// TestBusy: prune can tell beforehand that it would wait.
func TestBusy(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	if s.Busy() {
		t.Error("nobody is adding")
	}
	session, err := s.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if !s.Busy() {
		t.Error("somebody is adding")
	}
	session.End()
	if s.Busy() {
		t.Error("nobody is adding any more")
	}
}
