package faaslet

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/engine"
	"github.com/faasm-go/faasm/internal/linux"
)

// lonely is a host with two functions to chain: "four" returns the output "four", "hang"
// never returns, and there is no other.
type lonely struct{}

func world() *World {
	return &World{Host: lonely{}, Logs: call.NewLogBuffer(call.LogBufferOptions{})}
}

func (lonely) Chain(parent *call.Call, function string, _ call.Entry, input []byte) *call.Call {
	c := call.New(&call.Request{ID: call.NewID(), Parent: parent.ID(), Tenant: "t", Function: function, Input: input}, parent)
	switch function {
	case "hang":
	case "four":
		c.Finish(call.Result{Output: []byte("four")})
	default:
		c.Finish(call.Result{Outcome: call.NoSuchFunction})
	}
	return c
}

func (lonely) Block(_ *call.Call, _ bool, wait func()) { wait() }

func newRuntime(t testing.TB) *Runtime {
	t.Helper()
	return openRuntime(t, Options{})
}

func openRuntime(t testing.TB, opts Options) *Runtime {
	t.Helper()
	rt, err := NewRuntime(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rt.Close(); err != nil {
			t.Errorf("close runtime: %v", err)
		}
	})
	return rt
}

func build(t testing.TB, rt *Runtime, wat string) *Code {
	t.Helper()
	return buildLimited(t, rt, wat, testLimits)
}

func buildLimited(t testing.TB, rt *Runtime, wat string, limits Limits) *Code {
	t.Helper()
	return closed(t)(rt.Build(assemble(t, wat), limits))
}

// assemble makes a module of its text.
func assemble(t testing.TB, wat string) []byte {
	t.Helper()
	bin, err := engine.FromText(wat)
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// closed demands code, and closes it at the end of the test.
func closed(t testing.TB) func(*Code, error) *Code {
	return func(c *Code, err error) *Code {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Close(); err != nil {
				t.Errorf("close code: %v", err)
			}
		})
		return c
	}
}

func request(input string) *call.Call {
	return call.New(&call.Request{ID: call.NewID(), Tenant: "t", Function: "f", Input: []byte(input), Attempt: 1}, nil)
}

func runOnce(t testing.TB, c *Code, cl *call.Call) call.Result {
	t.Helper()
	r, remains := c.Run(cl, world())
	if _, err := remains.Clean(); err != nil {
		t.Fatalf("clean: %v", err)
	}
	return *r
}

const echo = `(module
  (import "faasm" "read_call_input" (func $in (param i32 i32 i32) (result i32)))
  (import "faasm" "write_call_output" (func $out (param i32 i32) (result i32)))
  (memory 1)
  (data (i32.const 8) "hello, ")
  (func (export "faasm_call") (result i32)
    (drop (call $in (i32.const 15) (i32.const 100) (i32.const 0)))
    (drop (call $out (i32.const 8) (i32.add (i32.const 7) (i32.load (i32.const 0)))))
    (i32.const 7)))`

func TestRun_outputAndReturnCode(t *testing.T) {
	c := build(t, newRuntime(t), echo)
	for range 3 {
		r := runOnce(t, c, request("world"))
		if got, want := string(r.Output), "hello, world"; got != want || r.Outcome != call.Returned || r.ReturnCode != 7 {
			t.Fatalf("got %q, %v, %d; want %q, returned, 7", got, r.Outcome, r.ReturnCode, want)
		}
	}
}

