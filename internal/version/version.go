// Package version holds the version that the build stamps into every program.
package version

// Version is set by the build (the Makefile's VERSION).
var Version = "development"
