// Package fault marks the points at which a test kills Brig, to prove that whatever is left half-made is found and
// cleaned by the next command. Without the build tag "faults" a point is nothing.
package fault
