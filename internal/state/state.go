// Package state is the local tier of state: the replicas of values on this host, in memory
// that its Faaslets map and share, and how they move to the global tier and back
// (package global, the truth). docs/STATE.md tells users what they may rely on.
//
// A Faaslet uses state through a Session, which holds what dies with it: views, and locks
// of both tiers. People use it through the Tier's own methods.
//
// The package does not map anything into a Faaslet (hostif does, with what View returns)
// and does not decide what a guest is told.
//
// # Replicas
//
// A [replica] is a value in memory that Faaslets map, of whole chunks of 64 KiB. A chunk is
// present, which means that its content is here, or absent; only present chunks are ever
// mapped. What a guest writes through a pointer nobody sees, so a chunk that may be changed
// has a base, a copy of what it was when it was last pulled or pushed, and what differs from
// it, byte by byte, is dirty. A chunk that nobody could change needs no base, and most never
// have one.
//
// A push copies first and then compares and sends the copy, and when it has succeeded the
// copy is the base: a write that came meanwhile differs from it, and is pushed the next time.
// A pull reads to somewhere else and is copied when all of it is there. So one that fails has
// changed nothing. If nobody has a view of the value it is not copied: its memory and that
// which was read to change places.
//
// Memory never moves and never shrinks while somebody may have it mapped. A value that gets
// smaller has zeroes behind its end; one that is deleted is taken out of the table and lives
// on, as memory, with the sessions that viewed it.
//
// # Locks
//
// In this order: replica.moving, which is held across calls of the store, and waited for with
// a context; Tier.reclaiming; replica.mu; Tier.mu; the mutexes of budget, locks and stages.
// Nobody holds two of the same kind. View takes none of them for a view that the session has.
package state

import (
	"context"
	"errors"
	"fmt"

	"github.com/faasm-go/faasm/internal/state/global"
	"github.com/faasm-go/faasm/internal/vmem"
)

var (
	// ErrRange is returned for a range that is not within the value.
	ErrRange = errors.New("the range is not within the value")
	// ErrNoMemory is returned where the host's or the tenant's part of the memory for
	// replicas is used up by what can't be given up: mapped, or not yet pushed.
	ErrNoMemory = errors.New("no memory left for state on this host")
	// ErrQuota is returned where the tenant may store no more in the global tier.
	ErrQuota = errors.New("the tenant's quota of state is used up")
	// ErrDeadlock is returned to who asks for a lock that it holds.
	ErrDeadlock = errors.New("the lock is held by the caller already")
	// ErrNotHeld is returned to who lets go of a lock that it does not hold.
	ErrNotHeld = errors.New("the lock is not held by the caller")
)

// Options are a Tier's.
type Options struct {
	Store global.Store // the Tier closes it
	Arena *vmem.Arena  // counts the mappings that replicas take; nil: nobody does
	// MemoryMax bounds the replicas of this host together, with what is kept to find
	// their changes, in bytes; TenantMemoryMax those of one tenant. Zero: no limit.
	MemoryMax, TenantMemoryMax uint64
	// TenantBytesMax bounds what a tenant may store in the global tier, in bytes. What is
	// pushed at the same moment may pass it together. Zero: no limit.
	TenantBytesMax int64
}

// Waiter does what may take long on a Faaslet's behalf. It runs wait once, at once, on the
// calling goroutine, with a context that ends with the Faaslet's call; the Faaslet holds no
// place among the running meanwhile.
type Waiter func(wait func(ctx context.Context))

// Access says what a View is for.
type Access struct {
	Create     bool  // make the value, of zeroes, if neither tier has it
	CreateSize int64 // and then so large, in bytes
	ReadOnly   bool  // what the Faaslet writes there stays its own
	Pull       bool  // have the present version from the global tier first
	Published  bool  // of the latest published version; writes stay the Faaslet's own
}

// View is part of a value as memory to be mapped into a Faaslet. Every byte of it is there
// for as long as the Session is open, whatever becomes of the value.
type View struct {
	Memory  *vmem.Shared
	Offset  uint64 // in Memory, of the first byte to map; a multiple of vmem.WasmPageSize
	Len     uint64 // to map; a multiple of vmem.WasmPageSize, 0 only if the value is empty
	Private bool   // must be mapped private
	Size    int64  // of the value, in bytes
}

// Stats is a picture of the tier, for metrics.
type Stats struct {
	Replicas    int    // values here
	MemoryBytes uint64 // that count against Options.MemoryMax
	Moved       global.Moved
}

// validateSize checks the size of a value.
func validateSize(size int64) error {
	if size < 0 || size > global.ValueBytesMax {
		return fmt.Errorf("%w: size %d is not in 0 to %d", global.ErrInvalid, size, int64(global.ValueBytesMax))
	}
	return nil
}
