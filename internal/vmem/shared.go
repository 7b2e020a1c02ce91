package vmem

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"sync"

	"github.com/faasm-go/faasm/internal/linux"
	"golang.org/x/sys/unix"
)

// Shared is memory that many regions can map at once: a memfd, and the host's own view of
// it. A page takes memory once somebody has touched it, if only to read. It never shrinks: a
// page beyond its end would raise SIGBUS in whoever touches it.
//
// It is safe for concurrent use, but for Close and Swap. Who reads its bytes while another
// writes them sees what threads see.
type Shared struct {
	arena *Arena // counts the views; nil: nobody does

	mu struct {
		sync.Mutex
		file  *os.File // sealed against shrinking
		size  uint64
		views []view // the last shows all of size; those before it are somebody's still
	}
}

// view is a mapping of a Shared from its start on. It may reach beyond the end of the file,
// where it must not be touched, so that growth seldom needs another one.
type view struct{ addr, length uintptr }

// viewMin is the least that a view maps.
const viewMin = 1 << 20

// sharedMax is the largest size: half of a process's addresses.
const sharedMax = 1 << 46

// NewShared makes a memory of size zeroes, a multiple of WasmPageSize. Its mappings, one
// and for each doubling of its size another, count among those of a, which may be nil. It
// returns ErrExhausted if there is no room for one. The caller closes it.
func NewShared(a *Arena, size uint64) (*Shared, error) {
	file, err := linux.NewMemfd("faasm-state")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrExhausted, err)
	}
	s := &Shared{arena: a}
	s.mu.file = file
	err = linux.SealSize(file)
	if err == nil {
		err = s.Grow(size)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Size is the memory's size in bytes.
func (s *Shared) Size() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.size
}

// file returns the file, and how much of it may be used.
func (s *Shared) file() (*os.File, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.file, s.mu.size
}

// Bytes is the host's view of the whole memory. It stays good until Close; after a Grow it
// is of the first part.
func (s *Shared) Bytes() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytesAt(s.mu.views[len(s.mu.views)-1].addr, uintptr(s.mu.size))
}

// Grow adds zeroes up to size bytes, a multiple of WasmPageSize. A memory that is as large
// stays as it is; so does one for which there is no room (ErrExhausted).
func (s *Shared) Grow(size uint64) error {
	if size%WasmPageSize != 0 {
		return fmt.Errorf("size %d of shared memory is not a multiple of %d", size, WasmPageSize)
	}
	if size > sharedMax {
		return fmt.Errorf("shared memory of %d bytes: %w", size, ErrExhausted)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	have := len(s.mu.views)
	if have > 0 && size <= s.mu.size {
		return nil
	}
	if have == 0 || size > uint64(s.mu.views[have-1].length) {
		v, err := s.addViewLocked(size)
		if err != nil {
			return err
		}
		s.mu.views = append(s.mu.views, v)
	}
	// It comes last because it can't be undone: the file would refuse a growth to less.
	if err := s.mu.file.Truncate(int64(size)); err != nil {
		return fmt.Errorf("size shared memory to %d: %w", size, err)
	}
	s.mu.size = size
	return nil
}

// addViewLocked maps size bytes, rounded up to a power of two.
func (s *Shared) addViewLocked(size uint64) (view, error) {
	if err := s.hold(1); err != nil {
		return view{}, fmt.Errorf("map shared memory: %w", err)
	}
	length := max(viewMin, uintptr(1)<<bits.Len64(max(size, 1)-1))
	addr, err := mapFile(0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE, int(s.mu.file.Fd()), 0)
	if err != nil {
		err = fmt.Errorf("map %d bytes of shared memory: %w: %w", length, ErrExhausted, err)
		return view{}, errors.Join(err, s.hold(-1))
	}
	return view{addr, length}, nil
}

func (s *Shared) hold(n int) error {
	if s.arena == nil {
		return nil
	}
	return s.arena.Hold(n)
}

// WriteAt copies b to off, all of it unless it returns an error. Where nobody has touched the
// memory yet that takes half as long as copying to Bytes: the kernel faults no page in.
func (s *Shared) WriteAt(b []byte, off int64) (int, error) {
	file, size := s.file()
	if off < 0 || uint64(off)+uint64(len(b)) > size {
		return 0, fmt.Errorf("write %d bytes at %d of shared memory: past its %d bytes", len(b), off, size)
	}
	return file.WriteAt(b, off)
}

// Discard makes n bytes from off zeroes, and gives the memory of whole pages back to the
// kernel. In regions that have them mapped they become zeroes as well, but for what is
// private and was written there. A part beyond Size is ignored.
func (s *Shared) Discard(off, n uint64) error {
	if n == 0 {
		return nil
	}
	file, _ := s.file()
	return linux.PunchHole(file, int64(off), int64(n))
}

// Resident is how many bytes of memory it takes.
func (s *Shared) Resident() (uint64, error) {
	file, _ := s.file()
	return linux.Blocks(file)
}

// swapping is held by who holds the mutexes of two.
var swapping sync.Mutex

// Swap gives each of two memories what the other had: its content, size and views. Each
// keeps its arena. What Bytes has returned of the one is bytes of the other from then on.
// It returns false, and nothing has changed, if an arena has no room for the other's views.
//
// Preconditions: no region has either of them mapped, which would not follow, and nobody
// else uses the bytes of either meanwhile.
func (s *Shared) Swap(with *Shared) bool {
	swapping.Lock()
	defer swapping.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	with.mu.Lock()
	defer with.mu.Unlock()
	less, more := s, with
	if len(less.mu.views) > len(more.mu.views) {
		less, more = more, less
	}
	n := len(more.mu.views) - len(less.mu.views)
	if less.hold(n) != nil {
		return false
	}
	_ = more.hold(-n) // giving back is never refused
	s.mu.file, with.mu.file = with.mu.file, s.mu.file
	s.mu.size, with.mu.size = with.mu.size, s.mu.size
	s.mu.views, with.mu.views = with.mu.views, s.mu.views
	return true
}

// Close gives up the host's views, and nobody may touch what Bytes has returned from then
// on. What regions have mapped stays good; the memory is freed with the last of them.
func (s *Shared) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	errs := []error{s.mu.file.Close(), s.hold(-len(s.mu.views))}
	for _, v := range s.mu.views {
		errs = append(errs, unmap(v.addr, v.length))
	}
	s.mu.views, s.mu.size = nil, 0
	return errors.Join(errs...)
}

