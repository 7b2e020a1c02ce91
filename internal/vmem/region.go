package vmem

import (
	"bytes"
	"fmt"

	"github.com/faasm-go/faasm/internal/linux"
	"golang.org/x/sys/unix"
)

// A Region holds one linear memory and one native stack. Its owner is the Faaslet that
// runs in it, and the pool in between; neither its methods nor its memory are safe for
// concurrent use, but for the Gate's.
type Region struct {
	Base uintptr // guest address 0
	Gate Gate

	arena *Arena
	stack uintptr // lowest address of the native stack
	image *Image  // bound to it, or nil

	shared []interval // parts of the grown memory that MapShared has mapped

	// Resident is what its owner keeps with it while it is bound, or nil. It is closed
	// before the region is unbound.
	Resident interface{ Close() }

	// NoFaults is set by who took the region, if no page fault was taken by whatever has
	// written to it since then. Give then need not ask the kernel what was written.
	NoFaults bool

	// What cleaning knows; see clean.go.
	retained  uint64 // bytes left resident when it was last cleaned
	stackKept uint64 // those of them in the native stack, when last looked at
	exact     bool   // nothing was resident: what is written, the last run wrote
	runs      int    // since nothing was
	kept      []span // of the linear memory: what was left resident, if keptKnown
	keptKnown bool
	small     bool // no page of it becomes resident but by a fault
}

// StackTop is the address just above the native stack, which grows down.
func (r *Region) StackTop() uintptr { return r.stack + uintptr(r.arena.layout.Stack) }

// StackLen is the size of the native stack in bytes.
func (r *Region) StackLen() uintptr { return uintptr(r.arena.layout.Stack) }

// Image is what the region was bound to.
func (r *Region) Image() *Image { return r.image }

// bind maps img into an unbound region. After an error the region is unbound still.
func (r *Region) bind(img *Image) error {
	if img.Size > r.arena.layout.Reservation {
		return fmt.Errorf("image of %d bytes exceeds the region's %d", img.Size, r.arena.layout.Reservation)
	}
	err := mprotect(r.stack, r.StackLen(), unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		return fmt.Errorf("map stack: %w: %w", ErrExhausted, err)
	}
	if err := r.mapImage(img); err != nil {
		r.unmapAll()
		return err
	}
	img.retain()
	r.image, r.exact, r.runs, r.stackKept, r.keptKnown = img, true, 0, 0, false
	r.small = smallPages(r.Base, uintptr(img.Size)) == nil
	return nil
}

func (r *Region) mapImage(img *Image) error {
	const rw = unix.PROT_READ | unix.PROT_WRITE
	var at uint64
	zeros := func(end uint64) error {
		if at == end {
			return nil
		}
		if err := mprotect(r.Base+uintptr(at), uintptr(end-at), rw); err != nil {
			return fmt.Errorf("map %d bytes of zeros: %w: %w", end-at, ErrExhausted, err)
		}
		return nil
	}
	for _, e := range img.extents {
		if err := zeros(e.Start); err != nil {
			return err
		}
		_, err := mapFile(r.Base+uintptr(e.Start), uintptr(e.End-e.Start), rw,
			unix.MAP_PRIVATE|unix.MAP_FIXED|unix.MAP_NORESERVE, int(img.file.Fd()), int64(e.Offset))
		if err != nil {
			return fmt.Errorf("map image at %#x: %w: %w", e.Start, ErrExhausted, err)
		}
		at = e.End
	}
	return zeros(img.Size)
}

// unbind gives up the image and every page of the region.
func (r *Region) unbind() {
	if r.Resident != nil {
		r.Resident.Close()
		r.Resident = nil
	}
	r.unmapAll()
	if r.image != nil {
		r.image.release()
		r.image = nil
	}
}

func (r *Region) unmapAll() {
	err := mapInRegion(r.stack, r.StackLen()+uintptr(r.arena.layout.Reservation), unix.PROT_NONE)
	if err != nil {
		// The kernel can refuse this only for lack of a mapping, and it merges with its
		// neighbours. Going on would let the next tenant see this one's memory.
		panic(fmt.Sprintf("BUG: unmap region at %#x: %v", r.stack, err))
	}
	r.forgetShared()
}

// ungrow takes back what the linear memory has grown by, up to size bytes, and with it all
// that is mapped shared. The next Faaslet would otherwise read past its memory's size
// without a trap.
func (r *Region) ungrow(size uint64) error {
	if size <= r.image.Size {
		return nil
	}
	grown := size - r.image.Size
	if err := mapInRegion(r.Base+uintptr(r.image.Size), uintptr(grown), unix.PROT_NONE); err != nil {
		return fmt.Errorf("take back %d bytes of grown memory: %w", grown, err)
	}
	r.forgetShared()
	return nil
}

