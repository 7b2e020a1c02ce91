package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/faasm-go/faasm/internal/state/global"
	"github.com/faasm-go/faasm/internal/vmem"
)

// pinned is the replica of a value, which the test has until it ends.
func pinned(t testing.TB, s *Session, name string) *replica {
	t.Helper()
	r, err := s.find(s.slot(name))
	must(t, err)
	if r == nil {
		t.Fatalf("no replica of %s", name)
	}
	t.Cleanup(func() { s.tier.unpin(r) })
	return r
}

// first tells one memory from another.
func first(b []byte) *byte {
	if len(b) == 0 {
		return nil
	}
	return &b[0]
}

// dirtyStages has the tier's stages of these sizes full of what is no value's.
func dirtyStages(t testing.TB, tier *Tier, sizes ...int64) {
	t.Helper()
	for _, size := range sizes {
		st, err := tier.stages.take(chunkCount(size)*chunkBytes, true)
		must(t, err)
		for i := range st.bytes {
			st.bytes[i] = 0xdd
		}
		defer tier.stages.give(st)
	}
}

// A value that is pulled as a whole is what it would be on a host that had nothing of it,
// whatever was here, and whether its memory is swapped or copied to.
func TestSession_Pull_whole(t *testing.T) {
	old := pattern(3*chunkBytes, 1)
	befores := map[string]func(t *testing.T, s *Session){
		"pulled":  func(t *testing.T, s *Session) { must(t, s.Pull("k")) },
		"in part": func(t *testing.T, s *Session) { must(t, s.PullRange("k", 0, 10)) },
		"changed": func(t *testing.T, s *Session) {
			must(t, s.SetAt("k", 5, []byte{0}))
			must(t, s.SetAt("k", 2*chunkBytes, []byte{0}))
		},
		"flagged":   func(t *testing.T, s *Session) { must(t, s.Pull("k")); must(t, s.FlagDirty("k", 3, 2*chunkBytes)) },
		"set":       func(t *testing.T, s *Session) { must(t, s.Set("k", pattern(3*chunkBytes, 9))) },
		"set, less": func(t *testing.T, s *Session) { must(t, s.Set("k", []byte{1})) },
		"set, much": func(t *testing.T, s *Session) { must(t, s.Set("k", pattern(40*chunkBytes, 9))) },
		"emptied":   func(t *testing.T, s *Session) { must(t, s.Set("k", nil)) },
		"was mapped": func(t *testing.T, s *Session) {
			other := s.tier.Session("tenant", direct)
			view(t, other, "k", Access{}, 0, -1)[chunkBytes] = 0
			other.Close()
		},
		"shrunk and mapped": func(t *testing.T, s *Session) {
			must(t, s.Pull("k"))
			other := s.tier.Session("tenant", direct)
			view(t, other, "k", Access{ReadOnly: true}, 2*chunkBytes, 1)
			t.Cleanup(other.Close)
			must(t, s.Set("k", []byte{1}))
		},
		"failed to pull": func(t *testing.T, s *Session) {
			must(t, s.SetAt("k", 5, []byte{0}))
			want := value(t, s, "k")
			store := s.tier.store.(shared).Store.(*hooked)
			store.before = func(context.Context, string) error { return global.ErrUnavailable }
			wantErr(t, "pull", s.Pull("k"), global.ErrUnavailable)
			store.before = nil
			wantBytes(t, "after a pull that failed", value(t, s, "k"), want)
		},
	}
	views := map[string]*Access{"no view": nil, "a view": {}, "a read-only view": {ReadOnly: true}}
	for _, size := range []int{0, 1, 100, chunkBytes, 3*chunkBytes - 1, 3 * chunkBytes, 3*chunkBytes + 5000, 20 * chunkBytes} {
		for before, prepare := range befores {
			for mapped, access := range views {
				t.Run(fmt.Sprintf("%d bytes, %s, %s", size, before, mapped), func(t *testing.T) {
					store := &hooked{Store: newStore(t)}
					tier := newTier(t, store, Options{})
					s := newSession(t, tier)
					put(t, s, "k", old)
					prepare(t, s)
					var m []byte
					if access != nil {
						m = view(t, s, "k", *access, 0, -1)
					}
					r := pinned(t, s, "k")
					was, length, viewed := first(r.mu.bytes), int64(len(r.mu.bytes)), false
					for _, c := range r.mu.chunks {
						viewed = viewed || c.views > 0
					}
					need := chunkCount(int64(size)) * chunkBytes
					dirtyStages(t, tier, max(length, 1), max(need, 1))
					next := pattern(size, 2)
					put(t, s, "k", next)
					must(t, s.Pull("k"))
					resident, err := r.memory.Resident() // before a look at the rest makes it more
					must(t, err)

					wantBytes(t, "pulled", value(t, s, "k"), next)
					swaps := size > 0 && length <= need && !viewed
					if moved := first(r.mu.bytes) != was; moved != swaps && need <= 1<<20 { // else it moves as it grows
						t.Errorf("swapped: %t, want %t", moved, swaps)
					}
					if first(r.mu.bytes) != first(r.memory.Bytes()) || len(r.mu.bytes) != int(r.memory.Size()) {
						t.Error("the bytes of the replica are not those of its memory")
					}
					for at, b := range r.mu.bytes[size:] {
						if b != 0 {
							t.Fatalf("byte %d behind the end is %#x", at, b)
						}
					}
					for i, b := range m[:min(len(m), size)] {
						if b != next[i] {
							t.Fatalf("byte %d of what is mapped is %#x, want %#x", i, b, next[i])
						}
					}
					sent, calls := tier.Stats().Moved.Sent, store.calls.Load()
					must(t, s.PushDirty("k"))
					if dirty, _ := s.Dirty("k"); dirty || tier.Stats().Moved.Sent != sent || store.calls.Load() != calls {
						t.Errorf("dirty: %t, and %d bytes were sent in %d calls", dirty, tier.Stats().Moved.Sent-sent, store.calls.Load()-calls)
					}
					if access != nil && !access.ReadOnly && min(len(m), size) > 0 {
						m[0]++
						next[0]++
						must(t, s.PushDirty("k"))
						wantBytes(t, "written and pushed", globally(t, s, "k"), next)
					}
					if viewed || length > need {
						return // then more is counted
					}
					fresh := newSession(t, newTier(t, store, Options{}))
					must(t, fresh.Pull("k"))
					if got, want := tier.Stats().MemoryBytes, fresh.tier.Stats().MemoryBytes; got != want {
						t.Errorf("%d bytes are counted; on a host that had nothing %d", got, want)
					}
					want, err := pinned(t, fresh, "k").memory.Resident()
					must(t, err)
					if resident != want {
						t.Errorf("%d bytes are resident; on a host that had nothing %d", resident, want)
					}
				})
			}
		}
	}
}

