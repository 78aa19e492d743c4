// Package judge holds the tests that compare the filter compiler with libseccomp. They need cgo and libseccomp's
// headers and are built with the tag "libseccomp"; nothing of Brig imports this package.
//
// What is left out of the comparison, because libseccomp 2.5.4 answers differently by design or by mistake:
//
//   - Rules of different conditional actions on one call that hold together: libseccomp takes the first in its tree, or
//     refuses the rule (EEXIST); Brig takes the least permissive.
//   - Numbers above the largest the profile names: runc adds the ENOSYS answer outside libseccomp.
//   - SCMP_CMP_LE on 32-bit ABIs: _db_rule_gen_arg_32 assigns the pointer instead of what it points to ("tf_flag =
//     false"), so that a condition before it on another argument turns LE into GT.
//   - Conditions on calls that i386 multiplexes through socketcall and ipc: libseccomp compares the multiplexer's
//     arguments with conditions meant for the call's.
package judge
