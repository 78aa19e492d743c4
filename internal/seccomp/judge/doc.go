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
//   - Several conditions on one argument of which one is an order (LT, LE, GE, GT): the generated code goes from a test of
//     the low word to the next rule's test of the high word without loading it (arg1 <= 1 or arg1 > 0x100005412
//     compares the low word with 1 twice).
//   - Several conditions on one argument of which one is NE: the tree of "arg1 != x" swallows that of "arg1 == x and arg0 < y".
//   - An architecture with rules for a single call: its program lacks the load of the number and compares the
//     architecture with it. Such programs are recognised and left out; to tell them, libseccomp's filter is made for one
//     architecture at a time and Brig's filter of all is compared with each.
//   - Conditions on calls that i386 multiplexes through socketcall and ipc: libseccomp compares the multiplexer's
//     arguments with conditions meant for the call's.
package judge
