package trust

import (
	"bytes"
	"encoding/json"
	"testing"
	"unicode/utf8"
)

// FuzzParse: whatever comes as a payload, an envelope, a bundle, a statement or a key, nothing panics, and what is read is what stands
// there: a second reader of JSON sees the same digest.
func FuzzParse(f *testing.F) {
	const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	f.Add([]byte(claimOf(name, digest)))
	f.Add([]byte(`{"critical":{"type":"cosign container image signature","Type":"x","image":{"docker-manifest-digest":"` + digest + `"}},"critical":{}}`))
	f.Add([]byte(statementOf(predicateSign, digest)))
	f.Add([]byte(bundleOf(`{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"AAAA"}]}`, withKey)))
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE3R0ZtpfBd3Y8DaXuB1gM8JPlhsDI\nEfXO/WsMJEN14hEn8wajX2HklqL7igZPFICv6tBUGylIHp2mTH2Nhv38mg==\n-----END PUBLIC KEY-----\n"))
	f.Add([]byte(`{"a":[1,2.5e9,null,true,{"b":"\ud800"}],"K":1,"k":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if k, err := parseKey(data); err == nil && k.verify(data, data) {
			t.Error("a key that signs anything")
		}
		if p, err := parsePayload(data); err == nil {
			var other struct {
				Critical struct {
					Image struct {
						Digest string `json:"docker-manifest-digest"`
					} `json:"image"`
				} `json:"critical"`
			}
			if err := json.Unmarshal(data, &other); err != nil || other.Critical.Image.Digest != string(p.digest) {
				t.Errorf("read as %s, and by another as %s, %v", p.digest, other.Critical.Image.Digest, err)
			}
		}
		if st, err := parseStatement(data); err == nil {
			var other struct {
				PredicateType string `json:"predicateType"`
			}
			if err := json.Unmarshal(data, &other); err != nil || other.PredicateType != st.predicate {
				t.Errorf("read as %q, and by another as %q, %v", st.predicate, other.PredicateType, err)
			}
		}
		if e, _, err := parseBundle(data); err == nil {
			if pae := e.signed(); !bytes.HasPrefix(pae, []byte("DSSEv1 ")) || !bytes.HasSuffix(pae, e.payload) {
				t.Errorf("signed is %q", pae)
			}
			_, _ = e.parseSigned()
		}
		if o, err := parseObject(data); err == nil && (!utf8.Valid(data) || !json.Valid(data)) {
			t.Errorf("%q was read: %v", data, o)
		}
	})
}
