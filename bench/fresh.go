package bench

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/faasm-go/faasm/internal/faaslet"
	"github.com/faasm-go/faasm/workloads"
)

func fresh(ctx context.Context, r *Run) error {
	l, err := newLocalWith(defaultLimits, "noop", "image1", "image32")
	if err != nil {
		return err
	}
	defer l.close()
	if err := freshNoop(ctx, r, l); err != nil {
		return err
	}
	if err := freshParts(r, l.code["noop"]); err != nil {
		return err
	}
	if err := freshImages(r, l); err != nil {
		return err
	}
	return freshRuntime(r, l)
}

// A lap is one fresh Faaslet's times.
type lap struct {
	first   time.Duration // from the scheduler's door until the guest was about to run
	replied time.Duration // from the scheduler's door to the reply
	cleaned time.Duration // and to the end of the cleaning after it
}

func (l *local) lap(function string, input []byte) (lap, error) {
	start := time.Now()
	r, done, err := l.invoke("bench", function, input)
	if err != nil {
		return lap{}, err
	}
	replied := time.Since(start)
	done()
	return lap{r.Started.Add(r.Usage.Start).Sub(start), replied, time.Since(start)}, nil
}

// laps runs a function n times.
func (l *local) laps(n int, function string, input []byte) (first, replied, cleaned samples, err error) {
	for range n {
		t, err := l.lap(function, input)
		if err != nil {
			return nil, nil, nil, err
		}
		first, replied, cleaned = append(first, t.first), append(replied, t.replied), append(cleaned, t.cleaned)
	}
	return first, replied, cleaned, nil
}

// freshNoop times no-ops, in turn with processes and containers that do nothing.
func freshNoop(ctx context.Context, r *Run, l *local) error {
	others, err := newOthers(ctx, r)
	if err != nil {
		return err
	}
	defer others.close()
	const rounds = 10
	var replied, cleaned, bare samples
	var cpu time.Duration
	n := r.pick(200_000, 40_000) / rounds
	if _, _, _, err := l.laps(n, "noop", nil); err != nil { // warms up
		return err
	}
	for range rounds {
		before := cpuTime()
		_, re, cl, err := l.laps(n, "noop", nil)
		if err != nil {
			return err
		}
		cpu += cpuTime() - before
		replied, cleaned = append(replied, re...), append(cleaned, cl...)
		for range n {
			start := time.Now()
			if err := l.code["noop"].Bare(); err != nil {
				return err
			}
			bare = append(bare, time.Since(start))
		}
		if err := others.round(rounds); err != nil {
			return err
		}
	}
	r.addLatency("fresh_noop", "us", replied)
	r.Add("fresh_noop_cleaned_p50", "us", cleaned.quantile(0.5, time.Microsecond))
	r.Add("fresh_cpu", "us", float64(cpu)/float64(time.Microsecond)/float64(rounds*n))
	r.Add("engine_noop_p50", "us", bare.quantile(0.5, time.Microsecond))
	others.report(replied.quantile(0.5, time.Microsecond))
	return others.footprint()
}

// freshParts tells what a bare no-op is made of. What reading the clock costs is taken off.
func freshParts(r *Run, code *faaslet.Code) error {
	n := r.pick(100_000, 20_000)
	var clock, region, instance, guest, clean samples
	for range n {
		start := time.Now()
		clock = append(clock, time.Since(start))
		p, err := code.BareParts()
		if err != nil {
			return err
		}
		region, instance, guest, clean = append(region, p.Region), append(instance, p.Instance), append(guest, p.Guest), append(clean, p.Clean)
	}
	for _, part := range []struct {
		name  string
		times samples
	}{{"region", region}, {"instance", instance}, {"guest", guest}, {"clean", clean}} {
		r.Add("part_"+part.name+"_p50", "ns", part.times.quantile(0.5, 1)-clock.quantile(0.5, 1))
	}
	return nil
}

// freshImages times Faaslets with larger images, of which they write a part.
func freshImages(r *Run, l *local) error {
	type image struct {
		figure, function, percent string
		n                         int
		replied, cleaned          samples
	}
	images := []*image{
		{figure: "fresh_1mib", function: "image1", percent: "1", n: r.pick(5000, 500)},
		{figure: "fresh_1mib_10pct", function: "image1", percent: "10", n: r.pick(5000, 500)},
		{figure: "fresh_1mib_100pct", function: "image1", percent: "100", n: r.pick(2000, 200)},
		{figure: "fresh_32mib", function: "image32", percent: "1", n: r.pick(2000, 200)},
		{figure: "fresh_32mib_10pct", function: "image32", percent: "10", n: r.pick(500, 50)},
		{figure: "fresh_32mib_100pct", function: "image32", percent: "100", n: r.pick(100, 20)},
	}
	for _, i := range images {
		// A region keeps what one run of its function wrote: the rounds of another share
		// would leave it more to clean.
		l.code[i.function].Trim(0)
		if _, _, _, err := l.laps(10, i.function, []byte(i.percent)); err != nil {
			return err
		}
		var err error
		if _, i.replied, i.cleaned, err = l.laps(i.n, i.function, []byte(i.percent)); err != nil {
			return err
		}
		r.Add(i.figure+"_p50", "us", i.replied.quantile(0.5, time.Microsecond))
		r.Add(i.figure+"_cleaned_p50", "us", i.cleaned.quantile(0.5, time.Microsecond))
	}
	return nil
}

// freshRuntime times Faaslets that start with a language's runtime initialised.
func freshRuntime(r *Run, l *local) error {
	init, err := l.addTimed("lisp", workloads.Wasm("lisp"), defaultLimits)
	if err != nil {
		return err
	}
	r.Add("runtime_init", "ms", float64(init)/float64(time.Millisecond))
	const touch = "(touch 1048576)"
	n := r.pick(2000, 200)
	_, _, _, err = l.laps(n/10, "lisp", []byte(touch)) // warms up
	if err != nil {
		return err
	}
	first, replied, _, err := l.laps(n, "lisp", []byte(touch))
	if err != nil {
		return err
	}
	var coldFirst, coldReplied samples
	for range r.pick(500, 50) {
		l.code["lisp"].Trim(0)
		t, err := l.lap("lisp", []byte(touch))
		if err != nil {
			return err
		}
		coldFirst, coldReplied = append(coldFirst, t.first), append(coldReplied, t.replied)
	}
	for _, f := range []struct {
		name  string
		times samples
	}{
		{"runtime_first", first}, {"runtime_touch1mib", replied},
		{"runtime_cold_first", coldFirst}, {"runtime_cold_touch1mib", coldReplied},
	} {
		r.Add(f.name+"_p50", "us", f.times.quantile(0.5, time.Microsecond))
	}
	res, done, err := l.invoke("bench", "lisp", []byte("(nth-prime 1000)"))
	if err != nil {
		return err
	}
	defer done()
	if got := strings.TrimSpace(string(res.Output)); got != "7919" {
		return fmt.Errorf("lisp: (nth-prime 1000) is %q", got)
	}
	return nil
}
