package wasm

import "encoding/binary"

// segmentRef names a passive segment that code can drop: twice the index of a data
// segment, twice the index of an element segment and one more.
type segmentRef uint32

func dataRef(index uint32) segmentRef { return segmentRef(index << 1) }
func elemRef(index uint32) segmentRef { return segmentRef(index<<1 | 1) }

// drop is a data.drop or elem.drop in the code of a function.
type drop struct {
	at      uint32 // its offset in the upload
	segment segmentRef
}

// markLen is the length of a mark.
const markLen = 3 + indexLen

// appendMark appends what stands before an instruction that drops a passive segment:
//
//	i32.const 1
//	global.set (the segment's flag)
//
// It leaves the operand stack as it was. No gate comes between it and the instruction,
// which can't trap.
func appendMark(out []byte, flag uint32) []byte {
	return appendIndex(append(out, opI32Const, 1, opGlobalSet), flag)
}

// trackDrops gives each passive segment that some code drops a flag: a global behind the
// upload's own, 0 until the segment is dropped. If there are any, it also adds a function
// that drops again what the flags say; the guest can't call it, so it has no gate.
//
// Drops of other segments are forgotten: the engine drops an active or a declared one in
// each new instance, before any code runs.
func (m *module) trackDrops() {
	all, kept := m.drops, m.drops[:0]
	var flags []byte
	code := []byte{0} // no locals
	first := len(m.globals)
	for i := range m.bodies {
		b := &m.bodies[i]
		own := all[:b.drops]
		all = all[b.drops:]
		b.drops = 0
		for _, d := range own {
			if !m.passive(d.segment) {
				continue
			}
			kept = append(kept, d)
			b.drops++
			if _, known := m.flags[d.segment]; known {
				continue
			}
			if m.flags == nil {
				m.flags = map[segmentRef]uint32{}
			}
			flag := uint32(len(m.globals))
			m.flags[d.segment] = flag
			m.globals = append(m.globals, globalDef{typ: I32, mutable: true, init: Value{Type: I32}})
			flags = append(flags, byte(I32), 1, opI32Const, 0, opEnd)
			code = appendDropIf(code, flag, d.segment)
		}
	}
	m.drops = kept
	if len(kept) == 0 {
		return
	}
	m.sections[secGlobal] = extend(m.sections[secGlobal], len(m.globals)-first, flags)
	m.dropFunc = m.addFunc(FuncType{}, append(code, opEnd))
}

// appendDropIf appends code that drops a segment if its flag is set.
func appendDropIf(out []byte, flag uint32, s segmentRef) []byte {
	out = append(out, opGlobalGet)
	out = binary.AppendUvarint(out, uint64(flag))
	out = append(out, opIf, emptyBlock, prefixMisc)
	if s&1 == 0 {
		out = append(out, opDataDrop&0xff)
	} else {
		out = append(out, opElemDrop&0xff)
	}
	out = binary.AppendUvarint(out, uint64(s>>1))
	return append(out, opEnd)
}

// passive reports whether a new instance has segment s, not dropped.
func (m *module) passive(s segmentRef) bool {
	if s&1 == 0 {
		return !m.data[s>>1].active
	}
	return m.elemSegments[s>>1]
}
