package sched

import (
	"fmt"
	"iter"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/faasm-go/faasm/internal/call"
)

func newCall(tenant string, parent *call.Call) *call.Call {
	req := &call.Request{ID: call.NewID(), Tenant: tenant, Function: "f", Accepted: time.Now(), Attempt: 1}
	if parent != nil {
		req.Parent = parent.ID()
	}
	return call.New(req, parent)
}

// program is what a fake guest does; it runs in a bubble or on real threads alike.
type program func(g *guest)

// guest is a call that runs a program. Where that waits, nothing of it is on a goroutine
// that the scheduler knows of.
type guest struct {
	*fake
	call *call.Call
	next func() (*call.Wait, bool)
	wait func(*call.Wait) bool

	once        sync.Once
	interrupted chan struct{}
}

func (g *guest) Run() *call.Wait {
	g.count(g.call.Request().Tenant, 1)
	w, _ := g.next()
	g.count(g.call.Request().Tenant, -1)
	if w == nil {
		cause, _ := g.call.Cancelled()
		g.call.Finish(call.Result{Outcome: cause})
	}
	return w
}

func (g *guest) Interrupt() { g.once.Do(func() { close(g.interrupted) }) }

// hang computes until it is interrupted.
func hang(g *guest) { <-g.interrupted }

func (g *guest) Clean() { g.cleaned.Add(1) }

// await waits for one of calls, and for d if that is not 0.
func (g *guest) await(d time.Duration, calls ...*call.Call) {
	g.wait(&call.Wait{Calls: calls, For: d})
}

// chain makes a call that will run p a child of g's.
func (g *guest) chain(p program) *call.Call {
	child := g.fake.call(g.call.Request().Tenant, g.call, p)
	g.Go(child)
	return child
}

// fake is a scheduler whose guests are Go functions.
type fake struct {
	*Scheduler
	mu       sync.Mutex
	programs map[call.ID]program
	running  map[string]int
	most     map[string]int // the most that ran at once, by tenant; "" for all
	began    int64          // calls
	cleaned  atomic.Int64
}

func newFake(t *testing.T, opts Options) *fake {
	t.Helper()
	f := &fake{programs: map[call.ID]program{}, running: map[string]int{}, most: map[string]int{}}
	var err error
	f.Scheduler, err = New(opts, f.run)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fake) count(tenant string, d int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, k := range []string{tenant, ""} {
		f.running[k] += d
		f.most[k] = max(f.most[k], f.running[k])
	}
}

func (f *fake) run(c *call.Call) Task {
	if !c.MarkRunning(time.Now(), 0) {
		cause, _ := c.Cancelled()
		c.Finish(call.Result{Outcome: cause})
		return nil
	}
	f.mu.Lock()
	p := f.programs[c.ID()]
	delete(f.programs, c.ID())
	f.began++
	f.mu.Unlock()
	g := &guest{fake: f, call: c, interrupted: make(chan struct{})}
	g.next, _ = iter.Pull(func(yield func(*call.Wait) bool) {
		g.wait = yield
		if p != nil {
			p(g)
		}
	})
	return g
}

// call makes a call that will run p.
func (f *fake) call(tenant string, parent *call.Call, p program) *call.Call {
	return f.add(newCall(tenant, parent), p)
}

// callUntil makes an outermost call with a deadline.
func (f *fake) callUntil(tenant string, deadline time.Time, p program) *call.Call {
	return f.add(call.New(&call.Request{ID: call.NewID(), Tenant: tenant, Function: "f", Deadline: deadline}, nil), p)
}

func (f *fake) add(c *call.Call, p program) *call.Call {
	f.mu.Lock()
	f.programs[c.ID()] = p
	f.mu.Unlock()
	return c
}

