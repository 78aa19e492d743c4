package oci

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

func (a *app) ps(f *flag.FlagSet) func([]string) error {
	var format string
	f.StringVar(&format, "format", "table", "table or json")
	f.StringVar(&format, "f", "table", "short for --format")
	return func(args []string) error {
		c, err := a.open(args[0])
		if err != nil {
			return err
		}
		pids, err := c.pids()
		if err != nil {
			return err
		}
		if format == "json" {
			return json.NewEncoder(a.out).Encode(pids)
		}
		options := args[1:]
		if len(options) == 0 {
			options = []string{"-ef"}
		}
		out, err := exec.Command("ps", options...).Output() //nolint:gosec // the caller's own options
		if err != nil {
			return fmt.Errorf("ps: %w", err)
		}
		return a.psLines(out, pids)
	}
}

// pids are the container's processes on the host.
func (c *container) pids() ([]int, error) {
	if c.Pod != "" {
		return c.memberPids(), nil
	}
	g := c.group()
	if g == nil {
		return nil, fmt.Errorf("container %s has no cgroup, by which its processes are known", c.id)
	}
	return g.Pids()
}

// psLines passes on the header and the lines of the container's processes.
func (a *app) psLines(out []byte, pids []int) error {
	column := -1
	for i, line := range strings.Split(strings.TrimRight(string(out), "\n"), "\n") {
		fields := strings.Fields(line)
		if i == 0 {
			for n, name := range fields {
				if name == "PID" {
					column = n
				}
			}
			if column < 0 {
				return errors.New("ps prints no PID column")
			}
			fmt.Fprintln(a.out, line)
			continue
		}
		for _, pid := range pids {
			if len(fields) > column && fields[column] == strconv.Itoa(pid) {
				fmt.Fprintln(a.out, line)
			}
		}
	}
	return nil
}
