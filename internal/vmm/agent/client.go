package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Call makes one request on a fresh stream and is over when the guest has sent its Exit. Nil streams are empty, or discarded.
func Call(stream io.ReadWriteCloser, req Request, stdin io.Reader, stdout, stderr io.Writer) (Exit, error) {
	defer stream.Close()
	if err := writeJSON(stream, frameRequest, req); err != nil {
		return Exit{}, err
	}
	fed, over := make(chan error, 1), make(chan struct{})
	defer close(over)
	may := make(chan struct{}, ahead)
	for range ahead {
		may <- struct{}{}
	}
	go func() {
		err := feed(limited{frames{stream, frameStdin}, may, over}, stdin)
		fed <- err
		if err != nil {
			_ = stream.Close() // the guest would wait for the rest
		}
	}()
	for {
		kind, data, err := readFrame(stream)
		if err != nil {
			select {
			case ferr := <-fed:
				return Exit{}, errors.Join(ferr, err)
			default:
				return Exit{}, err
			}
		}
		switch kind {
		case frameStdout:
			err = pass(stdout, data)
		case frameStderr:
			err = pass(stderr, data)
		case frameTaken:
			select {
			case may <- struct{}{}:
			default:
				err = errors.New("the guest has taken more than it was sent")
			}
		case frameExit:
			var e Exit
			if err := json.Unmarshal(data, &e); err != nil {
				return Exit{}, fmt.Errorf("read how it ended: %w", err)
			}
			select {
			case err := <-fed:
				return e, err
			default: // a program need not read its input
				return e, nil
			}
		default:
			err = fmt.Errorf("a frame of kind %d is not the guest's to send", kind)
		}
		if err != nil {
			return Exit{}, err
		}
	}
}

func pass(w io.Writer, data []byte) error {
	if w == nil {
		return nil
	}
	_, err := w.Write(data)
	return err
}

// feed sends the input and its end. Its error is the input's: that the guest takes no more is not one, for a program need not read its
// input, and where the guest is gone, who reads from it sees that.
func feed(to limited, stdin io.Reader) error {
	if stdin != nil {
		in := &source{Reader: stdin}
		if _, err := io.CopyBuffer(to, in, make([]byte, 64<<10)); err != nil {
			return in.err
		}
	}
	_ = writeFrame(to.w, to.kind, nil)
	return nil
}

// limited waits before each frame until the guest may be sent one.
type limited struct {
	frames
	may, over chan struct{}
}

// Preconditions: p fits into one frame.
func (l limited) Write(p []byte) (int, error) {
	select {
	case <-l.may:
		return l.frames.Write(p)
	case <-l.over:
		return 0, io.ErrClosedPipe
	}
}

// frames sends what is written to it.
type frames struct {
	w    io.Writer
	kind byte
}

func (f frames) Write(p []byte) (int, error) {
	for sent := 0; sent < len(p); {
		n := min(len(p)-sent, maxFrame)
		if err := writeFrame(f.w, f.kind, p[sent:sent+n]); err != nil {
			return sent, err
		}
		sent += n
	}
	return len(p), nil
}

// source keeps the error of a reader apart from that of who writes what is read. It has no WriteTo, so that the buffer is used.
type source struct {
	io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// errGone is the end of the channel.
var errGone = errors.New("the host is gone")
