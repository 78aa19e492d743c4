// Package host says what this kernel and machine can do.
//
// Its place on the road: package plan takes a few of its facts (LandlockABI, the cgroup tree) as plain values, and
// brig doctor shows Doctor's report. A probe asks the kernel by the cheapest call that cannot change anything, runs only when asked, and has
// three outcomes: yes, no with the reason, or unknown, which is neither remembered nor guessed away. Nothing is stored beyond
// the process: a reboot, a module or a sysctl changes the truth.
//
// Functions that a start of a sandbox needs stand alone and cost a system call or two; Doctor, which may start
// processes and make detached mounts, is for people.
package host
