//go:build !amd64

package main

import "gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"

// compiledFilters: genfilters must run on the architecture that its filters are for.
func compiledFilters() map[string]precompiledseccomp.Program { return nil }
