package sched

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/faasm-go/faasm/internal/call"
)

// A sleeper waits once.
type sleeper struct {
	call *call.Call
	wait *call.Wait // nil once it has waited
}

func (s *sleeper) Run() *call.Wait {
	if w := s.wait; w != nil && !w.Over(s.call) {
		s.wait = nil
		return w
	}
	s.call.Finish(call.Result{})
	return nil
}

func (s *sleeper) Interrupt() {}

func (s *sleeper) Clean() {}

func TestGo_whatWaitsHoldsNoGoroutine(t *testing.T) {
	s, err := New(Options{}, func(c *call.Call) Task { return &sleeper{c, &call.Wait{For: time.Hour}} })
	if err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	const n = 5000
	var calls []*call.Call
	for i := range n {
		calls = append(calls, newCall([]string{"a", "b"}[i%2], nil))
		s.Go(calls[i])
	}
	deadline := time.Now().Add(20 * time.Second)
	for st := s.Stats(); st.Live != n || st.Running != 0 || runtime.NumGoroutine() > before+10; st = s.Stats() {
		if time.Now().After(deadline) {
			t.Fatalf("%+v and %d goroutines; want %d alive, none running, and about %d", st, runtime.NumGoroutine(), n, before)
		}
		runtime.Gosched()
	}
	for _, c := range calls {
		c.Cancel(call.Cancelled)
	}
	s.Close()
}

// What ends a wait, and when.
func TestWait(t *testing.T) {
	returns := func(after time.Duration) program { return func(g *guest) { g.await(after) } }
	for _, tt := range []struct {
		name string
		p    program
		want time.Duration
	}{
		{"time", func(g *guest) { g.await(time.Second) }, time.Second},
		{"child", func(g *guest) { g.await(0, g.chain(returns(2*time.Second))) }, 2 * time.Second},
		{"child that is quicker than the time", func(g *guest) { g.await(time.Minute, g.chain(returns(time.Second))) }, time.Second},
		{"child that is slower than the time", func(g *guest) { g.await(time.Second, g.chain(returns(time.Minute))) }, time.Second},
		{"first of several", func(g *guest) { g.await(0, g.chain(returns(time.Minute)), g.chain(returns(time.Second))) }, time.Second},
		{"one after another", func(g *guest) {
			a, b := g.chain(returns(3*time.Second)), g.chain(returns(2*time.Second))
			g.await(0, a)
			g.await(0, b)
			g.await(0, b)
		}, 3 * time.Second},
		{"child that has finished", func(g *guest) {
			child := g.chain(nil)
			g.await(time.Second)
			g.await(0, child)
		}, time.Second},
		{"cancelled", func(g *guest) {
			child := g.chain(returns(time.Hour))
			time.AfterFunc(4*time.Second, func() { g.call.Cancel(call.Cancelled) })
			g.await(0, child)
		}, 4 * time.Second},
		{"cancelled before it waits", func(g *guest) {
			g.call.Cancel(call.Cancelled)
			g.await(time.Hour)
		}, 0},
	} {
		for _, how := range []string{"do", "go"} {
			t.Run(tt.name+"/"+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newFake(t, Options{Places: 2, TenantPlaces: 2})
					var took time.Duration
					start := time.Now()
					c := f.call("a", nil, func(g *guest) {
						tt.p(g)
						took = time.Since(start)
					})
					if how == "do" {
						f.Do(c)()
					} else {
						f.Go(c)
						<-c.Done()
					}
					if took != tt.want {
						t.Errorf("waited for %v; want %v", took, tt.want)
					}
					f.checkEmpty(t)
				})
			})
		}
	}
}

// A child that is run in its parent's place, out of turn, and then waits itself, must not
// disturb those that it left in the queue.
func TestWait_childInItsParentsPlaceWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, Options{Places: 1, TenantPlaces: 1})
		var order []string
		say := func(what string) { order = append(order, fmt.Sprintf("%s@%v", what, time.Now().Second())) }
		c := f.call("a", nil, func(g *guest) {
			var children []*call.Call
			for i := range 5 {
				children = append(children, g.chain(func(g *guest) {
					say(fmt.Sprint("begin ", i))
					g.await(time.Duration(1+i) * time.Second)
					say(fmt.Sprint("end ", i))
				}))
			}
			for _, i := range []int{2, 0, 4, 1, 3} {
				g.await(0, children[i])
			}
			say("parent")
		})
		f.Do(c)()
		got := fmt.Sprint(order)
		want := "[begin 2@0 begin 0@0 begin 1@0 begin 3@0 begin 4@0 end 0@1 end 1@2 end 2@3 end 3@4 end 4@5 parent@5]"
		if got != want {
			t.Errorf("order:\n%s; want\n%s", got, want)
		}
		f.checkEmpty(t)
	})
}

