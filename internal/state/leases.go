package state

import (
	"context"
	"fmt"
	"time"

	"github.com/faasm-go/faasm/internal/state/global"
)

const (
	// lockWaitMin is the least time that a global lock is asked for: enough to ask a
	// store that answers, so that a timeout of 0 takes a lock that is free.
	lockWaitMin = 20 * time.Millisecond

	// releaseMax bounds how long a session that ended goes on giving up its leases. Those
	// that are left run out by themselves.
	releaseMax = 10 * time.Second
)

// leases are the global locks that a session holds. The zero value is ready.
type leases struct {
	of map[string]*global.Lease // a lost one until UnlockGlobal
}

// LockGlobal waits for the key's lock among all hosts; see global.Store.Lock. What the
// session pushes, merges, publishes or deletes of the key while it has the lock is
// refused with global.ErrFenced if the lease was lost and another host may have had the
// lock since. That goes on after a loss until UnlockGlobal, so that no write which relied
// on the lock slips through.
//
// The lock says nothing of what is here: pull after it to see what its last holder
// pushed, and push before UnlockGlobal.
//
// global.ErrTimeout if it was not to be had in timeout, of which 20 ms are the least; a
// negative one leaves it to the Waiter's context. ErrDeadlock if the session has it, even
// lost. ErrLocksMax. The lock is not held after an error, or will be let go of by itself.
func (s *Session) LockGlobal(name string, mode global.LockMode, timeout time.Duration) error {
	if err := s.lockGlobal(name, mode, timeout); err != nil {
		return fmt.Errorf("lock everywhere %s: %w", s.key(name), err)
	}
	return nil
}

func (s *Session) lockGlobal(name string, mode global.LockMode, timeout time.Duration) error {
	if err := validateLock(s.key(name), mode); err != nil {
		return err
	}
	if s.leases.of[name] != nil {
		return ErrDeadlock
	}
	if len(s.leases.of) >= LocksMax {
		return ErrLocksMax
	}
	var lease *global.Lease
	if err := s.blocking(func(ctx context.Context) (err error) {
		if timeout >= 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, max(timeout, lockWaitMin))
			defer cancel()
		}
		lease, err = s.tier.store.Lock(ctx, s.key(name), mode)
		return err
	}); err != nil {
		return err
	}
	if s.leases.of == nil {
		s.leases.of = make(map[string]*global.Lease)
	}
	s.leases.of[name] = lease
	return nil
}

// UnlockGlobal lets go of the key's global lock. ErrNotHeld if the session does not have
// it. After any other error the session does not have it any more: global.ErrLeaseLost if
// the lease had been lost before, else the lock is free when the lease runs out.
func (s *Session) UnlockGlobal(name string) error {
	lease := s.leases.of[name]
	if lease == nil {
		return fmt.Errorf("unlock everywhere %s: %w", s.key(name), ErrNotHeld)
	}
	delete(s.leases.of, name)
	return s.blocking(lease.Unlock)
}

// condition is what a change of the key relies on: the session's global lock of it, if it
// holds one.
func (s *Session) condition(name string) global.Condition {
	if lease := s.leases.of[name]; lease != nil {
		return global.Condition{Fence: lease.Token()}
	}
	return global.Condition{}
}

// releaseAll gives up the global locks in the background, when the session ends.
func (s *Session) releaseAll() {
	held := s.leases.of
	s.leases.of = nil
	if len(held) == 0 {
		return
	}
	s.tier.background.Go(func() {
		ctx, cancel := context.WithTimeout(s.tier.life, releaseMax)
		defer cancel()
		for _, lease := range held {
			_ = lease.Unlock(ctx) // else it runs out
		}
	})
}
