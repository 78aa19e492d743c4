package testenv

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Build builds programs of the tree, static: to is a file, or a folder when it ends in a slash; args are go build's. Where
// BRIG_TEST_BIN names a folder, as in a guest without Go, the programs are taken from there by their names.
func Build(to string, args ...string) error { return BuildFor("", to, args...) }

// BuildFor is Build for another architecture than this one.
func BuildFor(arch, to string, args ...string) error {
	if from := os.Getenv("BRIG_TEST_BIN"); from != "" {
		return take(from, to, args)
	}
	cmd := exec.Command("go", append([]string{"build", "-o", to}, args...)...) //nolint:gosec // the tree's own
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if arch != "" {
		cmd.Env = append(cmd.Env, "GOARCH="+arch)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

func take(from, to string, args []string) error {
	if !strings.HasSuffix(to, "/") {
		return copyProgram(filepath.Join(from, filepath.Base(to)), to)
	}
	for _, a := range args {
		if strings.HasPrefix(a, "-") {
			continue
		}
		if err := copyProgram(filepath.Join(from, filepath.Base(a)), to+filepath.Base(a)); err != nil {
			return err
		}
	}
	return nil
}

func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("take a program that was built beforehand: %w", err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755) //nolint:gosec // a program
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}