// Every way in which a guest can end by itself.
func TestRun_outcomes(t *testing.T) {
	for _, tt := range []struct {
		name    string
		wat     string
		outcome call.Outcome
		code    int32
		message string // contained in the failure's
		frame   string // the innermost function's name
	}{
		{"unreachable", `(module (func $inner unreachable) (func (export "faasm_call") (result i32) (call $inner) (i32.const 0)))`,
			call.Trapped, 0, "unreachable code reached", "inner"},
		{"read out of bounds", `(module (memory 1) (func (export "faasm_call") (result i32) (i32.load (i32.const 65533))))`,
			call.Trapped, 0, "out of bounds memory access", ""},
		{"read far out of bounds", `(module (memory 1) (func (export "faasm_call") (result i32) (i32.load offset=4294967292 (i32.const -1))))`,
			call.Trapped, 0, "out of bounds memory access", ""},
		{"write without memory", `(module (func (export "faasm_call") (result i32) (i32.div_u (i32.const 1) (i32.const 0))))`,
			call.Trapped, 0, "divide by zero", ""},
		{"fill past the end", `(module (memory 1) (func (export "faasm_call") (result i32) (memory.fill (i32.const 1) (i32.const 7) (i32.const 65536)) (i32.const 0)))`,
			call.Trapped, 0, "out of bounds memory access", ""},
		{"null function pointer", `(module (type $t (func)) (table 4 funcref) (func (export "faasm_call") (result i32) (call_indirect (type $t) (i32.const 2)) (i32.const 0)))`,
			call.Trapped, 0, "null function pointer", ""},
		{"function pointer of another type", `(module (type $t (func (param i64))) (table 1 funcref) (elem (i32.const 0) $f) (func $f) (func (export "faasm_call") (result i32) (call_indirect (type $t) (i64.const 0) (i32.const 0)) (i32.const 0)))`,
			call.Trapped, 0, "another type", ""},
		{"recursion without end", `(module (func $f (export "faasm_call") (result i32) (i32.add (i32.const 1) (call $f))))`,
			call.Trapped, 0, "call stack exhausted", "f"},
		{"exit", `(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32))) (memory 1) (func (export "_start") (call $exit (i32.const 3)) unreachable))`,
			call.Returned, 3, "", ""},
		{"exit with a negative code", `(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32))) (memory 1) (func (export "_start") (call $exit (i32.const -1))))`,
			call.Returned, -1, "", ""},
		{"command that returns", `(module (func (export "_start")))`, call.Returned, 0, "", ""},
		{"main as a reactor", `(module (func (export "_initialize")) (func (export "__main_void") (result i32) (i32.const 5)))`,
			call.Returned, 5, "", ""},
		{"initialisation without a result", `(module (memory 1) (func (export "faasm_init") (i32.store (i32.const 0) (i32.const 11))) (func (export "faasm_call") (result i32) (i32.load (i32.const 0))))`,
			call.Returned, 11, "", ""},
		{"start function", `(module (memory 1) (func $s (i32.store (i32.const 0) (i32.const 13))) (start $s) (func (export "faasm_call") (result i32) (i32.load (i32.const 0))))`,
			call.Returned, 13, "", ""},
		{"constructors, then zygote", `(module (global $g (mut i32) (i32.const 1)) (func (export "_initialize") (global.set $g (i32.mul (global.get $g) (i32.const 3))))
			(func (export "_faasm_zygote") (result i32) (global.set $g (i32.add (global.get $g) (i32.const 2))) (i32.const 0)) (func (export "faasm_call") (result i32) (global.get $g)))`,
			call.Returned, 5, "", ""},
		{"memory refused, then abort", `(module (memory 1) (func (export "faasm_call") (result i32) (if (i32.eq (memory.grow (i32.const 1000)) (i32.const -1)) (then unreachable)) (i32.const 0)))`,
			call.MemoryLimit, 0, "memory limit of 16384 KiB reached", ""},
		{"memory refused and minded", `(module (memory 1) (func (export "faasm_call") (result i32) (memory.grow (i32.const 1000))))`,
			call.Returned, -1, "", ""},
		{"memory up to the limit", `(module (memory 1) (func (export "faasm_call") (result i32)
			(drop (memory.grow (i32.const 255))) (i32.store (i32.const 16777212) (i32.const 1)) (memory.grow (i32.const 1))))`,
			call.Returned, -1, "", ""},
		{"table without end", `(module (table 1 funcref) (func (export "faasm_call") (result i32) (loop $l (br_if $l (i32.ne (table.grow (ref.null func) (i32.const 100000)) (i32.const -1)))) (table.size)))`,
			call.Returned, 900001, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := build(t, newRuntime(t), tt.wat)
			for range 2 {
				r := runOnce(t, c, request(""))
				if r.Outcome != tt.outcome || r.ReturnCode != tt.code {
					t.Fatalf("got %v with %d (%+v); want %v with %d", r.Outcome, r.ReturnCode, r.Failure, tt.outcome, tt.code)
				}
				if tt.outcome == call.Returned {
					continue
				}
				if !strings.Contains(r.Failure.Message, tt.message) {
					t.Errorf("message %q; want %q in it", r.Failure.Message, tt.message)
				}
				if tt.frame != "" && (len(r.Failure.Backtrace) == 0 || r.Failure.Backtrace[0].FuncName != tt.frame) {
					t.Errorf("backtrace %+v; want %s innermost", r.Failure.Backtrace, tt.frame)
				}
			}
		})
	}
}

