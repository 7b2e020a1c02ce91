package faaslet

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/engine"
	"github.com/faasm-go/faasm/internal/hostif"
	"github.com/faasm-go/faasm/internal/proto"
	"github.com/faasm-go/faasm/internal/seal"
	"github.com/faasm-go/faasm/internal/vmem"
	"github.com/faasm-go/faasm/internal/wasm"
)

// Runtime is what all Faaslets of a process share: the engine and the address space.
type Runtime struct {
	engine *engine.Engine
	arena  *vmem.Arena
	opts   Options

	// countsFaults tells whether it is of use to ask if a thread has taken page faults: it can
	// be relied on, and there is something that it spares.
	countsFaults bool
}

// Options are a Runtime's. The zero value of each is what production uses.
type Options struct {
	Layout  vmem.Layout // zero: vmem.FastLayout
	Arena   vmem.ArenaOptions
	IdleMax int // clean regions kept at hand for each function; zero: 64
	Hosts   hostif.Limits
	// Key is what the random numbers of initialisation are derived from; zero: a new one.
	Key seal.Key
	// Reclaim, if not nil, is asked to give up idle regions and unused code when there is
	// no room for more; see vmem.ErrExhausted.
	Reclaim func()
	// Epochs and NoGates build the code that the compute bench compares ours with.
	Epochs, NoGates bool
}

// NewRuntime makes a runtime.
func NewRuntime(opts Options) (*Runtime, error) {
	if opts.Layout == (vmem.Layout{}) {
		opts.Layout = vmem.FastLayout
	}
	if opts.IdleMax == 0 {
		opts.IdleMax = 64
	}
	if opts.Hosts == (hostif.Limits{}) {
		opts.Hosts = hostif.DefaultLimits
	}
	if opts.Key == (seal.Key{}) {
		opts.Key = seal.NewKey()
	}
	if opts.Reclaim == nil {
		opts.Reclaim = func() {}
	}
	arena, err := vmem.NewArena(opts.Layout, opts.Arena)
	if err != nil {
		return nil, err
	}
	eng, err := engine.New(engine.Config{
		Reservation: opts.Layout.Reservation,
		Guard:       opts.Layout.Guard,
		Stack:       opts.Layout.Stack,
		Hosts:       hostif.HostFuncs(),
		Epochs:      opts.Epochs,
	})
	if err != nil {
		return nil, errors.Join(err, arena.Close())
	}
	return &Runtime{engine: eng, arena: arena, opts: opts, countsFaults: arena.ScansPages() && engine.CountsFaults()}, nil
}

// Regions is the number of regions that exist, used or not.
func (rt *Runtime) Regions() int { return rt.arena.Regions() }

// Arena is the address space of the runtime's Faaslets, with which whatever else maps
// memory into them counts its mappings.
func (rt *Runtime) Arena() *vmem.Arena { return rt.arena }

// IdleBytes is the memory that clean regions retain for the next Faaslets.
func (rt *Runtime) IdleBytes() uint64 { return rt.arena.IdleBytes() }

// check refuses limits that no region of this runtime can hold. They may come from a record
// that a host with larger regions wrote, or a stranger: a memory that grew past its region
// would be in another Faaslet's.
func (rt *Runtime) check(limits Limits) error {
	if most := MemoryMax(rt.opts.Layout); limits.MemoryMax > most {
		return fmt.Errorf("a memory limit of %d bytes exceeds what a Faaslet of this host can have, %d", limits.MemoryMax, most)
	}
	return nil
}

// MemoryMax is the most memory that a function can be given in regions of a layout. Of the
// whole address space the last Wasm page stays unused, so that no length overflows 32 bits.
func MemoryMax(l vmem.Layout) uint64 { return min(l.Reservation, 4<<30-vmem.WasmPageSize) }

// Fingerprint names what an artefact of this runtime can run on: the engine's version and
// settings, and the machine's instructions.
func (rt *Runtime) Fingerprint() string {
	return fmt.Sprintf("%s-%d", rt.engine.Fingerprint(), manifestFormat)
}

