package wasm

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"
)

// A reader is a cursor over an upload. Its positions are offsets in the upload, also
// when it is confined to one section, so that every error carries the right one.
//
// The first error sticks and moves the cursor to the end: later reads return zero and
// change nothing. Callers therefore look at err only where a loop must end or where a
// value is about to be trusted.
type reader struct {
	file    []byte // the upload, cut off where this reader must stop
	pos     int
	section string // for errors
	fn      int    // function being read, for errors; -1 outside code
	err     *Error
}

// fail records an error at offset at, unless there is one already.
func (r *reader) fail(at int, format string, args ...any) {
	if r.err == nil {
		r.err = &Error{Section: r.section, Offset: at, Func: r.fn, Msg: fmt.Sprintf(format, args...)}
	}
	r.pos = len(r.file)
}

func (r *reader) left() int { return len(r.file) - r.pos }

func (r *reader) byte() byte {
	if r.pos < len(r.file) {
		c := r.file[r.pos]
		r.pos++
		return c
	}
	r.fail(r.pos, "unexpected end")
	return 0
}

// bytes returns the next n bytes, which alias the upload.
func (r *reader) bytes(n uint32) []byte {
	if uint64(n) > uint64(r.left()) {
		r.fail(r.pos, "unexpected end: %d bytes announced, %d left", n, r.left())
		return nil
	}
	b := r.file[r.pos : r.pos+int(n) : r.pos+int(n)]
	r.pos += int(n)
	return b
}

// within returns a reader confined to the next n bytes, and skips them.
func (r *reader) within(n uint32) reader {
	sub := *r
	r.bytes(n)
	sub.err, sub.file = r.err, r.file[:r.pos]
	return sub
}

// u32 reads an unsigned LEB128 number of at most 32 bits, in at most five bytes.
func (r *reader) u32() uint32 {
	if r.pos < len(r.file) && r.file[r.pos] < 0x80 {
		r.pos++
		return uint32(r.file[r.pos-1])
	}
	return r.u32Long()
}

func (r *reader) u32Long() uint32 {
	at := r.pos
	var v uint32
	for shift := 0; ; shift += 7 {
		c := r.byte()
		if shift == 28 && c > 0x0f {
			r.fail(at, "number does not fit 32 bits")
			return 0
		}
		v |= uint32(c&0x7f) << shift
		if c < 0x80 {
			return v
		}
	}
}

// signed reads a signed LEB128 number of the given width. Bits beyond the width must
// repeat the sign.
func (r *reader) signed(bits int) int64 {
	at := r.pos
	var v int64
	for shift := 0; ; shift += 7 {
		c := r.byte()
		if room := bits - shift; room < 7 {
			if spill := int8(c<<1) >> room; c >= 0x80 || spill != 0 && spill != -1 {
				r.fail(at, "number does not fit %d bits", bits)
				return 0
			}
		}
		v |= int64(c&0x7f) << shift
		if c < 0x80 {
			if unused := 64 - shift - 7; unused > 0 {
				v = v << unused >> unused
			}
			return v
		}
	}
}

func (r *reader) fixed32() uint32 {
	if b := r.bytes(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *reader) fixed64() uint64 {
	if b := r.bytes(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// count reads the number of entries of a vector. Each entry takes at least one byte,
// so that whatever is then allocated is in proportion to the upload.
func (r *reader) count(what string, most int) int {
	at := r.pos
	n := r.u32()
	switch {
	case uint64(n) > uint64(most):
		r.fail(at, "%d %s; at most %d are allowed", n, what, most)
		return 0
	case uint64(n) > uint64(r.left()):
		r.fail(at, "%d %s announced in the %d bytes left", n, what, r.left())
		return 0
	}
	return int(n)
}

// name reads a UTF-8 string.
func (r *reader) name() string {
	at := r.pos
	n := r.u32()
	if n > maxNameBytes {
		r.fail(at, "name of %d bytes; at most %d are allowed", n, maxNameBytes)
		return ""
	}
	b := r.bytes(n)
	if !utf8.Valid(b) {
		r.fail(at, "name %.100q is not UTF-8", b)
		return ""
	}
	return string(b)
}

// finish fails unless everything has been read.
func (r *reader) finish() {
	if n := r.left(); n > 0 {
		r.fail(r.pos, "%d bytes too many", n)
	}
}
