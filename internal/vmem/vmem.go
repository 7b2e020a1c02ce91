// Package vmem reserves, maps and cleans the memory that Faaslets run in: regions, the
// images they start from, and the gates that stop them.
//
// A region is a range of reserved addresses that holds one guest's linear memory and the
// native stack its code runs on:
//
//	       ┌ Stack  (RW, anonymous)
//	       │        ┌ Base: guest address 0                      Base+Reservation
//	   ────┼────────┼──────────────┬──────────────┬───────────────────┼────────┬────
//	guard  │ stack  │ image (RW,   │ grown memory │ reserved, no      │ guard  │ next
//	       │ ← grows│ private file)│ (RW, zero)   │ access            │        │ region
//	   ────┴────────┴──────────────┴──────────────┴───────────────────┴────────┴────
//	                0           image end        size              limit
//
// The stack grows down towards the guard of the region before it, so it needs no guard of
// its own; the linear memory begins where it ends, and no guest address is negative.
//
// An image is the immutable content that a region starts with: a sealed memfd, mapped
// private, so that a page costs memory only once it is written. A region stays bound to
// its image: cleaning puts back what was written, which is cheaper by far than mapping
// anew (see clean.go), and leaves the written pages resident for the next Faaslet.
//
// Of the grown memory, parts can be mapped from a Shared: memory that the host and any
// number of regions see each other's writes in. Cleaning unmaps them.
//
// Invariant: every byte below a linear memory's current size is mapped readable and
// writable for as long as its Faaslet lives. The engine's bulk operations and our host
// functions touch guest memory outside of guest code, where a fault ends the process. So
// nothing here is ever mapped read-only, no file here ever shrinks, and a region is
// unmapped only when no Faaslet has it.
//
// The package knows nothing of Wasm beyond the size of a page, and nothing of the engine.
//
// Lock order: swapping before Shared.mu before Arena.mu; it and poolShard.mu are leaves.
package vmem

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"github.com/faasm-go/faasm/internal/linux"
	"golang.org/x/sys/unix"
)

// PageSize is the unit of mapping and of copy-on-write.
const PageSize = 4096

// WasmPageSize is the unit in which linear memory grows.
const WasmPageSize = 64 << 10

// ErrExhausted is returned when no address space, no mapping (vm.max_map_count) or no
// memory is left for a region. Nothing has changed then.
var ErrExhausted = errors.New("no memory left for another region")

// Layout says how large the parts of a region are. All are multiples of WasmPageSize.
type Layout struct {
	Stack       uint64 // native stack, bytes
	Reservation uint64 // addresses that belong to the linear memory
	Guard       uint64 // addresses without access behind it
}

// FastLayout reserves the whole reach of a 32-bit address, so that guest code needs no
// bounds checks (DESIGN 5.5).
var FastLayout = Layout{Stack: 1 << 20, Reservation: 4 << 30, Guard: 32 << 20}

// DenseLayout is for 100,000 Faaslets alive in one process. Guest code checks bounds
// itself, and a linear memory may grow to 256 MiB; see RATIONALE.md for what that costs.
var DenseLayout = Layout{Stack: 1 << 20, Reservation: 256 << 20, Guard: 1 << 20}

// tableSpan is the range of addresses that one page of page tables maps. Regions begin at
// multiples of it: the kernel frees only tables that no neighbour shares, and those of a
// region that is given up would else be kept for ever.
const tableSpan = 2 << 20

func (l Layout) size() uintptr { return alignUp(uintptr(l.Stack + l.Reservation + l.Guard)) }

func alignUp(n uintptr) uintptr { return (n + tableSpan - 1) &^ (tableSpan - 1) }

// ArenaOptions bound what an arena takes from the machine. The zero value is for tests: a
// process that passes vm.max_map_count dies, so a host must set MappingsMax.
type ArenaOptions struct {
	// MappingsMax is how many of the process's mappings bound regions may take, together
	// with shared memory and with what the arena is told of by Hold; 0: no limit.
	MappingsMax int
	RetainMax   uint64 // bytes that regions may keep resident between runs; 0: 1 GiB
}

// Arena hands out regions of one layout, and their gates. It owns every address it
// reserved; Close gives them back.
type Arena struct {
	layout   Layout
	opts     ArenaOptions
	pagemap  *linux.Pagemap // nil where the kernel lacks PAGEMAP_SCAN
	gates    gates
	scans    sync.Pool    // *scan: room for the ranges of one
	retained atomic.Int64 // bytes, of all regions of all pools

	mu struct {
		sync.Mutex
		free   []*Region // unbound
		slabs  []uintptr // reserved ranges, each slabRegions regions long
		made   int
		bound  int
		mapped int // mappings that bound regions have, and those held
		closed bool
	}
}

// slabRegions is how many regions are reserved in one mmap. Neighbouring regions share
// their guards' mappings, and fewer calls take the process's mmap lock.
const slabRegions = 64

