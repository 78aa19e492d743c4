package oci

import (
	"encoding/json"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// outline is what the verbs after create need of the spec: the program's arguments, environment and label, the hooks, the annotations, the kinds of
// namespaces and the seccomp agent. The rest is not there. Reading all of a spec costs a process half a millisecond, most of it for
// types that it never meets.
func (c *container) outline() (*specs.Spec, error) {
	text, err := c.specText()
	if err != nil {
		return nil, err
	}
	var o struct {
		Process struct {
			Args            []string `json:"args"`
			Env             []string `json:"env"`
			SelinuxLabel    string   `json:"selinuxLabel"`
			NoNewPrivileges bool     `json:"noNewPrivileges"`
		} `json:"process"`
		Hooks       *specs.Hooks      `json:"hooks"`
		Annotations map[string]string `json:"annotations"`
		Linux       struct {
			Namespaces []specs.LinuxNamespace `json:"namespaces"`
			Seccomp    *struct {
				ListenerPath     string `json:"listenerPath"`
				ListenerMetadata string `json:"listenerMetadata"`
			} `json:"seccomp"`
		} `json:"linux"`
	}
	if err := json.Unmarshal(text, &o); err != nil {
		return nil, fmt.Errorf("read the spec of container %s: %w", c.id, err)
	}
	spec := &specs.Spec{
		Process: &specs.Process{Args: o.Process.Args, Env: o.Process.Env, SelinuxLabel: o.Process.SelinuxLabel, NoNewPrivileges: o.Process.NoNewPrivileges},
		Hooks:   o.Hooks, Annotations: o.Annotations, Linux: &specs.Linux{Namespaces: o.Linux.Namespaces},
	}
	if s := o.Linux.Seccomp; s != nil {
		spec.Linux.Seccomp = &specs.LinuxSeccomp{ListenerPath: s.ListenerPath, ListenerMetadata: s.ListenerMetadata}
	}
	nameAgent(spec)
	return spec, nil
}
