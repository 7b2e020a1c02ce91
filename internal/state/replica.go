package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/faasm-go/faasm/internal/state/global"
	"github.com/faasm-go/faasm/internal/vmem"
)

// replica is a value, or a published version of one, in this host's memory.
//
// It is in the tier's table until it is given up: evicted, or deleted. Then it is gone:
// who has it pinned goes on with it, whoever comes later starts anew.
type replica struct {
	tier    *Tier
	key     global.Key
	version uint64       // of what was published; 0: the value itself
	memory  *vmem.Shared // owned

	// pins counts who uses it: operations, and sessions that have it mapped. It leaves 0
	// only under the tier's mu, by who found it in the table. See Tier.pin.
	pins atomic.Int64
	gone atomic.Bool  // not in the table any more
	used atomic.Int64 // the tier's clock when it was last used

	// size of the value in bytes. Stored under mu.
	size atomic.Int64

	// moving is held by who moves the replica to or from the global tier, one at a time,
	// across that; see move. It comes before mu.
	moving chan struct{}

	// mu is held for as long as memory takes, never across anything that may block.
	mu struct {
		sync.RWMutex
		bytes []byte // of memory
		// bases holds, at the same offsets as memory, the bases that are kept. nil until
		// there is one.
		bases     *vmem.Shared
		baseBytes []byte
		chunks    map[int64]*chunk // that are present
		origin    origin
		sets      uint64 // how often the whole was set
		// filling is set while absent chunks are read from the global tier straight into
		// memory. Chunks become present in no other way then.
		filling bool
		snap    *snapshot // what is being pushed as a whole; nil: nothing
		charged uint64    // in the budget
		hold    uint64    // in the budget as well, for what is about to be charged
		closed  bool
	}
}

// origin is where a replica's size and absent chunks come from.
type origin uint8

const (
	// originGlobal: the value is in the global tier, and so are absent chunks.
	originGlobal origin = iota
	// originZeros: it was made here, of zeroes, and never pushed. Absent chunks are zeroes.
	originZeros
	// originSet: it was set here as a whole, and what the global tier has may be of another
	// size, or nothing, so that PushDirty pushes the whole. No chunk is absent. A push or
	// pull, if only of part, that finds the value there as large as it is here makes it
	// originGlobal: what is to be pushed then are the bytes that are dirty.
	originSet
)

// newReplica makes a replica without chunks, which is not in the table yet.
func (t *Tier) newReplica(key global.Key, version uint64, from origin, size int64) (*replica, error) {
	length := uint64(chunkCount(size) * chunkBytes)
	if err := t.reserve(key.Tenant, overhead(length)); err != nil {
		return nil, err
	}
	memory, err := vmem.NewShared(t.opts.Arena, length)
	if errors.Is(err, vmem.ErrExhausted) && t.reclaimMappings() {
		memory, err = vmem.NewShared(t.opts.Arena, length)
	}
	if err != nil {
		t.budget.give(key.Tenant, overhead(length))
		return nil, memoryError(err)
	}
	r := &replica{tier: t, key: key, version: version, memory: memory, moving: make(chan struct{}, 1)}
	r.mu.bytes = memory.Bytes()
	r.mu.chunks = make(map[int64]*chunk)
	r.mu.origin = from
	r.mu.charged = overhead(length)
	r.size.Store(size)
	return r, nil
}

// overhead is what a replica counts in the budget besides its chunks: the open file and the
// mapping that it has, and the page tables of one that is length bytes long, even if hardly
// any of it is present, so that nobody can use up the host's addresses.
func overhead(length uint64) uint64 { return 16<<10 + length/512 }

// memoryError is what the user of a session is told of an error of vmem.
func memoryError(err error) error {
	if errors.Is(err, vmem.ErrExhausted) {
		return fmt.Errorf("%w: %w", ErrNoMemory, err)
	}
	return err
}

// move makes the caller the one who moves the replica, until endMove.
func (r *replica) move(ctx context.Context) error {
	select {
	case r.moving <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r *replica) endMove() { <-r.moving }

// close frees the memory. What Faaslets have mapped stays good.
func (r *replica) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.closed {
		return
	}
	r.mu.closed = true
	r.tier.budget.give(r.key.Tenant, r.mu.charged)
	r.mu.charged = 0
	err := r.memory.Close()
	if r.mu.bases != nil {
		err = errors.Join(err, r.mu.bases.Close())
	}
	if err != nil {
		panic(fmt.Sprintf("BUG: free the memory of %s: %v", r.key, err))
	}
	r.mu.bytes, r.mu.baseBytes, r.mu.chunks = nil, nil, nil
}

