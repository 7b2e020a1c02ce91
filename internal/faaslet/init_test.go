package faaslet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/proto"
	"github.com/faasm-go/faasm/internal/seal"
	"github.com/faasm-go/faasm/internal/vmem"
	"github.com/faasm-go/faasm/internal/wasm"
)

var testLimits = Limits{MemoryMax: 16 << 20, Timeout: 30 * time.Second}

// compile compiles a module in the text format.
func compile(t testing.TB, rt *Runtime, wat string) *Code {
	t.Helper()
	return closed(t)(rt.Compile(assemble(t, wat), testLimits))
}

func initialise(t testing.TB, c *Code, timeout time.Duration) (*proto.File, call.Result) {
	t.Helper()
	p, r, err := c.Initialise(request("not to be seen"), timeout, nil)
	if err != nil {
		t.Fatal(err)
	}
	if p != nil {
		t.Cleanup(func() { p.Close() })
	}
	return p, r
}

// elsewhere takes code and its Proto-Faaslet to another runtime, as bytes.
func elsewhere(t testing.TB, c *Code, p *proto.File) *Code {
	t.Helper()
	artefact, err := c.Artefact()
	if err != nil {
		t.Fatal(err)
	}
	var sent bytes.Buffer
	if err := p.Encode(&sent); err != nil {
		t.Fatal(err)
	}
	c = closed(t)(newRuntime(t).Load(artefact, testLimits))
	p, err = proto.Decode(&sent, proto.DecodeOptions{MemoryMax: testLimits.MemoryMax})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := c.StartFrom(p); err != nil {
		t.Fatal(err)
	}
	return c
}

