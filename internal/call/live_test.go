package call

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/google/go-cmp/cmp"
)

// newCall returns a call of default/f with a fresh ID.
func newCall(parent *Call) *Call {
	req := &Request{ID: NewID(), Tenant: "default", Function: "f", Accepted: time.Now(), Attempt: 1}
	if parent != nil {
		req.Parent = parent.ID()
	}
	return New(req, parent)
}

func (c *Call) childCount() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for child := c.children; child != nil; child = child.next {
		n++
	}
	return n
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

func TestCall_Cancel_badCause(t *testing.T) {
	for _, cause := range []Outcome{Returned, outcomeCount, 1 << 31} {
		t.Run(cause.String(), func(t *testing.T) {
			c := newCall(nil)
			defer func() {
				if recover() == nil {
					t.Errorf("Cancel(%s) did not panic", cause)
				}
				if _, ok := c.Cancelled(); ok {
					t.Errorf("the call was cancelled with cause %s", cause)
				}
			}()
			c.Cancel(cause)
		})
	}
}

func TestNew_wrongParent(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a call became the child of a call that its request does not name")
		}
	}()
	New(&Request{ID: NewID(), Parent: NewID()}, newCall(nil))
}

func TestCall_Finish_firstWins(t *testing.T) {
	c := newCall(nil)
	if c.Result() != nil {
		t.Error("a queued call has a result")
	}
	done := c.Done()
	if isClosed(done) {
		t.Error("a queued call is done")
	}
	if !c.Finish(Result{Outcome: Trapped}) {
		t.Error("the first Finish lost")
	}
	if c.Finish(Result{Outcome: Returned}) {
		t.Error("the second Finish won")
	}
	if got := c.Result(); got == nil || got.Outcome != Trapped {
		t.Errorf("result is %+v, want that of the first Finish", got)
	}
	if c.State() != Done || !isClosed(done) || !isClosed(c.Done()) {
		t.Errorf("after Finish: state %s, done %v, later done %v", c.State(), isClosed(done), isClosed(c.Done()))
	}
	late := newCall(nil)
	late.Finish(Result{})
	if !isClosed(late.Done()) {
		t.Error("Done asked for after Finish is not closed")
	}
}

func TestCall_MarkRunning(t *testing.T) {
	cancelled, finished, running := newCall(nil), newCall(nil), newCall(nil)
	cancelled.Cancel(Cancelled)
	finished.Finish(Result{})
	now := time.Now()
	running.MarkRunning(now, 0)
	for _, row := range []struct {
		name string
		call *Call
		want bool
	}{
		{"cancelled", cancelled, false},
		{"finished", finished, false},
		{"running", running, false},
		{"queued", newCall(nil), true},
	} {
		before := row.call.State()
		if got := row.call.MarkRunning(now.Add(time.Hour), time.Second); got != row.want {
			t.Errorf("%s: MarkRunning = %v, want %v", row.name, got, row.want)
		}
		if after := row.call.State(); !row.want && after != before {
			t.Errorf("%s: state went from %s to %s", row.name, before, after)
		}
	}
	if got := running.Started(); !got.Equal(now) {
		t.Errorf("started %v, want %v", got, now)
	}
}

func TestCall_Deadline(t *testing.T) {
	now := time.Now()
	at := func(s int) time.Time {
		if s == 0 {
			return time.Time{}
		}
		return now.Add(time.Duration(s) * time.Second)
	}
	// Seconds from now; zero is none.
	for _, row := range []struct{ parent, own, timeout, want int }{
		{1, 2, 3, 1},
		{2, 1, 3, 1},
		{3, 2, 1, 1},
		{-1, 2, 3, -1},
		{0, 0, 5, 5},
		{0, 4, 5, 4},
		{3, 0, 5, 3},
		{3, 0, 0, 3},
		{0, 0, 0, 0},
	} {
		parent := New(&Request{ID: NewID(), Deadline: at(row.parent)}, nil)
		c := New(&Request{ID: NewID(), Parent: parent.ID(), Deadline: at(row.own)}, parent)
		c.MarkRunning(now, time.Duration(row.timeout)*time.Second)
		if got := c.Deadline(); !got.Equal(at(row.want)) {
			t.Errorf("%+v: deadline %v from now", row, got.Sub(now))
		}
	}
}

