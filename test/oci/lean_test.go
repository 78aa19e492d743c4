package oci

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"brig/internal/testenv"
)

// Every engine starts brig-oci several times a container, so what it links and does before main counts.
const (
	mostBytes = 8 << 20 // of the stripped binary
	mostInit  = 0.5     // milliseconds of package initialisation over an empty Go program: the design's number
)

// banned are packages that brig-oci never links, and why.
var banned = map[string]string{
	"net/http":                               "it talks to no network",
	"crypto/tls":                             "it talks to no network",
	"github.com/vishvananda/netlink":         "the engine makes the networks",
	"github.com/google/nftables":             "the engine makes the networks",
	"github.com/google/go-containerregistry": "the engine has the images",
	"github.com/goccy/go-yaml":               "a bundle is JSON",
	"go.yaml.in/yaml":                        "a bundle is JSON",
	"github.com/spf13/cobra":                 "its flags are made for the one verb that is called",
	"text/template":                          "it keeps the linker from leaving methods out",
	"brig/internal/policy":                   "a bundle is a spec already",
	"brig/internal/cli":                      "it is another front end",
	"brig/internal/sandbox":                  "nobody supervises a container of an engine's",
}

// bannedFromBrig are packages that brig never links: what talks to registries and reads strangers' archives is in brig-image.
var bannedFromBrig = map[string]string{
	"net/http":                               "brig-image talks to registries",
	"crypto/tls":                             "brig-image talks to registries",
	"github.com/klauspost":                   "brig-image unpacks",
	"archive/tar":                            "brig-image unpacks",
	"brig/internal/layers":                   "brig-image unpacks",
	"brig/internal/erofs":                    "brig-image makes file systems",
	"brig/internal/image/archive":            "brig-image reads archives",
	"brig/internal/imagecli":                 "it is another front end",
	"github.com/google/go-containerregistry": "brig-image talks to registries",
}

// TestLinksLittle: none of the packages above is in them, nor anything below those.
func TestLinksLittle(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Program("go"))
	for program, never := range map[string]map[string]string{"brig-oci": banned, "brig": bannedFromBrig} {
		out, err := exec.Command("go", "list", "-deps", "brig/cmd/"+program).Output() //nolint:gosec // a program of the tree
		if err != nil {
			t.Fatal(err)
		}
		for _, dep := range strings.Fields(string(out)) {
			for name, why := range never {
				if dep == name || strings.HasPrefix(dep, name+"/") {
					t.Errorf("%s links %s: %s", program, dep, why)
				}
			}
		}
	}
}

// TestIsLean holds its size and the cost of its package initialisation.
func TestIsLean(t *testing.T) {
	testenv.Check(t, testenv.Program("go"))
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty.go")
	if err := os.WriteFile(empty, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	build := func(name, what string) string {
		file := filepath.Join(dir, name)
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid=", "-o", file, what)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return file
	}
	lean, none := build("lean", "brig/cmd/brig-oci"), build("none", empty)
	info, err := os.Stat(lean)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > mostBytes {
		t.Errorf("brig-oci has %d bytes, more than %d", info.Size(), mostBytes)
	}
	theirs := initTime(t, none, 0)
	ours := initTime(t, lean, theirs+mostInit)
	t.Logf("%d bytes; package init %.3f ms, of an empty program %.3f ms", info.Size(), ours, theirs)
	if ours-theirs > mostInit {
		t.Errorf("package init takes %.3f ms, that of an empty program %.3f: more than %.1f over it", ours, theirs, mostInit)
	}
}

// initTime is the shortest of some runs, in milliseconds: what else the machine does only adds to it, and a busy one is asked again, for a time
// that is short enough. GODEBUG=inittrace=1 has a line for each package, "init NAME @START ms, DURATION ms clock, …" (package runtime).
func initTime(t *testing.T, program string, enough float64) float64 {
	t.Helper()
	best := 1e9
	for runs := 0; runs < 25 || runs < 300 && best > enough && enough > 0; runs++ {
		cmd := exec.Command(program, "--version")
		cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		sum := 0.0
		for line := range strings.Lines(string(out)) {
			if f := strings.Fields(line); len(f) > 4 && f[0] == "init" {
				d, err := strconv.ParseFloat(f[4], 64)
				if err != nil {
					t.Fatalf("%q: %v", line, err)
				}
				sum += d
			}
		}
		best = min(best, sum)
	}
	return best
}