// captured initialises all that a snapshot has to hold, and returns from its entry point
// the number of the first thing that is not as initialisation left it, or 0.
const captured = `(module
  (memory 1 20)
  (data (i32.const 16) "data")
  (data $passive "passive")
  (data $kept "kept")
  (global $i32 (mut i32) (i32.const 1))
  (global $i64 (mut i64) (i64.const 1))
  (global $f32 (mut f32) (f32.const 1))
  (global $f64 (mut f64) (f64.const 1))
  (global $v128 (mut v128) (v128.const i64x2 1 1))
  (global $func (mut funcref) (ref.null func))
  (global $gone (mut funcref) (ref.func $one))
  (global $same (mut i32) (i32.const 77))
  (table $t 4 20 funcref)
  (table $still 2 funcref)
  (elem (table $t) (i32.const 0) func $one $one)
  (elem (table $still) (i32.const 1) func $two)
  (elem $lazy func $one $two)
  (type $int (func (result i32)))
  (func $one (result i32) (i32.const 1))
  (func $two (result i32) (i32.const 2))
  (func $secret (result i32) (i32.const 3))
  (elem declare func $secret)
  (func (export "_initialize")
    (i32.store (i32.const 1000) (i32.const 0x1234))
    (drop (memory.grow (i32.const 9)))
    (i64.store (i32.const 500000) (i64.const 0x5678)))
  (func (export "faasm_init") (result i32)
    (global.set $i32 (i32.const -2)) (global.set $i64 (i64.const -3)) (global.set $f32 (f32.const 4.5))
    (global.set $f64 (f64.const -5.25)) (global.set $v128 (v128.const i64x2 6 7))
    (global.set $func (ref.func $secret)) (global.set $gone (ref.null func)) (global.set $same (i32.const 77))
    (table.set $t (i32.const 1) (ref.null func))
    (table.set $t (i32.const 2) (ref.func $two))
    (drop (table.grow $t (ref.func $secret) (i32.const 3)))
    (table.set $t (i32.const 6) (ref.null func))
    (memory.init $passive (i32.const 2000) (i32.const 0) (i32.const 7))
    (data.drop $passive)
    (elem.drop $lazy)
    (i32.const 0))
  (func (export "probe_data") (memory.init $passive (i32.const 0) (i32.const 0) (i32.const 1)))
  (func (export "faasm_call") (result i32)
    (if (i32.ne (i32.load (i32.const 1000)) (i32.const 0x1234)) (then (return (i32.const 1))))
    (if (i32.ne (memory.size) (i32.const 10)) (then (return (i32.const 2))))
    (if (i64.ne (i64.load (i32.const 500000)) (i64.const 0x5678)) (then (return (i32.const 3))))
    (if (i32.ne (i32.load (i32.const 16)) (i32.const 0x61746164)) (then (return (i32.const 4))))
    (if (i32.ne (i32.load (i32.const 2000)) (i32.const 0x73736170)) (then (return (i32.const 5))))
    (if (i32.ne (global.get $i32) (i32.const -2)) (then (return (i32.const 6))))
    (if (i64.ne (global.get $i64) (i64.const -3)) (then (return (i32.const 7))))
    (if (f32.ne (global.get $f32) (f32.const 4.5)) (then (return (i32.const 8))))
    (if (f64.ne (global.get $f64) (f64.const -5.25)) (then (return (i32.const 9))))
    (if (i32.eqz (i64x2.all_true (i64x2.eq (global.get $v128) (v128.const i64x2 6 7)))) (then (return (i32.const 10))))
    (if (i32.eqz (ref.is_null (global.get $gone))) (then (return (i32.const 11))))
    (if (i32.ne (global.get $same) (i32.const 77)) (then (return (i32.const 12))))
    (if (i32.ne (table.size $t) (i32.const 7)) (then (return (i32.const 13))))
    (if (i32.ne (call_indirect $t (type $int) (i32.const 0)) (i32.const 1)) (then (return (i32.const 14))))
    (if (i32.eqz (ref.is_null (table.get $t (i32.const 1)))) (then (return (i32.const 15))))
    (if (i32.ne (call_indirect $t (type $int) (i32.const 2)) (i32.const 2)) (then (return (i32.const 16))))
    (if (i32.eqz (ref.is_null (table.get $t (i32.const 3)))) (then (return (i32.const 17))))
    (if (i32.ne (call_indirect $t (type $int) (i32.const 4)) (i32.const 3)) (then (return (i32.const 18))))
    (if (i32.ne (call_indirect $t (type $int) (i32.const 5)) (i32.const 3)) (then (return (i32.const 19))))
    (if (i32.eqz (ref.is_null (table.get $t (i32.const 6)))) (then (return (i32.const 20))))
    (if (i32.ne (call_indirect $still (type $int) (i32.const 1)) (i32.const 2)) (then (return (i32.const 21))))
    (table.set $t (i32.const 3) (global.get $func))
    (if (i32.ne (call_indirect $t (type $int) (i32.const 3)) (i32.const 3)) (then (return (i32.const 22))))
    (memory.init $kept (i32.const 3000) (i32.const 0) (i32.const 4)) ;; was not dropped
    ;; a dropped segment has no bytes, and no elements
    (memory.init $passive (i32.const 0) (i32.const 0) (i32.const 0))
    (table.init $t $lazy (i32.const 0) (i32.const 0) (i32.const 0))
    ;; spoil all of it for the next
    (memory.fill (i32.const 0) (i32.const 0xee) (i32.const 655360))
    (drop (memory.grow (i32.const 3)))
    (global.set $i32 (i32.const 9)) (global.set $i64 (i64.const 9)) (global.set $f32 (f32.const 9)) (global.set $f64 (f64.const 9))
    (global.set $v128 (v128.const i64x2 9 9)) (global.set $func (ref.func $one)) (global.set $gone (ref.func $two)) (global.set $same (i32.const 9))
    (table.fill $t (i32.const 0) (ref.func $two) (i32.const 7))
    (drop (table.grow $t (ref.func $one) (i32.const 5)))
    (i32.const 0)))`

func TestInitialise_capturesEverything(t *testing.T) {
	c := compile(t, newRuntime(t), captured)
	p, r := initialise(t, c, time.Minute)
	if p == nil {
		t.Fatalf("initialise: %+v", r.Failure)
	}
	far := elsewhere(t, c, p)
	if err := c.StartFrom(p); err != nil {
		t.Fatal(err)
	}
	for where, c := range map[string]*Code{"where it was initialised": c, "elsewhere": far} {
		for i := range 5 {
			if r := runOnce(t, c, request("")); r.Outcome != call.Returned || r.ReturnCode != 0 {
				t.Fatalf("%s, run %d: %v with %d, %+v", where, i, r.Outcome, r.ReturnCode, r.Failure)
			}
		}
	}
}

