package annotation

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestNames reads the package's own source: every key has the prefix, none is there twice, and each is explained.
func TestNames(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "annotation.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for _, d := range file.Decls {
		group, ok := d.(*ast.GenDecl)
		if !ok || group.Tok != token.CONST {
			continue
		}
		var doc string
		for _, s := range group.Specs {
			c := s.(*ast.ValueSpec)
			name := c.Names[0].Name
			value, err := strconv.Unquote(c.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			if c.Doc != nil {
				doc = c.Doc.Text()
			}
			if !strings.Contains(doc, name) {
				t.Errorf("%s is not explained", name)
			}
			if slices.Contains([]string{"KeepGroups", "MountContext", "FailUnknownCalls"}, name) {
				continue // crun's
			}
			if !strings.HasPrefix(value, Prefix) || strings.ToLower(value) != value || name != "Prefix" && value == Prefix {
				t.Errorf("%s is %q", name, value)
			}
			if seen[value] != "" {
				t.Errorf("%s and %s are both %q", name, seen[value], value)
			}
			seen[value] = name
		}
	}
	if len(seen) < 10 {
		t.Errorf("only %d names were found", len(seen))
	}
}
