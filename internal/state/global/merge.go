package global

import (
	"encoding/binary"
	"math"
)

// Element is the type of the elements that Merge works on, little-endian.
type Element uint8

// The types of elements.
const (
	Int32 Element = iota + 1
	Int64
	Float32
	Float64
)

// size returns an element's size in bytes, or 0 if there is no such type.
func (e Element) size() int {
	switch e {
	case Int32, Float32:
		return 4
	case Int64, Float64:
		return 8
	}
	return 0
}

// Op is how Merge combines two elements.
type Op uint8

// The operations. Of a NaN and a number, Min and Max make a NaN; -0 is less than +0.
const (
	Sum Op = iota + 1
	Min
	Max
)

// combine makes each element of dst op(itself, operand's). Both have the same length, a
// multiple of the element's size.
//
// The arithmetic is Go's for both drivers: a script in Redis has only doubles, in which
// large 64-bit integers are not exact, and would hold up the server for milliseconds.
func combine(dst, operand []byte, e Element, op Op) {
	le := binary.LittleEndian
	switch e {
	case Int32:
		for i := 0; i < len(dst); i += 4 {
			le.PutUint32(dst[i:], uint32(apply(op, int32(le.Uint32(dst[i:])), int32(le.Uint32(operand[i:])))))
		}
	case Int64:
		for i := 0; i < len(dst); i += 8 {
			le.PutUint64(dst[i:], uint64(apply(op, int64(le.Uint64(dst[i:])), int64(le.Uint64(operand[i:])))))
		}
	case Float32:
		for i := 0; i < len(dst); i += 4 {
			le.PutUint32(dst[i:], math.Float32bits(apply(op, math.Float32frombits(le.Uint32(dst[i:])), math.Float32frombits(le.Uint32(operand[i:])))))
		}
	case Float64:
		for i := 0; i < len(dst); i += 8 {
			le.PutUint64(dst[i:], math.Float64bits(apply(op, math.Float64frombits(le.Uint64(dst[i:])), math.Float64frombits(le.Uint64(operand[i:])))))
		}
	}
}

func apply[T int32 | int64 | float32 | float64](op Op, a, b T) T {
	switch op {
	case Min:
		return min(a, b)
	case Max:
		return max(a, b)
	default:
		return a + b
	}
}
