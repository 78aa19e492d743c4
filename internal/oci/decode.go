package oci

import (
	"encoding/json"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// decodeSpec is json.Unmarshal of a whole spec, in half the time: encoding/json prepares every type below the one that it is given, in
// each process anew, and most of them are other systems' or what few bundles have. Here those are set aside as text, and read only
// where they are there.
func decodeSpec(text []byte) (*specs.Spec, error) {
	var s specs.Spec
	var p specs.Process
	var l specs.Linux
	var r specs.LinuxResources
	// The fields below hide those of the same names in what is embedded ("The visibility rules", package encoding/json).
	var w struct {
		*specs.Spec
		Process *struct {
			*specs.Process
			Scheduler       json.RawMessage `json:"scheduler"`
			IOPriority      json.RawMessage `json:"ioPriority"`
			ExecCPUAffinity json.RawMessage `json:"execCPUAffinity"`
		} `json:"process"`
		Linux *struct {
			*specs.Linux
			Resources *struct {
				*specs.LinuxResources
				BlockIO        json.RawMessage `json:"blockIO"`
				HugepageLimits json.RawMessage `json:"hugepageLimits"`
				Network        json.RawMessage `json:"network"`
				Rdma           json.RawMessage `json:"rdma"`
			} `json:"resources"`
			Devices      json.RawMessage `json:"devices"`
			NetDevices   json.RawMessage `json:"netDevices"`
			Seccomp      json.RawMessage `json:"seccomp"`
			IntelRdt     json.RawMessage `json:"intelRdt"`
			MemoryPolicy json.RawMessage `json:"memoryPolicy"`
			Personality  json.RawMessage `json:"personality"`
			TimeOffsets  json.RawMessage `json:"timeOffsets"`
		} `json:"linux"`
		Hooks   json.RawMessage `json:"hooks"`
		Solaris json.RawMessage `json:"solaris"`
		Windows json.RawMessage `json:"windows"`
		VM      json.RawMessage `json:"vm"`
		ZOS     json.RawMessage `json:"zos"`
		FreeBSD json.RawMessage `json:"freebsd"`
	}
	if err := json.Unmarshal(text, &w); err != nil {
		return nil, err
	}
	if w.Spec != nil {
		s = *w.Spec
	}
	type part struct {
		text json.RawMessage
		to   any
	}
	parts := []part{{w.Hooks, &s.Hooks}, {w.Solaris, &s.Solaris}, {w.Windows, &s.Windows}, {w.VM, &s.VM}, {w.ZOS, &s.ZOS}, {w.FreeBSD, &s.FreeBSD}}
	if w.Process != nil {
		if w.Process.Process != nil {
			p = *w.Process.Process
		}
		s.Process = &p
		parts = append(parts, part{w.Process.Scheduler, &p.Scheduler}, part{w.Process.IOPriority, &p.IOPriority}, part{w.Process.ExecCPUAffinity, &p.ExecCPUAffinity})
	}
	if w.Linux != nil {
		if w.Linux.Linux != nil {
			l = *w.Linux.Linux
		}
		s.Linux = &l
		parts = append(parts, part{w.Linux.Devices, &l.Devices}, part{w.Linux.NetDevices, &l.NetDevices}, part{w.Linux.Seccomp, &l.Seccomp},
			part{w.Linux.IntelRdt, &l.IntelRdt}, part{w.Linux.MemoryPolicy, &l.MemoryPolicy}, part{w.Linux.Personality, &l.Personality}, part{w.Linux.TimeOffsets, &l.TimeOffsets})
		if res := w.Linux.Resources; res != nil {
			if res.LinuxResources != nil {
				r = *res.LinuxResources
			}
			l.Resources = &r
			parts = append(parts, part{res.BlockIO, &r.BlockIO}, part{res.HugepageLimits, &r.HugepageLimits}, part{res.Network, &r.Network}, part{res.Rdma, &r.Rdma})
		}
	}
	for _, p := range parts {
		if p.text == nil {
			continue
		}
		if err := json.Unmarshal(p.text, p.to); err != nil {
			return nil, err
		}
	}
	return &s, nil
}
