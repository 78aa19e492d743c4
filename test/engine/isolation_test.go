package engine

import (
	"os"
	"path/filepath"

	"brig/internal/testenv"
)

// selectIsolation has every engine call the runtime by the name that selects the suite's isolation, as docs/engines.md has it for all of
// them: a link is all that they are told.
func selectIsolation(dir string) error {
	if testenv.Isolation() == "native" {
		return nil
	}
	if err := testenv.BuildIsolation(dir); err != nil {
		return err
	}
	link := filepath.Join(dir, "brig-"+testenv.Isolation()+"-handler")
	if err := os.Symlink(runtime, link); err != nil {
		return err
	}
	runtime = link
	return nil
}
