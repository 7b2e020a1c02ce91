package wasm

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/bytecodealliance/wasmtime-go/v39"
)

// mover is a module with five pages short of five pieces of memory, and functions "copy"
// and "fill" that take the operands of the instruction and execute it.
func mover() []byte {
	const pages = 5*bulkPiece/PageSize - 5
	return binaryOf(
		section(secType, vec(funcType([]ValType{I32, I32, I32}, nil))),
		section(secFunction, vec(raw(0), raw(0))),
		section(secMemory, vec(cat(0, pages))),
		section(secExport, vec(cat("copy", 0, 0), cat("fill", 0, 1))),
		section(secCode, vec(code(operands, copyCode), code(operands, fillCode))),
	)
}

// Pieces give what the instruction gives, and out of bounds they give nothing but a trap.
func TestBulk_semantics(t *testing.T) {
	const size = 5*bulkPiece - 5*PageSize
	type row struct {
		name    string
		d, s, n uint32 // s is the byte, for fill
	}
	rows := []row{
		{"address that wraps", 0xffff_ffff, 0, 2 * bulkPiece},
		{"source that wraps", 0, 0xffff_ffff, 2 * bulkPiece},
		{"length 4 GiB - 1", 0, 0, 0xffff_ffff},
		{"length 4 GiB - 1 from 1", 1, 1, 0xffff_ffff},
		{"sum just 4 GiB", 2 * bulkPiece, 0, -2 * bulkPiece & 0xffff_ffff},
		{"one byte past the end", 1, 0, size},
		{"source one byte past the end", 0, 1, size},
		{"last piece past the end", size - 3*bulkPiece + 1, 0, 3 * bulkPiece},
		{"short, past the end", size - 1, 0, 2},
		{"nothing, past the end", size + 1, 0, 0},
		{"nothing, at the end", size, size, 0},
		{"all", 0, 0, size},
		{"up by one", 1, 0, size - 1},
		{"down by one", 0, 1, size - 1},
		{"up by a piece", bulkPiece, 0, size - bulkPiece},
		{"down by a piece", 0, bulkPiece, size - bulkPiece},
		{"up by nearly a piece", bulkPiece - 1, 0, size - bulkPiece},
		{"just a piece", 7, bulkPiece, bulkPiece},
		{"just above a piece", 7, bulkPiece, bulkPiece + 1},
		{"just two pieces", 7, 2 * bulkPiece, 2 * bulkPiece},
		{"just above two pieces", 2 * bulkPiece, 7, 2*bulkPiece + 1},
		{"short", 100, 50, 100},
	}
	rng := rand.New(rand.NewPCG(1, 5))
	for i := range 40 {
		d, s := rng.Uint32N(size), rng.Uint32N(size)
		rows = append(rows, row{fmt.Sprint("random ", i), d, s, rng.Uint32N(size - max(d, s) + size/16)})
	}

	p := must(t, mover())
	if !p.calls(t, 0) || !p.calls(t, 1) {
		t.Fatal("the instructions are not called in pieces")
	}
	module, err := wasmtime.NewModule(engine(), p.Code)
	if err != nil {
		t.Fatal(err)
	}
	defer module.Close()
	g := newGuest(t, module, p)
	memory := g.memory().UnsafeData(g.store)
	if len(memory) != size {
		t.Fatalf("memory of %d bytes, want %d", len(memory), size)
	}
	fresh := randomBytes(rng, size)
	model := make([]byte, size)
	for _, row := range rows {
		for _, name := range []string{"copy", "fill"} {
			copy(model, fresh)
			copy(memory, fresh)
			high := uint64(row.d)
			if name == "copy" {
				high = max(high, uint64(row.s))
			}
			want := "<nil> <nil>"
			switch {
			case high+uint64(row.n) > size:
				want = fmt.Sprint("trap ", wasmtime.MemoryOutOfBounds)
			case name == "copy":
				copy(model[row.d:row.d+row.n], model[row.s:row.s+row.n])
			default:
				for i := range model[row.d : row.d+row.n] {
					model[int(row.d)+i] = byte(row.s)
				}
			}
			if got := g.do(name, int32(row.d), int32(row.s), int32(row.n)); got != want {
				t.Errorf("%s, %s: %s, want %s", name, row.name, got, want)
			}
			if !bytes.Equal(memory, model) {
				t.Errorf("%s, %s: memory differs", name, row.name)
			}
		}
	}
}

