// Command isolation runs suites once under native isolation and once under another one, and tells what is otherwise in the second run:
// what the suites say (testenv.Difference), held against what went through. See `make test-isolation`.
//
//	isolation [-isolation gvisor] [-native=false] [-only SUITE] [-page docs/differences-gvisor.md [-write]]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"

	"brig/internal/testenv"

	"golang.org/x/sys/unix"
)

// suite is one that asks testenv for the isolation.
type suite struct {
	// name is its folder below test.
	name string
	// what it holds, for the page.
	what string
	// skip are tests that name their isolation themselves, and run with the rest of the tree.
	skip string
}

var suites = []suite{
	{"script", "what a person does at a terminal", ""},
	{"engine", "containerd, its CRI plugin, Docker, Podman, conmon", ""},
	{"oci", "what an engine asks of brig-oci, by hand", ""},
	{"validation", "the OCI validation suite of opencontainers/runtime-tools", ""},
	{"attack", "attacks from within, which must not get out: what is otherwise is in the guest's own kernel", "^Test(Compromised|Lying|Raid)"},
}

type options struct {
	isolation, only, page string
	native, write         bool
}

func main() {
	var o options
	flag.StringVar(&o.isolation, "isolation", "gvisor", "the other isolation")
	flag.BoolVar(&o.native, "native", true, "run the suites under native isolation, too; false where they have just passed there, whole")
	flag.StringVar(&o.only, "only", "", "run this suite alone")
	flag.StringVar(&o.page, "page", "", "hold the differences against this page of the docs")
	flag.BoolVar(&o.write, "write", false, "write the page instead")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, &o); err != nil {
		fmt.Fprintln(os.Stderr, "test/isolation:", err)
		os.Exit(1) //nolint:gocritic // nothing is left to undo
	}
}

func run(ctx context.Context, o *options) error {
	dir := filepath.Join("build", "isolation")
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // the tree's own
		return err
	}
	var failed []error
	var pages []result
	for i := range suites {
		s := &suites[i]
		if o.only != "" && s.name != o.only {
			continue
		}
		r, err := both(ctx, o, s, dir)
		if err != nil {
			failed = append(failed, fmt.Errorf("suite %s: %w", s.name, err))
		}
		pages = append(pages, result{s, r})
	}
	if o.only != "" && len(pages) == 0 {
		return fmt.Errorf("no suite %q", o.only)
	}
	if err := errors.Join(failed...); err != nil || o.only != "" {
		return err
	}
	return compare(o, markdown(o.isolation, pages))
}

// result is what a suite said under the other isolation.
type result struct {
	suite *suite
	*report
}

// both runs a suite under the two isolations, or the other alone, and gives what it said under the other.
func both(ctx context.Context, o *options, s *suite, dir string) (*report, error) {
	reports := map[string]*report{}
	for _, isolation := range []string{"native", o.isolation} {
		if isolation == "native" && !o.native {
			continue
		}
		r, err := one(ctx, s, isolation)
		if err == nil {
			err = r.save(filepath.Join(dir, s.name+"-"+isolation+".json"))
		}
		if err != nil {
			return &report{}, err
		}
		fmt.Printf("== %s, %s: %s\n", s.name, isolation, r.counts())
		reports[isolation] = r
	}
	list, err := testenv.ReadDifferences(filepath.Join("test", s.name, "testdata", o.isolation+".json"))
	if err != nil {
		return &report{}, err
	}
	other := reports[o.isolation]
	if !o.native {
		reports["native"] = other.passed()
	}
	return other, judge(reports["native"], other, list)
}

// one runs a suite under an isolation.
func one(ctx context.Context, s *suite, isolation string) (*report, error) {
	args := []string{"test", "-json", "-count=1", "-timeout", "15m"}
	if s.skip != "" {
		args = append(args, "-skip", s.skip)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./test/"+s.name)...) //nolint:gosec // the tree's own
	cmd.Env = append(os.Environ(), "BRIG_TEST_ISOLATION="+isolation)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r, err := readReport(out)
	werr := cmd.Wait()
	if err == nil && werr != nil && len(r.failures()) == 0 {
		err = fmt.Errorf("go test: %w\n%s", werr, strings.Join(r.words[""], ""))
	}
	return r, err
}
