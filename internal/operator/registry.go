package operator

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
)

// Registry is what the machine's people say of one registry, for pulling images. It demands nothing of a bundle.
type Registry struct {
	// Host is the registry as references name it, with a port where they have one.
	Host string `toml:"host"`
	// Mirrors are asked before the registry itself, in order: hosts, or URLs without a path.
	Mirrors []string `toml:"mirrors"`
	// Insecure allows plain HTTP, and without CA a certificate that nothing vouches for.
	Insecure bool `toml:"insecure"`
	// CA is a file of certificates (PEM) that are trusted for this host, beside the machine's.
	CA string `toml:"ca"`
	// Cert and Key are the files (PEM) of a client certificate.
	Cert string `toml:"cert"`
	Key  string `toml:"key"`
}

func (p *Policy) checkRegistries() error {
	known := map[string]bool{}
	for _, r := range p.Registries {
		if r.Host == "" {
			return fmt.Errorf("registry: host is missing")
		}
		if strings.ContainsAny(r.Host, "/@ ") {
			return fmt.Errorf("registry.host = %q: it is a host name, with a port where references have one", r.Host)
		}
		if known[strings.ToLower(r.Host)] {
			return fmt.Errorf("registry.host = %q: there are two sections for it", r.Host)
		}
		known[strings.ToLower(r.Host)] = true
		if (r.Cert == "") != (r.Key == "") {
			return fmt.Errorf("registry %s: cert and key belong together", r.Host)
		}
		for _, f := range []string{r.CA, r.Cert, r.Key} {
			if f != "" && !filepath.IsAbs(f) {
				return fmt.Errorf("registry %s: %q is no absolute path", r.Host, f)
			}
		}
		for _, m := range r.Mirrors {
			if err := checkMirror(m); err != nil {
				return fmt.Errorf("registry %s: %w", r.Host, err)
			}
		}
	}
	return nil
}

func checkMirror(m string) error {
	text := m
	if !strings.Contains(m, "://") {
		text = "https://" + m
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("mirrors = %q: a mirror is a host, or https://HOST without a path", m)
	}
	return nil
}