// calls reports whether the first instruction behind a body's operands, or constants, is
// a call of a function that was added.
func (p *Prepared) calls(t *testing.T, body int) bool {
	t.Helper()
	m := module{prepared: true}
	if err := m.parse(p.Code); err != nil {
		t.Fatal(err)
	}
	for _, in := range disassemble(&module{funcs: make([]uint32, p.NumFuncs)}, &m, m.bodies[body]) {
		if in.moves {
			return true
		}
	}
	return false
}

// TestBulk_calls looks at which instructions become calls.
func TestBulk_calls(t *testing.T) {
	zero := raw(opI32Const, 0)
	length := func(n int64) []byte { return cat(zero, zero, byte(opI32Const), sleb(n)) }
	long := bytes.Repeat(raw(opI32Const, 0, 0x1a), 500) // nearly maxUngated
	rows := []struct {
		name  string
		code  []byte
		calls bool
	}{
		{"length -1", cat(length(-1), fillCode), true},
		{"length of the least number", cat(length(-1<<31), copyCode), true},
		{"length just too large", cat(length(smallBulk+1), fillCode), true},
		{"length computed", cat(length(1), raw(0x68), copyCode), true},
		{"length from a block", cat(zero, zero, raw(0x02, 0x7f, opI32Const, 1, 0x0b), fillCode), true},
		{"behind unreachable", cat(raw(0), fillCode), true},
		{"first in a loop", cat(zero, zero, zero, raw(0x03, 0, 0xfc, 0x0b, 0, 0x0b)), true},
		{"small where a gate is due", cat(long, length(1), fillCode), true},
		{"indices with more bytes than they need", cat(length(-1), raw(0xfc, 0x8a, 0x00, 0x80, 0x80, 0x00, 0x80, 0x00)), true},
		{"small fill", cat(length(smallBulk), fillCode), false},
		{"small copy", cat(length(0), copyCode), false},
		{"memory.grow", raw(opI32Const, 0, 0x40, 0, 0x1a), false},
		{"memory.init", cat(length(-1), raw(0xfc, 0x08, 0, 0)), false},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			bin := binaryOf(
				section(secType, vec(funcType([]ValType{I32, I32, I32}, nil), funcType(nil, nil))),
				section(secFunction, vec(raw(1))),
				section(secMemory, vec(raw(0, 1))),
				section(secDataCount, 1),
				section(secCode, vec(code(row.code))),
				section(secData, vec(cat(1, "abc"))),
			)
			if err := wasmtime.ModuleValidate(engine(), bin); err != nil {
				t.Fatal(err)
			}
			p := must(t, bin)
			if got := p.calls(t, 0); got != row.calls {
				t.Errorf("becomes a call: %v, want %v", got, row.calls)
			}
			plain, err := Prepare(bin, Options{NoGates: true})
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(plain.Code, code(row.code)) {
				t.Error("the body changes without gates too")
			}
		})
	}
}

// A gate stands at the entry of each function and in each of its loops, whose every round
// executes one instruction on one piece.
func TestBulk_gates(t *testing.T) {
	m := module{prepared: true}
	if err := m.parse(must(t, mover()).Code); err != nil {
		t.Fatal(err)
	}
	loops := 0
	for _, b := range m.bodies[2:] {
		list := disassemble(&m, &m, b)
		if !list[0].gate {
			t.Errorf("body %x has no gate at its entry", m.file[b.begin:b.end])
		}
		for i, in := range list {
			if in.imm == immLoop {
				loops++
				if !list[i+1].gate {
					t.Errorf("body %x: loop without a gate", m.file[b.begin:b.end])
				}
			}
			if last := len(list) - 2; i != last && (in.op == opMemoryCopy || in.op == opMemoryFill) {
				if length := list[i-1]; !bytes.Equal(m.file[length.begin:length.end], cat(byte(opI32Const), sleb(bulkPiece))) {
					t.Errorf("body %x: an instruction in a loop moves more than a piece", m.file[b.begin:b.end])
				}
			}
		}
	}
	if want := 3; loops != want {
		t.Errorf("%d loops, want %d", loops, want)
	}
}