// What was dropped stays dropped: using it is a trap.
func TestInitialise_droppedSegmentsStayDropped(t *testing.T) {
	for _, use := range []string{
		`(memory.init $d (i32.const 0) (i32.const 0) (i32.const 1))`,
		`(table.init $t $e (i32.const 0) (i32.const 0) (i32.const 1))`,
	} {
		c := build(t, newRuntime(t), fmt.Sprintf(`(module (memory 1) (table $t 2 funcref) (data $d "xyz") (elem $e func $f) (func $f)
		  (func (export "faasm_init") (result i32) (data.drop $d) (elem.drop $e) (i32.const 0))
		  (func (export "faasm_call") (result i32) %s (i32.const 0)))`, use))
		for range 2 {
			if r := runOnce(t, c, request("")); r.Outcome != call.Trapped || !strings.Contains(r.Failure.Message, "out of bounds") {
				t.Errorf("%s: %v, %+v; want a trap", use, r.Outcome, r.Failure)
			}
		}
	}
}

// The ways in which an initialisation can fail. None leaves a region in use.
func TestInitialise_failures(t *testing.T) {
	const call0 = `(func (export "faasm_call") (result i32) (i32.const 0)))`
	for _, tt := range []struct {
		name, wat string
		outcome   call.Outcome
		message   string
		output    string
	}{
		{"trap in a constructor", `(module (func (export "__wasm_call_ctors") unreachable)` + call0, call.Trapped, "__wasm_call_ctors: unreachable code reached", ""},
		{"trap in the start function", `(module (func $s unreachable) (start $s)` + call0, call.Trapped, "faasm:start: unreachable code reached", ""},
		{"result other than 0", `(module (func (export "faasm_init") (result i32) (i32.const -9))` + call0, call.Trapped, "faasm_init returned -9", ""},
		{"exit with 0", `(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32))) (memory 1)
			(func (export "faasm_init") (result i32) (call $exit (i32.const 0)) (i32.const 0))` + call0, call.Trapped, "faasm_init exited with 0; it must return", ""},
		{"without end", `(module (func (export "_initialize") (loop $l (br $l)))` + call0, call.DeadlineExceeded, "_initialize: deadline exceeded: stopped after", ""},
		{"memory refused, then abort", `(module (memory 1) (func (export "faasm_init") (result i32)
			(if (i32.eq (memory.grow (i32.const 1000)) (i32.const -1)) (then unreachable)) (i32.const 0))` + call0, call.MemoryLimit, "memory limit of 16384 KiB reached", ""},
		{"chaining in upstream's dialect", `(module (import "env" "__faasm_chain_name" (func $c (param i32 i32 i32) (result i32))) (memory 1)
			(func (export "_faasm_zygote") (result i32) (call $c (i32.const 0) (i32.const 0) (i32.const 0)))` + call0, call.Trapped, "env.__faasm_chain_name is not available during initialisation", ""},
		{"words, then a trap", `(module (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32))) (memory 1)
			(data (i32.const 0) "\08\00\00\00\05\00\00\00oh no")
			(func (export "faasm_init") (result i32) (drop (call $w (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 20))) unreachable)` + call0, call.Trapped, "unreachable", "oh no"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rt := newRuntime(t)
			c := compile(t, rt, tt.wat)
			p, r := initialise(t, c, 20*time.Millisecond)
			if p != nil || r.Outcome != tt.outcome || r.Failure == nil || !strings.Contains(r.Failure.Message, tt.message) || string(r.Output) != tt.output {
				t.Errorf("got %v, %+v, output %q; want %v, %q, %q", r.Outcome, r.Failure, r.Output, tt.outcome, tt.message, tt.output)
			}
			if n := rt.arena.Bound(); n != 0 {
				t.Errorf("%d regions are bound afterwards", n)
			}
		})
	}
}

func TestInitialise_canBeCancelled(t *testing.T) {
	c := compile(t, newRuntime(t), `(module (func (export "faasm_init") (loop $l (br $l))) (func (export "faasm_call") (result i32) (i32.const 0)))`)
	cl := request("")
	time.AfterFunc(5*time.Millisecond, func() { cl.Cancel(call.Cancelled) })
	if p, r, err := c.Initialise(cl, time.Hour, nil); p != nil || err != nil || r.Outcome != call.Cancelled {
		t.Errorf("got %v, %v, %v; want cancelled", p, r.Outcome, err)
	}
}