// Close frees everything. All Codes must have been closed, and no Faaslet may be running.
func (rt *Runtime) Close() error {
	rt.engine.Close()
	return rt.arena.Close()
}

// Limits bound each call of a function.
type Limits struct {
	MemoryMax uint64        // bytes of linear memory
	Timeout   time.Duration // of a run, waiting included
}

// Step is a step of a function's life (see ARCHITECTURE.md) at which an upload can fail.
type Step string

const (
	StepValidate   Step = "validate"
	StepPrepare    Step = "prepare"
	StepLink       Step = "link"  // an import that no dialect of the host interface has
	StepEntry      Step = "entry" // no entry point, or one of another type
	StepLimit      Step = "limit" // the module needs more than its limits allow
	StepCompile    Step = "compile"
	StepInitialise Step = "initialise"
)

// BuildError says at which step an upload failed, and why, to its author.
type BuildError struct {
	Step Step
	Err  error
}

func (e *BuildError) Error() string { return e.Err.Error() }
func (e *BuildError) Unwrap() error { return e.Err }

// Code is one version of a function. It is compiled (Compile) or loaded (Load), is given
// the Proto-Faaslet that its Faaslets start from (Initialise, StartFrom), and then runs
// calls, many at once.
type Code struct {
	rt       *Runtime
	module   *engine.Module
	manifest manifest
	limits   Limits
	data     []vmem.Segment // the module's data, until it is initialised; nil in a loaded one

	// CompileTime is how long the engine took; zero if the code was loaded.
	CompileTime time.Duration

	// Set by StartFrom.
	pool      *vmem.Pool
	imageSize uint64 // bytes in the snapshot

	// slowRuns tells whether the function's runs are long, so that their CPU time is to be
	// measured; see Faaslet.cpuTime.
	slowRuns atomic.Int32
}

// Compile validates, prepares and compiles an upload. Its errors are *BuildError. The caller
// closes the code.
func (rt *Runtime) Compile(bin []byte, limits Limits) (*Code, error) {
	fail := func(s Step, err error) (*Code, error) { return nil, &BuildError{s, err} }

	if err := rt.check(limits); err != nil {
		return fail(StepLimit, err)
	}
	prepared, err := wasm.Prepare(bin, wasm.Options{NoGates: rt.opts.NoGates})
	if err != nil {
		return fail(StepPrepare, err)
	}
	if err := rt.engine.Validate(bin); err != nil {
		return fail(StepValidate, err)
	}
	c := &Code{rt: rt, limits: limits, data: segments(prepared.Image)}
	if c.manifest, err = describe(bin, prepared); err != nil {
		return nil, err
	}
	if size := c.manifest.MemoryMin; size > limits.MemoryMax {
		return fail(StepLimit, fmt.Errorf("the module's memory begins with %d KiB, and its limit is %d KiB: raise the limit (--memory) or link with less initial memory",
			size>>10, limits.MemoryMax>>10))
	}
	if err := rt.hold(); err != nil {
		return nil, err
	}
	start := time.Now()
	if c.module, err = rt.engine.Compile(prepared.Code, c.manifest.GrowsTables); err != nil {
		rt.release()
		return fail(StepCompile, err)
	}
	c.CompileTime = time.Since(start)
	return c, nil
}

// codeMappings is how many of the process's mappings loaded code takes: three for the
// engine, and the image.
const codeMappings = 4

// hold makes sure that there are mappings for another piece of code.
func (rt *Runtime) hold() error {
	err := rt.arena.Hold(codeMappings)
	if errors.Is(err, vmem.ErrExhausted) {
		rt.opts.Reclaim()
		err = rt.arena.Hold(codeMappings)
	}
	if err != nil {
		return fmt.Errorf("load code: %w", err)
	}
	return nil
}

func (rt *Runtime) release() { _ = rt.arena.Hold(-codeMappings) }

