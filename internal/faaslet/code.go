package faaslet

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/faasm-go/faasm/internal/engine"
	"github.com/faasm-go/faasm/internal/hostif"
	"github.com/faasm-go/faasm/internal/vmem"
	"github.com/faasm-go/faasm/internal/wasm"
)

// Runtime is what all Faaslets of a process share: the engine and the address space.
type Runtime struct {
	engine *engine.Engine
	arena  *vmem.Arena
	opts   Options
}

// Options are a Runtime's. The zero value is what production uses.
type Options struct {
	Layout  vmem.Layout // zero: vmem.FastLayout
	IdleMax int         // clean regions kept at hand for each function; zero: 64
	Hosts   hostif.Limits
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
	arena, err := vmem.NewArena(opts.Layout)
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
	return &Runtime{engine: eng, arena: arena, opts: opts}, nil
}

// Regions is the number of regions that exist, used or not.
func (rt *Runtime) Regions() int { return rt.arena.Regions() }

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

// MemoryLimitMax is the most memory that a function can be given: the last Wasm page of
// the address space stays unused, so that no length overflows 32 bits.
const MemoryLimitMax = 4<<30 - vmem.WasmPageSize

// Step is a step of a function's life (DESIGN section 3) at which an upload can fail.
type Step string

const (
	StepValidate Step = "validate"
	StepPrepare  Step = "prepare"
	StepLink     Step = "link"  // an import that no dialect of the host interface has
	StepEntry    Step = "entry" // no entry point, or one of another type
	StepLimit    Step = "limit" // the module needs more than its limits allow
	StepCompile  Step = "compile"
)

// BuildError says at which step an upload failed, and why, to its author.
type BuildError struct {
	Step Step
	Err  error
}

func (e *BuildError) Error() string { return e.Err.Error() }
func (e *BuildError) Unwrap() error { return e.Err }

// Code is one version of a function, ready to run: machine code, image, and clean regions
// at hand. It is safe for concurrent use.
type Code struct {
	rt     *Runtime
	module *engine.Module
	pool   *vmem.Pool
	limits Limits

	// Immutable after Build.
	steps         []step // what a call of the entry point runs, in order
	table         string // the reserved name of table 0
	mallocsOutput bool
	imports       int
	CompileTime   time.Duration

	// slowRuns tells whether the function's runs are long, so that their CPU time is to be
	// measured; see Code.cpu.
	slowRuns atomic.Int32
}

// A step is an export that a call runs.
type step struct {
	export  string
	results int
	entry   bool // the last one, whose result is the return code
}

// Entry points, in the order of preference (ABI section 0).
const (
	entryCall  = "faasm_call"
	entryMain  = "__main_void" // a main() linked as a reactor
	entryStart = "_start"
)

// Build validates, prepares and compiles an uploaded module. Its errors are *BuildError.
func (rt *Runtime) Build(bin []byte, limits Limits) (*Code, error) {
	fail := func(s Step, err error) (*Code, error) { return nil, &BuildError{Step: s, Err: err} }

	prepared, err := wasm.Prepare(bin, wasm.Options{NoGates: rt.opts.NoGates})
	if err != nil {
		return fail(StepPrepare, err)
	}
	if err := rt.engine.Validate(bin); err != nil {
		return fail(StepValidate, err)
	}
	if err := checkImports(prepared.Imports); err != nil {
		return fail(StepLink, err)
	}
	c := &Code{rt: rt, limits: limits, imports: len(prepared.Imports)}
	if c.steps, err = entrySteps(prepared); err != nil {
		return fail(StepEntry, err)
	}
	size := prepared.Memory.Min * vmem.WasmPageSize
	if size > limits.MemoryMax {
		return fail(StepLimit, fmt.Errorf("the module's memory begins with %d KiB, and its limit is %d KiB: raise the limit (--memory) or link with less initial memory",
			size>>10, limits.MemoryMax>>10))
	}
	growsTables := false
	for _, t := range prepared.Tables {
		growsTables = growsTables || t.Grows
		if t.Index == 0 {
			c.table = t.Export
		}
	}
	c.mallocsOutput = mallocsOutput(prepared)

	start := time.Now()
	if c.module, err = rt.engine.Compile(prepared.Code, growsTables); err != nil {
		return fail(StepCompile, err)
	}
	c.CompileTime = time.Since(start)
	img, err := vmem.NewImage(size, segments(prepared.Image))
	if err != nil {
		c.module.Close()
		return fail(StepCompile, err)
	}
	c.pool = vmem.NewPool(rt.arena, img, rt.opts.IdleMax)
	// Mapping a region costs twenty fresh starts: the first calls should not pay for it. A
	// host without room for more serves on, and tells each call that it can't run.
	_ = c.pool.Warm(warmRegions)
	return c, nil
}

