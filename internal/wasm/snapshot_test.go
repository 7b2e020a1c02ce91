package wasm

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/bytecodealliance/wasmtime-go/v39"
	"github.com/google/go-cmp/cmp"
)

// engine is the one that Faaslets have, behind another binding and only for tests.
var engine = sync.OnceValue(func() *wasmtime.Engine {
	config := wasmtime.NewConfig()
	config.SetWasmMultiMemory(true)
	config.SetWasmTailCall(true)
	return wasmtime.NewEngineWithConfig(config)
})

// engineAccepts reports an upload that the engine takes, but not once it is prepared.
func engineAccepts(upload []byte, p *Prepared) error {
	if err := wasmtime.ModuleValidate(engine(), upload); err != nil {
		return nil // not valid, and for the engine to say so
	}
	if err := wasmtime.ModuleValidate(engine(), p.Code); err != nil {
		return fmt.Errorf("prepared, the engine refuses it: %w", err)
	}
	return nil
}

// The engine takes the fixtures, so that engineAccepts says something of them.
func TestFixtures_engineAccepts(t *testing.T) {
	for _, name := range fixtures {
		err := wasmtime.ModuleValidate(engine(), fixture(t, name))
		// opcodes.wasm is well-formed, but its operands are of any type.
		if refused := err != nil; refused != (name == "opcodes.wasm") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A guest is an instance of testdata/state.wat, prepared. Its functions f0 to f3 return
// their own index, so that a call tells which one a reference refers to.
type guest struct {
	p     *Prepared
	store *wasmtime.Store
	inst  *wasmtime.Instance
}

func newGuest(t *testing.T, module *wasmtime.Module, p *Prepared) *guest {
	t.Helper()
	g := &guest{p: p, store: wasmtime.NewStore(engine())}
	t.Cleanup(g.store.Close)
	var err error
	if g.inst, err = wasmtime.NewInstance(g.store, module, nil); err != nil {
		t.Fatal(err)
	}
	for _, s := range p.Image {
		copy(g.memory().UnsafeData(g.store)[s.Offset:], s.Data)
	}
	return g
}

func (g *guest) memory() *wasmtime.Memory {
	return g.inst.GetExport(g.store, g.p.Memory.Export).Memory()
}

func (g *guest) table(i int) *wasmtime.Table {
	return g.inst.GetExport(g.store, g.p.Tables[i].Export).Table()
}

// do runs an exported function, and returns its result or the reason of its trap.
func (g *guest) do(name string, args ...any) string {
	result, err := g.inst.GetFunc(g.store, name).Call(g.store, args...)
	if trap, ok := err.(*wasmtime.Trap); ok {
		return fmt.Sprint("trap ", *trap.Code())
	}
	return fmt.Sprint(result, err)
}

// A snapshot holds what the comment of Prepared says that one must.
type snapshot struct {
	memory  string
	globals map[string]any // numbers by export
	refs    map[string]int // of globals of type funcref: the function's index, -1 for null
	tables  [][]int        // the same of the elements; of externref, which are null, -1
}

func (g *guest) refersTo(t *testing.T, f *wasmtime.Func) int {
	t.Helper()
	if f == nil {
		return -1
	}
	index, err := f.Call(g.store)
	if err != nil {
		t.Fatal(err)
	}
	return int(index.(int32))
}

func (g *guest) capture(t *testing.T) snapshot {
	t.Helper()
	s := snapshot{
		memory:  string(g.memory().UnsafeData(g.store)),
		globals: map[string]any{},
		refs:    map[string]int{},
	}
	for _, global := range g.p.Globals {
		v := g.inst.GetExport(g.store, global.Export).Global().Get(g.store)
		if global.Type == FuncRef {
			s.refs[global.Export] = g.refersTo(t, v.Funcref())
		} else {
			s.globals[global.Export] = v.Get()
		}
	}
	for i, table := range g.p.Tables {
		elements := make([]int, g.table(i).Size(g.store))
		for k := range elements {
			v, err := g.table(i).Get(g.store, uint64(k))
			if err != nil {
				t.Fatal(err)
			}
			elements[k] = -1
			if table.Type == FuncRef {
				elements[k] = g.refersTo(t, v.Funcref())
			}
		}
		s.tables = append(s.tables, elements)
	}
	return s
}

// restore makes a new instance what the captured one was.
func (g *guest) restore(t *testing.T, s snapshot) {
	t.Helper()
	try := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	if more := len(s.memory) - len(g.memory().UnsafeData(g.store)); more > 0 {
		_, err := g.memory().Grow(g.store, uint64(more/PageSize))
		try(err)
	}
	copy(g.memory().UnsafeData(g.store), s.memory)
	ref := func(index int) wasmtime.Val {
		for _, f := range g.p.Funcs {
			if int(f.Index) == index {
				return wasmtime.ValFuncref(g.inst.GetFunc(g.store, f.Export))
			}
		}
		if index >= 0 {
			t.Fatalf("function %d is referred to, but not in Funcs, %v", index, g.p.Funcs)
		}
		return wasmtime.ValFuncref(nil)
	}
	for export, v := range s.globals {
		try(g.inst.GetExport(g.store, export).Global().Set(g.store, wasmtime.ValI32(v.(int32))))
	}
	for export, index := range s.refs {
		try(g.inst.GetExport(g.store, export).Global().Set(g.store, ref(index)))
	}
	for i, elements := range s.tables {
		null := wasmtime.ValFuncref(nil)
		if g.p.Tables[i].Type == ExternRef {
			null = wasmtime.ValExternref(nil)
		}
		if more := uint64(len(elements)) - g.table(i).Size(g.store); more > 0 {
			_, err := g.table(i).Grow(g.store, more, null)
			try(err)
		}
		if g.p.Tables[i].Type == FuncRef {
			for k, index := range elements {
				try(g.table(i).Set(g.store, uint64(k), ref(index)))
			}
		}
	}
	_, err := g.inst.GetFunc(g.store, g.p.Drop).Call(g.store)
	try(err)
}

// A new instance into which what Prepare tells of was put behaves as the one it was taken
// from. Guests run random instructions of all that change an instance, are captured and
// restored, and then original and copy run the same instructions to the same results.
func TestPrepared_snapshot(t *testing.T) {
	p := must(t, fixture(t, "state.wasm"))
	module, err := wasmtime.NewModule(engine(), p.Code)
	if err != nil {
		t.Fatal(err)
	}
	defer module.Close()

	var operations []Export
	for _, e := range p.Exports {
		if e.Kind == ExternFunc {
			operations = append(operations, e)
		}
	}
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 4))
		random := func() (string, []any) {
			op := operations[rng.IntN(len(operations))]
			args := make([]any, len(op.Type.Params))
			for i := range args {
				args[i] = int32(rng.IntN(6))
			}
			return op.Name, args
		}
		original, restored := newGuest(t, module, p), newGuest(t, module, p)
		for range rng.IntN(30) {
			name, args := random()
			original.do(name, args...)
		}
		restored.restore(t, original.capture(t))
		for range 50 {
			name, args := random()
			if got, want := restored.do(name, args...), original.do(name, args...); got != want {
				t.Errorf("seed %d: %s%v gives %s, in the original %s", seed, name, args, got, want)
			}
		}
		if diff := cmp.Diff(original.capture(t), restored.capture(t), cmp.AllowUnexported(snapshot{})); diff != "" {
			t.Fatalf("seed %d: state (-original +restored):\n%.2000s", seed, diff)
		}
	}
}
