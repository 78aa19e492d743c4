//go:build cgo

package main

// The kernel's stub processes are forks of this one without a C library, and die in one that has it. So this does not compile.
var _ = brigGvisorIsBuiltWithCGO_ENABLED_0
