package vmem

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
)

// A Pool keeps clean regions of one image at hand, so that a start takes one from a list
// instead of mapping it. It owns its idle regions; those in use are the Faaslets'.
//
// The list is in shards, of which each thread of Go's keeps to one: a region that was
// cleaned on one core is taken again on that core, where its memory, its stack and its
// page tables are still in the cache.
type Pool struct {
	arena   *Arena
	image   *Image
	idleMax int
	shards  []poolShard
	near    sync.Pool // *poolShard: the one that this thread of Go's last used
	next    atomic.Uint32
	usual   usual

	closed   atomic.Bool
	keep     atomic.Int64
	inUse    atomic.Int64
	idle     atomic.Int64 // regions in all shards, and those about to be put there
	retained atomic.Int64 // bytes, of all regions of the pool
}

type poolShard struct {
	mu   sync.Mutex
	idle []*Region
	_    [64]byte // the next shard's lock is on another cache line
}

// NewPool makes a pool that keeps up to idleMax clean regions. The pool takes over the
// caller's reference to img.
func NewPool(a *Arena, img *Image, idleMax int) *Pool {
	n := max(1, min(runtime.GOMAXPROCS(0), idleMax))
	p := &Pool{arena: a, image: img, idleMax: idleMax, shards: make([]poolShard, n)}
	p.near.New = func() any { return &p.shards[int(p.next.Add(1))%n] }
	return p
}

// Image is what the pool's regions start from.
func (p *Pool) Image() *Image { return p.image }

// SetKeep makes room for at least n clean regions, whatever the pool's idleMax. It neither
// makes regions, which Warm does, nor gives any up.
func (p *Pool) SetKeep(n int) { p.keep.Store(int64(n)) }

func (p *Pool) room() int64 { return max(int64(p.idleMax), p.keep.Load()) }

// Warm has n clean regions at hand, or as many as there is room for, so that the next
// calls need not map them. Like Take it returns ErrExhausted, with fewer at hand.
func (p *Pool) Warm(n int) error {
	for i := 0; i < n && p.Idle() < n; i++ {
		r, err := p.bind(spanBytesMax)
		if err != nil {
			return err
		}
		if !p.push(&p.shards[i%len(p.shards)], r) {
			p.giveUp(r)
			return nil
		}
	}
	return nil
}

// Take returns a clean region. It returns ErrExhausted if there is none and none can be
// made.
//
// Preconditions: the pool is not closed.
func (p *Pool) Take() (*Region, error) {
	p.inUse.Add(1)
	s := p.near.Get().(*poolShard)
	r := p.pop(s)
	p.near.Put(s)
	for i := 0; r == nil && i < len(p.shards); i++ {
		r = p.pop(&p.shards[i])
	}
	if r != nil {
		return r, nil
	}
	r, err := p.bind(prefaultMax)
	if err != nil {
		p.inUse.Add(-1)
	}
	return r, err
}

// Give takes back a region whose linear memory has grown to size bytes, cleans it and
// keeps it or gives it up. It returns how many pages were found written: those of earlier
// runs too that were left resident, and not all if there were too many to keep; none where
// the kernel can't tell. After an error the region has been given up, and no harm is done.
func (p *Pool) Give(r *Region, size uint64) (dirty int, err error) {
	defer p.inUse.Add(-1)
	dirty, err = p.clean(r, size)
	r.NoFaults = false
	if err == nil {
		s := p.near.Get().(*poolShard)
		kept := p.push(s, r)
		p.near.Put(s)
		if kept {
			return dirty, nil
		}
	}
	p.giveUp(r)
	return dirty, err
}

// bind makes a clean region, with the pages resident that runs write if those are at most
// prefaultMost bytes.
func (p *Pool) bind(prefaultMost uintptr) (*Region, error) {
	r, err := p.arena.take(p.image)
	if err != nil {
		return nil, err
	}
	if err := r.bind(p.image); err != nil {
		p.arena.give(r, p.image)
		return nil, err
	}
	p.prefault(r, prefaultMost)
	return r, nil
}

func (p *Pool) giveUp(r *Region) {
	p.retain(r, 0)
	r.unbind()
	p.arena.give(r, p.image)
}

func (p *Pool) pop(s *poolShard) *Region {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.idle)
	if n == 0 {
		return nil
	}
	r := s.idle[n-1]
	s.idle = s.idle[:n-1]
	p.idle.Add(-1)
	return r
}

// push keeps a clean region if there is room.
func (p *Pool) push(s *poolShard, r *Region) bool {
	if p.idle.Add(1) > p.room() {
		p.idle.Add(-1)
		return false
	}
	s.mu.Lock()
	s.idle = append(s.idle, r)
	s.mu.Unlock()
	if p.closed.Load() {
		p.Trim(0) // Close may have passed by before the push
	}
	return true
}

// InUse is the number of regions taken and not yet given back.
func (p *Pool) InUse() int { return int(p.inUse.Load()) }

// Idle is the number of clean regions at hand.
func (p *Pool) Idle() int { return int(p.idle.Load()) }

// IdleBytes is the memory that the pool's regions keep between runs. One in use counts
// with what it kept before.
func (p *Pool) IdleBytes() uint64 { return uint64(p.retained.Load()) }

// Trim gives up idle regions until at most keep are left.
func (p *Pool) Trim(keep int) {
	for i := range p.shards {
		for p.Idle() > keep {
			r := p.pop(&p.shards[i])
			if r == nil {
				break
			}
			p.giveUp(r)
		}
	}
}

// ErrInUse is returned by Close while Faaslets still run in the pool's regions.
var ErrInUse = errors.New("regions are still in use")

// Close gives up the idle regions. Those in use are given up as they come back; if there
// are any, Close returns ErrInUse.
//
// Preconditions: neither Take nor Warm runs, or will.
func (p *Pool) Close() error {
	if p.closed.Swap(true) {
		return nil
	}
	inUse := p.inUse.Load()
	p.Trim(0)
	p.image.release()
	if inUse > 0 {
		return ErrInUse
	}
	return nil
}
