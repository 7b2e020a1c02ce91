package vmem

import (
	"errors"
	"sync"
)

// A Pool keeps clean regions of one image at hand, so that a start takes one from a list
// instead of mapping it. It owns its idle regions; those in use are the Faaslets'.
type Pool struct {
	arena   *Arena
	image   *Image
	idleMax int

	mu struct {
		sync.Mutex
		idle   []*Region
		inUse  int
		closed bool
	}
}

// NewPool makes a pool that keeps up to idleMax clean regions. The pool takes over the
// caller's reference to img.
func NewPool(a *Arena, img *Image, idleMax int) *Pool {
	return &Pool{arena: a, image: img, idleMax: idleMax}
}

// Image is what the pool's regions start from.
func (p *Pool) Image() *Image { return p.image }

// Take returns a clean region. It returns ErrExhausted if there is none and none can be
// made.
func (p *Pool) Take() (*Region, error) {
	p.mu.Lock()
	if n := len(p.mu.idle); n > 0 {
		r := p.mu.idle[n-1]
		p.mu.idle = p.mu.idle[:n-1]
		p.mu.inUse++
		p.mu.Unlock()
		return r, nil
	}
	p.mu.inUse++
	p.mu.Unlock()

	r, err := p.arena.take()
	if err == nil {
		if err = r.bind(p.image); err == nil {
			return r, nil
		}
		p.arena.give(r)
	}
	p.mu.Lock()
	p.mu.inUse--
	p.mu.Unlock()
	return nil, err
}

// Give takes back a region whose linear memory has grown to size bytes, cleans it and
// keeps it or gives it up. It returns what Region.Clean does; after its error the region
// has been given up, and no harm is done.
func (p *Pool) Give(r *Region, size uint64) (dirty int, err error) {
	dirty, err = r.Clean(size)
	p.mu.Lock()
	p.mu.inUse--
	if err == nil && !p.mu.closed && len(p.mu.idle) < p.idleMax {
		p.mu.idle = append(p.mu.idle, r)
		p.mu.Unlock()
		return dirty, nil
	}
	p.mu.Unlock()
	r.unbind()
	p.arena.give(r)
	return dirty, err
}

// InUse is the number of regions taken and not yet given back.
func (p *Pool) InUse() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.inUse
}

// Idle is the number of clean regions at hand.
func (p *Pool) Idle() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.mu.idle)
}

// Trim gives up idle regions until at most keep are left.
func (p *Pool) Trim(keep int) {
	p.mu.Lock()
	n := min(keep, len(p.mu.idle))
	surplus := append([]*Region(nil), p.mu.idle[n:]...)
	p.mu.idle = p.mu.idle[:n]
	p.mu.Unlock()
	for _, r := range surplus {
		r.unbind()
		p.arena.give(r)
	}
}

// ErrInUse is returned by Close while Faaslets still run in the pool's regions.
var ErrInUse = errors.New("regions are still in use")

// Close gives up the idle regions. Those in use are given up as they come back; if there
// are any, Close returns ErrInUse.
func (p *Pool) Close() error {
	p.mu.Lock()
	if p.mu.closed {
		p.mu.Unlock()
		return nil
	}
	p.mu.closed = true
	inUse := p.mu.inUse
	p.mu.Unlock()
	p.Trim(0)
	p.image.release()
	if inUse > 0 {
		return ErrInUse
	}
	return nil
}
