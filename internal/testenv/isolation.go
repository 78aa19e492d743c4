package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Isolation is the one that a suite's sandboxes are to have: BRIG_TEST_ISOLATION, or native. It makes a matrix of suites that know
// nothing of it.
func Isolation() string {
	if name := os.Getenv("BRIG_TEST_ISOLATION"); name != "" {
		return name
	}
	return "native"
}

// IsolationFlags are what asks `brig run` for it.
func IsolationFlags() []string {
	if Isolation() == "native" {
		return nil
	}
	return []string{"--isolation", Isolation()}
}

// Handler gives the name by which an engine selects the isolation: a link to brig-oci in dir, with the isolation's program beside it.
func Handler(dir, runtime string) (string, error) {
	if Isolation() == "native" {
		return runtime, nil
	}
	if err := BuildIsolation(dir); err != nil {
		return "", err
	}
	link := filepath.Join(dir, "brig-"+Isolation()+"-handler")
	return link, os.Symlink(runtime, link)
}

// BuildIsolation puts the program that the isolation needs into dir, beside brig. gVisor's is of a Go module of its own.
func BuildIsolation(dir string) error {
	if Isolation() != "gvisor" {
		return nil
	}
	to := filepath.Join(dir, "brig-gvisor")
	if from := os.Getenv("BRIG_TEST_BIN"); from != "" {
		return take(from, to, nil)
	}
	mod, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "brig").Output()
	if err != nil {
		return fmt.Errorf("find the tree: %w", err)
	}
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", to, ".") //nolint:gosec // the tree's own
	cmd.Dir = filepath.Join(string(mod[:len(mod)-1]), "gvisor")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build brig-gvisor: %w\n%s", err, out)
	}
	return nil
}