func segments(in []wasm.Segment) []vmem.Segment {
	out := make([]vmem.Segment, len(in))
	for i, s := range in {
		out[i] = vmem.Segment{Offset: s.Offset, Data: s.Data}
	}
	return out
}

// Load makes code of an artefact, which must come from Artefact: machine code from anywhere
// else can do anything, so the caller has authenticated it. It returns ErrArtefact if this
// host can't run it. The caller closes the code.
func (rt *Runtime) Load(artefact []byte, limits Limits) (*Code, error) {
	if err := rt.check(limits); err != nil {
		return nil, &BuildError{StepLimit, err}
	}
	m, code, err := decodeArtefact(artefact)
	if err != nil {
		return nil, err
	}
	c := &Code{rt: rt, limits: limits, manifest: m}
	if err := rt.hold(); err != nil {
		return nil, err
	}
	if c.module, err = rt.engine.Load(code, m.GrowsTables); err != nil {
		rt.release()
		return nil, fmt.Errorf("%w: %w", ErrArtefact, err)
	}
	return c, nil
}

// Artefact is the code in the form that Load takes, on hosts with the same Fingerprint.
func (c *Code) Artefact() ([]byte, error) {
	code, err := c.module.Serialize()
	if err != nil {
		return nil, err
	}
	return encodeArtefact(c.manifest, code)
}

// Module is the SHA-256 of the upload, hexadecimal.
func (c *Code) Module() string { return c.manifest.Module }

// Entry is the export that a call begins with.
func (c *Code) Entry() string { return c.manifest.Entry.Export }

// Imports is how many functions of the host interface the module imports.
func (c *Code) Imports() int { return c.manifest.Imports }

// Initialises tells whether the module has anything to run before its first call.
func (c *Code) Initialises() bool { return len(c.manifest.Init) > 0 }

// StartFrom has the code's Faaslets start from a Proto-Faaslet. It returns an error, and
// the code is as it was, if that is another module's, or larger than the memory limit.
//
// Preconditions: it has not been called before.
func (c *Code) StartFrom(p *proto.File) error {
	if c.pool != nil {
		panic("BUG: code is given a second Proto-Faaslet")
	}
	s := p.Snapshot()
	plan, err := c.manifest.restore(s, c.limits)
	if err != nil {
		return fmt.Errorf("start from Proto-Faaslet %s: %w", p.Hash(), err)
	}
	img, err := p.Image()
	if err != nil {
		return err
	}
	pool := vmem.NewPool(c.rt.arena, img, c.rt.opts.IdleMax)
	if err := c.module.SetRestore(plan); err != nil {
		return errors.Join(fmt.Errorf("start from Proto-Faaslet %s: %w", p.Hash(), err), pool.Close())
	}
	if globals, ok := c.manifest.resets(); ok {
		c.module.SetReset(globals)
	}
	c.pool, c.imageSize, c.data = pool, img.Bytes(), nil
	return nil
}

// Build compiles and initialises an upload and makes it ready to run: all that a host does
// with it, but for keeping it. Its errors are *BuildError.
func (rt *Runtime) Build(bin []byte, limits Limits) (*Code, error) {
	c, err := rt.Compile(bin, limits)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*Code, error) {
		return nil, errors.Join(&BuildError{StepInitialise, err}, c.Close())
	}
	cl := call.New(&call.Request{ID: call.NewID(), Accepted: time.Now(), Attempt: 1}, nil)
	p, result, err := c.Initialise(cl, limits.Timeout, nil)
	if err != nil {
		return fail(err)
	}
	if p == nil {
		return fail(errors.New(result.Failure.Message))
	}
	defer p.Close()
	if err := c.StartFrom(p); err != nil {
		return fail(err)
	}
	c.Warm()
	return c, nil
}

// Warm has a few regions at hand, if there is room: mapping one costs twenty fresh starts,
// which the first calls of a function should not pay for.
func (c *Code) Warm() {
	const regions = 2
	_ = c.pool.Warm(regions)
}

