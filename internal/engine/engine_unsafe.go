// Package engine compiles and runs WebAssembly: Wasmtime, behind C of our own.
//
// An Instance runs guest code on a stack of its own until the guest finishes, dies or
// calls the host; each of these is a return from Start or Poll, an Event. So whoever
// drives an instance reads as a loop, and no Go code ever runs on a guest's stack (see
// RATIONALE.md, "Why is a host call a return?").
//
// A Module is compiled, or loaded from machine code that another host made; a Restore makes
// its instances go on from where an earlier one was read.
//
// The package does not decide what a host function does, does not map memory (vmem does)
// and does not read Wasm (package wasm does: modules that come here have been prepared,
// with memory 1 as their gate). It is the only one that imports "C".
package engine

/*
#cgo CFLAGS: -O2 -Wall
#cgo noescape fsl_start
#cgo nocallback fsl_start
#cgo noescape fsl_start_table
#cgo nocallback fsl_start_table
#cgo noescape fsl_answer
#cgo nocallback fsl_answer
#cgo noescape fsl_delete
#cgo nocallback fsl_delete
#cgo noescape fsl_grow
#cgo nocallback fsl_grow
#cgo nocallback fsl_new
#cgo noescape fsl_thread_faulted
#cgo nocallback fsl_thread_faulted
#cgo noescape fsl_reset
#cgo nocallback fsl_reset
#include <stdlib.h>
#include "engine.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unsafe"

	// Its cgo directives link libwasmtime.a; none of its Go code is used (DESIGN 5.1).
	_ "github.com/bytecodealliance/wasmtime-go/v39"
)

// ValType is the type of a value. Host functions take and return numbers, I32 to F64.
type ValType uint8

const (
	I32       ValType = C.WASMTIME_I32
	I64       ValType = C.WASMTIME_I64
	F32       ValType = C.WASMTIME_F32
	F64       ValType = C.WASMTIME_F64
	V128      ValType = C.WASMTIME_V128
	FuncRef   ValType = C.WASMTIME_FUNCREF
	ExternRef ValType = C.WASMTIME_EXTERNREF
)

func (t ValType) String() string {
	return [...]string{"i32", "i64", "f32", "f64", "v128", "funcref", "externref"}[t]
}

// Fast names a host function that is served in C, on the guest's stack, because a return
// to Go (some 200 ns) would be most of its cost.
type Fast uint32

const (
	NotFast      Fast = C.FSL_FAST_NONE
	ClockTimeGet Fast = C.FSL_FAST_CLOCK_TIME_GET
	ClockResGet  Fast = C.FSL_FAST_CLOCK_RES_GET
	SchedYield   Fast = C.FSL_FAST_SCHED_YIELD
)

// A HostFunc is a function that modules may import. When a guest calls one that is not
// Fast, Start or Poll return HostCall and Instance.Host is its index in Config.Hosts.
type HostFunc struct {
	Module, Name string
	Params       []ValType // at most ArgsMax, I32 to F64
	Results      []ValType // at most one, I32 to F64
	Fast         Fast
}

// ArgsMax is how many parameters a host function can have.
const ArgsMax = C.FSL_ARGS_MAX

// Config is what an Engine is made with.
type Config struct {
	Reservation uint64 // addresses of a region that belong to its linear memory
	Guard       uint64 // addresses without access behind them
	Stack       uint64 // native stack of a guest, bytes
	Hosts       []HostFunc
	// Epochs compiles Wasmtime's own interruption checks in, to measure what they cost
	// beside our gates. Nothing ever moves the epoch.
	Epochs bool
}

// hostStack is what is left of a native stack for C code that runs on it: Wasmtime's
// runtime, our fast host functions, the capture of a backtrace.
const hostStack = 256 << 10

// Engine compiles modules and holds what they may import. It is safe for concurrent use.
type Engine struct {
	c           *C.fsl_engine
	fingerprint string
}

// New makes an engine.
func New(cfg Config) (*Engine, error) {
	if cfg.Stack <= 2*hostStack {
		return nil, fmt.Errorf("stack of %d bytes leaves no room for guest code", cfg.Stack)
	}
	config := C.fsl_config{
		reservation: C.uint64_t(cfg.Reservation), guard: C.uint64_t(cfg.Guard),
		stack: C.uint64_t(cfg.Stack), wasm_stack: C.uint64_t(cfg.Stack - hostStack),
		epochs: C.bool(cfg.Epochs),
	}
	e := &Engine{fingerprint: fingerprint(cfg, version(), cpuFeatures())}
	if err := take(C.fsl_engine_new(&config, &e.c)); err != nil {
		return nil, fmt.Errorf("make engine: %w", err)
	}
	for i, h := range cfg.Hosts {
		if err := e.define(uint32(i), h); err != nil {
			e.Close()
			return nil, fmt.Errorf("define host function %s.%s: %w", h.Module, h.Name, err)
		}
	}
	return e, nil
}

func (e *Engine) define(index uint32, h HostFunc) error {
	if len(h.Params) > ArgsMax || len(h.Results) > 1 {
		return fmt.Errorf("%d parameters and %d results are too many", len(h.Params), len(h.Results))
	}
	module, name := C.CString(h.Module), C.CString(h.Name)
	defer C.free(unsafe.Pointer(module))
	defer C.free(unsafe.Pointer(name))
	kinds := (*[ArgsMax + 1]C.uint8_t)(C.malloc(ArgsMax + 1))
	defer C.free(unsafe.Pointer(kinds))
	for i, t := range append(append([]ValType(nil), h.Params...), h.Results...) {
		if t > F64 {
			return fmt.Errorf("a host function can't take or return %v", t)
		}
		kinds[i] = C.uint8_t(t)
	}
	host := C.fsl_host{
		module: module, name: name, kinds: &kinds[0],
		nparams: C.uint32_t(len(h.Params)), nresults: C.uint32_t(len(h.Results)),
		index: C.uint32_t(index), fast: C.uint32_t(h.Fast),
	}
	return take(C.fsl_engine_define(e.c, &host))
}

// Close frees the engine. All its modules and instances must have been closed.
func (e *Engine) Close() {
	if e.c != nil {
		C.fsl_engine_delete(e.c)
		e.c = nil
	}
}

// Validate checks bin against the specification. The error's offsets are bin's.
func (e *Engine) Validate(bin []byte) error {
	if len(bin) == 0 {
		return errors.New("empty module")
	}
	return take(C.fsl_module_validate(e.c, (*C.uint8_t)(&bin[0]), C.size_t(len(bin))))
}

// FromText assembles a module in the text format.
func FromText(text string) ([]byte, error) {
	var out C.wasm_byte_vec_t
	c := C.CString(text)
	defer C.free(unsafe.Pointer(c))
	if err := take(C.fsl_wat(c, C.size_t(len(text)), &out)); err != nil {
		return nil, err
	}
	defer C.wasm_byte_vec_delete(&out)
	return C.GoBytes(unsafe.Pointer(out.data), C.int(out.size)), nil
}

// Module is compiled code, linked to the engine's host functions.
type Module struct {
	c *C.fsl_module
}

// TableElementsMax is how many elements a guest may grow each of its tables to (8 bytes
// of host memory each).
const TableElementsMax = 1_000_000

// Compile compiles a prepared module. growsTables tells whether its code can grow a table.
func (e *Engine) Compile(prepared []byte, growsTables bool) (*Module, error) {
	m := &Module{}
	if err := take(C.fsl_module_compile(e.c, (*C.uint8_t)(&prepared[0]), C.size_t(len(prepared)), &m.c)); err != nil {
		return nil, fmt.Errorf("compile: %w", err)
	}
	m.limit(growsTables)
	return m, nil
}

func (m *Module) limit(growsTables bool) {
	if growsTables {
		m.c.table_elements_max = TableElementsMax
	}
}

// Serialize returns the machine code and all else that Load needs to make the module
// again, in the engine's own format.
func (m *Module) Serialize() ([]byte, error) {
	var out C.wasm_byte_vec_t
	if err := take(C.fsl_module_serialize(m.c, &out)); err != nil {
		return nil, fmt.Errorf("serialize module: %w", err)
	}
	defer C.wasm_byte_vec_delete(&out)
	return C.GoBytes(unsafe.Pointer(out.data), C.int(out.size)), nil
}

// Load makes a module from what Serialize returned, here or on another host. It copies the
// artefact. growsTables is as for Compile.
//
// The artefact is machine code, and the engine believes what it says: loading bytes that
// Serialize did not make is arbitrary code execution. The caller authenticates them, and
// with them the Fingerprint that they were stored under. An artefact of another major
// version, processor or configuration is an error; one of another minor version of
// Wasmtime is not told apart here.
func (e *Engine) Load(artefact []byte, growsTables bool) (*Module, error) {
	if len(artefact) == 0 {
		return nil, errors.New("load module: empty artefact")
	}
	m := &Module{}
	if err := take(C.fsl_module_load(e.c, (*C.uint8_t)(&artefact[0]), C.size_t(len(artefact)), &m.c)); err != nil {
		return nil, fmt.Errorf("load module: %w", err)
	}
	m.limit(growsTables)
	return m, nil
}

// CodeBytes is how much memory the module's machine code and its tables (of traps, of
// names) take, mapped as long as the module is open.
func (m *Module) CodeBytes() uint64 { return uint64(C.fsl_module_code_bytes(m.c)) }

// Close frees the module. All its instances must have been closed.
func (m *Module) Close() {
	if m.c != nil {
		C.fsl_module_delete(m.c)
		m.c = nil
	}
}

// SetReset lets later instances be Reset: besides the bytes and the size of its memory, the
// globals with these exports, which are numbers, are all that a guest of the module can
// change. It must be called once at most, and while no instance is being made.
func (m *Module) SetReset(globals []string) {
	n := len(globals)
	names := unsafe.Slice((*C.fsl_name)(C.calloc(C.size_t(n+1), C.sizeof_fsl_name)), n+1)
	for i, name := range globals {
		names[i] = C.fsl_name{at: C.CString(name), n: C.size_t(len(name))}
	}
	C.fsl_module_can_reset(m.c, &names[0], C.size_t(n))
}

// Memory is where an instance lives: parts of a vmem.Region.
type Memory struct {
	Base     uintptr // guest address 0
	Size     uint64  // bytes mapped at Base: the linear memory's initial size
	Limit    uint64  // bytes it may grow to
	Reserved uint64  // addresses that belong to it
	Gate     uintptr
	StackTop uintptr
	StackLen uintptr
}

// Event is why an instance stopped running.
type Event int

const (
	// Finished: the entry point returned; Result is what.
	Finished Event = C.FSL_FINISHED
	// Trapped: the guest died; Trap tells how. Only Close may follow.
	Trapped Event = C.FSL_TRAPPED
	// HostCall: the guest called the host function Host with Args; Answer, AnswerTrap or
	// CallGuest go on.
	HostCall Event = C.FSL_HOST_CALL
	// GuestDone: the guest function that CallGuest asked for returned; the host call
	// waits as before.
	GuestDone Event = C.FSL_GUEST_DONE
	// NoEntry: there is no such function, or it has another type.
	NoEntry Event = C.FSL_NO_ENTRY
)

// Instance is one run of a module in a region, or after each Reset another one. It is for one
// goroutine at a time, and holds C memory until Close.
type Instance struct {
	c *C.fsl
	m *Module
}

// NewInstance makes an instance that will live in mem. Nothing runs before Start.
func (m *Module) NewInstance(mem Memory) Instance {
	c := C.fsl_new()
	// SAFETY: these are addresses from mmap, not Go pointers; vmem keeps them mapped until
	// the region is given back, after Close.
	setPointer(&c.base, mem.Base)
	setPointer(&c.gate, mem.Gate)
	setPointer(&c.stack_top, mem.StackTop)
	c.stack_len = C.uint64_t(mem.StackLen)
	c.size = C.uint64_t(mem.Size)
	c.limit = C.uint64_t(mem.Limit)
	c.reservation = C.uint64_t(mem.Reserved)
	return Instance{c: c, m: m}
}

func setPointer(p **C.uint8_t, addr uintptr) { *(*uintptr)(unsafe.Pointer(p)) = addr }

// Instantiate does what the first Start would do before it runs the guest: it makes the
// instance and restores what Module.SetRestore says. It returns Finished, or Trapped.
func (i Instance) Instantiate() Event { return Event(C.fsl_instantiate(i.c, i.m.c)) }

// Start instantiates the module if that has not been done yet, and runs its export, a
// function without parameters that returns results (0 or 1) numbers.
func (i Instance) Start(export string, results int) Event {
	return Event(C.fsl_start(i.c, i.m.c, (*C.char)(unsafe.Pointer(unsafe.StringData(export))), C.size_t(len(export)), C.size_t(results)))
}

// StartTable is Start for the function at an index of an exported table. It returns
// NoEntry unless that is a function without parameters and with at most one result.
func (i Instance) StartTable(table string, index uint32) Event {
	return Event(C.fsl_start_table(i.c, i.m.c, (*C.char)(unsafe.Pointer(unsafe.StringData(table))), C.size_t(len(table)), C.uint32_t(index)))
}

// Host is the index of the host function that was called.
func (i Instance) Host() int { return int(i.c.host) }

// Args are the arguments of the host call: each in the low bits, floats as their bits.
// They are overwritten by the next host call.
func (i Instance) Args() *[ArgsMax]uint64 {
	return (*[ArgsMax]uint64)(unsafe.Pointer(&i.c.args))
}

// Answer gives the host call its result (ignored if it has none) and goes on.
func (i Instance) Answer(result uint64) Event {
	return Event(C.fsl_answer(i.c, C.uint64_t(result)))
}

// AnswerTrap makes the host call trap with message, and goes on.
func (i Instance) AnswerTrap(message string) Event {
	return Event(C.fsl_answer_trap(i.c, (*C.char)(unsafe.Pointer(unsafe.StringData(message))), C.size_t(len(message))))
}

// CallGuest runs an exported guest function with up to two i32 arguments inside the host
// call that waits. The guest code may call the host: each HostCall is to be answered,
// until GuestDone, NoEntry (no such function; nothing ran) or Trapped.
func (i Instance) CallGuest(export string, args ...uint32) Event {
	var a [2]uint32
	copy(a[:], args)
	return Event(C.fsl_call_guest(i.c, (*C.char)(unsafe.Pointer(unsafe.StringData(export))), C.size_t(len(export)),
		C.uint32_t(len(args)), C.uint32_t(a[0]), C.uint32_t(a[1])))
}

// TableHasEntry tells whether an exported table holds a function () -> i32 at index.
func (i Instance) TableHasEntry(table string, index uint32) bool {
	return bool(C.fsl_table_has_entry(i.c, (*C.char)(unsafe.Pointer(unsafe.StringData(table))), C.size_t(len(table)), C.uint32_t(index)))
}

// Grow adds delta bytes, a multiple of 64 KiB, to the linear memory, which is the export of
// that name, and returns the address of the first. It may be called while a host call
// waits; the guest sees the new size, as if it had grown its memory itself, but for
// GrowRefused. It returns an error if Memory.Limit, the module's own maximum or the kernel
// refuse; nothing has changed then.
//
// Preconditions: the instance has been instantiated.
func (i Instance) Grow(export string, delta uint64) (at uint64, err error) {
	if delta%wasmPage != 0 {
		return 0, fmt.Errorf("grow memory by %d bytes: not a multiple of %d", delta, wasmPage)
	}
	at = i.Size()
	err = take(C.fsl_grow(i.c, (*C.char)(unsafe.Pointer(unsafe.StringData(export))), C.size_t(len(export)), C.uint64_t(delta/wasmPage)))
	if err != nil {
		return 0, fmt.Errorf("grow memory by %d bytes: %w", delta, err)
	}
	return at, nil
}

const wasmPage = 64 << 10

// Result is what the entry point (Finished) or the guest function (GuestDone) returned.
func (i Instance) Result() uint64 { return uint64(i.c.result) }

// Size is the linear memory's size in bytes. It changes only while the guest runs, and with
// Grow.
func (i Instance) Size() uint64 { return uint64(i.c.size) }

// GrowRefused tells whether the guest asked for more memory than it could get.
func (i Instance) GrowRefused() bool { return i.c.grow_refused != 0 }

// Memory is the guest's linear memory. The slice is good until the guest runs again, which
// may grow it; after Grow it is the first part.
func (i Instance) Memory() []byte {
	// SAFETY: every byte below size is mapped for as long as the instance lives (the
	// invariant of package vmem), outside of Go's heap.
	return unsafe.Slice((*byte)(unsafe.Pointer(i.c.base)), int(i.c.size))
}

// Reset makes the instance what it was before it was started, but for the bytes of its
// memory, which whoever runs it next must have put back: to make a new one takes as long as
// all else about a short run. It returns false, and only Close may follow, if the guest did
// not come to its end by itself, if its memory has grown, if it has been reset very often, or
// if its module has other things that change (Module.SetReset).
//
// Preconditions: no thread is in Start, Answer or CallGuest.
func (i Instance) Reset() bool { return bool(C.fsl_reset(i.c, i.m.c)) }

// Close drops the instance, in whatever state its guest is, but not while a thread is in
// Start, Answer or CallGuest. The region may be used again afterwards.
func (i Instance) Close() { C.fsl_delete(i.c) }

// Frame is one frame of a backtrace.
type Frame struct {
	FuncIndex uint32
	FuncName  string // from the module's name section; may be empty
	Offset    uint64 // bytes into the function; 0 where the engine can't tell
}

// TrapCode says which rule of Wasm a guest broke.
type TrapCode int

const (
	NoTrapCode    TrapCode = -1 // an error of the engine or a host function
	StackOverflow TrapCode = 0
	OutOfBounds   TrapCode = 1 // memory; also a gate that was shut
	Unreachable   TrapCode = 9
)

// Trap tells how a guest died.
type Trap struct {
	Code    TrapCode
	Message string // one line
	Frames  []Frame
}

// framesMax bounds a backtrace: the innermost frames tell most.
const framesMax = 32

// Trap tells how the guest died, after Trapped.
func (i Instance) Trap() *Trap {
	frames := (*[framesMax]C.fsl_stack_frame)(C.calloc(framesMax, C.sizeof_fsl_stack_frame))
	defer C.free(unsafe.Pointer(frames))
	n := C.size_t(framesMax)
	var code C.int
	text := C.fsl_failure(i.c, &code, &frames[0], &n)
	defer C.free(unsafe.Pointer(text))
	t := &Trap{Code: TrapCode(code), Message: trapMessage(TrapCode(code), C.GoString(text))}
	for _, f := range frames[:n] {
		frame := Frame{FuncIndex: uint32(f.func_index), FuncName: C.GoString(&f.name[0])}
		if f.offset != C.SIZE_MAX {
			frame.Offset = uint64(f.offset)
		}
		t.Frames = append(t.Frames, frame)
	}
	return t
}

// trapMessages say in a function's author's words which rule was broken.
var trapMessages = map[TrapCode]string{
	StackOverflow: "call stack exhausted",
	OutOfBounds:   "out of bounds memory access",
	2:             "misaligned atomic access",
	3:             "out of bounds table access",
	4:             "indirect call to a null function pointer",
	5:             "indirect call to a function of another type",
	6:             "integer overflow",
	7:             "integer divide by zero",
	8:             "conversion of a number that no integer can hold",
	Unreachable:   "unreachable code reached: the function aborted",
	14:            "call of a null reference",
}

// trapMessage is one line. The engine's own text has many: an account of the frames, and
// then the cause, which for an error of a host function is the last thing worth knowing.
func trapMessage(code TrapCode, text string) string {
	if m, ok := trapMessages[code]; ok {
		return m
	}
	if _, causes, ok := strings.Cut(text, "Caused by:"); ok {
		text = causes
	}
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	line = strings.TrimLeft(line, "0123456789: ")
	return strings.TrimPrefix(line, "wasm trap: ")
}

func take(message *C.char) error {
	if message == nil {
		return nil
	}
	defer C.free(unsafe.Pointer(message))
	return errors.New(C.GoString(message))
}

// StartTime is how long it took to instantiate the module and to restore it.
func (i Instance) StartTime() time.Duration { return time.Duration(i.c.start_ns) }

// Elapsed is the guest's monotonic clock: the time since Start, in a restored instance on
// top of Restore.Clock; or the logical clock's last reading.
func (i Instance) Elapsed() time.Duration { return time.Duration(C.fsl_elapsed(i.c)) }

// LogicalClock makes the guest's time a count of its own readings, so that what it
// computes does not depend on when it is run, nor for how long: each reading of any clock
// adds a microsecond. The monotonic clock begins at 0, the realtime clock at the start of
// 2020, UTC.
//
// Preconditions: the instance has not been instantiated, and its module has no Restore.
func (i Instance) LogicalClock() { i.c.clock_logical = 1 }

// AdvanceClock lets d pass on the logical clock, as a sleep would. What is negative counts
// as 0, and what is too long ends at the clock's last reading, in the year 2262.
func (i Instance) AdvanceClock(d time.Duration) {
	i.c.clock += min(C.int64_t(max(d, 0)), C.FSL_CLOCK_MAX-i.c.clock)
}

// ClockReading is the logical clock's last reading: what Restore.Clock is to be for
// instances that go on from this one.
func (i Instance) ClockReading() time.Duration { return time.Duration(i.c.clock) }

// ThreadFaulted tells whether this thread has taken a page fault since the last time that it
// was asked, whatever for; the first time it has. Who asks must have been on the thread for
// all of the time that matters (runtime.LockOSThread). It is one system call.
func ThreadFaulted() bool { return bool(C.fsl_thread_faulted()) }

// CountsFaults tries out whether ThreadFaulted can be relied on: not every kernel that is
// like Linux counts.
func CountsFaults() bool { return bool(C.fsl_counts_faults()) }

// GuestStack is what a native stack of so many bytes leaves for guest code.
func GuestStack(stack uint64) uint64 { return stack - hostStack }
