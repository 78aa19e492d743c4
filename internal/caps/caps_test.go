package caps

import (
	"errors"
	"os"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]Cap{
		"CAP_CHOWN": 0, "chown": 0, "cap_net_admin": 12, "Net_Raw": 13, "SYS_ADMIN": 21, "CAP_CHECKPOINT_RESTORE": 40,
	} {
		got, err := Parse(name)
		if err != nil || got != want {
			t.Errorf("Parse(%q) = %d, %v; want %d", name, got, err, want)
		}
	}
}

func TestUnknownNameGetsASuggestion(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"CAP_NETADMIN": "CAP_NET_ADMIN", "sys_adm": "CAP_SYS_ADMIN", "NET_RAWW": "CAP_NET_RAW", "RESTORE": "CAP_CHECKPOINT_RESTORE",
		"bfp": "CAP_BPF", "ADMIN": "", "": "", "CAP_": "", "everything": "", "a": "",
	} {
		_, err := Parse(name)
		var unknown *UnknownError
		if !errors.As(err, &unknown) {
			t.Errorf("Parse(%q) = %v, want an UnknownError", name, err)
			continue
		}
		if unknown.Suggestion != want {
			t.Errorf("Parse(%q) suggests %q, want %q", name, unknown.Suggestion, want)
		}
	}
}

func TestSetForms(t *testing.T) {
	t.Parallel()
	s, err := ParseSet([]string{"CHOWN", "CAP_BPF", "chown"})
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Hex(); got != "0000008000000001" {
		t.Errorf("Hex = %s", got)
	}
	if low, high := s.Words(); low != 1 || high != 1<<7 {
		t.Errorf("Words = %x %x", low, high)
	}
	back, err := ParseMask(s.Hex())
	if err != nil || back != s {
		t.Errorf("ParseMask(Hex) = %x, %v", back, err)
	}
	if got := strings.Join(s.Names(), ","); got != "CAP_CHOWN,CAP_BPF" {
		t.Errorf("Names = %s", got)
	}
	for set, want := range map[Set]string{
		0: "none", All: "all", All &^ SysResource.Mask(): "all but CAP_SYS_RESOURCE", NetAdmin.Mask(): "CAP_NET_ADMIN", 1 << 45: "45",
	} {
		if got := set.String(); got != want {
			t.Errorf("String(%x) = %q, want %q", uint64(set), got, want)
		}
	}
	if got := All.Upto(37); got.Has(38) || !got.Has(37) || All.Upto(63) != All {
		t.Errorf("Upto(37) = %v", got)
	}
}

func TestLastMatchesTheKernel(t *testing.T) {
	t.Parallel()
	last, err := Last()
	if err != nil {
		t.Fatal(err)
	}
	if last < 40 {
		t.Errorf("Last = %d, but kernels since 5.9 have 40", last)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if hex, ok := strings.CutPrefix(line, "CapBnd:"); ok {
			s, err := ParseMask(strings.TrimSpace(hex))
			if err != nil || s.Upto(last) != s {
				t.Errorf("bounding set %q has bits above %d (%v)", hex, last, err)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"CAP_SYS_ADMIN", "cap_", "\x00", "NETADMIN", "ÿ"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		c, err := Parse(name)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n") {
				t.Errorf("error of %q has several lines", name)
			}
			return
		}
		if again, err := Parse(c.String()); err != nil || again != c {
			t.Errorf("Parse(%q).String() does not parse back", name)
		}
	})
}
