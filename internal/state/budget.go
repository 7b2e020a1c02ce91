package state

import "sync"

// budget counts the memory that replicas take, in all and by tenant. Its mutex is taken
// last, and for a moment.
type budget struct {
	max, tenantMax uint64 // 0: no limit

	mu struct {
		sync.Mutex
		used   uint64
		tenant map[string]uint64
	}
}

// tryTake counts n bytes more, if that keeps within the limits; else it returns how many
// bytes are missing of the host's limit, and of the tenant's.
func (b *budget) tryTake(tenant string, n uint64) (ok bool, missing, tenantMissing uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	missing = over(b.mu.used, n, b.max)
	tenantMissing = over(b.mu.tenant[tenant], n, b.tenantMax)
	if missing > 0 || tenantMissing > 0 {
		return false, missing, tenantMissing
	}
	b.addLocked(tenant, n)
	return true, 0, 0
}

// over is by how much used and n more pass the limit.
func over(used, n, limit uint64) uint64 {
	if limit == 0 || used+n <= limit {
		return 0
	}
	return used + n - limit
}

// take counts n bytes more, whatever the limits.
func (b *budget) take(tenant string, n uint64) {
	if n == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.addLocked(tenant, n)
}

func (b *budget) addLocked(tenant string, n uint64) {
	if b.mu.tenant == nil {
		b.mu.tenant = make(map[string]uint64)
	}
	b.mu.used += n
	b.mu.tenant[tenant] += n
}

// give takes n bytes off the count.
func (b *budget) give(tenant string, n uint64) {
	if n == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.mu.tenant[tenant] {
		panic("BUG: more memory given back than was taken")
	}
	b.mu.used -= n
	if b.mu.tenant[tenant] -= n; b.mu.tenant[tenant] == 0 {
		delete(b.mu.tenant, tenant)
	}
}

func (b *budget) used() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.used
}