// lucky keeps 16 random bytes, the clock and the size of its input from its
// initialisation, and outputs them together with new ones.
const lucky = `(module
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
  (import "faasm" "read_call_input" (func $in (param i32 i32 i32) (result i32)))
  (import "faasm" "write_call_output" (func $out (param i32 i32) (result i32)))
  (memory 1)
  (func $draw (param $at i32)
    (drop (call $random (local.get $at) (i32.const 16)))
    (drop (call $clock (i32.const 0) (i64.const 0) (i32.add (local.get $at) (i32.const 16))))
    (drop (call $clock (i32.const 1) (i64.const 0) (i32.add (local.get $at) (i32.const 24))))
    (drop (call $in (i32.const 200) (i32.const 100) (i32.add (local.get $at) (i32.const 32)))))
  (func (export "faasm_init") (call $draw (i32.const 0)))
  (func (export "faasm_call") (result i32)
    (call $draw (i32.const 40))
    (call $out (i32.const 0) (i32.const 80))))`

type draw struct {
	random          string
	realtime, clock uint64
	input           uint32
}

func draws(t *testing.T, r call.Result) (initial, fresh draw) {
	t.Helper()
	if r.Outcome != call.Returned || len(r.Output) != 80 {
		t.Fatalf("%v, %+v, output %q", r.Outcome, r.Failure, r.Output)
	}
	at := func(b []byte) draw {
		return draw{string(b[:16]), binary.LittleEndian.Uint64(b[16:]), binary.LittleEndian.Uint64(b[24:]), binary.LittleEndian.Uint32(b[32:])}
	}
	return at(r.Output[:40]), at(r.Output[40:])
}

// Two Faaslets of one Proto-Faaslet never share what they draw, and time goes on for each
// from where initialisation left it.
func TestRestore_randomAndClocksAreFresh(t *testing.T) {
	c := build(t, newRuntime(t), lucky)
	seen := map[string]int{}
	for i := range 2000 {
		initial, fresh := draws(t, runOnce(t, c, request("some input")))
		seen[initial.random]++
		seen[fresh.random]++
		if seen[fresh.random] != 1 {
			t.Fatalf("run %d drew %x, which was drawn before", i, fresh.random)
		}
		if initial.input != 0 || fresh.input != 10 {
			t.Fatalf("input of %d bytes in initialisation, and then of %d; want 0 and 10", initial.input, fresh.input)
		}
		if fresh.clock < initial.clock || fresh.clock > uint64(time.Minute) {
			t.Fatalf("the monotonic clock went from %d to %d", initial.clock, fresh.clock)
		}
		if now := uint64(time.Now().UnixNano()); fresh.realtime > now || fresh.realtime < now-uint64(time.Minute) || initial.realtime >= fresh.realtime {
			t.Fatalf("realtime went from %d to %d; now is %d", initial.realtime, fresh.realtime, now)
		}
	}
	if len(seen) != 2001 {
		t.Errorf("%d different draws; want one of initialisation and 2000 others", len(seen))
	}
}

// A module's Proto-Faaslet is the same wherever hosts share a key, whenever it is made.
func TestInitialise_isDeterministic(t *testing.T) {
	hash := func(key seal.Key) string {
		rt, err := NewRuntime(Options{Key: key})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { rt.Close() })
		p, r := initialise(t, compile(t, rt, lucky), time.Minute)
		if p == nil {
			t.Fatal(r.Failure)
		}
		return p.Hash()
	}
	key := seal.NewKey()
	first, second, other := hash(key), hash(key), hash(seal.NewKey())
	if first != second || first == other {
		t.Errorf("Proto-Faaslets %s and %s with one key, %s with another", first, second, other)
	}
}