// A chain of calls that run in each other's places, the last of which finds no room for
// its child.
func TestWait_deadlockBelowLentPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, Options{Places: 2, TenantPlaces: 2, LiveMax: 3, TenantLive: 3})
		var last call.Outcome
		c := f.call("a", nil, func(g *guest) {
			g.await(0, g.chain(func(g *guest) {
				g.await(0, g.chain(func(g *guest) {
					child := g.chain(nil)
					g.await(0, child)
					last = child.Result().Outcome
				}))
			}))
		})
		f.Do(c)()
		if last != call.Refused {
			t.Errorf("the fourth of three Faaslets ended as %v; want refused", last)
		}
		f.checkEmpty(t)
	})
}

// A walker waits in many ways, one after another, and looks that it is run by one goroutine
// at a time and not before its wait is over.
type walker struct {
	t     *testing.T
	sched *Scheduler
	call  *call.Call
	rnd   *rand.Rand
	depth int
	steps int
	kids  []*call.Call

	wait    *call.Wait
	since   time.Time
	running atomic.Bool
	over    bool
	cleaned atomic.Bool

	interrupted atomic.Bool
}

// deep are the calls of a walker that are not outermost, by their depth.
var deep sync.Map

func (w *walker) Run() *call.Wait {
	if w.running.Swap(true) {
		w.t.Error("two goroutines run one call")
	}
	defer w.running.Store(false)
	if w.over {
		w.t.Error("a call is run that has finished")
	}
	if w.wait != nil && !w.wait.Over(w.call) && (w.wait.For == 0 || time.Since(w.since) < w.wait.For) {
		w.t.Errorf("a wait for %d calls and %v ended after %v", len(w.wait.Calls), w.wait.For, time.Since(w.since))
	}
	for ; w.steps > 0; w.steps-- {
		if _, cancelled := w.call.Cancelled(); cancelled {
			break
		}
		switch w.rnd.IntN(6) {
		case 0, 1:
			if w.depth < 2 {
				child := newCall(w.call.Request().Tenant, w.call)
				deep.Store(child.ID(), w.depth+1)
				w.sched.Go(child)
				w.kids = append(w.kids, child)
			}
		case 2:
			return w.begin(&call.Wait{For: time.Duration(1 + w.rnd.IntN(50_000))})
		case 3:
			if len(w.kids) > 0 {
				return w.begin(&call.Wait{Calls: w.kids[len(w.kids)-1:]})
			}
		case 4:
			if len(w.kids) > 0 {
				return w.begin(&call.Wait{Calls: w.kids, For: time.Duration(w.rnd.IntN(50_000))})
			}
		case 5:
			w.sched.Block(w.call, false, runtime.Gosched)
		}
	}
	w.over = true
	w.call.Finish(call.Result{})
	return nil
}

func (w *walker) begin(wait *call.Wait) *call.Wait {
	w.steps--
	w.wait, w.since = wait, time.Now()
	return wait
}

func (w *walker) Interrupt() { w.interrupted.Store(true) }

func (w *walker) Clean() {
	if w.cleaned.Swap(true) || !w.over {
		w.t.Error("a call is cleaned up after twice, or too early")
	}
}

// Many calls wait, and are woken by their children, their timers, their deadlines and who
// cancels them, all at once, until the host closes. Run with -race.
func TestHammer_waits(t *testing.T) {
	for round := range 4 {
		var s *Scheduler
		var began, ended atomic.Int64
		s, err := New(Options{Places: 3, TenantPlaces: 2, LiveMax: 30, TenantLive: 20}, func(c *call.Call) Task {
			if !c.MarkRunning(time.Now(), 0) {
				c.Finish(call.Result{Outcome: call.Cancelled})
				return nil
			}
			began.Add(1)
			depth, _ := deep.LoadAndDelete(c.ID())
			w := &walker{t: t, sched: s, call: c, rnd: rand.New(rand.NewPCG(uint64(round), uint64(began.Load()))), steps: 8}
			w.depth, _ = depth.(int)
			c.OnDone(func() { ended.Add(1) })
			return w
		})
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var all []*call.Call
		var wg sync.WaitGroup
		for g := range 6 {
			wg.Go(func() {
				for i := range 150 {
					c := newCall([]string{"a", "b", "c"}[(g+i)%3], nil)
					mu.Lock()
					all = append(all, c)
					mu.Unlock()
					switch i % 5 {
					case 0:
						go c.Cancel(call.Cancelled)
					case 1:
						time.AfterFunc(100*time.Microsecond, func() { c.Cancel(call.DeadlineExceeded) })
					}
					if g < 3 {
						s.Do(c)()
					} else {
						s.Go(c)
					}
				}
			})
		}
		if round%2 == 0 {
			wg.Wait()
		} else { // the host closes in the middle of it
			time.AfterFunc(5*time.Millisecond, func() {
				mu.Lock()
				defer mu.Unlock()
				for _, c := range all {
					c.Cancel(call.HostLost)
				}
			})
		}
		s.Close()
		wg.Wait()
		if st := s.Stats(); st != (Stats{}) || len(s.mu.queued) != 0 {
			t.Errorf("after Close: %+v and %d queued; want nothing left", st, len(s.mu.queued))
		}
		if began.Load() != ended.Load() {
			t.Errorf("%d calls began and %d ended", began.Load(), ended.Load())
		}
		for _, c := range all {
			if c.Result() == nil {
				t.Fatal("a call never ended")
			}
		}
	}
}
