package wasm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/bytecodealliance/wasmtime-go/v39"
	"github.com/google/go-cmp/cmp"
)

// checkDrops says whether every instruction that drops a passive segment, and no other,
// has a mark before it, each segment its own, and whether the function that drops them
// again does so. It returns how many entries the prepared module has more in each section.
func checkDrops(before, after *module, p *Prepared) (map[sectionID]int, error) {
	type segment struct {
		op, index uint32
	}
	flags := map[segment]uint32{}
	owner := map[uint32]segment{}
	for f, b := range after.bodies[:min(len(before.bodies), len(after.bodies))] {
		list := disassemble(before, after, b)
		for i, in := range list {
			if in.mark && (i+1 == len(list) || list[i+1].imm != immData && list[i+1].imm != immElem) {
				return nil, fmt.Errorf("body %d, instruction %d: a mark before something else than a drop", f, i)
			}
			passive := false
			switch in.imm {
			case immData:
				passive = !before.data[in.index].active
			case immElem:
				passive = before.elemSegments[in.index]
			default:
				continue
			}
			if marked := i > 0 && list[i-1].mark; marked != passive {
				return nil, fmt.Errorf("body %d, instruction %d: drop of a segment passive %v, marked %v", f, i, passive, marked)
			}
			if !passive {
				continue
			}
			s, flag := segment{in.op, in.index}, list[i-1].index
			if known, ok := flags[s]; ok && known != flag {
				return nil, fmt.Errorf("segment %v has flags %d and %d", s, known, flag)
			}
			if other, ok := owner[flag]; ok && other != s {
				return nil, fmt.Errorf("flag %d is that of %v and of %v", flag, other, s)
			}
			flags[s], owner[flag] = flag, s
		}
	}
	if (p.Drop != "") != (len(flags) > 0) {
		return nil, fmt.Errorf("drop function %q for %d segments", p.Drop, len(flags))
	}
	added := map[sectionID]int{
		secGlobal:   len(flags),
		secFunction: len(after.bodies) - len(before.bodies),
		secType:     len(after.types) - len(before.types),
	}
	if len(flags) == 0 {
		return added, nil
	}

	if t := after.types[after.funcs[len(after.funcs)-1]]; !t.Equal(FuncType{}) {
		return nil, fmt.Errorf("drop function of type %v", t)
	}
	var want []byte
	for flag := uint32(len(before.globals)); int(flag) < len(after.globals); flag++ {
		if g := after.globals[flag]; g != (globalDef{typ: I32, mutable: true, init: Value{Type: I32}}) {
			return nil, fmt.Errorf("flag %d is a global %+v", flag, g)
		}
		s, ok := owner[flag]
		if !ok {
			return nil, fmt.Errorf("flag %d belongs to no segment", flag)
		}
		want = append(want, cat(raw(0x23), int(flag), raw(0x04, 0x40), raw(0xfc, byte(s.op)), int(s.index), raw(0x0b))...)
	}
	last := after.bodies[len(after.bodies)-1]
	if got := after.file[last.begin:last.end]; !bytes.Equal(got, cat(0, want, raw(0x0b))) {
		return nil, fmt.Errorf("drop function %x, want %x", got, want)
	}
	return added, nil
}

// checkExtended says whether a section is another one with n entries behind its own.
func checkExtended(before, after []byte, n int) error {
	had, a := binary.Uvarint(before)
	has, b := binary.Uvarint(after)
	if has != had+uint64(n) || !bytes.HasPrefix(after[b:], before[a:]) {
		return fmt.Errorf("%d entries became %d, want %d more behind them", had, has, n)
	}
	return nil
}

