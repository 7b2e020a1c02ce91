package state

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/faasm-go/faasm/internal/state/global"
	"github.com/faasm-go/faasm/internal/state/redistest"
)

// hosts opens the global tier as one more host does.
type hosts func(t testing.TB) global.Store

// drivers calls f with each driver, empty.
func drivers(t *testing.T, f func(t *testing.T, open hosts)) {
	t.Run("embedded", func(t *testing.T) { f(t, embeddedHosts(t)) })
	t.Run("redis", func(t *testing.T) { f(t, redisHosts(redistest.New(t), global.RedisOptions{})) })
}

// shared is a Store of two hosts that are really one process; the last closes it.
type shared struct{ global.Store }

func (shared) Close() error { return nil }

func embeddedHosts(t testing.TB) hosts {
	e, err := global.OpenEmbedded(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, e)
	return func(testing.TB) global.Store { return shared{e} }
}

func redisHosts(server *redistest.Server, opts global.RedisOptions) hosts {
	return func(t testing.TB) global.Store {
		r, err := global.OpenRedis(t.Context(), server.URL(), opts)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
}

func closeAfter(t testing.TB, c interface{ Close() error }) {
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

// tierOver is the local tier of one more host. It ends with the test.
func tierOver(t testing.TB, opts Options) *Tier {
	t.Helper()
	tier, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, tier)
	return tier
}

// session opens a session whose waits end with the test.
func session(t testing.TB, tier *Tier, tenant string) *Session {
	s := tier.Session(tenant, parked(t.Context()))
	t.Cleanup(s.Close)
	return s
}

func TestSession_LockGlobal_timeout(t *testing.T) {
	drivers(t, func(t *testing.T, open hosts) {
		holder := session(t, tierOver(t, Options{Store: open(t)}), "t")
		other := tierOver(t, Options{Store: open(t)})
		if err := holder.LockGlobal("k", toWrite, 0); err != nil {
			t.Fatalf("lock what is free with timeout 0: %v", err)
		}
		mine := errors.New("mine")
		cancelled, cancel := context.WithCancelCause(t.Context())
		cancel(mine)
		late, cancelLate := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancelLate()
		for name, row := range map[string]struct {
			ctx     context.Context
			timeout time.Duration
			want    error
		}{
			"at once":             {t.Context(), 0, global.ErrTimeout},
			"a while":             {t.Context(), 30 * time.Millisecond, global.ErrTimeout},
			"call's deadline":     {late, -1, global.ErrTimeout},
			"call's comes first":  {late, time.Hour, global.ErrTimeout},
			"call is cut off":     {cancelled, -1, mine},
			"call is cut off too": {cancelled, time.Hour, mine},
		} {
			s := other.Session("t", parked(row.ctx))
			if err := s.LockGlobal("k", toRead, row.timeout); !errors.Is(err, row.want) {
				t.Errorf("%s: %v, want %v", name, err, row.want)
			}
			if err := s.UnlockGlobal("k"); !errors.Is(err, ErrNotHeld) {
				t.Errorf("%s: unlock after it: %v", name, err)
			}
			s.Close()
		}
		if err := holder.LockGlobal("k", toRead, -1); !errors.Is(err, ErrDeadlock) {
			t.Errorf("lock again: %v", err)
		}
		if c := holder.condition("k"); c.Fence == 0 {
			t.Error("changes under the lock have no fence")
		}
		if err := holder.UnlockGlobal("k"); err != nil {
			t.Error(err)
		}
		if c := holder.condition("k"); c != (global.Condition{}) {
			t.Errorf("condition after the lock: %+v", c)
		}
		if err := session(t, other, "t").LockGlobal("k", toWrite, 20*time.Second); err != nil {
			t.Errorf("lock after it was let go of: %v", err)
		}
	})
}

func TestSession_LockGlobal_tooMany(t *testing.T) {
	tier := tierOver(t, Options{Store: embeddedHosts(t)(t)})
	s := session(t, tier, "t")
	for i := range LocksMax {
		if err := s.LockGlobal(fmt.Sprint(i), toRead, -1); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.LockGlobal("one more", toRead, -1); !errors.Is(err, ErrLocksMax) {
		t.Errorf("lock beside %d: %v", LocksMax, err)
	}
}

// The locks of both tiers die with their session, whoever waits for them then has them.
func TestSession_Close_letsGo(t *testing.T) {
	drivers(t, func(t *testing.T, open hosts) {
		tier, other := tierOver(t, Options{Store: open(t)}), tierOver(t, Options{Store: open(t)})
		s := tier.Session("t", parked(t.Context()))
		if err := errors.Join(s.Lock("k", toWrite), s.LockGlobal("k", toWrite, -1), s.LockGlobal("l", toRead, -1)); err != nil {
			t.Fatal(err)
		}
		var g sync.WaitGroup
		g.Go(func() {
			if err := session(t, tier, "t").Lock("k", toWrite); err != nil {
				t.Error(err)
			}
		})
		g.Go(func() {
			if err := session(t, other, "t").LockGlobal("k", toWrite, 20*time.Second); err != nil {
				t.Error(err)
			}
		})
		s.Close()
		g.Wait()
		if err := session(t, other, "t").LockGlobal("l", toWrite, 20*time.Second); err != nil {
			t.Error(err)
		}
	})
}

// A host that was cut off for longer than its lease lasts hears of it: what it pushes
// late is refused, until it has let go of the lock and taken it again.
func TestSession_LockGlobal_lost(t *testing.T) {
	server := redistest.New(t)
	opts := global.RedisOptions{Lease: 300 * time.Millisecond}
	open := redisHosts(server, opts)
	tier, other := tierOver(t, Options{Store: open(t)}), tierOver(t, Options{Store: open(t)})
	s, next := session(t, tier, "t"), session(t, other, "t")
	if err := s.LockGlobal("k", toWrite, -1); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Set("k", []byte("first")), s.Push("k")); err != nil {
		t.Fatal(err)
	}
	server.Signal(syscall.SIGSTOP)
	<-s.leases.of["k"].Lost()
	server.Signal(syscall.SIGCONT)
	if err := next.LockGlobal("k", toWrite, 20*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := s.Set("k", []byte("later")); err != nil {
		t.Fatal(err)
	}
	for name, push := range map[string]func() error{
		"push":       func() error { return s.Push("k") },
		"push range": func() error { return s.PushRange("k", 0, 2) },
		"push dirty": func() error { return s.PushDirty("k") },
		"publish":    func() error { _, err := s.Publish("k"); return err },
		"delete":     func() error { return s.Delete("k") },
	} {
		if err := push(); !errors.Is(err, global.ErrFenced) {
			t.Errorf("late %s: %v, want ErrFenced", name, err)
		}
	}
	buf := make([]byte, 5)
	if _, _, err := other.Read(t.Context(), global.Key{Tenant: "t", Name: "k"}, 0, buf); err != nil || string(buf) != "first" {
		t.Errorf("the value is %q, %v", buf, err)
	}
	if err := s.LockGlobal("k", toWrite, 0); !errors.Is(err, ErrDeadlock) {
		t.Errorf("lock again before unlock: %v", err)
	}
	if err := s.UnlockGlobal("k"); !errors.Is(err, global.ErrLeaseLost) {
		t.Errorf("late unlock: %v, want ErrLeaseLost", err)
	}
	if err := s.LockGlobal("k", toWrite, 0); !errors.Is(err, global.ErrTimeout) {
		t.Errorf("lock while another has it: %v", err)
	}
	if err := next.UnlockGlobal("k"); err != nil {
		t.Error(err)
	}
	if err := errors.Join(s.LockGlobal("k", toWrite, 20*time.Second), s.Push("k"), s.UnlockGlobal("k")); err != nil {
		t.Errorf("push after the lock was taken again: %v", err)
	}
}

// Tier.Close gives up what a session held a moment before, and does not hang if the store
// is dead.
func TestTier_Close_deadStore(t *testing.T) {
	server := redistest.New(t)
	tier, err := New(Options{Store: redisHosts(server, global.RedisOptions{Timeout: 200 * time.Millisecond})(t)})
	if err != nil {
		t.Fatal(err)
	}
	s := tier.Session("t", parked(t.Context()))
	for _, name := range strings.Fields("a b c d e f") {
		if err := s.LockGlobal(name, toWrite, -1); err != nil {
			t.Fatal(err)
		}
	}
	server.Signal(syscall.SIGSTOP)
	begun := time.Now()
	s.Close()
	if took := time.Since(begun); took > time.Second {
		t.Errorf("Session.Close took %v", took)
	}
	_ = tier.Close() // whether a dead store closes well is not the point
	if took := time.Since(begun); took > releaseMax+5*time.Second {
		t.Errorf("Tier.Close took %v", took)
	}
}

// No update is lost under the global lock: sessions on two hosts count to 10,000.
func TestSession_LockGlobal_counter(t *testing.T) {
	const total, sessions = 10_000, 8
	drivers(t, func(t *testing.T, open hosts) {
		tiers := []*Tier{tierOver(t, Options{Store: open(t)}), tierOver(t, Options{Store: open(t)})}
		key := global.Key{Tenant: "t", Name: "counter"}
		if _, err := tiers[0].Put(t.Context(), key, 8, nil, global.Condition{IfAbsent: true}); err != nil {
			t.Fatal(err)
		}
		var g sync.WaitGroup
		for i := range sessions {
			g.Go(func() {
				s := tiers[i%len(tiers)].Session(key.Tenant, parked(t.Context()))
				defer s.Close()
				buf := make([]byte, 8)
				for range total / sessions {
					err := s.LockGlobal(key.Name, toWrite, time.Minute)
					if err == nil {
						err = s.Pull(key.Name)
					}
					if err == nil {
						_, err = s.ReadAt(key.Name, 0, buf)
					}
					binary.LittleEndian.PutUint64(buf, binary.LittleEndian.Uint64(buf)+1)
					if err == nil {
						err = s.SetAt(key.Name, 0, buf)
					}
					if err == nil {
						err = s.PushDirty(key.Name)
					}
					if err == nil {
						err = s.UnlockGlobal(key.Name)
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		g.Wait()
		buf := make([]byte, 8)
		if _, _, err := tiers[0].Read(t.Context(), key, 0, buf); err != nil {
			t.Fatal(err)
		}
		if got := binary.LittleEndian.Uint64(buf); got != total {
			t.Errorf("%d of %d updates are left", got, total)
		}
	})
}
