// Package faaslet makes, runs, interrupts and cleans Faaslets: one isolated execution of a
// function, in a region of its own that no other sees.
//
// Every call gets a fresh one. Code.Run is the life of a Faaslet, on the goroutine that
// carries the call: take a clean region, instantiate, run, serve what the guest asks of
// the host, tell how it ended. The region is cleaned after the reply (Remains.Clean).
//
// What they start from is a Proto-Faaslet, made once by Code.Initialise.
//
// The package does not decide when a call runs, nor hold it back while the host is busy
// (sched does), and does not know what the host functions do (hostif does).
package faaslet

import (
	"fmt"
	"sync"
	"time"

	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/engine"
	"github.com/faasm-go/faasm/internal/hostif"
	"github.com/faasm-go/faasm/internal/vmem"
)

// Faaslet is one execution. It belongs to the goroutine that carries the call, but for
// interrupt, which comes from whoever cancels it.
type Faaslet struct {
	guest  hostif.Guest
	code   *Code
	region *vmem.Region
	began  time.Time
	taken  time.Duration // for the region

	gate struct {
		sync.Mutex
		shut bool
		over bool // the guest will not be entered again
	}
}

// Remains are what a Faaslet leaves behind. They must be cleaned, once.
type Remains struct {
	code     *Code
	region   *vmem.Region // nil if there was none
	instance engine.Instance
	deep     bool // the native stack may have been used deeply
}

// World is what surrounds the Faaslets of a host.
type World struct {
	Host  hostif.Host
	Logs  *call.LogBuffer
	Trace func(line string) // if not nil, is given each host call and its answer
}

// Run runs cl to its end in a fresh Faaslet and tells how it ended. It does not finish cl.
//
// cl is Running, or about to be: Run ends at once if it has been cancelled. Its deadline
// is minded here: past it, the guest is stopped, whatever it does.
func (c *Code) Run(cl *call.Call, w *World) (*call.Result, Remains) {
	started := time.Now()
	if !cl.MarkRunning(started, c.limits.Timeout) {
		outcome, failure := cancelledResult(cl, started)
		return &call.Result{Started: started, Finished: started, Outcome: outcome, Failure: failure}, Remains{}
	}
	region, err := c.take(c.pool)
	if err != nil {
		return &call.Result{Started: started, Finished: time.Now(), Outcome: call.Refused,
			Failure: &call.Failure{Message: fmt.Sprintf("the host has no memory for another Faaslet: %v", err)}}, Remains{}
	}
	f := c.faaslet(cl, w, region)
	f.began, f.taken = started, time.Since(started)
	return f.live()
}

// faaslet makes a Faaslet for a call, in a region.
func (c *Code) faaslet(cl *call.Call, w *World, region *vmem.Region) *Faaslet {
	instance := c.instance(region)
	if c.slowRuns.Load() >= slowRunsMeasured {
		instance.MeasureCPU()
	}
	f := &Faaslet{
		code:   c,
		region: region,
		guest: hostif.Guest{
			Instance: instance, Call: cl, Host: w.Host, Limits: &c.rt.opts.Hosts, Log: w.Logs.Writer(cl.Request()),
			Name: cl.Request().Function, MallocsOutput: c.manifest.MallocsOutput, Table: c.manifest.Table, Trace: w.Trace,
		},
	}
	f.guest.Run = f.drive
	return f
}

// live is a Faaslet's life, from instantiation to its end. A Faaslet that blocks keeps the
// stack below it: what is large is made afterwards, and returned by reference.
func (f *Faaslet) live() (*call.Result, Remains) {
	var e end
	f.guarded(func() { e = f.run(f.guest.Call.Request().Entry) })
	f.guest.Log.Close()

	r, instance := &call.Result{Started: f.began, Finished: time.Now()}, f.guest.Instance
	f.conclude(e, r)
	r.Usage.Start = f.taken + instance.StartTime()
	r.Usage.Wall = r.Finished.Sub(r.Started)
	r.Usage.CPU = f.code.cpu(instance, r.Usage.Wall-f.guest.Blocked)
	r.Usage.MemoryPeak = instance.Size()
	r.Usage.HostCalls = f.guest.HostCalls
	return r, Remains{code: f.code, region: f.region, instance: instance, deep: r.Outcome != call.Returned}
}

