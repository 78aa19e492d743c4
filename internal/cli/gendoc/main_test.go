package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestTheCommittedDocumentationIsCurrent(t *testing.T) {
	t.Parallel()
	files, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		have, err := os.ReadFile(filepath.Join("../../../docs", name))
		if err != nil || !bytes.Equal(have, want) {
			t.Errorf("docs/%s is out of date (%v): run make doc", name, err)
		}
	}
	for _, dir := range []string{"man", "completions"} {
		entries, err := os.ReadDir(filepath.Join("../../../docs", dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if _, ok := files[dir+"/"+e.Name()]; !ok {
				t.Errorf("docs/%s/%s is made by nothing any more: remove it", dir, e.Name())
			}
		}
	}
}
