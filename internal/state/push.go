package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/faasm-go/faasm/internal/state/global"
)

// pushing runs do, which pushes from the replica of the value with the name, when its turn
// comes. Without a replica there is nothing to push: ErrNotFound, unless the global tier
// has the value.
func (s *Session) pushing(name string, do func(ctx context.Context, r *replica, c global.Condition) error) error {
	found, err := s.moveValue(
		func() (*replica, error) { return s.find(s.slot(name)) },
		func(ctx context.Context, r *replica) error {
			for {
				err := do(ctx, r, s.condition(name))
				if ctx.Err() != nil || !errors.Is(err, errSet) {
					return err
				}
			}
		},
	)
	if found || err != nil {
		return err
	}
	return s.blocking(func(ctx context.Context) error {
		_, err := s.tier.store.Stat(ctx, s.key(name))
		return err
	})
}

// Push makes the global tier's value what this host has, as of one moment and at once for
// every reader. It replaces what others have pushed. What is not here is pulled first.
//
// After an error it is to be pushed still. After ErrUnavailable, or when the Waiter's
// context ended, the global tier may have it nevertheless. ErrQuota.
func (s *Session) Push(name string) error {
	err := s.pushing(name, func(ctx context.Context, r *replica, c global.Condition) error { return r.push(ctx, c) })
	if err != nil {
		return fmt.Errorf("push %s: %w", s.key(name), err)
	}
	return nil
}

// push is Push. The caller moves r.
func (r *replica) push(ctx context.Context, c global.Condition) error {
	if _, err := r.fill(ctx, span{0, chunkCount(r.size.Load())}); err != nil {
		return err
	}
	p := r.snapshot()
	err := r.tier.roomFor(ctx, r.key, p.size)
	if err == nil {
		_, err = r.tier.store.Write(ctx, r.key, p.size, p, c)
	}
	if err != nil {
		p.drop()
		return err
	}
	p.synced()
	return nil
}

// PushDirty puts what was changed here since it was last pulled or pushed into the global
// tier's value, and touches no other byte of it. All that falls on a chunk of the global
// tier appears there at once. A value that was made here is pushed as a whole, but if another
// host made it meanwhile only what is not zero. One that was set as a whole is pushed so too,
// unless part of it was pushed or pulled since, and the global tier's is as large: then only
// what is left.
//
// After an error what was not pushed is still to be; see Push. ErrNotFound if the value was
// deleted.
func (s *Session) PushDirty(name string) error {
	err := s.pushing(name, func(ctx context.Context, r *replica, c global.Condition) error { return r.pushDirty(ctx, c) })
	if err != nil {
		return fmt.Errorf("push changes of %s: %w", s.key(name), err)
	}
	return nil
}

// pushDirty is PushDirty. The caller moves r.
func (r *replica) pushDirty(ctx context.Context, c global.Condition) error {
	switch r.origin() {
	case originSet:
		return r.push(ctx, c)
	case originZeros:
		if made, err := r.pushNew(ctx, c); made || err != nil {
			return err
		}
	}
	var d differ
	return r.pushParts(ctx, c, d.partsLocked)
}

func (r *replica) origin() origin {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.mu.origin
}

// pushNew pushes the whole value unless the global tier has one: then it pushes nothing, and
// takes note. The caller moves r; if chunks are absent they are zeroes.
func (r *replica) pushNew(ctx context.Context, c global.Condition) (made bool, err error) {
	p := r.snapshot()
	if err = r.tier.roomFor(ctx, r.key, p.size); err == nil {
		_, err = r.tier.store.Write(ctx, r.key, p.size, p, onlyNew(c))
	}
	if err != nil {
		p.drop()
		return false, r.exists(err)
	}
	p.synced()
	return true, nil
}

// onlyNew is c, and that there is no value.
func onlyNew(c global.Condition) global.Condition {
	c.IfAbsent = true
	return c
}

