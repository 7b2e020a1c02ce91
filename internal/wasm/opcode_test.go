package wasm

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
)

// allOpcodes returns every opcode of the tables with its bytes.
func allOpcodes() (list []struct {
	bytes []byte
	operation
}) {
	add := func(o operation, bytes []byte) {
		if o.imm != immUnknown && o.imm != immPrefix {
			list = append(list, struct {
				bytes []byte
				operation
			}{bytes, o})
		}
	}
	for i, o := range operations {
		add(o, raw(byte(i)))
	}
	for i, o := range operationsMisc {
		add(o, cat(byte(prefixMisc), i))
	}
	for i, o := range operationsSIMD {
		add(o, cat(byte(prefixSIMD), i))
	}
	return list
}

func TestOperations_count(t *testing.T) {
	count := func(table []operation) int {
		n := 0
		for _, o := range table {
			if o.imm != immUnknown && o.imm != immPrefix {
				n++
			}
		}
		return n
	}
	// The numbers are those of the specification's index of instructions.
	if got, want := count(operationsSIMD[:0x100]), 236; got != want {
		t.Errorf("%d SIMD opcodes, want %d", got, want)
	}
	if got, want := count(operationsSIMD[0x100:]), 20; got != want {
		t.Errorf("%d relaxed SIMD opcodes, want %d", got, want)
	}
	if got, want := count(operationsMisc), 18; got != want {
		t.Errorf("%d opcodes behind 0xfc, want %d", got, want)
	}
	// Version 1.0, sign extension, references, typed select, table.get and .set, tail calls.
	if got, want := count(operations), 172+5+3+1+2+2; got != want {
		t.Errorf("%d opcodes of one byte, want %d", got, want)
	}
}

// padded encodes n in LEB128 with up to extra bytes more than it needs, five at most.
func padded(rng *rand.Rand, n int) []byte {
	out := cat(n)
	for len(out) < 5 && rng.IntN(3) == 0 {
		out[len(out)-1] |= 0x80
		out = append(out, 0)
	}
	return out
}

func randomBytes(rng *rand.Rand, n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(rng.Uint32())
	}
	return out
}

// immediates makes random immediates that are valid in moduleOf, inside three blocks.
func immediates(rng *rand.Rand, imm immediate) []byte {
	zero := func() []byte { return padded(rng, 0) }
	memarg := func() []byte {
		return cat(padded(rng, rng.IntN(5)), padded(rng, int(rng.Uint32()>>rng.IntN(32))))
	}
	valTypes := []ValType{I32, I64, F32, F64, V128, FuncRef, ExternRef}
	switch imm {
	case immNone, immLeave, immElse, immEnd:
		return nil
	case immBlock, immLoop, immIf:
		switch rng.IntN(3) {
		case 0:
			return raw(0x40)
		case 1:
			return cat(valTypes[rng.IntN(len(valTypes))])
		default:
			return zero()
		}
	case immBr, immBrIf:
		return padded(rng, rng.IntN(3))
	case immBrTable:
		n := rng.IntN(200)
		out := padded(rng, n)
		for range n + 1 {
			out = append(out, padded(rng, rng.IntN(3))...)
		}
		return out
	case immCall, immGlobal, immElem, immData, immMemory:
		return zero()
	case immCallIndirect, immTablePair, immElemTable, immDataMemory, immMemoryPair:
		return cat(zero(), zero())
	case immTable:
		return zero()
	case immSelect:
		return cat(padded(rng, 1), valTypes[rng.IntN(len(valTypes))])
	case immLocal:
		return padded(rng, int(rng.Uint32()>>rng.IntN(32)))
	case immMemarg:
		return memarg()
	case immMemargLane:
		return cat(memarg(), byte(rng.Uint32()))
	case immLane:
		return randomBytes(rng, 1)
	case immShuffle, immV128:
		return randomBytes(rng, 16)
	case immI32:
		return sleb(int64(int32(rng.Uint32()) >> rng.IntN(32)))
	case immI64:
		return sleb(int64(rng.Uint64()) >> rng.IntN(64))
	case immF32:
		return randomBytes(rng, 4)
	case immF64:
		return randomBytes(rng, 8)
	case immHeapType:
		return cat([]ValType{FuncRef, ExternRef}[rng.IntN(2)])
	}
	panic("BUG: immediate without a generator")
}