// guarded runs the guest while whoever cancels its call, or its deadline, can stop it.
func (f *Faaslet) guarded(run func()) {
	cl := f.guest.Call
	stop := cl.OnCancel(f.interrupt)
	var timer *time.Timer
	if d := cl.Deadline(); !d.IsZero() {
		timer = time.AfterFunc(time.Until(d), func() { cl.Cancel(call.DeadlineExceeded) })
	}
	run()
	if timer != nil {
		timer.Stop()
	}
	stop()
	f.openGate()
}

const (
	// slowRun is what a run may take before it counts as long. Reading the thread's clock
	// twice costs 1 us, a third of a short run.
	slowRun = 200 * time.Microsecond
	// slowRunsMeasured is the score from which runs are measured: a long run adds two to
	// it and a short one takes one away, so a single interruption by the kernel is not
	// taken for the function's nature.
	slowRunsMeasured = 3
	slowRunsMax      = 8
)

// cpu is the CPU time of a run that was busy for so long. For a function whose runs are
// short it is taken to be just that.
func (c *Code) cpu(instance engine.Instance, busy time.Duration) time.Duration {
	score := c.slowRuns.Load()
	switch {
	case busy > slowRun && score < slowRunsMax:
		c.slowRuns.Store(score + 2)
	case busy <= slowRun && score > 0:
		c.slowRuns.Store(score - 1)
	}
	if measured := instance.CPU(); measured > 0 {
		return measured
	}
	return busy
}

// end is how a run ended, and in which step.
type end struct {
	event engine.Event
	step  step
}

// run runs a call: the module's entry point, or the function of the table that entry names.
func (f *Faaslet) run(entry call.Entry) end {
	m := &f.code.manifest
	if m.Drop != "" {
		// The segments that were dropped during initialisation are whole in a new instance.
		if event := f.guest.Instance.Start(m.Drop, 0); event != engine.Finished {
			return end{event, step{Export: m.Drop}}
		}
	}
	if entry.Table {
		return end{f.drive(f.guest.Instance.StartTable(m.Table, entry.Index)), m.Entry}
	}
	return end{f.drive(f.guest.Instance.Start(m.Entry.Export, m.Entry.Results)), m.Entry}
}

// drive serves the guest's host calls until it stops for another reason. It returns
// HostCall if the guest is to be dropped as it is: it exited, or it is to go on no more.
func (f *Faaslet) drive(event engine.Event) engine.Event {
	for event == engine.HostCall {
		event = f.guest.Serve()
		if event == engine.HostCall && f.dropped() {
			break
		}
	}
	return event
}

func (f *Faaslet) dropped() bool {
	_, cancelled := f.guest.Call.Cancelled()
	return f.guest.Exited || f.guest.Died || cancelled
}

// interrupt stops the guest at its next loop or call. It is run by whoever cancels the
// call, while the guest may be running on another thread.
func (f *Faaslet) interrupt() {
	f.gate.Lock()
	defer f.gate.Unlock()
	if f.gate.over || f.gate.shut {
		return
	}
	if err := f.region.Gate.Shut(); err != nil {
		// Only a kernel without guard markers can refuse, for lack of mappings, and only
		// for the moment. A guest that is never stopped would be worse than a retry.
		time.AfterFunc(time.Millisecond, f.interrupt)
		return
	}
	f.gate.shut = true
}

// openGate makes the gate ready for the region's next Faaslet.
func (f *Faaslet) openGate() {
	f.gate.Lock()
	defer f.gate.Unlock()
	f.gate.over = true
	if f.gate.shut {
		if err := f.region.Gate.Open(); err != nil {
			panic(fmt.Sprintf("BUG: open gate at %#x: %v", f.region.Gate.Addr, err))
		}
	}
}

