package state

import (
	"cmp"
	"fmt"
	"slices"
)

// spareDivisor says how much is reclaimed at once beyond what is needed: one in so many
// parts of the limit. Looking through all replicas then is not the price of each one.
const spareDivisor = 32

// reserve counts n bytes of a tenant in the budget, once what can be given up has made room
// for them: ErrNoMemory if it has not. The caller holds no replica's mu.
func (t *Tier) reserve(tenant string, n uint64) error {
	if ok, _, _ := t.budget.tryTake(tenant, n); ok {
		return nil
	}
	t.reclaiming.Lock()
	defer t.reclaiming.Unlock()
	ok, missing, tenantMissing := t.budget.tryTake(tenant, n)
	if ok {
		return nil
	}
	if tenantMissing > 0 {
		t.reclaim(tenantMissing+t.budget.tenantMax/spareDivisor, func(r *replica) bool { return r.key.Tenant == tenant })
	}
	if missing > 0 {
		t.reclaim(missing+t.budget.max/spareDivisor, func(*replica) bool { return true })
	}
	if ok, _, _ = t.budget.tryTake(tenant, n); ok {
		return nil
	}
	return fmt.Errorf("%w: %d bytes more", ErrNoMemory, n)
}

// reclaimMappings makes room among the process's mappings. It returns false if there was
// nothing to give up.
func (t *Tier) reclaimMappings() bool {
	t.reclaiming.Lock()
	defer t.reclaiming.Unlock()
	return t.reclaim(t.budget.used()/spareDivisor+1, func(*replica) bool { return true }) > 0
}

// reclaim gives up n bytes or more of the replicas that match, if there are as many, those
// not used for longest first: all of clean ones that nobody uses, and of others the bases
// of clean chunks. It returns how many it was. The caller holds reclaiming: who else had them
// pinned would keep them from being given up.
func (t *Tier) reclaim(n uint64, match func(*replica) bool) uint64 {
	var out []*replica
	for _, r := range t.all() {
		if match(r) {
			out = append(out, r)
		} else {
			t.unpin(r)
		}
	}
	slices.SortFunc(out, func(a, b *replica) int { return cmp.Compare(a.used.Load(), b.used.Load()) })
	var freed uint64
	for _, r := range out {
		if freed < n {
			freed += t.evict(r)
		}
		t.unpin(r)
	}
	return freed
}

// evict gives up what it can of r, which the caller has pinned, and returns how many bytes
// that is.
func (t *Tier) evict(r *replica) uint64 {
	used := r.used.Load()
	freed, left, clean := r.settle()
	if !clean || t.locks.held(r.key) {
		return freed
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	// If nobody but the caller uses it, and nobody has since it was found clean, it is still.
	if r.pins.Load() > 1 || r.used.Load() != used || t.mu.replicas[r.slot()] != r {
		return freed
	}
	delete(t.mu.replicas, r.slot())
	r.gone.Store(true)
	return freed + left
}

// settle forgets what is kept of clean chunks that nobody can write, unless the replica is
// being moved. It returns how many bytes that were, how many are left, and whether all of
// the replica is clean.
func (r *replica) settle() (freed, left uint64, clean bool) {
	select {
	case r.moving <- struct{}{}:
		defer r.endMove()
	default:
		return 0, 0, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.mu.charged
	for i, c := range r.mu.chunks {
		r.settleLocked(i, c)
	}
	return was - r.mu.charged, r.mu.charged, r.cleanLocked()
}

// cleanLocked tells whether the replica is known to have nothing that was not pushed,
// without a look at its content.
func (r *replica) cleanLocked() bool {
	if r.mu.origin != originGlobal {
		return false
	}
	for _, c := range r.mu.chunks {
		if c.writers > 0 || c.base != baseSame || c.forced != (byteSet{}) {
			return false
		}
	}
	return true
}
