package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/faasm-go/faasm/internal/linux"
)

// Open loop: the moments at which starts are due are fixed ahead, and a start that is late
// counts its lateness, as it does for who asked for it. A closed loop, which asks for the
// next when the last is served, would slow down with the host and see nothing.

// A window is a stretch of load at one rate.
type window struct {
	starts samples // from the moment each was due until its guest was about to run
	late   bool    // given up: more than one in a hundred was later than initMax
}

func (w *window) sustained() bool { return !w.late && w.starts.quantile(0.99, 1) < float64(initMax) }

// initMax is what 99 of 100 starts must be within.
const initMax = time.Millisecond

// A startLoad is a host and a worker for each core. A worker makes its calls on its own
// goroutine, as the goroutines of a host's connections do; a call that is due is taken by
// whoever is free, as they accept connections. So a core that the machine takes away for a
// while holds up the one call that it has taken.
type startLoad struct {
	local   *local
	cores   int
	windows int             // so far, as the seed
	due     []time.Duration // when each start of a window is due, from its beginning
	buffers []samples
}

// burst is the time between two moments at which starts are due.
const burst = 100 * time.Microsecond

// schedule fills l.due with what a Poisson process brings in d. What comes between two
// bursts is due with the second, as a network card hands over what has come.
func (l *startLoad) schedule(rate float64, d time.Duration) {
	l.windows++
	rnd := rand.New(rand.NewPCG(uint64(l.windows), 0))
	l.due = l.due[:0]
	for at := 0.0; ; {
		at += rnd.ExpFloat64() / rate
		due := (time.Duration(at*float64(time.Second)) + burst - 1).Truncate(burst)
		if due >= d {
			return
		}
		l.due = append(l.due, due)
	}
}

// run offers rate starts a second for d. With giveUp it ends as soon as the window can't be
// sustained.
func (l *startLoad) run(rate float64, d time.Duration, giveUp bool) (window, error) {
	l.schedule(rate, d)
	runtime.GC() // each window begins alike
	offer := &offer{due: l.due, begin: time.Now().Add(time.Millisecond), lateMax: math.MaxInt64}
	if giveUp {
		offer.lateMax = int64(len(l.due) / 100)
	}
	var wg sync.WaitGroup
	errs := make([]error, l.cores)
	for g := range l.cores {
		wg.Go(func() { l.buffers[g], errs[g] = l.work(l.buffers[g][:0], offer) })
	}
	wg.Wait()
	w := window{late: offer.late.Load() > offer.lateMax}
	for g := range l.cores {
		w.starts = append(w.starts, l.buffers[g]...)
	}
	return w, errors.Join(errs...)
}

// An offer is a window that is under way.
type offer struct {
	due     []time.Duration
	begin   time.Time
	lateMax int64 // with more that are late it ends

	next, late atomic.Int64
}

// work makes calls that are due until there are no more, and returns how long each took
// from when it was due until its guest was about to run.
func (l *startLoad) work(out samples, o *offer) (samples, error) {
	var due time.Time
	last := time.Duration(-1)
	for o.late.Load() <= o.lateMax {
		i := o.next.Add(1) - 1
		if i >= int64(len(o.due)) {
			break
		}
		if o.due[i] != last {
			last = o.due[i]
			due = o.begin.Add(last)
			if wait := time.Until(due); wait > 0 {
				linux.Sleep(wait)
			} else {
				runtime.Gosched()
			}
		}
		r, done, err := l.local.invoke("bench", "noop", nil)
		if err != nil {
			return out, err
		}
		done()
		took := r.Started.Add(r.Usage.Start).Sub(due)
		out = append(out, took)
		if took > initMax {
			o.late.Add(1)
		}
	}
	return out, nil
}

// churn finds the highest rates of fresh starts, each cleaned up after, that a host keeps
// up with on one core and on two.
func churn(ctx context.Context, r *Run) error {
	length := time.Second
	if r.Quick {
		length = 300 * time.Millisecond
	}
	var twoCores float64
	for _, cores := range []int{1, 2} {
		name := fmt.Sprintf("starts_per_s_%dcore", cores)
		if runtime.NumCPU() < cores {
			r.Skip(name, fmt.Sprintf("this machine has %d cores", runtime.NumCPU()))
			continue
		}
		most, gaps, err := closedLoop(ctx, cores, length)
		if err != nil {
			return err
		}
		r.Add(fmt.Sprintf("closed_%dcore", cores), "1/s", most)
		r.Add(fmt.Sprintf("machine_gaps_%dcore", cores), "percent", gaps)
		rate, curve, err := churnOn(ctx, r, cores, length)
		if err != nil {
			return err
		}
		if rate == 0 {
			r.Skip(name, fmt.Sprintf("not even %d starts a second were in time: the machine is busy with something else", churnLeast))
			continue
		}
		r.Add(name, "1/s", rate)
		r.AddCurve(Curve{Name: fmt.Sprintf("churn_%dcore", cores), X: "starts/s", Y: "us", Points: curve})
		if cores == 2 {
			twoCores = rate
			for _, p := range curve {
				if p["x"] == churnHalf*rate {
					r.Add("init_p50", "us", p["p50"])
					r.Add("init_p99", "us", p["p99"])
				}
			}
		}
	}
	if twoCores == 0 {
		r.Skip("init_p50", "there is no rate for two cores")
		r.Skip("init_p99", "there is no rate for two cores")
	}
	return nil
}

