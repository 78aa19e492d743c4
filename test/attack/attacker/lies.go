package main

import (
	"encoding/json"
	"io"
	"os"
	"slices"
	"strings"

	"brig/internal/isolation/gvisor/job"

	"golang.org/x/sys/unix"
)

// lies are what a kernel process in a guest's hand may answer Brig.
var lies = map[string]func(f *os.File){
	"silence": func(*os.File) { select {} },
	"endless": func(f *os.File) {
		_, err := io.WriteString(f, `{"success":false,"err":"`)
		for chunk := strings.Repeat("x", 1<<16); err == nil; {
			_, err = io.WriteString(f, chunk)
		}
	},
	"escapes": func(f *os.File) {
		_, _ = io.WriteString(f, `{"success":false,"err":"\u001b[2J\rbrig: all is well\u0007"}`)
	},
	// A process of the host's, in place of the guest's.
	"pid-1": func(f *os.File) { _, _ = io.WriteString(f, `{"success":true,"result":1}`) },
	"files": func(f *os.File) {
		fds := make([]int, 200)
		for i := range fds {
			fds[i] = job.StatusFD
		}
		_ = unix.Sendmsg(int(f.Fd()), []byte(`{"success":false,"err":"files"}`), unix.UnixRights(fds...), nil, 0)
	},
}

// lie says yes to every call but those of some methods, to which it lies. As a status it says WHAT in place of an end.
func lie(what, methods string) error {
	for {
		fd, _, err := unix.Accept4(job.ControlFD, unix.SOCK_CLOEXEC)
		if err != nil {
			return err
		}
		go func() {
			f := os.NewFile(uintptr(fd), "control")
			defer f.Close() //nolint:errcheck // said
			var asked struct{ Method string }
			if json.NewDecoder(f).Decode(&asked) != nil {
				return
			}
			_, asked.Method, _ = strings.Cut(asked.Method, ".")
			if slices.Contains(strings.Split(methods, ","), asked.Method) {
				lies[what](f)
				return
			}
			result := map[string]string{"ExecuteAsync": `,"result":7`, "WaitPID": `,"result":0`}[asked.Method]
			_, _ = io.WriteString(f, `{"success":true`+result+`}`)
			if asked.Method == "StartRoot" && methods == "status" {
				_, _ = unix.Write(job.StatusFD, []byte(what))
				os.Exit(0)
			}
		}()
	}
}