// Keep has n regions kept at hand from now on, however many calls come and go, as far as
// there is room.
func (c *Code) Keep(n int) {
	c.pool.SetKeep(n)
	_ = c.pool.Warm(n)
}

// Trim gives up idle regions until at most keep are left.
func (c *Code) Trim(keep int) { c.pool.Trim(keep) }

// Idle is the number of regions at hand.
func (c *Code) Idle() int { return c.pool.Idle() }

// InUse is the number of Faaslets that hold a region.
func (c *Code) InUse() int { return c.pool.InUse() }

// Bytes is about what the code keeps in memory besides its regions: machine code, what the
// engine knows of it, the image, and the instances in regions at hand.
func (c *Code) Bytes() uint64 {
	// For each loaded module the engine keeps tables of types, functions and trap sites,
	// and the allocators and the page tables have their part.
	const fixed = 32 << 10
	resident := 0
	if c.pool != nil {
		resident = c.pool.Idle() * residentBytes
	}
	return fixed + c.module.CodeBytes() + c.imageSize + uint64(resident)
}

// Close frees the code once no Faaslet runs it.
//
// Preconditions: no Run will be called again, and every Faaslet has been cleaned.
func (c *Code) Close() error {
	var err error
	if c.pool != nil {
		err = c.pool.Close()
	}
	c.module.Close()
	c.rt.release()
	return err
}

// resident is an instance that has been reset, and waits with its region for the next run.
type resident struct{ engine.Instance }

// residentBytes is about what one takes besides its region.
const residentBytes = 8 << 10

// instance returns an instance for a run in region: the one that is there already, or one
// that it makes.
func (c *Code) instance(region *vmem.Region) engine.Instance {
	if r, ok := region.Resident.(*resident); ok {
		return r.Instance
	}
	return c.module.NewInstance(engine.Memory{
		Base: region.Base, Size: region.Image().Size, Limit: c.limits.MemoryMax, Reserved: c.rt.opts.Layout.Reservation,
		Gate: region.Gate.Addr, StackTop: region.StackTop(), StackLen: region.StackLen(),
	})
}

// take takes a clean region of the pool, for which others may have to give up theirs.
func (c *Code) take(pool *vmem.Pool) (*vmem.Region, error) {
	region, err := pool.Take()
	if errors.Is(err, vmem.ErrExhausted) {
		c.rt.opts.Reclaim()
		region, err = pool.Take()
	}
	return region, err
}

// MeasureStart makes a few Faaslets that run nothing, and returns what one of them takes:
// from a region at hand to an instance with its state restored.
func (c *Code) MeasureStart() (time.Duration, error) {
	const rounds = 9
	var times []time.Duration
	for range rounds {
		start := time.Now()
		region, err := c.take(c.pool)
		if err != nil {
			return 0, err
		}
		instance := c.instance(region)
		event := instance.Instantiate()
		times = append(times, time.Since(start))
		if event != engine.Finished {
			err = errors.New(instance.Trap().Message)
		}
		_, cleanErr := c.clean(region, instance, false)
		if err := errors.Join(err, cleanErr); err != nil {
			return 0, err
		}
	}
	slices.Sort(times)
	return times[rounds/2], nil
}

// Bare instantiates the function, calls its entry point and cleans up, with nothing
// around it. It is for measuring what the rest of Run costs; a guest that calls the host
// can't be run so.
func (c *Code) Bare() error {
	region, err := c.pool.Take()
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	instance := c.instance(region)
	if event := instance.Start(c.manifest.Entry.Export, c.manifest.Entry.Results); event != engine.Finished {
		err = fmt.Errorf("%s stopped with event %d", c.manifest.Entry.Export, event)
	}
	region.NoFaults = c.rt.countsFaults && !engine.ThreadFaulted()
	_, cleanErr := c.clean(region, instance, false)
	return errors.Join(err, cleanErr)
}