func TestCall_Deadline_ofRunningParent(t *testing.T) {
	now := time.Now()
	parent := newCall(nil)
	parent.MarkRunning(now, time.Second)
	if got, want := newCall(parent).Deadline(), now.Add(time.Second); !got.Equal(want) {
		t.Errorf("child's deadline %v, want the parent's %v", got, want)
	}
	parent.Finish(Result{})
	if got := newCall(parent).Deadline(); !got.IsZero() {
		t.Errorf("deadline %v passed on by a finished parent", got)
	}
}

func TestCall_Cancel_descends(t *testing.T) {
	root := newCall(nil)
	child := newCall(root)
	grandchild := newCall(child)
	sibling := newCall(root)
	finished := newCall(root)
	orphan := newCall(finished)
	finished.Finish(Result{})
	stranger := newCall(nil)

	sibling.Cancel(DeadlineExceeded)
	root.Cancel(Cancelled)
	root.Cancel(HostLost)
	for _, row := range []struct {
		name  string
		call  *Call
		cause Outcome
		want  bool
	}{
		{"finished", finished, 0, false},
		{"child of finished", orphan, 0, false},
		{"stranger", stranger, 0, false},
		{"root", root, Cancelled, true},
		{"child", child, Cancelled, true},
		{"grandchild", grandchild, Cancelled, true},
		{"cancelled before", sibling, DeadlineExceeded, true},
		{"made after", newCall(root), Cancelled, true},
		{"made after, deeper", newCall(grandchild), Cancelled, true},
	} {
		if cause, ok := row.call.Cancelled(); cause != row.cause || ok != row.want {
			t.Errorf("%s: Cancelled() = %s, %v, want %s, %v", row.name, cause, ok, row.cause, row.want)
		}
	}
	if root.State() != Queued {
		t.Errorf("cancelling made the call %s", root.State())
	}
}

// A guest chooses how deep its calls nest.
func TestCall_Cancel_deep(t *testing.T) {
	root := newCall(nil)
	last := root
	for range 200_000 {
		last = newCall(last)
	}
	root.Cancel(Cancelled)
	if _, ok := last.Cancelled(); !ok {
		t.Error("the deepest call was not cancelled")
	}
}

func TestCall_Finish_leavesChildren(t *testing.T) {
	parent := newCall(nil)
	child, finished := newCall(parent), newCall(parent)
	finished.Finish(Result{})
	if got := parent.childCount(); got != 1 {
		t.Errorf("the parent has %d unfinished children, want 1", got)
	}
	parent.Finish(Result{})
	if child.State() != Queued || child.parent.Load() != nil {
		t.Errorf("child of a finished parent: state %s, parent %p", child.State(), child.parent.Load())
	}
	if !child.Finish(Result{}) {
		t.Error("the child could not finish")
	}
}

// Guests chain and return: each call is the parent of the next, for ever.
func TestCall_chainIsCollected(t *testing.T) {
	first := newCall(nil)
	w := weak.Make(first)
	last := first
	first = nil
	for range 100 {
		next := newCall(last)
		last.Finish(Result{})
		last = next
	}
	runtime.GC()
	if w.Value() != nil {
		t.Error("the first of a chain of finished calls is kept by the last")
	}
	runtime.KeepAlive(last)
}

func TestCall_finishedChildIsCollected(t *testing.T) {
	parent := newCall(nil)
	newer := newCall(parent)
	w := weak.Make(newCall(parent))
	older := newCall(parent)
	w.Value().Finish(Result{})
	runtime.GC()
	if w.Value() != nil {
		t.Error("a finished child is kept by its parent or its siblings")
	}
	runtime.KeepAlive([]*Call{parent, newer, older})
}