// Each pull of what nobody views swaps, if only larger stages are at hand at first too.
func TestSession_Pull_swaps(t *testing.T) {
	tier := newTier(t, newStore(t), Options{})
	s := newSession(t, tier)
	dirtyStages(t, tier, 4*chunkBytes)
	put(t, s, "k", pattern(2*chunkBytes, 1))
	must(t, s.Pull("k")) // straight to its place
	r := pinned(t, s, "k")
	memories := map[*byte]bool{first(r.mu.bytes): true}
	for range 4 {
		was := first(r.mu.bytes)
		must(t, s.Pull("k"))
		if first(r.mu.bytes) == was {
			t.Error("a pull of what nobody views has copied")
		}
		memories[first(r.mu.bytes)] = true
	}
	if len(memories) != 2 {
		t.Errorf("the value was in %d memories in turn, want 2", len(memories))
	}
}

// What a longer version had behind the end of a shorter one is not seen again, whatever the
// memory was used for meanwhile.
func TestSession_Pull_shorter(t *testing.T) {
	tier := newTier(t, newStore(t), Options{})
	s := newSession(t, tier)
	for round := range 4 {
		for _, name := range []string{"k", "l"} { // whose memories change places
			put(t, s, name, pattern(2*chunkBytes, 1))
			must(t, s.Pull(name))
			short := pattern(chunkBytes+100, uint64(round))
			put(t, s, name, short)
			must(t, s.Pull(name))
			wantBytes(t, "shorter", value(t, s, name), short)
			grown := append(short, pattern(50, 7)...)
			if round%2 == 0 {
				must(t, s.Set(name, grown))
			} else {
				put(t, s, name, grown)
				must(t, s.Pull(name))
			}
			r := pinned(t, s, name)
			wantBytes(t, "memory of what has grown", r.mu.bytes, append(grown, make([]byte, len(r.mu.bytes)-len(grown))...))
		}
	}
}

// Mappings stay counted right, whichever memory has how many.
func TestSession_Pull_mappings(t *testing.T) {
	for _, most := range []int{5, 8} { // with 5 there is no room to swap for more than one
		arena, err := vmem.NewArena(vmem.FastLayout, vmem.ArenaOptions{MappingsMax: most})
		must(t, err)
		defer arena.Close()
		files := openFiles(t)
		tier, err := New(Options{Store: shared{newStore(t)}, Arena: arena})
		must(t, err)
		s := tier.Session("tenant", direct)
		for _, chunks := range []int{1, 20, 40, 70} { // 1, 2, 4 and 8 MiB are mapped
			must(t, s.Set("grows", pattern(chunks*chunkBytes, 1)))
		}
		for tag := range uint64(3) {
			for _, name := range []string{"grows", "is large", "as well"} { // what one has swapped away another gets
				want := pattern(70*chunkBytes, tag)
				put(t, s, name, want)
				must(t, s.Pull(name))
				wantBytes(t, name, value(t, s, name), want)
			}
		}
		s.Close()
		must(t, tier.Close())
		if err := arena.Hold(most); err != nil {
			t.Errorf("mappings are left: %v", err)
		}
		must(t, arena.Hold(-most))
		if n := openFiles(t); n > files+1 { // the store's
			t.Errorf("%d files open, %d before", n, files)
		}
	}
}

