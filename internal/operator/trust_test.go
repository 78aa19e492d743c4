package operator

import (
	"strings"
	"testing"
)

const trustFile = `
[trust]
default = "reject"
[[trust.registry]]
prefix = "registry.example"
require = "accept"
[[trust.registry]]
prefix = "registry.example/team"
require = "signed"
keys = ["/etc/brig/keys/team.pub"]
signed-as = ["upstream.example/team"]
[[trust.registry]]
prefix = "registry.example/team/both"
require = "signed-by-all"
keys = ["/etc/brig/keys/team.pub", "/etc/brig/keys/release.pub"]
[[trust.registry]]
prefix = "docker.io/library"
require = "accept"
`

// TestTrust: the longest prefix holds, by whole words, however the name is spelled.
func TestTrust(t *testing.T) {
	t.Parallel()
	p := parse(t, trustFile)
	for repository, want := range map[string]string{
		"registry.example/app":              `trust.registry "registry.example"`,
		"registry.example/team":             `trust.registry "registry.example/team"`,
		"registry.example/team/app":         `trust.registry "registry.example/team"`,
		"REGISTRY.example:443/team/app":     `trust.registry "registry.example/team"`,
		"registry.example:00443/team/app":   `trust.registry "registry.example/team"`,
		"registry.example/teams/app":        `trust.registry "registry.example"`,
		"registry.example/team/both":        `trust.registry "registry.example/team/both"`,
		"registry.example:5000/team/app":    "trust.default",
		"evil.example/registry.example/app": "trust.default",
		"registry.example.evil.example/app": "trust.default",
		"index.docker.io/library/alpine":    `trust.registry "docker.io/library"`,
		"index.docker.io/other/alpine":      "trust.default",
	} {
		if d := p.Demand(repository); d.Section != want {
			t.Errorf("%s: %s holds, want %s", repository, d.Section, want)
		}
	}
	if d := p.Demand("x.example/y"); !d.Reject || d.Signed {
		t.Errorf("the default is %+v", d)
	}
	if d := p.Demand("registry.example/team/app"); d.Reject || !d.Signed || d.All || len(d.Keys) != 1 || len(d.SignedAs) != 1 {
		t.Errorf("signed is %+v", d)
	}
	if d := p.Demand("registry.example/team/both/x"); !d.Signed || !d.All || len(d.Keys) != 2 {
		t.Errorf("signed-by-all is %+v", d)
	}
	for _, p := range []*Policy{nil, parse(t, "")} {
		if d := p.Demand("registry.example/x"); d.Reject || d.Signed {
			t.Errorf("nothing is demanded, and it is %+v", d)
		}
	}
}

// TestTrustMistakes: what could be read as less than was meant is refused.
func TestTrustMistakes(t *testing.T) {
	t.Parallel()
	section := func(lines string) string { return "[[trust.registry]]\n" + lines }
	for text, want := range map[string]string{
		"[trust]\ndefault = \"sined\"":                                                  `trust.default = "sined": there are accept, reject, signed`,
		"[trust]\ndefault = \"signed\"":                                                 "with 0 keys",
		"[trust]\nkeys = [\"/k\"]":                                                      "with 1 keys",
		"[trust]\nrequire = \"signed\"":                                                 `unknown key "trust.require"`,
		section("prefix = \"r.example\""):                                               `require = "": there are`,
		section("require = \"reject\""):                                                 "begins with no registry",
		section("prefix = \"team/app\"\nrequire = \"reject\""):                          "begins with no registry",
		section("prefix = \"r.example/app:1\"\nrequire = \"reject\""):                   "no tag",
		section("prefix = \"r.example/*\"\nrequire = \"reject\""):                       "no wildcard",
		section("prefix = \"r.example\"\nrequire = \"signed\"\nkeys = [\"team.pub\"]"):  "whole path",
		section("prefix = \"r.example\"\nrequire = \"accept\"\nkeys = [\"/team.pub\"]"): "with 1 keys",
		section("prefix = \"r.example\"\nrequire = \"reject\"\nsigned-as = [\"x\"]"):    "signed-as",
		section("prefix = \"r.example\"\nrequire = \"reject\"\n") + section("prefix = \"R.example:443/\"\nrequire = \"accept\""): "two sections",
	} {
		if p, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n%+v, %v\nwant %s", text, p, err, want)
		}
	}
}