func TestCall_OnCancel(t *testing.T) {
	ran := make(map[string]int)
	count := func(name string) func() { return func() { ran[name]++ } }

	finished := newCall(nil)
	finished.OnCancel(count("registered, then finished"))
	finished.Finish(Result{})
	finished.Cancel(Cancelled)
	finished.OnCancel(count("finished, then registered"))()

	c := newCall(nil)
	for i := range 4 {
		stop := c.OnCancel(count(fmt.Sprintf("stopped %d", i)))
		c.OnCancel(count(fmt.Sprintf("kept %d", i)))
		defer stop()
		if i%2 == 0 {
			stop()
			stop()
		}
	}
	newCall(c).OnCancel(count("child"))
	c.Cancel(Cancelled)
	c.Cancel(Cancelled)
	c.OnCancel(count("late"))()

	want := map[string]int{
		"kept 0": 1, "kept 1": 1, "kept 2": 1, "kept 3": 1,
		"stopped 1": 1, "stopped 3": 1,
		"child": 1, "late": 1,
	}
	if diff := cmp.Diff(want, ran); diff != "" {
		t.Errorf("what ran, and how often (-want +got):\n%s", diff)
	}
}

func TestCall_OnDone(t *testing.T) {
	c := newCall(nil)
	ran := make(map[string]int)
	count := func(name string) func() {
		return func() {
			ran[name]++
			if c.Result() == nil {
				t.Errorf("%s: ran without a result", name)
			}
		}
	}
	c.OnDone(count("stopped"))()
	c.OnDone(count("kept"))
	c.Cancel(Cancelled)
	if len(ran) != 0 {
		t.Errorf("ran at Cancel: %v", ran)
	}
	c.Finish(Result{})
	c.Finish(Result{})
	c.OnDone(count("late"))()
	want := map[string]int{"kept": 1, "late": 1}
	if diff := cmp.Diff(want, ran); diff != "" {
		t.Errorf("what ran, and how often (-want +got):\n%s", diff)
	}
}

// What f holds on to may be given back after stop: the rule that lets a Faaslet's
// region serve another call.
func TestCall_OnCancel_stopWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCall(nil)
		begun, end := make(chan struct{}), make(chan struct{})
		stop := c.OnCancel(func() {
			close(begun)
			<-end
		})
		go c.Cancel(Cancelled)
		<-begun
		var stopped atomic.Int32
		for range 3 {
			go func() {
				stop()
				stopped.Add(1)
			}()
		}
		synctest.Wait()
		if n := stopped.Load(); n != 0 {
			t.Errorf("%d of 3 stops returned while the function ran", n)
		}
		close(end)
		synctest.Wait()
		if n := stopped.Load(); n != 3 {
			t.Errorf("%d of 3 stops returned after the function", n)
		}
	})
}

// A hook that is taken but has not begun is still stopped by an earlier one.
func TestCall_OnCancel_stopBeforeTurn(t *testing.T) {
	c := newCall(nil)
	var stops [3]func()
	var ran []int
	for i := range stops {
		stops[i] = c.OnCancel(func() {
			ran = append(ran, i)
			for j := range stops {
				if j != i {
					stops[j]()
				}
			}
		})
	}
	c.Cancel(Cancelled)
	if len(ran) != 1 {
		t.Errorf("ran %v, want one that stopped the others", ran)
	}
}

func TestCall_OnCancel_stopAfterFinish(t *testing.T) {
	c := newCall(nil)
	c.OnCancel(func() {})
	stop := c.OnCancel(func() {})
	c.Finish(Result{})
	stop()
	if c.onCancel != nil {
		t.Error("a finished call has a function again")
	}
}

// The way a queue drops a call.
func TestCall_OnCancel_mayFinish(t *testing.T) {
	c := newCall(nil)
	child := newCall(c)
	c.OnCancel(func() {
		cause, _ := c.Cancelled()
		c.Finish(Result{Outcome: cause})
	})
	c.Cancel(DeadlineExceeded)
	if r := c.Result(); r == nil || r.Outcome != DeadlineExceeded {
		t.Errorf("result %+v", r)
	}
	if cause, ok := child.Cancelled(); !ok || cause != DeadlineExceeded {
		t.Errorf("child: Cancelled() = %s, %v", cause, ok)
	}
}

func TestCall_Wake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parent := newCall(nil)
		child := newCall(parent)
		if !isClosed(parent.Wake()) {
			t.Error("no token at first")
		}
		if isClosed(parent.Wake()) {
			t.Error("a second token for nothing")
		}
		woke := make(chan struct{})
		wait := func() {
			<-parent.Wake()
			woke <- struct{}{}
		}
		go wait()
		synctest.Wait()
		child.Finish(Result{})
		<-woke
		go wait()
		synctest.Wait()
		parent.Cancel(Cancelled)
		<-woke
	})
}

