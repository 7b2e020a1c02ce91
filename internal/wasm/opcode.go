package wasm

import "fmt"

// immediate says what follows an opcode in the code.
type immediate uint8

const (
	immUnknown      immediate = iota // not an opcode we know
	immNone                          // nothing
	immPrefix                        // a second opcode, as a u32
	immBlock                         // block: a block type
	immLoop                          // loop: a block type
	immIf                            // if: a block type
	immElse                          // nothing
	immEnd                           // nothing
	immBr                            // br: a label
	immBrIf                          // br_if: a label
	immBrTable                       // br_table: a vector of labels and one more
	immLeave                         // unreachable, return: nothing
	immCall                          // call, return_call, ref.func: a function
	immCallIndirect                  // a type and a table
	immSelect                        // a vector of value types
	immLocal                         // a local
	immGlobal                        // a global
	immTable                         // a table
	immTablePair                     // table.copy: two tables
	immElem                          // elem.drop: an element segment
	immElemTable                     // table.init: an element segment and a table
	immData                          // data.drop: a data segment
	immDataMemory                    // memory.init: a data segment and a memory
	immMemory                        // a memory
	immMemoryPair                    // memory.copy: two memories
	immMemarg                        // alignment and offset
	immMemargLane                    // alignment, offset and lane
	immLane                          // one byte
	immShuffle                       // sixteen lanes
	immI32                           // a signed number
	immI64                           // a signed number
	immF32                           // four bytes
	immF64                           // eight bytes
	immV128                          // sixteen bytes
	immHeapType                      // ref.null: func or extern
)

// weight is a rough measure of the time an instruction may take, in units of a plain
// one. See scanner for what it is good for.
type weight int32

const (
	free  weight = 0 // leaves nothing in the machine code
	plain weight = 1

	// callWeight is the most that a function without a gate may weigh, and so what the
	// call of a function must be taken to weigh.
	callWeight weight = 128

	// maxUngated is the most that one activation of a function may run between two of
	// its gates. At one gate in a thousand instructions the gates cost nothing.
	maxUngated weight = 1024

	// A drop is weighed with the mark that may stand before it; see appendMark.
	dropWeight weight = 3

	// bulk instructions take as long as the memory or table is large. Each has a gate of
	// its own.
	bulk weight = -1
)

// operation is what the rewriter has to know of an opcode.
type operation struct {
	imm    immediate
	weight weight
}

// opRange gives the opcodes first to last the same operation.
type opRange struct {
	first, last int
	operation
}

func opTable(size int, ranges []opRange) []operation {
	t := make([]operation, size)
	for _, r := range ranges {
		for op := r.first; op <= r.last; op++ {
			if t[op].imm != immUnknown {
				panic(fmt.Sprintf("BUG: opcode %#x is in the table twice", op))
			}
			t[op] = r.operation
		}
	}
	return t
}

// Opcodes that are asked for by number. Behind a prefix, the prefix is in the upper half.
const (
	opIf                 = 0x04
	opEnd                = 0x0b
	opCall               = 0x10
	opReturnCall         = 0x12
	opReturnCallIndirect = 0x13
	opGlobalGet          = 0x23
	opGlobalSet          = 0x24
	opTableSet           = 0x26
	opI32Const           = 0x41
	opI64Const           = 0x42
	opF32Const           = 0x43
	opF64Const           = 0x44
	opI32Add             = 0x6a
	opI32Sub             = 0x6b
	opI32Mul             = 0x6c
	opI64Add             = 0x7c
	opI64Sub             = 0x7d
	opI64Mul             = 0x7e
	opRefNull            = 0xd0
	opRefFunc            = 0xd2
	prefixMisc           = 0xfc
	prefixSIMD           = 0xfd
	opDataDrop           = prefixMisc<<16 | 0x09
	opTableInit          = prefixMisc<<16 | 0x0c
	opMemoryCopy         = prefixMisc<<16 | 0x0a
	opMemoryFill         = prefixMisc<<16 | 0x0b
	opElemDrop           = prefixMisc<<16 | 0x0d
	opTableCopy          = prefixMisc<<16 | 0x0e
	opTableGrow          = prefixMisc<<16 | 0x0f
	opTableFill          = prefixMisc<<16 | 0x11
	opV128Const          = prefixSIMD<<16 | 0x0c
)

