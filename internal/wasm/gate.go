package wasm

import (
	"encoding/binary"
	"math"
	"slices"
)

// A gate is a load from the gate memory:
//
//	i32.const 0
//	i32.load8_u (memory 1) offset=n align=1
//	drop
//
// It needs nothing from the operand stack and leaves nothing, so it may stand between
// any two instructions. The load traps once the host has taken the gate's page away.
//
// The n-th gate of a function loads the page's n-th byte. The compiler leaves out a load
// from where the function has loaded before, if nothing was stored or called in between,
// and would leave a loop behind another without a gate. Where a function has more gates
// than the page has bytes, those beyond call a function that is a gate: no compiler leaves
// out a call.
const (
	gateLen   = 8
	gateBytes = 4096
)

// gate is the first of a function.
var gate = appendLoad(nil, 0)

func appendLoad(out []byte, n int) []byte {
	return append(out, opI32Const, 0, 0x2d, 0x40, 1, byte(n|0x80), byte(n>>7), 0x1a)
}

// gateType and gateBody are the function that is a gate.
var (
	gateType = FuncType{}
	gateBody = slices.Concat([]byte{0}, gate, []byte{opEnd})
)

// addGate adds the function that is a gate, if any other has so many gates.
func (m *module) addGate() {
	for _, b := range m.bodies {
		if b.gateCount()-b.bulkCalls > gateBytes {
			m.gateFunc = m.addFunc(gateType, gateBody)
			return
		}
	}
}

// appendGate appends the n-th gate of a function, of gateLen bytes.
func (m *module) appendGate(out []byte, n int) []byte {
	if n < gateBytes {
		return appendLoad(out, n)
	}
	const nop = 1
	return append(appendIndex(append(out, opCall), m.gateFunc), nop, nop, nop, nop)
}

// gateMemory is the gate in the memory section: one page, no more.
var gateMemory = []byte{1, 1, 1}

// body is the code of one function.
type body struct {
	size  int // offset of its size in the upload
	begin int // offset of its locals
	code  int // offset of its first instruction
	end   int

	entry bool // a gate stands before the first instruction
	gates int  // how many of module.gates are this body's
	drops int  // how many of module.drops are this body's

	// Of the gates, bulkCalls become one call with the instruction that they stand before;
	// see bulk.go. Those instructions have bulkBytes.
	bulkCalls, bulkBytes int
}

// A scanner walks the code of one function and finds where gates must stand, so that a
// guest that runs passes one in bounded time, whatever its code is.
//
// Gates stand at the head of every loop, at the entry of every function that calls, and
// right before every bulk instruction, but for small ones of a constant size, which are
// weighed as a call. For code of neither kind there is one wherever a path has run maxUngated since its last gate, and at the entry of a function that does
// not call if some path in it weighs more than callWeight between gates.
//
// The bound this gives: take a stretch of execution in which no gate is passed. At most
// one bulk instruction is in it, at its start, or two pieces of one. A function that is entered in it has no
// gate at its entry, so it calls nothing, and what it runs is no more than the callWeight
// charged to its caller. All else is run by activations that were on the stack when the
// stretch began; each runs forward only, at most maxUngated. So a stretch is no longer
// than maxUngated times the depth of the stack, which the engine bounds.
//
// Loops and entries alone would give no bound worth the name: a file of a few megabytes
// has room for a million calls, in a row, of a function of a million instructions.
type scanner struct {
	m      *module
	frames []frame

	// run is the greatest weight on any path from its last gate to here; unreached
	// if there is no path to here.
	run      weight
	heaviest weight // greatest run so far
	calls    bool

	bulkCalls, bulkBytes int // see body
}

// unreached is so far below zero that no body's weight brings it back above.
const unreached weight = math.MinInt32 / 2

// frame is a block that is open.
type frame struct {
	kind immediate // immBlock, immLoop or immIf; immElse behind an else
	head weight    // run at the head of an if
	out  weight    // greatest run of the branches to the end
}

// gateAt puts a gate before the instruction at offset at.
func (s *scanner) gateAt(at int) {
	if !s.gated(at) {
		s.m.gates = append(s.m.gates, uint32(at))
	}
	s.run = 0
}

