// Package sched decides when a call runs: which of the calls that wait gets the next place
// among the running, and which is turned away because too many wait.
//
// A place is the right to compute. There are few (Options.Places), since each may hold an
// OS thread, and a Faaslet that blocks in a host call gives its place up meanwhile: so
// tens of thousands of Faaslets can wait for each other on a handful of threads. Most of
// them wait as data, without a goroutine; see carry.go.
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
	"maps"
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

// Run begins a call that has a place. If it returns nil, it has run and finished the call.
// It is also given calls that were cancelled while they waited, which must end at once.
type Run func(*call.Call) Task

// A Task is a call that has begun.
type Task interface {
	// Run runs the call on the calling goroutine until it has finished it, and returns nil;
	// or until the call waits, and returns for what. It is run again, maybe on another
	// goroutine, when the wait is over.
	Run() *call.Wait
	// Interrupt has Run come to an end soon, since the call has been cancelled. It may run
	// at any time, on any goroutine, more than once, and after Clean.
	Interrupt()
	// Clean cleans up after a call that has finished. It is run once, without a place,
	// after the reply.
	Clean()
}

// Scheduler is safe for concurrent use. It cancels calls whose deadline passes, while they
// wait to start and once they have begun, with DeadlineExceeded. It owns the goroutines that
// carry the calls given to Go; Close waits for them.
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
		idle    int       // tenants that have nothing here
		ring    []*tenant // those for whom somebody waits, in turn
		turn    int       // index in ring
		queued  map[*call.Call]*ticket
		young   queue // calls that run, and whose deadline has no timer yet; see deadline.go
		sweeper *time.Timer
		sweeps  bool // the sweeper is set
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
	idle       bool // it has nothing here
}

// queue is a list of tickets, first come first.
type queue struct {
	head, tail *ticket
	n          int
}

func (q *queue) push(t *ticket) {
	t.prev = q.tail
	if q.tail == nil {
		q.head = t
	} else {
		q.tail.next = t
	}
	q.tail = t
	q.n++
}

// remove takes out t, which is in q.
func (q *queue) remove(t *ticket) {
	if t.prev == nil {
		q.head = t.next
	} else {
		t.prev.next = t.next
	}
	if t.next == nil {
		q.tail = t.prev
	} else {
		t.next.prev = t.prev
	}
	t.next, t.prev = nil, nil
	q.n--
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
		Parked: s.mu.parked, Tenants: len(s.mu.tenants) - s.mu.idle,
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
func (s *Scheduler) Do(c *call.Call) (done func()) {
	return s.do(&ticket{sched: s, call: c, run: s.run, held: true})
}

// DoWith is Do for a call that run runs from its start to its end.
func (s *Scheduler) DoWith(c *call.Call, run func(*call.Call)) (done func()) {
	whole := func(c *call.Call) Task {
		run(c)
		return nil
	}
	return s.do(&ticket{sched: s, call: c, run: whole, held: true})
}

func (s *Scheduler) do(t *ticket) (done func()) {
	t.call.SetWaker(t)
	s.mu.Lock()
	if err := s.admitLocked(t); err != nil {
		s.mu.Unlock()
		refuse(t.call, err)
		return func() {}
	}
	if s.takeLocked(t.tenant) {
		s.runLocked(t)
		s.mu.Unlock()
	} else {
		t.ready = make(chan struct{}, 1)
		s.waitLocked(t)
		s.unlock()
		s.mind(t)
		<-t.ready
		s.mu.Lock()
		lost := t.state == dropped
		s.mu.Unlock()
		if lost {
			t.runOut()
			return func() {}
		}
	}
	for s.carry(t); !t.over; s.carry(t) {
		<-t.ready
	}
	return func() { s.end(t) }
}

// Go runs c on goroutines of the scheduler's when its turn comes, and returns at once. If
// it refuses c, c has finished with outcome Refused.
func (s *Scheduler) Go(c *call.Call) {
	t := &ticket{sched: s, call: c, run: s.run}
	c.SetWaker(t)
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
	s.mind(t)
}

// Block runs wait on this goroutine, which carries c, while c holds no place. children
// tells that only the end of one of c's children, or c's own cancellation, will end the
// wait.
func (s *Scheduler) Block(c *call.Call, children bool, wait func()) {
	parked := 0
	if children {
		parked = 1
	}
	s.mu.Lock()
	t := s.mu.tenants[c.Request().Tenant]
	s.mu.parked += parked
	t.parked += parked
	s.giveLocked(t)
	s.unlock()

	wait()

	s.mu.Lock()
	s.mu.parked -= parked
	t.parked -= parked
	if s.mu.free > 0 && t.running < s.opts.TenantPlaces && t.resumes.n == 0 {
		s.mu.free--
		t.running++
		s.mu.Unlock()
		return
	}
	k := &ticket{tenant: t, held: true, ready: make(chan struct{}, 1)}
	s.resumeLocked(k)
	s.mu.Unlock()
	<-k.ready
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
	} else if tn.idle {
		tn.idle = false
		s.mu.idle--
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

// idleTenants is how many tenants that have nothing here are kept: one whose calls come one
// at a time would be forgotten after each.
const idleTenants = 100

// forgetLocked lets go of a tenant if it has nothing here any more.
func (s *Scheduler) forgetLocked(t *tenant) {
	if t.running > 0 || t.live > 0 || t.inRing || t.idle {
		return
	}
	t.idle = true
	s.mu.idle++
	if s.mu.idle > idleTenants {
		maps.DeleteFunc(s.mu.tenants, func(_ string, t *tenant) bool { return t.idle })
		s.mu.idle = 0
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
	t.state = starts
	t.tenant.starts.push(t)
	t.tenant.startBytes += len(t.call.Request().Input)
	s.mu.waiting++
	s.joinLocked(t.tenant)
}

// resumeLocked puts a Faaslet that is to go on in its queue.
func (s *Scheduler) resumeLocked(t *ticket) {
	t.state = resumes
	t.tenant.resumes.push(t)
	s.joinLocked(t.tenant)
}

// leaveLocked takes a start out of its queue.
func (s *Scheduler) leaveLocked(t *ticket) {
	t.tenant.starts.remove(t)
	stop(&t.deadline)
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
		if victim.awaited != nil {
			s.unparkLocked(victim.awaited) // its wait is about to end
		}
		reason := fmt.Errorf("%w: every Faaslet of tenant %s waits for another call, and there is no room for one more (%d alive)",
			ErrOverloaded, victim.tenant.name, victim.tenant.live)
		s.mu.Unlock()
		refuse(victim.call, reason)
		if victim.held {
			victim.ready <- struct{}{}
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
	if k := t.resumes.head; k != nil {
		t.resumes.remove(k)
		return k
	}
	k := t.starts.head
	if k == nil || !s.roomLocked(t) {
		return nil
	}
	s.leaveLocked(k)
	s.startLocked(t)
	return k
}

func (s *Scheduler) grantLocked(k *ticket) {
	s.mu.free--
	k.tenant.running++
	if k.held {
		if k.call != nil { // else it is Block's
			s.runLocked(k)
		}
		k.ready <- struct{}{}
		return
	}
	s.spawnLocked(k)
}

// dropLocked takes a ticket that waits for its start out of its queue, for good.
func (s *Scheduler) dropLocked(t *ticket) {
	s.leaveLocked(t)
	t.state = dropped
	delete(s.mu.queued, t.call)
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
			if k.awaited != nil {
				return k
			}
			if chained == nil && !k.call.Request().Parent.IsZero() {
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
	stop(&s.mu.sweeper)
	s.mu.Unlock()
	s.wg.Wait()
}
