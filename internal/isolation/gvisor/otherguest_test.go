package gvisor

import (
	"errors"
	"strings"
	"testing"
)

// TestOtherGuest: gVisor's words on a guest that is another than the one that was saved hold both values, some thousand characters.
func TestOtherGuest(t *testing.T) {
	t.Parallel()
	said := &remoteError{text: `failed to validate spec for container "__no_name_0": "Mounts" does not match across checkpoint restore for container: "__no_name_0", checkpoint ` + strings.Repeat("x", 4000)}
	if got := otherGuest(said).Error(); !strings.HasPrefix(got, `this brig gives the guest another "Mounts" than`) || len(got) > 150 {
		t.Error(got)
	}
	for _, err := range []error{errors.New("else"), &remoteError{text: "else"}} {
		if got := otherGuest(err); got != err { //nolint:errorlint // the very same
			t.Error(got)
		}
	}
}
