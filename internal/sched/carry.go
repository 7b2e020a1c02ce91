package sched

import (
	"sync/atomic"
	"time"

	"github.com/faasm-go/faasm/internal/call"
)

// How calls are carried, from their admission to the end of their Faaslets.
//
// A call that has a place is run by a goroutine (carry), until it ends or waits. What it
// waits for comes back as data (call.Wait), so a Faaslet that waits has nothing on a
// goroutine's stack: it is a ticket in state blocked, and nobody's. Three can wake it: a
// child that finishes, whoever cancels it, and its timer. Who first takes the Wait out of
// ticket.waiting puts the ticket in the queue of those who go on; when a place is free, a
// goroutine is started that carries it on from there. A ticket that is held has a goroutine
// that waits for it, its caller's, and that one goes on.
//
// A call that waits for just one child which has not begun lends it its place: the same
// goroutine runs the child, and then goes on with the parent. If the child waits in turn,
// parent and child are blocked like all others.

// A ticket is a call in the scheduler. Its fields are guarded by Scheduler.mu, or belong to
// the goroutine that carries it, as they say.
type ticket struct {
	// Immutable.
	sched  *Scheduler
	tenant *tenant // set by admitLocked
	call   *call.Call
	run    Run
	held   bool // its goroutine waits in do, or in Block

	// task is nil until the call has begun, and if it ended at that. It is set once, by the
	// goroutine that carries it.
	task atomic.Value // Task

	// Of the goroutine that carries it.
	over   bool // it has finished
	wait   *call.Wait
	lender *ticket // the call in whose place it runs, which waits for it

	// waiting is what it waits for while it is blocked. Who takes that out wakes it.
	waiting atomic.Pointer[call.Wait]

	// Guarded by Scheduler.mu.
	state    ticketState
	parked   bool          // it counts as one that waits for a child
	young    bool          // it is in Scheduler.mu.young
	swept    bool          // and was there at a sweep
	ready    chan struct{} // of one that is held and waits: a token comes when it has a place or is dropped
	timer    *time.Timer   // ends its wait
	deadline *time.Timer   // cancels it
	awaited  *ticket       // the call that is blocked until just this one has finished
	// Its neighbours in a queue: of those that wait for a place, or of the young.
	next, prev *ticket
}

type ticketState uint8

const (
	arrives ticketState = iota // is in no queue yet
	starts                     // waits for its first place
	resumes                    // waits for a place to go on
	granted                    // it has a place, and a goroutine was started for it
	running                    // a goroutine carries it
	blocked                    // it waits for something else than a place
	dropped                    // cancelled or refused before it began
)

// spawnLocked starts a goroutine for k, which has a place. If k's parent takes k first,
// or an earlier goroutine does that came too late for that, the place is given back.
func (s *Scheduler) spawnLocked(k *ticket) {
	k.state = granted
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		s.mu.Lock()
		if k.state != granted {
			s.giveLocked(k.tenant)
			s.unlock()
			return
		}
		s.runLocked(k)
		delete(s.mu.queued, k.call)
		s.mu.Unlock()
		s.carry(k)
	}()
}

// carry runs the call of t, which has a place, and then whatever goes on in that place.
// When it returns, the place has been given back, and t has finished or is blocked.
func (s *Scheduler) carry(t *ticket) {
	for t != nil {
		if w := t.step(); w != nil {
			t = s.wait(t, w)
		} else {
			t = s.finish(t)
		}
	}
}

// step runs the call until it has finished (nil) or waits.
func (t *ticket) step() *call.Wait {
	task := t.begun()
	if task == nil {
		if task = t.run(t.call); task == nil {
			return nil
		}
		t.task.Store(task)
		if _, cancelled := t.call.Cancelled(); cancelled {
			task.Interrupt() // Wake may have come before there was a task
		}
		t.mindShort()
	}
	return task.Run()
}

// begun is the call's task, or nil.
func (t *ticket) begun() Task {
	task, _ := t.task.Load().(Task)
	return task
}

// clean cleans up after a call that has finished.
func (t *ticket) clean() {
	if task := t.begun(); task != nil {
		task.Clean()
	}
}

// runOut ends a call that was cancelled before it began.
func (t *ticket) runOut() {
	if t.call.Result() != nil {
		return // refused
	}
	if t.step() != nil {
		panic("BUG: a call that was cancelled before it began waits")
	}
	t.clean()
}

