package image

import (
	"fmt"
	"net/netip"
	"strings"
)

// Ref is a reference as docker reads it: registry, repository, and a tag or a digest. With both, the digest counts.
//
// The grammar is distribution's (reference.go, "Grammar"); it is read here and not by a library since those that there are
// compile a dozen regular expressions when a program starts, and this is on the road of every `brig run`. The tests compare it with
// one of them.
type Ref struct {
	registry, repository, tag string
	digest                    Digest
}

// What docker takes when a reference does not say.
const (
	defaultRegistry  = "index.docker.io"
	defaultAlias     = "docker.io"
	officialPrefix   = "library/"
	defaultTag       = "latest"
	maxRepository    = 255
	maxTag           = 128
	lower            = "abcdefghijklmnopqrstuvwxyz"
	digits           = "0123456789"
	upper            = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	maxReferenceText = 1024
)

// ParseRef reads a reference.
func ParseRef(text string) (Ref, error) {
	r, reason := parseRef(text)
	if reason != "" {
		return Ref{}, fmt.Errorf("%.200q is no image reference: %s", text, reason)
	}
	return r, nil
}

func parseRef(text string) (r Ref, reason string) {
	if text == "" || len(text) > maxReferenceText {
		return r, "it is empty or too long"
	}
	if scheme, _, ok := strings.Cut(text, "://"); ok {
		return r, fmt.Sprintf("a reference begins with the registry's host, without %s://", scheme)
	}
	rest, digest, hasDigest := strings.Cut(text, "@")
	if hasDigest {
		d, err := ParseDigest(digest)
		if err != nil {
			return r, err.Error()
		}
		r.digest = d
	}
	// A colon behind the last slash begins the tag; one before it belongs to the registry's port.
	if slash, colon := strings.LastIndexByte(rest, '/'), strings.LastIndexByte(rest, ':'); colon > slash {
		rest, r.tag = rest[:colon], rest[colon+1:]
		if !validTag(r.tag) {
			return r, fmt.Sprintf("a tag has letters, digits, \"_\", \".\" and \"-\", at least one and at most %d of them, and this is %.130q", maxTag, r.tag)
		}
	}
	if r.registry, r.repository = splitRegistry(rest); !validRegistry(r.registry) {
		return r, fmt.Sprintf("%.100q is no registry's host and port", r.registry)
	}
	switch {
	case len(r.repository) > maxRepository:
		return r, fmt.Sprintf("the repository has more than %d letters", maxRepository)
	case strings.ToLower(r.repository) != r.repository:
		return r, fmt.Sprintf("the repository %q has capital letters", r.repository)
	}
	for part := range strings.SplitSeq(r.repository, "/") {
		if !validPart(part) {
			return r, fmt.Sprintf("the repository's part %q has letters and digits, joined by \".\", \"_\", \"__\" or \"-\"", part)
		}
	}
	switch {
	case hasDigest:
		r.tag = ""
	case r.tag == "":
		r.tag = defaultTag
	}
	return r, ""
}

// splitRegistry: the first part is a registry when it has a dot or a colon, or is "localhost".
func splitRegistry(text string) (registry, repository string) {
	first, rest, ok := strings.Cut(text, "/")
	if !ok || !strings.ContainsAny(first, ".:") && first != "localhost" && strings.ToLower(first) == first {
		registry, repository = defaultRegistry, text
	} else {
		registry, repository = first, rest
	}
	if registry == defaultAlias {
		registry = defaultRegistry
	}
	if registry == defaultRegistry && !strings.Contains(repository, "/") {
		repository = officialPrefix + repository
	}
	return registry, repository
}

func validTag(t string) bool {
	return t != "" && len(t) <= maxTag && strings.Trim(t, lower+upper+digits+"_.-") == "" && t[0] != '.' && t[0] != '-'
}

// validRegistry: a host name, an IPv4 address, or an IPv6 address in brackets, and a port.
func validRegistry(r string) bool {
	var host, port string
	var hasPort bool
	if v6, after, ok := strings.Cut(r, "]"); ok {
		address, bracket := strings.CutPrefix(v6, "[")
		ip, err := netip.ParseAddr(address)
		if !bracket || err != nil || !ip.Is6() || ip.Zone() != "" || after != "" && after[0] != ':' {
			return false
		}
		port, hasPort = strings.CutPrefix(after, ":")
	} else {
		host, port, hasPort = strings.Cut(r, ":")
		for part := range strings.SplitSeq(host, ".") {
			if part == "" || strings.Trim(part, lower+upper+digits+"-") != "" || part[0] == '-' || part[len(part)-1] == '-' {
				return false
			}
		}
	}
	return !hasPort || port != "" && len(port) <= 5 && strings.Trim(port, digits) == ""
}

// validPart: words of letters and digits between single separators.
func validPart(p string) bool {
	if p == "" || !alnum(p[0]) || !alnum(p[len(p)-1]) {
		return false
	}
	for i := 0; i < len(p); {
		n := 0
		for i+n < len(p) && !alnum(p[i+n]) {
			n++
		}
		if sep := p[i : i+n]; n > 0 && sep != "." && sep != "_" && sep != "__" && strings.Trim(sep, "-") != "" {
			return false
		}
		i += n + 1
	}
	return true
}

func alnum(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

// Name is the reference in full; the same image has one name however it was written.
func (r Ref) Name() string { return r.registry + "/" + r.repository + r.end() }

func (r Ref) end() string {
	if r.digest != "" {
		return "@" + string(r.digest)
	}
	return ":" + r.tag
}

// String is the reference as people write it.
func (r Ref) String() string {
	if r.registry == defaultRegistry {
		return strings.TrimPrefix(r.repository, officialPrefix) + r.end()
	}
	return r.Name()
}

// Registry is the host, with its port, that the reference names.
func (r Ref) Registry() string { return r.registry }

// Repository is the path on the registry.
func (r Ref) Repository() string { return r.repository }

// Tag is the tag, "" when there is a digest.
func (r Ref) Tag() string { return r.tag }

// Digest is the digest that the reference itself has, or "".
func (r Ref) Digest() Digest { return r.digest }
