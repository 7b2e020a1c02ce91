// Package faaslet makes, runs, interrupts and cleans Faaslets: one isolated execution of a
// function, in a region of its own that no other sees.
//
// Every call gets a fresh one. Code.Start and Faaslet.Run are its life: take a clean region,
// instantiate, run, serve what the guest asks of the host, tell how it ended. The region is
// cleaned after the reply (Faaslet.Clean). A Faaslet that waits needs no goroutine: Run
// returns what for, and goes on when it is called again.
//
// What they start from is a Proto-Faaslet, made once by Code.Initialise.
//
// The package does not decide when a call runs, nor hold it back while the host is busy
// (sched does), and does not know what the host functions do (hostif does).
package faaslet

import (
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/engine"
	"github.com/faasm-go/faasm/internal/hostif"
	"github.com/faasm-go/faasm/internal/linux"
	"github.com/faasm-go/faasm/internal/state"
	"github.com/faasm-go/faasm/internal/vmem"
)

// Faaslet is one execution. It belongs to the goroutine that carries the call, but for
// Interrupt, which comes from whoever cancels it. While it waits it belongs to none.
type Faaslet struct {
	guest  hostif.Guest
	code   *Code
	region *vmem.Region  // nil if it got none
	taken  time.Duration // for the region

	faulted  bool          // a page fault was taken, or may have been, by what wrote to the region
	measured bool          // its CPU time is
	cpu      time.Duration // so far, if measured
	since    time.Duration // the thread's clock when that was last begun

	step   step         // what is run now
	event  engine.Event // what the guest did last, once it is entered
	stage  stage
	result call.Result

	gate struct {
		sync.Mutex
		shut bool
		over bool // the guest will not be entered again
	}
}

type stage uint8

const (
	fresh   stage = iota // Run has not been called
	entered              // the guest runs, or waits
	ended                // there is a result
)

// World is what surrounds the Faaslets of a host.
type World struct {
	Host  hostif.Host
	State *state.Tier
	Logs  *call.LogBuffer
	Trace func(line string) // if not nil, is given each host call and its answer
}

// Start makes a fresh Faaslet for cl, which is about to run. It must be Run to its end and
// then Cleaned. When cl is cancelled meanwhile, it is to be Interrupted; and whoever does
// that minds cl's deadline.
func (c *Code) Start(cl *call.Call, w *World) *Faaslet {
	started := time.Now()
	if !cl.MarkRunning(started, c.limits.Timeout) {
		f := &Faaslet{stage: ended}
		f.result.Outcome, f.result.Failure = cancelledResult(cl, started)
		f.result.Started, f.result.Finished = started, started
		return f
	}
	region, err := c.take(c.pool)
	if err != nil {
		f := &Faaslet{stage: ended}
		f.result = call.Result{Started: started, Finished: time.Now(), Outcome: call.Refused,
			Failure: &call.Failure{Message: fmt.Sprintf("the host has no memory for another Faaslet: %v", err)}}
		return f
	}
	f := &Faaslet{
		code:   c,
		region: region,
		taken:  time.Since(started),
		guest: hostif.Guest{
			Instance: c.instance(region), Region: region, Memory: c.manifest.Memory, Call: cl, Host: w.Host, State: w.State, Limits: &c.rt.opts.Hosts, Log: w.Logs.Writer(cl.Request()),
			Name: cl.Request().Function, MallocsOutput: c.manifest.MallocsOutput, Table: c.manifest.Table, Trace: w.Trace,
		},
	}
	f.result.Started = started
	f.faulted = !c.rt.countsFaults // or may have, for all that one knows
	f.guest.Driver = f
	return f
}

// Run runs the Faaslet until it has ended, and returns nil: Result tells how. Or until it
// waits, and returns for what: it is to be Run again when that is over.
func (f *Faaslet) Run() *call.Wait {
	if f.stage == ended {
		return nil
	}
	if f.stage == fresh {
		f.measured = f.code.slowRuns.Load() >= slowRunsMeasured
	}
	f.hold()
	w := f.run()
	f.release()
	if w == nil {
		f.openGate()
		f.end()
		f.stage = ended
	}
	return w
}