// change runs do with mu held, once the budget has room for what need, which is called
// with mu held, says that do will charge. do may be run again if it found no memory, and
// must not have changed anything then.
func (r *replica) change(need func() uint64, do func() error) error {
	have, tried := uint64(0), false
	for {
		r.mu.Lock()
		if want := need(); want > have {
			r.mu.Unlock()
			if err := r.tier.reserve(r.key.Tenant, want-have); err != nil {
				r.tier.budget.give(r.key.Tenant, have)
				return err
			}
			have = want
			continue
		}
		r.mu.hold = have
		err := do()
		have, r.mu.hold = r.mu.hold, 0
		r.mu.Unlock()
		if errors.Is(err, vmem.ErrExhausted) && !tried && r.tier.reclaimMappings() {
			tried = true
			continue
		}
		r.tier.budget.give(r.key.Tenant, have)
		return memoryError(err)
	}
}

// recountLocked keeps the budget in step with a chunk that counted was and counts now.
func (r *replica) recountLocked(was, now uint64) {
	if now < was {
		r.mu.charged -= was - now
		r.tier.budget.give(r.key.Tenant, was-now)
		return
	}
	more := now - was
	r.mu.charged += more
	held := min(more, r.mu.hold)
	r.mu.hold -= held
	r.tier.budget.take(r.key.Tenant, more-held)
}

// contentLocked is the part of chunk i that belongs to the value, in memory.
func (r *replica) contentLocked(i int64) []byte {
	n := min(max(r.size.Load()-i*chunkBytes, 0), chunkBytes)
	return r.mu.bytes[i*chunkBytes:][:n]
}

// baseLocked is the base of a chunk, as long as its content.
func (r *replica) baseLocked(i int64, c *chunk) []byte {
	content := r.contentLocked(i)
	switch c.base {
	case baseZeros:
		return zeros[:len(content)]
	case baseKept:
		return r.mu.baseBytes[i*chunkBytes:][:len(content)]
	}
	return content
}

// copyLocked appends the content of a chunk to room, for it may change while one looks, and
// returns that and the base to compare it with.
func (r *replica) copyLocked(room []byte, i int64, c *chunk) (content, base []byte) {
	content = append(room, r.contentLocked(i)...)
	if c.base == baseSame {
		return content, content
	}
	return content, r.baseLocked(i, c)
}

// presentLocked tells whether all of the chunks are present.
func (r *replica) presentLocked(chunks span) bool {
	for i := chunks.from; i < chunks.to; i++ {
		if r.mu.chunks[i] == nil {
			return false
		}
	}
	return true
}

// addLocked makes chunk i present. Its content has been put there, or will be.
func (r *replica) addLocked(i int64, base baseKind) *chunk {
	c := &chunk{base: base}
	r.mu.chunks[i] = c
	r.recountLocked(0, c.bytes())
	return c
}

// removeLocked makes chunk i absent.
func (r *replica) removeLocked(i int64, c *chunk) {
	r.dropBaseLocked(i, c, baseSame)
	r.recountLocked(c.bytes(), 0)
	delete(r.mu.chunks, i)
	r.zeroLocked(i, i+1)
}

// zeroLocked makes the memory of the chunks [from, to) zeroes, for all who have it mapped.
func (r *replica) zeroLocked(from, to int64) {
	zero(r.memory, r.mu.bytes, from*chunkBytes, to*chunkBytes)
}

// zero makes [from, to) of a memory zeroes, whose bytes these are.
func zero(m *vmem.Shared, bytes []byte, from, to int64) {
	if from < to && m.Discard(uint64(from), uint64(to-from)) != nil {
		clear(bytes[from:to]) // that takes memory, and is as right
	}
}

// growBasesLocked makes room for the base of each chunk.
func (r *replica) growBasesLocked() error {
	size := uint64(len(r.mu.bytes))
	if r.mu.bases == nil {
		bases, err := vmem.NewShared(r.tier.opts.Arena, size)
		if err != nil {
			return err
		}
		r.mu.bases = bases
	} else if err := r.mu.bases.Grow(size); err != nil {
		return err
	}
	r.mu.baseBytes = r.mu.bases.Bytes()
	return nil
}

// keepBaseLocked makes sure that the base of chunk i does not change with its content,
// which may change from now on. Preconditions: growBasesLocked.
func (r *replica) keepBaseLocked(i int64, c *chunk) {
	if c.base != baseSame {
		return
	}
	was := c.bytes()
	copy(r.mu.baseBytes[i*chunkBytes:], r.contentLocked(i))
	c.base = baseKept
	r.recountLocked(was, c.bytes())
}

// keepBasesLocked is keepBaseLocked for those that are about to change. After an error
// nothing has changed.
func (r *replica) keepBasesLocked(chunks span) error {
	if r.needBasesLocked(chunks) == 0 {
		return nil
	}
	if err := r.growBasesLocked(); err != nil {
		return err
	}
	for i := chunks.from; i < chunks.to; i++ {
		r.keepBaseLocked(i, r.mu.chunks[i])
	}
	return nil
}

// needBasesLocked is what keepBasesLocked charges, or more.
func (r *replica) needBasesLocked(chunks span) (need uint64) {
	for i := chunks.from; i < chunks.to; i++ {
		if r.mu.chunks[i].base == baseSame {
			need += chunkBytes
		}
	}
	return need
}