// checkFuncs compares the functions that references can refer to with a second reading
// of the upload.
func checkFuncs(m *module, funcs []FuncExport) error {
	changes := false
	for _, t := range m.tables {
		changes = changes || t.typ == FuncRef && t.changes
	}
	refers := map[uint32]bool{}
	for _, g := range m.globals {
		changes = changes || g.typ == FuncRef && g.mutable
		if g.typ == FuncRef && !g.init.Null {
			refers[uint32(g.init.Lo)] = true
		}
	}
	if !changes {
		if len(funcs) > 0 {
			return fmt.Errorf("%d functions to refer to, and no reference changes", len(funcs))
		}
		return nil
	}
	for _, e := range m.exports {
		if e.Kind == ExternFunc {
			refers[e.Index] = true
		}
	}
	if r := (reader{file: m.sections[secElement]}); r.left() > 0 {
		for n := r.u32(); n > 0; n-- {
			flags := r.u32()
			if flags&3 == 2 {
				r.u32() // table
			}
			if flags&1 == 0 {
				m.constExpr(&r, I32)
			}
			if flags&3 != 0 {
				r.byte() // kind or type
			}
			for n := r.u32(); n > 0; n-- {
				if flags&4 == 0 {
					refers[r.u32()] = true
				} else if op := r.file[r.pos]; op == opRefFunc {
					r.byte()
					refers[r.u32()] = true
					r.byte()
				} else if op == opRefNull {
					r.bytes(3)
				} else { // global.get
					r.byte()
					r.u32()
					r.byte()
				}
			}
		}
	}
	last := -1
	for _, f := range funcs {
		if int(f.Index) <= last {
			return fmt.Errorf("function %d behind function %d", f.Index, last)
		}
		last = int(f.Index)
		if !refers[f.Index] {
			return fmt.Errorf("function %d cannot be referred to", f.Index)
		}
		delete(refers, f.Index)
	}
	if len(refers) > 0 {
		return fmt.Errorf("functions that can be referred to are missing: %v", refers)
	}
	return nil
}

// dropModule has a type that is not () -> (), passive data segments 0 and 2 and an active
// one, passive element segments 0 and 3, an active and a declared one, and one function.
func dropModule(body []byte) []byte {
	return binaryOf(
		section(secType, vec(funcType(nil, []ValType{I32}))),
		section(secFunction, vec(raw(0))),
		section(secTable, vec(cat(FuncRef, 0, 2))),
		section(secMemory, vec(raw(0, 1))),
		section(secElement, vec(
			cat(1, 0, 1, 0),
			cat(0, raw(opI32Const, 0, opEnd), 1, 0),
			cat(3, 0, 1, 0),
			cat(5, FuncRef, 1, raw(opRefNull), FuncRef, raw(opEnd)),
		)),
		section(secDataCount, 3),
		section(secCode, vec(body)),
		section(secData, vec(cat(1, "abc"), activeAt(0, "x"), cat(1, ""))),
	)
}

