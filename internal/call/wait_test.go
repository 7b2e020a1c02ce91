package call

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// wakes counts.
type wakes struct{ n atomic.Int64 }

func (w *wakes) Wake() { w.n.Add(1) }

func TestCall_SetWaker(t *testing.T) {
	parent := newCall(nil)
	early, late, left := newCall(parent), newCall(parent), newCall(parent)
	early.Finish(Result{})
	var w wakes
	parent.SetWaker(&w)
	for i, step := range []struct {
		name string
		do   func()
		want int64
	}{
		{"a child had finished before", func() {}, 0},
		{"a child finishes", func() { late.Finish(Result{}) }, 1},
		{"it finishes again", func() { late.Finish(Result{}) }, 1},
		{"cancelled", func() { parent.Cancel(Cancelled) }, 2},
		{"cancelled again", func() { parent.Cancel(Cancelled) }, 2},
		{"finished", func() { parent.Finish(Result{}) }, 2},
		{"a child outlives it", func() { left.Finish(Result{}) }, 2},
		{"set once more", func() { parent.SetWaker(&w); parent.Cancel(Cancelled) }, 2},
	} {
		step.do()
		if got := w.n.Load(); got != step.want {
			t.Errorf("step %d, %s: woken %d times; want %d", i, step.name, got, step.want)
		}
	}
	if parent.waker != nil {
		t.Error("a call that has finished keeps who carried it")
	}
}

func TestWait_Block(t *testing.T) {
	for _, tt := range []struct {
		name string
		wait time.Duration // 0: for as long as it takes
		do   func(c, first, second *Call)
		want time.Duration
	}{
		{"time passes", 2 * time.Second, func(c, first, second *Call) {}, 2 * time.Second},
		{"cancelled", time.Hour, func(c, first, second *Call) { c.Cancel(DeadlineExceeded) }, time.Second},
		{"cancelled, without a limit", 0, func(c, first, second *Call) { c.Cancel(DeadlineExceeded) }, time.Second},
		{"second finishes", 0, func(c, first, second *Call) { second.Finish(Result{}) }, time.Second},
		{"another child finishes", 2 * time.Second, func(c, first, second *Call) { newCall(c).Finish(Result{}) }, 2 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCall(nil)
				first, second := newCall(c), newCall(c)
				start := time.Now()
				time.AfterFunc(time.Second, func() { tt.do(c, first, second) })
				w := &Wait{Calls: []*Call{first, second}, For: tt.wait}
				if w.Over(c) {
					t.Error("over before anything has happened")
				}
				w.Block(c)
				if got := time.Since(start); got != tt.want {
					t.Errorf("waited for %v; want %v", got, tt.want)
				}
			})
		})
	}
}

func TestCall_Allowed(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		name     string
		deadline time.Time
		timeout  time.Duration
		want     time.Duration
		ok       bool
	}{
		{"no limit", time.Time{}, 0, 0, false},
		{"its own", time.Time{}, time.Second, time.Second, true},
		{"the request's", now.Add(time.Minute), 0, time.Minute, true},
		{"the earlier", now.Add(time.Minute), time.Hour, time.Minute, true},
		{"past", now.Add(-time.Minute), time.Hour, -time.Minute, true},
	} {
		c := New(&Request{ID: NewID(), Deadline: tt.deadline}, nil)
		if d, ok := c.Allowed(); ok {
			t.Errorf("%s: %v is allowed to one that does not run", tt.name, d)
		}
		c.MarkRunning(now, tt.timeout)
		if got, ok := c.Allowed(); got != tt.want || ok != tt.ok {
			t.Errorf("%s: Allowed() = %v, %v; want %v, %v", tt.name, got, ok, tt.want, tt.ok)
		}
	}
}