// runaways never end by themselves.
var runaways = []struct{ name, wat string }{
	{"spin", `(module (func (export "faasm_call") (result i32) (loop $l (br $l)) (i32.const 0)))`},
	{"spin over memory", `(module (memory 1) (func (export "faasm_call") (result i32) (loop $l (i32.store (i32.const 0) (i32.add (i32.const 1) (i32.load (i32.const 0)))) (br $l)) (i32.const 0)))`},
	{"fill", `(module (memory 256) (func (export "faasm_call") (result i32) (loop $l (memory.fill (i32.const 0) (i32.const 1) (i32.const 16777216)) (br $l)) (i32.const 0)))`},
	{"copy", `(module (memory 256) (func (export "faasm_call") (result i32) (loop $l (memory.copy (i32.const 0) (i32.const 8) (i32.const 16777200)) (br $l)) (i32.const 0)))`},
	{"tail calls", `(module (func $f (export "faasm_call") (result i32) (return_call $f)))`},
	{"mutual tail calls through a table", `(module (type $t (func (result i32))) (table 2 funcref) (elem (i32.const 0) $f $g)
		(func $f (export "faasm_call") (result i32) (return_call_indirect (type $t) (i32.const 1))) (func $g (result i32) (return_call_indirect (type $t) (i32.const 0))))`},
	{"recursion without depth", `(module (func $f (param i32) (if (local.get 0) (then (call $f (i32.sub (local.get 0) (i32.const 1))) (call $f (i32.sub (local.get 0) (i32.const 1))))))
		(func (export "faasm_call") (result i32) (call $f (i32.const 100)) (i32.const 0)))`},
	{"host calls", `(module (import "wasi_snapshot_preview1" "sched_yield" (func $y (result i32))) (memory 1) (func (export "faasm_call") (result i32) (loop $l (drop (call $y)) (br $l)) (i32.const 0)))`},
	{"host calls in Go", `(module (import "faasm" "cancel_call" (func $y (param i32) (result i32))) (memory 1) (func (export "faasm_call") (result i32) (loop $l (drop (call $y (i32.const 0))) (br $l)) (i32.const 0)))`},
	{"random without end", `(module (import "wasi_snapshot_preview1" "random_get" (func $r (param i32 i32) (result i32))) (memory 256) (func (export "faasm_call") (result i32) (loop $l (drop (call $r (i32.const 0) (i32.const 16777216))) (br $l)) (i32.const 0)))`},
	{"sleep", `(module (import "wasi_snapshot_preview1" "poll_oneoff" (func $p (param i32 i32 i32 i32) (result i32))) (memory 1)
		(func (export "faasm_call") (result i32) (i64.store (i32.const 24) (i64.const 3600000000000)) (call $p (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128))))`},
	{"await a call that hangs", `(module (import "faasm" "chain_call" (func $c (param i32 i32 i32 i32 i32) (result i32))) (import "faasm" "await_call" (func $a (param i32 i32) (result i32)))
		(memory 1) (data (i32.const 0) "hang") (func (export "faasm_call") (result i32) (drop (call $c (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 8))) (call $a (i32.load (i32.const 8)) (i32.const 16))))`},
	{"hang inside the guest's malloc", `(module (import "env" "__faasm_chain_name" (func $c (param i32 i32 i32) (result i32))) (import "env" "__faasm_await_call_output" (func $a (param i32 i32 i32) (result i32)))
		(memory 1) (data (i32.const 0) "four\00hang\00") (func (export "malloc") (param i32) (result i32) (loop $l (br $l)) (i32.const 0))
		(func (export "faasm_call") (result i32) (call $a (call $c (i32.const 0) (i32.const 0) (i32.const 0)) (i32.const 16) (i32.const 20))))`},
	{"block inside the guest's malloc", `(module (import "env" "__faasm_chain_name" (func $c (param i32 i32 i32) (result i32))) (import "env" "__faasm_await_call" (func $w (param i32) (result i32))) (import "env" "__faasm_await_call_output" (func $a (param i32 i32 i32) (result i32)))
		(memory 1) (data (i32.const 0) "four\00hang\00") (func (export "malloc") (param i32) (result i32) (call $w (call $c (i32.const 5) (i32.const 0) (i32.const 0))))
		(func (export "faasm_call") (result i32) (call $a (call $c (i32.const 0) (i32.const 0) (i32.const 0)) (i32.const 16) (i32.const 20))))`},
}

