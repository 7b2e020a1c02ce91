package vmem

import (
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

	scan [scanVec]linux.PageRange
}

// scanVec bounds one PAGEMAP_SCAN; scattered writes take several.
const scanVec = 32

// dropMin is how many bytes written make Clean drop the pages instead of copying the
// image over them. It bounds what an idle region keeps resident.
const dropMin = 1 << 20

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
	r.image = img
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
		if err := zeros(e.start); err != nil {
			return err
		}
		_, err := mapFile(r.Base+uintptr(e.start), uintptr(e.end-e.start), rw,
			unix.MAP_PRIVATE|unix.MAP_FIXED|unix.MAP_NORESERVE, img.fd, int64(e.offset))
		if err != nil {
			return fmt.Errorf("map image at %#x: %w: %w", e.start, ErrExhausted, err)
		}
		at = e.end
	}
	return zeros(img.Size)
}

// unbind gives up the image and every page of the region.
func (r *Region) unbind() {
	r.unmapAll()
	if r.image != nil {
		r.image.release()
		r.image = nil
	}
}

func (r *Region) unmapAll() {
	_, err := mapAnon(r.stack, r.StackLen()+uintptr(r.arena.layout.Reservation),
		unix.PROT_NONE, unix.MAP_FIXED|unix.MAP_NORESERVE)
	if err != nil {
		// The kernel can refuse this only for lack of a mapping, and it merges with its
		// neighbours. Going on would let the next tenant see this one's memory.
		panic(fmt.Sprintf("BUG: unmap region at %#x: %v", r.stack, err))
	}
}

// Clean gives the linear memory, which has grown to size bytes, the content and size of
// its image again. It returns how many pages the Faaslet had written, or 0 where the
// kernel can't tell.
//
// Three ways were measured (isolation facts, section 4). Finding the written pages and
// copying the image over them costs least, and spares the next Faaslet the faults, as
// long as little was written; beyond dropMin the pages are given back to the kernel.
//
// After an error the region is in no defined state; the caller must discard it.
func (r *Region) Clean(size uint64) (dirty int, err error) {
	img := r.image
	if size > img.Size {
		// The grown part must not be accessible to the next Faaslet, which would
		// otherwise read past its memory's size without a trap.
		_, err := mapAnon(r.Base+uintptr(img.Size), uintptr(size-img.Size), unix.PROT_NONE, unix.MAP_FIXED|unix.MAP_NORESERVE)
		if err != nil {
			return 0, fmt.Errorf("take back %d bytes of grown memory: %w", size-img.Size, err)
		}
		dirty = int((size - img.Size) / PageSize)
	}
	if img.Size == 0 {
		return dirty, nil
	}
	if r.arena.pagemap == nil {
		return dirty, r.drop(0, img.Size)
	}
	start, end := r.Base, r.Base+uintptr(img.Size)
	var budget uintptr = dropMin
	for at := start; at < end; {
		n, next, err := r.arena.pagemap.Written(at, end, r.scan[:])
		if err != nil {
			return 0, fmt.Errorf("find written pages: %w", err)
		}
		for _, p := range r.scan[:n] {
			length := uintptr(p.End - p.Start)
			dirty += int(length / PageSize)
			if length > budget {
				return dirty, r.drop(uint64(uintptr(p.Start)-start), img.Size)
			}
			budget -= length
			r.restore(uint64(uintptr(p.Start)-start), uint64(length))
		}
		if n < len(r.scan) {
			break
		}
		at = next
	}
	return dirty, nil
}

// drop gives the pages of [from, to) back to the kernel: a later read finds the image.
func (r *Region) drop(from, to uint64) error {
	if err := madvise(r.Base+uintptr(from), uintptr(to-from), unix.MADV_DONTNEED); err != nil {
		return fmt.Errorf("drop written pages: %w", err)
	}
	return nil
}

// restore copies the image over [from, from+n).
func (r *Region) restore(from, n uint64) {
	for _, e := range r.image.extents {
		if n == 0 {
			return
		}
		if from < e.start {
			zeros := min(n, e.start-from)
			clear(bytesAt(r.Base+uintptr(from), uintptr(zeros)))
			from, n = from+zeros, n-zeros
		}
		if n > 0 && from < e.end {
			length := min(n, e.end-from)
			copy(bytesAt(r.Base+uintptr(from), uintptr(length)),
				bytesAt(r.image.view+uintptr(e.offset+from-e.start), uintptr(length)))
			from, n = from+length, n-length
		}
	}
	if n > 0 {
		clear(bytesAt(r.Base+uintptr(from), uintptr(n)))
	}
}

// DropStack gives the native stack's pages back to the kernel, after a run that may have
// gone deep.
func (r *Region) DropStack() error {
	return madvise(r.stack, r.StackLen(), unix.MADV_DONTNEED)
}
