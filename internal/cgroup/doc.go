// Package cgroup makes the control groups around a sandbox: limits are set before the child exists, and the child is
// placed by the cheapest means the kernel has.
//
// Its place on the road: package native calls Create, hands the files of Attach to the launch program, and keeps the
// *Cgroup for pause, kill, stats, update and delete. Open finds an existing one again (exec, recovery).
//
// # Why own code and not the library's managers
//
// Attaching is the dear part. Writing a pid to cgroup.procs takes cgroup_threadgroup_rwsem for writing, which waits for
// an RCU grace period: up to 13 ms measured. So on version 2 the child is cloned into the group (CLONE_INTO_CGROUP), and
// on version 1 the parent opens every hierarchy's "tasks" file and the child writes "0" into it: a single thread that
// moves itself takes no such lock (kernel commit 9a3284fad42f), and permission is checked against the opener. The
// managers of github.com/opencontainers/cgroups attach by pid only and create a group in all hierarchies, used or not.
// A mkdir costs 25–100 µs, a limit 25 µs, an rmdir 12–50 µs for each hierarchy, measured on a two-core machine with Linux
// 6.18; a sandbox's five hierarchies come to about half a millisecond. The parent of all groups, brig, stays when the last
// sandbox has gone: to remove it would cost as much again and race with the next start.
//
// # Hybrid machines
//
// Where version 2 is mounted beside version 1 (/sys/fs/cgroup/unified), the sandbox also gets a group there, without
// controllers: it brings cgroup.kill, cgroup.freeze, cgroup.events, cpu.stat and pressure numbers, so the version 1
// freezer and cpuacct hierarchies are left alone.
//
// # Out of memory
//
// On version 2 memory.oom.group makes the kernel end the whole sandbox when one of its processes is out of memory.
// Version 1 has no such file: the kernel ends the largest process of the sandbox, never one outside, and the
// supervisor ends the rest when OOMKills says so.
package cgroup
