package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/docker-credential-helpers/client"
	"github.com/docker/docker-credential-helpers/credentials"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// found is what the files of docker and podman say of a repository.
type found struct {
	config authn.AuthConfig
	file   string   // the file that has it, "" when none has
	looked []string // the files that were looked for
}

// credentialFiles are the places where docker and podman keep credentials, in the order in which podman looks
// (containers-auth.json(5)). A file that the environment names is the only one.
func credentialFiles() []string {
	if f := os.Getenv("REGISTRY_AUTH_FILE"); f != "" {
		return []string{f}
	}
	var list []string
	home, _ := os.UserHomeDir()
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		list = append(list, filepath.Join(dir, "containers/auth.json"))
	} else if os.Geteuid() == 0 {
		list = append(list, "/run/containers/0/auth.json")
	}
	if dir := os.Getenv("XDG_CONFIG_HOME"); dir != "" {
		list = append(list, filepath.Join(dir, "containers/auth.json"))
	} else if home != "" {
		list = append(list, filepath.Join(home, ".config/containers/auth.json"))
	}
	if dir := os.Getenv("DOCKER_CONFIG"); dir != "" {
		list = append(list, filepath.Join(dir, "config.json"))
	} else if home != "" {
		list = append(list, filepath.Join(home, ".docker/config.json"))
	}
	return list
}

// lookup finds the credentials for a repository. A file that is there and cannot be read is an error: going on without
// would be another answer than the one that was asked for.
func lookup(host, repository string) (found, error) {
	var out found
	for _, path := range credentialFiles() {
		out.looked = append(out.looked, path)
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) && os.Getenv("REGISTRY_AUTH_FILE") == "" {
			continue
		}
		if err != nil {
			return out, fmt.Errorf("read credentials for registries: %w", err)
		}
		file, err := config.LoadFromReader(f)
		_ = f.Close()
		if err != nil {
			return out, fmt.Errorf("read credentials for registries: %s is no valid file of them: %w", path, err)
		}
		c, err := fromFile(file, host, repository)
		if err != nil {
			return out, fmt.Errorf("%s: %w", path, err)
		}
		if c != nil {
			out.config, out.file = *c, path
			return out, nil
		}
	}
	return out, nil
}

// fromFile finds what a file says of a repository: a helper for the registry, the longest key that it is below, a helper
// for everything.
func fromFile(f *configfile.ConfigFile, host, repository string) (*authn.AuthConfig, error) {
	host = canonical(host)
	server := host
	if host == name.DefaultRegistry {
		server = authn.DefaultAuthKey
	}
	for key, helper := range f.CredentialHelpers {
		if h, path := splitKey(key); h == host && path == "" {
			return fromHelper(helper, server)
		}
	}
	best := -1
	var c *authn.AuthConfig
	for key, a := range f.AuthConfigs {
		h, path := splitKey(key)
		if h != host || path != "" && path != repository && !strings.HasPrefix(repository, path+"/") || len(path) <= best {
			continue
		}
		// docker leaves an entry without a word for what a helper keeps.
		if a.Username == "" && a.Password == "" && a.IdentityToken == "" && a.RegistryToken == "" {
			continue
		}
		best = len(path)
		c = &authn.AuthConfig{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
	}
	if c == nil && f.CredentialsStore != "" {
		return fromHelper(f.CredentialsStore, server)
	}
	return c, nil
}

// splitKey reads a key of a credential file: a registry, a registry with a beginning of repositories (podman), or a URL of version 1
// of the protocol (docker).
func splitKey(key string) (host, path string) {
	_, rest, isURL := strings.Cut(key, "://")
	if !isURL {
		rest = key
	}
	host, path, _ = strings.Cut(rest, "/")
	path = strings.Trim(path, "/")
	if isURL || path == "v1" || path == "v2" {
		path = ""
	}
	return canonical(host), path
}

// fromHelper asks a credential helper; the registry's name goes to its standard input.
func fromHelper(helper, server string) (*authn.AuthConfig, error) {
	program := "docker-credential-" + helper
	if strings.Contains(helper, "/") { // which would be a program of the working directory's
		return nil, fmt.Errorf("%q is no name of a credential helper: it is looked for in PATH, and has no slash", helper)
	}
	got, err := client.Get(client.NewShellProgramFunc(program), server)
	switch {
	case credentials.IsErrCredentialsNotFound(err):
		return nil, nil
	case err != nil:
		text, _, _ := strings.Cut(err.Error(), ", out:") // what it wrote may be anything
		return nil, fmt.Errorf("the credential helper %s: %s", program, text)
	case got.Username == "<token>": // docker login, "Credential helper protocol"
		return &authn.AuthConfig{IdentityToken: got.Secret}, nil
	}
	return &authn.AuthConfig{Username: got.Username, Password: got.Secret}, nil
}