// A deadline stops each kind of runaway, and the region serves the next call.
func TestRun_deadlineStopsRunaways(t *testing.T) {
	rt := newRuntime(t)
	for _, tt := range runaways {
		t.Run(tt.name, func(t *testing.T) {
			c := buildLimited(t, rt, tt.wat, Limits{MemoryMax: 16 << 20, Timeout: 10 * time.Millisecond})
			for range 3 {
				r := runOnce(t, c, request(""))
				if r.Outcome != call.DeadlineExceeded || !strings.Contains(r.Failure.Message, "stopped after 10ms") {
					t.Fatalf("got %v, %+v; want deadline", r.Outcome, r.Failure)
				}
			}
		})
	}
}

// Many guests are cancelled at any moment of their lives, while others run to their end
// in the same regions: each tells the truth about itself, and no gate stays shut.
func TestRun_cancelAtAnyMoment(t *testing.T) {
	rt := newRuntime(t)
	spin := buildLimited(t, rt, runaways[1].wat, Limits{MemoryMax: 16 << 20, Timeout: time.Minute})
	good := build(t, rt, echo)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 150 {
				cl := request("")
				time.AfterFunc(time.Duration((g*7+i*13)%300)*time.Microsecond, func() { cl.Cancel(call.Cancelled) })
				if r := runOnce(t, spin, cl); r.Outcome != call.Cancelled {
					t.Errorf("spin ended as %v, %+v", r.Outcome, r.Failure)
				}
				if r := runOnce(t, good, request("x")); r.Outcome != call.Returned || string(r.Output) != "hello, x" {
					t.Errorf("echo ended as %v with %q, %+v", r.Outcome, r.Output, r.Failure)
				}
			}
		})
	}
	wg.Wait()
}

// A guest that waits comes back as data, and goes on on another goroutine; or, if its call
// is cancelled, ends.
func TestFaaslet_Run_waits(t *testing.T) {
	rt := openRuntime(t, Options{IdleMax: 1}) // so that the next Faaslet has the same region
	c := build(t, rt, `(module (import "wasi_snapshot_preview1" "poll_oneoff" (func $p (param i32 i32 i32 i32) (result i32))) (memory 1)
		(func (export "faasm_call") (result i32)
		  (i64.store (i32.const 24) (i64.const 1000000000000))
		  (drop (call $p (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
		  (i64.store (i32.const 24) (i64.const 5))
		  (drop (call $p (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
		  (i32.load (i32.const 128))))`)
	for _, cancelled := range []bool{false, true} {
		cl := request("")
		f := c.Start(cl, world())
		w := f.Run()
		if w == nil || w.For != 1000*time.Second || len(w.Calls) != 0 {
			t.Fatalf("waits for %+v (%+v); want 1000s", w, f.Result())
		}
		if cancelled {
			cl.Cancel(call.Cancelled)
			f.Interrupt()
		}
		second := make(chan *call.Wait)
		go func() { second <- f.Run() }()
		w = <-second
		if !cancelled {
			if w == nil || w.For != 5 {
				t.Fatalf("waits for %+v (%+v) then; want 5ns", w, f.Result())
			}
			w = f.Run()
		}
		if w != nil {
			t.Fatalf("waits for %+v; want the end", w)
		}
		r := f.Result()
		if cancelled && r.Outcome != call.Cancelled || !cancelled && (r.Outcome != call.Returned || r.ReturnCode != 1 || r.Usage.HostCalls != 2) {
			t.Errorf("cancelled %v: %+v %+v", cancelled, r, r.Failure)
		}
		if r.Usage.CPU >= r.Usage.Wall {
			t.Errorf("%v of CPU in %v, part of which it waited", r.Usage.CPU, r.Usage.Wall)
		}
		if _, err := f.Clean(); err != nil {
			t.Error(err)
		}
		next := c.Start(request(""), world())
		if next.region != f.region {
			t.Fatal("the next Faaslet has another region, so this shows nothing")
		}
		f.Interrupt() // too late, and must not stop who has the region now
		if w := next.Run(); w == nil {
			t.Errorf("the region's next Faaslet ended as %+v", next.Result().Failure)
		}
		next.guest.Call.Cancel(call.Cancelled)
		next.Run()
		if _, err := next.Clean(); err != nil {
			t.Error(err)
		}
	}
}

