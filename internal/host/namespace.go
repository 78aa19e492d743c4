package host

import "golang.org/x/sys/unix"

// namespaceFiles are the names in /proc/PID/ns (namespaces(7)) of the kinds that runtime-spec names otherwise.
var namespaceFiles = map[string]string{"network": "net", "mount": "mnt"}

// OwnNamespace tells whether a file is the namespace of a kind, by runtime-spec's word, that this process is in itself.
func OwnNamespace(kind, path string) bool {
	name, ok := namespaceFiles[kind]
	if !ok {
		name = kind
	}
	var own, other unix.Stat_t
	return unix.Stat("/proc/self/ns/"+name, &own) == nil && unix.Stat(path, &other) == nil && own.Dev == other.Dev && own.Ino == other.Ino
}