// checkEmpty tells what is left over.
func (f *fake) checkEmpty(t *testing.T) {
	t.Helper()
	f.Close()
	if st := f.Stats(); st != (Stats{}) {
		t.Errorf("after Close: %+v; want nothing left", st)
	}
	f.Scheduler.mu.Lock()
	defer f.Scheduler.mu.Unlock()
	if n := len(f.Scheduler.mu.queued); n != 0 {
		t.Errorf("%d tickets are left", n)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.cleaned.Load(); n != f.began {
		t.Errorf("%d calls began, and there were %d cleanings", f.began, n)
	}
}

func sleep(d time.Duration) program {
	return func(*guest) { time.Sleep(d) }
}

func TestNew_refusesBadOptions(t *testing.T) {
	for _, o := range []Options{{Places: -1}, {LiveMax: -3}, {QueueMax: -1}} {
		if _, err := New(o, nil); err == nil || !strings.Contains(err.Error(), "must be positive") {
			t.Errorf("New(%+v): %v; want a refusal", o, err)
		}
	}
}

func TestGo_placesBoundWhatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, Options{Places: 4, TenantPlaces: 3})
		var calls []*call.Call
		for i := range 60 {
			c := f.call([]string{"a", "b"}[i%2], nil, sleep(time.Second))
			f.Go(c)
			calls = append(calls, c)
		}
		f.checkEmpty(t)
		if f.most[""] != 4 || f.most["a"] > 3 || f.most["b"] > 3 {
			t.Errorf("at once ran %v; want 4 in all and at most 3 of a tenant", f.most)
		}
		for i, c := range calls {
			if r := c.Result(); r == nil || r.Outcome != call.Returned {
				t.Errorf("call %d: %v", i, r)
			}
		}
	})
}

func TestGo_tenantsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, Options{Places: 1, TenantPlaces: 1})
		var order []string
		add := func(tenant string) {
			f.Go(f.call(tenant, nil, func(*guest) {
				order = append(order, tenant)
				time.Sleep(time.Second)
			}))
		}
		add("x") // takes the place, so that the rest waits
		synctest.Wait()
		for range 5 {
			add("greedy")
		}
		add("b")
		add("c")
		f.checkEmpty(t)
		if got, want := strings.Join(order, " "), "x greedy b c greedy greedy greedy greedy"; got != want {
			t.Errorf("order: %s; want %s", got, want)
		}
	})
}

func TestDo_refusesBeyondQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, Options{Places: 1, TenantPlaces: 1, QueueMax: 10, TenantQueue: 3, QueueBytes: 100})
		var refused []string
		for i := range 6 {
			c := f.call("a", nil, sleep(time.Second))
			f.Go(c)
			if r := c.Result(); r != nil {
				refused = append(refused, fmt.Sprint(i, " ", r.Outcome, " ", r.Failure.Message))
			}
		}
		if got, want := strings.Join(refused, "; "), "4 refused overloaded: 3 calls of tenant a wait on this host; 5 refused overloaded: 3 calls of tenant a wait on this host"; got != want {
			t.Errorf("refused: %s; want %s", got, want)
		}
		big := call.New(&call.Request{ID: call.NewID(), Tenant: "b", Input: make([]byte, 90)}, nil)
		again := call.New(&call.Request{ID: call.NewID(), Tenant: "b", Input: make([]byte, 90)}, nil)
		f.Go(big)
		f.Go(again)
		if r := again.Result(); r == nil || r.Outcome != call.Refused || !strings.Contains(r.Failure.Message, "inputs") {
			t.Errorf("second input of 90 bytes of 100: %+v; want refused", r)
		}
		f.checkEmpty(t)
	})
}

func TestCancel_leavesQueueAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, Options{Places: 1, TenantPlaces: 1})
		f.Go(f.call("a", nil, sleep(time.Hour)))
		queued, waited := f.call("a", nil, nil), f.call("a", nil, nil)
		f.Go(queued)
		done := make(chan struct{})
		go func() {
			f.Do(waited)()
			close(done)
		}()
		synctest.Wait()
		start := time.Now()
		queued.Cancel(call.Cancelled)
		waited.Cancel(call.DeadlineExceeded)
		<-done
		<-queued.Done()
		if time.Since(start) != 0 {
			t.Errorf("cancelled calls ended after %v; want at once", time.Since(start))
		}
		if queued.Result().Outcome != call.Cancelled || waited.Result().Outcome != call.DeadlineExceeded {
			t.Errorf("outcomes %v, %v", queued.Result().Outcome, waited.Result().Outcome)
		}
		f.checkEmpty(t)
	})
}

