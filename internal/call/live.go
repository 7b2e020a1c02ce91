package call

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// State is how far a call has come. The zero State is no state; a Filter takes it to
// mean any.
type State uint8

const (
	Queued  State = 1 // accepted, and not yet run in this process
	Running State = 2
	Done    State = 3 // it has its Result
)

// String is the name used in JSON and on the command line.
func (s State) String() string {
	switch s {
	case Queued:
		return "queued"
	case Running:
		return "running"
	case Done:
		return "done"
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// ParseState reads the form that String writes.
func ParseState(name string) (State, error) {
	for s := Queued; s <= Done; s++ {
		if s.String() == name {
			return s, nil
		}
	}
	return 0, fmt.Errorf("unknown state %q", name)
}

// Record is what is known of a call at one moment, without its input and its output.
type Record struct {
	Request     Request // Input is nil; see InputBytes
	InputBytes  int
	State       State
	Started     time.Time // of the last run; zero while it has none
	Result      Result    // zero until State is Done; Output is nil; see OutputBytes
	OutputBytes int
}

// Call is the live handle of a call in this process: made when the call is accepted
// here, held by whoever waits for it, and finished once. All methods may be called
// from any goroutine.
//
// Calls form a tree. Cancelling a call cancels its descendants, and no call outlives
// the deadline of a parent that was running when it was made. A call that finishes,
// however, leaves its children running: upstream's guests chain and return, and a
// finished parent must not keep its descendants from being collected, nor they it.
// From then on its children stand for themselves.
//
// A Call costs about 350 bytes besides its request; its channels are made when
// somebody asks for them.
type Call struct {
	// Immutable after New.
	req *Request

	// parent is nil for an outermost call, and from the moment the parent finishes.
	// It is stored under parent.mu.
	parent atomic.Pointer[Call]

	// state is written under mu. Result may be read once it is Done.
	state atomic.Uint32

	// cancelled is zero, or the cause plus one. It is written under mu.
	cancelled atomic.Uint32

	result Result // written once, before state becomes Done

	// Siblings in the parent's list. Guarded by parent.mu.
	next, prev *Call

	// mu is a leaf but for the table's shard lock, which is taken before it. The
	// locks of two calls are never held together.
	mu       sync.Mutex
	children *Call // first unfinished child
	onCancel *hook
	onDone   *hook
	started  time.Time
	deadline time.Time
	done     chan struct{} // nil until somebody asks
	wake     chan struct{} // nil until somebody asks
	waker    Waker         // nil until somebody asks
	table    *Table        // where Finish retires the call; nil if in none
}

// closedChan is what Done returns for a call that had finished before anyone asked.
var closedChan = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// New returns the live handle of req, in state Queued. It takes req, which must not
// change from now on.
//
// With a parent, the call becomes its child: it inherits the parent's deadline, and
// is born cancelled if the parent has been cancelled. A finished parent passes on
// nothing. The parent of req.Parent may also live on another host, and is nil then.
func New(req *Request, parent *Call) *Call {
	c := &Call{req: req, deadline: req.Deadline}
	c.state.Store(uint32(Queued))
	if parent == nil {
		return c
	}
	if req.Parent != parent.req.ID {
		panic(fmt.Sprintf("BUG: call %s of parent %s made a child of %s", req.ID, req.Parent, parent.req.ID))
	}
	parent.mu.Lock()
	defer parent.mu.Unlock()
	if parent.State() == Done {
		return c
	}
	c.deadline = earlier(c.deadline, parent.deadline)
	c.cancelled.Store(parent.cancelled.Load())
	c.parent.Store(parent)
	c.next = parent.children
	if c.next != nil {
		c.next.prev = c
	}
	parent.children = c
	return c
}

// earlier returns the earlier of two deadlines, of which the zero one is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

// ID is the request's.
func (c *Call) ID() ID { return c.req.ID }

// Request returns what was asked for. It must not be changed.
func (c *Call) Request() *Request { return c.req }

// State returns how far the call has come.
func (c *Call) State() State { return State(c.state.Load()) }

// Deadline returns when the call must have ended: the earliest of its request's, its
// parent's, and, once it runs, the timeout given to MarkRunning. It is zero if there
// is none. Nothing happens here when it passes: whoever runs the call, or queues it,
// then cancels it with DeadlineExceeded.
func (c *Call) Deadline() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.deadline
}

// Allowed returns how long the call may run in all, and false if there is no limit or it
// does not run yet.
func (c *Call) Allowed() (time.Duration, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deadline.IsZero() || c.started.IsZero() {
		return 0, false
	}
	return c.deadline.Sub(c.started), true
}

// Started returns when the call began to run, or the zero time.
func (c *Call) Started() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.started
}

