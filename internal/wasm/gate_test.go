package wasm

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the golden files in testdata")

// instruction is one instruction of a prepared body, or a whole gate or mark.
type instruction struct {
	begin, end int // offsets in the file
	op         uint32
	operation
	gate   bool
	mark   bool
	moves  bool   // the call of a function of bulk.go
	index  uint32 // the flag of a mark, the segment of a drop, the function of a call
	labels []int  // of a branch: the instructions it may go to
	next   bool   // whether the instruction behind it may follow
}

// isGate tells whether code is the n-th gate of a function.
func isGate(code []byte, n int) bool {
	if n < gateBytes {
		return bytes.Equal(code, appendLoad(nil, n))
	}
	return code[0] == opCall && bytes.Equal(code[1+indexLen:], raw(1, 1, 1, 1))
}

// disassemble reads a body of a prepared module, made from the module before.
func disassemble(before, m *module, b body) []instruction {
	var list []instruction
	type open struct {
		imm   immediate
		begin int
		exits []int // branches to the end
		other int   // the if, until its else; else -1
	}
	stack := []open{{immBlock, 0, nil, -1}}
	gates := 0 // each is another load
	r := reader{file: m.file[:b.end], pos: b.code, fn: 0}
	for r.left() > 0 && len(stack) > 0 {
		in := instruction{begin: r.pos, next: true}
		i := len(list)
		if rest := r.file[r.pos:]; len(rest) >= gateLen && isGate(rest[:gateLen], gates) {
			gates++
			r.pos += gateLen
			in.end, in.gate = r.pos, true
			list = append(list, in)
			continue
		}
		if rest := r.file[r.pos:]; bytes.HasPrefix(rest, raw(opI32Const, 1, opGlobalSet)) {
			global := reader{file: rest, pos: 3}
			if in.index = global.u32(); int(in.index) >= len(before.globals) {
				r.pos += global.pos
				in.end, in.mark = r.pos, true
				list = append(list, in)
				continue
			}
		}
		branch := func(depth uint32) {
			o := &stack[len(stack)-1-int(depth)]
			if o.imm == immLoop {
				in.labels = append(in.labels, o.begin)
			} else {
				o.exits = append(o.exits, i)
			}
		}
		at := r.pos
		in.op, in.operation = next(m, &r)
		in.end = r.pos
		immediates := reader{file: r.file, pos: at}
		immediates.opcode()
		switch in.imm {
		case immBlock, immLoop:
			stack = append(stack, open{in.imm, i, nil, -1})
		case immIf:
			stack = append(stack, open{in.imm, i, nil, i})
		case immElse:
			o := &stack[len(stack)-1]
			list[o.other].labels = append(list[o.other].labels, i+1)
			o.other = -1
			o.exits = append(o.exits, i)
			in.next = false
		case immEnd:
			o := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			if o.other >= 0 {
				o.exits = append(o.exits, o.other)
			}
			for _, from := range o.exits {
				list[from].labels = append(list[from].labels, i)
			}
		case immBr, immBrIf:
			branch(immediates.u32())
			in.next = in.imm == immBrIf
		case immBrTable:
			for n := immediates.u32() + 1; n > 0; n-- {
				branch(immediates.u32())
			}
			in.next = false
		case immLeave:
			in.next = false
		case immElem, immData:
			in.index = immediates.u32()
		case immCall, immCallIndirect:
			in.next = in.op != opReturnCall && in.op != opReturnCallIndirect
			if in.op == opCall {
				in.index = immediates.u32()
				in.moves = int(in.index) >= len(before.funcs)
			}
		}
		list = append(list, in)
	}
	return list
}

// addedBodies are what is called in place of an instruction.
var addedBodies = map[uint32][]byte{opMemoryCopy: copyBody, opMemoryFill: fillBody}

// addedBody returns the body of a function of a prepared module.
func addedBody(m *module, index uint32) []byte {
	b := m.bodies[int(index)-len(m.imports)]
	return m.file[b.begin:b.end]
}

