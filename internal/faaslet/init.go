package faaslet

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/engine"
	"github.com/faasm-go/faasm/internal/hostif"
	"github.com/faasm-go/faasm/internal/proto"
	"github.com/faasm-go/faasm/internal/vmem"
	"github.com/faasm-go/faasm/internal/wasm"
)

// Initialise makes the function's Proto-Faaslet (paper, section 5.2): it runs what the
// module wants to be run once, in a throw-away Faaslet, and captures what that leaves. cl
// stands for it: its deadline and its cancellation end it, and so does timeout.
//
// If the guest does not come to a good end, the file is nil and result tells why. Its
// Output is what the guest printed, in either case. An error is the host's.
//
// Preconditions: the code comes from Compile and has no Proto-Faaslet yet.
func (c *Code) Initialise(cl *call.Call, timeout time.Duration, trace func(string)) (p *proto.File, result call.Result, err error) {
	result.Started = time.Now()
	defer func() { result.Finished = time.Now() }()
	if !cl.MarkRunning(result.Started, timeout) {
		result.Outcome, result.Failure = cancelledResult(cl, result.Started)
		return nil, result, nil
	}
	empty := proto.Snapshot{Module: c.manifest.Module, MemorySize: c.manifest.MemoryMin}
	p, err = proto.Create(empty, c.data)
	if err != nil || !c.Initialises() {
		return p, result, err
	}
	img, err := p.Image()
	if err := errors.Join(err, p.Close()); err != nil {
		return nil, result, err
	}
	pool := vmem.NewPool(c.rt.arena, img, 1)
	defer pool.Close()
	region, err := c.take(pool)
	if err != nil {
		return nil, result, err
	}
	f := &Faaslet{
		code:   c,
		region: region,
		guest: hostif.Guest{
			Instance: c.instance(region), Call: cl, Limits: &c.rt.opts.Hosts, Table: c.manifest.Table,
			MallocsOutput: c.manifest.MallocsOutput, Trace: trace,
			Init: &hostif.Initialisation{Random: c.random()},
		},
	}
	defer func() { err = errors.Join(err, f.discard(pool)) }()
	p, err = f.initialise(&result)
	return p, result, err
}

// random is what a guest draws from while it is initialised: the same for each host of the
// cluster, and nobody else's to predict.
func (c *Code) random() io.Reader {
	return rand.NewChaCha8(c.rt.opts.Key.Derive("initialisation random", c.manifest.Module))
}

// discard gives up a Faaslet whose region serves no other.
func (f *Faaslet) discard(pool *vmem.Pool) error {
	size := f.guest.Instance.Size()
	f.guest.Instance.Close()
	_, err := pool.Give(f.region, size)
	return err
}

// initialise runs the steps and captures what they leave.
func (f *Faaslet) initialise(result *call.Result) (*proto.File, error) {
	g, m := &f.guest, &f.code.manifest
	g.Driver = f
	g.Instance.LogicalClock()
	if g.Instance.Instantiate() != engine.Finished {
		return nil, fmt.Errorf("instantiate: %s", g.Instance.Trap().Message)
	}
	before, err := f.read()
	if err != nil {
		return nil, err
	}
	unguard := f.guard()
	f.hold()
	for _, s := range m.Init {
		f.step, f.event = s, f.Drive(g.Instance.Start(s.Export, s.Results))
		if f.event != engine.Finished || (s.Results > 0 && uint32(g.Instance.Result()) != 0) {
			break
		}
	}
	f.release()
	unguard()
	f.openGate()
	result.Usage.Wall = time.Since(result.Started)
	result.Usage.MemoryPeak = g.Instance.Size()
	result.Usage.HostCalls = g.HostCalls
	result.Output = g.Init.Output()
	switch {
	case f.event == engine.Finished && f.step.Results > 0 && uint32(g.Instance.Result()) != 0:
		result.Outcome = call.Trapped
		result.Failure = &call.Failure{Message: fmt.Sprintf("%s returned %d", f.step.Export, int32(uint32(g.Instance.Result())))}
		return nil, nil
	case f.event == engine.HostCall && g.Exited:
		result.Outcome = call.Trapped
		result.Failure = &call.Failure{Message: fmt.Sprintf("%s exited with %d; it must return, for calls go on from where it ends", f.step.Export, g.ExitCode)}
		return nil, nil
	case f.event != engine.Finished:
		f.concludeDeath(result)
		result.Failure.Message = f.step.Export + ": " + result.Failure.Message
		return nil, nil
	}
	after, err := f.read()
	if err != nil {
		return nil, err
	}
	s := after.since(before)
	s.Module, s.MemorySize, s.Clock = m.Module, g.Instance.Size(), g.Instance.ClockReading()
	memory, err := f.region.Contents(s.MemorySize)
	if err != nil {
		return nil, fmt.Errorf("capture memory: %w", err)
	}
	return proto.Create(s, memory)
}

// contents are what an instance holds besides its memory: every mutable global, and every
// table that code can change.
type contents struct {
	globals []proto.Global
	tables  []proto.Table // with all their elements
}

