package oci

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"text/tabwriter"
	"time"
)

func (a *app) state(*flag.FlagSet) func([]string) error {
	return func(args []string) error {
		id := args[0]
		c, err := a.open(id)
		if err != nil {
			return err
		}
		return writeJSON(a.out, c.describe())
	}
}

// description is what `state` and `list` print; runc's keys.
type description struct {
	Version     string            `json:"ociVersion"`
	ID          string            `json:"id"`
	PID         int               `json:"pid"`
	Status      string            `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Owner       string            `json:"owner"`
}

func (c *container) describe() description {
	status := c.status()
	s := c.ociState(status)
	return description{s.Version, c.id, s.Pid, status, c.Bundle, c.Rootfs, c.Created, s.Annotations, c.Owner}
}

func (a *app) list(f *flag.FlagSet) func([]string) error {
	var format string
	var quiet bool
	f.StringVar(&format, "format", "table", "table or json")
	f.StringVar(&format, "f", "table", "short for --format")
	f.BoolVar(&quiet, "quiet", false, "only the ids")
	f.BoolVar(&quiet, "q", false, "short for --quiet")
	return func([]string) error {
		entries, err := os.ReadDir(a.root)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		all := []description{}
		for _, e := range entries {
			if !e.IsDir() {
				continue
			}
			c, err := a.open(e.Name())
			if errors.Is(err, errNotExist) { // a create that was killed before its state was written, or is about to write it
				err = fmt.Errorf("%w yet; brig-oci delete %s removes what a killed create has left", err, e.Name())
			}
			if err != nil { // as runc: said, and the others are listed
				fmt.Fprintf(a.err, "load container %s: %v\n", e.Name(), err)
				continue
			}
			all = append(all, c.describe())
		}
		switch {
		case quiet:
			for _, d := range all {
				fmt.Fprintln(a.out, d.ID)
			}
			return nil
		case format == "json":
			return json.NewEncoder(a.out).Encode(all)
		case format != "table":
			return fmt.Errorf("invalid format option: %q: there are table and json", format)
		}
		w := tabwriter.NewWriter(a.out, 12, 1, 3, ' ', 0) // runc's columns
		fmt.Fprint(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\n")
		for _, d := range all {
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", d.ID, d.PID, d.Status, d.Bundle, d.Created.Format(time.RFC3339Nano), d.Owner)
		}
		return w.Flush()
	}
}
