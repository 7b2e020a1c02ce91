package bench

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/faaslet"
	"github.com/faasm-go/faasm/internal/sched"
	"github.com/faasm-go/faasm/workloads"
)

// local is a host without HTTP and without a disk: scheduler, engine, regions.
type local struct {
	runtime *faaslet.Runtime
	sched   *sched.Scheduler
	code    map[string]*faaslet.Code
	world   faaslet.World
}

// newLocal loads the named workloads as functions of the same name.
func newLocal(opts sched.Options, limits faaslet.Limits, names ...string) (*local, error) {
	rt, err := faaslet.NewRuntime(faaslet.Options{})
	if err != nil {
		return nil, err
	}
	l := &local{runtime: rt, code: map[string]*faaslet.Code{}}
	if l.sched, err = sched.New(opts, l.run); err != nil {
		return nil, err
	}
	l.world = faaslet.World{Host: l, Logs: call.NewLogBuffer(call.LogBufferOptions{})}
	for _, name := range names {
		if l.code[name], err = rt.Build(workloads.Wasm(name), limits); err != nil {
			return nil, fmt.Errorf("build %s: %w", name, err)
		}
	}
	return l, nil
}

func (l *local) close() error {
	l.sched.Close()
	for _, c := range l.code {
		if err := c.Close(); err != nil {
			return err
		}
	}
	return l.runtime.Close()
}

func (l *local) run(c *call.Call) func() {
	code := l.code[c.Request().Function]
	if code == nil {
		c.Finish(call.Result{Outcome: call.NoSuchFunction})
		return nil
	}
	r, remains := code.Run(c, &l.world)
	c.Finish(r)
	return func() { remains.Clean() }
}

func (l *local) call(tenant, function string, input []byte) *call.Call {
	return call.New(&call.Request{
		ID: call.NewID(), Tenant: tenant, Function: function, Input: input, Accepted: time.Now(), Attempt: 1,
	}, nil)
}

// invoke runs a call and demands that it returns 0. done cleans up after it.
func (l *local) invoke(tenant, function string, input []byte) (*call.Result, func(), error) {
	c := l.call(tenant, function, input)
	done := l.sched.Do(c)
	r := c.Result()
	if r.Outcome != call.Returned || r.ReturnCode != 0 {
		done()
		return nil, nil, fmt.Errorf("%s ended as %v with %d: %+v", function, r.Outcome, r.ReturnCode, r.Failure)
	}
	return r, done, nil
}

// hostif.Host.

func (l *local) Chain(parent *call.Call, function string, entry call.Entry, input []byte) *call.Call {
	c := call.New(&call.Request{
		ID: call.NewID(), Parent: parent.ID(), Tenant: parent.Request().Tenant, Function: function,
		Entry: entry, Input: input, Accepted: time.Now(), Attempt: 1,
	}, parent)
	l.sched.Go(c)
	return c
}
func (l *local) Await(parent, child *call.Call)                 { l.sched.Await(parent, child) }
func (l *local) Block(c *call.Call, children bool, wait func()) { l.sched.Block(c, children, wait) }

// defaultLimits are a function's where a bench does not say otherwise.
var defaultLimits = faaslet.Limits{MemoryMax: 64 << 20, Timeout: time.Minute}

func fresh(ctx context.Context, r *Run) error {
	l, err := newLocal(sched.Options{}, defaultLimits, "noop")
	if err != nil {
		return err
	}
	defer l.close()

	// From the scheduler's door to the reply. Cleaning is after the reply, and part of the
	// next figure.
	n := r.pick(200_000, 40_000)
	times := make(samples, 0, n)
	whole := make(samples, 0, n)
	for i := -n / 10; i < n; i++ {
		start := time.Now()
		_, done, err := l.invoke("bench", "noop", nil)
		if err != nil {
			return err
		}
		replied := time.Since(start)
		done()
		if i >= 0 {
			times, whole = append(times, replied), append(whole, time.Since(start))
		}
	}
	r.addLatency("fresh_noop", "us", times)
	r.Add("fresh_noop_cleaned_p50", "us", whole.quantile(0.5, time.Microsecond))

	// Instantiate, call, clean, and nothing else.
	code := l.code["noop"]
	engine := make(samples, 0, n)
	for i := -n / 10; i < n; i++ {
		start := time.Now()
		if err := code.Bare(); err != nil {
			return err
		}
		if i >= 0 {
			engine = append(engine, time.Since(start))
		}
	}
	r.Add("engine_noop_p50", "us", engine.quantile(0.5, time.Microsecond))

	return forkExec(ctx, r, times.quantile(0.5, time.Microsecond))
}

//go:embed forkexec/noop.c
var noopC []byte

// forkExec times fork+exec of a static C program that does nothing, until it is reaped.
func forkExec(ctx context.Context, r *Run, fresh float64) error {
	cc, err := exec.LookPath("gcc")
	if err != nil {
		r.Skip("forkexec_p50", "gcc is not installed")
		return nil
	}
	dir, err := os.MkdirTemp("", "faasm-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	source, exe := filepath.Join(dir, "noop.c"), filepath.Join(dir, "noop")
	if err := os.WriteFile(source, noopC, 0o600); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, cc, "-O2", "-static", "-o", exe, source).CombinedOutput(); err != nil {
		return fmt.Errorf("compile noop.c: %w: %s", err, out)
	}
	n := r.pick(2000, 500)
	times := make(samples, 0, n)
	for i := -20; i < n; i++ {
		start := time.Now()
		p, err := os.StartProcess(exe, []string{exe}, &os.ProcAttr{})
		if err != nil {
			return err
		}
		if _, err := p.Wait(); err != nil {
			return err
		}
		if i >= 0 {
			times = append(times, time.Since(start))
		}
	}
	p50 := times.quantile(0.5, time.Microsecond)
	r.Add("forkexec_p50", "us", p50)
	r.Add("fresh_over_forkexec", "ratio", fresh/p50)
	return nil
}