// A call that is cancelled in the moment in which it begins is interrupted all the same.
func TestCancel_whileItBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f *fake
		s, err := New(Options{}, func(c *call.Call) Task {
			task := f.run(c)
			c.Cancel(call.Cancelled)
			return task
		})
		if err != nil {
			t.Fatal(err)
		}
		f = newFake(t, Options{})
		f.Scheduler = s
		c := f.call("a", nil, hang)
		f.Do(c)()
		if got := c.Result().Outcome; got != call.Cancelled {
			t.Errorf("ended as %v; want cancelled", got)
		}
		f.checkEmpty(t)
	})
}

func TestGo_deadlineWhileQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, Options{Places: 1, TenantPlaces: 1})
		f.Go(f.call("a", nil, sleep(time.Hour)))
		c := call.New(&call.Request{ID: call.NewID(), Tenant: "a", Deadline: time.Now().Add(time.Second)}, nil)
		f.Go(c)
		start := time.Now()
		<-c.Done()
		if got := time.Since(start); got != time.Second || c.Result().Outcome != call.DeadlineExceeded {
			t.Errorf("ended after %v with %v; want 1s, deadline", got, c.Result().Outcome)
		}
		f.checkEmpty(t)
	})
}

func TestGo_tenantsAreForgotten(t *testing.T) {
	f := newFake(t, Options{})
	for i := range 5 * idleTenants {
		f.Do(f.call(fmt.Sprint("tenant ", i), nil, nil))()
		if st := f.Stats(); st != (Stats{}) {
			t.Fatalf("after call %d: %+v; want nothing", i, st)
		}
	}
	if n := len(f.Scheduler.mu.tenants); n > idleTenants {
		t.Errorf("%d tenants are remembered that have nothing here; want at most %d", n, idleTenants)
	}
	f.checkEmpty(t)
}

// chainDown chains to itself n deep and awaits.
func chainDown(n int) program {
	return func(g *guest) {
		if n == 0 {
			return
		}
		child := g.chain(chainDown(n - 1))
		g.await(0, child)
		if r := child.Result(); r == nil || r.Outcome != call.Returned {
			panic(fmt.Sprintf("depth %d: %+v", n, r))
		}
	}
}

func TestAwait_deepChainOnOnePlace(t *testing.T) {
	f := newFake(t, Options{Places: 1, TenantPlaces: 1})
	c := f.call("a", nil, chainDown(1000))
	f.Do(c)()
	if c.Result().Outcome != call.Returned {
		t.Errorf("outcome %v", c.Result().Outcome)
	}
	f.checkEmpty(t)
}

func TestAwait_fanOutOnFewPlaces(t *testing.T) {
	f := newFake(t, Options{Places: 4, TenantPlaces: 2})
	const n = 20_000
	var ran atomic.Int64
	c := f.call("a", nil, func(g *guest) {
		var children []*call.Call
		for range n {
			children = append(children, g.chain(func(*guest) { ran.Add(1) }))
		}
		for _, child := range children {
			g.await(0, child)
		}
	})
	f.Do(c)()
	if ran.Load() != n {
		t.Errorf("%d children ran; want %d", ran.Load(), n)
	}
	f.checkEmpty(t)
}

// Faaslets that all wait for children which have no room would wait for ever.
func TestAwait_deadlockIsBrokenByRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, Options{Places: 8, TenantPlaces: 8, LiveMax: 4, TenantLive: 4})
		var outcomes []call.Outcome
		parent := func(g *guest) {
			time.Sleep(time.Second) // until all four are alive
			child := g.chain(nil)
			g.await(0, child)
			f.mu.Lock()
			outcomes = append(outcomes, child.Result().Outcome)
			f.mu.Unlock()
		}
		var parents []*call.Call
		for range 4 {
			parents = append(parents, f.call("a", nil, parent))
			f.Go(parents[len(parents)-1])
		}
		for _, p := range parents {
			<-p.Done()
		}
		f.checkEmpty(t)
		refused := 0
		for _, o := range outcomes {
			if o == call.Refused {
				refused++
			}
		}
		if len(outcomes) != 4 || refused == 0 || refused == 4 {
			t.Errorf("children ended %v; want some refused, and the rest to run in the room that this made", outcomes)
		}
	})
}