// checkGates compares a prepared module with the upload. It says what is wrong: bodies
// that differ by more than gates and marks, loops or bulk instructions or calls that lack a gate,
// and paths without a gate that are too long.
//
// It finds the longest paths by going backwards over a control flow graph, where the
// scanner goes forward over nested blocks.
func checkGates(upload, prepared []byte) error {
	var before module
	after := module{prepared: true}
	if err := before.parse(upload); err != nil {
		return fmt.Errorf("parse the upload: %w", err)
	}
	if err := after.parse(prepared); err != nil {
		return fmt.Errorf("parse the prepared module: %w", err)
	}
	if len(before.bodies) > len(after.bodies) {
		return fmt.Errorf("%d bodies became %d", len(before.bodies), len(after.bodies))
	}
	moved := map[uint32]bool{}
	for f, b := range after.bodies[:len(before.bodies)] {
		list := disassemble(&before, &after, b)
		bad := func(i int, format string, args ...any) error {
			return fmt.Errorf("body %d, instruction %d of %d: %s", f, i, len(list), fmt.Sprintf(format, args...))
		}

		rest := before.file[before.bodies[f].begin:before.bodies[f].end]
		locals := after.file[b.begin:b.code]
		if !bytes.HasPrefix(rest, locals) {
			return bad(0, "locals differ")
		}
		rest = rest[len(locals):]
		for i, in := range list {
			if in.gate || in.mark {
				continue
			}
			code := after.file[in.begin:in.end]
			if in.moves {
				// It stands for a gate and the instruction.
				r := reader{file: rest}
				op, _ := next(&before, &r)
				if want := addedBodies[op]; want == nil || !bytes.Equal(addedBody(&after, in.index), want) {
					return bad(i, "call of %d, added, for an instruction %x", in.index, rest[:r.pos])
				}
				moved[in.index] = true
				rest = rest[r.pos:]
				continue
			}
			if !bytes.HasPrefix(rest, code) {
				return bad(i, "%x differs from the upload's %x", code, rest[:min(len(rest), len(code))])
			}
			rest = rest[len(code):]
		}
		if len(rest) > 0 {
			return bad(len(list), "%d bytes of the upload are missing", len(rest))
		}

		// path[i] is the greatest weight of the instructions from i to the next gate.
		path := make([]weight, len(list)+1)
		for i := len(list) - 1; i >= 0; i-- {
			in := list[i]
			if in.gate || in.moves {
				path[i] = 0
				if path[i+1] > maxUngated {
					return bad(i, "a path of %d follows without a gate", path[i+1])
				}
				continue
			}
			if in.next {
				path[i] = path[i+1]
			}
			for _, to := range in.labels {
				if to <= i {
					to++ // behind the loop
					if !list[to].gate && !list[to].moves {
						return bad(i, "goes back to where no gate is")
					}
				}
				path[i] = max(path[i], path[to])
			}
			switch {
			case in.op == opMemoryCopy || in.op == opMemoryFill:
				if i == 0 || list[i-1].op != opI32Const || list[i-1].gate || list[i-1].mark {
					return bad(i, "stays, and its length is no constant")
				}
				length := reader{file: after.file, pos: list[i-1].begin + 1}
				if n := uint32(length.signed(32)); n > 4096 {
					return bad(i, "stays, and its length is %d", n)
				}
				path[i] += callWeight
			case in.weight == bulk:
				if i == 0 || !list[i-1].gate {
					return bad(i, "bulk instruction without a gate")
				}
				path[i] += plain
			default:
				path[i] += in.weight
			}
			if in.imm == immLoop && !list[i+1].gate && !list[i+1].moves {
				return bad(i, "loop without a gate")
			}
		}
		calls := slices.ContainsFunc(list, func(in instruction) bool {
			return (in.imm == immCall || in.imm == immCallIndirect) && in.op != opRefFunc && !in.moves
		})
		if !list[0].gate && calls {
			return bad(0, "function calls, but has no gate at its entry")
		}
		if !list[0].gate && path[0] > callWeight {
			return bad(0, "a path of %d begins at an entry without a gate", path[0])
		}
	}
	want := len(before.bodies) + len(moved)
	if len(after.globals) > len(before.globals) {
		want++ // drops segments again; see checkDrops
	}
	if got := len(after.bodies); got != want {
		return fmt.Errorf("%d bodies, want %d", got, want)
	}
	return nil
}

// dump writes the bodies of a prepared module as text.
func dump(t *testing.T, upload []byte, p *Prepared) string {
	t.Helper()
	names := opcodeNames(t)
	var before module
	if err := before.parse(upload); err != nil {
		t.Fatalf("parse the upload: %v", err)
	}
	m := module{prepared: true}
	if err := m.parse(p.Code); err != nil {
		t.Fatalf("parse the prepared module: %v", err)
	}
	var out strings.Builder
	for i, b := range m.bodies[:len(before.bodies)] {
		index := len(m.imports) + i
		fmt.Fprintf(&out, "function %d %s\n", index, p.FuncName(uint32(index)))
		if locals := m.file[b.begin:b.code]; !bytes.Equal(locals, raw(0)) {
			fmt.Fprintf(&out, "  locals %x\n", locals)
		}
		depth := 1
		for _, in := range disassemble(&before, &m, b) {
			if in.imm == immEnd || in.imm == immElse {
				depth--
			}
			out.WriteString(strings.Repeat("  ", max(depth, 1)))
			if in.gate {
				out.WriteString("gate\n")
			} else if in.moves {
				what := "memory.fill"
				if bytes.Equal(addedBody(&m, in.index), copyBody) {
					what = "memory.copy"
				}
				out.WriteString("gate and " + what + " in pieces\n")
			} else if in.mark {
				fmt.Fprintf(&out, "mark %d\n", in.index)
			} else {
				opcode := reader{file: m.file, pos: in.begin}
				opcode.opcode()
				out.WriteString(strings.TrimRight(names[in.op]+" "+hex.EncodeToString(m.file[opcode.pos:in.end]), " ") + "\n")
			}
			switch in.imm {
			case immBlock, immLoop, immIf, immElse:
				depth++
			}
		}
	}
	return out.String()
}

