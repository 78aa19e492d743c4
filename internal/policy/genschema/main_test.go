package main

import (
	"bytes"
	"os"
	"testing"
)

func TestTheCommittedSchemaIsCurrent(t *testing.T) {
	t.Parallel()
	want, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile("../schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, want) {
		t.Error("internal/policy/schema.json is out of date: run go generate ./internal/policy")
	}
}
