// Package apparmor writes an AppArmor profile from a spec, has apparmor_parser compile it, loads it into the kernel for as long as
// sandboxes run under it, and takes it out again.
//
// Its place on the road: package sandbox asks Load before a start and Hold.Release after the end; package mac has the name
// written to attr/exec. Profile is pure and serves `brig policy apparmor`.
//
// A profile is named by a digest of its rules, of the parser and of the kernel: sandboxes of the same policy share one, and
// its compiled form is kept, so that only the first start of a policy waits for the parser.
package apparmor
