// Command walker tells the whole tree that it sees as lines of JSON: `walker [ROOT]`. Whatever is mounted over the root is left out, so in a
// sandbox it tells what the image gives.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"brig/test/image/walk"

	"github.com/moby/sys/mountinfo"
)

func main() {
	root := "/"
	if len(os.Args) > 1 {
		root = os.Args[1]
	}
	if err := run(root); err != nil {
		fmt.Fprintln(os.Stderr, "walker:", err)
		os.Exit(1)
	}
}

func run(root string) error {
	over := map[string]bool{}
	if root == "/" {
		mounts, err := mountinfo.GetMounts(nil)
		if err != nil {
			return err
		}
		for _, m := range mounts {
			over[m.Mountpoint] = true
		}
	}
	out := bufio.NewWriter(os.Stdout)
	lines := json.NewEncoder(out)
	err := walk.Walk(root, func(path string) bool { return over[path] }, func(e walk.Entry) error { return lines.Encode(e) })
	if err != nil {
		return err
	}
	fmt.Fprintln(out, strings.Repeat("-", 8)) // the whole tree was told
	return out.Flush()
}
