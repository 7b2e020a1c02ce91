package daemon

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/faasm-go/faasm/internal/faaslet"
)

// resident keeps count of the code that is in memory: machine code, images, and the clean
// regions at hand. Beyond the budget what was used least lately goes.
type resident struct {
	budget  uint64        // bytes
	idle    func() uint64 // what clean regions retain
	now     atomic.Int64  // a clock that ticks every residentTick: reading it costs nothing
	evicted atomic.Uint64

	mu struct {
		sync.Mutex
		versions map[*version]uint64 // bytes of each
		bytes    uint64
	}
}

// residentTick is how finely uses are told apart.
const residentTick = 100 * time.Millisecond

func (r *resident) init(budget uint64, idle func() uint64) {
	r.budget, r.idle = budget, idle
	r.mu.versions = map[*version]uint64{}
	r.now.Store(1)
}

func (r *resident) add(v *version, bytes uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.versions[v] = bytes
	r.mu.bytes += bytes
}

func (r *resident) remove(v *version) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.bytes -= r.mu.versions[v]
	delete(r.mu.versions, v)
}

// list returns the versions whose code is in memory, those used least lately first.
func (r *resident) list() []*version {
	r.mu.Lock()
	defer r.mu.Unlock()
	type use struct {
		v  *version
		at int64
	}
	uses := make([]use, 0, len(r.mu.versions))
	for v := range r.mu.versions {
		uses = append(uses, use{v, v.used.Load()})
	}
	slices.SortFunc(uses, func(a, b use) int { return int(a.at - b.at) })
	out := make([]*version, len(uses))
	for i, u := range uses {
		out[i] = u.v
	}
	return out
}

// bytes is what is resident.
func (r *resident) bytes() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.bytes + r.idle()
}

func (r *resident) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.mu.versions)
}

// makeRoom evicts the code of functions that nobody uses now until the budget is kept, with
// an eighth to spare, so that it is not called for each load.
func (f *functions) makeRoom() {
	r := &f.resident
	if r.bytes() <= r.budget {
		return
	}
	target := r.budget - r.budget/8
	for _, v := range r.list() {
		if r.bytes() <= target {
			return
		}
		f.evict(v)
	}
	// What is left is in use, or was asked to be kept warm: its idle regions can go.
	for _, v := range r.list() {
		if r.bytes() <= target {
			return
		}
		v.trim()
	}
}

// evict closes a version's code if nobody uses it. The next call loads it again.
func (f *functions) evict(v *version) {
	v.mu.Lock()
	var code *faaslet.Code
	if v.users == 0 && v.keep == 0 && v.loading == nil {
		code, v.code = v.code, nil
	}
	v.mu.Unlock()
	if code == nil {
		return
	}
	f.resident.evicted.Add(1)
	f.dropLogged(v, code)
}

// trim gives up the regions that a version has at hand beyond those it is to keep.
func (v *version) trim() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.code != nil {
		v.code.Trim(v.keep)
	}
}

// reclaim makes room for a region or for code when the process has none left: regions at
// hand go, but for those that were asked for (Warm), and the code of the quarter of the
// functions that was used least lately.
func (f *functions) reclaim() {
	all := f.resident.list()
	for i, v := range all {
		if i < len(all)/4 {
			f.evict(v)
		}
		v.trim()
	}
}

// mindBudget minds the budget: regions at hand grow with the calls that come at once.
func (h *Host) mindBudget() {
	h.functions.resident.now.Add(1)
	h.functions.makeRoom()
}
