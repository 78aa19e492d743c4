// Package mac applies a named AppArmor profile or SELinux label: what is written to which attribute file so that a process, or
// its next execve, changes to it, and how the result is read back.
//
// Its place on the road: package plan asks Plan for the write and makes a launch instruction of it; inspect asks
// Current. A spec that names a profile on a host without that module is an error (*MissingError), never a
// sandbox without the profile.
//
// The pure part (names, contents, which file) is here; what looks at the host is in host_linux.go.
package mac

import (
	"fmt"
	"strings"
)

// Module is a Linux security module that confines by name.
type Module string

// The modules Brig applies.
const (
	AppArmor Module = "apparmor"
	SELinux  Module = "selinux"
)

// Unconfined is the AppArmor profile name that asks for no profile.
const Unconfined = "unconfined"

// Host is what a machine's kernel has.
type Host struct {
	AppArmor bool // enabled, and its securityfs or attribute folder is there
	SELinux  bool // enabled: selinuxfs is mounted
	// Enforcing is false for SELinux in permissive mode, where a label stops nothing.
	Enforcing bool
	// Module says that the loaded policy has Brig's module (package selinux).
	Module bool
	// OwnAttr says that /proc/PID/attr/apparmor exists (Linux 5.8). Where both modules are stacked, the plain
	// attr/exec belongs to the first of them, so only the own folder surely reaches AppArmor.
	OwnAttr bool
}

// Moment is when the change comes.
type Moment int

// The moments.
const (
	// AtExec: the next execve changes. The kernel clears the parent-death signal then (security/apparmor/lsm.c,
	// apparmor_bprm_committing_creds; security/selinux/hooks.c, selinux_bprm_committing_creds).
	AtExec Moment = iota
	// AtOnce: the write itself changes, and execve keeps what it finds, the parent-death signal too. The profile or label must let
	// the process execute the program; AppArmor lets every unconfined process change, SELinux asks for setcurrent and dyntransition.
	AtOnce
)

// Write is one write that the child makes into its own attribute file before execve.
type Write struct {
	Module Module
	// When is AtExec for AppArmor's "unconfined", whatever was asked for: no change to that clears the signal.
	When Moment
	// Attr is the file, relative to /proc/self or /proc/thread-self: "attr/apparmor/exec". It goes through the
	// private procfs handle, never through a path string of the sandbox (CVE-2019-16884, CVE-2025-52881).
	Attr string
	// Content is written by a single write(2); the kernel takes no partial ones.
	Content string
}

// MissingError says that a profile or label was asked for and the host has no such module.
type MissingError struct {
	Module Module
	Name   string // the profile or label
}

func (e *MissingError) Error() string {
	if e.Module == AppArmor {
		return fmt.Sprintf("AppArmor profile %q asked for, but this kernel runs without AppArmor: start it with lsm=…,apparmor", e.Name)
	}
	return fmt.Sprintf("SELinux label %q asked for, but this kernel runs without SELinux: enable it", e.Name)
}

// NameError says what is wrong with a profile name or label.
type NameError struct {
	Module Module
	Name   string
	Why    string
}

func (e *NameError) Error() string {
	kind := "AppArmor profile name"
	if e.Module == SELinux {
		kind = "SELinux label"
	}
	return fmt.Sprintf("%s %q: %s", kind, e.Name, e.Why)
}

// Plan gives the writes for a process that is to run under the profile and the label; an empty name asks for nothing,
// and so does the profile "unconfined" on a host without AppArmor. A bad name is a *NameError, an absent module a
// *MissingError.
func Plan(host Host, profile, label string, when Moment) ([]Write, error) {
	var writes []Write
	if profile != "" && (profile != Unconfined || host.AppArmor) {
		if err := CheckProfile(profile); err != nil {
			return nil, err
		}
		if !host.AppArmor {
			return nil, &MissingError{Module: AppArmor, Name: profile}
		}
		w := Write{Module: AppArmor, Attr: host.appArmorAttr("exec"), Content: "exec " + profile}
		if when == AtOnce && profile != Unconfined {
			w.When, w.Attr, w.Content = AtOnce, host.appArmorAttr("current"), "changeprofile "+profile
		}
		writes = append(writes, w)
	}
	if label != "" {
		if err := CheckLabel(label); err != nil {
			return nil, err
		}
		if !host.SELinux {
			return nil, &MissingError{Module: SELinux, Name: label}
		}
		attr := "attr/exec"
		if when == AtOnce {
			attr = "attr/current"
		}
		writes = append(writes, Write{Module: SELinux, When: when, Attr: attr, Content: label})
	}
	return writes, nil
}