// finish sees to a call that has finished, and returns the one that goes on in its place,
// if any.
func (s *Scheduler) finish(t *ticket) *ticket {
	t.over = true
	lender := t.lender
	s.mu.Lock()
	s.restLocked(t)
	stop(&t.deadline)
	if lender == nil {
		s.giveLocked(t.tenant)
	}
	s.unlock()
	if !t.held {
		s.end(t)
	}
	return lender
}

// end cleans up after a Faaslet, which is alive until then.
func (s *Scheduler) end(t *ticket) {
	t.clean()
	s.mu.Lock()
	s.endLocked(t.tenant)
	s.unlock()
}

// wait has t wait, and returns whose turn it is in t's place: t's, if the wait is over; its
// child's, if that has not begun; or nobody's, and the place is given back.
func (s *Scheduler) wait(t *ticket, w *call.Wait) *ticket {
	if w.Over(t.call) {
		return t
	}
	t.wait = w
	if child := s.claim(w); child != nil {
		child.lender = t
		return child
	}
	for t != nil {
		tenant, lender := t.tenant, t.lender // t is anybody's as soon as it is blocked
		s.block(t)
		if lender == nil {
			s.mu.Lock()
			s.giveLocked(tenant)
			s.unlock()
		}
		t = lender
	}
	return nil
}

// claim takes the call that w waits for away from its queue or its goroutine, if it is the
// only one and has not begun. A place that the goroutine was given is given back by it.
func (s *Scheduler) claim(w *call.Wait) *ticket {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.onlyLocked(w)
	if t == nil {
		return nil
	}
	if t.state == starts {
		if !s.roomLocked(t.tenant) {
			return nil
		}
		s.leaveLocked(t)
		s.startLocked(t.tenant)
	}
	s.runLocked(t)
	delete(s.mu.queued, t.call)
	return t
}

// onlyLocked is the one call that w waits for, if that has not begun.
func (s *Scheduler) onlyLocked(w *call.Wait) *ticket {
	if len(w.Calls) != 1 || !w.Children() {
		return nil
	}
	return s.mu.queued[w.Calls[0]]
}

// block makes t data: from now on it belongs to who wakes it.
func (s *Scheduler) block(t *ticket) {
	deadline, w := t.call.Deadline(), t.wait
	s.mu.Lock()
	s.restLocked(t)
	t.wait, t.lender = nil, nil
	t.state = blocked
	if t.held && t.ready == nil {
		t.ready = make(chan struct{}, 1)
	}
	if w.Children() {
		t.parked = true
		t.tenant.parked++
		s.mu.parked++
	}
	if child := s.onlyLocked(w); child != nil {
		child.awaited = t
	}
	t.waiting.Store(w)
	if w.For > 0 {
		t.timer = time.AfterFunc(w.For, func() { t.wake(w) })
	}
	t.cancelAtLocked(deadline)
	s.mu.Unlock()
	t.Wake() // for what happened before
}

// Wake sees to t after a child of its call has finished, or its call was cancelled. See
// call.Waker.
func (t *ticket) Wake() {
	if _, cancelled := t.call.Cancelled(); cancelled {
		if task := t.begun(); task != nil {
			task.Interrupt()
		} else {
			t.leave()
		}
	}
	if w := t.waiting.Load(); w != nil && w.Over(t.call) {
		t.wake(w)
	}
}

// wake ends a wait, unless somebody else has.
func (t *ticket) wake(w *call.Wait) {
	if !t.waiting.CompareAndSwap(w, nil) {
		return
	}
	s := t.sched
	s.mu.Lock()
	s.unparkLocked(t)
	stop(&t.timer)
	s.resumeLocked(t)
	s.unlock()
}

// unparkLocked has t no longer count as one that waits for a child.
func (s *Scheduler) unparkLocked(t *ticket) {
	if t.parked {
		t.parked = false
		t.tenant.parked--
		s.mu.parked--
	}
}

// mind has a call that waits for its start leave its queue as soon as it is cancelled or
// its deadline passes.
func (s *Scheduler) mind(t *ticket) {
	deadline := t.call.Deadline()
	s.mu.Lock()
	if t.state == starts {
		t.cancelAtLocked(deadline)
	}
	s.mu.Unlock()
	t.Wake() // for what happened before
}

// leave takes a call that was cancelled before it began out of its queue, and has it end.
func (t *ticket) leave() {
	s := t.sched
	s.mu.Lock()
	if t.state == starts {
		s.dropLocked(t)
		if t.held {
			t.ready <- struct{}{}
		} else {
			s.wg.Go(t.runOut)
		}
	}
	s.unlock()
}
