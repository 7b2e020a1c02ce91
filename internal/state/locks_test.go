package state

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/faasm-go/faasm/internal/state/global"
)

const (
	toRead  = global.LockRead
	toWrite = global.LockWrite
)

// parked is a Waiter whose waits end with ctx.
func parked(ctx context.Context) Waiter {
	return func(wait func(context.Context)) { wait(ctx) }
}

// atOnce is the Waiter of a session that must not wait.
func atOnce(t testing.TB) Waiter {
	return func(wait func(context.Context)) {
		t.Error("a wait for what is free")
		wait(context.Background())
	}
}

// lockSession is a session without views. It ends with the test.
func lockSession(t testing.TB, tier *Tier, tenant string, w Waiter) *Session {
	s := &Session{tier: tier, tenant: tenant, wait: w}
	t.Cleanup(s.unlockAll)
	return s
}

func TestSession_Lock_refused(t *testing.T) {
	tier := new(Tier)
	s, other := lockSession(t, tier, "t", atOnce(t)), lockSession(t, tier, "t", atOnce(t))
	if err := s.Lock("k", toWrite); err != nil {
		t.Fatal(err)
	}
	if err := s.Lock("r", toRead); err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		do   func() error
		want error
	}{
		"no name":            {func() error { return s.Lock("", toWrite) }, global.ErrInvalid},
		"name too long":      {func() error { return s.Lock(strings.Repeat("a", global.NameBytesMax+1), toWrite) }, global.ErrInvalid},
		"name is not text":   {func() error { return s.Lock("\xff", toWrite) }, global.ErrInvalid},
		"no mode":            {func() error { return s.Lock("x", 0) }, global.ErrInvalid},
		"another mode":       {func() error { return s.Lock("x", 3) }, global.ErrInvalid},
		"again":              {func() error { return s.Lock("k", toWrite) }, ErrDeadlock},
		"writer to read":     {func() error { return s.Lock("k", toRead) }, ErrDeadlock},
		"reader to write":    {func() error { return s.Lock("r", toWrite) }, ErrDeadlock},
		"reader again":       {func() error { return s.Lock("r", toRead) }, ErrDeadlock},
		"unlock free":        {func() error { return s.Unlock("x") }, ErrNotHeld},
		"unlock no name":     {func() error { return s.Unlock("") }, ErrNotHeld},
		"unlock another's":   {func() error { return other.Unlock("k") }, ErrNotHeld},
		"unlock a global":    {func() error { return s.UnlockGlobal("k") }, ErrNotHeld},
		"global, no name":    {func() error { return s.LockGlobal("", toWrite, 0) }, global.ErrInvalid},
		"global, no mode":    {func() error { return s.LockGlobal("x", 0, 0) }, global.ErrInvalid},
		"global unlock free": {func() error { return s.UnlockGlobal("x") }, ErrNotHeld},
	} {
		if err := row.do(); !errors.Is(err, row.want) {
			t.Errorf("%s: %v, want %v", name, err, row.want)
		}
	}
	// Nothing of that has changed what is held.
	if err := errors.Join(s.Unlock("k"), s.Unlock("r")); err != nil {
		t.Error(err)
	}
	if err := s.Unlock("k"); !errors.Is(err, ErrNotHeld) {
		t.Errorf("second Unlock: %v", err)
	}
	if n := len(tier.locks.mu.of); n != 0 {
		t.Errorf("%d locks are kept that nobody holds", n)
	}
}

func TestSession_Lock_tooMany(t *testing.T) {
	tier := new(Tier)
	s := lockSession(t, tier, "t", atOnce(t))
	for i := range LocksMax {
		if err := s.Lock(fmt.Sprint(i), toRead); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Lock("one more", toRead); !errors.Is(err, ErrLocksMax) {
		t.Errorf("lock beside %d: %v", LocksMax, err)
	}
	if err := errors.Join(s.Unlock("7"), s.Lock("one more", toRead)); err != nil {
		t.Error(err)
	}
	s.unlockAll()
	if n := len(tier.locks.mu.of); n != 0 {
		t.Errorf("%d locks outlive their session", n)
	}
}

// Keys that look alike are two, of one tenant as of two.
func TestSession_Lock_walls(t *testing.T) {
	tier := new(Tier)
	for _, k := range []global.Key{{Tenant: "a", Name: "b"}, {Tenant: "ab", Name: "b"}, {Tenant: "a", Name: "bb"}, {Tenant: "a/b", Name: "c"},
		{Tenant: "a", Name: "b/c"}, {Tenant: "b", Name: "a"}, {Tenant: "a", Name: "b\x00"}, {Tenant: "a", Name: "é"}, {Tenant: "a", Name: "e\u0301"}, {Tenant: "a", Name: "B"}} {
		if err := lockSession(t, tier, k.Tenant, atOnce(t)).Lock(k.Name, toWrite); err != nil {
			t.Errorf("lock %s: %v", k, err)
		}
	}
}

// Who waits is served in the order of arrival: readers together, and no reader passes a
// writer that waits.
func TestSession_Lock_order(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tier := new(Tier)
		first := lockSession(t, tier, "t", atOnce(t))
		if err := first.Lock("k", toRead); err != nil {
			t.Fatal(err)
		}
		var got []string
		var mu sync.Mutex
		letGo := make(map[string]chan struct{})
		for _, w := range []string{"w1", "r2", "r3", "w4", "w5", "r6"} {
			ch := make(chan struct{})
			letGo[w] = ch
			s := lockSession(t, tier, "t", parked(t.Context()))
			go func() {
				if err := s.Lock("k", map[byte]global.LockMode{'r': toRead, 'w': toWrite}[w[0]]); err != nil {
					t.Error(err)
				}
				mu.Lock()
				got = append(got, w)
				mu.Unlock()
				<-ch
				if err := s.Unlock("k"); err != nil {
					t.Error(err)
				}
			}()
			synctest.Wait()
		}
		hold := func(want string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if now := strings.Join(got, " "); now != want && now != strings.Replace(want, "r2 r3", "r3 r2", 1) {
				t.Fatalf("who has had the lock: %s, want %s", now, want)
			}
		}
		hold("")
		if err := first.Unlock("k"); err != nil {
			t.Fatal(err)
		}
		hold("w1")
		close(letGo["w1"])
		hold("w1 r2 r3")
		close(letGo["r2"])
		hold("w1 r2 r3")
		close(letGo["r3"])
		hold("w1 r2 r3 w4")
		close(letGo["w4"])
		hold("w1 r2 r3 w4 w5")
		close(letGo["w5"])
		hold("w1 r2 r3 w4 w5 r6")
		close(letGo["r6"])
		synctest.Wait()
		if n := len(tier.locks.mu.of); n != 0 {
			t.Errorf("%d locks are kept that nobody holds", n)
		}
	})
}