// Twenty thousand children, awaited one by one, in the order of the least luck: the
// parent wakes up no more often than a child finishes.
func TestCall_Wake_isLinear(t *testing.T) {
	const n = 20_000
	parent := newCall(nil)
	children := make([]*Call, n)
	for i := range children {
		children[i] = newCall(parent)
	}
	var finish sync.WaitGroup
	finish.Go(func() {
		for i := range children {
			children[n-1-i].Finish(Result{ReturnCode: int32(n - 1 - i)})
		}
	})
	wakes := 0
	for i, c := range children {
		for c.Result() == nil {
			<-parent.Wake()
			wakes++
		}
		if got := c.Result().ReturnCode; got != int32(i) {
			t.Fatalf("child %d returned %d", i, got)
		}
	}
	finish.Wait()
	if wakes > n+1 {
		t.Errorf("woke up %d times for %d children", wakes, n)
	}
	if got := parent.childCount(); got != 0 {
		t.Errorf("%d children are left", got)
	}
}

func TestCall_size(t *testing.T) {
	if got := reflect.TypeFor[Call]().Size(); got > 384 {
		t.Errorf("a Call is %d bytes large; its comment says about 350", got)
	}
}

// TestCall_hammer has many goroutines at one tree at once. Each call is finished once,
// each of its functions runs at most once and never after its stop, and everyone who
// waits is told.
func TestCall_hammer(t *testing.T) {
	const rounds = 300
	for round := range rounds {
		root := newCall(nil)
		root.MarkRunning(time.Now(), time.Minute)
		calls := []*Call{root}
		for range 20 {
			calls = append(calls, newCall(calls[rand.IntN(len(calls))]))
		}
		var g sync.WaitGroup
		var won atomic.Int32
		for _, c := range calls {
			for range 2 {
				g.Go(func() {
					if c.Finish(Result{Outcome: Trapped}) {
						won.Add(1)
					}
				})
			}
			for _, on := range []func(func()) func(){c.OnCancel, c.OnDone} {
				g.Go(func() {
					var ran, stopped atomic.Bool
					stop := on(func() {
						if stopped.Load() {
							t.Error("ran after stop")
						}
						if ran.Swap(true) {
							t.Error("ran twice")
						}
					})
					runtime.Gosched()
					stop()
					stopped.Store(true)
				})
			}
			g.Go(func() { <-c.Done() })
			g.Go(func() {
				done := make(chan struct{})
				c.OnDone(func() { close(done) })
				<-done
				if c.Result() == nil {
					t.Error("told of the end without a result")
				}
			})
			g.Go(func() {
				c.MarkRunning(time.Now(), time.Second)
				c.Deadline()
				c.Record()
				newCall(c).Finish(Result{})
			})
		}
		g.Go(func() { calls[rand.IntN(len(calls))].Cancel(Cancelled) })
		g.Go(func() { root.Cancel(HostLost) })
		g.Wait()
		if got := int(won.Load()); got != len(calls) {
			t.Fatalf("round %d: %d of %d calls were finished once", round, got, len(calls))
		}
		for _, c := range calls {
			if c.childCount() != 0 || c.parent.Load() != nil || c.onCancel != nil || c.onDone != nil {
				t.Fatalf("round %d: a finished call still has children, a parent or functions", round)
			}
		}
	}
}

// BenchmarkCall_awaitChildren is a parent that makes many children and waits for each.
func BenchmarkCall_awaitChildren(b *testing.B) {
	for _, n := range []int{100, 20_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				parent := newCall(nil)
				children := make([]*Call, n)
				for i := range children {
					children[i] = New(&Request{Parent: parent.ID()}, parent)
				}
				var g sync.WaitGroup
				g.Go(func() {
					for _, c := range children {
						c.Finish(Result{})
					}
				})
				for _, c := range children {
					for c.Result() == nil {
						<-parent.Wake()
					}
				}
				g.Wait()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/child")
		})
	}
}