// run is Run but for the end.
func (f *Faaslet) run() *call.Wait {
	if f.stage == fresh {
		f.stage = entered
		f.event = f.enter(f.guest.Call.Request().Entry)
	}
	for f.event == engine.HostCall && !f.guest.Dropped() {
		if w := f.guest.Serve(); w != nil {
			return w
		}
		f.event = f.guest.Answer()
	}
	return nil
}

// Result is how the Faaslet ended.
func (f *Faaslet) Result() *call.Result { return &f.result }

// enter runs the module's entry point, or the function of the table that entry names, until
// it calls the host or ends.
func (f *Faaslet) enter(entry call.Entry) engine.Event {
	m, instance := &f.code.manifest, f.guest.Instance
	if m.Drop != "" {
		// The segments that were dropped during initialisation are whole in a new instance.
		f.step = step{Export: m.Drop}
		if event := instance.Start(m.Drop, 0); event != engine.Finished {
			return event
		}
	}
	f.step = m.Entry
	if entry.Table {
		return instance.StartTable(m.Table, entry.Index)
	}
	return instance.Start(m.Entry.Export, m.Entry.Results)
}

// Drive runs guest code to its end, or returns HostCall if the guest is to be dropped as it
// is. Where the guest waits, this goroutine blocks. See hostif.Driver.
func (f *Faaslet) Drive(event engine.Event) engine.Event {
	for event == engine.HostCall && !f.guest.Dropped() {
		for w := f.guest.Serve(); w != nil; w = f.guest.Serve() {
			f.Rest(func() { f.guest.Block(w) })
		}
		event = f.guest.Answer()
	}
	return event
}

// Rest runs wait, which blocks this goroutine. See hostif.Driver.
func (f *Faaslet) Rest(wait func()) {
	f.faulted = true // nobody knows what wait does, and where
	f.release()
	wait()
	f.hold()
}

// hold keeps this goroutine on its thread until release. What the thread does is the
// Faaslet's CPU time, and what faults it takes may be its own: these are read where it is let
// go of, and not for each host call, because each reading is a system call.
func (f *Faaslet) hold() {
	runtime.LockOSThread()
	if f.measured {
		f.since = linux.ThreadTime()
	}
}

func (f *Faaslet) release() {
	if f.measured {
		f.cpu += linux.ThreadTime() - f.since
	}
	f.faulted = f.faulted || engine.ThreadFaulted()
	runtime.UnlockOSThread()
}

// end tells how the Faaslet ended.
func (f *Faaslet) end() {
	f.guest.End()
	f.guest.Log.Close()
	r, instance := &f.result, f.guest.Instance
	r.Finished = time.Now()
	f.conclude(r)
	r.Usage.Start = f.taken + instance.StartTime()
	r.Usage.Wall = r.Finished.Sub(r.Started)
	r.Usage.CPU = f.cpuTime(r.Usage.Wall - f.guest.Blocked)
	r.Usage.MemoryPeak = instance.Size()
	r.Usage.HostCalls = f.guest.HostCalls
}

// guard has the guest interrupted when its call is cancelled or its deadline passes, until
// unguard, for Faaslets that no scheduler carries.
func (f *Faaslet) guard() (unguard func()) {
	cl := f.guest.Call
	stop := cl.OnCancel(f.Interrupt)
	var timer *time.Timer
	if d := cl.Deadline(); !d.IsZero() {
		timer = time.AfterFunc(time.Until(d), func() { cl.Cancel(call.DeadlineExceeded) })
	}
	return func() {
		if timer != nil {
			timer.Stop()
		}
		stop()
	}
}

const (
	// slowRun is what a run may take before it counts as long. Reading the thread's clock
	// twice costs 0.5 us, a fifth of a short run.
	slowRun = 200 * time.Microsecond
	// slowRunsMeasured is the score from which runs are measured: a long run adds two to
	// it and a short one takes one away, so a single interruption by the kernel is not
	// taken for the function's nature.
	slowRunsMeasured = 3
	slowRunsMax      = 8
)

