// Package sched decides when a call runs: which of the calls that wait gets the next place
// among the running, and which is turned away because too many wait.
//
// A place is the right to compute. There are few (Options.Places), since each may hold an
// OS thread, and a Faaslet that blocks in a host call gives its place up meanwhile: so
// tens of thousands of Faaslets can wait for each other on a handful of threads.
//
// Tenants take turns. A tenant can hold no more than its share of the places, wait with no
// more than its share of the queue, and keep no more than its share of the Faaslets alive;
// beyond that only its own calls wait or are refused.
//
// The package does not run guests (it is given a function that does) and does not know
// other hosts.
//
// Lock order: Scheduler.mu is a leaf. Nothing that may lock a call is done under it.
package sched

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/faasm-go/faasm/internal/call"
)

// Options are a Scheduler's limits. The zero value of each means its default.
type Options struct {
	Places       int // guests that compute at once; 8 for each core, at most 32
	TenantPlaces int // of them, for one tenant; 2 for each core
	QueueMax     int // calls that wait for their start; 200,000
	TenantQueue  int // of them, for one tenant; half of QueueMax
	QueueBytes   int // of the inputs of one tenant's waiting calls; 256 MiB
	LiveMax      int // Faaslets alive, those that block included; 20,000
	TenantLive   int // of them, for one tenant; half of LiveMax
}

func (o Options) withDefaults() Options {
	set := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	cores := runtime.GOMAXPROCS(0)
	set(&o.Places, min(32, 8*cores))
	set(&o.TenantPlaces, min(2*cores, o.Places))
	set(&o.QueueMax, 200_000)
	set(&o.TenantQueue, (o.QueueMax+1)/2)
	set(&o.QueueBytes, 256<<20)
	set(&o.LiveMax, 20_000)
	set(&o.TenantLive, (o.LiveMax+1)/2)
	return o
}

func (o Options) validate() error {
	for _, v := range []int{o.Places, o.TenantPlaces, o.QueueMax, o.TenantQueue, o.QueueBytes, o.LiveMax, o.TenantLive} {
		if v < 1 {
			return fmt.Errorf("scheduler limits %+v: each must be positive", o)
		}
	}
	return nil
}

// Run runs a call to its end on the calling goroutine and finishes it. It is also given
// calls that were cancelled while they waited, which must end at once. What it returns, if
// not nil, cleans up after the call: it is run without a place, after the reply.
type Run func(*call.Call) (clean func())

// Scheduler is safe for concurrent use. It owns the goroutines that carry the calls given
// to Go; Close waits for them.
type Scheduler struct {
	opts Options
	run  Run
	wg   sync.WaitGroup

	mu struct {
		sync.Mutex
		free    int // places that nobody holds
		live    int // Faaslets alive
		waiting int // calls that wait to start
		parked  int // Faaslets that wait for one of their children
		tenants map[string]*tenant
		ring    []*tenant // those for whom somebody waits, in turn
		turn    int       // index in ring
		queued  map[*call.Call]*ticket
		closed  bool
		empty   *sync.Cond // signalled when nothing runs or waits any more
	}
}

// A tenant's part of the scheduler, guarded by Scheduler.mu.
type tenant struct {
	name       string
	running    int   // places held
	live       int   // Faaslets alive
	parked     int   // of them, those that wait for a child
	starts     queue // calls that wait to start
	startBytes int   // of their inputs
	resumes    queue // Faaslets that wait to go on; they come first
	inRing     bool
}

// A ticket is one wait for a place.
type ticket struct {
	tenant *tenant
	call   *call.Call
	run    Run
	ready  chan struct{} // closed when the wait is over; nil: a goroutine is started then
	state  ticketState
	// awaited is set while the call's parent waits for just this call.
	awaited *parking
	next    *ticket
}

type ticketState uint8

const (
	waits   ticketState = iota
	granted             // it has a place; if a goroutine was started for it, that has not begun
	taken               // begun
	dropped             // cancelled or refused: it has no place
)

// queue is a list of tickets, of which those no longer waiting are passed over.
type queue struct {
	head, tail *ticket
	n          int // tickets that wait
}

