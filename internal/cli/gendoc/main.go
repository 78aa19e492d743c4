// Command gendoc writes what documentation can be made from the program itself: man pages, completions for bash, zsh and
// fish, and the reference of the policy format. The argument is the docs folder.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"brig/internal/cli"
	"brig/internal/imagecli"
	"brig/internal/oci"
	"brig/internal/policy"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// written is the month that the pages say, which keeps them the same from day to day.
var written = time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)

func main() {
	files, err := generate()
	if err == nil {
		err = write(os.Args[1], files)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gendoc:", err)
		os.Exit(1)
	}
}

func write(dir string, files map[string][]byte) error {
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil { //nolint:gosec // documentation
			return err
		}
		if err := os.WriteFile(file, text, 0o644); err != nil { //nolint:gosec // documentation
			return err
		}
	}
	return nil
}

// generate gives every file by its path below docs.
func generate() (map[string][]byte, error) {
	root := cli.All()
	files := map[string][]byte{}
	tmp, err := os.MkdirTemp("", "brig-doc-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // a temporary folder
	header := &doc.GenManHeader{Section: "1", Source: "Brig", Manual: "Brig", Date: &written}
	// The pages of brig-image take the place of the one of the command that executes it.
	for _, c := range []*cobra.Command{root, imagecli.All()} {
		c.DisableAutoGenTag = true
		if err := doc.GenManTree(c, header, tmp); err != nil {
			return nil, err
		}
	}
	pages, err := os.ReadDir(tmp)
	if err != nil {
		return nil, err
	}
	for _, p := range pages {
		if files["man/"+p.Name()], err = os.ReadFile(filepath.Join(tmp, p.Name())); err != nil {
			return nil, err
		}
	}
	for name, gen := range map[string]func(*bytes.Buffer) error{
		"completions/brig.bash": func(b *bytes.Buffer) error { return root.GenBashCompletionV2(b, true) },
		"completions/_brig":     func(b *bytes.Buffer) error { return root.GenZshCompletion(b) },
		"completions/brig.fish": func(b *bytes.Buffer) error { return root.GenFishCompletion(b, true) },
		"policy.md":             policyReference,
	} {
		var b bytes.Buffer
		if err := gen(&b); err != nil {
			return nil, err
		}
		files[name] = b.Bytes()
	}
	files["man/brig-oci.8"] = oci.Manual()
	for name, text := range oci.Completions() {
		files["completions/"+name] = text
	}
	return files, nil
}

// key is as much of a JSON schema as the reference shows. Properties keeps their order in the file.
type key struct {
	Type        string          `json:"type"`
	Description string          `json:"description"`
	Enum        []any           `json:"enum"`
	Items       *key            `json:"items"`
	Properties  json.RawMessage `json:"properties"`
	Additional  json.RawMessage `json:"additionalProperties"`
}

func policyReference(b *bytes.Buffer) error {
	b.WriteString(`# The policy file

<!-- Written by make doc from internal/policy/schema.json. -->

A policy is a YAML or JSON file that says what a sandbox may do. Whatever it does not say comes from its preset; flags of
` + "`brig run`" + ` are laid over it. ` + "`brig policy check FILE`" + ` checks one, ` + "`brig policy show`" + ` prints what preset, file and flags
make together, ` + "`brig policy schema`" + ` prints the JSON schema for editors.

`)
	b.WriteString("| key | type | what it says |\n|---|---|---|\n")
	var root key
	if err := json.Unmarshal(policy.Schema(), &root); err != nil {
		return err
	}
	return rows(b, "", &root)
}

func rows(b *bytes.Buffer, prefix string, k *key) error {
	names, err := order(k.Properties)
	if err != nil {
		return err
	}
	var inner map[string]*key
	if err := json.Unmarshal(k.Properties, &inner); err != nil {
		return err
	}
	for _, name := range names {
		p := inner[name]
		fmt.Fprintf(b, "| `%s%s` | %s | %s |\n", prefix, name, typeText(p), strings.ReplaceAll(p.Description, "|", `\|`))
		below, path := p, prefix+name+"."
		if p.Items != nil {
			below, path = p.Items, prefix+name+"[]."
		}
		if below.Properties != nil {
			if err := rows(b, path, below); err != nil {
				return err
			}
		}
	}
	return nil
}

func typeText(k *key) string {
	switch {
	case k.Enum != nil:
		words := make([]string, len(k.Enum))
		for i, e := range k.Enum {
			words[i] = fmt.Sprintf("`%v`", e)
		}
		return strings.Join(words, ", ")
	case k.Items != nil:
		return "list of " + typeText(k.Items) + "s"
	case k.Type == "object" && k.Properties == nil:
		return "map of strings"
	}
	return k.Type
}

// order gives the keys of a JSON object as they stand.
func order(object json.RawMessage) ([]string, error) {
	d := json.NewDecoder(bytes.NewReader(object))
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	var names []string
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		names = append(names, name.(string))
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, err
		}
	}
	return names, nil
}
