// Package launch holds a launch program, the flat list of system calls that turns a fresh process into a sandboxed
// one, and the child that runs it.
//
// Its place on the road: package plan writes a Program; package native binds the program's inputs (file descriptors
// that the parent opened) and calls Start; the child runs the program and ends in execve of the user's program. No
// second Go start, no C, no shared library.
//
// A Program is built by methods named after the system calls (Openat2, MoveMount, …). An instruction is a system
// call number, up to six arguments, the register that takes the result, and the errnos that are tolerated. An argument
// is a constant, the address of memory that the program keeps alive, or a register. There are no branches and no
// loops; beside "tolerate" there are two rules: a tolerated failure empties the result register, and an instruction
// that reads an empty register is skipped; and of instructions marked Either the first that succeeds is the last.
//
// The child is a copy of a multi-threaded Go process in which only one thread goes on. So the code that it runs
// (child.go) allocates nothing, grows no stack, takes no lock, has no write barrier and calls nothing but raw system
// calls. This is the only package of Brig with unsafe code.
package launch
