package image

import (
	"fmt"
	"runtime"
	"strings"
)

// Platform is what an image is built for (image-spec, image-index.md).
type Platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant,omitempty"`
}

// ThisPlatform is the machine's.
func ThisPlatform() Platform { return Platform{OS: "linux", Architecture: runtime.GOARCH}.normal() }

// ParsePlatform reads OS/ARCH[/VARIANT], or an architecture alone. "" is this machine's.
func ParsePlatform(text string) (Platform, error) {
	if text == "" {
		return ThisPlatform(), nil
	}
	parts := strings.Split(text, "/")
	if len(parts) == 1 {
		parts = []string{"linux", parts[0]}
	}
	for _, p := range parts {
		if p == "" || strings.Trim(p, "abcdefghijklmnopqrstuvwxyz0123456789_.-") != "" {
			parts = nil
		}
	}
	if len(parts) < 2 || len(parts) > 3 {
		return Platform{}, fmt.Errorf("%.100q is no platform; write OS/ARCHITECTURE[/VARIANT], as in linux/arm64", text)
	}
	p := Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p.normal(), nil
}

// normal gives the one spelling of what has several: uname's words, and the variants that are an architecture's own.
func (p Platform) normal() Platform {
	switch p.Architecture {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "i386", "i686":
		p.Architecture = "386"
	case "aarch64":
		p.Architecture = "arm64"
	case "armhf":
		p.Architecture, p.Variant = "arm", "v7"
	case "armel":
		p.Architecture, p.Variant = "arm", "v6"
	}
	switch {
	case p.Architecture == "arm64" && p.Variant == "v8", p.Architecture == "amd64" && p.Variant == "v1":
		p.Variant = ""
	case p.Architecture == "arm" && p.Variant == "":
		p.Variant = "v7"
	}
	return p
}

func (p Platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// serves says how well an image for p serves one who wants want: 0 not at all, more is better. An older variant of arm runs on
// a newer processor.
func (p Platform) serves(want Platform) int {
	p, want = p.normal(), want.normal()
	switch {
	case p.OS != want.OS || p.Architecture != want.Architecture:
		return 0
	case p.Variant == want.Variant:
		return 100
	case p.Variant == "":
		return 50
	case p.Architecture == "arm" && p.Variant < want.Variant:
		return 10 + int(p.Variant[len(p.Variant)-1]-'0')
	}
	return 0
}
