package wasm

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// dataSegment is an entry of the data section.
type dataSegment struct {
	active bool
	offset uint32 // of an active segment, in memory 0
	init   []byte
	entry  []byte // the whole entry
}

func (m *module) dataSection(r *reader) {
	n := r.count("data segments", maxDataSegments)
	m.data = make([]dataSegment, 0, n)
	size := m.memory.Min * PageSize
	for range n {
		at := r.pos
		var s dataSegment
		switch flags := r.u32(); flags {
		case 0, 2:
			s.active = true
			if flags == 2 {
				if i := r.u32(); i != 0 {
					r.fail(at, "data segment for memory %d: the multi-memory proposal is not supported", i)
				}
			}
			if !m.hasMemory {
				r.fail(at, "memory 0 does not exist; there are 0")
			}
			s.offset = uint32(m.constExpr(r, I32).Lo)
		case 1:
		default:
			r.fail(at, "unknown data segment flags %#x", flags)
		}
		s.init = r.bytes(r.u32())
		if end := uint64(s.offset) + uint64(len(s.init)); s.active && end > size {
			r.fail(at, "data at %#x to %#x lies beyond the memory's initial size, %#x", s.offset, end, size)
		}
		if r.err != nil {
			return
		}
		s.entry = r.file[at:r.pos]
		m.data = append(m.data, s)
	}
}

// image returns what the active data segments leave in memory 0: non-empty segments,
// sorted, that do not overlap. Where segments of the module overlap the later one wins,
// as it would at instantiation.
func (m *module) image() []Segment {
	order := make([]int32, 0, len(m.data)) // of the active segments by offset
	for i, s := range m.data {
		if s.active && len(s.init) > 0 {
			order = append(order, int32(i))
		}
	}
	byOffset := func(i, j int32) int { return cmp.Compare(m.data[i].offset, m.data[j].offset) }
	if !slices.IsSortedFunc(order, byOffset) {
		slices.SortStableFunc(order, byOffset)
	}

	// Segments that overlap are written one over the other, in the order of the module,
	// into one buffer. It is no longer than they are together.
	image := make([]Segment, 0, len(order))
	for len(order) > 0 {
		first := &m.data[order[0]]
		end, n := first.end(), 1
		for n < len(order) && m.data[order[n]].offset < end {
			end = max(end, m.data[order[n]].end())
			n++
		}
		data := first.init
		if n > 1 {
			data = make([]byte, end-first.offset)
			run := order[:n]
			slices.Sort(run)
			for _, i := range run {
				copy(data[m.data[i].offset-first.offset:], m.data[i].init)
			}
		}
		image = append(image, Segment{Offset: uint64(first.offset), Data: data})
		order = order[n:]
	}
	return image
}

// end fits 32 bits because memory ends below the top page.
func (s *dataSegment) end() uint32 { return s.offset + uint32(len(s.init)) }

// dataSize returns the length of what appendData appends.
func (m *module) dataSize() int {
	size := uvarintLen(len(m.data))
	for _, s := range m.data {
		if s.active {
			size += len(emptySegment)
		} else {
			size += len(s.entry)
		}
	}
	return size
}

// appendData appends the content of the data section as Faaslets run it. An active
// segment becomes an empty passive one: an instance drops an active segment as soon as
// it is copied, and what memory.init and data.drop can then see of it is an empty
// segment with its index.
func (m *module) appendData(out []byte) []byte {
	out = binary.AppendUvarint(out, uint64(len(m.data)))
	for _, s := range m.data {
		if s.active {
			out = append(out, emptySegment...)
		} else {
			out = append(out, s.entry...)
		}
	}
	return out
}

// emptySegment is a passive data segment of no bytes, in the data section.
var emptySegment = []byte{1, 0}
