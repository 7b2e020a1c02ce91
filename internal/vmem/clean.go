package vmem

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Cleaning copies the image back over the pages that were written, and leaves them
// resident: the next run then writes them without a fault. That costs a tenth of dropping
// them (BenchmarkClean), but what was written once is copied by every later cleaning, for
// a page does not tell which run wrote it. So that one odd run does not tax all that
// follow, a pool learns how much a run of its function writes, and a region in which much
// more has gathered gives it all back to the kernel.
//
// Most runs of a short function write only pages that earlier runs have left resident. A page
// that is not resident can't be written without a page fault; so if the thread that carried
// the run has taken none (Region.NoFaults), what is resident is what it was, and the kernel
// need not be asked. That rests on no page becoming resident by itself: no huge page may take
// the place of small ones (smallPages), and nobody else may write to the region.

const (
	// keepMin is how much a region may always retain: copying it costs less than the
	// faults of a few pages.
	keepMin = 64 << 10
	// keepMax is how much a region may retain at most.
	keepMax = 64 << 20
	// relearnRuns is after how many runs a region that retains more than keepMin is
	// dropped, only to learn anew what one run writes: a function that has come to write
	// less would otherwise be cleaned at the old price for ever.
	relearnRuns = 256
	// stackRuns is after how many runs cleaning looks at the native stack as well, besides
	// after the first: that would double the price of a small cleaning.
	stackRuns = 64
	// A pool remembers this much of where its function's runs write.
	spansMax     = 32
	spanBytesMax = 4 << 20
	// prefaultMax is how much is made resident while a call waits for its region: it is to
	// reach its first instruction soon, whatever it writes then.
	prefaultMax = 128 << 10
)

// usual is what a pool knows of its function's runs. It is a guess, which costs time when
// it is wrong: writers may overtake each other.
type usual struct {
	bytes atomic.Uint64
	spans atomic.Pointer[[]span]
}

// A span is a part of a region; offsets are from the lowest address of the stack.
type span struct{ from, to uintptr }

// learn takes what one run wrote in r. The greatest amount counts, for as long as a run in
// five or so writes as much: copying in vain is cheaper than faulting.
func (u *usual) learn(r *Region, s *scan) {
	was := u.bytes.Load()
	u.bytes.Store(max(s.bytes, was-was/8))
	var spans []span
	left := uintptr(spanBytesMax)
	for _, w := range s.ranges[:min(len(s.ranges), spansMax)] {
		length := min(uintptr(w.End-w.Start), left)
		if length == 0 {
			break
		}
		from := uintptr(w.Start) - r.stack
		spans = append(spans, span{from, from + length})
		left -= length
	}
	u.spans.Store(&spans)
}

// keep is how much a region may retain.
func (u *usual) keep() uint64 { return min(max(keepMin, 2*u.bytes.Load()), keepMax) }

// clean gives the linear memory of r, which has grown to size bytes, the content and size
// of its image again. It returns how many pages were written since they were last dropped,
// at least; 0 where the kernel can't tell.
//
// After an error the region is in no defined state; the caller must discard it.
func (p *Pool) clean(r *Region, size uint64) (dirty int, err error) {
	end, shared := r.sharedExtent()
	size = max(size, r.image.Size, end)
	grown := size - r.image.Size - shared
	if err := r.ungrow(size); err != nil {
		return 0, err
	}
	a := p.arena
	if a.pagemap == nil {
		return 0, p.drop(r)
	}
	r.runs++
	looksAtStack := r.exact || r.runs%stackRuns == 0
	if r.NoFaults && r.keptKnown && r.small && size == r.image.Size && !looksAtStack && r.retained <= keepMin {
		return r.restoreKept(), nil
	}
	s := a.scans.Get().(*scan)
	defer a.scans.Put(s)

	keep := p.usual.keep()
	if r.exact {
		keep = keepMax
	}
	start := r.Base
	if looksAtStack {
		start = r.stack
	}
	if err := s.find(a.pagemap, start, r.Base+uintptr(r.image.Size), keep); err != nil {
		return 0, err
	}
	var memory uint64
	for _, w := range s.ranges {
		if from := max(uintptr(w.Start), r.Base); from < uintptr(w.End) {
			memory += w.End - uint64(from)
		}
	}
	dirty = int((memory + grown) / PageSize)
	if looksAtStack {
		r.stackKept = s.bytes - memory
	}
	written := memory + r.stackKept
	if r.exact && written <= keep {
		p.usual.learn(r, s)
	}
	stale := written > keepMin && r.runs > relearnRuns
	if written > keep || stale || !p.retain(r, written) {
		return dirty, p.drop(r)
	}
	r.exact = false
	r.kept, r.keptKnown = r.kept[:0], true
	for _, w := range s.ranges {
		if from := max(uintptr(w.Start), r.Base); from < uintptr(w.End) {
			r.kept = append(r.kept, span{from - r.Base, uintptr(w.End) - r.Base})
		}
	}
	r.restoreKept()
	return dirty, nil
}

// restoreKept copies the image over all that is kept, and returns how many pages that is.
func (r *Region) restoreKept() (pages int) {
	for _, s := range r.kept {
		r.restore(uint64(s.from), uint64(s.to-s.from))
		pages += int((s.to - s.from) / PageSize)
	}
	return pages
}

// drop gives all that r retains back to the kernel.
func (p *Pool) drop(r *Region) error {
	p.retain(r, 0)
	r.exact, r.runs, r.stackKept, r.keptKnown = true, 0, 0, false
	return r.drop()
}

// retain accounts for n bytes that r keeps resident. It returns false, and nothing has
// changed, if the arena's regions would then keep more than they may.
func (p *Pool) retain(r *Region, n uint64) bool {
	change := int64(n) - int64(r.retained)
	if change == 0 {
		return true
	}
	if all := p.arena.retained.Add(change); change > 0 && all > int64(p.arena.opts.RetainMax) {
		p.arena.retained.Add(-change)
		return false
	}
	p.retained.Add(change)
	r.retained = n
	return true
}

// prefault makes the pages of a new region resident that the function's runs write. One
// call for each run of pages costs a fraction of a fault for each page. It does nothing if
// those are more than most bytes.
func (p *Pool) prefault(r *Region, most uintptr) {
	spans := p.usual.spans.Load()
	if spans == nil {
		return
	}
	var total uintptr
	for _, s := range *spans {
		total += s.to - s.from
	}
	if total > most || !p.retain(r, uint64(total)) {
		return
	}
	r.exact = false
	for _, s := range *spans {
		if s.from < r.StackLen() {
			r.stackKept += uint64(min(s.to, r.StackLen()) - s.from)
		}
		// It only saves time. Kernels before 5.14 don't know it.
		_ = madvise(r.stack+s.from, s.to-s.from, unix.MADV_POPULATE_WRITE)
	}
}