// TestScan_consumesInstruction decodes every opcode with random immediates, and as its
// neighbour an unknown opcode: the error must name the neighbour's offset.
func TestScan_consumesInstruction(t *testing.T) {
	const seed = 1
	rng := rand.New(rand.NewPCG(seed, 0))
	for _, o := range allOpcodes() {
		for range 50 {
			before := raw(0x02, 0x40, 0x02, 0x40, 0x04, 0x40)
			instruction := cat(o.bytes, immediates(rng, o.imm))
			bin := moduleOf(code(before, instruction, raw(0xff)))
			_, err := Prepare(bin, Options{})
			if err == nil {
				t.Fatalf("%x: opcode 0xff behind it was skipped", instruction)
			}
			e := err.(*Error)
			// Behind the unknown opcode stand the end and the 8 bytes of the data section.
			if got, want := e.Offset, len(bin)-2-8; got != want || e.Msg != "unknown opcode 0xff" {
				t.Fatalf("%x (seed %d): error %v, want unknown opcode 0xff at offset %#x", instruction, seed, err, want)
			}
		}
	}
}

// A listed instruction is a line of testdata/opcodes.txt: where in testdata/opcodes.wasm
// the instruction stands, its length and its name.
type listed struct {
	offset, length int
	name           string
}

// opcodeListing reads the listing that wasm-objdump of wabt 1.0.32 made of the module
// testdata/opcodes.wasm, which holds every opcode of the tables.
func opcodeListing(t *testing.T) (bin []byte, list []listed) {
	t.Helper()
	bin = fixture(t, "opcodes.wasm")
	text, err := os.ReadFile("testdata/opcodes.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var l listed
		if _, err := fmt.Sscanf(line, "%x %d %s", &l.offset, &l.length, &l.name); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		list = append(list, l)
	}
	return bin, list
}

func TestScan_agreesWithDisassembler(t *testing.T) {
	bin, list := opcodeListing(t)
	var m module
	if err := m.parse(bin); err != nil {
		t.Fatal(err)
	}
	r := reader{file: bin[:m.bodies[0].end], pos: m.bodies[0].code, fn: 0}
	seen := map[uint32]bool{}
	for _, l := range list {
		if r.pos != l.offset {
			t.Fatalf("at %#x, the disassembler is at %#x, %s", r.pos, l.offset, l.name)
		}
		op, _ := next(&m, &r)
		if r.err != nil {
			t.Fatal(r.err)
		}
		if got := r.pos - l.offset; got != l.length {
			t.Errorf("%s at %#x takes %d bytes, want %d", l.name, l.offset, got, l.length)
		}
		seen[op] = true
	}
	if r.left() != 0 {
		t.Errorf("%d bytes left where the disassembler ends", r.left())
	}
	if got, want := len(seen), len(allOpcodes()); got != want {
		t.Errorf("%d different opcodes in the listing, want %d", got, want)
	}
}

// opcodeNames returns the disassembler's names of the opcodes.
func opcodeNames(t *testing.T) map[uint32]string {
	bin, list := opcodeListing(t)
	names := map[uint32]string{}
	for _, l := range list {
		r := reader{file: bin, pos: l.offset}
		op, _ := r.opcode()
		names[op] = l.name
	}
	return names
}

// next reads one instruction, whatever it is, and returns its opcode and operation.
func next(m *module, r *reader) (uint32, operation) {
	op, o := r.opcode()
	switch o.imm {
	case immUnknown, immNone, immElse, immEnd, immLeave:
	case immBlock, immLoop, immIf:
		m.blockType(r)
	case immBr, immBrIf, immTable, immCall, immElem, immData:
		r.u32()
	case immBrTable:
		for n := r.u32() + 1; n > 0; n-- {
			r.u32()
		}
	case immCallIndirect, immTablePair, immElemTable:
		r.u32()
		r.u32()
	default:
		m.skip(r, o.imm)
	}
	return op, o
}
