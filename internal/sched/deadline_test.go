package sched

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/faasm-go/faasm/internal/call"
)

// A call is cancelled at its deadline and not before, whatever it does then.
func TestDeadline(t *testing.T) {
	for _, tt := range []struct {
		name string
		p    program
	}{
		{"computes", hang},
		{"sleeps", func(g *guest) { g.await(time.Hour) }},
		{"sleeps, then computes", func(g *guest) {
			g.await(700 * time.Microsecond)
			hang(g)
		}},
		{"sleeps until just before, then computes", func(g *guest) {
			g.await(time.Until(g.call.Deadline()) - time.Microsecond)
			hang(g)
		}},
		// The child's deadline is the same, and the child may end first.
		{"waits for a child", func(g *guest) {
			g.await(0, g.chain(func(g *guest) { g.await(2 * time.Hour) }))
			hang(g)
		}},
		{"runs a child in its place", func(g *guest) {
			g.await(0, g.chain(hang))
			hang(g)
		}},
		{"blocks", func(g *guest) { g.Block(g.call, false, func() { hang(g) }) }},
	} {
		for _, timeout := range []time.Duration{time.Millisecond, 2 * sweepEvery, 2*sweepEvery + 1, 35 * time.Millisecond, time.Minute} {
			t.Run(fmt.Sprint(tt.name, "/", timeout), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newFake(t, Options{Places: 2, TenantPlaces: 2})
					time.Sleep(3 * time.Millisecond) // not in step with the sweeps
					start := time.Now()
					c := f.callUntil("a", start.Add(timeout), tt.p)
					f.Go(c)
					<-c.Done()
					if got, took := c.Result().Outcome, time.Since(start); got != call.DeadlineExceeded || took != timeout {
						t.Errorf("ended after %v as %v; want %v, deadline", took, got, timeout)
					}
					f.checkEmpty(t)
				})
			})
		}
	}
}

// Calls that are done within the time of a sweep get no timer, and when none runs, nothing
// is swept.
func TestDeadline_shortCallsHaveNoTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, Options{})
		c := f.callUntil("a", time.Now().Add(time.Hour), func(g *guest) {
			time.Sleep(sweepEvery)
			f.Scheduler.mu.Lock()
			defer f.Scheduler.mu.Unlock()
			if n := f.Scheduler.mu.young.n; n != 1 || !f.Scheduler.mu.sweeps || f.Scheduler.mu.young.head.deadline != nil {
				t.Errorf("%d young calls, swept: %v; want this one, without a timer", n, f.Scheduler.mu.sweeps)
			}
		})
		f.Do(c)()
		time.Sleep(2 * sweepEvery)
		f.Scheduler.mu.Lock()
		if f.Scheduler.mu.sweeps || f.Scheduler.mu.young.n != 0 {
			t.Errorf("%d young calls, swept: %v; want none", f.Scheduler.mu.young.n, f.Scheduler.mu.sweeps)
		}
		f.Scheduler.mu.Unlock()
		f.checkEmpty(t)
	})
}