// TestPrepare_gates compares the code of testdata/gates.wat, prepared, with a golden text.
func TestPrepare_gates(t *testing.T) {
	bin := fixture(t, "gates.wasm")
	p := must(t, bin)
	golden := filepath.Join("testdata", "gates.txt")
	got := dump(t, bin, p)
	if *rewrite {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("prepared code (-want +got):\n%s", diff)
	}
	if got, want := p.Stats.Gates, strings.Count(got, "gate"); got != want {
		t.Errorf("Stats.Gates is %d, %d are in the code", got, want)
	}
	if got, want := p.Stats.Loops, strings.Count(got, "loop "); got != want {
		t.Errorf("Stats.Loops is %d, %d are in the code", got, want)
	}
}

// TestScan_hostile feeds code whose author wants to run long without a gate.
func TestScan_hostile(t *testing.T) {
	nop := raw(opI32Const, 0, 0x1a) // weight 2
	repeat := func(n int, code ...byte) []byte { return bytes.Repeat(code, n) }
	call := raw(0x10, 1)
	brOut := raw(0x41, 0, 0x0d, 0) // br_if 0
	leaf := code(nop)
	rows := []struct {
		name  string
		body  []byte // of function 0
		leaf  []byte // function 1
		gates int    // in both
	}{
		{"straight line", code(repeat(10_000, nop...)), leaf, 1 + 19},
		{"straight line of a leaf just light enough", code(repeat(64, nop...)), leaf, 0},
		{"straight line of a leaf just too heavy", code(repeat(64, nop...), nop), leaf, 1},
		{"calls of a leaf", code(repeat(100, call...)), leaf, 1 + 12},
		{"calls of a heavy leaf", code(repeat(100, call...)), code(repeat(500, nop...)), 1 + 12 + 1},
		{"fills", code(repeat(100, 0xfc, 0x0b, 0)), leaf, 100},
		// Of these blocks' gates some are passed only by paths that stay inside, so that
		// the paths that left before need one of their own: up to two each 1024.
		{"gates jumped over", code(repeat(1000, slices.Concat(raw(0x02, 0x40), repeat(16, brOut...), raw(0x0c, 0), repeat(500, nop...), raw(0x0b))...)), leaf, 47},
		{"arms", code(repeat(1000, slices.Concat(raw(0x41, 0, 0x04, 0x40), repeat(10, nop...), raw(0x05), repeat(9, nop...), raw(0x0b))...)), leaf, 1 + 2*21},
		{"tail call", code(call, raw(0x12, 0)), leaf, 1},
		{"ref.func", code(repeat(10, 0xd2, 0, 0x1a)), leaf, 0},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			p := must(t, moduleOf(row.body, row.leaf))
			if got, want := p.Stats.Gates, row.gates; got != want {
				t.Errorf("%d gates, want %d", got, want)
			}
		})
	}
}

// randomCode makes a body of random, well-nested code.
func randomCode(rng *rand.Rand) []byte {
	var out []byte
	var block func(depth, room int)
	block = func(depth, room int) {
		for n := rng.IntN(room + 1); n > 0; n-- {
			label := rng.IntN(depth)
			switch rng.IntN(12) {
			case 0, 1, 2:
				out = append(out, bytes.Repeat(raw(0x45), rng.IntN(1<<rng.IntN(11)))...)
			case 3:
				out = cat(out, byte(0x02), byte(0x40))
				block(depth+1, room/2)
				out = append(out, opEnd)
			case 4:
				out = cat(out, byte(0x03), byte(0x40))
				block(depth+1, room/2)
				out = append(out, opEnd)
			case 5, 6:
				out = cat(out, byte(0x04), byte(0x40))
				block(depth+1, room/2)
				if rng.IntN(2) == 0 {
					out = append(out, 0x05)
					block(depth+1, room/2)
				}
				out = append(out, opEnd)
			case 7:
				out = cat(out, byte(0x0d), label)
			case 8:
				out = cat(out, byte(0x0e), 2, label, rng.IntN(depth), rng.IntN(depth))
			case 9:
				if rng.IntN(2) == 0 {
					out = cat(out, byte(0x0c), label)
				} else {
					out = append(out, byte(0x0f*rng.IntN(2)))
				}
			case 10:
				switch rng.IntN(8) {
				case 0:
					out = append(out, 0xfc, 0x0b, 0)
				case 1:
					out = append(out, opReturnCall, 0)
				default:
					out = append(out, 0x10, 0)
				}
			case 11:
				out = append(out, 0x01)
			}
		}
	}
	block(1, 24)
	return code(out)
}

func TestScan_randomCode(t *testing.T) {
	for seed := range uint64(400) {
		rng := rand.New(rand.NewPCG(seed, 1))
		bin := moduleOf(randomCode(rng), randomCode(rng))
		p, err := Prepare(bin, Options{})
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if err := checkGates(bin, p.Code); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}