// Whoever pulls, reads, views and sets at once, what is read is one value; and what is
// mapped is the value at the end.
func TestSession_Pull_hammer(t *testing.T) {
	t.Logf("seed %d", *seed)
	const pulls, size = 300, 4*chunkBytes - 9
	store := newStore(t)
	tier, other := newTier(t, store, Options{}), newSession(t, newTier(t, store, Options{}))
	put(t, other, "k", make([]byte, size))
	over := make(chan struct{})
	var wg, pullers sync.WaitGroup
	until := func(do func(random *rand.Rand, s *Session) error) {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(*seed, 1))
			for {
				select {
				case <-over:
					return
				default:
				}
				s := tier.Session("tenant", direct)
				if err := do(random, s); err != nil {
					t.Error(err)
				}
				s.Close()
			}
		})
	}
	read := make([]byte, size+1)
	until(func(_ *rand.Rand, s *Session) error {
		n, err := s.ReadAt("k", 0, read)
		if err == nil && (n != size || !bytes.Equal(read[:n], bytes.Repeat(read[:1], n))) {
			err = errors.New("what is read is of two values")
		}
		return err
	})
	until(func(random *rand.Rand, s *Session) error {
		_, err := s.View("k", Access{ReadOnly: random.IntN(2) == 0}, random.Int64N(size), 1)
		return err
	})
	until(func(random *rand.Rand, s *Session) error {
		return s.Set("k", bytes.Repeat([]byte{byte(random.UintN(256))}, size))
	})
	for range 2 {
		pullers.Go(func() {
			s := tier.Session("tenant", direct)
			defer s.Close()
			for range pulls {
				if err := s.Pull("k"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	pullers.Wait()
	close(over)
	wg.Wait()
	s := newSession(t, tier)
	m := view(t, s, "k", Access{}, 0, -1)
	want := pattern(size, 3)
	put(t, other, "k", want)
	must(t, s.Pull("k"))
	wantBytes(t, "mapped", m, want)
}

func TestStages_take(t *testing.T) {
	var s stages
	take := func(chunks int64, exact bool) stage {
		t.Helper()
		st, err := s.take(chunks*chunkBytes, exact)
		must(t, err)
		if n := int64(len(st.bytes)); n != chunks*chunkBytes || st.memory.Size() < uint64(max(n, chunkBytes)) {
			t.Fatalf("a stage for %d chunks has %d bytes of %d", chunks, n, st.memory.Size())
		}
		return st
	}
	two, three, twelve := take(2, true), take(3, false), take(12, false)
	for _, st := range []stage{two, three, twelve} {
		s.give(st)
	}
	for _, row := range []struct {
		chunks int64
		exact  bool
		want   stage // none: a new one, of as many chunks
	}{
		{1, true, stage{}}, {4, true, stage{}}, {2, true, two}, {2, false, two}, {3, true, three}, {12, true, twelve},
		{0, false, three}, // the one used last, of those that are not too large
		{1, false, three}, {4, false, twelve}, {13, false, stage{}},
	} {
		st := take(row.chunks, row.exact)
		made := st.memory != two.memory && st.memory != three.memory && st.memory != twelve.memory
		switch {
		case row.want.memory == nil && (!made || st.memory.Size() != uint64(row.chunks*chunkBytes)):
			t.Errorf("%d chunks, exact %t: a stage of %d that was at hand: %t", row.chunks, row.exact, st.memory.Size()/chunkBytes, !made)
		case row.want.memory != nil && st.memory != row.want.memory:
			t.Errorf("%d chunks, exact %t: a stage of %d", row.chunks, row.exact, st.memory.Size()/chunkBytes)
		}
		if made {
			closeStage(st.memory)
			continue
		}
		s.give(st)
	}

	var many []stage
	for range stagesIdleMax + 20 {
		many = append(many, take(1, true))
	}
	for _, st := range many {
		s.give(st)
	}
	if n := len(s.idle); n != stagesIdleMax || s.kept != stagesIdleMax*chunkBytes {
		t.Errorf("%d stages are kept, of %d bytes", n, s.kept)
	}
	s.give(take(stagesKept/chunkBytes-2, true))
	s.give(take(stagesKept/chunkBytes+1, true)) // more than is kept at all
	if s.kept > stagesKept {
		t.Errorf("%d bytes are kept", s.kept)
	}
	last := take(1, true)
	must(t, s.close())
	s.give(last)
	if len(s.idle) != 0 || s.kept != 0 {
		t.Errorf("after close %d stages are kept, of %d bytes", len(s.idle), s.kept)
	}
}
