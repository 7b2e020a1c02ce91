// Package hostif is the host interface: the functions that a Faaslet may import, and the
// only way out of it.
//
// Three dialects share one implementation: module `faasm`, our own (calls.go, state.go);
// WASI preview 1 (wasi.go); and the names that guests of the original project import from
// `env` (upstream.go, upstream_state.go). Each function is a row of a table (Functions):
// its name, its parameters, what it does while a function is initialised (init.go), and a
// handler. A handler is ordinary Go on the goroutine that carries the call, while the guest
// is suspended. One that has to wait for a call or for a time says so and how it goes on
// (suspend), so that no goroutine waits with it; one that has to wait for something else
// may block (Guest.block).
//
// Nothing that a guest passes is trusted. Every pointer and length goes through
// Guest.bytes and its relatives, which check it against the memory's present size, once,
// at the door; what they return must not be kept across anything that runs guest code.
//
// The package does not drive the guest (faaslet does) and does not decide where a chained
// call runs (that is behind Host).
package hostif

import (
	"fmt"
	"strings"
	"time"

	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/engine"
	"github.com/faasm-go/faasm/internal/state"
	"github.com/faasm-go/faasm/internal/vmem"
)

// Host is what lies beyond the Faaslet: the scheduling of calls.
type Host interface {
	// Chain submits a call as a child of parent and returns at once. It never fails: a
	// call that can't be accepted comes back finished, with its reason as its outcome.
	// It takes input.
	Chain(parent *call.Call, function string, entry call.Entry, input []byte) *call.Call
	// Block runs wait, which may block, while c holds no place among the running. children
	// tells that only the end of one of c's children, or c's cancellation, ends the wait.
	Block(c *call.Call, children bool, wait func())
}

// Driver runs guest code for a host call.
type Driver interface {
	// Drive goes on with the guest inside a host call, and returns at GuestDone, NoEntry or
	// Trapped. It serves the host calls that the guest code makes meanwhile, and blocks
	// where they wait.
	Drive(engine.Event) engine.Event
	// Rest runs wait, which blocks, inside a host call. It takes none of the guest's CPU time.
	Rest(wait func())
}

// Limits bound what a guest can make the host hold on its behalf.
type Limits struct {
	OutputMax  int // bytes of a call's output, and of its stdout
	HandlesMax int // calls that one Faaslet may chain
}

// DefaultLimits are what a host uses unless told otherwise.
var DefaultLimits = Limits{OutputMax: 64 << 20, HandlesMax: 100_000}

// Guest is one Faaslet as its host functions see it. It belongs to the goroutine that
// carries the call.
type Guest struct {
	// Set by the Faaslet before the guest runs.
	Instance engine.Instance
	Region   *vmem.Region // where the Instance lives
	Memory   string       // the name under which the module exports its memory
	Call     *call.Call
	Host     Host
	State    *state.Tier
	Limits   *Limits
	Log      call.LogWriter
	Name     string   // argv[0]
	Env      []string // "NAME=value"
	// Init is set while the guest is initialised. Host, Region and State are nil then, Log,
	// Limits, Memory, Name and Env are not used, of Call nothing is told to the guest, and
	// the Instance runs on its logical clock.
	Init *Initialisation
	// MallocsOutput says how __faasm_await_call_output is to be taken; see upstream.go.
	MallocsOutput bool
	// Table is the reserved name under which the module exports its table 0; empty if it
	// has none.
	Table  string
	Driver Driver
	// Trace, if set, is given a line for each host call and one for its answer.
	Trace func(line string)

	// Exited is set by proc_exit: the guest is to be dropped, with ExitCode.
	Exited   bool
	ExitCode int32
	// Died is set by a handler during which guest code trapped: the guest can't go on.
	Died bool
	// HostCalls counts them.
	HostCalls uint64
	// Blocked is how long they blocked, without a place among the running.
	Blocked time.Duration

	trap     string // set by a handler to make the host call trap
	result   uint64 // of the host call that has been served
	pending  pending
	read     int // bytes of the input consumed through stdin
	closed   [3]bool
	stdout   []byte
	output   []byte
	explicit bool         // output was written through the host interface
	handles  []*call.Call // handle h is handles[h-1]
	shared   *shared      // nil until the guest uses state
}