// A wait ends with its context, and those behind it are not held up; a session that ends
// lets go.
func TestSession_Lock_ends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tier := new(Tier)
		holder := lockSession(t, tier, "t", atOnce(t))
		if err := holder.Lock("k", toRead); err != nil {
			t.Fatal(err)
		}
		mine := errors.New("mine")
		ctx, cancel := context.WithCancelCause(t.Context())
		impatient := lockSession(t, tier, "t", parked(ctx))
		gaveUp := make(chan error, 1)
		go func() { gaveUp <- impatient.Lock("k", toWrite) }()
		synctest.Wait()
		behind := lockSession(t, tier, "t", parked(t.Context()))
		got := make(chan error, 1)
		go func() { got <- behind.Lock("k", toRead) }()
		synctest.Wait()
		select {
		case <-got:
			t.Fatal("a reader passed a writer that waits")
		default:
		}
		cancel(mine)
		synctest.Wait()
		if err := <-gaveUp; !errors.Is(err, mine) {
			t.Errorf("a wait whose context ended: %v", err)
		}
		if err := <-got; err != nil {
			t.Errorf("who stood behind one that gave up: %v", err)
		}
		if err := impatient.Unlock("k"); !errors.Is(err, ErrNotHeld) {
			t.Errorf("unlock by who gave up: %v", err)
		}
		writer := lockSession(t, tier, "t", parked(t.Context()))
		go func() { got <- writer.Lock("k", toWrite) }()
		synctest.Wait()
		holder.unlockAll()
		behind.unlockAll()
		if err := <-got; err != nil {
			t.Errorf("after the holders ended: %v", err)
		}
		if !tier.locks.held(global.Key{Tenant: "t", Name: "k"}) || tier.locks.held(global.Key{Tenant: "t", Name: "l"}) {
			t.Error("held does not tell what is held")
		}
	})
}

// Many sessions hammer a few keys, and give up at random. Nobody is beside a writer, and
// nothing is left.
func TestSession_Lock_hammer(t *testing.T) {
	tier := new(Tier)
	var writers, readers [3]atomic.Int32
	var waited atomic.Int64
	var g sync.WaitGroup
	for id := range 8 {
		g.Go(func() {
			random := rand.New(rand.NewPCG(*seed, uint64(id)))
			s := &Session{tier: tier, tenant: "t", wait: func(wait func(context.Context)) {
				waited.Add(1)
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(random.IntN(200))*time.Microsecond)
				defer cancel()
				wait(ctx)
			}}
			for range 3000 {
				k := random.IntN(len(writers))
				name, mode := fmt.Sprint(k), toRead
				if random.IntN(3) == 0 {
					mode = toWrite
				}
				if err := s.Lock(name, mode); err != nil {
					if !errors.Is(err, context.DeadlineExceeded) {
						t.Error(err)
					}
					continue
				}
				if mode == toWrite {
					if w, r := writers[k].Add(1), readers[k].Load(); w != 1 || r != 0 {
						t.Errorf("seed %d: %d writers and %d readers hold a lock", *seed, w, r)
					}
					runtime.Gosched() // so that others come while it is held
					writers[k].Add(-1)
				} else {
					readers[k].Add(1)
					if w := writers[k].Load(); w != 0 {
						t.Errorf("seed %d: a reader beside a writer", *seed)
					}
					readers[k].Add(-1)
				}
				if random.IntN(10) == 0 {
					s.unlockAll()
				} else if err := s.Unlock(name); err != nil {
					t.Error(err)
				}
			}
		})
	}
	g.Wait()
	if n := len(tier.locks.mu.of); n != 0 {
		t.Errorf("%d locks are kept that nobody holds", n)
	}
	if waited.Load() == 0 {
		t.Error("nobody waited: the test shows nothing")
	}
}

func BenchmarkSession_Lock(b *testing.B) {
	s := lockSession(b, new(Tier), "tenant", atOnce(b))
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Lock("counter", toWrite); err != nil {
			b.Fatal(err)
		}
		if err := s.Unlock("counter"); err != nil {
			b.Fatal(err)
		}
	}
}

// Two sessions in turn: each lock is handed over by the other.
func BenchmarkSession_Lock_handOver(b *testing.B) {
	tier := new(Tier)
	var g sync.WaitGroup
	for range 2 {
		s := &Session{tier: tier, tenant: "t", wait: parked(context.Background())}
		g.Go(func() {
			for range b.N / 2 {
				if err := errors.Join(s.Lock("k", toWrite), s.Unlock("k")); err != nil {
					b.Error(err)
				}
			}
		})
	}
	g.Wait()
}
