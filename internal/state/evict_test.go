package state

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/faasm-go/faasm/internal/state/global"
	"github.com/faasm-go/faasm/internal/vmem"
)

// perValue is what a replica of a small value counts.
var perValue = overhead(chunkBytes) + chunkBytes

func TestTier_evict_leastRecentlyUsed(t *testing.T) {
	store := newStore(t)
	tier := newTier(t, store, Options{MemoryMax: 10*perValue + 1})
	s := newSession(t, tier)
	name := func(i int) string { return fmt.Sprint("k", i) }
	for i := range 30 {
		put(t, s, name(i), pattern(100, uint64(i)))
	}
	for i := range 9 {
		must(t, s.Pull(name(i)))
	}
	value(t, s, name(0)) // used again
	for i := 9; i < 30; i++ {
		wantBytes(t, name(i), value(t, s, name(i)), pattern(100, uint64(i)))
		value(t, s, name(0))
		if n := tier.Stats().MemoryBytes; n > 10*perValue+1 {
			t.Fatalf("%d bytes, more than the limit", n)
		}
	}
	if r, _ := tier.pin(s.slot(name(0))); r == nil {
		t.Error("what was used all the time was evicted")
	} else {
		tier.unpin(r)
	}
	if r, _ := tier.pin(s.slot(name(1))); r != nil {
		t.Error("what was not used for longest is still here")
	}
	// What was evicted is brought again.
	wantBytes(t, "evicted", value(t, s, name(1)), pattern(100, 1))
}

// What is mapped, locked or not pushed stays; if nothing else is left there is no memory.
func TestTier_evict_keeps(t *testing.T) {
	store := newStore(t)
	tier := newTier(t, store, Options{MemoryMax: 6 * perValue})
	s, other := newSession(t, tier), newSession(t, tier)
	put(t, s, "mapped", pattern(100, 1))
	put(t, s, "locked", pattern(100, 2))
	put(t, s, "published", pattern(100, 3))
	put(t, s, "changed", pattern(100, 4))
	m := view(t, s, "mapped", Access{ReadOnly: true}, 0, -1)
	must(t, s.Lock("locked", global.LockWrite))
	must(t, s.Pull("locked"))
	_, err := s.Publish("published")
	must(t, err)
	p := view(t, s, "published", Access{Published: true}, 0, -1)
	must(t, s.Set("made", pattern(100, 5)))
	must(t, s.SetAt("changed", 0, []byte{1}))
	put(t, s, "k", pattern(100, 6))
	wantErr(t, "one more", other.Pull("k"), ErrNoMemory)
	wantErr(t, "one more, made", other.Set("new", []byte("x")), ErrNoMemory)
	_, err = other.View("new", Access{Create: true, CreateSize: 1}, 0, -1)
	wantErr(t, "one more, created", err, ErrNoMemory)
	wantBytes(t, "mapped", m, pattern(100, 1))
	wantBytes(t, "published", p, pattern(100, 3))
	wantBytes(t, "made", value(t, s, "made"), pattern(100, 5))
	if _, err := store.Stat(t.Context(), s.key("made")); !errors.Is(err, global.ErrNotFound) {
		t.Errorf("what was not pushed: %v", err)
	}

	// Each of them gives way once it may.
	for _, row := range []struct {
		name string
		let  func() error
	}{
		{"made", func() error { return s.Push("made") }},
		{"changed", func() error { return s.PushDirty("changed") }},
		{"locked", func() error { return s.Unlock("locked") }},
	} {
		must(t, row.let())
		must(t, other.Pull("k"))
		if r, _ := tier.pin(s.slot(row.name)); r != nil {
			t.Errorf("%s is still here", row.name)
			tier.unpin(r)
		}
		tier.forget(s.key("k"))
		must(t, s.Set("filler of "+row.name, []byte("x")))
	}
	must(t, s.Delete("filler of made"))
	wantBytes(t, "locked", value(t, s, "locked"), pattern(100, 2))
}

