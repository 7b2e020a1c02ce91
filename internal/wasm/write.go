package wasm

import (
	"encoding/binary"
	"slices"
)

// written is the order of the sections in what Prepare writes.
var written = [...]sectionID{
	secType, secImport, secFunction, secTable, secMemory, secGlobal, secExport,
	secElement, secDataCount, secCode, secData,
}

// nameSection begins the content of the name section: its own name.
const nameSection = "\x04name"

// write fills in p.Code and what depends on it. The exports in added are those that the
// upload does not have.
//
// Of custom sections only function names are kept, at the end: debuggers' sections speak
// of offsets that no longer hold, and the rest means nothing to us. Data segments that no
// code can name, which are all of them in most modules and tens of thousands in Go's, are
// left out rather than emptied.
func (m *module) write(p *Prepared, added []Export) {
	if !m.usesData {
		m.sections[secDataCount], m.sections[secData], m.data = nil, nil, nil
	}
	memory := m.memoryContent()
	exports := m.exportContent(added)
	codeSize, gates := m.codeSize()
	dataSize := m.dataSize()
	names := keptNames(m.names)

	const headerMax = 6 // of a section: its number and its size
	total := len(magic) + len(version) + len(memory) + len(exports) + codeSize + dataSize + len(names) + len(nameSection)
	for _, id := range written {
		total += headerMax
		switch id {
		case secMemory, secExport, secCode, secData:
		default:
			total += len(m.sections[id])
		}
	}

	out := make([]byte, 0, total+headerMax)
	out = append(out, magic...)
	out = append(out, version...)
	section := func(id sectionID, size int) {
		out = append(out, byte(id))
		out = binary.AppendUvarint(out, uint64(size))
	}
	for _, id := range written {
		content := m.sections[id]
		switch id {
		case secMemory:
			content = memory
		case secExport:
			content = exports
		case secCode:
			if content != nil {
				section(id, codeSize)
				out = m.appendCode(out)
			}
			continue
		case secData:
			if content != nil {
				section(id, dataSize)
				out = m.appendData(out)
			}
			continue
		}
		if content != nil {
			section(id, len(content))
			out = append(out, content...)
		}
	}
	if names != nil {
		section(secCustom, len(nameSection)+len(names))
		out = append(out, nameSection...)
		out = append(out, names...)
		p.names = out[len(out)-len(names):]
	}
	p.Code = out

	p.Stats = Stats{
		Funcs:           len(m.bodies),
		Loops:           m.loops,
		Gates:           gates,
		CodeBytesBefore: len(m.sections[secCode]),
	}
	if m.sections[secCode] != nil {
		p.Stats.CodeBytesAfter = codeSize
	}
}

// memoryContent returns the content of the memory section: the guest's and the gate.
func (m *module) memoryContent() []byte {
	out := []byte{2}
	switch {
	case !m.hasMemory:
		out = append(out, 1, 0, 0)
	case m.memory.HasMax:
		out = append(out, 1)
		out = binary.AppendUvarint(out, m.memory.Min)
		out = binary.AppendUvarint(out, m.memory.Max)
	default:
		out = append(out, 0)
		out = binary.AppendUvarint(out, m.memory.Min)
	}
	return append(out, gateMemory...)
}

// exportContent returns the content of the export section.
func (m *module) exportContent(added []Export) []byte {
	out := make([]byte, 0, len(m.exportEntries)+32*len(added)+5)
	out = binary.AppendUvarint(out, uint64(len(m.exports)+len(added)))
	out = append(out, m.exportEntries...)
	for _, e := range added {
		out = binary.AppendUvarint(out, uint64(len(e.Name)))
		out = append(out, e.Name...)
		out = append(out, byte(e.Kind))
		out = binary.AppendUvarint(out, uint64(e.Index))
	}
	return out
}

// addFunc adds a function behind all others, and returns its index. Its code begins with
// its locals.
func (m *module) addFunc(t FuncType, code []byte) uint32 {
	typ := slices.IndexFunc(m.types, t.Equal)
	if typ < 0 {
		typ = len(m.types)
		m.types = append(m.types, t)
		form := []byte{funcForm}
		for _, list := range [][]ValType{t.Params, t.Results} {
			form = binary.AppendUvarint(form, uint64(len(list)))
			for _, v := range list {
				form = append(form, byte(v))
			}
		}
		m.sections[secType] = extend(m.sections[secType], 1, form)
	}
	m.sections[secFunction] = extend(m.sections[secFunction], 1, binary.AppendUvarint(nil, uint64(typ)))
	m.added = append(m.added, code)
	return uint32(len(m.funcs) + len(m.added) - 1)
}

// extend returns the content of a section, which begins with the number of its entries,
// with n entries more.
func extend(content []byte, n int, entries []byte) []byte {
	had, size := binary.Uvarint(content)
	out := binary.AppendUvarint(nil, had+uint64(n))
	out = append(out, content[size:]...)
	return append(out, entries...)
}

// indexLen is the length of what appendIndex appends.
const indexLen = 3

// appendIndex appends the index of something that was added, in LEB128 with as many bytes
// as the limits can make it need, so that sizes are known before indices are.
func appendIndex(out []byte, index uint32) []byte {
	return append(out, byte(index|0x80), byte(index>>7|0x80), byte(index>>14))
}

// uvarintLen returns how many bytes binary.AppendUvarint appends for n.
func uvarintLen(n int) int {
	size := 1
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}