// drop gives every page of the stack and of the image's size back to the kernel: a later
// read finds the image.
func (r *Region) drop() error {
	if err := madvise(r.stack, r.StackLen()+uintptr(r.image.Size), unix.MADV_DONTNEED); err != nil {
		return fmt.Errorf("drop written pages: %w", err)
	}
	return nil
}

// DropStack gives the native stack's pages back to the kernel, after a run that may have
// gone deep.
func (r *Region) DropStack() error {
	r.stackKept = 0
	return madvise(r.stack, r.StackLen(), unix.MADV_DONTNEED)
}

// restore copies the image over [from, from+n).
func (r *Region) restore(from, n uint64) {
	for _, e := range r.image.extents {
		if n == 0 {
			return
		}
		if from < e.Start {
			zeros := min(n, e.Start-from)
			clear(bytesAt(r.Base+uintptr(from), uintptr(zeros)))
			from, n = from+zeros, n-zeros
		}
		if n > 0 && from < e.End {
			length := min(n, e.End-from)
			copy(bytesAt(r.Base+uintptr(from), uintptr(length)),
				bytesAt(r.image.view+uintptr(e.Offset+from-e.Start), uintptr(length)))
			from, n = from+length, n-length
		}
	}
	if n > 0 {
		clear(bytesAt(r.Base+uintptr(from), uintptr(n)))
	}
}

var zeroPage [PageSize]byte

// Contents is what the linear memory of size bytes contains: its pages that are not all
// zero, sorted, those side by side as one segment. The bytes are the guest's own memory,
// good until the guest runs on or the region is given back.
//
// A page that was neither written nor is in the image's file is not read, and so does not
// become resident; where the kernel can't tell (Arena.ScansPages), each is.
//
// Preconditions: the memory is size bytes large, a multiple of WasmPageSize, and nothing is
// mapped shared.
func (r *Region) Contents(size uint64) ([]Segment, error) {
	if len(r.shared) > 0 {
		panic("BUG: contents of a memory that has shared parts")
	}
	var out []Segment
	var end uint64 // of what has been looked at
	look := func(from, to uint64) {
		for from = max(from, end); from < to; from += PageSize {
			page := bytesAt(r.Base+uintptr(from), PageSize)
			if bytes.Equal(page, zeroPage[:]) {
				continue
			}
			if n := len(out); n > 0 && out[n-1].Offset+uint64(len(out[n-1].Data)) == from {
				start := out[n-1].Offset
				out[n-1].Data = bytesAt(r.Base+uintptr(start), uintptr(from+PageSize-start))
			} else {
				out = append(out, Segment{Offset: from, Data: page})
			}
		}
		end = max(end, to)
	}
	if r.arena.pagemap == nil {
		look(0, size)
		return out, nil
	}
	var all scan
	if err := all.find(r.arena.pagemap, r.Base, r.Base+uintptr(size), ^uint64(0)); err != nil {
		return nil, err
	}
	extents := r.image.extents
	for _, w := range all.ranges {
		from, to := uint64(w.Start)-uint64(r.Base), uint64(w.End)-uint64(r.Base)
		for len(extents) > 0 && extents[0].Start < to {
			if extents[0].Start > from {
				look(from, extents[0].Start)
			}
			look(extents[0].Start, extents[0].End)
			extents = extents[1:]
		}
		look(from, to)
	}
	for _, e := range extents {
		look(e.Start, e.End)
	}
	return out, nil
}

// A scan is the result of looking for written pages.
type scan struct {
	ranges []linux.PageRange // sorted, with gaps between them
	bytes  uint64            // of all of them
}

// scanVec is how many ranges the kernel is asked for at first. It makes room for them in
// each call, and most runs write few.
const scanVec = 32

// find looks for pages in [start, end) that are this process's own, and ends early once
// they are more than enough. It forgets what the scan held, but for its room.
func (s *scan) find(pagemap *linux.Pagemap, start, end uintptr, enough uint64) error {
	s.ranges, s.bytes = s.ranges[:0], 0
	for at := start; at < end && s.bytes <= enough; {
		have := len(s.ranges)
		want := max(scanVec, have)
		if cap(s.ranges) < have+want {
			s.ranges = append(make([]linux.PageRange, 0, 2*(have+want)), s.ranges...)
		}
		vec := s.ranges[have : have+want]
		n, next, err := pagemap.Written(at, end, vec)
		if err != nil {
			return fmt.Errorf("find written pages: %w", err)
		}
		for _, w := range vec[:n] {
			s.bytes += w.End - w.Start
		}
		s.ranges = s.ranges[:have+n]
		if n < want {
			break
		}
		at = next
	}
	return nil
}
