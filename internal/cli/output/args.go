package output

import (
	"fmt"

	"github.com/spf13/cobra"
)

// Args is a check of how many words a command takes, in words for people: what is wrong, and how the command is called.
func Args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case check(c, args) == nil:
			return nil
		case len(args) == 0:
			return fmt.Errorf("something is missing; it is `%s`", c.UseLine())
		}
		if len(args) == 1 {
			return fmt.Errorf("%q alone is not what this takes; it is `%s`", args[0], c.UseLine())
		}
		return fmt.Errorf("%d words are not what this takes; it is `%s`", len(args), c.UseLine())
	}
}