// cpuTime is the CPU time of a run that was busy for so long. For a function whose runs are
// short it is taken to be just that.
func (f *Faaslet) cpuTime(busy time.Duration) time.Duration {
	score := f.code.slowRuns.Load()
	switch {
	case busy > slowRun && score < slowRunsMax:
		f.code.slowRuns.Store(score + 2)
	case busy <= slowRun && score > 0:
		f.code.slowRuns.Store(score - 1)
	}
	if f.measured {
		return f.cpu
	}
	return busy
}

// Interrupt stops the guest at its next loop or call. It is run by whoever cancels the
// call, while the guest may be running on another thread, and may come at any time, once
// the Faaslet has been cleaned too.
func (f *Faaslet) Interrupt() {
	if f.region == nil {
		return
	}
	f.gate.Lock()
	defer f.gate.Unlock()
	if f.gate.over || f.gate.shut {
		return
	}
	if err := f.region.Gate.Shut(); err != nil {
		// Only a kernel without guard markers can refuse, for lack of mappings, and only
		// for the moment. A guest that is never stopped would be worse than a retry.
		time.AfterFunc(time.Millisecond, f.Interrupt)
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
func (f *Faaslet) conclude(r *call.Result) {
	g := &f.guest
	switch {
	case f.event == engine.Finished:
		r.Outcome = call.Returned
		if f.step.Results > 0 || g.Call.Request().Entry.Table {
			r.ReturnCode = int32(uint32(g.Instance.Result()))
		}
	case f.event == engine.HostCall && g.Exited:
		r.Outcome, r.ReturnCode = call.Returned, g.ExitCode
	case f.event == engine.NoEntry:
		r.Outcome = call.Trapped
		r.Failure = &call.Failure{Message: fmt.Sprintf("there is no function of type () -> i32 at table index %d", g.Call.Request().Entry.Index)}
	default:
		f.concludeDeath(r)
	}
	r.Output = g.Output()
}

// concludeDeath tells a guest that was stopped from one that broke a rule.
func (f *Faaslet) concludeDeath(r *call.Result) {
	g := &f.guest
	var trap *engine.Trap
	if f.event == engine.Trapped || g.Died {
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

// Run is Start and the whole life of a Faaslet on this goroutine, which blocks where the
// guest waits. It returns how it ended. The Faaslet must be Cleaned.
func (c *Code) Run(cl *call.Call, w *World) (*call.Result, *Faaslet) {
	f := c.Start(cl, w)
	if f.region != nil {
		defer f.guard()()
	}
	for wait := f.Run(); wait != nil; wait = f.Run() {
		f.guest.Block(wait)
	}
	return f.Result(), f
}

// Clean makes the region ready for the next Faaslet, off the path of the reply. It returns how many pages had been written (0 where that is not known).
func (f *Faaslet) Clean() (dirty int, err error) {
	if f.region == nil {
		return 0, nil
	}
	f.region.NoFaults = !f.faulted
	return f.code.clean(f.region, f.guest.Instance, f.result.Outcome != call.Returned)
}

// clean makes a region and the instance in it ready for the next Faaslet, or drops the
// instance if it can't be, and gives the region back. deep tells that the guest came to a bad
// end, and that the native stack may have been used deeply.
func (c *Code) clean(region *vmem.Region, instance engine.Instance, deep bool) (dirty int, err error) {
	size := instance.Size()
	switch r, was := region.Resident.(*resident); {
	case deep || !instance.Reset():
		instance.Close()
		region.Resident = nil
	case !was:
		region.Resident = &resident{instance}
	case r.Instance != instance:
		panic("BUG: a region with the instance of another")
	}
	if deep {
		if err := region.DropStack(); err != nil {
			return 0, err
		}
	}
	return c.pool.Give(region, size)
}
