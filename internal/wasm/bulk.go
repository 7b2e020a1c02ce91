package wasm

import "slices"

// A memory.copy or memory.fill takes as long as its bytes are many, and once begun it runs
// to its end, whatever becomes of the gate. So where a gate would stand before one, it
// becomes instead the call of a function of ours that begins with the gate and moves the
// bytes in pieces, with a gate before each.
//
// It does what the instruction does. If the bytes lie in bounds, memory.copy moves its
// pieces in the direction in which none is overwritten before it is read. If they don't,
// the instruction itself is executed, which then traps before it writes anything. The
// function is entered for short runs too, and then costs 2 ns above the instruction's 10.
//
// Where the length is a small constant, as in the assignment of a struct, the instruction
// stays as it is and needs no gate: it is weighed as a call. The other bulk instructions
// run to their end: what they move is bounded by the module's size (memory.init,
// table.init) or by the engine's limit of tables.

const (
	// bulkPiece is how many bytes are moved between two gates: some 50 µs.
	bulkPiece = 1 << 20

	// smallBulk is a number of bytes that takes no longer than callWeight.
	smallBulk = 4096
)

// bulkType is the type of both functions, with the operands of the instruction.
var bulkType = FuncType{Params: []ValType{I32, I32, I32}}

// Pieces of the code below. Local 0 is the address to write to, 1 that to read from, or
// the byte to fill with, and 2 the length.
var (
	piece    = []byte{opI32Const, 0x80, 0x80, 0xc0, 0x00} // bulkPiece
	copyCode = []byte{prefixMisc, opMemoryCopy & 0xff, 0, 0}
	fillCode = []byte{prefixMisc, opMemoryFill & 0xff, 0}
	operands = []byte{0x20, 0, 0x20, 1, 0x20, 2} // local.get of each

	// Behind an address: whether a run from there lies out of bounds.
	outOfBounds = []byte{
		0xad,          // i64.extend_i32_u
		0x20, 2, 0xad, // the length
		0x7c,          // i64.add
		0x3f, 0, 0xad, // memory.size
		0x42, 16, 0x86, // in bytes: i64.const 16, i64.shl
		0x56, // i64.gt_u
	}
	isShort   = slices.Concat([]byte{0x20, 2}, piece, []byte{0x4d})          // length <= bulkPiece
	shorten   = slices.Concat([]byte{0x20, 2}, piece, []byte{0x6b, 0x21, 2}) // length -= bulkPiece
	advanceTo = slices.Concat([]byte{0x20, 0}, piece, []byte{0x6a, 0x21, 0})
	advance   = slices.Concat([]byte{0x20, 1}, piece, []byte{0x6a, 0x21, 1})
	again     = []byte{0x45, 0x0d, 0} // i32.eqz, br_if 0: a loop's end
)

// fillBody is memory.fill in pieces:
//
//	gate
//	block
//	  br_if 0                      ;; length <= bulkPiece
//	  br_if 0                      ;; out of bounds
//	  loop
//	    gate
//	    memory.fill to, byte, bulkPiece
//	    to += bulkPiece, length -= bulkPiece
//	    br_if 0                    ;; length > bulkPiece
//	  end
//	end
//	memory.fill to, byte, length   ;; the rest, or all of it, or a trap
var fillBody = slices.Concat(
	[]byte{0}, gate,
	[]byte{0x02, emptyBlock},
	isShort, []byte{0x0d, 0},
	[]byte{0x20, 0}, outOfBounds, []byte{0x0d, 0},
	[]byte{0x03, emptyBlock}, appendLoad(nil, 1),
	[]byte{0x20, 0, 0x20, 1}, piece, fillCode,
	advanceTo, shorten,
	isShort, again,
	[]byte{opEnd, opEnd},
	operands, fillCode,
	[]byte{opEnd},
)

// copyBody is memory.copy in pieces. It is as fillBody, but for the loop. If to <= from
// that goes upwards, as fillBody's does. Else it goes downwards, from the end:
//
//	loop
//	  gate
//	  length -= bulkPiece
//	  memory.copy to+length, from+length, bulkPiece
//	  br_if 0                      ;; length > bulkPiece
//	end
var copyBody = slices.Concat(
	[]byte{0}, gate,
	[]byte{0x02, emptyBlock},
	isShort, []byte{0x0d, 0},
	[]byte{0x20, 0, 0x20, 1, 0x20, 0, 0x20, 1, 0x4b, 0x1b}, // the higher address
	outOfBounds, []byte{0x0d, 0},

	[]byte{0x20, 0, 0x20, 1, 0x4d, opIf, emptyBlock}, // to <= from
	[]byte{0x03, emptyBlock}, appendLoad(nil, 1),
	[]byte{0x20, 0, 0x20, 1}, piece, copyCode,
	advanceTo, advance, shorten,
	isShort, again,
	[]byte{opEnd},

	[]byte{0x05, 0x03, emptyBlock}, appendLoad(nil, 2),
	shorten,
	[]byte{0x20, 0, 0x20, 2, 0x6a, 0x20, 1, 0x20, 2, 0x6a}, piece, copyCode,
	isShort, again,
	[]byte{opEnd, opEnd},

	[]byte{opEnd},
	operands, copyCode,
	[]byte{opEnd},
)

// addBulk adds those of the two functions that are called.
func (m *module) addBulk() {
	if m.copies {
		m.copyFunc = m.addFunc(bulkType, copyBody)
	}
	if m.fills {
		m.fillFunc = m.addFunc(bulkType, fillBody)
	}
}

// bulkCallLen is the length of a call of either; see appendIndex.
const bulkCallLen = 1 + indexLen

// bulkAt returns which function is called instead of the gate and the instruction at
// offset at, and the offset behind the instruction; or false if the instruction stays.
func (m *module) bulkAt(at uint32) (index uint32, end int, ok bool) {
	if m.file[at] != prefixMisc {
		return 0, 0, false
	}
	r := reader{file: m.file, pos: int(at)}
	switch op, _ := r.opcode(); op {
	case opMemoryCopy:
		index = m.copyFunc
		r.u32()
	case opMemoryFill:
		index = m.fillFunc
	default:
		return 0, 0, false
	}
	r.u32()
	return index, r.pos, true
}

// isSmall reports whether the instruction behind the one at offset at is given a small
// constant as its length.
func (m *module) isSmall(at int) bool {
	r := reader{file: m.file, pos: at}
	op, _ := r.opcode()
	return op == opI32Const && uint32(r.signed(32)) <= smallBulk && r.err == nil
}
