package state

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/faasm-go/faasm/internal/state/global"
)

// holding is what a session has mapped of a value, or of a published version.
type holding struct {
	r *replica // pinned
	// seen are the chunks that it has views of, and writable those of them that it may
	// write, where it counts among the chunks' writers.
	seen, writable spans
}

// release ends the views.
func (h *holding) release() {
	r := h.r
	r.mu.Lock()
	for _, s := range h.seen {
		for i := s.from; i < s.to; i++ {
			c := r.mu.chunks[i]
			if c == nil {
				panic(fmt.Sprintf("BUG: chunk %d of %s is viewed and not there", i, r.key))
			}
			c.views--
			if h.writable.cover(span{i, i + 1}) {
				was := c.bytes()
				c.writers--
				r.recountLocked(was, c.bytes())
			}
			if c.views == 0 && i >= chunkCount(r.size.Load()) {
				r.removeLocked(i, c)
			}
		}
	}
	r.mu.Unlock()
	r.tier.unpin(r)
}

// View returns n bytes of the value from off as memory to be mapped, or, if n is negative,
// all from off to the end. What is not here yet it brings from the global tier. The view is
// made of whole chunks, so it begins before off and ends after off+n; bytes in it that lie
// beyond the value's end mean nothing.
//
// The value may get another size while it is viewed. The memory then keeps what belongs to
// the value, and has zeroes where it ended earlier. If the value is deleted the memory is
// the session's, and of those who viewed it as well; a View of the name then is of
// something new.
//
// ErrNotFound if there is no such value, nor one to create; ErrRange; ErrNoMemory.
func (s *Session) View(name string, a Access, off, n int64) (View, error) {
	at := slot{s.key(name), a.Published}
	if h := s.views[at]; h != nil && !a.Pull && (a.Published || !h.r.gone.Load()) {
		if v, ok := h.view(a, off, n); ok {
			return v, nil
		}
	}
	v, err := s.view(at, a, off, n)
	for errors.Is(err, errGone) {
		v, err = s.view(at, a, off, n)
	}
	if err != nil {
		return View{}, fmt.Errorf("view %s: %w", at.key, err)
	}
	return v, nil
}

// view returns a view that the session has already. It takes no lock.
func (h *holding) view(a Access, off, n int64) (View, bool) {
	size := h.r.size.Load()
	if n < 0 {
		n = size - off
	}
	if checkRange(off, n, size) != nil {
		return View{}, false
	}
	need, have := chunksOf(off, n, size), h.seen
	if !a.ReadOnly && !a.Published {
		have = h.writable
	}
	if !have.cover(need) {
		return View{}, false
	}
	return View{
		Memory:  h.r.memory,
		Offset:  uint64(need.from * chunkBytes),
		Len:     uint64((need.to - need.from) * chunkBytes),
		Private: a.ReadOnly || a.Published,
		Size:    size,
	}, true
}

func (s *Session) view(at slot, a Access, off, n int64) (View, error) {
	r, err := s.openView(at, a, off, n)
	if err != nil {
		return View{}, err
	}
	h := s.views[at]
	if h == nil || h.r != r {
		h = &holding{r: r}
	}
	v, err := s.extend(h, a, off, n)
	if errors.Is(err, global.ErrNotFound) && r.gone.Load() {
		err = fmt.Errorf("%w: %w", errGone, err)
	}
	if err != nil || h == s.views[at] {
		s.tier.unpin(r)
		return v, err
	}
	if was := s.views[at]; was != nil {
		s.retired = append(s.retired, was)
	}
	if s.views == nil {
		s.views = make(map[slot]*holding)
	}
	s.views[at] = h
	return v, nil
}

