package job

import (
	"crypto/sha256"
	"fmt"
	"reflect"
	"testing"
)

// shape is the digest of what goes over, for the Interface of that number.
const shape = "1 72f0391460301efc"

// TestInterface: who changes what goes over raises the number, or an older brig-gvisor would pass over a part of what it is asked for.
func TestInterface(t *testing.T) {
	h := sha256.New()
	for _, v := range []any{Job{}, Files{}, Served{}, Ready{}, End{}} {
		for _, f := range reflect.VisibleFields(reflect.TypeOf(v)) {
			fmt.Fprintln(h, reflect.TypeOf(v), f.Name, f.Type, f.Tag)
		}
	}
	fmt.Fprintln(h, FD, ControlFD, StatusFD, RootFD, FirstFD, FilesFD, ProcFD, FirstServedFD, Warm, ActAbsent)
	if got := fmt.Sprintf("%s %x", Interface, h.Sum(nil)[:8]); got != shape {
		t.Errorf("what brig and brig-gvisor have in common is %q by now, and was %q: raise Interface, and write it here", got, shape)
	}
}
