package cgroup

import (
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// deviceSettings are the writes that give a fresh version 1 group exactly the spec's device rules, in the spec's order:
// all is denied first, and a rule for all devices resets what came before it, in the kernel as in the spec.
func (s *settings) devices(rules []specs.LinuxDeviceCgroup) {
	const limit = prefix + "devices"
	if len(rules) == 0 {
		return
	}
	s.add(limit, "devices", "a", "devices.deny")
	for _, r := range rules {
		file := "devices.deny"
		if r.Allow {
			file = "devices.allow"
		}
		line, why := deviceLine(r)
		if why != "" {
			s.fail(limit, line, why)
			continue
		}
		if line == "a" && !r.Allow && len(s.list) > 0 && s.list[len(s.list)-1].value == "a" && s.list[len(s.list)-1].files[0] == file {
			continue // said already
		}
		s.add(limit, "devices", line, file)
	}
}

// deviceLine is a rule in the kernel's form, "c 1:3 rwm", or what is wrong with it.
func deviceLine(r specs.LinuxDeviceCgroup) (line, why string) {
	kind := r.Type
	if kind == "" {
		kind = "a"
	}
	access := r.Access
	if access == "" {
		access = "rwm"
	}
	for _, c := range access {
		if c != 'r' && c != 'w' && c != 'm' {
			return access, "access must be made of r, w and m"
		}
	}
	major, minor := number(r.Major), number(r.Minor)
	switch kind {
	case "a":
		if major != "*" || minor != "*" || len(access) != 3 {
			return kind + " " + major + ":" + minor + " " + access, "a rule for all types is for all numbers and all access; name type b or c"
		}
		return "a", ""
	case "b", "c":
		return kind + " " + major + ":" + minor + " " + access, ""
	}
	return kind, "type must be a, b or c"
}

func number(n *int64) string {
	if n == nil || *n < 0 {
		return "*"
	}
	return strconv.FormatInt(*n, 10)
}
