// Package seccomp holds Brig's system-call tables, its built-in profiles and the compiler from an OCI seccomp object to
// the BPF program the kernel loads.
//
// On the road of a run, policy puts the object that [Profile] or [ParseProfile] gives into the spec, plan turns it
// into a [Filter] with [Compile], and launch hands [Filter.Bytes] to seccomp(2). [Evaluate], [Summarize] and
// [Filter.String] are for looking at filters, also at those read back from the kernel. Nothing here makes a system
// call; the package builds and tests on any OS.
//
// # How rules combine
//
// As in runc over libseccomp, where the OCI spec is silent:
//
//   - A rule whose action equals the default is dropped.
//   - Conditions on different arguments must all hold. As soon as two are on one argument, each counts alone.
//   - A rule without conditions stands above all conditional ones; of several, the first holds.
//   - Comparisons are unsigned. 32-bit ABIs (x32 among them) compare the low word alone. SCMP_CMP_MASKED_EQ ignores bits of
//     valueTwo outside the mask.
//   - The native architecture is always in the filter, the list adds to it. Calls of any other kill the process;
//     so do x32 numbers on x86_64 unless x32 is listed.
//   - When the default does not let a call through, numbers above the largest the profile names answer ENOSYS: a profile
//     older than a system call should look like a kernel older than it (runc's patchbpf). On s390x so does number 0.
//
// Where libseccomp's answer depends on the order of its internal tree, Brig's is defined: of several conditional rules that
// hold, the least permissive gives the verdict. A conditional rule on a call that is multiplexed on an old 32-bit ABI
// (socketcall, ipc) applies there whatever the arguments when it closes, and not at all when it opens.
//
// # The program
//
// One comparison picks the architecture, a search tree over ranges of numbers picks the decision, and only a call with
// conditions looks at arguments. Those calls are put near the root: the kernel (5.11 on) answers calls that are allowed
// whatever their arguments from a bitmap and does not run the filter for them.
//
// Compiling the default profile takes about 0.08 ms. The least a cache on disk could cost (the digest of the profile's JSON,
// opening and reading the program) takes as long: BenchmarkCompileDefault, BenchmarkCacheInstead. So there is no cache,
// and no file whose content somebody could want to change. The tables cost nothing at start: all are constant data.
//
// libseccomp is the judge: package judge compares verdicts and cost with it, FuzzCompile compares with a plain reading of the
// OCI object, and the built-in profiles are loaded into the kernel with real programs under them.
package seccomp
