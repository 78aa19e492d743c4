// Package sandbox is the life of a sandbox: its folder and state, the id range and cgroup made for it, the process that
// supervises it, and the way out that leaves nothing behind.
//
// Its place on the road: cli hands it a Request (a spec that policy wrote, and what has no place in a spec); it prepares
// what surrounds the child and lets an isolation start it.
//
// Every sandbox has one supervisor: `brig run` itself, or the small monitor process of a detached one. The supervisor
// holds a lock on the sandbox's folder for as long as it lives; the kernel lets go of the lock when it dies, however it
// dies. So there is no daemon: whoever meets a folder whose lock is free and whose sandbox has not ended knows that the
// supervisor was killed, and clears what it left.
package sandbox
