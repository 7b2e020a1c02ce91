package state

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/faasm-go/faasm/internal/state/global"
)

// Merge combines what was changed here with the global tier's value, element by element:
// for Sum it adds what was added here since the last pull or push, or all if the value was
// set as a whole; for Min and Max it takes the elements that were changed here. The value
// here stays as it is: pull it to see what others have added. Nothing counts twice: what
// was merged is pushed.
//
// If the global tier does not have the value it is pushed as it is. All that falls on a
// chunk of the global tier appears there at once. ErrInvalid if the value is not of whole
// elements, or larger than the global tier's.
//
// After an error, what was not merged is still to be. After ErrUnavailable, or when the
// Waiter's context ended, part may have been merged that counts again the next time.
func (s *Session) Merge(name string, e global.Element, op global.Op) error {
	err := s.pushing(name, func(ctx context.Context, r *replica, c global.Condition) error {
		return r.merge(ctx, e, op, c)
	})
	if err != nil {
		return fmt.Errorf("merge %s: %w", s.key(name), err)
	}
	return nil
}

// merge is Merge. The caller moves r.
func (r *replica) merge(ctx context.Context, e global.Element, op global.Op, c global.Condition) error {
	m, ok := mergers[e]
	if !ok || op < global.Sum || op > global.Max {
		return fmt.Errorf("%w: merge of type %d with operation %d", global.ErrInvalid, e, op)
	}
	if size := r.size.Load(); size%int64(m.size) != 0 {
		return fmt.Errorf("%w: %d bytes are not whole elements of %d", global.ErrInvalid, size, m.size)
	}
	from := r.origin()
	if from == originZeros || from == originSet && r.size.Load() == 0 {
		if made, err := r.pushNew(ctx, c); made || err != nil {
			return err
		}
	}
	err := r.mergeChanges(ctx, e, op, m, c)
	if errors.Is(err, global.ErrNotFound) && from == originSet {
		if made, err := r.pushNew(ctx, c); made || err != nil {
			return err
		}
		err = r.mergeChanges(ctx, e, op, m, c)
	}
	return err
}

// mergeMax is how many bytes of elements are sent in one Merge, about.
const mergeMax = 1 << 20

// mergeRun is elements that lie side by side, and the chunks that they are of.
type mergeRun struct {
	off     int64
	operand []byte
	chunks  map[int64][]part // each as a whole, as it was looked at
}

func (r *replica) mergeChanges(ctx context.Context, e global.Element, op global.Op, m merger, c global.Condition) error {
	r.mu.RLock()
	present, sets := slices.Sorted(maps.Keys(r.mu.chunks)), r.mu.sets
	r.mu.RUnlock()
	var run mergeRun
	send := func() error {
		if len(run.operand) == 0 {
			return nil
		}
		info, err := r.tier.store.Merge(ctx, r.key, run.off, e, op, run.operand, c)
		if err == nil {
			r.pushed(run.chunks, sets, info)
			run = mergeRun{}
		}
		return err
	}
	for _, i := range present {
		content, changes := r.mergeChunk(i, sets, op, m)
		if len(changes.data) == 0 {
			continue
		}
		off := i*chunkBytes + changes.off
		end := run.off + int64(len(run.operand))
		if len(run.operand) == 0 || off-end >= chunkBytes || len(run.operand) >= mergeMax {
			if err := send(); err != nil {
				return err
			}
			run = mergeRun{off: off, chunks: make(map[int64][]part)}
			end = off
		}
		run.operand = append(m.appendIdentity(run.operand, op, int(off-end)/m.size), changes.data...)
		run.chunks[i] = []part{{0, content}}
	}
	if err := send(); err != nil {
		return err
	}
	// What was set is combined as a whole, so there is nothing left to be replaced.
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.sets == sets {
		r.mu.origin = originGlobal
	}
	return nil
}

// mergeChunk returns the content of chunk i, and the operand for its elements from the first
// that was changed to the last; none if there is none.
func (r *replica) mergeChunk(i int64, sets uint64, op global.Op, m merger) (content []byte, changes part) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	c := r.mu.chunks[i]
	if c == nil || r.mu.sets != sets || c.base == baseSame && c.forced.empty(chunkBytes) {
		return nil, part{}
	}
	content, base := r.copyLocked(nil, i, c)
	dirty := c.dirty(nil, content, base)
	if len(dirty) == 0 {
		return nil, part{}
	}
	size := int64(m.size)
	from := dirty[0].from / size * size
	to := (dirty[len(dirty)-1].to + size - 1) / size * size
	operand := m.appendIdentity(nil, op, int(to-from)/m.size)
	for _, s := range dirty {
		for at := s.from / size * size; at < s.to; at += size {
			value, was := content[at:at+size], base[at:at+size]
			// What was flagged may be as it was: nothing was added to it.
			if op != global.Sum {
				copy(operand[at-from:], value)
			} else if !bytes.Equal(value, was) {
				m.subtract(operand[at-from:], value, was)
			}
		}
	}
	return content, part{from, operand}
}

// merger is what is particular to a type of elements.
type merger struct {
	size     int
	identity map[global.Op][]byte // op(x, identity) is x
	// subtract makes dst what was has to be added to be value.
	subtract func(dst, value, was []byte)
}

func (m *merger) appendIdentity(dst []byte, op global.Op, n int) []byte {
	for range n {
		dst = append(dst, m.identity[op]...)
	}
	return dst
}

// mergers are those of all types. The identity of a sum of floats is -0: adding +0 would
// change a -0.
var mergers = map[global.Element]merger{
	global.Int32: {
		size: 4,
		identity: map[global.Op][]byte{
			global.Sum: le32(0), global.Min: le32(math.MaxInt32), global.Max: le32(1 << 31),
		},
		subtract: func(dst, value, was []byte) {
			le.PutUint32(dst, le.Uint32(value)-le.Uint32(was))
		},
	},
	global.Int64: {
		size: 8,
		identity: map[global.Op][]byte{
			global.Sum: le64(0), global.Min: le64(math.MaxInt64), global.Max: le64(1 << 63),
		},
		subtract: func(dst, value, was []byte) {
			le.PutUint64(dst, le.Uint64(value)-le.Uint64(was))
		},
	},
	global.Float32: {
		size: 4,
		identity: map[global.Op][]byte{
			global.Sum: le32(math.Float32bits(float32(math.Copysign(0, -1)))),
			global.Min: le32(math.Float32bits(float32(math.Inf(1)))),
			global.Max: le32(math.Float32bits(float32(math.Inf(-1)))),
		},
		subtract: func(dst, value, was []byte) {
			le.PutUint32(dst, math.Float32bits(math.Float32frombits(le.Uint32(value))-math.Float32frombits(le.Uint32(was))))
		},
	},
	global.Float64: {
		size: 8,
		identity: map[global.Op][]byte{
			global.Sum: le64(math.Float64bits(math.Copysign(0, -1))),
			global.Min: le64(math.Float64bits(math.Inf(1))),
			global.Max: le64(math.Float64bits(math.Inf(-1))),
		},
		subtract: func(dst, value, was []byte) {
			le.PutUint64(dst, math.Float64bits(math.Float64frombits(le.Uint64(value))-math.Float64frombits(le.Uint64(was))))
		},
	},
}

var le = binary.LittleEndian

func le32(v uint32) []byte { return le.AppendUint32(nil, v) }
func le64(v uint64) []byte { return le.AppendUint64(nil, v) }