func TestPrepare_drops(t *testing.T) {
	data := func(k byte) []byte { return raw(0xfc, 0x09, k) }
	elem := func(k byte) []byte { return raw(0xfc, 0x0d, k) }
	zero := raw(opI32Const, 0)
	mark := func(flag byte) []byte { return raw(opI32Const, 1, 0x24, flag|0x80, 0x80, 0) }
	again := func(flag byte, drop []byte) []byte { return cat(raw(0x23, flag, 0x04, 0x40), drop, raw(0x0b)) }
	rows := []struct {
		name  string
		body  []byte
		want  []byte // instructions of the body, its end left out
		again []byte // instructions of the drop function; nil if there is none
	}{
		{"behind unreachable", cat(raw(0), data(2)), cat(raw(0), mark(0), data(2)), again(0, data(2))},
		{"behind return", cat(zero, raw(0x0f), elem(3)), cat(zero, raw(0x0f), mark(0), elem(3)), again(0, elem(3))},
		{"index with more bytes than it needs", cat(raw(0xfc, 0x89, 0x00, 0x80, 0x00), zero), cat(mark(0), raw(0xfc, 0x89, 0x00, 0x80, 0x00), zero), again(0, data(0))},
		{"of one segment many times", cat(data(0), data(0), data(0), zero), cat(mark(0), data(0), mark(0), data(0), mark(0), data(0), zero), again(0, data(0))},
		{"of segments of one number", cat(elem(0), data(0), zero), cat(mark(0), elem(0), mark(1), data(0), zero), cat(again(0, elem(0)), again(1, data(0)))},
		{"of an active data segment", cat(data(1), zero), cat(data(1), zero), nil},
		{"of an active element segment", cat(elem(1), zero), cat(elem(1), zero), nil},
		{"of a declared element segment", cat(elem(2), zero), cat(elem(2), zero), nil},
		{"of all", cat(data(0), data(1), data(2), elem(0), elem(1), elem(2), elem(3), zero),
			cat(mark(0), data(0), data(1), mark(1), data(2), mark(2), elem(0), elem(1), elem(2), mark(3), elem(3), zero),
			cat(again(0, data(0)), again(1, data(2)), again(2, elem(0)), again(3, elem(3)))},
		{"behind a gate", cat(raw(0x03, 0x40), data(0), raw(0x0b), zero), cat(raw(0x03, 0x40), gate, mark(0), data(0), raw(0x0b), zero), again(0, data(0))},
		{"before a gate", cat(data(0), zero, raw(0x40, 0)), cat(mark(0), data(0), zero, gate, raw(0x40, 0)), again(0, data(0))},
		{"none", zero, zero, nil},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			p := must(t, dropModule(code(row.body)))
			m := module{prepared: true}
			if err := m.parse(p.Code); err != nil {
				t.Fatal(err)
			}
			if got, want := m.file[m.bodies[0].code:m.bodies[0].end], cat(row.want, raw(opEnd)); !bytes.Equal(got, want) {
				t.Errorf("code\n got  %x\n want %x", got, want)
			}
			if row.again == nil {
				if p.Drop != "" || len(m.bodies) != 1 || len(p.Globals) > 0 {
					t.Errorf("drop function %q, %d bodies, globals %v; want none to be added", p.Drop, len(m.bodies), p.Globals)
				}
				return
			}
			if got, want := m.file[m.bodies[1].code:m.bodies[1].end], cat(row.again, raw(opEnd)); !bytes.Equal(got, want) {
				t.Errorf("drop function\n got  %x\n want %x", got, want)
			}
			if got, want := p.Drop, "faasm:drop"; got != want {
				t.Errorf("Drop is %q, want %q", got, want)
			}
			if got, want := p.NumFuncs, 1; got != want {
				t.Errorf("NumFuncs is %d, want %d", got, want)
			}
		})
	}
}

// Flags are globals behind the upload's own, and are there without gates too.
func TestPrepare_dropFlags(t *testing.T) {
	bin := moduleOf(code(raw(0xfc, 0x0d, 0, 0xfc, 0x09, 0)))
	for _, opts := range []Options{{}, {NoGates: true}} {
		p, err := Prepare(bin, opts)
		if err != nil {
			t.Fatal(err)
		}
		zero := Value{Type: I32}
		want := []Global{
			{0, "faasm:global.0", I32, zero},
			{1, "faasm:global.1", I32, zero},
			{2, "faasm:global.2", I32, zero},
		}
		if diff := cmp.Diff(want, p.Globals); diff != "" {
			t.Errorf("%+v: globals (-want +got):\n%s", opts, diff)
		}
		if p.Drop == "" {
			t.Errorf("%+v: no drop function", opts)
		}
	}
}

// manyDrops has n passive segments of either kind, each dropped.
func manyDrops(n int) []byte {
	const perFunc = 10_000
	var bodies [][]byte
	for first := 0; first < n; first += perFunc {
		var b []byte
		for k := first; k < min(first+perFunc, n); k++ {
			b = append(b, cat(raw(0xfc, 0x0d), k, raw(0xfc, 0x09), k)...)
		}
		bodies = append(bodies, code(b))
	}
	return binaryOf(
		noType,
		section(secFunction, len(bodies), make([]byte, len(bodies))),
		section(secMemory, vec(raw(0, 1))),
		section(secElement, n, bytes.Repeat(cat(1, 0, 0), n)),
		section(secDataCount, n),
		section(secCode, vec(bodies...)),
		section(secData, n, bytes.Repeat(cat(1, ""), n)),
	)
}

