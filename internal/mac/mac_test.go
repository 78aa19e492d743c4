package mac

import (
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
)

func TestPlan(t *testing.T) {
	t.Parallel()
	stacked := Host{AppArmor: true, SELinux: true, OwnAttr: true}
	const label = "system_u:system_r:container_t:s0:c1,c2"
	for _, c := range []struct {
		what, profile, label string
		host                 Host
		when                 Moment
		want                 []Write
	}{
		{what: "nothing asked", host: stacked},
		{what: "own folder", host: stacked, profile: "brig", want: []Write{{AppArmor, AtExec, "attr/apparmor/exec", "exec brig"}}},
		{what: "kernel before 5.8", host: Host{AppArmor: true}, profile: "brig", want: []Write{{AppArmor, AtExec, "attr/exec", "exec brig"}}},
		{what: "label", host: stacked, label: label, want: []Write{{SELinux, AtExec, "attr/exec", label}}},
		{what: "both", host: stacked, profile: "a b", label: label, want: []Write{
			{AppArmor, AtExec, "attr/apparmor/exec", "exec a b"}, {SELinux, AtExec, "attr/exec", label}}},
		{what: "both at once", host: stacked, profile: "a b", label: label, when: AtOnce, want: []Write{
			{AppArmor, AtOnce, "attr/apparmor/current", "changeprofile a b"}, {SELinux, AtOnce, "attr/current", label}}},
		{what: "at once before 5.8", host: Host{AppArmor: true}, profile: "brig", when: AtOnce, want: []Write{{AppArmor, AtOnce, "attr/current", "changeprofile brig"}}},
		{what: "unconfined is nothing where there is no AppArmor", profile: Unconfined},
		{what: "unconfined is written where there is", host: stacked, profile: Unconfined, want: []Write{{AppArmor, AtExec, "attr/apparmor/exec", "exec unconfined"}}},
		{what: "unconfined clears no signal", host: stacked, profile: Unconfined, when: AtOnce, want: []Write{{AppArmor, AtExec, "attr/apparmor/exec", "exec unconfined"}}},
	} {
		got, err := Plan(c.host, c.profile, c.label, c.when)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, %v; want %v", c.what, got, err, c.want)
		}
	}
}

func TestAbsentModuleIsRefused(t *testing.T) {
	t.Parallel()
	var missing *MissingError
	if _, err := Plan(Host{}, "brig", "", AtExec); !errors.As(err, &missing) || missing.Module != AppArmor {
		t.Errorf("profile without AppArmor: %v", err)
	}
	if _, err := Plan(Host{AppArmor: true}, "", "a:b:c", AtExec); !errors.As(err, &missing) || missing.Module != SELinux {
		t.Errorf("label without SELinux: %v", err)
	}
}

func TestBadNamesAreRefused(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", " brig", "brig ", "br\nig", "br\x00ig", "&brig", "\tbrig", strings.Repeat("a", 4096)} {
		var bad *NameError
		if err := CheckProfile(name); !errors.As(err, &bad) || strings.Contains(err.Error(), "\n") {
			t.Errorf("CheckProfile(%.20q) = %v", name, err)
		}
	}
	for _, label := range []string{"", "a:b", "a::c", "a:b:c:", "a b:c:d", "a:b:c\n", "a:b:c:s0 c1", "a:b:c\x00", strings.Repeat("a", 5000)} {
		var bad *NameError
		if err := CheckLabel(label); !errors.As(err, &bad) || strings.Contains(err.Error(), "\n") {
			t.Errorf("CheckLabel(%.20q) = %v", label, err)
		}
	}
	for _, label := range []string{"system_u:system_r:container_t:s0", "u:r:t", "u:r:t:s0-s0:c0.c1023"} {
		if err := CheckLabel(label); err != nil {
			t.Error(err)
		}
	}
}

func TestParseCurrent(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Confinement{
		"unconfined\n":          {AppArmor, "unconfined", ""},
		"brig-x (enforce)\n":    {AppArmor, "brig-x", "enforce"},
		"odd (name) (complain)": {AppArmor, "odd (name)", "complain"},
	} {
		if got := ParseCurrent(AppArmor, text); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
	if got := ParseCurrent(SELinux, "u:r:t:s0\x00"); got.Name != "u:r:t:s0" {
		t.Errorf("label read back as %q", got.Name)
	}
}

func TestHostIsReadWithoutFailing(t *testing.T) {
	t.Parallel()
	h := ReadHost()
	c, err := Current(h, os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if (h.AppArmor || h.SELinux) && c.Name == "" {
		t.Errorf("host %+v confines nobody by any name", h)
	}
}