// gated reports whether the last gate stands before the instruction at offset at.
func (s *scanner) gated(at int) bool {
	n := len(s.m.gates)
	return n > 0 && s.m.gates[n-1] == uint32(at)
}

func (s *scanner) push(kind immediate) {
	s.frames = append(s.frames, frame{kind: kind, head: s.run, out: unreached})
}

// label reads a label and notes that a path of weight run goes there.
func (s *scanner) label(r *reader) {
	depth := r.index("label", len(s.frames))
	if r.err != nil {
		return
	}
	f := &s.frames[len(s.frames)-1-int(depth)]
	f.out = max(f.out, s.run)
}

// scan reads the instructions of a body from r, to its end.
func (s *scanner) scan(r *reader) {
	s.frames, s.run, s.heaviest, s.calls = s.frames[:0], 0, 0, false
	s.bulkCalls, s.bulkBytes = 0, 0
	s.push(immBlock)
	for at, before := r.pos, r.pos; len(s.frames) > 0; at, before = r.pos, at {
		op, o := r.opcode()
		moves := op == opMemoryCopy || op == opMemoryFill
		if moves && before < at && s.m.isSmall(before) {
			o.weight = callWeight
		}
		if o.weight == bulk {
			s.gateAt(at)
			o.weight = plain
		} else if s.run+o.weight > maxUngated {
			s.gateAt(at)
		}
		s.run += o.weight
		s.heaviest = max(s.heaviest, s.run)

		switch o.imm {
		case immUnknown, immNone:
		case immBlock, immIf:
			s.m.blockType(r)
			s.push(o.imm)
		case immLoop:
			s.m.blockType(r)
			s.push(o.imm)
			s.gateAt(r.pos)
			s.m.loops++
		case immElse:
			f := &s.frames[len(s.frames)-1]
			if f.kind != immIf {
				r.fail(at, "else outside an if")
			}
			f.kind, f.out = immElse, max(f.out, s.run)
			s.run = f.head
		case immEnd:
			f := s.frames[len(s.frames)-1]
			if f.kind != immLoop {
				s.run = max(s.run, f.out)
			}
			if f.kind == immIf {
				s.run = max(s.run, f.head)
			}
			s.frames = s.frames[:len(s.frames)-1]
		case immBr:
			s.label(r)
			s.run = unreached
		case immBrIf:
			s.label(r)
		case immBrTable:
			for n := r.count("labels", math.MaxInt); n >= 0 && r.err == nil; n-- {
				s.label(r)
			}
			s.run = unreached
		case immLeave:
			s.run = unreached
		case immCall:
			r.index("function", len(s.m.funcs))
			s.noteCall(op)
		case immCallIndirect:
			r.index("type", len(s.m.types))
			r.index("table", len(s.m.tables))
			s.noteCall(op)
		case immTable:
			s.noteTable(op, r.index("table", len(s.m.tables)), r)
		case immTablePair:
			s.noteTable(op, r.index("table", len(s.m.tables)), r)
			r.index("table", len(s.m.tables))
		case immElemTable:
			s.m.elemIndex(r)
			s.noteTable(op, r.index("table", len(s.m.tables)), r)
		case immElem:
			s.noteDrop(at, elemRef(s.m.elemIndex(r)))
		case immData:
			s.noteDrop(at, dataRef(s.m.dataIndex(r)))
		default:
			s.m.skip(r, o.imm)
		}
		if r.err != nil {
			return
		}
		if moves && s.gated(at) {
			s.bulkCalls++
			s.bulkBytes += r.pos - at
			s.m.copies = s.m.copies || op == opMemoryCopy
			s.m.fills = s.m.fills || op == opMemoryFill
		}
		if len(s.frames) > maxNesting {
			r.fail(at, "more than %d blocks inside one another", maxNesting)
			return
		}
	}
	r.finish()
}

func (s *scanner) noteCall(op uint32) {
	switch op {
	case opRefFunc:
		return
	case opReturnCall, opReturnCallIndirect:
		s.run = unreached
	}
	s.calls = true
}