// A call cancelled before it runs does not run.
func TestRun_cancelledBefore(t *testing.T) {
	c := build(t, newRuntime(t), echo)
	cl := request("")
	cl.Cancel(call.DeadlineExceeded)
	r, remains := c.Run(cl, world())
	if r.Outcome != call.DeadlineExceeded || remains.region != nil {
		t.Errorf("got %v; want deadline, and no region taken", r.Outcome)
	}
}

// Nothing of one call is visible to the next: memory, grown memory, globals, tables.
func TestRun_nothingIsLeftForTheNext(t *testing.T) {
	rt := newRuntime(t)
	c := build(t, rt, `(module
	  (import "faasm" "read_call_input" (func $in (param i32 i32 i32) (result i32)))
	  (memory 2)
	  (global $g (mut i32) (i32.const 0))
	  (table $t 2 8 funcref)
	  (elem declare func $f)
	  (func $f)
	  ;; returns 0 if everything is as at the start, else what is not; then spoils it all
	  (func (export "faasm_call") (result i32) (local $i i32)
	    (if (global.get $g) (then (return (i32.const 1))))
	    (if (i32.eqz (ref.is_null (table.get $t (i32.const 1)))) (then (return (i32.const 2))))
	    (if (i32.ne (table.size $t) (i32.const 2)) (then (return (i32.const 3))))
	    (if (i32.ne (memory.size) (i32.const 2)) (then (return (i32.const 4))))
	    (drop (memory.grow (i32.const 6)))
	    (loop $l
	      (if (i64.ne (i64.load (local.get $i)) (i64.const 0)) (then (return (i32.const 5))))
	      (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 8))) (i32.const 524288))))
	    (memory.fill (i32.const 0) (i32.const 0xab) (i32.const 524288))
	    (global.set $g (i32.const 7))
	    (table.set $t (i32.const 1) (ref.func $f))
	    (drop (table.grow $t (ref.func $f) (i32.const 3)))
	    (drop (call $in (i32.const 0) (i32.const 1) (i32.const 8)))
	    (if (i32.load8_u (i32.const 0)) (then unreachable))
	    (i32.const 0)))`)
	for i := range 200 {
		input := "\x00"
		if i%3 == 2 {
			input = "\x01" // dies
		}
		r := runOnce(t, c, request(input))
		want := call.Returned
		if i%3 == 2 {
			want = call.Trapped
		}
		if r.Outcome != want || r.ReturnCode != 0 {
			t.Fatalf("run %d: %v with %d, %+v", i, r.Outcome, r.ReturnCode, r.Failure)
		}
	}
}

// chain_func runs a function of the table, with the module's memory and not the caller's.
func TestRun_tableEntry(t *testing.T) {
	c := build(t, newRuntime(t), `(module (memory 1) (table 3 funcref) (elem (i32.const 1) $f $bad)
	  (func $f (result i32) (i32.add (i32.const 40) (i32.load (i32.const 0)))) (func $bad (param i32))
	  (func (export "faasm_call") (result i32) (i32.store (i32.const 0) (i32.const 1)) (i32.const 0)))`)
	for _, tt := range []struct {
		index   uint32
		outcome call.Outcome
		code    int32
	}{{0, call.Trapped, 0}, {2, call.Trapped, 0}, {3, call.Trapped, 0}, {1 << 31, call.Trapped, 0}, {1, call.Returned, 40}} {
		cl := call.New(&call.Request{ID: call.NewID(), Tenant: "t", Function: "f", Entry: call.Entry{Table: true, Index: tt.index}}, nil)
		if r := runOnce(t, c, cl); r.Outcome != tt.outcome || r.ReturnCode != tt.code {
			t.Errorf("index %d: %v with %d, %+v; want %v with %d", tt.index, r.Outcome, r.ReturnCode, r.Failure, tt.outcome, tt.code)
		}
	}
}

