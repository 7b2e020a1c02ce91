package global

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// lockTable has the locks of a process, who holds them and who waits.
type lockTable struct {
	mu struct {
		sync.Mutex
		locks  map[string]*lock // those that are held or waited for
		leases map[*Lease]bool  // to be lost by close
		closed bool
	}
}

// lock is the lock of one key.
type lock struct {
	token   uint64 // the last that was given out, or 0 after it was unlocked
	readers int
	writer  bool
	queue   []*waiter // in order of arrival
}

type waiter struct {
	mode  LockMode
	ready chan struct{} // closed once the lock is held
}

// token returns the last token of a key, or 0 if its lease is over.
func (l *lockTable) token(k string) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if lock := l.mu.locks[k]; lock != nil {
		return lock.token
	}
	return 0
}

// setToken makes token the last of a key, whose lock is held.
func (l *lockTable) setToken(k string, token uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.locks[k].token = token
}

// acquire waits for the lock of k.
func (l *lockTable) acquire(ctx context.Context, k string, mode LockMode) error {
	w := &waiter{mode: mode, ready: make(chan struct{})}
	l.mu.Lock()
	if l.mu.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	if l.mu.locks == nil {
		l.mu.locks = make(map[string]*lock)
	}
	if l.mu.locks[k] == nil {
		l.mu.locks[k] = new(lock)
	}
	l.mu.locks[k].queue = append(l.mu.locks[k].queue, w)
	l.grantLocked(k)
	l.mu.Unlock()
	select {
	case <-w.ready:
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-w.ready:
		if l.mu.closed {
			return ErrClosed
		}
		return nil
	default:
	}
	lock := l.mu.locks[k]
	lock.queue = slices.DeleteFunc(lock.queue, func(other *waiter) bool { return other == w })
	l.grantLocked(k)
	return context.Cause(ctx)
}

// release lets go of a lock that is held.
func (l *lockTable) release(k string, mode LockMode, token uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lock := l.mu.locks[k]
	if mode == LockWrite {
		lock.writer = false
	} else {
		lock.readers--
	}
	if lock.token == token {
		lock.token = 0
	}
	l.grantLocked(k)
}

// grantLocked gives the lock to those at the head of the queue who can have it.
func (l *lockTable) grantLocked(k string) {
	lock := l.mu.locks[k]
	for len(lock.queue) > 0 && !lock.writer {
		w := lock.queue[0]
		if w.mode == LockWrite {
			if lock.readers > 0 {
				return
			}
			lock.writer = true
		} else {
			lock.readers++
		}
		lock.queue = lock.queue[1:]
		close(w.ready)
	}
	if len(lock.queue) == 0 && !lock.writer && lock.readers == 0 {
		delete(l.mu.locks, k)
	}
}

// hold takes note of a lease, to be lost by close.
func (l *lockTable) hold(lease *Lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.leases == nil {
		l.mu.leases = make(map[*Lease]bool)
	}
	l.mu.leases[lease] = true
	if l.mu.closed {
		lease.lose()
	}
}

// forget says whether the lease was held, and takes it off.
func (l *lockTable) forget(lease *Lease) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := l.mu.leases[lease] && !l.mu.closed
	delete(l.mu.leases, lease)
	return held
}

// close loses all leases and sends all waiters away.
func (l *lockTable) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.closed = true
	for lease := range l.mu.leases {
		lease.lose()
	}
	for _, lock := range l.mu.locks {
		lock.token = 0
		for _, w := range lock.queue {
			close(w.ready)
		}
		lock.queue = nil
	}
}

// Lock implements Store.
func (e *Embedded) Lock(ctx context.Context, key Key, mode LockMode) (*Lease, error) {
	lease, err := e.lock(ctx, key, mode)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", key, err)
	}
	return lease, nil
}

func (e *Embedded) lock(ctx context.Context, key Key, mode LockMode) (*Lease, error) {
	if err := validateLock(key, mode); err != nil {
		return nil, err
	}
	k := string(keyOf(key))
	if err := e.locks.acquire(ctx, k, mode); err != nil {
		return nil, lockTimeout(ctx, err)
	}
	// The committer gives out the token, after every change that the one before it let
	// through has been committed. It writes nothing.
	var token uint64
	if err := e.change(ctx, 0, func(*embeddedTx) error {
		token = e.tick()
		e.locks.setToken(k, token)
		return nil
	}); err != nil {
		e.locks.release(k, mode, 0)
		return nil, lockTimeout(ctx, err)
	}
	var lease *Lease
	lease = newLease(token, func(context.Context) error {
		if !e.locks.forget(lease) {
			return fmt.Errorf("unlock %s: %w", key, ErrLeaseLost)
		}
		e.locks.release(k, mode, token)
		return nil
	})
	e.locks.hold(lease)
	return lease, nil
}

func validateLock(key Key, mode LockMode) error {
	if err := key.Validate(); err != nil {
		return err
	}
	if mode != LockRead && mode != LockWrite {
		return fmt.Errorf("%w: lock mode %d", ErrInvalid, mode)
	}
	return nil
}

// lockTimeout adds ErrTimeout to an error that comes of the deadline of ctx.
func lockTimeout(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", ErrTimeout, err)
	}
	return err
}
