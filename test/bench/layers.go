package main

import (
	"os"
	"strings"
)

// layers is what the kernel says of a process inside a contender's sandbox, read before anything is measured: a tool
// that does less is faster, and the reader should see it.
type layers struct {
	Namespaces   []string `json:"namespaces"` // that are not the caller's
	Capabilities string   `json:"capabilities"`
	NoNewPrivs   string   `json:"noNewPrivs"`
	Seccomp      string   `json:"seccomp"`
	Mounts       int      `json:"mounts"`
	RootReadOnly bool     `json:"rootReadOnly"`
}

// readLayers reads what probeScript printed.
func readLayers(text string) *layers {
	l := &layers{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "CapEff":
			l.Capabilities = value
		case "NoNewPrivs":
			l.NoNewPrivs = value
		case "Seccomp":
			l.Seccomp = value
		}
		if link, target, ok := strings.Cut(line, " -> "); ok {
			l.namespace(link[strings.LastIndexByte(link, ' ')+1:], target)
		}
		f := strings.Fields(line)
		if len(f) > 6 && strings.Contains(line, " - ") && strings.HasPrefix(f[4], "/") {
			l.Mounts++
			l.RootReadOnly = l.RootReadOnly || f[4] == "/" && strings.HasPrefix(f[5]+",", "ro,")
		}
	}
	return l
}

func (l *layers) namespace(name, target string) {
	if own, err := os.Readlink("/proc/self/ns/" + name); err == nil && own != target && !strings.HasSuffix(name, "_for_children") {
		l.Namespaces = append(l.Namespaces, name)
	}
}