func (h Host) appArmorAttr(file string) string {
	if h.OwnAttr {
		return "attr/apparmor/" + file
	}
	return "attr/" + file
}

// maxName is one page less the command word: proc_pid_attr_write in fs/proc/base.c takes at most PAGE_SIZE bytes.
const maxName = 4096 - len("changeprofile ") - 1

// CheckProfile refuses names that would mean something else to the kernel's command parser (apparmor_setprocattr and
// aa_change_profile): it trims spaces, and a leading "&" stacks on the caller's profile instead of replacing it.
// Stacks ("a//&b"), children ("a//b") and name spaces (":ns:a") are legal names and pass.
func CheckProfile(name string) error {
	fail := func(why string) error { return &NameError{Module: AppArmor, Name: name, Why: why} }
	switch {
	case name == "":
		return fail("is empty")
	case len(name) > maxName:
		return fail(fmt.Sprintf("is longer than %d bytes", maxName))
	case strings.TrimSpace(name) != name:
		return fail("begins or ends with a space; the kernel would cut it off and apply another profile")
	case strings.HasPrefix(name, "&"):
		return fail("begins with &, which stacks on the caller's profile instead of replacing it")
	}
	if i := strings.IndexFunc(name, control); i >= 0 {
		return fail("holds a newline, NUL or other control character")
	}
	return nil
}

// CheckLabel refuses what is not user:role:type[:level] of SELinux's characters. Whether the policy knows the
// label, the kernel says (EINVAL) when it is written.
func CheckLabel(label string) error {
	fail := func(why string) error { return &NameError{Module: SELinux, Name: label, Why: why} }
	if len(label) > maxName {
		return fail(fmt.Sprintf("is longer than %d bytes", maxName))
	}
	parts := strings.SplitN(label, ":", 4)
	if len(parts) < 3 {
		return fail("must be user:role:type or user:role:type:level, such as system_u:system_r:container_t:s0:c1,c2")
	}
	for _, part := range parts[:3] {
		if part == "" || strings.ContainsFunc(part, notIdentifier) {
			return fail("user, role and type are letters, digits, '_', '-' and '.'")
		}
	}
	if len(parts) == 4 && (parts[3] == "" || strings.ContainsFunc(parts[3], notLevel)) {
		return fail("the level is of the form s0, s0:c1,c2 or s0-s0:c0.c1023")
	}
	return nil
}

func control(r rune) bool { return r < 0x20 || r == 0x7f }

func notIdentifier(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-' || r == '.')
}

func notLevel(r rune) bool { return notIdentifier(r) && r != ':' && r != ',' }

// Confinement is what the kernel says a process is confined by.
type Confinement struct {
	// Module is empty when no module answers.
	Module Module `json:"module,omitempty"`
	// Name is the profile or label; "unconfined" is AppArmor's word for none.
	Name string `json:"name,omitempty"`
	// Mode is AppArmor's: "enforce", "complain", "kill", "prompt", "mixed" for stacks. Empty when unconfined.
	Mode string `json:"mode,omitempty"`
}

// ParseCurrent reads the contents of an attr/current file.
func ParseCurrent(module Module, content string) Confinement {
	text := strings.TrimRight(content, "\n\x00")
	c := Confinement{Module: module, Name: text}
	if module != AppArmor {
		return c
	}
	// "name (mode)"; a name may itself have spaces and brackets.
	if i := strings.LastIndex(text, " ("); i >= 0 && strings.HasSuffix(text, ")") {
		c.Name, c.Mode = text[:i], text[i+2:len(text)-1]
	}
	return c
}
