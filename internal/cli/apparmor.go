package cli

import (
	"fmt"

	"brig/internal/sandbox"

	"github.com/spf13/cobra"
)

// policyAppArmor prints the profile that `run` with the same flags would load. It needs neither root nor AppArmor.
func (a *app) policyAppArmor() *cobra.Command {
	var f policyFlags
	var name string
	c := &cobra.Command{
		Use:   "apparmor [flags of run] IMAGE [ARG...] | apparmor [flags of run] -- PROGRAM [ARG...]",
		Short: "print the AppArmor profile that run would load",
		Long: "Print the AppArmor profile that `brig run` with the same flags writes from the policy, on this host or any other.\n" +
			"Nothing is loaded. What is printed can be loaded with apparmor_parser and named with --security-opt apparmor=NAME.",
		DisableFlagsInUseLine: true, ValidArgsFunction: f.images,
		RunE: func(c *cobra.Command, args []string) error {
			made, err := a.prepare(c, &f, args, false)
			if err != nil {
				return err
			}
			defer made.close()
			text, err := sandbox.ProfileText(name, made.spec)
			if err == nil {
				_, err = fmt.Fprint(a.out, text)
			}
			return err
		},
	}
	c.Flags().SetInterspersed(false)
	c.Flags().SortFlags = false
	c.Flags().StringVar(&name, "profile-name", "brig", "`NAME` of the profile")
	f.register(c.Flags())
	f.complete(c)
	return c
}