// MarkRunning takes the call from Queued to Running. A timeout above zero, which is
// the function's own, brings the deadline forward to started plus timeout.
//
// It returns false, and changes nothing, if the call was cancelled or has finished
// meanwhile: it must then not run. A call that is cancelled but not finished is still
// to be finished by the caller, with the outcome that Cancelled gives.
func (c *Call) MarkRunning(started time.Time, timeout time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.State() != Queued || c.cancelled.Load() != 0 {
		return false
	}
	c.started = started
	if timeout > 0 {
		c.deadline = earlier(c.deadline, started.Add(timeout))
	}
	c.state.Store(uint32(Running))
	return true
}

// Finish gives the call its result, and tells everyone who waits. The first Finish
// wins: later ones return false and change nothing. It takes r.Output and r.Failure,
// which must not change from now on.
//
// The functions given to OnDone run before it returns. The result of an asynchronous
// call belongs in the Log first, so that at no moment is it known to nobody.
func (c *Call) Finish(r Result) bool {
	c.mu.Lock()
	if c.State() == Done {
		c.mu.Unlock()
		return false
	}
	c.result = r
	c.state.Store(uint32(Done))
	for child := c.children; child != nil; {
		next := child.next
		child.next, child.prev = nil, nil
		child.parent.Store(nil)
		child = next
	}
	c.children = nil
	for h := c.onCancel; h != nil; h = h.next {
		h.state = hookOver
	}
	c.onCancel, c.waker = nil, nil
	hooks := takeLocked(&c.onDone)
	done, table := c.done, c.table
	c.table = nil
	c.mu.Unlock()

	// Out of the table first: who sees the call done finds it among the recent ones.
	if table != nil {
		table.retire(c)
	}
	if done != nil {
		close(done)
	}
	c.run(hooks)
	if p := c.parent.Load(); p != nil {
		p.childFinished(c)
	}
	return true
}

// childFinished takes child off c's list and wakes who carries c.
func (c *Call) childFinished(child *Call) {
	c.mu.Lock()
	if child.parent.Load() != c {
		c.mu.Unlock()
		return // c finished first, and let go of its children
	}
	if child.prev == nil {
		c.children = child.next
	} else {
		child.prev.next = child.next
	}
	if child.next != nil {
		child.next.prev = child.prev
	}
	child.next, child.prev = nil, nil
	child.parent.Store(nil)
	waker := c.wakeLocked()
	c.mu.Unlock()
	if waker != nil {
		waker.Wake()
	}
}

// Result returns how the call ended, or nil before it has. It must not be changed.
func (c *Call) Result() *Result {
	if c.State() != Done {
		return nil
	}
	return &c.result
}

// Done returns a channel that is closed when the call has finished. It is made on the
// first request: who can wait otherwise (Wake, OnDone) saves 96 bytes a call.
func (c *Call) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		if c.State() == Done {
			return closedChan
		}
		c.done = make(chan struct{})
	}
	return c.done
}

// Wake returns a channel that holds a token whenever a child of c has finished, or c
// was cancelled, since the last receive. It is how the one goroutine that carries c
// waits for its children, for one or for any: check them, receive, check again. The
// first token is there from the start, so the order of the first check and the first
// call of Wake does not matter.
//
// A token tells that something happened, not what. However many children there are,
// they send no more tokens than there are children, so waiting for them all, one
// after another, wakes up a linear number of times.
func (c *Call) Wake() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wake == nil {
		c.wake = make(chan struct{}, 1)
		c.wake <- struct{}{}
	}
	return c.wake
}

// wakeLocked leaves a token, and returns who is to be woken once c.mu is free.
func (c *Call) wakeLocked() Waker {
	select {
	case c.wake <- struct{}{}:
	default: // nobody ever asked, or a token is there already
	}
	return c.waker
}

// A Waker is who carries a call on which no goroutine waits.
type Waker interface {
	// Wake is run when a child of the call has finished, or the call was cancelled, in
	// the goroutine that did it. It must not block. It may run several times at once, and
	// once more after the call has finished.
	Wake()
}

// SetWaker has w told from now on what Wake's channel tells. What happened before, w is
// not told: who sets it looks for himself afterwards.
func (c *Call) SetWaker(w Waker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.State() != Done {
		c.waker = w
	}
}

// Cancel asks that the call and all its descendants end with the given cause
// (Cancelled, DeadlineExceeded, HostLost when the host goes away). It marks each of
// them and runs its OnCancel functions before it returns. It does not finish them:
// that is left to the queue or the Faaslet that holds the call, told by its function.
//
// The first cause stays. A call that has finished ignores Cancel, and so, through it,
// do the children it left running.
func (c *Call) Cancel(cause Outcome) {
	if cause == Returned || cause >= outcomeCount {
		panic(fmt.Sprintf("BUG: call %s cancelled with cause %s", c.req.ID, cause))
	}
	// A list in place of recursion: the depth of the tree is the guests' to choose.
	for todo := []*Call{c}; len(todo) > 0; {
		c := todo[len(todo)-1]
		todo = todo[:len(todo)-1]

		c.mu.Lock()
		if c.State() == Done || c.cancelled.Load() != 0 {
			c.mu.Unlock()
			continue
		}
		c.cancelled.Store(uint32(cause) + 1)
		for child := c.children; child != nil; child = child.next {
			todo = append(todo, child)
		}
		hooks := takeLocked(&c.onCancel)
		waker := c.wakeLocked()
		c.mu.Unlock()
		c.run(hooks)
		if waker != nil {
			waker.Wake()
		}
	}
}