// dropBaseLocked makes chunk i's base one that need not be kept.
func (r *replica) dropBaseLocked(i int64, c *chunk, to baseKind) {
	was := c.bytes()
	if c.base == baseKept {
		zero(r.mu.bases, r.mu.baseBytes, i*chunkBytes, (i+1)*chunkBytes)
	}
	c.base = to
	r.recountLocked(was, c.bytes())
}

// settleLocked forgets what is kept of chunk i if it is clean and can't change unseen.
func (r *replica) settleLocked(i int64, c *chunk) {
	if c.writers == 0 && c.clean(r.contentLocked(i), r.baseLocked(i, c)) {
		r.sameLocked(i, c)
	}
}

// forceLocked changes what of a chunk is forced.
func (r *replica) forceLocked(c *chunk, edit func(*byteSet)) {
	was := c.bytes()
	edit(&c.forced)
	r.recountLocked(was, c.bytes())
}

// part is bytes at an offset of a chunk.
type part struct {
	off  int64
	data []byte
}

// sameLocked records that chunk i, which nobody can write, is what the global tier has.
func (r *replica) sameLocked(i int64, c *chunk) {
	r.forceLocked(c, func(f *byteSet) { *f = byteSet{} })
	r.dropBaseLocked(i, c, baseSame)
}

// syncLocked records that the parts of chunk i, which are in order, are what the global
// tier has there. Preconditions: growBasesLocked; else the chunk may stay as dirty as it is.
func (r *replica) syncLocked(i int64, c *chunk, parts []part) {
	content := r.contentLocked(i)
	if len(parts) == 1 && len(parts[0].data) == len(content) {
		if c.writers == 0 && bytes.Equal(content, parts[0].data) {
			r.sameLocked(i, c)
			return
		}
		r.forceLocked(c, func(f *byteSet) { *f = byteSet{} })
	}
	if c.base == baseZeros {
		if r.growBasesLocked() != nil {
			r.forceLocked(c, func(f *byteSet) { *f = byteSet{all: true} })
			return
		}
		was := c.bytes()
		c.base = baseKept
		r.recountLocked(was, c.bytes())
	}
	base := r.baseLocked(i, c)
	for _, p := range parts {
		if c.base == baseKept {
			copy(base[p.off:], p.data)
		}
		r.forceLocked(c, func(f *byteSet) { f.remove(int(p.off), int(p.off)+len(p.data)) })
	}
	r.settleLocked(i, c)
}

// sizedLocked records that the global tier's value is size bytes, after part of it was pushed
// or pulled.
func (r *replica) sizedLocked(size int64) {
	if r.mu.origin == originSet && r.size.Load() == size {
		r.mu.origin = originGlobal
	}
}

// resizeLocked makes the value size bytes. What it has more is for the caller to fill.
// After an error nothing has changed.
func (r *replica) resizeLocked(size int64) error {
	if bytes := uint64(chunkCount(size) * chunkBytes); bytes > uint64(len(r.mu.bytes)) {
		if err := r.memory.Grow(bytes); err != nil {
			return err
		}
		was := uint64(len(r.mu.bytes))
		r.mu.bytes = r.memory.Bytes()
		if r.mu.bases != nil {
			if err := r.growBasesLocked(); err != nil {
				r.mu.bytes = r.mu.bytes[:was]
				return err
			}
		}
		r.recountLocked(overhead(was), overhead(bytes))
	}
	if size < r.size.Load() {
		r.shrinkLocked(size)
	}
	r.size.Store(size)
	return nil
}

// needSizeLocked is what resizeLocked charges.
func (r *replica) needSizeLocked(size int64) uint64 {
	length := uint64(chunkCount(size) * chunkBytes)
	return overhead(max(length, uint64(len(r.mu.bytes)))) - overhead(uint64(len(r.mu.bytes)))
}

// needWholeLocked is what resizeLocked charges, and then each chunk that is absent.
func (r *replica) needWholeLocked(size int64) uint64 {
	need := r.needSizeLocked(size)
	for i := range chunkCount(size) {
		if r.mu.chunks[i] == nil {
			need += chunkBytes
		}
	}
	return need
}

// shrinkLocked makes zeroes of what lies beyond size for who still has it mapped. Those
// chunks stay: they can take memory again, and may belong to the value again one day.
func (r *replica) shrinkLocked(size int64) {
	end := chunkCount(size)
	for i, c := range r.mu.chunks {
		if i < end {
			continue
		}
		r.preserveLocked(i)
		if c.views == 0 {
			r.removeLocked(i, c)
			continue
		}
		r.forceLocked(c, func(f *byteSet) { *f = byteSet{} })
		r.dropBaseLocked(i, c, baseZeros)
		r.zeroLocked(i, i+1)
	}
	if in := size % chunkBytes; in != 0 && r.mu.chunks[end-1] != nil {
		r.preserveLocked(end - 1)
		clear(r.mu.bytes[size:][:chunkBytes-in])
	}
}