// The tables hold WebAssembly 2.0, tail calls and relaxed SIMD. What is not in them is
// refused: an opcode skipped over would put every later gate in the wrong place.
var (
	operations = opTable(0x100, []opRange{
		{0x00, 0x00, operation{immLeave, free}},              // unreachable
		{0x01, 0x01, operation{immNone, free}},               // nop
		{0x02, 0x02, operation{immBlock, free}},              // block
		{0x03, 0x03, operation{immLoop, free}},               // loop
		{0x04, 0x04, operation{immIf, plain}},                // if
		{0x05, 0x05, operation{immElse, free}},               // else
		{0x0b, 0x0b, operation{immEnd, free}},                // end
		{0x0c, 0x0c, operation{immBr, plain}},                // br
		{0x0d, 0x0d, operation{immBrIf, plain}},              // br_if
		{0x0e, 0x0e, operation{immBrTable, plain}},           // br_table
		{0x0f, 0x0f, operation{immLeave, plain}},             // return
		{0x10, 0x10, operation{immCall, callWeight}},         // call
		{0x11, 0x11, operation{immCallIndirect, callWeight}}, // call_indirect
		{0x12, 0x12, operation{immCall, callWeight}},         // return_call
		{0x13, 0x13, operation{immCallIndirect, callWeight}}, // return_call_indirect
		{0x1a, 0x1b, operation{immNone, plain}},              // drop, select
		{0x1c, 0x1c, operation{immSelect, plain}},            // select with types
		{0x20, 0x22, operation{immLocal, plain}},             // local.get, .set, .tee
		{0x23, 0x24, operation{immGlobal, plain}},            // global.get, .set
		{0x25, 0x26, operation{immTable, plain}},             // table.get, .set
		{0x28, 0x3e, operation{immMemarg, plain}},            // i32.load to i64.store32
		{0x3f, 0x3f, operation{immMemory, plain}},            // memory.size
		{0x40, 0x40, operation{immMemory, bulk}},             // memory.grow
		{0x41, 0x41, operation{immI32, plain}},               // i32.const
		{0x42, 0x42, operation{immI64, plain}},               // i64.const
		{0x43, 0x43, operation{immF32, plain}},               // f32.const
		{0x44, 0x44, operation{immF64, plain}},               // f64.const
		{0x45, 0xc4, operation{immNone, plain}},              // i32.eqz to i64.extend32_s
		{0xd0, 0xd0, operation{immHeapType, plain}},          // ref.null
		{0xd1, 0xd1, operation{immNone, plain}},              // ref.is_null
		{0xd2, 0xd2, operation{immCall, plain}},              // ref.func
		{prefixMisc, prefixSIMD, operation{immPrefix, free}},
	})

	operationsMisc = opTable(0x12, []opRange{
		{0x00, 0x07, operation{immNone, plain}},      // i32.trunc_sat_f32_s to i64.trunc_sat_f64_u
		{0x08, 0x08, operation{immDataMemory, bulk}}, // memory.init
		{0x09, 0x09, operation{immData, dropWeight}}, // data.drop
		{0x0a, 0x0a, operation{immMemoryPair, bulk}}, // memory.copy
		{0x0b, 0x0b, operation{immMemory, bulk}},     // memory.fill
		{0x0c, 0x0c, operation{immElemTable, bulk}},  // table.init
		{0x0d, 0x0d, operation{immElem, dropWeight}}, // elem.drop
		{0x0e, 0x0e, operation{immTablePair, bulk}},  // table.copy
		{0x0f, 0x0f, operation{immTable, bulk}},      // table.grow
		{0x10, 0x10, operation{immTable, plain}},     // table.size
		{0x11, 0x11, operation{immTable, bulk}},      // table.fill
	})

	operationsSIMD = opTable(0x114, []opRange{
		{0x00, 0x0b, operation{immMemarg, plain}},     // v128.load to v128.store
		{0x0c, 0x0c, operation{immV128, plain}},       // v128.const
		{0x0d, 0x0d, operation{immShuffle, plain}},    // i8x16.shuffle
		{0x0e, 0x14, operation{immNone, plain}},       // i8x16.swizzle, splats
		{0x15, 0x22, operation{immLane, plain}},       // extract_lane, replace_lane
		{0x23, 0x53, operation{immNone, plain}},       // comparisons, bitwise, v128.any_true
		{0x54, 0x5b, operation{immMemargLane, plain}}, // v128.load8_lane to v128.store64_lane
		{0x5c, 0x5d, operation{immMemarg, plain}},     // v128.load32_zero, v128.load64_zero
		{0x5e, 0x99, operation{immNone, plain}},
		{0x9b, 0xa1, operation{immNone, plain}}, // 0x9a is no opcode, nor are the other gaps
		{0xa3, 0xa4, operation{immNone, plain}},
		{0xa7, 0xae, operation{immNone, plain}},
		{0xb1, 0xb1, operation{immNone, plain}},
		{0xb5, 0xba, operation{immNone, plain}},
		{0xbc, 0xc1, operation{immNone, plain}},
		{0xc3, 0xc4, operation{immNone, plain}},
		{0xc7, 0xce, operation{immNone, plain}},
		{0xd1, 0xd1, operation{immNone, plain}},
		{0xd5, 0xe1, operation{immNone, plain}},
		{0xe3, 0xed, operation{immNone, plain}},
		{0xef, 0xff, operation{immNone, plain}},
		{0x100, 0x113, operation{immNone, plain}}, // relaxed SIMD
	})
)

