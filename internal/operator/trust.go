package operator

import (
	"fmt"
	"path/filepath"
	"strings"
)

// Trust is which images may be used, by where they come from: `brig run IMAGE`, `brig image pull` and `brig image load` hold to it. It
// says nothing of bundles, so an OCI runtime passes it over.
type Trust struct {
	// Default is for images that no section is for: "accept" (as without the file), "reject", or one of the words that demand
	// signatures, by Keys.
	Default string   `toml:"default"`
	Keys    []string `toml:"keys"`
	// Registries are the sections; the one with the longest prefix holds.
	Registries []TrustedRegistry `toml:"registry"`
}

// TrustedRegistry is what is demanded of the images of a registry, or of a part of it.
type TrustedRegistry struct {
	// Prefix is a registry, or a registry and the beginning of a repository, whole words between slashes: "registry.example/team" is
	// for registry.example/team and all below it, not for registry.example/teams.
	Prefix string `toml:"prefix"`
	// Require: "accept", "reject", "signed" (by any one of the keys) or "signed-by-all".
	Require string `toml:"require"`
	// Keys are files of public keys, PEM.
	Keys []string `toml:"keys"`
	// SignedAs are prefixes of names that a signature may have been made for, beside the image's own: where the images were copied from.
	SignedAs []string `toml:"signed-as"`
}

var requirements = []string{"accept", "reject", "signed", "signed-by-all"}

// Demand is what the policy wants of an image. The zero Demand wants nothing.
type Demand struct {
	Section  string // who wants it, as in the file
	Reject   bool
	Signed   bool // by one of the keys
	All      bool // by every key
	Keys     []string
	SignedAs []string
}

// Demand gives what is wanted of a repository: "registry/path". A policy that is nil wants nothing.
func (p *Policy) Demand(repository string) Demand {
	if p == nil {
		return Demand{}
	}
	best := TrustedRegistry{Require: p.Trust.Default, Keys: p.Trust.Keys}
	section := "trust.default"
	for _, r := range p.Trust.Registries {
		if WithinPrefix(repository, r.Prefix) && len(normalName(r.Prefix)) >= len(normalName(best.Prefix)) {
			best, section = r, fmt.Sprintf("trust.registry %q", r.Prefix)
		}
	}
	return Demand{
		Section: section, Reject: best.Require == "reject", Signed: strings.HasPrefix(best.Require, "signed"), All: best.Require == "signed-by-all",
		Keys: best.Keys, SignedAs: best.SignedAs,
	}
}

// WithinPrefix tells whether a repository is a prefix, or below it.
func WithinPrefix(repository, prefix string) bool {
	rest, ok := strings.CutPrefix(normalName(repository), normalName(prefix))
	return ok && (rest == "" || rest[0] == '/')
}

// normalName gives one spelling to what leads to the same place, so that none of the others goes round a section: a host's letters have
// no case, 443 is the port of https, and docker's registry has several names.
func normalName(name string) string {
	host, path, slash := strings.Cut(strings.TrimSuffix(name, "/"), "/")
	host = strings.ToLower(host)
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		port := strings.TrimLeft(host[i+1:], "0")
		if host = host[:i]; port != "443" {
			host += ":" + port
		}
	}
	switch host {
	case "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		host = "docker.io"
	}
	if !slash {
		return host
	}
	return host + "/" + path
}

func (p *Policy) checkTrust() error {
	t := p.Trust
	standard := TrustedRegistry{Require: t.Default, Keys: t.Keys}
	if t.Default == "" {
		standard.Require = "accept"
	}
	if err := standard.check("trust.default"); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, r := range t.Registries {
		if err := checkPrefix("prefix", r.Prefix); err != nil {
			return err
		}
		n := normalName(r.Prefix)
		if seen[n] {
			return fmt.Errorf("trust.registry: two sections are for %q", r.Prefix)
		}
		seen[n] = true
		if err := r.check(fmt.Sprintf("trust.registry %q: require", r.Prefix)); err != nil {
			return err
		}
	}
	return nil
}

func (r TrustedRegistry) check(key string) error {
	if err := oneOf(key, r.Require, requirements); err != nil {
		return err
	}
	if signed := strings.HasPrefix(r.Require, "signed"); signed != (len(r.Keys) > 0) {
		return fmt.Errorf("%s = %q with %d keys: signatures are demanded by naming the keys they have to be of", key, r.Require, len(r.Keys))
	}
	for _, k := range r.Keys {
		if !filepath.IsAbs(k) {
			return fmt.Errorf("%s: the key %q is to be named by its whole path", key, k)
		}
	}
	for _, n := range r.SignedAs {
		if err := checkPrefix("signed-as", n); err != nil {
			return err
		}
	}
	return nil
}

// checkPrefix refuses what no repository begins with.
func checkPrefix(key, prefix string) error {
	host, path, _ := strings.Cut(prefix, "/")
	if host == "" || !strings.ContainsAny(host, ".:") && host != "localhost" {
		return fmt.Errorf("trust.registry: %s = %q begins with no registry; that of docker is docker.io, and docker.io/library has its official images", key, prefix)
	}
	if path != strings.ToLower(path) || strings.ContainsAny(prefix, "@*? ") || strings.Contains(path, ":") || strings.Contains(path, "//") {
		return fmt.Errorf("trust.registry: %s = %q is no beginning of a repository: it has no tag, no digest and no wildcard", key, prefix)
	}
	return nil
}
