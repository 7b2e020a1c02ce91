package state

import (
	"io"
	"sync"

	"github.com/faasm-go/faasm/internal/state/global"
)

// snapshot is a replica as it was at one moment, while it is pushed as a whole: Set and
// SetAt change the replica meanwhile, but not the snapshot. Of a chunk that somebody has
// mapped it has what was there when it was first looked at.
//
// It costs memory only for chunks that may change: what is about to be changed is
// preserved first. The others it lends as they are. Who pushes moves the replica and has it
// pinned, so the memory that they are in stays until the snapshot has ended, and is the same.
type snapshot struct {
	r    *replica
	size int64
	sets uint64
	// saved has chunks that may have changed since. r.mu guards it; what is in it does not
	// change.
	saved map[int64][]byte
	// changes grows before a chunk changes that may have been lent as it is. r.mu guards it.
	changes uint64
}

var _ global.Lender = (*snapshot)(nil)

// snapshot takes one. The caller moves r, no chunk of which is absent unless absent ones
// are zeroes, and ends it with synced or drop.
func (r *replica) snapshot() *snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.snap = &snapshot{r: r, size: r.size.Load(), sets: r.mu.sets, saved: make(map[int64][]byte)}
	return r.mu.snap
}

// preserveLocked is called before chunk i changes, or comes to be, or may be changed by
// somebody who maps it.
func (r *replica) preserveLocked(i int64) {
	p := r.mu.snap
	if p == nil || p.saved[i] != nil || i >= chunkCount(p.size) {
		return // it is not in the snapshot, or nobody has been lent it since it was saved
	}
	p.saveLocked(i)
	p.changes++
}

func (p *snapshot) saveLocked(i int64) {
	p.saved[i] = append(blocks.Get().(*[chunkBytes]byte)[:0], p.liveLocked(i)...)
}

// blocks are those of snapshots that ended.
var blocks = sync.Pool{New: func() any { return new([chunkBytes]byte) }}

// endLocked ends the snapshot. Nobody uses what it lent any more.
func (p *snapshot) endLocked() {
	for _, saved := range p.saved {
		blocks.Put((*[chunkBytes]byte)(saved[:chunkBytes]))
	}
	p.saved, p.r.mu.snap = nil, nil
}

// length is how many bytes of chunk i belong to the value.
func (p *snapshot) length(i int64) int64 { return min(p.size-i*chunkBytes, chunkBytes) }

// liveLocked is chunk i as it is in the replica.
func (p *snapshot) liveLocked(i int64) []byte {
	if p.r.mu.chunks[i] == nil {
		return zeros[:p.length(i)]
	}
	return p.r.mu.bytes[i*chunkBytes:][:p.length(i)]
}

// ReadAt implements io.ReaderAt.
func (p *snapshot) ReadAt(dst []byte, off int64) (int, error) {
	n := 0
	for n < len(dst) && off < p.size {
		copied := p.readChunk(dst[n:], off/chunkBytes, off%chunkBytes)
		n, off = n+copied, off+int64(copied)
	}
	if n < len(dst) {
		return n, io.EOF
	}
	return n, nil
}

func (p *snapshot) readChunk(dst []byte, i, in int64) int {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	return copy(dst, p.chunkLocked(i)[in:])
}

// chunkLocked is chunk i: what was saved of it, or what is in the replica, if that does not
// change before the next preserveLocked.
func (p *snapshot) chunkLocked(i int64) []byte {
	// If it had been lent as it is, without writers, the first of them would have had it
	// preserved. So it has not been lent, and to save it is no change.
	if c := p.r.mu.chunks[i]; c != nil && c.writers > 0 && p.saved[i] == nil {
		p.saveLocked(i)
	}
	if saved := p.saved[i]; saved != nil {
		return saved
	}
	return p.liveLocked(i)
}

// Lend implements global.Lender.
func (p *snapshot) Lend(pieces [][]byte, off, n int64) (_ [][]byte, mark uint64) {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	for n > 0 {
		piece := p.chunkLocked(off / chunkBytes)[off%chunkBytes:]
		piece = piece[:min(int64(len(piece)), n)]
		pieces = append(pieces, piece)
		off, n = off+int64(len(piece)), n-int64(len(piece))
	}
	return pieces, p.changes
}

// Kept implements global.Lender. What changes a chunk holds r.mu from preserveLocked until it
// has, or, if it is a guest, begins later: so who has read what was lent, and then finds
// nothing preserved, has read nothing of the change.
func (p *snapshot) Kept(mark uint64) bool {
	p.r.mu.RLock()
	defer p.r.mu.RUnlock()
	return p.changes == mark
}

// synced ends the snapshot: all of it is in the global tier.
func (p *snapshot) synced() {
	r := p.r
	r.mu.Lock()
	defer r.mu.Unlock()
	defer p.endLocked()
	if r.mu.sets != p.sets {
		return // what was pushed has been replaced
	}
	r.mu.origin = originGlobal
	for i, c := range r.mu.chunks {
		if i >= chunkCount(p.size) {
			continue
		}
		at := p.saved[i]
		if at == nil {
			at = r.contentLocked(i) // nothing has changed it
		}
		r.syncLocked(i, c, []part{{0, at}})
	}
}

// drop ends the snapshot, of which nothing is known to be in the global tier.
func (p *snapshot) drop() {
	p.r.mu.Lock()
	p.endLocked()
	p.r.mu.Unlock()
}