// exists takes the error of a Write that was to make the value. If it says that there is one
// what is absent here is to be had from there, and exists returns nil.
func (r *replica) exists(err error) error {
	if !errors.Is(err, global.ErrVersion) {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.origin == originZeros {
		r.mu.origin = originGlobal
	}
	return nil
}

// pushZeros makes the value in the global tier, of zeroes, if there is none.
func (r *replica) pushZeros(ctx context.Context, c global.Condition) error {
	size := r.size.Load()
	err := r.tier.roomFor(ctx, r.key, size)
	if err == nil {
		if _, err = r.tier.store.Write(ctx, r.key, size, nil, onlyNew(c)); err == nil {
			err = global.ErrVersion // there is one now
		}
	}
	return r.exists(err)
}

// PushRange is PushDirty of what was changed of n bytes at off. If the global tier does not
// have the value it is made, and the rest of it is zeroes. ErrRange if the value has not all
// of them.
func (s *Session) PushRange(name string, off, n int64) error {
	err := s.pushing(name, func(ctx context.Context, r *replica, c global.Condition) error {
		if err := checkRange(off, n, r.size.Load()); err != nil || n == 0 {
			return err
		}
		var d differ
		return r.pushSome(ctx, c, func(r *replica, i int64, c *chunk) ([]part, error) {
			start := i * chunkBytes
			if start >= off+n || start+chunkBytes <= off {
				return nil, nil
			}
			parts, err := d.partsLocked(r, i, c)
			return clip(parts, off-start, off+n-start), err
		})
	})
	if err != nil {
		return fmt.Errorf("push %d bytes at %d of %s: %w", n, off, s.key(name), err)
	}
	return nil
}

// clip returns what of parts, which it changes, is in [from, to).
func clip(parts []part, from, to int64) []part {
	in := parts[:0]
	for _, p := range parts {
		end := p.off + int64(len(p.data))
		if p.off >= to || end <= from {
			continue
		}
		first, last := max(from-p.off, 0), min(to, end)-p.off
		in = append(in, part{p.off + first, p.data[first:last]})
	}
	return in
}

// pushSome pushes what find finds of each chunk, and makes the value if need be. The caller
// moves r.
func (r *replica) pushSome(ctx context.Context, c global.Condition, find findParts) error {
	if r.origin() == originZeros {
		if err := r.pushZeros(ctx, c); err != nil {
			return err
		}
	}
	err := r.pushParts(ctx, c, find)
	if errors.Is(err, global.ErrNotFound) && r.origin() == originSet {
		if err = r.pushZeros(ctx, c); err == nil {
			err = r.pushParts(ctx, c, find)
		}
	}
	return err
}

// PushMask puts those bytes of the value into the global tier's for which the value mask
// has a byte other than zero at the same place, and makes zeroes of those bytes of the mask
// here. Else it is like PushRange. ErrRange if the two values are not of one size.
func (s *Session) PushMask(name, mask string) error {
	err := s.pushMask(name, mask)
	if err != nil {
		return fmt.Errorf("push %s masked by %q: %w", s.key(name), mask, err)
	}
	return nil
}

func (s *Session) pushMask(name, mask string) error {
	m, err := s.open(mask, Access{})
	if err != nil {
		return err
	}
	defer s.tier.unpin(m)
	size := m.size.Load()
	seen, err := s.tier.stages.take(size, false)
	if err != nil {
		return err
	}
	defer s.tier.stages.give(seen)
	if err := s.present(m, 0, size); err != nil {
		return err
	}
	if n, _ := m.read(0, seen.bytes); int64(n) < size {
		return rangeError(0, size, int64(n))
	}
	err = s.pushing(name, func(ctx context.Context, r *replica, c global.Condition) error {
		if now := r.size.Load(); now != size {
			return rangeError(0, size, now)
		}
		return r.pushSome(ctx, c, func(r *replica, i int64, _ *chunk) ([]part, error) {
			content := r.contentLocked(i)
			if now := r.size.Load(); now != size {
				return nil, rangeError(0, size, now)
			}
			if len(content) == 0 {
				return nil, nil // beyond the end, mapped by somebody still
			}
			return partsOf(content, masked(nil, seen.bytes[i*chunkBytes:][:len(content)])), nil
		})
	})
	if err != nil {
		return err
	}
	return m.clearMask(seen.bytes)
}

// masked appends the parts of mask that are not zero to spans.
func masked(spans []span, mask []byte) []span {
	c := chunk{base: baseZeros}
	return c.dirty(spans, mask, zeros[:len(mask)])
}

// clearMask makes zeroes of the bytes of a mask that are still as they were seen.
func (r *replica) clearMask(seen []byte) error {
	for off := int64(0); off < int64(len(seen)); off += chunkBytes {
		was := seen[off:min(off+chunkBytes, int64(len(seen)))]
		if bytes.Equal(was, zeros[:len(was)]) {
			continue
		}
		// If it is not there any more, neither is what was seen.
		_, err := r.edit(off, int64(len(was)), func(mask []byte) {
			for i, b := range was {
				if mask[i] == b {
					mask[i] = 0
				}
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// findParts returns what is to be pushed of a chunk of r, in order, as a copy. r.mu is held.
type findParts func(r *replica, i int64, c *chunk) ([]part, error)

// differ finds what is dirty.
type differ struct {
	content []byte // room for a chunk's
	spans   []span
}

func (d *differ) partsLocked(r *replica, i int64, c *chunk) ([]part, error) {
	if c.base == baseSame && c.forced == (byteSet{}) {
		return nil, nil
	}
	var base []byte
	d.content, base = r.copyLocked(d.content[:0], i, c)
	d.spans = c.dirty(d.spans[:0], d.content, base)
	return partsOf(d.content, d.spans), nil
}

// partsOf returns copies of parts of content.
func partsOf(content []byte, spans []span) []part {
	total := 0
	for _, s := range spans {
		total += int(s.to - s.from)
	}
	data := make([]byte, 0, total)
	parts := make([]part, 0, len(spans))
	for _, s := range spans {
		at := len(data)
		data = append(data, content[s.from:s.to]...)
		parts = append(parts, part{s.from, data[at:]})
	}
	return parts
}

const (
	// patchMax is how much is sent in one Patch before the next is looked for: bytes, and
	// for each part as many as it takes in memory.
	patchMax  = 4 << 20
	partBytes = 64
)

// pushParts pushes what find finds of each present chunk. What was sent when an error comes
// counts as pushed. The caller moves r.
func (r *replica) pushParts(ctx context.Context, c global.Condition, find findParts) error {
	r.mu.RLock()
	present, sets := slices.Sorted(maps.Keys(r.mu.chunks)), r.mu.sets
	r.mu.RUnlock()
	batch := make(map[int64][]part)
	var ranges []global.Range
	cost := 0
	send := func() error {
		if len(ranges) == 0 {
			return nil
		}
		last := ranges[len(ranges)-1]
		if err := r.tier.roomFor(ctx, r.key, last.Offset+int64(len(last.Data))); err != nil {
			return err
		}
		info, err := r.tier.store.Patch(ctx, r.key, ranges, c)
		if err != nil {
			return err
		}
		r.pushed(batch, sets, info)
		clear(batch)
		ranges, cost = ranges[:0], 0
		return nil
	}
	for _, i := range present {
		parts, err := r.find(i, sets, find)
		if err != nil {
			return err
		}
		if len(parts) == 0 {
			continue
		}
		batch[i] = parts
		for _, p := range parts {
			ranges = append(ranges, global.Range{Offset: i*chunkBytes + p.off, Data: p.data})
			cost += partBytes + len(p.data)
		}
		if cost >= patchMax {
			if err := send(); err != nil {
				return err
			}
		}
	}
	return send()
}

// errSet is returned where the value was set while one looked for what is to be pushed of it:
// the rest of that is not to be had any more, and who begins again finds all there is.
var errSet = errors.New("the value was set meanwhile")

// find runs find for chunk i, if the chunk is present still. errSet if the value was set since.
func (r *replica) find(i int64, sets uint64, find findParts) ([]part, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	c := r.mu.chunks[i]
	if r.mu.sets != sets {
		return nil, errSet
	}
	if c == nil {
		return nil, nil
	}
	return find(r, i, c)
}

// pushed records what is in the global tier, whose value info describes, unless the value was
// set since.
func (r *replica) pushed(parts map[int64][]part, sets uint64, info global.Info) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.sets != sets {
		return
	}
	for i, p := range parts {
		if c := r.mu.chunks[i]; c != nil {
			r.syncLocked(i, c, p)
		}
	}
	r.sizedLocked(info.Size)
}