// read reads an instance's contents.
func (f *Faaslet) read() (s contents, err error) {
	i, m := f.guest.Instance, &f.code.manifest
	refs := map[uintptr]proto.Ref{0: proto.Null}
	for _, fn := range m.Funcs {
		id, err := i.FuncID(fn.Export)
		if err != nil {
			return s, err
		}
		refs[id] = proto.Ref(fn.Index)
	}
	ref := func(id uintptr) (proto.Ref, error) {
		r, ok := refs[id]
		if !ok {
			return 0, fmt.Errorf("a reference to a function that the module doesn't have")
		}
		return r, nil
	}
	for _, g := range m.Globals {
		v := proto.Global{Index: g.Index, Type: g.Type}
		if g.Type == wasm.FuncRef {
			id, err := i.GlobalFuncID(g.Export)
			if err != nil {
				return s, err
			}
			if v.Func, err = ref(id); err != nil {
				return s, fmt.Errorf("capture global %d: %w", g.Index, err)
			}
		} else {
			value, err := i.Global(g.Export)
			if err != nil {
				return s, fmt.Errorf("capture global %d: %w", g.Index, err)
			}
			v.Bits = value.Bits
		}
		s.globals = append(s.globals, v)
	}
	for _, t := range m.Tables {
		size, err := i.TableSize(t.Export)
		if err != nil {
			return s, err
		}
		ids := make([]uintptr, size)
		if err := i.TableFuncIDs(t.Export, 0, ids); err != nil {
			return s, fmt.Errorf("capture table %d: %w", t.Index, err)
		}
		v := proto.Table{Index: t.Index, Size: size}
		for k, id := range ids {
			r, err := ref(id)
			if err != nil {
				return s, fmt.Errorf("capture table %d, element %d: %w", t.Index, k, err)
			}
			v.Elements = append(v.Elements, proto.Element{Index: uint32(k), Func: r})
		}
		s.tables = append(s.tables, v)
	}
	return s, nil
}

// since returns what differs from an earlier reading of the same instance.
func (s contents) since(before contents) proto.Snapshot {
	var d proto.Snapshot
	for i, g := range s.globals {
		if g != before.globals[i] {
			d.Globals = append(d.Globals, g)
		}
	}
	for i, t := range s.tables {
		old := before.tables[i]
		changed := proto.Table{Index: t.Index, Size: t.Size}
		for k, e := range t.Elements {
			was := proto.Null // what a table grows by
			if k < len(old.Elements) {
				was = old.Elements[k].Func
			}
			if e.Func != was {
				changed.Elements = append(changed.Elements, e)
			}
		}
		if t.Size != old.Size || len(changed.Elements) > 0 {
			d.Tables = append(d.Tables, changed)
		}
	}
	return d
}

// restore translates a snapshot into what the engine does to each new instance. It returns
// an error if the snapshot is not one of this module within these limits.
func (m *manifest) restore(s proto.Snapshot, limits Limits) (plan engine.Restore, err error) {
	if s.Module != m.Module {
		return plan, fmt.Errorf("it was made from module %s, and this is %s", s.Module, m.Module)
	}
	if s.MemorySize > limits.MemoryMax {
		return plan, fmt.Errorf("its memory has %d KiB, and the limit is %d KiB", s.MemorySize>>10, limits.MemoryMax>>10)
	}
	if s.MemorySize < m.MemoryMin {
		return plan, fmt.Errorf("its memory has %d KiB, and the module begins with %d KiB", s.MemorySize>>10, m.MemoryMin>>10)
	}
	plan.Clock = s.Clock
	funcs := map[proto.Ref]string{proto.Null: ""}
	for _, f := range m.Funcs {
		funcs[proto.Ref(f.Index)] = f.Export
	}
	globals := map[uint32]global{}
	for _, g := range m.Globals {
		globals[g.Index] = g
	}
	for _, g := range s.Globals {
		known, ok := globals[g.Index]
		if !ok || known.Type != g.Type {
			return plan, fmt.Errorf("the module has no mutable global %d of type %v", g.Index, g.Type)
		}
		v := engine.GlobalValue{Export: known.Export, Value: engine.Value{Type: engineTypes[g.Type], Bits: g.Bits}}
		if g.Type == wasm.FuncRef {
			if v.Value.Func, ok = funcs[g.Func]; !ok {
				return plan, fmt.Errorf("global %d refers to function %d, which can't be referred to", g.Index, g.Func)
			}
		}
		plan.Globals = append(plan.Globals, v)
	}
	tables := map[uint32]table{}
	for _, t := range m.Tables {
		tables[t.Index] = t
	}
	for _, t := range s.Tables {
		known, ok := tables[t.Index]
		if !ok {
			return plan, fmt.Errorf("the module has no table %d that can change", t.Index)
		}
		if t.Size > engine.TableElementsMax {
			return plan, fmt.Errorf("table %d has %d elements; at most %d are allowed", t.Index, t.Size, engine.TableElementsMax)
		}
		v := engine.TableValue{Export: known.Export, Size: t.Size}
		for _, e := range t.Elements {
			name, ok := funcs[e.Func]
			if !ok || uint64(e.Index) >= t.Size {
				return plan, fmt.Errorf("element %d of table %d, function %d, is not one it can have", e.Index, t.Index, e.Func)
			}
			v.Elements = append(v.Elements, engine.TableElement{Index: uint64(e.Index), Func: name})
		}
		plan.Tables = append(plan.Tables, v)
	}
	return plan, nil
}

var engineTypes = map[wasm.ValType]engine.ValType{
	wasm.I32: engine.I32, wasm.I64: engine.I64, wasm.F32: engine.F32, wasm.F64: engine.F64,
	wasm.V128: engine.V128, wasm.FuncRef: engine.FuncRef, wasm.ExternRef: engine.ExternRef,
}