// An interval is the guest addresses [from, to).
type interval struct{ from, to uint64 }

// without is what of the intervals lies outside of [from, to).
func without(in []interval, from, to uint64) []interval {
	out := make([]interval, 0, len(in)+2)
	for _, i := range in {
		if i.from < from {
			out = append(out, interval{i.from, min(i.to, from)})
		}
		if i.to > to {
			out = append(out, interval{max(i.from, to), i.to})
		}
	}
	return out
}

// intervalMappings is how many mappings a shared part of a memory adds at most: itself, and
// what it cuts off of the memory that it lies in.
const intervalMappings = 2

// MapShared makes [at, at+n) of the linear memory the bytes of s from off on. The guest and
// all others who have them mapped see each other's writes at once. If private, the guest's
// writes are its own, by pages: in those that it has not written it sees others' writes.
// What the memory had there is gone. It stays so, whatever becomes of s, until UnmapShared
// or the region is cleaned; until then it takes up to two of the arena's mappings.
//
// It returns ErrExhausted if there is no room for those; nothing has changed then.
//
// No page is mapped ahead: the first read of one maps the 16 around it, to be written as
// well, at less than what the kernel takes to do it for all of them.
//
// Preconditions: [at, at+n) lies in what the memory has grown by, and s has the bytes. at,
// off and n are multiples of WasmPageSize.
func (r *Region) MapShared(at uint64, s *Shared, off, n uint64, private bool) error {
	if err := r.checkGrown(at, n); err != nil {
		return err
	}
	file, size := s.file()
	if off%WasmPageSize != 0 || off > size || n > size-off {
		return fmt.Errorf("map [%#x, %#x) of %#x bytes of shared memory", off, off+n, size)
	}
	flags := unix.MAP_SHARED
	if private {
		flags = unix.MAP_PRIVATE
	}
	shared := append(without(r.shared, at, at+n), interval{at, at + n})
	return r.replace(shared, func() error {
		// It replaces what was there at once, or fails before it has touched it.
		_, err := mapFile(r.Base+uintptr(at), uintptr(n), unix.PROT_READ|unix.PROT_WRITE,
			flags|unix.MAP_FIXED|unix.MAP_NORESERVE, int(file.Fd()), int64(off))
		if err != nil {
			return fmt.Errorf("map %d bytes of shared memory at %#x: %w: %w", n, at, ErrExhausted, err)
		}
		return nil
	})
}

// UnmapShared makes [at, at+n) private zeroes, whatever was mapped there. It may fail as
// MapShared does, with the same preconditions.
func (r *Region) UnmapShared(at, n uint64) error {
	if err := r.checkGrown(at, n); err != nil {
		return err
	}
	return r.replace(without(r.shared, at, at+n), func() error {
		err := mapInRegion(r.Base+uintptr(at), uintptr(n), unix.PROT_READ|unix.PROT_WRITE)
		if err != nil {
			return fmt.Errorf("map %d bytes of zeroes at %#x: %w: %w", n, at, ErrExhausted, err)
		}
		return nil
	})
}

func (r *Region) checkGrown(at, n uint64) error {
	end := r.arena.layout.Reservation
	if (at|n)%WasmPageSize != 0 || n == 0 || at < r.image.Size || at > end || n > end-at {
		return fmt.Errorf("map shared memory at %#x, %#x bytes: not in [%#x, %#x)", at, n, r.image.Size, end)
	}
	return nil
}

// replace calls do, after which the intervals of shared are the shared parts of the memory,
// and accounts for their mappings.
func (r *Region) replace(shared []interval, do func() error) error {
	change := intervalMappings * (len(shared) - len(r.shared))
	if err := r.arena.Hold(max(change, 0)); err != nil {
		return fmt.Errorf("map shared memory: %w", err)
	}
	if err := do(); err != nil {
		return errors.Join(err, r.arena.Hold(-max(change, 0)))
	}
	r.shared = shared
	return r.arena.Hold(min(change, 0))
}

// forgetShared gives back the mappings of shared parts that are mapped no longer.
func (r *Region) forgetShared() {
	if len(r.shared) > 0 {
		_ = r.arena.Hold(-intervalMappings * len(r.shared)) // giving back is never refused
		r.shared = nil
	}
}

// sharedExtent is where the last shared part of the memory ends, and how large all are.
func (r *Region) sharedExtent() (end, bytes uint64) {
	for _, i := range r.shared {
		end = max(end, i.to)
		bytes += i.to - i.from
	}
	return end, bytes
}
