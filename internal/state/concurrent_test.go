package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/faasm-go/faasm/internal/state/global"
)

// Who waits for another's push or pull does so until its call ends; what needs no store
// does not wait.
func TestSession_waits(t *testing.T) {
	store := &hooked{Store: newStore(t)}
	tier := newTier(t, store, Options{})
	s, other := newSession(t, tier), newSession(t, tier)
	must(t, s.Set("k", pattern(2*chunkBytes, 1)))
	reached, let := store.held("Write")
	done := make(chan error, 1)
	go func() { done <- s.Push("k") }()
	<-reached

	other.wait = func(func(context.Context)) { t.Error("what needs no store waits") }
	view(t, other, "k", Access{}, 0, -1)[1] = 1
	must(t, other.SetAt("k", 0, []byte{1}))
	must(t, other.FlagDirty("k", 0, 1))
	value(t, other, "k")
	must(t, other.Set("another", []byte("x")))
	_, err := other.Dirty("k")
	must(t, err)

	cut := errors.New("the call has ended")
	for call, f := range map[string]func() error{
		"Push": func() error { return other.Push("k") }, "PushDirty": func() error { return other.PushDirty("k") },
		"PushRange": func() error { return other.PushRange("k", 0, 1) }, "Pull": func() error { return other.Pull("k") },
		"PullRange": func() error { return other.PullRange("k", 0, 1) }, "Delete": func() error { return other.Delete("k") },
		"Merge":   func() error { return other.Merge("k", global.Int32, global.Sum) },
		"Publish": func() error { _, err := other.Publish("k"); return err },
		"View":    func() error { _, err := other.View("k", Access{Pull: true}, 0, -1); return err },
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		other.wait = func(wait func(context.Context)) {
			cancel(cut)
			wait(ctx)
		}
		wantErr(t, call, f(), cut)
	}
	other.wait = direct
	let()
	must(t, <-done)
	must(t, other.PushDirty("k"))
	wantBytes(t, "pushed", globally(t, s, "k"), value(t, s, "k"))
}

// A push that waits for a deletion finds nothing to push.
func TestSession_Push_deletedMeanwhile(t *testing.T) {
	for call, push := range map[string]func(s *Session) error{
		"Push":      func(s *Session) error { return s.Push("k") },
		"PushDirty": func(s *Session) error { return s.PushDirty("k") },
		"Delete":    func(s *Session) error { return s.Delete("k") },
		"Pull":      func(s *Session) error { return s.Pull("k") },
	} {
		store := &hooked{Store: newStore(t)}
		tier := newTier(t, store, Options{})
		s, other := newSession(t, tier), newSession(t, tier)
		must(t, s.Set("k", pattern(100, 1)))
		must(t, s.Push("k"))
		must(t, s.SetAt("k", 0, []byte{0}))
		reached, let := store.held("Delete")
		done := make(chan error, 1)
		go func() { done <- s.Delete("k") }()
		<-reached
		other.wait = func(wait func(context.Context)) {
			if let != nil {
				let()
				let = nil
			}
			direct(wait)
		}
		wantErr(t, call, push(other), global.ErrNotFound)
		must(t, <-done)
	}
}

// A value that is set while it is being brought is the one that was set.
func TestSession_Set_whileFilled(t *testing.T) {
	for _, size := range []int{0, 5, chunkBytes, 5 * chunkBytes} {
		store := &hooked{Store: newStore(t)}
		tier := newTier(t, store, Options{})
		s, other := newSession(t, tier), newSession(t, tier)
		put(t, s, "k", pattern(3*chunkBytes, 1))
		reached, let := store.held("Read")
		done := make(chan error, 2)
		go func() {
			_, err := s.View("k", Access{}, 0, 1)
			done <- err
		}()
		<-reached
		other.wait = func(wait func(context.Context)) {
			let() // it waits for the one that brings it
			direct(wait)
		}
		want := pattern(size, 2)
		go func() { done <- other.Set("k", want) }()
		for range 2 {
			if err := <-done; err != nil && (size > 0 || !errors.Is(err, ErrRange)) {
				t.Error(err)
			}
		}
		other.wait = direct
		wantBytes(t, "value", value(t, s, "k"), want)
		must(t, s.Push("k"))
		wantBytes(t, "pushed", globally(t, s, "k"), want)
	}
}