// warmRegions is how many regions a function has at hand when it is deployed.
const warmRegions = 2

func segments(in []wasm.Segment) []vmem.Segment {
	out := make([]vmem.Segment, len(in))
	for i, s := range in {
		out[i] = vmem.Segment{Offset: s.Offset, Data: s.Data}
	}
	return out
}

// Close frees the code once no Faaslet runs it.
//
// Preconditions: no Run will be called again, and every Remains has been cleaned.
func (c *Code) Close() error {
	err := c.pool.Close()
	c.module.Close()
	return err
}

// Entry is the export that a call begins with.
func (c *Code) Entry() string { return c.steps[len(c.steps)-1].export }

// Imports is how many functions of the host interface the module imports.
func (c *Code) Imports() int { return c.imports }

// InUse is the number of Faaslets that hold a region.
func (c *Code) InUse() int { return c.pool.InUse() }

func checkImports(imports []wasm.Import) error {
	for _, imp := range imports {
		f, ok := hostif.Lookup(imp.Module, imp.Name)
		if !ok {
			if !hostif.HasModule(imp.Module) {
				return fmt.Errorf("import %s.%s: there is no host module %q; a function imports from faasm, wasi_snapshot_preview1 or env", imp.Module, imp.Name, imp.Module)
			}
			return fmt.Errorf("import %s.%s: the host interface has no such function", imp.Module, imp.Name)
		}
		if want := (wasm.FuncType{Params: valTypes(f.Params), Results: valTypes(f.Results)}); !imp.Type.Equal(want) {
			return fmt.Errorf("import %s.%s: the module takes it for %s, but it is %s", imp.Module, imp.Name, imp.Type, want)
		}
	}
	return nil
}

func valTypes(in []engine.ValType) []wasm.ValType {
	var out []wasm.ValType
	for _, t := range in {
		out = append(out, [...]wasm.ValType{engine.I32: wasm.I32, engine.I64: wasm.I64, engine.F32: wasm.F32, engine.F64: wasm.F64}[t])
	}
	return out
}

// entrySteps finds what a call runs.
func entrySteps(p *wasm.Prepared) ([]step, error) {
	exported := map[string]wasm.FuncType{}
	var names []string
	for _, e := range p.Exports {
		if e.Kind == wasm.ExternFunc {
			exported[e.Name] = e.Type
			names = append(names, e.Name)
		}
	}
	var steps []step
	add := func(name string, results ...wasm.ValType) (bool, error) {
		t, ok := exported[name]
		if !ok {
			return false, nil
		}
		want := wasm.FuncType{Results: results}
		if !t.Equal(want) && !(len(t.Params) == 0 && len(t.Results) == 0 && name == "faasm_init") {
			return false, fmt.Errorf("export %s is a function %s; it must be %s", name, t, want)
		}
		steps = append(steps, step{export: name, results: len(t.Results)})
		return true, nil
	}
	if p.Start != "" {
		steps = append(steps, step{export: p.Start})
	}
	entry := ""
	for _, name := range []string{entryCall, entryMain, entryStart} {
		if _, ok := exported[name]; ok {
			entry = name
			break
		}
	}
	if entry == "" {
		return nil, fmt.Errorf("the module exports neither faasm_call nor _start (it exports %s): link it as a command, or as a reactor with --export=faasm_call", list(names))
	}
	if entry != entryStart {
		if ok, err := add("_initialize"); err != nil {
			return nil, err
		} else if !ok {
			if _, err := add("__wasm_call_ctors"); err != nil {
				return nil, err
			}
		}
	}
	for _, name := range []string{"faasm_init", "_faasm_zygote"} {
		if ok, err := add(name, wasm.I32); err != nil {
			return nil, err
		} else if ok {
			break
		}
	}
	var results []wasm.ValType
	if entry != entryStart {
		results = []wasm.ValType{wasm.I32}
	}
	if _, err := add(entry, results...); err != nil {
		return nil, err
	}
	steps[len(steps)-1].entry = true
	return steps, nil
}

func list(names []string) string {
	const most = 8
	if len(names) == 0 {
		return "no function"
	}
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// mallocsOutput tells which dialect the guest speaks; see hostif.Dialect2020.
func mallocsOutput(p *wasm.Prepared) bool {
	for _, imp := range p.Imports {
		if imp.Module == "env" && slices.Contains(hostif.Dialect2020, imp.Name) {
			return false
		}
	}
	return slices.ContainsFunc(p.Exports, func(e wasm.Export) bool {
		return e.Kind == wasm.ExternFunc && e.Name == "malloc"
	})
}
