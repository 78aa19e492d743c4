// Package plan compiles a spec into a launch program.
//
// Its place on the road: policy (or an engine) writes the spec, plan compiles it, launch runs it. Plan is pure: the
// same spec and the same facts give the same program, it makes no system call, and so it is tested without root and
// printed by `brig explain`.
//
// The order of a program, and why:
//
//  1. die with the parent, be non-dumpable, enter the cgroup: nothing else may happen outside the limits;
//  2. stop until the parent has written the id maps, then become root inside;
//  3. make what needs the old root: procfs, sysfs (the kernel wants a visible one), bind sources when rootless;
//  4. enter the new root and drop the old one. From here on no path can lead to the host's files;
//  5. mounts, devices, masks, each by file descriptor; then the root becomes read-only;
//  6. terminal, limits, capabilities, user, no new privileges, LSM label, Landlock;
//  7. stop until the parent gives the start; then close-on-exec for every file, the filter, execve.
package plan
