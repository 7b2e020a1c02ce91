package sched

import (
	"time"

	"github.com/faasm-go/faasm/internal/call"
)

// Deadlines. A timer for each call would be a good part of what a short call costs, and few
// need one: most have ended long before. So a call gets its timer when it waits, or when it
// has run for a while; those that have not are in a list, Scheduler.mu.young, which is
// looked through now and then. Only a call that may not run for that long gets its timer at
// once.

// sweepEvery is the time between two looks at the young. A call gets its timer at the
// second that it sees.
const sweepEvery = 10 * time.Millisecond

// stop stops a timer, if there is one.
func stop(t **time.Timer) {
	if *t != nil {
		(*t).Stop()
		*t = nil
	}
}

// cancelAtLocked has t's call cancelled when its deadline passes, if it has one.
func (t *ticket) cancelAtLocked(deadline time.Time) {
	if t.deadline == nil && !deadline.IsZero() {
		t.deadline = time.AfterFunc(time.Until(deadline), func() { t.call.Cancel(call.DeadlineExceeded) })
	}
}

// mindShort gives a call that has just begun its timer, if it may not run for long.
func (t *ticket) mindShort() {
	if d, ok := t.call.Allowed(); ok && d <= 2*sweepEvery {
		t.cancelAt()
	}
}

// cancelAt gives a call that runs its timer.
func (t *ticket) cancelAt() {
	deadline := t.call.Deadline()
	s := t.sched
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.young && !deadline.IsZero() {
		s.restLocked(t)
		t.cancelAtLocked(deadline)
	}
}

// runLocked makes t one that is carried, from now on minded by the sweeper.
func (s *Scheduler) runLocked(t *ticket) {
	t.state = running
	if t.deadline != nil {
		return
	}
	t.young, t.swept = true, false
	s.mu.young.push(t)
	if s.mu.sweeps {
		return
	}
	s.mu.sweeps = true
	if s.mu.sweeper == nil {
		s.mu.sweeper = time.AfterFunc(sweepEvery, s.sweep)
	} else {
		s.mu.sweeper.Reset(sweepEvery)
	}
}

// restLocked takes t from among the young, if it is there.
func (s *Scheduler) restLocked(t *ticket) {
	if t.young {
		t.young = false
		s.mu.young.remove(t)
	}
}

// sweep gives those that have run for a while their timers.
func (s *Scheduler) sweep() {
	var old []*ticket
	s.mu.Lock()
	for t := s.mu.young.head; t != nil; t = t.next {
		if t.swept {
			old = append(old, t)
		}
		t.swept = true
	}
	s.mu.sweeps = s.mu.young.n > 0
	if s.mu.sweeps && s.mu.sweeper != nil {
		s.mu.sweeper.Reset(sweepEvery)
	}
	s.mu.Unlock()
	for _, t := range old {
		t.cancelAt()
	}
}