// NewArena makes an arena. It reserves addresses only as they are needed.
func NewArena(l Layout, o ArenaOptions) (*Arena, error) {
	for _, part := range []uint64{l.Stack, l.Reservation, l.Guard} {
		if part == 0 || part%WasmPageSize != 0 {
			return nil, fmt.Errorf("region layout %+v: each part must be a positive multiple of %d", l, WasmPageSize)
		}
	}
	if o.RetainMax == 0 {
		o.RetainMax = 1 << 30
	}
	a := &Arena{layout: l, opts: o}
	a.scans.New = func() any { return new(scan) }
	// Without PAGEMAP_SCAN (before kernel 6.7) Clean drops all written pages instead.
	if p, err := linux.OpenPagemap(); err == nil {
		a.pagemap = p
	}
	if err := a.gates.init(); err != nil {
		if a.pagemap != nil {
			err = errors.Join(err, a.pagemap.Close())
		}
		return nil, err
	}
	return a, nil
}

// ScansPages tells whether the kernel can find written pages (PAGEMAP_SCAN), so that
// cleaning costs in proportion to what was written.
func (a *Arena) ScansPages() bool { return a.pagemap != nil }

// Regions is the number of regions that exist, used or not.
func (a *Arena) Regions() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.made
}

// Bound is the number of regions that are bound to an image, used or not. Each takes
// mappings and page tables.
func (a *Arena) Bound() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.bound
}

// IdleBytes is the memory that all pools' regions keep between runs. One in use counts
// with what it kept before.
func (a *Arena) IdleBytes() uint64 { return uint64(a.retained.Load()) }

// Hold counts n mappings that something else makes among those of MappingsMax, until they
// are given back with a negative n. It returns ErrExhausted, and counts nothing, if there
// is no room for them.
func (a *Arena) Hold(n int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.holdLocked(n)
}

func (a *Arena) holdLocked(n int) error {
	if most := a.opts.MappingsMax; n > 0 && most > 0 && a.mu.mapped+n > most {
		return fmt.Errorf("%d mappings besides %d of %d: %w", n, a.mu.mapped, most, ErrExhausted)
	}
	a.mu.mapped += n
	return nil
}

// take returns an unbound region, to be bound to img and one day to be given back.
func (a *Arena) take(img *Image) (*Region, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mu.closed {
		return nil, os.ErrClosed
	}
	if err := a.holdLocked(img.mappings()); err != nil {
		return nil, fmt.Errorf("bind another region: %w", err)
	}
	if len(a.mu.free) == 0 {
		if err := a.reserveLocked(); err != nil {
			a.mu.mapped -= img.mappings()
			return nil, err
		}
	}
	r := a.mu.free[len(a.mu.free)-1]
	a.mu.free = a.mu.free[:len(a.mu.free)-1]
	a.mu.bound++
	return r, nil
}

// give takes back a region that has been unbound from img, or could not be bound to it.
func (a *Arena) give(r *Region, img *Image) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.free = append(a.mu.free, r)
	a.mu.bound--
	a.mu.mapped -= img.mappings()
}

// reserveLocked adds one slab of regions to the free list, or one region where the
// address space is nearly full.
func (a *Arena) reserveLocked() error {
	n := slabRegions
	size := a.layout.size()
	// The first stack of a slab needs a guard before it as well.
	const before = WasmPageSize + tableSpan
	base, err := mapAnon(0, uintptr(n)*size+before, unix.PROT_NONE, unix.MAP_NORESERVE)
	if err != nil {
		n = 1
		base, err = mapAnon(0, size+before, unix.PROT_NONE, unix.MAP_NORESERVE)
		if err != nil {
			return fmt.Errorf("reserve %d MiB of addresses: %w: %w", size>>20, ErrExhausted, err)
		}
	}
	_ = smallPages(base, uintptr(n)*size+before)
	a.mu.slabs = append(a.mu.slabs, base, uintptr(n)*size+before)
	first := alignUp(base + WasmPageSize)
	for i := range n {
		start := first + uintptr(i)*size
		r := &Region{
			arena: a,
			stack: start,
			Base:  start + uintptr(a.layout.Stack),
		}
		var err error
		if r.Gate, err = a.gates.add(); err != nil {
			return err
		}
		a.mu.free = append(a.mu.free, r)
		a.mu.made++
	}
	return nil
}

// Close unmaps everything. No region may be in use.
func (a *Arena) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mu.closed {
		return nil
	}
	a.mu.closed = true
	var errs []error
	for i := 0; i < len(a.mu.slabs); i += 2 {
		errs = append(errs, unmap(a.mu.slabs[i], a.mu.slabs[i+1]))
	}
	errs = append(errs, a.gates.close())
	if a.pagemap != nil {
		errs = append(errs, a.pagemap.Close())
	}
	a.mu.free, a.mu.slabs, a.mu.made = nil, nil, 0
	return errors.Join(errs...)
}
