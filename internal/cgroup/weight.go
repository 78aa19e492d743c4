package cgroup

import (
	"os"
	"path/filepath"
	"strings"

	"brig/internal/host"
)

// weighs says whether a weight in a file of version 2 comes to anything. io.weight is there in every kernel with io.cost, which
// is off until somebody turns it on for a disk in io.cost.qos of the root group; and io.bfq.weight as soon as the module is
// loaded, whether a disk has this scheduler or not (Documentation/admin-guide/cgroup-v2.rst, block/bfq-iosched.rst).
func weighs(file string) bool {
	switch file {
	case "io.weight":
		text, err := os.ReadFile(filepath.Join(host.CgroupRoot, "io.cost.qos"))
		return err == nil && strings.Contains(string(text), "enable=1")
	case "io.bfq.weight":
		files, _ := filepath.Glob("/sys/block/*/queue/scheduler")
		for _, f := range files {
			if text, err := os.ReadFile(f); err == nil && strings.Contains(string(text), "[bfq]") {
				return true
			}
		}
		return false
	}
	return true
}
