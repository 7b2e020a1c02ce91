package global

import (
	"context"
	"sync"
)

// LockMode is what a lock is held for.
type LockMode uint8

// The modes: any number may hold a lock to read, or one to write.
const (
	LockRead LockMode = iota + 1
	LockWrite
)

// A Lease is a lock that is held. It is renewed in the background until Unlock, or until
// the Store is closed, or the holder is cut off from the store for longer than the lease
// lasts; then it is lost.
//
// That a lease is lost is noticed late by a host that does not run, so a change that
// relies on the lock names its token in a Condition.
type Lease struct {
	token uint64
	lost  chan struct{} // closed once the lease is over without Unlock
	once  sync.Once     // for closing lost

	// release lets go of the lock. It returns ErrLeaseLost if it was not held any more.
	release func(context.Context) error
	unlock  sync.Once
	err     error // of release; guarded by unlock
}

func newLease(token uint64, release func(context.Context) error) *Lease {
	return &Lease{token: token, lost: make(chan struct{}), release: release}
}

// Token is the lease's fencing token. It is greater than those of all leases of the key
// before it.
func (l *Lease) Token() uint64 { return l.token }

// Lost is closed when the lease is lost. It stays open after Unlock.
func (l *Lease) Lost() <-chan struct{} { return l.lost }

// Unlock lets go of the lock and wakes who waits for it. It returns ErrLeaseLost if the
// lease had been lost. After another error the lock is let go of when the lease runs
// out. A second Unlock returns what the first did.
func (l *Lease) Unlock(ctx context.Context) error {
	l.unlock.Do(func() { l.err = l.release(ctx) })
	return l.err
}

func (l *Lease) lose() {
	l.once.Do(func() { close(l.lost) })
}
