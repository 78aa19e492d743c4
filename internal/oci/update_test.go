package oci

import "testing"

func TestSize(t *testing.T) {
	for text, want := range map[string]int64{
		"-1": -1, "0": 0, "67108864": 67108864, "50M": 50 << 20, "30m": 30 << 20, "2k": 2048, "1.5g": 3 << 29, "7b": 7, "1KiB": 1024,
		"3 MB": 3 << 20, "": -2, "x": -2, "-5": -2, "5x": -2, "1bb": -2, "1kk": -2, "M": -2, "99999999P": -2,
	} {
		got, err := size(text)
		if (err != nil) != (want == -2) || err == nil && got != want {
			t.Errorf("%q is %d, %v; want %d", text, got, err, want)
		}
	}
}