// noteTable notes what an instruction does to a table.
func (s *scanner) noteTable(op, table uint32, r *reader) {
	if r.err != nil {
		return
	}
	switch op {
	case opTableGrow:
		s.m.tables[table].grows = true
		s.m.tables[table].changes = true
	case opTableSet, opTableFill, opTableCopy, opTableInit:
		s.m.tables[table].changes = true
	}
}

func (s *scanner) noteDrop(at int, segment segmentRef) {
	s.m.drops = append(s.m.drops, drop{at: uint32(at), segment: segment})
}

// skip reads the immediates of an instruction that matters to no gate, table or segment.
func (m *module) skip(r *reader, imm immediate) {
	switch imm {
	case immSelect:
		for range r.count("types", maxParams) {
			r.valType()
		}
	case immLocal:
		r.u32()
	case immGlobal:
		r.index("global", len(m.globals))
	case immDataMemory:
		m.dataIndex(r)
		m.memoryIndex(r)
	case immMemory:
		m.memoryIndex(r)
	case immMemoryPair:
		m.memoryIndex(r)
		m.memoryIndex(r)
	case immMemarg:
		m.memarg(r)
	case immMemargLane:
		m.memarg(r)
		r.byte()
	case immLane:
		r.byte()
	case immShuffle, immV128:
		r.bytes(16)
	case immI32:
		r.signed(32)
	case immI64:
		r.signed(64)
	case immF32:
		r.bytes(4)
	case immF64:
		r.bytes(8)
	case immHeapType:
		r.heapType()
	default:
		panic("BUG: immediate without a reader")
	}
}

// emptyBlock is the type of a block that takes and leaves nothing.
const emptyBlock = 0x40

// blockType reads a block type: nothing, one value type, or the index of a type.
func (m *module) blockType(r *reader) {
	if r.left() == 0 {
		r.fail(r.pos, "unexpected end")
		return
	}
	switch c := r.file[r.pos]; {
	case c == emptyBlock:
		r.pos++
	case c > emptyBlock && c < 0x80:
		r.valType()
	default:
		at := r.pos
		if i := r.signed(33); i < 0 || i >= int64(len(m.types)) {
			r.fail(at, "block type %d does not exist; there are %d", i, len(m.types))
		}
	}
}

// dataIndex reads the index of a data segment. The data section comes after the code, so
// the data count section must have told how many there are.
func (m *module) dataIndex(r *reader) uint32 {
	m.usesData = true
	if !m.hasDataCount {
		r.fail(r.pos, "data segment named in code, but the module has no data count section")
	}
	return r.index("data segment", m.dataCount)
}

func (m *module) elemIndex(r *reader) uint32 { return r.index("element segment", len(m.elemSegments)) }

func (m *module) memoryIndex(r *reader) {
	at := r.pos
	i := r.u32()
	m.useMemory(r, at)
	if i != 0 {
		r.fail(at, "memory %d: the multi-memory proposal is not supported", i)
	}
}

// memarg reads the alignment and offset of a memory access.
func (m *module) memarg(r *reader) {
	at := r.pos
	align := r.u32()
	m.useMemory(r, at)
	switch {
	case align&0x40 != 0 && m.prepared:
		if i := r.u32(); i != 1 {
			r.fail(at, "memory %d named in a prepared module", i)
		}
	case align&0x40 != 0:
		r.fail(at, "access to a memory by number: the multi-memory proposal is not supported")
	case align > 4:
		r.fail(at, "alignment of 2 to the %d is more than any access has", align)
	}
	r.u32()
}

// useMemory checks that the guest has a memory. The engine would not notice that it has
// none, because Prepare gives it an empty one.
func (m *module) useMemory(r *reader, at int) {
	if !m.hasMemory {
		r.fail(at, "memory 0 does not exist; there are 0")
	}
}

