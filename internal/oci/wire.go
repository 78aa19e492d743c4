package oci

import (
	"encoding/binary"
	"errors"
)

// wire is a message of protocol buffers as they are sent, which criu is spoken to with: fields of a number, or of bytes that may be
// a message again ("Encoding" of their documentation).
type wire []byte

// Types of fields on the wire.
const (
	wireNumber = 0
	wireFixed8 = 1
	wireBytes  = 2
	wireFixed4 = 5
)

func (w *wire) number(field int, n uint64) {
	*w = binary.AppendUvarint(*w, uint64(field)<<3|wireNumber) //nolint:gosec // a small constant
	*w = binary.AppendUvarint(*w, n)
}

// flag leaves out what is false: so it is by default.
func (w *wire) flag(field int, yes bool) {
	if yes {
		w.number(field, 1)
	}
}

func (w *wire) bytes(field int, b []byte) {
	*w = binary.AppendUvarint(*w, uint64(field)<<3|wireBytes) //nolint:gosec // a small constant
	*w = binary.AppendUvarint(*w, uint64(len(b)))
	*w = append(*w, b...)
}

// text leaves out what is empty.
func (w *wire) text(field int, s string) {
	if s != "" {
		w.bytes(field, []byte(s))
	}
}

// pair is a message of two fields, a text and what second adds.
func (w *wire) pair(field int, first string, second func(*wire)) {
	var inner wire
	inner.text(1, first)
	second(&inner)
	w.bytes(field, inner)
}

var errWire = errors.New("it is no message of protocol buffers")

// fields gives each field to see, as a number or as bytes.
func (w wire) fields(see func(field int, n uint64, b wire) error) error {
	for len(w) > 0 {
		key, size := binary.Uvarint(w)
		if size <= 0 || key>>3 == 0 || key>>3 > 1<<29 {
			return errWire
		}
		w = w[size:]
		var n uint64
		var b wire
		switch key & 7 {
		case wireNumber:
			if n, size = binary.Uvarint(w); size <= 0 {
				return errWire
			}
		case wireBytes:
			length, prefix := binary.Uvarint(w)
			if prefix <= 0 || length > uint64(len(w)-prefix) {
				return errWire
			}
			size = prefix + int(length) //nolint:gosec // not more than there is
			b = w[prefix:size]
		case wireFixed8:
			size = 8
		case wireFixed4:
			size = 4
		default:
			return errWire
		}
		if size > len(w) {
			return errWire
		}
		if err := see(int(key>>3), n, b); err != nil { //nolint:gosec // just checked
			return err
		}
		w = w[size:]
	}
	return nil
}