// Output is the call's output: what was written through the host interface, else what was
// printed to stdout.
func (g *Guest) Output() []byte {
	if g.explicit {
		return g.output
	}
	return g.stdout
}

// End gives up what the guest holds beyond its own memory: locks, and its views of state.
// The guest must not be entered again.
func (g *Guest) End() {
	g.waited()
	if g.shared != nil {
		g.shared.end()
		g.shared = nil
	}
}

// Function is one row of the host interface.
type Function struct {
	engine.HostFunc
	// Names are the parameters' names, for the trace.
	Names []string
	// Init is what it does during initialisation.
	Init    InitRule
	handler func(g *Guest, a *Args) uint64
}

// Args are a host call's arguments; see engine.Instance.Args. The engine overwrites them
// when guest code runs, so a handler that runs some reads them first.
type Args [engine.ArgsMax]uint64

func (a *Args) u32(i int) uint32 { return uint32(a[i]) }
func (a *Args) i32(i int) int32  { return int32(uint32(a[i])) }
func (a *Args) i64(i int) int64  { return int64(a[i]) }

// Functions is the whole host interface. An engine is made with it, so that
// engine.Instance.Host is an index into it.
var Functions = func() []Function {
	var all []Function
	all = append(all, callFunctions...)
	all = append(all, stateFunctions...)
	all = append(all, wasiFunctions("wasi_snapshot_preview1")...)
	all = append(all, wasiFunctions("wasi_unstable")...)
	all = append(all, upstreamFunctions...)
	all = append(all, upstreamStateFunctions...)
	return all
}()

// HostFuncs is Functions in the form the engine takes.
func HostFuncs() []engine.HostFunc {
	out := make([]engine.HostFunc, len(Functions))
	for i, f := range Functions {
		out[i] = f.HostFunc
	}
	return out
}

// Lookup finds a function of the host interface by its import names.
func Lookup(module, name string) (*Function, bool) {
	i, ok := index[[2]string{module, name}]
	if !ok {
		return nil, false
	}
	return &Functions[i], true
}

// HasModule tells whether any function is imported from this module.
func HasModule(module string) bool { return modules[module] }

var index, modules = func() (map[[2]string]int, map[string]bool) {
	index, modules := map[[2]string]int{}, map[string]bool{}
	for i, f := range Functions {
		key := [2]string{f.Module, f.Name}
		if _, twice := index[key]; twice {
			panic("BUG: host function " + f.Module + "." + f.Name + " is defined twice")
		}
		index[key], modules[f.Module] = i, true
	}
	return index, modules
}()

// Serve does the host call that the guest is suspended in, and returns nil: Answer lets the
// guest go on. Or it returns what the host call waits for, and is to be called again when
// that is over.
func (g *Guest) Serve() *call.Wait {
	f := &Functions[g.Instance.Host()]
	if then := g.waited(); then != nil {
		if _, cancelled := g.Call.Cancelled(); cancelled {
			return nil // there will be no answer
		}
		g.result = then()
	} else {
		g.HostCalls++
		a := (*Args)(g.Instance.Args())
		if g.Trace != nil {
			g.Trace(f.format(a))
		}
		g.result = g.serve(f, a)
	}
	if g.pending.then != nil {
		return g.pending.wait
	}
	if g.Trace != nil {
		g.Trace(g.formatResult(f, g.result))
	}
	return nil
}

// Answer lets the guest go on after a host call that was served, and returns what it did
// next. A guest that has Dropped is not entered: it then returns engine.HostCall.
func (g *Guest) Answer() engine.Event {
	switch {
	case g.Dropped():
		return engine.HostCall
	case g.trap != "":
		return g.Instance.AnswerTrap(g.trap)
	}
	return g.Instance.Answer(g.result)
}

// Dropped tells whether the guest must not be entered again: it exited or died, or its call
// was cancelled.
func (g *Guest) Dropped() bool {
	_, cancelled := g.Call.Cancelled()
	return g.Exited || g.Died || cancelled
}

// Block waits for w on this goroutine.
func (g *Guest) Block(w *call.Wait) {
	g.Host.Block(g.Call, w.Children(), func() { w.Block(g.Call) })
}

