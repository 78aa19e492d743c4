// Counter writes 1, 2, 3 … into a file, one number every tenth of a second: where it goes on after a restore is seen there.
package main

import (
	"fmt"
	"os"
	"time"
)

func main() {
	name := os.Args[1]
	for n := 1; ; n++ {
		fmt.Println(n)
		err := os.WriteFile(name+".new", []byte(fmt.Sprintln(n)), 0o600)
		if err == nil {
			err = os.Rename(name+".new", name) // never seen half written
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