// conclude fills in the outcome.
func (f *Faaslet) conclude(e end, r *call.Result) {
	g := &f.guest
	switch {
	case e.event == engine.Finished:
		r.Outcome = call.Returned
		if e.step.Results > 0 || g.Call.Request().Entry.Table {
			r.ReturnCode = int32(uint32(g.Instance.Result()))
		}
	case e.event == engine.HostCall && g.Exited:
		r.Outcome, r.ReturnCode = call.Returned, g.ExitCode
	case e.event == engine.NoEntry:
		r.Outcome = call.Trapped
		r.Failure = &call.Failure{Message: fmt.Sprintf("there is no function of type () -> i32 at table index %d", g.Call.Request().Entry.Index)}
	default:
		f.concludeDeath(e, r)
	}
	r.Output = g.Output()
}

// concludeDeath tells a guest that was stopped from one that broke a rule.
func (f *Faaslet) concludeDeath(e end, r *call.Result) {
	g := &f.guest
	var trap *engine.Trap
	if e.event == engine.Trapped || g.Died {
		trap = g.Instance.Trap()
	}
	if _, cancelled := g.Call.Cancelled(); cancelled {
		r.Outcome, r.Failure = cancelledResult(g.Call, r.Started)
		if trap != nil {
			r.Failure.Backtrace = f.frames(trap) // where it was stopped
		}
		return
	}
	if trap == nil {
		panic("BUG: a guest was dropped for no reason")
	}
	r.Outcome = call.Trapped
	r.Failure = &call.Failure{Message: trap.Message, Backtrace: f.frames(trap)}
	if trap.Code == engine.StackOverflow {
		r.Failure.Message = fmt.Sprintf("call stack exhausted: the recursion is too deep for the %d KiB of native stack", engine.GuestStack(f.code.rt.opts.Layout.Stack)>>10)
	}
	if g.Instance.GrowRefused() {
		r.Outcome = call.MemoryLimit
		r.Failure.Message = fmt.Sprintf("memory limit of %d KiB reached (the memory has %d KiB and was refused more); then: %s",
			f.code.limits.MemoryMax>>10, g.Instance.Size()>>10, trap.Message)
	}
}

// cancelledResult words the reason why a call was cancelled.
func cancelledResult(cl *call.Call, started time.Time) (call.Outcome, *call.Failure) {
	cause, _ := cl.Cancelled()
	message := "cancelled"
	switch cause {
	case call.DeadlineExceeded:
		message = "deadline exceeded"
		if d := cl.Deadline(); !d.IsZero() && d.After(started) {
			message = fmt.Sprintf("deadline exceeded: stopped after %v", d.Sub(started).Round(time.Millisecond))
		}
	case call.HostLost:
		message = "the host stopped while the call ran"
	}
	return cause, &call.Failure{Message: message}
}

// frames is a trap's backtrace in the author's functions: those that preparation added are
// part of the instruction that they stand for.
func (f *Faaslet) frames(t *engine.Trap) []call.Frame {
	var out []call.Frame
	for _, fr := range t.Frames {
		if fr.FuncIndex < f.code.manifest.NumFuncs {
			out = append(out, call.Frame{FuncIndex: fr.FuncIndex, FuncName: fr.FuncName, Offset: fr.Offset})
		}
	}
	return out
}

// Clean drops the instance and makes the region ready for the next Faaslet, off the path
// of the reply. It returns how many pages had been written (0 where that is not known).
func (r Remains) Clean() (dirty int, err error) {
	if r.region == nil {
		return 0, nil
	}
	size := r.instance.Size()
	r.instance.Close()
	if r.deep {
		if err := r.region.DropStack(); err != nil {
			return 0, err
		}
	}
	return r.code.pool.Give(r.region, size)
}