// What an author is told when an upload can't be a function.
func TestBuild_errors(t *testing.T) {
	rt := newRuntime(t)
	for _, tt := range []struct {
		name, wat string
		step      Step
		message   string
	}{
		{"no entry", `(module (func (export "helper")))`, StepEntry, "exports neither faasm_call nor _start (it exports helper)"},
		{"entry of another type", `(module (func (export "faasm_call") (param i32) (result i32) (i32.const 0)))`, StepEntry, "export faasm_call is a function (i32) -> (i32); it must be () -> (i32)"},
		{"unknown module", `(module (import "gpu" "launch" (func)) (func (export "_start")))`, StepLink, `import gpu.launch: there is no host module "gpu"`},
		{"unknown function", `(module (import "faasm" "launch" (func)) (func (export "_start")))`, StepLink, "import faasm.launch: the host interface has no such function"},
		{"import of another type", `(module (import "faasm" "cancel_call" (func)) (func (export "_start")))`, StepLink, "import faasm.cancel_call: the module takes it for () -> (), but it is (i32) -> (i32)"},
		{"memory above the limit", `(module (memory 257) (func (export "_start")))`, StepLimit, "begins with 16448 KiB, and its limit is 16384 KiB"},
		{"two memories", `(module (memory 1) (memory 1) (func (export "_start")))`, StepPrepare, "memor"},
		{"does not validate", "", StepPrepare, ""},
		{"body does not validate", "\x00asm\x01\x00\x00\x00\x01\x05\x01\x60\x00\x01\x7f\x03\x02\x01\x00\x07\x0e\x01\x0afaasm_call\x00\x00\x0a\x04\x01\x02\x00\x0b", StepValidate, "type mismatch"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bin := []byte(tt.wat)
			if strings.HasPrefix(tt.wat, "(") {
				var err error
				if bin, err = engine.FromText(tt.wat); err != nil {
					t.Fatal(err)
				}
			}
			_, err := rt.Build(bin, Limits{MemoryMax: 16 << 20, Timeout: time.Second})
			var b *BuildError
			if !errors.As(err, &b) || b.Step != tt.step || !strings.Contains(err.Error(), tt.message) {
				t.Errorf("got %v (%+v); want step %s, %q", err, b, tt.step, tt.message)
			}
		})
	}
}

// A guest that never returned leaves its region to the next, and a closed runtime leaves
// neither threads, nor descriptors, nor mappings.
func TestRuntime_Close_leavesNothing(t *testing.T) {
	cycle := func() {
		rt, err := NewRuntime(Options{})
		if err != nil {
			t.Fatal(err)
		}
		bin, err := engine.FromText(runaways[0].wat)
		if err != nil {
			t.Fatal(err)
		}
		c, err := rt.Build(bin, Limits{MemoryMax: 16 << 20, Timeout: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			runOnce(t, c, request(""))
		}
		if err := errors.Join(c.Close(), rt.Close()); err != nil {
			t.Fatal(err)
		}
	}
	cycle()
	files, _ := linux.OpenFiles()
	maps, _ := linux.Maps()
	for range 10 {
		cycle()
	}
	filesAfter, _ := linux.OpenFiles()
	mapsAfter, _ := linux.Maps()
	if filesAfter > files {
		t.Errorf("descriptors went from %d to %d", files, filesAfter)
	}
	if mapsAfter > maps+20 { // malloc's arenas and Go's heap come and go
		t.Errorf("mappings went from %d to %d", maps, mapsAfter)
	}
}

const noop = `(module (memory 2) (func (export "faasm_call") (result i32) (i32.store (i32.const 70000) (i32.const 1)) (i32.const 0)))`

func BenchmarkRun_noop(b *testing.B) {
	c := build(b, newRuntime(b), noop)
	w := world()
	for b.Loop() {
		r, remains := c.Run(request(""), w)
		if r.Outcome != call.Returned {
			b.Fatal(r.Failure)
		}
		remains.Clean()
	}
}

func BenchmarkRun_noopParallel(b *testing.B) {
	c := build(b, newRuntime(b), noop)
	b.RunParallel(func(pb *testing.PB) {
		w := world()
		for pb.Next() {
			_, remains := c.Run(request(""), w)
			remains.Clean()
		}
	})
}

// What of a run is the engine's, and how it scales over the cores.
func BenchmarkBare(b *testing.B) {
	c := build(b, newRuntime(b), noop)
	for b.Loop() {
		if err := c.Bare(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBareParallel(b *testing.B) {
	c := build(b, newRuntime(b), noop)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := c.Bare(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