// codeSection reads the bodies of the functions and finds the places of their gates.
func (m *module) codeSection(r *reader) {
	defined := len(m.funcs) - len(m.imports)
	at := r.pos
	n := r.count("functions", maxFuncs)
	if n != defined {
		r.fail(at, "%d functions declared, %d have code", defined, n)
		return
	}
	m.bodies = make([]body, 0, n)
	s := scanner{m: m}
	for i := range n {
		r.fn = len(m.imports) + i
		b := body{size: r.pos}
		c := r.within(r.u32())
		if r.err != nil {
			return
		}
		b.begin, b.end = c.pos, len(c.file)
		m.locals(&c)
		b.code = c.pos
		gates, drops := len(m.gates), len(m.drops)
		s.scan(&c)
		if c.err != nil {
			r.err = c.err
			return
		}
		b.entry = s.calls || s.heaviest > callWeight
		b.bulkCalls, b.bulkBytes = s.bulkCalls, s.bulkBytes
		b.gates, b.drops = len(m.gates)-gates, len(m.drops)-drops
		if n := b.newSize(); n > maxBodyBytes {
			r.fail(b.begin, "code of %d bytes, gates included; at most %d are allowed", n, maxBodyBytes)
			return
		}
		m.bodies = append(m.bodies, b)
	}
	r.fn = -1
}

// locals reads past the declarations of a function's locals.
func (m *module) locals(r *reader) {
	at := r.pos
	total := uint64(len(m.types[m.funcs[r.fn]].Params))
	for n := r.count("groups of locals", maxLocals); n > 0 && r.err == nil; n-- {
		total += uint64(r.u32())
		r.valType()
		if total > maxLocals {
			r.fail(at, "%d locals; at most %d are allowed", total, maxLocals)
		}
	}
}

// gateCount returns how many gates b gets.
func (b body) gateCount() int {
	if b.entry {
		return b.gates + 1
	}
	return b.gates
}

// newSize returns the length of b as Faaslets run it. Until trackDrops has forgotten what
// needs no mark it is an upper bound.
func (b body) newSize() int {
	return b.end - b.begin - b.bulkBytes + bulkCallLen*b.bulkCalls + gateLen*(b.gateCount()-b.bulkCalls) + markLen*b.drops
}

// changes reports whether b differs from what was uploaded.
func (b body) changes() bool { return b.gateCount() > 0 || b.drops > 0 }

// codeSize returns the length of what appendCode appends, and how many gates are in it.
func (m *module) codeSize() (size, gates int) {
	size = uvarintLen(len(m.bodies) + len(m.added))
	for _, code := range m.added {
		size += uvarintLen(len(code)) + len(code)
	}
	for _, b := range m.bodies {
		gates += b.gateCount()
		if b.changes() {
			size += uvarintLen(b.newSize()) + b.newSize()
		} else {
			size += b.end - b.size
		}
	}
	return size, gates
}

// appendCode appends the content of the code section as Faaslets run it. A body
// that does not change is copied as it is, its size included.
func (m *module) appendCode(out []byte) []byte {
	out = binary.AppendUvarint(out, uint64(len(m.bodies)+len(m.added)))
	gates, drops := m.gates, m.drops
	for _, b := range m.bodies {
		if !b.changes() {
			out = append(out, m.file[b.size:b.end]...)
			continue
		}
		out = binary.AppendUvarint(out, uint64(b.newSize()))
		out = append(out, m.file[b.begin:b.code]...)
		put := 0 // gates
		gate := func() {
			out = m.appendGate(out, put)
			put++
		}
		if b.entry {
			gate()
		}
		from := b.code
		copyTo := func(at uint32) {
			out = append(out, m.file[from:at]...)
			from = int(at)
		}
		gatesTo := func(end int) {
			for len(gates) > 0 && int(gates[0]) <= end {
				copyTo(gates[0])
				if index, behind, ok := m.bulkAt(gates[0]); ok {
					out = appendIndex(append(out, opCall), index)
					from = behind
				} else {
					gate()
				}
				gates = gates[1:]
			}
		}
		for _, d := range drops[:b.drops] {
			gatesTo(int(d.at))
			copyTo(d.at)
			out = appendMark(out, m.flags[d.segment])
		}
		gatesTo(b.end)
		out = append(out, m.file[from:b.end]...)
		drops = drops[b.drops:]
	}
	for _, code := range m.added {
		out = binary.AppendUvarint(out, uint64(len(code)))
		out = append(out, code...)
	}
	return out
}