func TestStartFrom_refuses(t *testing.T) {
	rt := newRuntime(t)
	const module = `(module (memory 2) (global (mut i32) (i32.const 0)) (global i32 (i32.const 0)) (table 1 4 funcref) (func $f) (elem declare func $f) (func $hidden)
	  (func (export "faasm_call") (result i32) (table.set 0 (i32.const 0) (ref.func $f)) (i32.const 0)))`
	good := proto.Snapshot{Module: compile(t, rt, module).Module(), MemorySize: 2 * vmem.WasmPageSize}
	for _, tt := range []struct {
		name    string
		change  func(*proto.Snapshot)
		message string
	}{
		{"other module", func(s *proto.Snapshot) { s.Module = strings.Repeat("ab", 32) }, "made from module abab"},
		{"memory beyond the limit", func(s *proto.Snapshot) { s.MemorySize = 17 << 20 }, "its memory has 17408 KiB, and the limit is 16384 KiB"},
		{"memory smaller than the module's", func(s *proto.Snapshot) { s.MemorySize = vmem.WasmPageSize }, "has 64 KiB, and the module begins with 128 KiB"},
		{"unknown global", func(s *proto.Snapshot) { s.Globals = []proto.Global{{Index: 9, Type: wasm.I32}} }, "no mutable global 9"},
		{"immutable global", func(s *proto.Snapshot) { s.Globals = []proto.Global{{Index: 1, Type: wasm.I32}} }, "no mutable global 1"},
		{"global of another type", func(s *proto.Snapshot) { s.Globals = []proto.Global{{Index: 0, Type: wasm.F64}} }, "no mutable global 0 of type f64"},
		{"unknown table", func(s *proto.Snapshot) { s.Tables = []proto.Table{{Index: 1, Size: 1}} }, "no table 1 that can change"},
		{"huge table", func(s *proto.Snapshot) { s.Tables = []proto.Table{{Index: 0, Size: 1 << 30}} }, "at most 1000000"},
		{"element beyond the table", func(s *proto.Snapshot) {
			s.Tables = []proto.Table{{Index: 0, Size: 2, Elements: []proto.Element{{Index: 2, Func: 0}}}}
		}, "element 2 of table 0"},
		{"function that is no reference", func(s *proto.Snapshot) {
			s.Tables = []proto.Table{{Index: 0, Size: 2, Elements: []proto.Element{{Index: 0, Func: 1}}}}
		}, "function 1, is not one it can have"},
		{"table smaller than the module's", func(s *proto.Snapshot) { s.Tables = []proto.Table{{Index: 0, Size: 0}} }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := good
			tt.change(&s)
			p, err := proto.Create(s, nil)
			if err != nil {
				t.Skip(err) // the format can't even say it
			}
			defer p.Close()
			c := compile(t, rt, module)
			if err := c.StartFrom(p); err == nil || !strings.Contains(err.Error(), tt.message) {
				t.Fatalf("got %v; want %q", err, tt.message)
			}
			// The code is as it was.
			right, err := proto.Create(good, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer right.Close()
			if err := c.StartFrom(right); err != nil {
				t.Fatal(err)
			}
			if r := runOnce(t, c, request("")); r.Outcome != call.Returned {
				t.Errorf("run: %v, %+v", r.Outcome, r.Failure)
			}
		})
	}
}

// A limit beyond what a region holds is refused, wherever it comes from: a function that a
// host with large regions deployed may be in the store of one with small ones.
func TestLimits_beyondTheRegion(t *testing.T) {
	bin := assemble(t, noop)
	artefact, err := build(t, newRuntime(t), noop).Artefact()
	if err != nil {
		t.Fatal(err)
	}
	for _, layout := range []vmem.Layout{vmem.FastLayout, vmem.DenseLayout} {
		rt, err := NewRuntime(Options{Layout: layout})
		if err != nil {
			t.Fatal(err)
		}
		defer rt.Close()
		for _, beyond := range []uint64{MemoryMax(layout) + 1, 4 << 30, 1 << 40, 1<<64 - 1} {
			limits := Limits{MemoryMax: beyond, Timeout: time.Second}
			if _, err := rt.Compile(bin, limits); err == nil || !strings.Contains(err.Error(), "exceeds what a Faaslet of this host can have") {
				t.Errorf("compile with a limit of %d in regions of %d: %v", beyond, layout.Reservation, err)
			}
			if _, err := rt.Load(artefact, limits); err == nil || !strings.Contains(err.Error(), "exceeds what a Faaslet of this host can have") {
				t.Errorf("load with a limit of %d in regions of %d: %v", beyond, layout.Reservation, err)
			}
		}
	}
}

