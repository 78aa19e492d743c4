package testenv

import (
	"fmt"
	"os"
	"path/filepath"
)

// Absent gives what is to be run in place of program when BRIG_ABSENT names something that the kernel is to seem to lack (the
// modes of test/absent), or program itself. Files are made in dir.
func Absent(dir, program string) (string, error) {
	mode := os.Getenv("BRIG_ABSENT")
	if mode == "" {
		return program, nil
	}
	absent := filepath.Join(dir, "absent")
	if err := Build(absent, "brig/test/absent"); err != nil {
		return "", err
	}
	wrapped := filepath.Join(dir, "absent-"+filepath.Base(program))
	script := fmt.Sprintf("#!/bin/sh\nexec '%s' '%s' '%s' \"$@\"\n", absent, mode, program)
	return wrapped, os.WriteFile(wrapped, []byte(script), 0o755) //nolint:gosec // a program
}
