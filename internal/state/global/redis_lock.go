package global

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/redis/rueidis"
)

// Lock implements Store.
//
// Who waits stands in a queue in Redis, and is told on its host's channel when it may
// have the lock; it then asks again. It also asks from time to time, to keep its place,
// and when a lease or the wait of another runs out.
func (r *Redis) Lock(ctx context.Context, key Key, mode LockMode) (*Lease, error) {
	err := validateLock(key, mode)
	var lease *Lease
	if err == nil {
		lease, err = r.lock(ctx, key, mode)
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", key, lockTimeout(ctx, err))
	}
	return lease, nil
}

func (r *Redis) lock(ctx context.Context, key Key, mode LockMode) (*Lease, error) {
	r.listening.Do(r.listen)
	who := rand.Text()
	told := make(chan struct{}, 1)
	r.mu.Lock()
	r.mu.waiters[who] = told
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.mu.waiters, who)
		r.mu.Unlock()
	}()
	letter := map[LockMode]string{LockRead: "r", LockWrite: "w"}[mode]
	wait := r.opts.Lease
	for {
		asked := time.Now()
		status, p, err := r.run(ctx, scriptLock, key, []string{who, letter, r.host, microseconds(r.opts.Lease), microseconds(wait)})
		if err != nil {
			r.leave(key, who)
			return nil, err
		}
		if status != statusWait {
			return r.hold(key, p.uint(0), asked)
		}
		ahead := min(p.uint(0), uint64(wait.Microseconds()))
		again := time.NewTimer(min(time.Duration(ahead)*time.Microsecond+time.Millisecond, wait/3))
		select {
		case <-told:
		case <-again.C:
		case <-ctx.Done():
			r.leave(key, who)
			return nil, context.Cause(ctx)
		case <-r.closing:
			r.leave(key, who)
			return nil, ErrClosed
		}
		again.Stop()
	}
}

// leave takes who no longer waits off the queue, in the background: the caller has no
// time left. If that fails too, its place runs out.
func (r *Redis) leave(key Key, who string) {
	r.spawn(func() { _, _, _ = r.run(r.ctx, scriptLeave, key, []string{who}) })
}

// hold makes a lease that was asked for at a time, and keeps it.
func (r *Redis) hold(key Key, token uint64, asked time.Time) (*Lease, error) {
	over := make(chan struct{}) // closed by Unlock
	unlock := func(ctx context.Context) error {
		_, _, err := r.run(ctx, scriptUnlock, key, []string{str(token)})
		return err
	}
	var lease *Lease
	lease = newLease(token, func(ctx context.Context) error {
		close(over)
		err := unlock(ctx)
		select {
		case <-lease.lost:
			err = ErrLeaseLost
		default:
			if errors.Is(err, ErrNotFound) {
				err = ErrLeaseLost
			}
		}
		if err != nil {
			return fmt.Errorf("unlock %s: %w", key, err)
		}
		return nil
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.closed {
		return nil, ErrClosed // the lease runs out
	}
	r.mu.leases.Go(func() { r.keep(key, lease, asked, over) })
	return lease, nil
}

// keep renews a lease until over is closed, or the lease is lost: when Redis says so, or
// when it has not been renewed for as long as it lasts, counted from before the request
// was sent, so that it is not later than Redis's.
func (r *Redis) keep(key Key, lease *Lease, renewed time.Time, over <-chan struct{}) {
	every := time.NewTicker(r.opts.Lease / 3)
	defer every.Stop()
	end := time.NewTimer(time.Until(renewed.Add(r.opts.Lease)))
	defer end.Stop()
	answers := make(chan func() (time.Time, error), 1)
	asking := false
	for {
		select {
		case <-over:
			return
		case <-r.closing:
			lease.lose()
			_, _, _ = r.run(r.ctx, scriptUnlock, key, []string{str(lease.token)}) // else it runs out
			return
		case <-end.C:
			lease.lose()
			return
		case <-every.C:
			if asking {
				continue
			}
			// Beside this goroutine, which must see the end while Redis is silent.
			asking = r.spawn(func() {
				at := time.Now()
				_, _, err := r.run(r.ctx, scriptRenewLease, key, []string{str(lease.token), microseconds(r.opts.Lease)})
				answers <- func() (time.Time, error) { return at, err }
			})
		case answer := <-answers:
			asking = false
			at, err := answer()
			if err == nil {
				end.Reset(time.Until(at.Add(r.opts.Lease)))
			} else if errors.Is(err, ErrNotFound) {
				lease.lose()
				return
			}
		}
	}
}

// listen tells those who wait here that they may ask again. It listens to each node of a
// cluster, because a node tells its own listeners at once, and the others' later.
func (r *Redis) listen() {
	for _, node := range r.client.Nodes() {
		r.spawn(func() { r.listenTo(node) })
	}
}

func (r *Redis) listenTo(node rueidis.Client) {
	ctx := rueidis.WithOnSubscriptionHook(r.ctx, func(rueidis.PubSubSubscription) {
		// What was said before is lost.
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, told := range r.mu.waiters {
			tell(told)
		}
	})
	for r.ctx.Err() == nil {
		_ = node.Receive(ctx, node.B().Subscribe().Channel(r.host).Build(), func(m rueidis.PubSubMessage) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if told := r.mu.waiters[m.Message]; told != nil {
				tell(told)
			}
		})
		// Meanwhile those who wait ask from time to time.
		select {
		case <-time.After(100 * time.Millisecond):
		case <-r.ctx.Done():
		}
	}
}

func tell(told chan<- struct{}) {
	select {
	case told <- struct{}{}:
	default:
	}
}