// Cancelled returns the cause given to Cancel, and whether there was one. It takes no
// lock.
func (c *Call) Cancelled() (Outcome, bool) {
	v := c.cancelled.Load()
	if v == 0 {
		return 0, false
	}
	return Outcome(v - 1), true
}

// OnCancel has f run once when the call is cancelled, in the goroutine that cancels.
// If the call is cancelled already, f runs before OnCancel returns; once the call has
// finished, f never runs.
//
// When stop returns, f does not run and will not: a run that has begun is waited for.
// So f may hold on to things that are given back after stop, such as a Faaslet's
// region. f must not block nor call stop, and who calls stop must hold no lock that f
// takes. stop may be called more than once, or not at all.
func (c *Call) OnCancel(f func()) (stop func()) {
	c.mu.Lock()
	if c.State() == Done {
		c.mu.Unlock()
		return func() {}
	}
	if c.cancelled.Load() != 0 {
		c.mu.Unlock()
		f()
		return func() {}
	}
	h := c.addLocked(&c.onCancel, f)
	c.mu.Unlock()
	return h.stop
}

// OnDone has f run once when the call has finished, in the goroutine that finishes
// it; Result is set by then. If the call has finished already, f runs before OnDone
// returns. stop, and what f may do, are as for OnCancel.
func (c *Call) OnDone(f func()) (stop func()) {
	c.mu.Lock()
	if c.State() == Done {
		c.mu.Unlock()
		f()
		return func() {}
	}
	h := c.addLocked(&c.onDone, f)
	c.mu.Unlock()
	return h.stop
}

// Record returns what is known of the call now.
func (c *Call) Record() Record {
	r := Record{Request: *c.req, InputBytes: len(c.req.Input)}
	r.Request.Input = nil
	c.mu.Lock()
	r.State, r.Started, r.Request.Deadline = c.State(), c.started, c.deadline
	c.mu.Unlock()
	if r.State == Done {
		r.Result = c.result
		r.OutputBytes = len(r.Result.Output)
		r.Result.Output = nil
		if r.Started.IsZero() {
			r.Started = r.Result.Started // it ran on another host
		}
	}
	return r
}

// hook is one function registered with OnCancel or OnDone.
type hook struct {
	// Immutable.
	call *Call
	f    func()

	// Guarded by call.mu.
	head       **hook // the list it is in, while hookWaiting
	next, prev *hook
	state      hookState
	over       chan struct{} // closed when a run ends; made by a stop that waits for it
}

type hookState uint8

const (
	hookWaiting hookState = iota // in its list
	hookTaken                    // out of its list, about to run
	hookRunning
	hookOver // ran, or never will
)

// addLocked puts f in the list that begins at head.
func (c *Call) addLocked(head **hook, f func()) *hook {
	h := &hook{call: c, f: f, head: head, next: *head}
	if h.next != nil {
		h.next.prev = h
	}
	*head = h
	return h
}

// takeLocked empties the list that begins at head and returns its first hook; the
// rest follow by next.
func takeLocked(head **hook) *hook {
	first := *head
	for h := first; h != nil; h = h.next {
		h.state = hookTaken
	}
	*head = nil
	return first
}

// run runs the hooks of a list that takeLocked took, without c.mu.
func (c *Call) run(h *hook) {
	for ; h != nil; h = h.next {
		c.mu.Lock()
		stopped := h.state == hookOver
		if !stopped {
			h.state = hookRunning
		}
		c.mu.Unlock()
		if stopped {
			continue
		}
		h.f()
		c.mu.Lock()
		h.state = hookOver
		if h.over != nil {
			close(h.over)
		}
		c.mu.Unlock()
	}
}

func (h *hook) stop() {
	h.call.mu.Lock()
	switch h.state {
	case hookWaiting:
		if h.prev == nil {
			*h.head = h.next
		} else {
			h.prev.next = h.next
		}
		if h.next != nil {
			h.next.prev = h.prev
		}
		h.next, h.prev = nil, nil
		h.state = hookOver
	case hookTaken:
		h.state = hookOver // run passes over it; its next stays for run to follow
	case hookRunning:
		if h.over == nil {
			h.over = make(chan struct{})
		}
		over := h.over
		h.call.mu.Unlock()
		<-over
		return
	}
	h.call.mu.Unlock()
}
