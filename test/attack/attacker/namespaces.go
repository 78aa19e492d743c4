package main

import (
	"strings"

	"golang.org/x/sys/unix"
)

// kinds are the namespaces there are.
var kinds = []struct {
	name string
	flag uintptr
}{
	{"user", unix.CLONE_NEWUSER}, {"pid", unix.CLONE_NEWPID}, {"mnt", unix.CLONE_NEWNS}, {"net", unix.CLONE_NEWNET},
	{"ipc", unix.CLONE_NEWIPC}, {"uts", unix.CLONE_NEWUTS}, {"cgroup", unix.CLONE_NEWCGROUP}, {"time", unix.CLONE_NEWTIME},
}

var namespaceAttacks = []attack{
	{"unshare", eachKind(func(name string, flag uintptr) verdict {
		return judge("unshare "+name, inChild(0, unix.SYS_UNSHARE, flag))
	})},
	{"clone", eachKind(func(name string, flag uintptr) verdict {
		if flag == unix.CLONE_NEWTIME {
			return judge("clone time", inChild(0, unix.SYS_UNSHARE, flag)) // clone(2) has no bit for it
		}
		return judge("clone "+name, inChild(flag, 0))
	})},
	{"clone3", eachKind(func(name string, flag uintptr) verdict {
		pid, e := fork3(&cloneArgs{flags: uint64(flag), exitSignal: uint64(unix.SIGCHLD)})
		if e != 0 {
			return judge("clone3 "+name, e)
		}
		_, _ = unix.Wait4(int(pid), nil, 0, nil)
		return escaped("clone3 %s", name)
	})},
	{"setns", eachKind(setns)},
	{"user-namespace-by-uid-map", func([]string) verdict {
		return judge("clone user+net", inChild(unix.CLONE_NEWUSER|unix.CLONE_NEWNET, 0))
	}},
}

// eachKind runs an attack for the namespace that is named.
func eachKind(f func(name string, flag uintptr) verdict) func([]string) verdict {
	return func(args []string) verdict {
		for _, k := range kinds {
			if k.name == argument(args, 0, "") {
				return f(k.name, k.flag)
			}
		}
		return broken("no namespace is named; there are user, pid, mnt, net, ipc, uts, cgroup, time")
	}
}

// setns joins the namespace that pid 1 is in, or its own.
func setns(name string, flag uintptr) verdict {
	var list []verdict
	for _, owner := range []string{"1", "self"} {
		fd, err := unix.Open("/proc/"+owner+"/ns/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			list = append(list, judge("open ns/"+name, err))
			continue
		}
		v := judge("setns "+name+" of "+owner, inChild(0, unix.SYS_SETNS, uintptr(fd), flag))
		if strings.HasPrefix(v.text, "setns user") && v.word == "BROKEN" {
			v = held("EINVAL a process is in its own user namespace already")
		}
		list = append(list, v)
	}
	return worst(list...)
}