// closedLoop returns how many starts a second, each cleaned up after, so many goroutines
// make that do nothing else, and the percentage of its time that a loop loses in gaps of
// over a millisecond which only reads the clock: what the machine itself takes away from
// whoever uses so many cores.
func closedLoop(ctx context.Context, cores int, length time.Duration) (rate, gaps float64, err error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(cores))
	local, err := newLocalWith(defaultLimits, "noop")
	if err != nil {
		return 0, 0, err
	}
	defer local.close()
	var rates, lost []float64
	for range 5 {
		if err := ctx.Err(); err != nil {
			return 0, 0, err
		}
		started, err := together(cores, length, func() func() (float64, error) {
			return func() (float64, error) {
				_, done, err := local.invoke("bench", "noop", nil)
				if err == nil {
					done()
				}
				return 1, err
			}
		})
		if err != nil {
			return 0, 0, err
		}
		rates = append(rates, started/length.Seconds())
		gap, err := together(cores, length, func() func() (float64, error) {
			last := time.Now()
			return func() (float64, error) {
				now := time.Now()
				gap := now.Sub(last)
				last = now
				if gap > time.Millisecond {
					return gap.Seconds(), nil
				}
				return 0, nil
			}
		})
		if err != nil {
			return 0, 0, err
		}
		lost = append(lost, 100*gap/length.Seconds()/float64(cores))
	}
	return median(rates), median(lost), nil
}

// together has n goroutines call what start gives each for d, and returns the sum of what
// that returned.
func together(n int, d time.Duration, start func() func() (float64, error)) (float64, error) {
	sums, errs := make([]float64, n), make([]error, n)
	end := time.Now().Add(d)
	var wg sync.WaitGroup
	for g := range n {
		wg.Go(func() {
			f := start()
			var sum float64
			for errs[g] == nil && time.Now().Before(end) {
				var v float64
				v, errs[g] = f()
				sum += v
				runtime.Gosched()
			}
			sums[g] = sum
		})
	}
	wg.Wait()
	var sum float64
	for _, v := range sums {
		sum += v
	}
	return sum, errors.Join(errs...)
}

// churnFirst is the first rate that is tried, and churnLeast the least.
const (
	churnFirst = 150_000.0
	churnLeast = 5_000
)

// churnHalf is the part of the highest rate at which init_p50 and init_p99 are taken.
const churnHalf = 0.5

// churnOn returns the highest rate that is sustained on so many cores, 0 if there is none,
// and the latencies at rates up to a little more than that.
func churnOn(ctx context.Context, r *Run, cores int, length time.Duration) (rate float64, curve []Point, err error) {
	// Go's scheduler is held to as many cores, and with it all that the host does; beside
	// the generators only its collector runs.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(cores))
	local, err := newLocalWith(defaultLimits, "noop")
	if err != nil {
		return 0, nil, err
	}
	defer local.close()
	l := &startLoad{local: local, cores: cores, buffers: make([]samples, cores)}
	if _, err := l.run(churnFirst, length, false); err != nil { // warms up
		return 0, nil, err
	}
	rate, err = highest(func(rate float64) (bool, error) {
		// Two windows of three: a machine that others use takes a millisecond away now and
		// then.
		good, bad := 0, 0
		for good < 2 && bad < 2 {
			if err := ctx.Err(); err != nil {
				return false, err
			}
			w, err := l.run(rate, length, true)
			if err != nil {
				return false, err
			}
			if w.sustained() {
				good++
			} else {
				bad++
			}
		}
		r.logf("churn: %d cores, %.0f/s: in time %v", cores, rate, good == 2)
		return good == 2, nil
	})
	if err != nil || rate == 0 {
		return 0, nil, err
	}
	fractions := []float64{0.1, 0.25, churnHalf, 0.7, 0.85, 0.95, 1, 1.05}
	if r.Quick {
		fractions = []float64{0.25, churnHalf, 1}
	}
	for _, f := range fractions {
		var p50, p99 []float64
		for range r.pick(3, 1) {
			w, err := l.run(rate*f, length, false)
			if err != nil {
				return 0, nil, err
			}
			p50, p99 = append(p50, w.starts.quantile(0.50, time.Microsecond)), append(p99, w.starts.quantile(0.99, time.Microsecond))
		}
		curve = append(curve, Point{"x": rate * f, "p50": median(p50), "p99": median(p99)})
	}
	return rate, curve, nil
}

// highest searches the highest rate at which ok holds, to two in a hundred. It returns 0
// if there is none from churnLeast up.
func highest(ok func(rate float64) (bool, error)) (float64, error) {
	const growth = 1.5
	low, high := 0.0, 0.0 // ok, and not ok
	for rate := churnFirst; low == 0 || high == 0; {
		good, err := ok(rate)
		if err != nil {
			return 0, err
		}
		if good {
			low = rate
			rate *= growth
		} else {
			high = rate
			rate /= growth
		}
		if low == 0 && rate < churnLeast {
			return 0, nil
		}
	}
	for high/low > 1.02 {
		middle := math.Sqrt(low * high)
		good, err := ok(middle)
		if err != nil {
			return 0, err
		}
		if good {
			low = middle
		} else {
			high = middle
		}
	}
	return low, nil
}