// Bases go before values do, and come back when they are needed.
func TestTier_evict_bases(t *testing.T) {
	store := newStore(t)
	const chunks = 8
	tier := newTier(t, store, Options{MemoryMax: overhead(chunks*chunkBytes) + 2*chunks*chunkBytes})
	put(t, newSession(t, tier), "k", pattern(chunks*chunkBytes, 1))
	for round := range 3 {
		s := tier.Session("tenant", direct)
		m := view(t, s, "k", Access{}, 0, -1)
		m[round]++
		put(t, s, "other", pattern(chunkBytes, 2))
		wantErr(t, "a base for each chunk", s.Pull("other"), ErrNoMemory)
		s.Close()
		s = tier.Session("tenant", direct)
		must(t, s.Pull("other")) // the bases of clean chunks give way, the value does not: it is dirty
		must(t, s.PushDirty("k"))
		want := pattern(chunks*chunkBytes, 1)
		for i := range round + 1 {
			want[i]++
		}
		wantBytes(t, "pushed", globally(t, s, "k"), want)
		s.Close()
	}
}

// One tenant's limit is its own.
func TestTier_tenantMemory(t *testing.T) {
	store := newStore(t)
	tier := newTier(t, store, Options{TenantMemoryMax: 3 * perValue, MemoryMax: 5 * perValue})
	a, b := tier.Session("a", direct), tier.Session("b", direct)
	defer a.Close()
	defer b.Close()
	for i := range 3 {
		must(t, a.Set(fmt.Sprint(i), []byte("x")))
	}
	wantErr(t, "a's fourth", a.Set("3", []byte("x")), ErrNoMemory)
	must(t, b.Set("0", []byte("x")))
	must(t, b.Set("1", []byte("x")))
	wantErr(t, "the host's sixth", b.Set("2", []byte("x")), ErrNoMemory)
	must(t, a.Push("0"))
	must(t, b.Set("2", []byte("x"))) // takes a's clean one
	must(t, a.Delete("1"))
	must(t, b.Delete("0"))
	must(t, a.Set("3", []byte("x")))
	// Values of nothing count as well.
	for i := range 100 {
		if err := a.Set(fmt.Sprint("empty", i), nil); errors.Is(err, ErrNoMemory) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Error("a tenant has as many values of nothing as it wants")
}

// A guest that deletes what it has mapped, and makes it anew, does not get more for it.
func TestTier_budget_deletedAndMapped(t *testing.T) {
	tier := newTier(t, newStore(t), Options{TenantMemoryMax: 5 * perValue})
	s := tier.Session("tenant", direct)
	var err error
	n := 0
	for ; n < 100 && err == nil; n++ {
		_, err = s.View("k", Access{Create: true, CreateSize: 1, ReadOnly: true}, 0, -1)
		if err == nil {
			err = s.Delete("k")
		}
	}
	wantErr(t, "the last", err, ErrNoMemory)
	if n != 6 {
		t.Errorf("%d values were mapped, want 5", n-1)
	}
	s.Close()
	if n := tier.Stats().MemoryBytes; n != 0 {
		t.Errorf("%d bytes are counted after Close", n)
	}
}

// Nor does one that maps what is made smaller then: it could still touch all of it.
func TestTier_budget_shrunkAndMapped(t *testing.T) {
	for _, access := range []Access{{}, {ReadOnly: true}} {
		tier := newTier(t, newStore(t), Options{TenantMemoryMax: 20 * perValue})
		s := tier.Session("tenant", direct)
		must(t, s.Set("k", pattern(10*chunkBytes, 1)))
		view(t, s, "k", access, 0, -1)
		must(t, s.Set("k", nil))
		must(t, s.Push("k"))
		if n := tier.Stats().MemoryBytes; n < 10*chunkBytes {
			t.Errorf("%d bytes counted for 10 chunks that are mapped", n)
		}
		s.Close()
		if n, most := tier.Stats().MemoryBytes, overhead(10*chunkBytes); n != most {
			t.Errorf("%d bytes counted when nothing is mapped, want %d", n, most)
		}
	}
}

// No mapping is left of a tier, and where none is to be had one that is not needed is given
// up.
func TestTier_mappings(t *testing.T) {
	arena, err := vmem.NewArena(vmem.FastLayout, vmem.ArenaOptions{MappingsMax: 8})
	must(t, err)
	defer arena.Close()
	files := openFiles(t)
	tier, err := New(Options{Store: shared{newStore(t)}, Arena: arena})
	must(t, err)
	s := tier.Session("tenant", direct)
	for i := range 30 {
		name := fmt.Sprint(i)
		must(t, s.Set(name, pattern(10, 1)))
		must(t, s.Push(name))
	}
	for i := 0; err == nil; i++ {
		if i == 10 {
			t.Fatal("more mappings than there are")
		}
		_, err = s.View(fmt.Sprint(i), Access{}, 0, -1)
	}
	wantErr(t, "all mapped", err, ErrNoMemory)
	wantErr(t, "and one more", s.Set("x", nil), ErrNoMemory)
	s.Close()
	must(t, tier.Close())
	if err := arena.Hold(8); err != nil {
		t.Errorf("mappings are left: %v", err)
	}
	must(t, arena.Hold(-8))
	if n := openFiles(t); n > files+1 { // the store's
		t.Errorf("%d files open, %d before", n, files)
	}
}

func openFiles(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(entries)
}

// Whatever is done under a budget that is too small, nothing is lost and none of it is
// exceeded by more than bases that had to be kept.
func TestTier_budget_random(t *testing.T) {
	t.Logf("seed %d", *seed)
	random := rand.New(rand.NewPCG(*seed, 7))
	store := newStore(t)
	tier := newTier(t, store, Options{MemoryMax: 12 * perValue})
	want := make(map[string][]byte)
	sessions := []*Session{newSession(t, tier), newSession(t, tier)}
	for range 3000 {
		i := random.IntN(2)
		s := sessions[i]
		name := fmt.Sprint("k", random.IntN(12))
		var err error
		switch n := random.IntN(10); {
		case n < 2:
			data := pattern(1+random.IntN(2*chunkBytes), random.Uint64())
			if err = s.Set(name, data); err == nil {
				want[name] = data
			}
		case n < 4 && want[name] != nil:
			at := random.IntN(len(want[name]))
			if err = s.SetAt(name, int64(at), []byte{9}); err == nil {
				want[name][at] = 9
			}
		case n < 5 && want[name] != nil:
			var v View
			if v, err = s.View(name, Access{}, 0, -1); err == nil {
				at := random.IntN(int(v.Size))
				v.Memory.Bytes()[at] = 8
				want[name][at] = 8
			}
		case n < 8 && want[name] != nil:
			if random.IntN(2) == 0 {
				err = s.Push(name)
			} else {
				err = s.PushDirty(name)
			}
		case n < 9 && want[name] != nil:
			got := make([]byte, len(want[name])+1)
			var n int
			if n, err = s.ReadAt(name, 0, got); err == nil && !bytes.Equal(got[:n], want[name]) {
				t.Fatalf("%s is not what was written", name)
			}
		case n == 9 && random.IntN(5) == 0:
			s.Close()
			sessions[i] = newSession(t, tier)
		}
		if err != nil && !errors.Is(err, ErrNoMemory) {
			t.Fatal(err)
		}
		if used := tier.Stats().MemoryBytes; used > 16*perValue {
			t.Fatalf("%d bytes counted, limit %d", used, 12*perValue)
		}
	}
	s := newSession(t, tier)
	for i := range sessions {
		sessions[i].Close()
	}
	for name := range want {
		must(t, s.PushDirty(name)) // takes no memory
	}
	for name, data := range want {
		wantBytes(t, name, value(t, s, name), data)
	}
}
