package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
)

func (a *app) image() *cobra.Command {
	return &cobra.Command{
		Use: "image COMMAND", Short: "pull, verify, keep and show images", DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error { return a.becomeImage(args) },
	}
}

// imageProgram is brig-image, which lies beside brig: the program that `brig image` is.
func imageProgram() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the program brig-image: %w", err)
	}
	program := filepath.Join(filepath.Dir(self), "brig-image")
	if _, err := os.Stat(program); err != nil {
		return "", fmt.Errorf("images are the work of the program brig-image, which belongs beside %s: %w", self, err)
	}
	return program, nil
}

// becomeImage turns this process into brig-image.
func (a *app) becomeImage(args []string) error {
	program, err := imageProgram()
	if err != nil {
		return err
	}
	err = syscall.Exec(program, append([]string{"brig-image"}, args...), os.Environ()) //nolint:gosec // the program beside this one
	return fmt.Errorf("execute %s: %w", program, err)
}
