package hostif

import (
	"errors"
	"fmt"
	"slices"

	"github.com/faasm-go/faasm/internal/state"
	"github.com/faasm-go/faasm/internal/vmem"
)

// A value is mapped into a guest at the end of its memory, which grows for it; cleaning the
// region takes all of that away. A window stays where it is for as long as the Faaslet
// lives, so that pointers into it stay good.

// errNoRoom is returned where a value can't be mapped.
var errNoRoom = errors.New("no memory left to map it")

// windowsMax bounds the windows of a Faaslet. Each takes up to three of the mappings that a
// process may have (vm.max_map_count), which are all Faaslets' together.
const windowsMax = 1024

// emptyAt is the address of what has no bytes: not null, and aligned for any type.
const emptyAt = 16

// mapped is what a guest has mapped of one value.
type mapped struct {
	key     string
	windows []window // oldest first
	whole   bool     // has been mapped
}

// window is part of a value in the guest's memory.
type window struct {
	memory    *vmem.Shared
	off, len  uint64 // of memory, where a value's bytes have the offsets that they have in it
	at        uint64 // guest address
	private   bool
	published bool
}

// span is a piece of the guest's memory that is private zeroes.
type span struct{ at, len uint64 }

// window maps [off, off+n) of a value, or if off is 0 and n negative all of it, unless that
// has been done, and returns the guest address of the byte at off, and the value's size.
// After an error nothing has changed but that the memory may be larger.
//
// Preconditions: the guest has a session, and there could be a value with that range.
func (g *Guest) window(key string, a state.Access, off, n int64) (at uint32, size int64, err error) {
	m := g.shared.mapped[key]
	if n < 0 && (m == nil || !m.whole) {
		if err := g.fit(key, a); err != nil {
			return 0, 0, err
		}
	}
	v, err := g.shared.session.View(key, a, off, n)
	if err != nil {
		return 0, 0, err
	}
	if v.Len == 0 {
		return emptyAt, v.Size, nil
	}
	w, stale := m.find(v, a.Published)
	switch {
	case w == nil && stale == nil:
		w, err = g.open(key, m, v, a.Published)
	case w == nil:
		// The value was made anew, or there is a newer version, and it was asked for.
		if err = g.place(v, stale.at); err == nil {
			w = stale
			w.memory = v.Memory
		}
	case a.Pull && v.Private:
		// Pages that the guest has written would go on hiding what was pulled.
		err = g.place(v, w.at+v.Offset-w.off)
	}
	if err != nil {
		return 0, 0, err
	}
	if n < 0 {
		g.shared.mapped[key].whole = true
	}
	return uint32(w.at + uint64(off) - w.off), v.Size, nil
}

// fit makes room for all of a value, or returns an error: one that does not fit into the
// guest's memory is not to be brought here for nothing.
func (g *Guest) fit(key string, a state.Access) error {
	a.Pull = false
	v, err := g.shared.session.View(key, a, 0, 0)
	if err != nil {
		return err
	}
	n := uint64(v.Size+vmem.WasmPageSize-1) / vmem.WasmPageSize * vmem.WasmPageSize
	if n == 0 {
		return nil
	}
	room, err := g.room(n)
	if err == nil {
		g.shared.spare = append(g.shared.spare, room)
	}
	return err
}

// find returns the window that has v, or else one that has exactly this part of what the
// value was before.
func (m *mapped) find(v state.View, published bool) (w, stale *window) {
	if m == nil {
		return nil, nil
	}
	for i := range m.windows {
		w := &m.windows[i]
		switch {
		case w.private != v.Private || w.published != published:
		case w.memory == v.Memory && w.off <= v.Offset && v.Offset+v.Len <= w.off+w.len:
			return w, nil
		case w.memory != v.Memory && w.off == v.Offset && w.len == v.Len:
			stale = w
		}
	}
	return nil, stale
}

// open maps v at the end of memory, as a window of m, which is nil if it is the first.
func (g *Guest) open(key string, m *mapped, v state.View, published bool) (*window, error) {
	s := g.shared
	if s.windows == windowsMax {
		return nil, fmt.Errorf("%w: it is the %dth window", errNoRoom, windowsMax+1)
	}
	room, err := g.room(v.Len)
	if err != nil {
		return nil, err
	}
	if err := g.place(v, room.at); err != nil {
		s.spare = append(s.spare, room)
		return nil, err
	}
	if m == nil {
		m = &mapped{key: key}
		if s.mapped == nil {
			s.mapped = make(map[string]*mapped)
		}
		s.mapped[key] = m
	}
	m.windows = append(m.windows, window{memory: v.Memory, off: v.Offset, len: v.Len, at: room.at, private: v.Private, published: published})
	s.windows++
	return &m.windows[len(m.windows)-1], nil
}

// place maps v at a guest address. After an error what was there is there still.
func (g *Guest) place(v state.View, at uint64) error {
	return g.Region.MapShared(at, v.Memory, v.Offset, v.Len, v.Private)
}

// room returns n bytes of memory beyond what the guest knows of: spare ones, or new ones.
func (g *Guest) room(n uint64) (span, error) {
	s := g.shared
	for i, have := range s.spare {
		switch {
		case have.len > n:
			s.spare[i] = span{have.at + n, have.len - n}
			return span{have.at, n}, nil
		case have.len == n:
			s.spare = slices.Delete(s.spare, i, i+1)
			return have, nil
		}
	}
	at, err := g.Instance.Grow(g.Memory, n)
	if err != nil {
		return span{}, fmt.Errorf("%w: %w", errNoRoom, err)
	}
	return span{at, n}, nil
}

// source is bytes of the guest's memory that are to be stored in a value at off: a copy, if
// they are the value's own, mapped, from another place of it. Storing them there would
// overwrite what is still to be read.
func (g *Guest) source(key string, off int64, at uint32, b []byte) []byte {
	m := g.shared.mapped[key]
	if m == nil {
		return b
	}
	from, to := uint64(at), uint64(at)+uint64(len(b))
	for _, w := range m.windows {
		if from < w.at+w.len && to > w.at && w.off+from != w.at+uint64(off) {
			return slices.Clone(b)
		}
	}
	return b
}
