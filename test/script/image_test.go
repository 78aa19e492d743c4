package script

import (
	"os"
	"os/exec"

	"brig/test/image/fixture"

	"github.com/rogpeppe/go-internal/testscript"
)

// addImage REF DIR [CONFIG] puts an image into the script's store: the tree in DIR, and CONFIG, a file of JSON as an image's "config" is.
func addImage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: image REF DIR [CONFIG]")
	}
	config := []byte("{}")
	if len(args) == 3 {
		config = []byte(ts.ReadFile(args[2]))
	}
	ts.Check(fixture.Stored(ts.Getenv("BRIG_STORE"), args[0], ts.MkAbs(args[1]), config))
}

// dropImages takes away what a script that failed may have left: sandboxes of images, and the mounts of its store.
func dropImages(work string) {
	if _, err := os.Stat(work + "/images"); err != nil || os.Geteuid() != 0 {
		return
	}
	_ = exec.Command("/bin/sh", "-c", `"$0" warm --root "$1" --stop; for s in $("$0" ps --root "$1" -aq); do "$0" rm --root "$1" -f $s; done`, bin+"/brig", work+"/run/brig").Run()
	_ = exec.Command(bin+"/brig", "image", "--store", work+"/images", "prune", "--all").Run()
}