func TestLoad_refuses(t *testing.T) {
	rt := newRuntime(t)
	c := build(t, rt, noop)
	artefact, err := c.Artefact()
	if err != nil {
		t.Fatal(err)
	}
	other := bytes.Clone(artefact)
	copy(other[4:], bytes.Replace(other[4:40], fmt.Appendf(nil, `"format":%d`, manifestFormat), []byte(`"format":9`), 1))
	for name, b := range map[string][]byte{
		"nothing": nil, "short": artefact[:3], "cut in the manifest": artefact[:20], "manifest longer than all": {255, 255, 255, 255, 1},
		"not JSON": {2, 0, 0, 0, '{', '{'}, "other format": other, "no code": artefact[:4+binary.LittleEndian.Uint32(artefact)],
		"code cut short": artefact[:len(artefact)/2],
	} {
		if _, err := rt.Load(b, testLimits); !errors.Is(err, ErrArtefact) {
			t.Errorf("%s: got %v; want ErrArtefact", name, err)
		}
	}
}

// Many tenants' functions run in turn in the regions of one runtime, each with a pattern of
// its own in memory, globals and tables, and look for any other's.
func TestRun_nothingIsLeft_amongTenants(t *testing.T) {
	rt, err := NewRuntime(Options{IdleMax: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rt.Close() })
	// Its memory is its mark, from initialisation on; a call finds only that, in what it
	// has and in what it grows by, and leaves another mark.
	const tenant = `(module
	  (memory 1 8) (global $g (mut i64) (i64.const %[1]d)) (table $t 4 9 funcref) (func $f) (func $h (result i32) (i32.const 0)) (elem declare func $f $h)
	  (func $fill (param $mark i64) (local $i i32) (loop $l
	    (i64.store (local.get $i) (local.get $mark))
	    (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 8))) (i32.shl (memory.size) (i32.const 16))))))
	  (func (export "faasm_init") (call $fill (i64.const %[1]d)) (table.fill $t (i32.const 0) (ref.func $f) (i32.const 2)))
	  (func (export "faasm_call") (result i32) (local $i i32)
	    (loop $l
	      (if (i64.ne (i64.load (local.get $i)) (i64.const %[1]d)) (then (return (i32.const 1))))
	      (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 8))) (i32.const 65536))))
	    (drop (memory.grow (i32.const %[2]d)))
	    (loop $l
	      (if (i64.ne (i64.load (local.get $i)) (i64.const 0)) (then (return (i32.const 2))))
	      (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 8))) (i32.shl (memory.size) (i32.const 16)))))
	    (if (i64.ne (global.get $g) (i64.const %[1]d)) (then (return (i32.const 3))))
	    (if (ref.is_null (table.get $t (i32.const 1))) (then (return (i32.const 4))))
	    (if (i32.eqz (ref.is_null (table.get $t (i32.const 2)))) (then (return (i32.const 5))))
	    (if (i32.ne (table.size $t) (i32.const 4)) (then (return (i32.const 6))))
	    (call $fill (i64.const 0x5ec2e75ec2e7))
	    (global.set $g (i64.const 0x5ec2e7))
	    (drop (table.grow $t (ref.func $h) (i32.const 2)))
	    (table.fill $t (i32.const 0) (ref.null func) (i32.const 2))
	    (table.set $t (i32.const 2) (ref.func $h))
	    (i32.const 0)))`
	var codes []*Code
	for i := range 12 {
		codes = append(codes, build(t, rt, fmt.Sprintf(tenant, 0x0101010101010101*(i+1), 1+i%5)))
	}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 1500 {
				c := codes[(i*7+g*5)%len(codes)]
				if r := runOnce(t, c, request("")); r.Outcome != call.Returned || r.ReturnCode != 0 {
					t.Errorf("run %d: %v with %d, %+v", i, r.Outcome, r.ReturnCode, r.Failure)
					return
				}
				if i%50 == 0 {
					c.Trim(0) // its regions go to whoever needs one next
				}
			}
		})
	}
	wg.Wait()
}