// Sessions on two hosts write bytes of their own, through pointers and not, and push them.
// None is lost, and none overwrites another's.
func TestSession_PushDirty_hammer(t *testing.T) {
	drivers(t, func(t *testing.T, open hosts) {
		t.Logf("seed %d", *seed)
		const writers, rounds, size = 6, 25, 3*chunkBytes + 100
		var tiers [2]*Tier
		for i := range tiers {
			tiers[i] = tierOver(t, Options{Store: open(t)})
		}
		put(t, tiers[0].Session("tenant", direct), "k", make([]byte, size))
		want := make([]byte, size)
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				random := rand.New(rand.NewPCG(*seed, uint64(w)))
				s := tiers[w%2].Session("tenant", direct)
				defer s.Close()
				v, err := s.View("k", Access{}, 0, -1)
				if err != nil {
					t.Error(err)
					return
				}
				m := v.Memory.Bytes()
				for range rounds {
					for range 200 {
						at := random.IntN(size/writers)*writers + w
						b := byte(random.UintN(255)) + 1
						want[at] = b
						if w%3 == 0 {
							m[at] = b
						} else if err := s.SetAt("k", int64(at), []byte{b}); err != nil {
							t.Error(err)
						}
					}
					if err := s.PushDirty("k"); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		s := session(t, tiers[0], "tenant")
		wantBytes(t, "global", globally(t, s, "k"), want)
	})
}

// Anything at once, on two hosts, with a store that fails now and then, little memory and
// sessions that end: nothing hangs, breaks, or is left over.
func TestTier_hammer(t *testing.T) {
	t.Logf("seed %d", *seed)
	var n atomic.Uint64
	store := &hooked{Store: newStore(t)}
	store.before = func(context.Context, string) error {
		if n.Add(1)%17 == 0 {
			return global.ErrUnavailable
		}
		return nil
	}
	var tiers [2]*Tier
	for i := range tiers {
		tiers[i] = newTier(t, store, Options{MemoryMax: 30 * perValue, TenantMemoryMax: 20 * perValue})
	}
	expected := []error{global.ErrUnavailable, global.ErrNotFound, global.ErrInvalid, global.ErrConflict, ErrRange, ErrNoMemory, ErrDeadlock, ErrNotHeld}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(*seed, uint64(w)))
			tier, tenant := tiers[w%2], fmt.Sprint("tenant", w%3)
			s := tier.Session(tenant, direct)
			defer func() { s.Close() }()
			buf := make([]byte, 3*chunkBytes)
			for range 400 {
				name := fmt.Sprint("k", random.IntN(5))
				off, n := random.Int64N(2*chunkBytes), random.Int64N(2*chunkBytes)
				var err error
				switch random.IntN(18) {
				case 0:
					err = s.Set(name, buf[:8*random.IntN(2*chunkBytes/8)])
				case 1:
					err = s.SetAt(name, off, buf[:n])
				case 2:
					_, err = s.ReadAt(name, off, buf[:n])
				case 3, 4, 5:
					a := Access{Create: true, CreateSize: n, ReadOnly: random.IntN(2) == 0, Pull: random.IntN(3) == 0}
					var v View
					if v, err = s.View(name, a, 0, -1); err == nil && v.Len > 0 && !v.Private {
						m := v.Memory.Bytes()[v.Offset:][:v.Len]
						m[random.IntN(len(m))] = byte(w)
					}
				case 6:
					_, err = s.View(name, Access{Published: true, Pull: random.IntN(2) == 0}, 0, -1)
				case 7:
					err = s.Push(name)
				case 8:
					err = s.PushDirty(name)
				case 9:
					err = s.PushRange(name, off, n)
				case 10:
					err = s.PushMask(name, fmt.Sprint("k", random.IntN(5)))
				case 11:
					err = s.Merge(name, global.Int64, global.Sum)
				case 12:
					err = s.Pull(name)
				case 13:
					err = s.PullRange(name, off, n)
				case 14:
					_, err = s.Publish(name)
				case 15:
					if random.IntN(4) == 0 {
						err = s.Delete(name)
					}
				case 16:
					if err = s.Lock(name, global.LockRead); err == nil {
						err = s.Unlock(name)
					}
				case 17:
					if random.IntN(4) == 0 {
						s.Close()
						s = tier.Session(tenant, direct)
					}
				}
				known := err == nil
				for _, e := range expected {
					known = known || errors.Is(err, e)
				}
				if !known {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	store.before = nil
	// What is left can all be pushed, and then given up.
	for _, tier := range tiers {
		for _, r := range tier.all() {
			if r.version == 0 {
				s := tier.Session(r.key.Tenant, direct)
				err := s.Push(r.key.Name)
				if errors.Is(err, global.ErrNotFound) {
					// It was deleted elsewhere before all of it was here.
					if err = s.Delete(r.key.Name); errors.Is(err, global.ErrNotFound) {
						err = nil // and none of it was
					}
				} else if err == nil && !bytes.Equal(value(t, s, r.key.Name), globally(t, s, r.key.Name)) {
					t.Errorf("%s: what was pushed is not what is here", r.key)
				}
				must(t, err)
				s.Close()
			}
			tier.unpin(r)
		}
		for tier.reclaimMappings() {
		}
		if stats := tier.Stats(); stats.Replicas != 0 || stats.MemoryBytes != 0 {
			t.Errorf("left over: %+v", stats)
		}
	}
}

func TestTier_Close_openSessions(t *testing.T) {
	store := newStore(t)
	tier := newTier(t, store, Options{})
	s := tier.Session("tenant", direct)
	must(t, s.Set("k", pattern(100, 1)))
	m := view(t, s, "k", Access{}, 0, -1)
	must(t, tier.Close())
	must(t, tier.Close())
	wantBytes(t, "mapped", m, pattern(100, 1))
	for call, f := range map[string]func() error{
		"Set":    func() error { return s.Set("new", nil) },
		"ReadAt": func() error { _, err := s.ReadAt("k", 0, nil); return err },
		"View":   func() error { _, err := s.View("k", Access{}, 0, -1); return err },
		"Push":   func() error { return s.Push("k") },
		"Pull":   func() error { return s.Pull("k") },
		"Delete": func() error { return s.Delete("k") },
	} {
		wantErr(t, call, f(), global.ErrClosed)
	}
	s.Close()
	s.Close()
}

func TestNew_noStore(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("a tier over nothing")
	}
}

// When people replace a value this host's replica is what they put, or none.
func TestTier_refresh(t *testing.T) {
	store := &hooked{Store: newStore(t)}
	tier := newTier(t, store, Options{})
	s := newSession(t, tier)
	must(t, s.Set("k", pattern(2*chunkBytes, 1)))
	m := view(t, s, "k", Access{}, 0, -1)
	next := pattern(2*chunkBytes, 2)
	_, err := tier.Put(t.Context(), s.key("k"), int64(len(next)), bytes.NewReader(next), global.Condition{})
	must(t, err)
	wantBytes(t, "mapped", m, next)
	if dirty, _ := s.Dirty("k"); dirty {
		t.Error("dirty after a replacement")
	}
	store.before = func(_ context.Context, op string) error {
		if op == "Read" {
			return global.ErrUnavailable
		}
		return nil
	}
	last := pattern(7, 3)
	_, err = tier.Put(t.Context(), s.key("k"), int64(len(last)), bytes.NewReader(last), global.Condition{})
	must(t, err)
	store.before = nil
	wantBytes(t, "mapped", m, next)
	wantBytes(t, "value", value(t, s, "k"), last)
	must(t, tier.Delete(t.Context(), s.key("k"), global.Condition{}))
	_, err = s.Size("k")
	wantErr(t, "deleted", err, global.ErrNotFound)
}