func (q *queue) push(t *ticket) {
	if q.tail == nil {
		q.head = t
	} else {
		q.tail.next = t
	}
	q.tail = t
	q.n++
}

// first is the first ticket that waits; those before it are let go of.
func (q *queue) first() *ticket {
	for q.head != nil && q.head.state != waits {
		q.drop()
	}
	return q.head
}

func (q *queue) drop() {
	t := q.head
	q.head, t.next = t.next, nil
	if q.head == nil {
		q.tail = nil
	}
}

// pop takes out the first ticket that waits. The caller accounts for it (leaveLocked).
func (q *queue) pop() *ticket {
	t := q.first()
	if t != nil {
		q.drop()
	}
	return t
}

// New makes a scheduler.
func New(opts Options, run Run) (*Scheduler, error) {
	opts = opts.withDefaults()
	if err := opts.validate(); err != nil {
		return nil, err
	}
	s := &Scheduler{opts: opts, run: run}
	s.mu.free = opts.Places
	s.mu.tenants = map[string]*tenant{}
	s.mu.queued = map[*call.Call]*ticket{}
	s.mu.empty = sync.NewCond(&s.mu)
	return s, nil
}

// Options are the limits in force.
func (s *Scheduler) Options() Options { return s.opts }

// Stats is a picture of the scheduler.
type Stats struct {
	Running int // guests that hold a place
	Live    int // Faaslets alive
	Waiting int // calls that wait to start
	Parked  int // Faaslets that wait for one of their children
	Tenants int // that have any of these
}

// Stats tells how busy the host is.
func (s *Scheduler) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{
		Running: s.opts.Places - s.mu.free, Live: s.mu.live, Waiting: s.mu.waiting,
		Parked: s.mu.parked, Tenants: len(s.mu.tenants),
	}
}

var (
	// ErrOverloaded is why a call is refused when too many wait already.
	ErrOverloaded = errors.New("overloaded")
	// ErrClosed is why a call is refused when the host is going away.
	ErrClosed = errors.New("the host is stopping")
)

// refuse finishes a call that is not to run.
func refuse(c *call.Call, reason error) {
	c.Finish(call.Result{Outcome: call.Refused, Finished: time.Now(), Failure: &call.Failure{Message: reason.Error()}})
}

// Do runs c on this goroutine when its turn comes, and returns when it has finished. If it
// refuses c, c has finished with outcome Refused. The caller must call done, once, when it
// has replied: the Faaslet counts as alive until then.
func (s *Scheduler) Do(c *call.Call) (done func()) { return s.DoWith(c, s.run) }

// DoWith is Do for a call that run runs.
func (s *Scheduler) DoWith(c *call.Call, run Run) (done func()) {
	t := &ticket{call: c, run: run}
	s.mu.Lock()
	if err := s.admitLocked(t); err != nil {
		s.mu.Unlock()
		refuse(c, err)
		return func() {}
	}
	if s.takeLocked(t.tenant) {
		s.mu.Unlock()
		return s.carry(t)
	}
	t.ready = make(chan struct{})
	s.waitLocked(t)
	s.unlock()
	stop := s.minding(t)
	<-t.ready
	stop()
	s.mu.Lock()
	lost := t.state == dropped
	s.mu.Unlock()
	if lost {
		if c.Result() == nil {
			clean(run(c)) // cancelled: ends at once
		}
		return func() {}
	}
	return s.carry(t)
}

func clean(f func()) {
	if f != nil {
		f()
	}
}

// Go runs c on a goroutine of the scheduler's when its turn comes, and returns at once. If
// it refuses c, c has finished with outcome Refused.
func (s *Scheduler) Go(c *call.Call) {
	t := &ticket{call: c, run: s.run}
	s.mu.Lock()
	if err := s.admitLocked(t); err != nil {
		s.mu.Unlock()
		refuse(c, err)
		return
	}
	s.mu.queued[c] = t
	if s.takeLocked(t.tenant) {
		s.spawnLocked(t)
		s.mu.Unlock()
		return
	}
	s.waitLocked(t)
	s.unlock()
	s.minding(t)
}

