// Package agent is what runs as the first program of a virtual machine: it loads the modules, makes the root file system out
// of the disks and serves the host's requests on a virtio-serial port.
//
// Its place on the road: cmd/brig-agent is nothing but its Main; package vmm, on the host, speaks its protocol.
//
// The channel is multiplexed (yamux). The host opens a stream for each request; a stream begins with one frame that holds a
// Request as JSON. What follows are frames both ways until the guest's Exit.
package agent

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/yamux"
)

// Port is the name of the virtio-serial port.
const Port = "brig.agent"

// Boot is what the host wants to be made of the machine: the file /boot.json of the initramfs.
type Boot struct {
	// Modules are files of the initramfs, in the order of loading.
	Modules []string `json:"modules"`
	// Folders are where the folders' disks are mounted, in the order of their disks ("folder0", …).
	Folders []string `json:"folders,omitempty"`
	// Init is run as process 1 when all is set up; empty for the agent itself.
	Init []string `json:"init,omitempty"`
	Name string   `json:"name"` // of the host
}

// What a Request asks for.
const (
	Run  = "run"  // a program
	Put  = "put"  // unpack the tar that comes as Stdin into Dir
	Take = "take" // send a tar of Dir as Stdout
)

// Request is the first frame of a stream.
type Request struct {
	Kind string   `json:"kind"`
	Argv []string `json:"argv,omitempty"`
	Env  []string `json:"env,omitempty"`
	Dir  string   `json:"dir,omitempty"`
	// UID and GID are the ids it runs as.
	UID uint32 `json:"uid,omitempty"`
	GID uint32 `json:"gid,omitempty"`
}

// Exit is the last frame of the guest.
type Exit struct {
	// Code is the exit status, 128 + the number of the signal that ended the program.
	Code int `json:"code"`
	// Error says why nothing was run.
	Error string `json:"error,omitempty"`
}

// A frame is its kind, its length in four bytes, big endian, and its bytes.
const (
	frameRequest = iota + 1
	frameExit
	frameStdin // empty: end of file
	frameStdout
	frameStderr
	frameTaken // the guest's: it has used up one frame of Stdin
)

// ahead is how many frames of Stdin may be sent that are not taken yet. The guest keeps them, so that it always reads on, and hears that
// the host has gone from a stream whose input nobody reads.
const ahead = 8

// maxFrame is the largest frame that is taken: nobody sends a larger one.
const maxFrame = 1 << 20

func writeFrame(w io.Writer, kind byte, data []byte) error {
	buf := make([]byte, 5, 5+len(data))
	buf[0] = kind
	binary.BigEndian.PutUint32(buf[1:], uint32(len(data))) //nolint:gosec // the callers' buffers are small
	_, err := w.Write(append(buf, data...))
	return err
}

func readFrame(r io.Reader) (kind byte, data []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxFrame {
		return 0, nil, fmt.Errorf("a frame of %d bytes, and at most %d are taken", n, maxFrame)
	}
	data = make([]byte, n)
	if _, err := io.ReadFull(r, data); err != nil {
		return 0, nil, fmt.Errorf("read a frame of %d bytes: %w", n, err)
	}
	return head[0], data, nil
}

func writeJSON(w io.Writer, kind byte, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeFrame(w, kind, data)
}

// Mux gives the settings of both ends: no keep-alive, because a machine under emulation may be slow and is watched otherwise.
func Mux() *yamux.Config {
	c := yamux.DefaultConfig()
	c.EnableKeepAlive = false
	c.StreamOpenTimeout = 0
	c.ConnectionWriteTimeout = 5 * time.Minute
	c.LogOutput = io.Discard
	return c
}
