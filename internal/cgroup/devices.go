package cgroup

import (
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// devices adds the writes that give a fresh version 1 group exactly the spec's device rules, in the spec's order:
// all is denied first, and a rule for all devices resets what came before it, in the kernel as in the spec.
func (s *settings) devices(rules []specs.LinuxDeviceCgroup) {
	const limit = prefix + "devices"
	if len(rules) == 0 {
		return
	}
	s.add(limit, "devices", "a", "devices.deny")
	everything := false // what the last rule for all said
	var exceptions []specs.LinuxDeviceCgroup
	for i, r := range rules {
		line, why := deviceLine(r)
		if why != "" {
			s.fail(limit, line, why)
			return
		}
		if line == "a" {
			exceptions, everything = nil, r.Allow
			if i == 0 && !r.Allow {
				continue // said already
			}
		} else if r.Allow != everything {
			exceptions = append(exceptions, r)
		} else if whole, ok := partOf(r, exceptions); ok {
			s.fail(limit, line, "takes back a part of the rule "+whole+", which cgroups cannot do: name the devices one by one")
			return
		}
		file := "devices.deny"
		if r.Allow {
			file = "devices.allow"
		}
		s.add(limit, "devices", line, file)
	}
}

// partOf finds an exception that r takes a part of: the kernel drops an exception only by its exact numbers
// (dev_exception_rm in security/device_cgroup.c) and passes over other requests, which would leave a device open.
func partOf(r specs.LinuxDeviceCgroup, exceptions []specs.LinuxDeviceCgroup) (string, bool) {
	meets := func(a, b string) bool { return a == b || a == "*" || b == "*" }
	for _, e := range exceptions {
		same := number(e.Major) == number(r.Major) && number(e.Minor) == number(r.Minor)
		if e.Type == r.Type && !same && meets(number(e.Major), number(r.Major)) && meets(number(e.Minor), number(r.Minor)) {
			line, _ := deviceLine(e)
			return line, true
		}
	}
	return "", false
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
	if len(access) > 1 {
		access = strings.ReplaceAll(access, "a", "") // some bundles have it beside the others, and to runc it adds nothing
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

// updateDevices gives a group in use other rules. On version 1 all is denied for an instant, between two writes.
func (c *Cgroup) updateDevices(rules []specs.LinuxDeviceCgroup) error {
	if len(c.legacy) == 0 {
		return filterDevices(c.unified, rules)
	}
	var s settings
	s.devices(rules)
	if s.err != nil {
		return s.err
	}
	if c.dir("devices") == "" {
		return &MissingError{Limit: prefix + "devices", Controller: "devices", Remedy: "the sandbox was made without device rules; make it anew with some"}
	}
	return c.apply(s.list, false)
}