// Await blocks until child has finished or parent, which runs on this goroutine, was
// cancelled. A child that has not begun is run here and now, in its parent's place:
// nothing is handed to another thread.
func (s *Scheduler) Await(parent, child *call.Call) {
	if t := s.claim(child); t != nil {
		s.end(t.tenant, s.run(child))
		return
	}
	s.block(parent, &parking{child: child}, func() {
		for wake := parent.Wake(); child.Result() == nil; <-wake {
			if _, cancelled := parent.Cancelled(); cancelled {
				return
			}
		}
	})
}

// claim takes a call that has not begun away from its queue or its goroutine. A place that
// the goroutine was given is given back by it.
func (s *Scheduler) claim(c *call.Call) *ticket {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.mu.queued[c]
	if t == nil {
		return nil
	}
	if t.state == waits {
		if !s.roomLocked(t.tenant) {
			return nil
		}
		s.leaveLocked(t)
		s.startLocked(t.tenant)
	}
	t.state = taken
	delete(s.mu.queued, c)
	return t
}

// Block runs wait while c, which runs on this goroutine, holds no place. children tells
// that only the end of one of c's children, or c's own cancellation, will end the wait.
func (s *Scheduler) Block(c *call.Call, children bool, wait func()) {
	var p *parking
	if children {
		p = &parking{}
	}
	s.block(c, p, wait)
}

// A parking is a Faaslet's wait for one of its children.
type parking struct {
	child *call.Call // nil if any of several will do
	over  bool       // the child has been refused, so the wait is about to end
}

func (s *Scheduler) block(c *call.Call, p *parking, wait func()) {
	s.mu.Lock()
	t := s.mu.tenants[c.Request().Tenant]
	if p != nil {
		s.mu.parked++
		t.parked++
		if k := s.mu.queued[p.child]; k != nil {
			k.awaited = p
		}
	}
	s.giveLocked(t)
	s.unlock()

	wait()

	s.mu.Lock()
	if p != nil && !p.over {
		s.mu.parked--
		t.parked--
	}
	if s.mu.free > 0 && t.running < s.opts.TenantPlaces && t.resumes.n == 0 {
		s.mu.free--
		t.running++
		s.mu.Unlock()
		return
	}
	k := &ticket{tenant: t, call: c, ready: make(chan struct{})}
	t.resumes.push(k)
	s.joinLocked(t)
	s.mu.Unlock()
	<-k.ready
}

// carry runs the call of a ticket that has a place, and gives the place back. What it
// returns ends the Faaslet's life.
func (s *Scheduler) carry(t *ticket) (done func()) {
	clean := t.run(t.call)
	s.mu.Lock()
	s.giveLocked(t.tenant)
	s.unlock()
	return func() { s.end(t.tenant, clean) }
}

// end cleans up after a Faaslet, which is alive until then.
func (s *Scheduler) end(t *tenant, f func()) {
	clean(f)
	s.mu.Lock()
	s.endLocked(t)
	s.unlock()
}

// admitLocked finds the tenant of a ticket, or the reason to refuse it.
func (s *Scheduler) admitLocked(t *ticket) error {
	req := t.call.Request()
	if s.mu.closed {
		return ErrClosed
	}
	tn := s.mu.tenants[req.Tenant]
	if tn == nil {
		tn = &tenant{name: req.Tenant}
		s.mu.tenants[req.Tenant] = tn
	}
	t.tenant = tn
	err := s.fullLocked(tn, req)
	if err != nil {
		s.forgetLocked(tn)
	}
	return err
}

// fullLocked tells why a call can't wait here. Asynchronous ones can always: they were
// admitted (Admit) before they were accepted.
func (s *Scheduler) fullLocked(tn *tenant, req *call.Request) error {
	switch {
	case req.Async:
		return nil
	case s.mu.waiting >= s.opts.QueueMax:
		return fmt.Errorf("%w: %d calls wait on this host", ErrOverloaded, s.mu.waiting)
	case tn.starts.n >= s.opts.TenantQueue:
		return fmt.Errorf("%w: %d calls of tenant %s wait on this host", ErrOverloaded, tn.starts.n, tn.name)
	case tn.starts.n > 0 && tn.startBytes+len(req.Input) > s.opts.QueueBytes:
		return fmt.Errorf("%w: the inputs of the %d calls of tenant %s that wait fill %d MiB", ErrOverloaded, tn.starts.n, tn.name, tn.startBytes>>20)
	}
	return nil
}