func TestPrepare_manyDrops(t *testing.T) {
	const most = maxElemSegments
	p, err := Prepare(manyDrops(most), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(p.Globals), 2*most; got != want {
		t.Errorf("%d flags, want %d", got, want)
	}
	if err := wasmtime.ModuleValidate(engine(), p.Code); err != nil {
		t.Error(err)
	}

	must(t, manyDrops(maxExports/2-1)) // as many as can be read back
}

// TestPrepare_funcs looks at which functions are exported so that references to them can
// be told.
func TestPrepare_funcs(t *testing.T) {
	const set = 0x26
	rows := []struct {
		name    string
		code    []byte
		globals []byte
		want    []uint32
	}{
		{"nothing changes", raw(0x25, 0), vec(), nil},
		{"an immutable global", nil, vec(cat(FuncRef, 0, raw(opRefFunc, 6, opEnd))), nil},
		{"a table of externref changes", raw(set, 1), vec(), nil},
		{"a table changes", raw(set, 0), vec(), []uint32{0, 2, 3, 4, 5}},
		{"a mutable global", nil, vec(cat(FuncRef, 1, raw(opRefNull), FuncRef, raw(opEnd))), []uint32{0, 2, 3, 4, 5}},
		{"a mutable global of externref", nil, vec(cat(ExternRef, 1, raw(opRefNull), ExternRef, raw(opEnd))), nil},
		{"a table changes, and a global refers", raw(set, 0), vec(cat(FuncRef, 0, raw(opRefFunc, 6, opEnd))), []uint32{0, 2, 3, 4, 5, 6}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			// Function 0 is an import that is exported, twice; 1 and 7 nothing refers to.
			p := must(t, binaryOf(
				noType,
				section(secImport, vec(cat("env", "f", 0, 0), cat("env", "g", 0, 0))),
				section(secFunction, 6, make([]byte, 6)),
				section(secTable, vec(cat(FuncRef, 0, 4), cat(ExternRef, 0, 4))),
				section(secGlobal, row.globals),
				section(secExport, vec(cat("f", 0, 0), cat("f again", 0, 0))),
				section(secElement, vec(
					cat(0, raw(opI32Const, 0, opEnd), 2, 5, 2), // active
					cat(1, 0, 1, 3), // passive
					cat(3, 0, 1, 4), // declared
					cat(5, FuncRef, 2, raw(opRefFunc, 3, opEnd, opRefNull), FuncRef, raw(opEnd)), // passive, expressions
				)),
				section(secCode, vec(code(row.code), code(), code(), code(), code(), code())),
			))
			var got []uint32
			for _, f := range p.Funcs {
				got = append(got, f.Index)
				if want := fmt.Sprintf("faasm:func.%d", f.Index); f.Export != want {
					t.Errorf("export %q, want %q", f.Export, want)
				}
			}
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Errorf("functions (-want +got):\n%s", diff)
			}
		})
	}
}

// TestPrepare_dropMalformed drops what is not there.
func TestPrepare_dropMalformed(t *testing.T) {
	for _, row := range []struct {
		name string
		bin  []byte
		want string
	}{
		{"data segment", dropModule(code(raw(0xfc, 0x09, 3))), "data segment 3 does not exist; there are 3"},
		{"data segment without data count", binaryOf(noType, section(secFunction, vec(raw(0))), section(secCode, vec(code(raw(0xfc, 0x09, 0)))), section(secData, vec(cat(1, "")))),
			"data segment named in code, but the module has no data count section"},
		{"data segments fewer than announced", binaryOf(noType, section(secFunction, vec(raw(0))), section(secDataCount, 2), section(secCode, vec(code(raw(0xfc, 0x09, 1)))), section(secData, vec(cat(1, "")))),
			"data count section announces 2 segments, data section has 1"},
		{"element segment", dropModule(code(raw(0xfc, 0x0d, 4))), "element segment 4 does not exist; there are 4"},
		{"element segment behind unreachable", dropModule(code(raw(0, 0xfc, 0x0d, 4))), "element segment 4 does not exist; there are 4"},
		{"element segment 4 billion", dropModule(code(raw(0xfc, 0x0d, 0xff, 0xff, 0xff, 0xff, 0x0f))), "element segment 4294967295 does not exist; there are 4"},
		{"index cut", dropModule(sized(raw(0, 0xfc, 0x0d))), "unexpected end"},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := Prepare(row.bin, Options{})
			var e *Error
			if !errors.As(err, &e) || !strings.HasPrefix(e.Msg, row.want) {
				t.Errorf("error %v, want %s", err, row.want)
			}
		})
	}
}