// format is the trace line of a host call: "==> faasm.await_call(call=1,status=1024)".
func (f *Function) format(a *Args) string {
	var b strings.Builder
	fmt.Fprintf(&b, "==> %s.%s(", f.Module, f.Name)
	for i, t := range f.Params {
		if i > 0 {
			b.WriteByte(',')
		}
		if t == engine.I64 {
			fmt.Fprintf(&b, "%s=%d", f.Names[i], a.i64(i))
		} else {
			fmt.Fprintf(&b, "%s=%d", f.Names[i], a.u32(i))
		}
	}
	b.WriteByte(')')
	return b.String()
}

func (g *Guest) formatResult(f *Function, result uint64) string {
	switch {
	case g.Exited:
		return fmt.Sprintf("<== exit %d", g.ExitCode)
	case g.Died:
		return "<== the guest died"
	case g.trap != "":
		return "<== trap: " + g.trap
	case len(f.Results) == 0:
		return "<=="
	case f.Module == "env":
		return fmt.Sprintf("<== %d", int32(uint32(result)))
	}
	return "<== " + Errno(result).String()
}

// bytes is the guest's memory at [at, at+n), or false if that is not all inside it.
func (g *Guest) bytes(at, n uint32) ([]byte, bool) {
	m := g.Instance.Memory()
	end := uint64(at) + uint64(n)
	if end > uint64(len(m)) {
		return nil, false
	}
	return m[at:end:end], true
}

// fits tells whether [at, at+n) is inside the guest's memory.
func (g *Guest) fits(at, n uint32) bool {
	return uint64(at)+uint64(n) <= g.Instance.Size()
}

func (g *Guest) putU32(at, v uint32) bool {
	b, ok := g.bytes(at, 4)
	if ok {
		le.PutUint32(b, v)
	}
	return ok
}

// readInto copies data to a guest's buffer of cap bytes as far as it goes, and writes the
// full size to sizeAt: the convention of the faasm module.
func (g *Guest) readInto(data []byte, buf, capacity, sizeAt uint32) Errno {
	out, ok := g.bytes(buf, capacity)
	if !ok || !g.putU32(sizeAt, uint32(len(data))) {
		return EFAULT
	}
	copy(out, data)
	return Success
}

// chain submits a call and returns its handle.
func (g *Guest) chain(function string, entry call.Entry, input []byte) (uint32, Errno) {
	if len(g.handles) >= g.Limits.HandlesMax {
		return 0, EMFILE
	}
	g.handles = append(g.handles, g.Host.Chain(g.Call, function, entry, input))
	return uint32(len(g.handles)), Success
}

// handle finds the call that a handle means.
func (g *Guest) handle(h uint32) (*call.Call, bool) {
	if h == 0 || uint64(h) > uint64(len(g.handles)) {
		return nil, false
	}
	return g.handles[h-1], true
}

// pending is a host call that waits.
type pending struct {
	wait  *call.Wait
	since time.Time
	then  func() uint64 // goes on with it; nil: none waits
}

// waited ends the wait of the host call, and returns what goes on with it; nil if none waits.
func (g *Guest) waited() (then func() uint64) {
	then = g.pending.then
	if then != nil {
		g.Blocked += time.Since(g.pending.since)
		g.pending = pending{}
	}
	return then
}

// suspend is what a handler returns to wait for w, and then return what then does. If the
// call is cancelled meanwhile, then is not run. What it needs of Args it has read before.
func suspend[R Errno | uint64](g *Guest, w *call.Wait, then func() R) (none R) {
	g.pending = pending{w, time.Now(), func() uint64 { return uint64(then()) }}
	return none
}

// await is what a handler returns to wait until child has finished.
func await[R Errno | uint64](g *Guest, child *call.Call, then func(*call.Result) R) R {
	if r := child.Result(); r != nil {
		return then(r)
	}
	return suspend(g, &call.Wait{Calls: []*call.Call{child}}, func() R { return then(child.Result()) })
}

// block runs wait, which may block for something else than calls and time.
func (g *Guest) block(wait func()) {
	start := time.Now()
	g.Driver.Rest(func() { g.Host.Block(g.Call, false, wait) })
	g.Blocked += time.Since(start)
}