// Admit tells whether a call of that tenant would be taken now, or why not. An
// asynchronous call is admitted before it is made durable, and then taken whatever has
// come meanwhile.
func (s *Scheduler) Admit(tenantName string, input []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return ErrClosed
	}
	t := s.mu.tenants[tenantName]
	if t == nil {
		t = &tenant{name: tenantName}
	}
	return s.fullLocked(t, &call.Request{Input: input})
}

// roomLocked tells whether another Faaslet of t may come alive.
func (s *Scheduler) roomLocked(t *tenant) bool {
	return s.mu.live < s.opts.LiveMax && t.live < s.opts.TenantLive
}

// takeLocked takes a place for a start, unless a call of the tenant's waits before it.
func (s *Scheduler) takeLocked(t *tenant) bool {
	if s.mu.free == 0 || t.running >= s.opts.TenantPlaces || t.starts.n > 0 || !s.roomLocked(t) {
		return false
	}
	s.mu.free--
	t.running++
	s.startLocked(t)
	return true
}

func (s *Scheduler) startLocked(t *tenant) {
	s.mu.live++
	t.live++
}

func (s *Scheduler) endLocked(t *tenant) {
	s.mu.live--
	t.live--
	s.forgetLocked(t)
}

// forgetLocked lets go of a tenant that has nothing here any more.
func (s *Scheduler) forgetLocked(t *tenant) {
	if t.running == 0 && t.live == 0 && !t.inRing {
		delete(s.mu.tenants, t.name)
	}
}

// giveLocked gives a place back; unlock gives it to who waits.
func (s *Scheduler) giveLocked(t *tenant) {
	s.mu.free++
	t.running--
	s.forgetLocked(t)
}

// waitLocked puts a start in its queue.
func (s *Scheduler) waitLocked(t *ticket) {
	t.tenant.starts.push(t)
	t.tenant.startBytes += len(t.call.Request().Input)
	s.mu.waiting++
	s.joinLocked(t.tenant)
}

// leaveLocked accounts for a start that waits no more.
func (s *Scheduler) leaveLocked(t *ticket) {
	t.tenant.starts.n--
	t.tenant.startBytes -= len(t.call.Request().Input)
	s.mu.waiting--
}

// joinLocked gives a tenant its turn, behind all others.
func (s *Scheduler) joinLocked(t *tenant) {
	if t.inRing {
		return
	}
	t.inRing = true
	s.mu.ring = append(s.mu.ring, t)
}

// unlock gives the free places to who waits, breaks a deadlock if there is one, and
// unlocks.
func (s *Scheduler) unlock() {
	for {
		s.dispatchLocked()
		victim := s.stuckLocked()
		if victim == nil {
			if s.mu.live == 0 && s.mu.waiting == 0 {
				s.mu.empty.Broadcast()
			}
			s.mu.Unlock()
			return
		}
		s.dropLocked(victim)
		if p := victim.awaited; p != nil {
			p.over = true
			s.mu.parked--
			victim.tenant.parked--
		}
		s.mu.Unlock()
		refuse(victim.call, fmt.Errorf("%w: every Faaslet of tenant %s waits for another call, and there is no room for one more (%d alive)",
			ErrOverloaded, victim.tenant.name, victim.tenant.live))
		if victim.ready != nil {
			close(victim.ready)
		}
		s.mu.Lock()
	}
}

// dispatchLocked gives out the free places, one tenant after another.
func (s *Scheduler) dispatchLocked() {
	for idle := 0; s.mu.free > 0 && idle < len(s.mu.ring); {
		if s.mu.turn >= len(s.mu.ring) {
			s.mu.turn = 0
		}
		t := s.mu.ring[s.mu.turn]
		if k := s.nextLocked(t); k != nil {
			s.grantLocked(k)
			idle = 0
		} else {
			idle++
		}
		if t.starts.n == 0 && t.resumes.n == 0 {
			t.inRing = false
			s.mu.ring = append(s.mu.ring[:s.mu.turn], s.mu.ring[s.mu.turn+1:]...)
			s.forgetLocked(t)
		} else {
			s.mu.turn++
		}
	}
}

