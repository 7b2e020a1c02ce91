package bench

import (
	"fmt"
	"time"

	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/engine"
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

// newLocal makes a host without functions.
func newLocal(rt faaslet.Options, opts sched.Options) (*local, error) {
	l := &local{code: map[string]*faaslet.Code{}}
	var err error
	if l.runtime, err = faaslet.NewRuntime(rt); err != nil {
		return nil, err
	}
	if l.sched, err = sched.New(opts, l.run); err != nil {
		return nil, err
	}
	l.world = faaslet.World{Host: l, Logs: call.NewLogBuffer(call.LogBufferOptions{})}
	return l, nil
}

// newLocalWith makes a host with its defaults, and the workloads of those names as its
// functions.
func newLocalWith(limits faaslet.Limits, names ...string) (*local, error) {
	l, err := newLocal(faaslet.Options{}, sched.Options{})
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if err := l.add(name, workloads.Wasm(name), limits); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// add builds a module as a function.
func (l *local) add(name string, bin []byte, limits faaslet.Limits) (err error) {
	if l.code[name], err = l.runtime.Build(bin, limits); err != nil {
		return fmt.Errorf("build %s: %w", name, err)
	}
	return nil
}

// addText builds a module in the text format as a function.
func (l *local) addText(name, text string, limits faaslet.Limits) error {
	bin, err := engine.FromText(text)
	if err != nil {
		return fmt.Errorf("assemble %s: %w", name, err)
	}
	return l.add(name, bin, limits)
}

// addTimed does what add does, and tells how long the function's initialisation took.
func (l *local) addTimed(name string, bin []byte, limits faaslet.Limits) (time.Duration, error) {
	code, err := l.runtime.Compile(bin, limits)
	if err != nil {
		return 0, fmt.Errorf("compile %s: %w", name, err)
	}
	p, result, err := code.Initialise(l.call("bench", name, nil), limits.Timeout, nil)
	if err != nil {
		return 0, fmt.Errorf("initialise %s: %w", name, err)
	}
	if p == nil {
		return 0, fmt.Errorf("initialise %s: %s", name, result.Failure.Message)
	}
	defer p.Close()
	if err := code.StartFrom(p); err != nil {
		return 0, err
	}
	code.Warm()
	l.code[name] = code
	return result.Usage.Wall, nil
}

func (l *local) close() error {
	l.sched.Close()
	if l.world.State != nil {
		if err := l.world.State.Close(); err != nil {
			return err
		}
	}
	for _, c := range l.code {
		if err := c.Close(); err != nil {
			return err
		}
	}
	return l.runtime.Close()
}

func (l *local) run(c *call.Call) sched.Task {
	code := l.code[c.Request().Function]
	if code == nil {
		c.Finish(call.Result{Outcome: call.NoSuchFunction})
		return nil
	}
	return &localTask{c, code.Start(c, &l.world)}
}

// A localTask is a call in its Faaslet.
type localTask struct {
	call *call.Call
	*faaslet.Faaslet
}

func (t *localTask) Run() *call.Wait {
	if w := t.Faaslet.Run(); w != nil {
		return w
	}
	t.call.Finish(*t.Result())
	return nil
}

func (t *localTask) Clean() { t.Faaslet.Clean() }

func (l *local) call(tenant, function string, input []byte) *call.Call {
	now := time.Now()
	return call.New(&call.Request{
		ID: call.NewIDAt(now), Tenant: tenant, Function: function, Input: input, Accepted: now, Attempt: 1,
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
func (l *local) Block(c *call.Call, children bool, wait func()) { l.sched.Block(c, children, wait) }

// defaultLimits are a function's where a bench does not say otherwise.
var defaultLimits = faaslet.Limits{MemoryMax: 64 << 20, Timeout: time.Minute}