// opcode reads an opcode: its number, with the prefix in the upper half, and its operation.
func (r *reader) opcode() (uint32, operation) {
	at := r.pos
	op := uint32(r.byte())
	o := operations[op]
	if o.imm == immUnknown {
		r.failOpcode(at, op, 0)
	}
	if o.imm != immPrefix {
		return op, o
	}
	table := operationsMisc
	if op == prefixSIMD {
		table = operationsSIMD
	}
	sub := r.u32()
	if sub >= uint32(len(table)) || table[sub].imm == immUnknown {
		r.failOpcode(at, op, sub)
		return 0, operation{}
	}
	return op<<16 | sub, table[sub]
}

// failOpcode names the proposal that an opcode we do not take belongs to.
func (r *reader) failOpcode(at int, op, sub uint32) {
	what := fmt.Sprintf("%#02x", op)
	if op == prefixMisc || op == prefixSIMD {
		what = fmt.Sprintf("%#02x %#02x", op, sub)
	}
	proposal := ""
	switch {
	case op >= 0x06 && op <= 0x0a, op == 0x18, op == 0x19, op == 0x1f:
		proposal = "exceptions"
	case op == 0x14, op == 0x15, op >= 0xd4 && op <= 0xd6:
		proposal = "typed function references"
	case op == 0xd3, op == 0xfb:
		proposal = "garbage collection"
	case op >= 0xe0 && op <= 0xe6:
		proposal = "stack switching"
	case op == 0xfe:
		proposal = "threads and atomics"
	case op == prefixMisc && sub >= 0x13 && sub <= 0x16:
		proposal = "wide arithmetic"
	}
	if proposal == "" {
		r.fail(at, "unknown opcode %s", what)
		return
	}
	r.fail(at, "opcode %s is of the %s proposal, which is not supported", what, proposal)
}
