package hostif_test

import (
	"fmt"
	"reflect"
	"strings"
	"sync"
	"syscall"

	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/engine"
	"github.com/faasm-go/faasm/internal/hostif"
	"github.com/faasm-go/faasm/internal/wasm"
)

// A puppet is a guest that does nothing of its own: the test has it call any function of
// the host interface with any arguments. It lives in memory mapped here, of one page with
// no access behind it, so that its tests need nothing but the engine, and a write past its
// memory is the end of the test process.
type puppet struct {
	hostif.Guest
}

// stage is what all puppets share. One performs at a time.
type stage struct {
	module *engine.Module
	memory engine.Memory

	memoryExport, table string
}

const page = 65536 // bytes of memory that the guests of these tests have

const (
	stageStack       = 1 << 20
	stageReservation = 1 << 20
	stageGuard       = 64 << 10

	// Where in memory a puppet finds the arguments of its next call, 8 bytes each, and what
	// its malloc returns.
	argsAt   = page - 8*engine.ArgsMax
	mallocAt = argsAt - 8
)

// theStage has a module that imports every host function; export "k" calls the one with
// index k. Element 1 of its table is a function () -> i32.
var theStage = sync.OnceValues(func() (*stage, error) {
	var imports, exports strings.Builder
	types := map[engine.ValType]string{engine.I32: "i32", engine.I64: "i64"}
	for k, f := range hostif.Functions {
		fmt.Fprintf(&imports, "(import %q %q (func $%d", f.Module, f.Name, k)
		fmt.Fprintf(&exports, "(func (export \"%d\") (result i32) (call $%d", k, k)
		for i, p := range f.Params {
			fmt.Fprintf(&imports, " (param %s)", types[p])
			fmt.Fprintf(&exports, " (%s.load (i32.const %d))", types[p], argsAt+8*i)
		}
		exports.WriteString(")")
		if len(f.Results) > 0 {
			imports.WriteString(" (result i32)")
		} else {
			exports.WriteString(" (i32.const 0)")
		}
		imports.WriteString("))\n")
		exports.WriteString(")\n")
	}
	bin, err := engine.FromText(fmt.Sprintf(`(module %s (memory 1 1) (table 2 funcref) (elem (i32.const 1) $f) (func $f (result i32) (i32.const 0))
	  (func (export "malloc") (param i32) (result i32) (i32.load (i32.const %d))) %s)`, &imports, mallocAt, &exports))
	if err != nil {
		return nil, err
	}
	prepared, err := wasm.Prepare(bin, wasm.Options{})
	if err != nil {
		return nil, err
	}
	e, err := engine.New(engine.Config{Reservation: stageReservation, Guard: stageGuard, Stack: stageStack, Hosts: hostif.HostFuncs()})
	if err != nil {
		return nil, err
	}
	s := &stage{memoryExport: prepared.Memory.Export, table: prepared.Tables[0].Export}
	if s.module, err = e.Compile(prepared.Code, false); err != nil {
		return nil, err
	}
	// From below: the stack, the memory, no access, the gate.
	m, err := syscall.Mmap(-1, 0, stageStack+stageReservation+stageGuard+page, syscall.PROT_NONE, syscall.MAP_PRIVATE|syscall.MAP_ANON|syscall.MAP_NORESERVE)
	if err != nil {
		return nil, err
	}
	gate := m[len(m)-page:]
	for _, part := range [][]byte{m[:stageStack+page], gate} {
		if err := syscall.Mprotect(part, syscall.PROT_READ|syscall.PROT_WRITE); err != nil {
			return nil, err
		}
	}
	address := func(b []byte) uintptr { return reflect.ValueOf(b).Pointer() }
	s.memory = engine.Memory{
		Base: address(m[stageStack:]), Size: page, Limit: page, Reserved: stageReservation,
		Gate: address(gate), StackTop: address(m[stageStack:]), StackLen: stageStack,
	}
	return s, nil
})

// tester is a *testing.T or a *rapid.T.
type tester interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

// newPuppet makes one with the given memory, zeros beyond it. It must be closed before the
// next is made.
func newPuppet(t tester, memory []byte) *puppet {
	t.Helper()
	s, err := theStage()
	if err != nil {
		t.Fatal(err)
	}
	p := &puppet{hostif.Guest{Instance: s.module.NewInstance(s.memory), Memory: s.memoryExport, Table: s.table, Limits: &hostif.Limits{OutputMax: 1000, HandlesMax: 5}}}
	m := p.Instance.Memory()
	clear(m[copy(m, memory):])
	p.Driver = p
	return p
}

func (p *puppet) close() {
	p.End()
	p.Instance.Close()
}

// Drive is what a Faaslet does.
func (p *puppet) Drive(e engine.Event) engine.Event {
	for e == engine.HostCall && !p.Dropped() {
		for w := p.Serve(); w != nil; w = p.Serve() {
			p.Block(w)
		}
		e = p.Answer()
	}
	return e
}

// Rest is what a Faaslet does whose CPU time is not measured.
func (p *puppet) Rest(wait func()) { wait() }

// prepare puts the arguments of the next call in place.
func (p *puppet) prepare(args []uint64) {
	for i, a := range args {
		le.PutUint64(p.Instance.Memory()[argsAt+8*i:], a)
	}
}

// call calls the function with the given index and returns what it answered.
func (p *puppet) call(index int, args ...uint64) (engine.Event, uint32) {
	p.prepare(args)
	e := p.Drive(p.Instance.Start(fmt.Sprint(index), 1))
	return e, uint32(p.Instance.Result())
}

// indexOf finds a function by its name, of preview 1 if it is WASI's.
func indexOf(t tester, name string) int {
	t.Helper()
	for i, f := range hostif.Functions {
		if f.Name == name && f.Module != "wasi_unstable" {
			return i
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}

func newCall(r call.Request) *call.Call {
	r.ID = call.NewID()
	return call.New(&r, nil)
}
