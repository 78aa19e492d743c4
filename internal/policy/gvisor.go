package policy

import "slices"

// checkGVisor refuses, by the key that says it, what a guest of gVisor's kernel cannot have. Package isolation/gvisor refuses the same
// of a spec, whoever wrote that.
func (p *Policy) checkGVisor() error {
	if p.Isolation != "gvisor" {
		return nil
	}
	yes := func(b *bool) bool { return b != nil && *b }
	limited := func(ports []string) bool { return ports != nil && !slices.Equal(ports, []string{"*"}) }
	const no = "isolation gvisor cannot do it: "
	switch {
	case yes(p.Init):
		return bad("init", no+"Brig's init is a process of the host's kernel; the first process of the guest is the program")
	case yes(p.NoNewPrograms):
		return bad("noNewPrograms", no+"execve is the guest kernel's, and Brig cannot ask after it there")
	case p.Network == "host":
		return bad("network", no+"the guest would have the host's sockets, and gVisor's own network nothing to hold")
	case len(p.Devices) > 0:
		return bad("devices[0]", no+"the guest's kernel has no driver for a device of the host's")
	case len(p.Sysctls) > 0:
		return bad("sysctls", no+"they are the host kernel's, which the guest does not see")
	case p.Landlock != nil && limited(p.Landlock.Bind):
		return bad("landlock.bind", no+"the guest's sockets are its own kernel's, of whose ports Landlock knows nothing")
	case p.Landlock != nil && limited(p.Landlock.Connect):
		return bad("landlock.connect", no+"the guest's sockets are its own kernel's, of whose ports Landlock knows nothing")
	case p.Namespaces != nil && p.Namespaces.User == "host":
		return bad("namespaces.user", no+"the kernel process would be root of the host")
	case p.Namespaces != nil && yes(p.Namespaces.Time):
		return bad("namespaces.time", no+"the guest's clocks are those of its kernel")
	}
	return nil
}