// nextLocked takes out the ticket of t that is next to have a place, if t may have one:
// Faaslets that want to go on come before calls that want to start, so that few are alive.
func (s *Scheduler) nextLocked(t *tenant) *ticket {
	if t.running >= s.opts.TenantPlaces {
		return nil
	}
	if k := t.resumes.pop(); k != nil {
		t.resumes.n--
		return k
	}
	if !s.roomLocked(t) {
		return nil
	}
	k := t.starts.pop()
	if k != nil {
		s.leaveLocked(k)
		s.startLocked(t)
	}
	return k
}

func (s *Scheduler) grantLocked(k *ticket) {
	s.mu.free--
	k.tenant.running++
	k.state = granted
	if k.ready != nil {
		close(k.ready)
		return
	}
	s.spawnLocked(k)
}

// spawnLocked starts the goroutine that carries k's call, unless the parent claims it
// first.
func (s *Scheduler) spawnLocked(k *ticket) {
	k.state = granted
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		s.mu.Lock()
		if k.state == taken { // the parent runs it in its own place
			s.giveLocked(k.tenant)
			s.unlock()
			return
		}
		k.state = taken
		delete(s.mu.queued, k.call)
		s.mu.Unlock()
		s.carry(k)()
	}()
}

// dropLocked takes a ticket that waits out of its queue, for good.
func (s *Scheduler) dropLocked(t *ticket) {
	s.leaveLocked(t)
	t.state = dropped
	delete(s.mu.queued, t.call)
}

// minding has a call that waits leave its queue as soon as it is cancelled or its deadline
// passes.
func (s *Scheduler) minding(t *ticket) (stop func()) {
	var timer *time.Timer
	if d := t.call.Deadline(); !d.IsZero() {
		timer = time.AfterFunc(time.Until(d), func() { t.call.Cancel(call.DeadlineExceeded) })
	}
	stopHook := t.call.OnCancel(func() {
		s.mu.Lock()
		if t.state != waits {
			s.mu.Unlock()
			return
		}
		s.dropLocked(t)
		if t.ready != nil {
			close(t.ready)
		} else {
			s.wg.Add(1)
			go func() {
				defer s.wg.Done()
				clean(t.run(t.call))
			}()
		}
		s.unlock()
	})
	return func() {
		if timer != nil {
			timer.Stop()
		}
		stopHook()
	}
}

// stuckLocked finds a call to refuse when nothing else can go on: all of a tenant's
// Faaslets, or all on the host, wait for children that have no room to start. It is one
// that a parent waits for, so that the parent goes on, and makes room when it ends; or
// else one that was chained. To refuse an outermost call would help nobody.
func (s *Scheduler) stuckLocked() *ticket {
	if s.mu.waiting == 0 || s.mu.parked == 0 {
		return nil
	}
	full := s.mu.live >= s.opts.LiveMax && s.mu.parked == s.mu.live
	for _, t := range s.mu.ring {
		if t.starts.n == 0 || !full && (t.live < s.opts.TenantLive || t.parked < t.live) {
			continue
		}
		var chained *ticket
		for k := t.starts.head; k != nil; k = k.next {
			if k.state == waits && k.awaited != nil {
				return k
			}
			if k.state == waits && chained == nil && !k.call.Request().Parent.IsZero() {
				chained = k
			}
		}
		if chained != nil {
			return chained
		}
	}
	return nil
}

// Close refuses all new calls and waits until the others have ended. Who wants that to be
// soon cancels them.
func (s *Scheduler) Close() {
	s.mu.Lock()
	s.mu.closed = true
	for s.mu.live > 0 || s.mu.waiting > 0 {
		s.mu.empty.Wait()
	}
	s.mu.Unlock()
	s.wg.Wait()
}
