package vmem

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A Gate is one page that the guest's code reads at every loop and recursion (DESIGN
// 5.3). It is open, which costs the guest one load, or shut: the load then faults, which
// the engine turns into a trap. The page is the kernel's shared zero page and costs no
// memory.
type Gate struct {
	Addr uintptr
}

const (
	madvGuardInstall = 102 // since kernel 6.13
	madvGuardRemove  = 103
)

// guardMarkers is whether the kernel can shut a page without splitting its mapping. Where
// it can't, mprotect does the same at the price of the process's mmap lock and of two
// more mappings while the gate is shut.
var guardMarkers atomic.Bool

// Shut makes the next read of the gate trap. Any thread may call it while the guest runs.
func (g Gate) Shut() error {
	if guardMarkers.Load() {
		return madvise(g.Addr, PageSize, madvGuardInstall)
	}
	return mprotect(g.Addr, PageSize, unix.PROT_NONE)
}

// Open undoes Shut.
func (g Gate) Open() error {
	if guardMarkers.Load() {
		return madvise(g.Addr, PageSize, madvGuardRemove)
	}
	return mprotect(g.Addr, PageSize, unix.PROT_READ)
}

// gates owns the pages of an arena's gates. They lie side by side, so that all of them
// are few mappings; a mapping for each region would use up vm.max_map_count a third
// sooner.
type gates struct {
	mu     sync.Mutex
	blocks []uintptr
	next   int // page in the last block
}

// gateBlock is how many gates are mapped at once. The engine takes a gate for a linear
// memory of one Wasm page, of which only the first 4 KiB are ever read, so gates may lie
// closer together than that; the block's end is padded.
const gateBlock = 4096

func (g *gates) init() error {
	block, err := mapAnon(0, gateBlock*PageSize+WasmPageSize, unix.PROT_READ, unix.MAP_NORESERVE)
	if err != nil {
		return fmt.Errorf("map gates: %w", err)
	}
	g.blocks = append(g.blocks, block)
	probe := Gate{Addr: block}
	guardMarkers.Store(madvise(probe.Addr, PageSize, madvGuardInstall) == nil)
	if guardMarkers.Load() {
		return probe.Open()
	}
	return nil
}

func (g *gates) add() (Gate, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.next == gateBlock {
		block, err := mapAnon(0, gateBlock*PageSize+WasmPageSize, unix.PROT_READ, unix.MAP_NORESERVE)
		if err != nil {
			return Gate{}, fmt.Errorf("map gates: %w: %w", ErrExhausted, err)
		}
		g.blocks, g.next = append(g.blocks, block), 0
	}
	gate := Gate{Addr: g.blocks[len(g.blocks)-1] + uintptr(g.next)*PageSize}
	g.next++
	return gate, nil
}

func (g *gates) close() error {
	var errs []error
	for _, b := range g.blocks {
		errs = append(errs, unmap(b, gateBlock*PageSize+WasmPageSize))
	}
	g.blocks = nil
	return errors.Join(errs...)
}
