package state

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/faasm-go/faasm/internal/state/global"
)

// LocksMax is how many local locks a session may hold, and how many global ones: each is
// memory of the host, which a guest could otherwise ask for without end.
const LocksMax = 1024

// ErrLocksMax is returned to who asks for one more lock than LocksMax.
var ErrLocksMax = errors.New("the caller holds as many locks as it may")

// locks are the local locks of a host: those of the keys that somebody holds or waits
// for. The zero value is ready. Its mutex is taken last, and for a moment.
type locks struct {
	mu struct {
		sync.Mutex
		of map[global.Key]*lock
	}
}

// lock is the local lock of one key. locks.mu guards it.
type lock struct {
	readers int
	writer  bool
	queue   []*lockWaiter // in order of arrival
}

type lockWaiter struct {
	mode    global.LockMode
	granted bool
	ready   chan struct{} // closed when granted
}

// localLocks are the local locks that a session holds. The zero value is ready.
type localLocks struct {
	modes map[string]global.LockMode
}

// held tells whether anybody holds the key's lock or waits for it.
func (l *locks) held(key global.Key) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.of[key] != nil
}

// acquire takes the key's lock and returns nil, or joins the queue for it.
func (l *locks) acquire(key global.Key, mode global.LockMode) *lockWaiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.mu.of[key]
	if k == nil {
		if l.mu.of == nil {
			l.mu.of = make(map[global.Key]*lock)
		}
		k = new(lock)
		l.mu.of[key] = k
	}
	if len(k.queue) == 0 && k.take(mode) {
		return nil
	}
	w := &lockWaiter{mode: mode, ready: make(chan struct{})}
	k.queue = append(k.queue, w)
	return w
}

// leave takes a waiter off the queue. It returns false if the lock was granted to it.
func (l *locks) leave(key global.Key, w *lockWaiter) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.granted {
		return false
	}
	k := l.mu.of[key]
	k.queue = slices.DeleteFunc(k.queue, func(other *lockWaiter) bool { return other == w })
	l.grantLocked(key, k)
	return true
}

// release lets go of a lock that is held.
func (l *locks) release(key global.Key, mode global.LockMode) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.mu.of[key]
	if mode == global.LockWrite {
		k.writer = false
	} else {
		k.readers--
	}
	l.grantLocked(key, k)
}

// grantLocked gives the lock to those at the head of the queue who can have it, and
// forgets a lock that nobody wants.
func (l *locks) grantLocked(key global.Key, k *lock) {
	for len(k.queue) > 0 && k.take(k.queue[0].mode) {
		w := k.queue[0]
		k.queue[0] = nil
		k.queue = k.queue[1:]
		w.granted = true
		close(w.ready)
	}
	if !k.writer && k.readers == 0 {
		delete(l.mu.of, key)
	}
}

// take counts one more holder, if it can hold the lock beside those who do.
func (k *lock) take(mode global.LockMode) bool {
	switch {
	case k.writer || mode == global.LockWrite && k.readers > 0:
		return false
	case mode == global.LockWrite:
		k.writer = true
	default:
		k.readers++
	}
	return true
}

// Lock waits for the key's lock among the sessions of this host: any number may hold it
// to read, or one to write. Who waits is served in the order of arrival, so nobody
// starves. It says nothing of other hosts, keeps nobody from the value who does not ask
// for it, and needs no value. It ends with Unlock or with the session.
//
// ErrDeadlock if the session holds the lock, in whatever mode; ErrLocksMax; the cause of
// the Waiter's context if that ends first. The lock is not held then.
func (s *Session) Lock(name string, mode global.LockMode) error {
	if err := s.lock(name, mode); err != nil {
		return fmt.Errorf("lock %s: %w", s.key(name), err)
	}
	return nil
}

func (s *Session) lock(name string, mode global.LockMode) error {
	key := s.key(name)
	if err := validateLock(key, mode); err != nil {
		return err
	}
	if s.local.modes[name] != 0 {
		return ErrDeadlock
	}
	if len(s.local.modes) >= LocksMax {
		return ErrLocksMax
	}
	if w := s.tier.locks.acquire(key, mode); w != nil {
		if err := s.blocking(func(ctx context.Context) error {
			select {
			case <-w.ready:
				return nil
			case <-ctx.Done():
			}
			if s.tier.locks.leave(key, w) {
				return context.Cause(ctx)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	if s.local.modes == nil {
		s.local.modes = make(map[string]global.LockMode)
	}
	s.local.modes[name] = mode
	return nil
}

// Unlock lets go of the key's local lock and wakes who can have it now. ErrNotHeld if the
// session does not hold it.
func (s *Session) Unlock(name string) error {
	mode := s.local.modes[name]
	if mode == 0 {
		return fmt.Errorf("unlock %s: %w", s.key(name), ErrNotHeld)
	}
	delete(s.local.modes, name)
	s.tier.locks.release(s.key(name), mode)
	return nil
}

// unlockAll lets go of the local locks, when the session ends.
func (s *Session) unlockAll() {
	for name, mode := range s.local.modes {
		s.tier.locks.release(s.key(name), mode)
	}
	s.local.modes = nil
}

func validateLock(key global.Key, mode global.LockMode) error {
	if err := key.Validate(); err != nil {
		return err
	}
	if mode != global.LockRead && mode != global.LockWrite {
		return fmt.Errorf("%w: lock mode %d", global.ErrInvalid, mode)
	}
	return nil
}
