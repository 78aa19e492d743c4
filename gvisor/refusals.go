package main

import (
	"maps"
	"runtime"
	"slices"

	sentrylinux "gvisor.dev/gvisor/pkg/sentry/syscalls/linux"
)

// calls are the names of the system calls that this kernel has, in the order of their numbers; none when one of them has no name of its
// own, by which a filter would mean it alone.
func calls() (names []string) {
	table := sentrylinux.AMD64
	if runtime.GOARCH == "arm64" {
		table = sentrylinux.ARM64
	}
	seen := map[string]bool{"": true}
	for _, nr := range slices.Sorted(maps.Keys(table.Table)) {
		name := table.Table[nr].Name
		if seen[name] {
			return nil
		}
		seen[name] = true
		names = append(names, name)
	}
	return names
}