// What is refused to break a deadlock is a chained call. An outermost one, which may be an
// accepted asynchronous call, waits its turn.
func TestBlock_deadlockSparesOutermostCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, Options{Places: 8, TenantPlaces: 8, LiveMax: 2, TenantLive: 2})
		parent := func(g *guest) {
			time.Sleep(time.Second) // until both are alive, and the other call waits
			child := g.chain(nil)
			g.Block(g.call, true, func() {
				for wake := g.call.Wake(); child.Result() == nil; <-wake {
				}
			})
		}
		first, second, outermost := f.call("a", nil, parent), f.call("a", nil, parent), f.call("a", nil, nil)
		for _, c := range []*call.Call{first, second, outermost} {
			f.Go(c)
		}
		for _, c := range []*call.Call{first, second, outermost} {
			<-c.Done()
			if o := c.Result().Outcome; o != call.Returned {
				t.Errorf("an outermost call ended as %v; want returned", o)
			}
		}
		f.checkEmpty(t)
	})
}

func TestAwait_cancelledParentDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, Options{Places: 2, TenantPlaces: 2})
		slow := make(chan struct{})
		parent := f.call("a", nil, func(g *guest) {
			child := g.chain(func(*guest) { <-slow })
			time.Sleep(time.Second) // the child has begun on its own goroutine
			g.await(0, child)
			if child.Result() != nil {
				t.Error("the child has finished")
			}
		})
		go func() {
			time.Sleep(3 * time.Second)
			parent.Cancel(call.Cancelled)
		}()
		f.Do(parent)()
		close(slow)
		f.checkEmpty(t)
	})
}

// Two tenants, many threads, calls that chain, block and are cancelled: nothing is lost
// and nothing is left. Run with -race.
func TestHammer(t *testing.T) {
	f := newFake(t, Options{Places: 4, TenantPlaces: 3, LiveMax: 64, TenantLive: 40, TenantQueue: 5000, QueueMax: 10_000})
	var wg sync.WaitGroup
	var all sync.Map
	for g := range 8 {
		wg.Go(func() {
			for i := range 300 {
				tenant := []string{"a", "b"}[(g+i)%2]
				c := f.call(tenant, nil, func(g *guest) {
					var children []*call.Call
					for range i % 5 {
						children = append(children, g.chain(chainDownQuiet(i%3)))
					}
					switch i % 7 {
					case 0:
						g.Block(g.call, false, func() { time.Sleep(time.Microsecond) })
					case 1:
						g.await(time.Microsecond)
					case 2:
						g.await(time.Microsecond, children...)
					case 3:
						if len(children) > 0 {
							g.await(0, children...)
						}
					}
					for _, child := range children {
						g.await(0, child)
					}
				})
				all.Store(c, true)
				if i%11 == 0 {
					go c.Cancel(call.Cancelled)
				}
				if i%2 == 0 {
					f.Do(c)()
				} else {
					f.Go(c)
				}
			}
		})
	}
	wg.Wait()
	f.checkEmpty(t)
	all.Range(func(c, _ any) bool {
		if c.(*call.Call).Result() == nil {
			t.Error("a call never ended")
			return false
		}
		return true
	})
}

func chainDownQuiet(n int) program {
	return func(g *guest) {
		if n > 0 {
			g.await(0, g.chain(chainDownQuiet(n-1)))
		}
	}
}

func BenchmarkDo(b *testing.B) {
	s, err := New(Options{}, func(c *call.Call) Task {
		c.Finish(call.Result{})
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s.Do(newCall("a", nil))()
	}
}
