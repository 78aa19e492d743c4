package cli

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"brig/internal/mac"
	"brig/internal/mac/selinux"

	"github.com/spf13/cobra"
)

// selinux installs and removes Brig's policy module.
func (a *app) selinux() *cobra.Command {
	c := &cobra.Command{
		Use:   "selinux",
		Short: "install or remove Brig's SELinux policy module",
		Long: "Install or remove the policy module that has the domains brig_t and brig_net_t, in which sandboxes run, each with two categories\n" +
			"of its own. It takes semodule(8) and root, and some seconds.",
		Args: cobra.NoArgs,
	}
	install := &cobra.Command{Use: "install", Short: "load the module, now and at each boot", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		return installModule()
	}}
	remove := &cobra.Command{Use: "remove", Short: "take the module out of the policy", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		return semodule("-r", selinux.ModuleName)
	}}
	status := &cobra.Command{Use: "status", Short: "say whether SELinux enforces and knows the module", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		return a.moduleStatus()
	}}
	show := &cobra.Command{Use: "show", Short: "print the module, in CIL", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		_, err := a.out.Write(selinux.Module)
		return err
	}}
	c.AddCommand(install, remove, status, show)
	return c
}

func installModule() error {
	dir, err := os.MkdirTemp("", "brig-selinux-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, selinux.ModuleName+".cil")
	if err := os.WriteFile(file, selinux.Module, 0o600); err != nil {
		return err
	}
	return semodule("-i", file)
}

func semodule(args ...string) error {
	out, err := exec.Command("semodule", args...).CombinedOutput() //nolint:gosec // words and a file of ours
	if errors.Is(err, exec.ErrNotFound) {
		return errors.New("semodule is not installed; Debian: policycoreutils")
	}
	if err != nil {
		return fmt.Errorf("semodule %s: %w: %s", args[0], err, out)
	}
	return nil
}

func (a *app) moduleStatus() error {
	host := mac.ReadHost()
	if !host.SELinux {
		return errors.New("this kernel runs without SELinux")
	}
	known, err := selinux.Installed()
	if err != nil {
		return err
	}
	mode, module := "permissive", "not installed"
	if host.Enforcing {
		mode = "enforcing"
	}
	if known {
		module = "installed"
	}
	_, err = fmt.Fprintf(a.out, "SELinux is %s, Brig's module is %s\n", mode, module)
	return err
}
