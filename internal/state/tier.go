package state

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/faasm-go/faasm/internal/state/global"
)

// Tier is the local tier of one host. It is safe for concurrent use.
type Tier struct {
	// Immutable after New.
	opts  Options
	store global.Store

	locks  locks // local locks
	budget budget
	stages stages
	clock  atomic.Int64 // counts uses of replicas

	// reclaiming is held by who looks for memory to give up.
	reclaiming sync.Mutex

	// mu is held for a moment.
	mu struct {
		sync.RWMutex
		replicas map[slot]*replica
		asking   map[global.Key]asking
		closed   bool
	}

	// background is what Close waits for: leases that are being given up.
	background sync.WaitGroup
	// life ends with Close. What runs in the background uses it.
	life    context.Context
	endLife context.CancelCauseFunc
}

// slot is a place in the table of replicas: that of a value, or that of the published
// version of it that this host uses.
type slot struct {
	key       global.Key
	published bool
}

func (r *replica) slot() slot { return slot{r.key, r.version != 0} }

// New makes a tier. It owns opts.Store from then on.
func New(opts Options) (*Tier, error) {
	if opts.Store == nil {
		return nil, errors.New("make the local tier: it has no global tier")
	}
	t := &Tier{opts: opts, store: opts.Store}
	t.budget.max, t.budget.tenantMax = opts.MemoryMax, opts.TenantMemoryMax
	t.mu.replicas = make(map[slot]*replica)
	t.mu.asking = make(map[global.Key]asking)
	t.life, t.endLife = context.WithCancelCause(context.Background())
	return t, nil
}

// Close waits for the leases that are being given up, frees the replicas, and closes the
// store. What was not pushed is lost. The memory that open sessions have views of is freed
// when they close; all else that they do fails with global.ErrClosed.
func (t *Tier) Close() error {
	t.mu.Lock()
	if t.mu.closed {
		t.mu.Unlock()
		return nil
	}
	t.mu.closed = true
	t.mu.Unlock()

	t.background.Wait()
	t.endLife(global.ErrClosed)
	for _, r := range t.all() {
		t.giveUp(r)
		t.unpin(r)
	}
	return errors.Join(t.stages.close(), t.store.Close())
}

// Stats returns a picture of the tier.
func (t *Tier) Stats() Stats {
	t.mu.RLock()
	n := len(t.mu.replicas)
	t.mu.RUnlock()
	return Stats{Replicas: n, MemoryBytes: t.budget.used(), Moved: t.store.Moved()}
}

// pin returns the replica in a slot, pinned, or nil. It is neither evicted nor freed until
// unpin.
func (t *Tier) pin(at slot) (*replica, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.mu.closed {
		return nil, global.ErrClosed
	}
	r := t.mu.replicas[at]
	if r != nil {
		r.pins.Add(1)
		r.used.Store(t.clock.Add(1))
	}
	return r, nil
}

// insert puts a new replica into the table, pinned. If another is in its place already it
// frees the new one and returns that, pinned; but it replaces an older published version,
// which who has it mapped keeps. A version that this host has published a later one of since
// the caller asked for it stays out of the table, and is the caller's alone.
func (t *Tier) insert(r *replica) (_ *replica, inserted bool, err error) {
	t.mu.Lock()
	now := t.mu.replicas[r.slot()]
	var older *replica
	switch {
	case t.mu.closed:
		err = global.ErrClosed
	case now != nil && now.version >= r.version:
	case r.version != 0 && r.version < t.mu.asking[r.key].least:
		r.gone.Store(true)
		now, inserted = r, true
	default:
		if older = now; older != nil {
			older.pins.Add(1)
			older.gone.Store(true)
		}
		t.mu.replicas[r.slot()] = r
		now, inserted = r, true
	}
	if err == nil {
		now.pins.Add(1)
		now.used.Store(t.clock.Add(1))
	}
	t.mu.Unlock()
	if older != nil {
		t.unpin(older)
	}
	if inserted {
		return r, true, nil
	}
	r.close()
	if err != nil {
		return nil, false, err
	}
	return now, false, nil
}

// unpin ends a use of r, and frees it if it is gone and that was the last.
func (t *Tier) unpin(r *replica) {
	if r.pins.Add(-1) == 0 && r.gone.Load() {
		r.close()
	}
}

// giveUp takes r, which the caller has pinned, out of the table.
func (t *Tier) giveUp(r *replica) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.replicas[r.slot()] == r {
		delete(t.mu.replicas, r.slot())
	}
	r.gone.Store(true)
}

// forget gives up this host's replica of key, if it has one, and that of its published
// version. Who has them mapped keeps the memory.
func (t *Tier) forget(key global.Key) {
	for _, published := range []bool{false, true} {
		t.forgetSlot(slot{key, published})
	}
}

func (t *Tier) forgetSlot(at slot) {
	if r, err := t.pin(at); r != nil && err == nil {
		t.giveUp(r)
		t.unpin(r)
	}
}

// all returns all replicas, pinned.
func (t *Tier) all() []*replica {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make([]*replica, 0, len(t.mu.replicas))
	for _, r := range t.mu.replicas {
		r.pins.Add(1)
		out = append(out, r)
	}
	return out
}
