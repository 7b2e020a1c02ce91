package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/faaslet"
)

// runaways are the guests that never end by themselves, by the figure that tells how soon
// after its deadline each is stopped.
var runaways = []struct{ figure, workload string }{
	{"stop_spin_mem", "hostile_spin_mem"},
	{"stop_spin_nomem", "hostile_spin_nomem"},
	{"stop_fill", "hostile_fill"},
	{"stop_recurse", "hostile_recurse_flat"},
}

func interrupt(ctx context.Context, r *Run) error {
	limits := faaslet.Limits{MemoryMax: 64 << 20, Timeout: 20 * time.Millisecond}
	var names []string
	for _, w := range runaways {
		names = append(names, w.workload)
	}
	l, err := newLocalWith(limits, append(names, "noop")...)
	if err != nil {
		return err
	}
	defer l.close()
	if err := l.addText("awaiter", awaiter, limits); err != nil {
		return err
	}
	l.world.Host = &holding{local: l}

	n := r.pick(200, 40)
	late := func(function string) (time.Duration, error) {
		c := l.call("bench", function, nil)
		done := l.sched.Do(c)
		ended := time.Now()
		done()
		if o := c.Result().Outcome; o != call.DeadlineExceeded {
			return 0, fmt.Errorf("%s ended as %v: %+v", function, o, c.Result().Failure)
		}
		return ended.Sub(c.Started().Add(limits.Timeout)), nil
	}
	for _, w := range append(runaways, struct{ figure, workload string }{"stop_blocked", "awaiter"}) {
		var times samples
		for range n {
			d, err := late(w.workload)
			if err != nil {
				return err
			}
			times = append(times, d)
		}
		r.Add(w.figure+"_p99", "ms", times.quantile(0.99, time.Millisecond))
		r.logf("interrupt: %s done", w.figure)
	}
	return neighbour(r, l)
}

// neighbour times the no-ops of one tenant, alone and while another tenant spins with all
// the calls that the host lets it run at once, in turn.
func neighbour(r *Run, l *local) error {
	measure := func() (samples, error) {
		var times samples
		end := time.Now().Add(time.Duration(r.pick(2000, 700)) * time.Millisecond)
		for time.Now().Before(end) {
			start := time.Now()
			_, done, err := l.invoke("good", "noop", nil)
			if err != nil {
				return nil, err
			}
			times = append(times, time.Since(start))
			done()
			time.Sleep(200 * time.Microsecond)
		}
		return times, nil
	}
	var alone, beside samples
	for range 3 {
		a, err := measure()
		if err != nil {
			return err
		}
		alone = append(alone, a...)

		stop := make(chan struct{})
		spinners := make(chan struct{})
		go func() {
			defer close(spinners)
			for {
				select {
				case <-stop:
					return
				default:
				}
				// More than may run at once, so that there is always one to take over.
				var calls []*call.Call
				for range 2 * l.sched.Options().TenantPlaces {
					c := l.call("bad", "hostile_spin_mem", nil)
					l.sched.Go(c)
					calls = append(calls, c)
				}
				for _, c := range calls {
					<-c.Done()
				}
			}
		}()
		b, err := measure()
		close(stop)
		<-spinners
		if err != nil {
			return err
		}
		beside = append(beside, b...)
	}
	r.Add("neighbour_p99", "ms", beside.quantile(0.99, time.Millisecond))
	r.Add("neighbour_alone_p99", "ms", alone.quantile(0.99, time.Millisecond))
	return nil
}
