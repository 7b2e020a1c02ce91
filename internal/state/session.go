package state

import (
	"context"
	"errors"
	"fmt"

	"github.com/faasm-go/faasm/internal/state/global"
)

// Session is one Faaslet's use of state. It is for one goroutine.
//
// Its methods return the errors of package global where the global tier takes part, and
// ErrInvalid of it for a name that is no part of a key. Where a method says nothing else,
// an error means that nothing has changed here. Those that move a value to or from the
// global tier wait for each other, value by value, until the Waiter's context ends.
type Session struct {
	tier   *Tier
	tenant string
	wait   Waiter

	views map[slot]*holding
	// retired are values that are gone, and published versions that newer ones have
	// replaced: the Faaslet may have them mapped still. Each is pinned.
	retired []*holding

	local  localLocks // local locks that it holds
	leases leases     // global locks that it holds
}

// Session begins a Faaslet's use of the tenant's state. It takes nothing until it is used;
// the caller closes it.
func (t *Tier) Session(tenant string, w Waiter) *Session {
	return &Session{tier: t, tenant: tenant, wait: w}
}

// Close ends the session: its views, and its local locks, which others have at once. Its
// global locks are given up in the background. The Faaslet must not run any more, and nobody
// may look at what it has mapped: other values, other tenants' too, may come to be there.
func (s *Session) Close() {
	for _, h := range s.views {
		s.retired = append(s.retired, h)
	}
	for _, h := range s.retired {
		h.release()
	}
	s.views, s.retired = nil, nil
	s.unlockAll()
	s.releaseAll()
}

// key returns the key of a name of the session's tenant.
func (s *Session) key(name string) global.Key {
	return global.Key{Tenant: s.tenant, Name: name}
}

// slot is that of the value with the name.
func (s *Session) slot(name string) slot { return slot{key: s.key(name)} }

// blocking runs do, which may take long, through the session's Waiter.
func (s *Session) blocking(do func(ctx context.Context) error) error {
	var err error
	s.wait(func(ctx context.Context) { err = do(ctx) })
	return err
}

// moving runs do, which moves r to or from the global tier, when its turn comes.
func (s *Session) moving(r *replica, do func(ctx context.Context) error) error {
	return s.blocking(func(ctx context.Context) error {
		if err := r.move(ctx); err != nil {
			return err
		}
		defer r.endMove()
		return do(ctx)
	})
}

// errGone is returned where a replica is not in the table any more: who tries again finds
// what there is now.
var errGone = errors.New("it is there no more")

// movingValue is moving for a value that must not have been deleted meanwhile: errGone.
func (s *Session) movingValue(r *replica, do func(ctx context.Context) error) error {
	return s.moving(r, func(ctx context.Context) error {
		if r.gone.Load() {
			return errGone
		}
		return do(ctx)
	})
}

// moveValue runs do, which moves the value to or from the global tier, on the replica that
// find returns, when its turn comes. found is false, and do was not run, if there is none.
func (s *Session) moveValue(find func() (*replica, error), do func(ctx context.Context, r *replica) error) (found bool, err error) {
	for {
		r, err := find()
		if r == nil || err != nil {
			return false, err
		}
		err = s.movingValue(r, func(ctx context.Context) error { return do(ctx, r) })
		s.tier.unpin(r)
		if !errors.Is(err, errGone) {
			return true, err
		}
	}
}

// find returns the replica in a slot, pinned, or nil.
func (s *Session) find(at slot) (*replica, error) {
	if err := at.key.Validate(); err != nil {
		return nil, err // a value may be made here long before the global tier hears of it
	}
	return s.tier.pin(at)
}

// open returns the replica of the value with the name, pinned. If there is none it makes
// one without chunks, of what the global tier has, or, if that has nothing and the access
// is to create it, of zeroes.
func (s *Session) open(name string, a Access) (*replica, error) {
	r, err := s.find(s.slot(name))
	if r != nil || err != nil {
		return r, err
	}
	from, size := originGlobal, int64(0)
	err = s.blocking(func(ctx context.Context) error {
		info, err := s.tier.store.Stat(ctx, s.key(name))
		size = info.Size
		return err
	})
	if errors.Is(err, global.ErrNotFound) && a.Create {
		from, size = originZeros, a.CreateSize
		err = validateSize(size)
	}
	if err != nil {
		return nil, err
	}
	return s.tier.make(s.key(name), 0, from, size)
}

// make puts a replica without chunks into the table and returns it, pinned, or the one that
// is there; see insert.
func (t *Tier) make(key global.Key, version uint64, from origin, size int64) (*replica, error) {
	r, err := t.newReplica(key, version, from, size)
	if err != nil {
		return nil, err
	}
	r, _, err = t.insert(r)
	return r, err
}

// rangeError is what is returned for n bytes at off of a value of size bytes that has not
// all of them.
func rangeError(off, n, size int64) error {
	return fmt.Errorf("%w: %d bytes at %d of %d", ErrRange, n, off, size)
}

// checkRange checks a range, whose sum it keeps from wrapping.
func checkRange(off, n, size int64) error {
	if off < 0 || n < 0 || off > size || n > size-off {
		return rangeError(off, n, size)
	}
	return nil
}
