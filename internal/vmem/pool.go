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
	idleMax int // of each shard

	shards []poolShard
	near   sync.Pool // *poolShard: the one that this thread of Go's last used
	next   atomic.Uint32
	closed atomic.Bool
	inUse  atomic.Int64
}

type poolShard struct {
	mu   sync.Mutex
	idle []*Region
	_    [64]byte // the next shard's lock is on another cache line
}

func (s *poolShard) pop() *Region {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.idle)
	if n == 0 {
		return nil
	}
	r := s.idle[n-1]
	s.idle = s.idle[:n-1]
	return r
}

// push keeps a clean region if there is room.
func (s *poolShard) push(r *Region, idleMax int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.idle) >= idleMax {
		return false
	}
	s.idle = append(s.idle, r)
	return true
}

// NewPool makes a pool that keeps up to idleMax clean regions. The pool takes over the
// caller's reference to img.
func NewPool(a *Arena, img *Image, idleMax int) *Pool {
	n := min(runtime.GOMAXPROCS(0), idleMax)
	p := &Pool{arena: a, image: img, idleMax: idleMax / n, shards: make([]poolShard, n)}
	p.near.New = func() any { return &p.shards[int(p.next.Add(1))%n] }
	return p
}

// Image is what the pool's regions start from.
func (p *Pool) Image() *Image { return p.image }

// Warm has n clean regions at hand, so that the first calls need not map them. Like Take it
// returns ErrExhausted, with fewer at hand.
func (p *Pool) Warm(n int) error {
	var regions []*Region
	defer func() {
		for _, r := range regions {
			p.Give(r, p.image.Size)
		}
	}()
	for range n {
		r, err := p.Take()
		if err != nil {
			return err
		}
		regions = append(regions, r)
	}
	return nil
}

// Take returns a clean region. It returns ErrExhausted if there is none and none can be
// made.
func (p *Pool) Take() (*Region, error) {
	p.inUse.Add(1)
	s := p.near.Get().(*poolShard)
	r := s.pop()
	p.near.Put(s)
	for i := 0; r == nil && i < len(p.shards); i++ {
		r = p.shards[i].pop()
	}
	if r != nil {
		return r, nil
	}
	r, err := p.arena.take()
	if err == nil {
		if err = r.bind(p.image); err == nil {
			return r, nil
		}
		p.arena.give(r)
	}
	p.inUse.Add(-1)
	return nil, err
}

// Give takes back a region whose linear memory has grown to size bytes, cleans it and
// keeps it or gives it up. It returns what Region.Clean does; after its error the region
// has been given up, and no harm is done.
func (p *Pool) Give(r *Region, size uint64) (dirty int, err error) {
	defer p.inUse.Add(-1)
	dirty, err = r.Clean(size)
	if err == nil {
		s := p.near.Get().(*poolShard)
		kept := s.push(r, p.idleMax)
		p.near.Put(s)
		if kept {
			if p.closed.Load() {
				p.Trim(0) // Close may have passed by before the push
			}
			return dirty, nil
		}
	}
	p.giveUp(r)
	return dirty, err
}

func (p *Pool) giveUp(r *Region) {
	r.unbind()
	p.arena.give(r)
}

// InUse is the number of regions taken and not yet given back.
func (p *Pool) InUse() int { return int(p.inUse.Load()) }

// Idle is the number of clean regions at hand.
func (p *Pool) Idle() int {
	n := 0
	for i := range p.shards {
		s := &p.shards[i]
		s.mu.Lock()
		n += len(s.idle)
		s.mu.Unlock()
	}
	return n
}

// Trim gives up idle regions until at most keep are left.
func (p *Pool) Trim(keep int) {
	for i := range p.shards {
		for p.Idle() > keep {
			r := p.shards[i].pop()
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