// extend makes the range part of what the session has views of, and returns its view.
func (s *Session) extend(h *holding, a Access, off, n int64) (View, error) {
	for {
		length := n
		if n < 0 {
			length = h.r.size.Load() - off
		}
		if err := s.present(h.r, off, length); err != nil {
			return View{}, err
		}
		var v View
		var done bool
		err := h.r.change(
			func() uint64 { return h.needLocked(a, off, n) },
			func() (err error) {
				if err = h.extendLocked(a, off, n); err == nil {
					v, done = h.view(a, off, n)
				}
				return err
			})
		if err != nil || done {
			return v, err
		}
	}
}

// openView returns the replica to be viewed, pinned, refreshed if the access is to pull.
func (s *Session) openView(at slot, a Access, off, n int64) (*replica, error) {
	if a.Published {
		return s.openPublished(at.key, a.Pull)
	}
	r, err := s.find(at)
	if r == nil && err == nil {
		return s.open(at.key.Name, a) // which is as of now
	}
	if err != nil || !a.Pull {
		return r, err
	}
	err = s.movingValue(r, func(ctx context.Context) error {
		if n < 0 {
			return r.pull(ctx)
		}
		return r.pullView(ctx, off, n)
	})
	if errors.Is(err, global.ErrNotFound) && a.Create {
		err = nil // it was made here, and was not pushed yet
	}
	if err != nil {
		s.tier.unpin(r)
		return nil, err
	}
	return r, nil
}

// chunksLocked is what a view of the range covers, or false if the value has not all of it
// any more, or not all is present.
func (h *holding) chunksLocked(off, n int64) (span, bool) {
	size := h.r.size.Load()
	if n < 0 {
		n = size - off
	}
	if checkRange(off, n, size) != nil {
		return span{}, false
	}
	s := chunksOf(off, n, size)
	return s, h.r.presentLocked(s)
}

// needLocked is what extendLocked charges: the bases of chunks that are to be written.
func (h *holding) needLocked(a Access, off, n int64) (need uint64) {
	s, ok := h.chunksLocked(off, n)
	if !ok || a.ReadOnly || a.Published {
		return 0
	}
	for i := s.from; i < s.to; i++ {
		if c := h.r.mu.chunks[i]; c.base != baseKept && c.writers == 0 {
			need += chunkBytes
		}
	}
	return need
}

// extendLocked makes the range part of what the session has views of, if it is present.
// After an error nothing has changed.
func (h *holding) extendLocked(a Access, off, n int64) error {
	s, ok := h.chunksLocked(off, n)
	if !ok {
		return nil
	}
	if !a.ReadOnly && !a.Published {
		if err := h.r.keepBasesLocked(s); err != nil {
			return err
		}
		for i := s.from; i < s.to; i++ {
			if !h.writable.cover(span{i, i + 1}) {
				h.r.preserveLocked(i)
				c := h.r.mu.chunks[i]
				was := c.bytes()
				c.writers++
				h.r.recountLocked(was, c.bytes())
			}
		}
		h.writable = h.writable.add(s)
	}
	for i := s.from; i < s.to; i++ {
		if !h.seen.cover(span{i, i + 1}) {
			h.r.mu.chunks[i].views++
		}
	}
	h.seen = h.seen.add(s)
	return nil
}

// spans are ranges in order, apart from each other.
type spans []span

// cover tells whether all of s is in one of them.
func (l spans) cover(s span) bool {
	if s.from == s.to {
		return true
	}
	i, found := slices.BinarySearchFunc(l, s.from, func(have span, from int64) int {
		switch {
		case have.to <= from:
			return -1
		case have.from > from:
			return 1
		}
		return 0
	})
	return found && s.to <= l[i].to
}

// add returns the spans with s.
func (l spans) add(s span) spans {
	if s.from == s.to {
		return l
	}
	from, _ := slices.BinarySearchFunc(l, s.from, func(have span, at int64) int {
		if have.to < at {
			return -1
		}
		return 1
	})
	to := from
	for to < len(l) && l[to].from <= s.to {
		s.from, s.to = min(s.from, l[to].from), max(s.to, l[to].to)
		to++
	}
	return slices.Replace(l, from, to, s)
}
