package engine

import (
	"encoding/binary"
	"encoding/hex"
	"math"
	"strings"
	"sync"
	"testing"
	"time"
)

// One global of each type, stored to memory by "store", and functions to refer to.
const globalsText = `(module
  (import "test" "answer" (func $answer (result i32)))
  (memory 1) (memory 1 1)
  (type $t (func (result i32)))
  (func $one (export "one") (result i32) (i32.const 1))
  (func $two (export "two") (export "deux") (result i32) (i32.const 2))
  (export "answer" (func $answer))
  (global $i32 (export "i32") (mut i32) (i32.const 1))
  (global $i64 (export "i64") (mut i64) (i64.const 1))
  (global $f32 (export "f32") (mut f32) (f32.const 1))
  (global $f64 (export "f64") (mut f64) (f64.const 1))
  (global $v128 (export "v128") (mut v128) (v128.const i64x2 1 1))
  (global $func (export "func") (mut funcref) (ref.func $one))
  (global $null (export "null") (mut funcref) (ref.null func))
  (global $extern (export "extern") (mut externref) (ref.null extern))
  (global (export "constant") i32 (i32.const 1))
  (table $t (export "table") 4 9000 funcref)
  (table $grows (export "grows") 0 funcref)
  (table $x (export "externs") 1 20 externref)
  (elem (table $t) (i32.const 0) func $one $two)
  (func (export "store") (result i32)
    (i32.store (i32.const 0) (global.get $i32))
    (i64.store (i32.const 16) (global.get $i64))
    (f32.store (i32.const 32) (global.get $f32))
    (f64.store (i32.const 48) (global.get $f64))
    (v128.store (i32.const 64) (global.get $v128))
    (ref.is_null (global.get $extern)))
  (func (export "call_func") (result i32)
    (table.set $t (i32.const 3) (global.get $func))
    (call_indirect $t (type $t) (i32.const 3)))
  (func (export "call_0") (result i32) (call_indirect $t (type $t) (i32.const 0)))
  (func (export "call_2") (result i32) (call_indirect $t (type $t) (i32.const 2)))
  (func (export "call_last") (result i32)
    (call_indirect $t (type $t) (i32.sub (table.size $t) (i32.const 1))))
  (func (export "grow") (result i32) (table.grow $grows (ref.func $two) (i32.const 3)))
  (func (export "size") (result i32) (table.size $t)))`

func bits(t *testing.T, text string) (out [16]byte) {
	t.Helper()
	if _, err := hex.Decode(out[:], []byte(text)); err != nil {
		t.Fatal(err)
	}
	return out
}

func setRestore(t *testing.T, m *Module, r Restore) {
	t.Helper()
	if err := m.SetRestore(r); err != nil {
		t.Fatal(err)
	}
}

func TestRestore_globals(t *testing.T) {
	e := newEngine(t, testConfig())
	// The floats are signalling NaNs with a payload, which arithmetic would change.
	values := map[string]Value{
		"i32":    {Type: I32, Bits: bits(t, "01000080")},
		"i64":    {Type: I64, Bits: bits(t, "0102030405060780")},
		"f32":    {Type: F32, Bits: bits(t, "2301a0ff")},
		"f64":    {Type: F64, Bits: bits(t, "452301000000f4ff")},
		"v128":   {Type: V128, Bits: bits(t, "000102030405060708090a0b0c0d0eff")},
		"extern": {Type: ExternRef},
	}
	r := Restore{Globals: []GlobalValue{
		{"func", Value{Type: FuncRef, Func: "two"}},
		{"null", Value{Type: FuncRef, Func: "answer"}},
	}}
	for name, v := range values {
		r.Globals = append(r.Globals, GlobalValue{name, v})
	}
	m := compile(t, e, globalsText)
	setRestore(t, m, r)
	i := instantiate(t, m)

	for name, want := range values {
		if got, err := i.Global(name); err != nil || got != want {
			t.Errorf("%s: got %v, %v; want %v", name, got, err, want)
		}
	}
	for name, fn := range map[string]string{"func": "two", "null": "answer"} {
		want, err := i.FuncID(fn)
		if err != nil || want == 0 {
			t.Fatalf("%s: id %d, %v", fn, want, err)
		}
		if got, err := i.GlobalFuncID(name); err != nil || got != want {
			t.Errorf("%s: got %#x, %v; want %s, which is %#x", name, got, err, fn, want)
		}
	}

	// The guest sees the same.
	if got := run(t, i, "store"); got != 1 {
		t.Errorf("the external reference is not null")
	}
	for at, name := range map[int]string{0: "i32", 16: "i64", 32: "f32", 48: "f64", 64: "v128"} {
		if got, want := [16]byte(i.Memory()[at:]), values[name].Bits; got != want {
			t.Errorf("the guest's %s is %x; want %x", name, got, want)
		}
	}
	if got := run(t, i, "call_func"); got != 2 {
		t.Errorf("the restored function returned %d; want 2", got)
	}
}

func TestRestore_nullGlobal(t *testing.T) {
	m := compile(t, newEngine(t, testConfig()), globalsText)
	setRestore(t, m, Restore{Globals: []GlobalValue{{"func", Value{Type: FuncRef}}}})
	i := instantiate(t, m)
	if id, err := i.GlobalFuncID("func"); err != nil || id != 0 {
		t.Errorf("got %#x, %v; want null", id, err)
	}
	if e := i.Start("call_func", 1); e != Trapped || i.Trap().Message != trapMessages[4] {
		t.Errorf("got event %d; want the trap of a call of null", e)
	}
}

func TestRestore_tables(t *testing.T) {
	e := newEngine(t, testConfig())
	m := compile(t, e, globalsText)
	setRestore(t, m, Restore{Tables: []TableValue{
		{"table", 9000, []TableElement{{0, ""}, {2, "answer"}, {8999, "two"}}},
		{"externs", 20, []TableElement{{19, ""}}},
		{"grows", 0, nil},
	}})
	i := instantiate(t, m)

	one, _ := i.FuncID("one")
	two, _ := i.FuncID("two")
	answer, err := i.FuncID("answer")
	if deux, _ := i.FuncID("deux"); err != nil || one == 0 || two == 0 || answer == 0 || one == two || two == answer || two != deux {
		t.Fatalf("functions are one %#x, two %#x and %#x, answer %#x, %v", one, two, deux, answer, err)
	}
	if size, err := i.TableSize("table"); err != nil || size != 9000 {
		t.Errorf("got a table of %d, %v; want 9000", size, err)
	}
	ids := make([]uintptr, 9000)
	if err := i.TableFuncIDs("table", 0, ids); err != nil {
		t.Fatal(err)
	}
	for at, got := range ids {
		want := map[int]uintptr{1: two, 2: answer, 8999: two}[at]
		if got != want {
			t.Errorf("index %d: got %#x; want %#x", at, got, want)
		}
	}
	if size, err := i.TableSize("externs"); err != nil || size != 20 {
		t.Errorf("got a table of %d, %v; want 20", size, err)
	}
	ids = []uintptr{7, 7}
	if err := i.TableFuncIDs("externs", 18, ids); err != nil || ids[0] != 0 || ids[1] != 0 {
		t.Errorf("got %v, %v; want nulls", ids, err)
	}

	if got := run(t, i, "size"); got != 9000 {
		t.Errorf("the guest's table has %d; want 9000", got)
	}
	if got := run(t, i, "call_last"); got != 2 {
		t.Errorf("the last function returned %d; want 2", got)
	}
	if e := i.Start("call_2", 1); e != HostCall || i.Host() != hostAnswer {
		t.Fatalf("got event %d; want a call of answer", e)
	}
	if e := i.Answer(5); e != Finished || i.Result() != 5 {
		t.Errorf("got event %d, result %d; want 5", e, i.Result())
	}
	if e := i.Start("call_0", 1); e != Trapped || i.Trap().Message != trapMessages[4] {
		t.Errorf("got event %d; want the trap of a call of null", e)
	}
}

// What one instance does is not seen by the next, and not by instances of a module that
// was loaded from the same artefact and has no Restore.
func TestRestore_isTheModules(t *testing.T) {
	e := newEngine(t, testConfig())
	m := compile(t, e, globalsText)
	artefact, err := m.Serialize()
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := e.Load(artefact, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fresh.Close)
	setRestore(t, m, Restore{Tables: []TableValue{{"table", 10, []TableElement{{9, "one"}}}}})

	for range 3 {
		i := instantiate(t, m)
		if got := run(t, i, "call_last"); got != 1 {
			t.Fatalf("got %d; want 1", got)
		}
		if got := run(t, i, "call_func"); got != 1 {
			t.Fatalf("got %d; want 1", got)
		}
		if got := run(t, i, "grow"); got != 0 {
			t.Fatalf("a table had %d elements before it was grown; want none", int32(got))
		}
	}
	if got := run(t, instantiate(t, fresh), "size"); got != 4 {
		t.Errorf("a table of a module without Restore has %d elements; want 4", got)
	}
}

func TestSetRestore_errors(t *testing.T) {
	global := func(name string, v Value) Restore { return Restore{Globals: []GlobalValue{{name, v}}} }
	table := func(name string, size uint64, els ...TableElement) Restore {
		return Restore{Tables: []TableValue{{name, size, els}}}
	}
	m := compile(t, newEngine(t, testConfig()), globalsText)
	for _, tt := range []struct {
		name string
		r    Restore
		want string
	}{
		{"clock before 0", Restore{Clock: -1}, "restore clock: a reading of -1 ns is out of range"},
		{"clock past its end", Restore{Clock: math.MaxInt64}, "restore clock: a reading of 9223372036854775807 ns is out of range"},
		{"no such global", global("i33", Value{}), `restore global "i33": no global is exported so`},
		{"name that ends in a zero", global("i32\x00", Value{}), `restore global "i32\x00": no global is exported so`},
		{"empty name", global("", Value{}), `restore global "": no global is exported so`},
		{"function for a global", global("one", Value{}), `restore global "one": no global is exported so`},
		{"constant", global("constant", Value{}), `restore global "constant": it can't be changed`},
		{"other number", global("i32", Value{Type: I64}), `restore global "i32": it is a i32, not a i64`},
		{"function in a number", global("i64", Value{Type: FuncRef, Func: "one"}), `restore global "i64": it is a i64, not a funcref`},
		{"name in a number", global("i64", Value{Type: I64, Func: "one"}), `restore global "i64": a i64 can't be function "one"`},
		{"other reference", global("func", Value{Type: ExternRef}), `restore global "func": it is a funcref, not a externref`},
		{"external function", global("extern", Value{Type: ExternRef, Func: "one"}), `restore global "extern": a externref can't be function "one"`},
		{"no such function", global("func", Value{Type: FuncRef, Func: "three"}), `restore global "func": no function is exported as "three"`},
		{"table as a function", global("func", Value{Type: FuncRef, Func: "table"}), `restore global "func": no function is exported as "table"`},
		{"no such table", table("tisch", 4), `restore table "tisch": no table is exported so`},
		{"global for a table", table("i32", 4), `restore table "i32": no table is exported so`},
		{"table that shrank", table("table", 3), `restore table "table": a size of 3 is not within its 4 to 9000`},
		{"table past its maximum", table("table", 9001), `restore table "table": a size of 9001 is not within its 4 to 9000`},
		{"table past ours", table("grows", 1_000_001), `restore table "grows": a size of 1000001 is not within its 0 to 1000000`},
		{"size that wraps", table("grows", 1<<32), `restore table "grows": a size of 4294967296 is not within its 0 to 1000000`},
		{"element past the end", table("table", 4, TableElement{4, ""}), `restore table "table": index 4 is beyond its 4 elements`},
		{"index that wraps", table("table", 4, TableElement{1 << 32, ""}), `restore table "table": index 4294967296 is beyond its 4 elements`},
		{"element that is not there", table("table", 4, TableElement{1, "three"}), `restore table "table": index 1: no function is exported as "three"`},
		{"function among externs", table("externs", 1, TableElement{0, "one"}), `restore table "externs": a externref can't be function "one"`},
	} {
		err := m.SetRestore(tt.r)
		if err == nil {
			t.Fatalf("%s: accepted", tt.name)
		}
		if got := err.Error(); got != tt.want {
			t.Errorf("%s:\ngot  %s\nwant %s", tt.name, got, tt.want)
		}
	}

	// After all that, the module is as it was.
	if got := run(t, instantiate(t, m), "size"); got != 4 {
		t.Errorf("got a table of %d; want 4", got)
	}
	setRestore(t, m, Restore{})
	defer func() {
		if recover() == nil {
			t.Error("a second Restore was accepted")
		}
	}()
	_ = m.SetRestore(Restore{})
}

// Growth that the host refuses ends the instance, and leaks nothing.
func TestRestore_refusedGrowth(t *testing.T) {
	m := compile(t, newEngine(t, testConfig()), globalsText)
	setRestore(t, m, Restore{Tables: []TableValue{{"table", 9000, nil}}})
	m.c.table_elements_max = 100
	i := m.NewInstance(newMemory(t))
	defer i.Close()
	if e := i.Start("size", 1); e != Trapped {
		t.Fatalf("got event %d; want Trapped", e)
	}
	if got, want := i.Trap().Message, "restore table table: "; !strings.HasPrefix(got, want) || i.Trap().Code != NoTrapCode {
		t.Errorf("got %q, code %d; want %q and the cause", got, i.Trap().Code, want)
	}
}

func TestInstance_readErrors(t *testing.T) {
	i := instantiate(t, compile(t, newEngine(t, testConfig()), globalsText))
	id := func(id uintptr, err error) error {
		if id != 0 {
			t.Errorf("got id %#x with error %v", id, err)
		}
		return err
	}
	value := func(_ Value, err error) error { return err }
	size := func(_ uint64, err error) error { return err }
	for _, tt := range []struct {
		got  error
		want string
	}{
		{id(i.FuncID("")), `read function "": no function is exported so`},
		{id(i.FuncID("table")), `read function "table": no function is exported so`},
		{value(i.Global("\xff")), `read global "\xff": no global is exported so`},
		{value(i.Global("table")), `read global "table": no global is exported so`},
		{value(i.Global("func")), `read global "func": it is a funcref`},
		{id(i.GlobalFuncID("one")), `read global "one": no global is exported so`},
		{id(i.GlobalFuncID("i32")), `read global "i32": it is a i32, not a funcref`},
		{id(i.GlobalFuncID("extern")), `read global "extern": it is a externref, not a funcref`},
		{size(i.TableSize("one")), `read table "one": no table is exported so`},
		{i.TableFuncIDs("i32", 0, make([]uintptr, 1)), `read table "i32": there is no element 0`},
		{i.TableFuncIDs("table", 3, make([]uintptr, 2)), `read table "table": there is no element 4`},
		{i.TableFuncIDs("table", math.MaxUint64, make([]uintptr, 1)), `read table "table": there is no element 18446744073709551615`},
	} {
		if tt.got == nil || tt.got.Error() != tt.want {
			t.Errorf("got %v; want %s", tt.got, tt.want)
		}
	}
	if err := i.TableFuncIDs("table", 4, nil); err != nil {
		t.Errorf("no elements at the end: %v", err)
	}
}

// Instances leave nothing behind: neither those that restored large tables nor those whose
// restore failed; nor does a module's plan.
func TestRestore_leavesNothing(t *testing.T) {
	const (
		tableBytes = 9000 * 8
		many       = 4000 // times tableBytes is 288 MB
	)
	e := newEngine(t, testConfig())
	r := Restore{
		Globals: []GlobalValue{{"func", Value{Type: FuncRef, Func: "two"}}, {"v128", Value{Type: V128}}},
		Tables:  []TableValue{{"table", 9000, []TableElement{{8999, "two"}}}},
	}
	good, bad := compile(t, e, globalsText), compile(t, e, globalsText)
	setRestore(t, good, r)
	setRestore(t, bad, r)
	bad.c.table_elements_max = 8999

	hammer := func(n int) {
		var wg sync.WaitGroup
		for range 4 {
			mem := newMemory(t)
			wg.Go(func() {
				for n := range n / 4 {
					i := good.NewInstance(mem)
					if e := i.Start("call_last", 1); e != Finished || i.Result() != 2 {
						t.Errorf("got event %d, result %d; want 2: %v", e, i.Result(), i.Trap())
					}
					i.Close()
					if n%8 == 0 {
						i := bad.NewInstance(mem)
						if e := i.Instantiate(); e != Trapped {
							t.Errorf("got event %d; want Trapped", e)
						}
						i.Close()
					}
				}
			})
		}
		wg.Wait()
	}
	plans := func(n int) {
		r := Restore{Tables: []TableValue{{"table", 9000, nil}}}
		for i := range uint64(9000) {
			r.Tables[0].Elements = append(r.Tables[0].Elements, TableElement{i, "one"})
		}
		artefact, err := good.Serialize()
		if err != nil {
			t.Fatal(err)
		}
		for range n {
			m, err := e.Load(artefact, true)
			if err != nil {
				t.Fatal(err)
			}
			setRestore(t, m, r)
			m.Close()
		}
	}
	// The first runs fill what is kept for ever: allocators' arenas, spare stacks.
	hammer(200)
	plans(20)
	before := rss(t)
	hammer(many)
	plans(1000) // of 72 kB of elements each
	if grown := rss(t) - before; grown > many*tableBytes/8 {
		t.Errorf("%d instances and 1000 plans left %d MiB behind", many, grown>>20)
	}
}

const clockText = `(module
  (import "test" "clock_time_get" (func $get (param i32 i64 i32) (result i32)))
  (memory 1) (memory 1 1)
  ;; reads the clocks 0 to 3 to addresses 0 to 24, and then the monotonic one again
  (func (export "read") (result i32)
    (i32.or (i32.or (i32.or
      (call $get (i32.const 0) (i64.const 0) (i32.const 0))
      (call $get (i32.const 1) (i64.const 0) (i32.const 8)))
      (call $get (i32.const 2) (i64.const 0) (i32.const 16)))
      (i32.or
      (call $get (i32.const 3) (i64.const 0) (i32.const 24))
      (call $get (i32.const 1) (i64.const 0) (i32.const 32)))))
  (func (export "no_clock") (result i32) (call $get (i32.const 4) (i64.const 0) (i32.const 0)))
  (func (export "no_memory") (result i32) (call $get (i32.const 1) (i64.const 0) (i32.const 65529))))`

// readClocks returns what "read" reads: realtime, then monotonic times.
func readClocks(t *testing.T, i Instance) (time.Time, [4]time.Duration) {
	t.Helper()
	if errno := run(t, i, "read"); errno != 0 {
		t.Fatalf("errno %d", errno)
	}
	var ns [5]int64
	for k := range ns {
		ns[k] = int64(binary.LittleEndian.Uint64(i.Memory()[8*k:]))
	}
	var mono [4]time.Duration
	for k := range mono {
		mono[k] = time.Duration(ns[k+1])
	}
	return time.Unix(0, ns[0]).UTC(), mono
}

func TestLogicalClock(t *testing.T) {
	m := compile(t, newEngine(t, testConfig()), clockText)
	i := m.NewInstance(newMemory(t))
	defer i.Close()
	i.LogicalClock()
	const us = time.Microsecond
	start := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

	real, mono := readClocks(t, i)
	if want := start.Add(us); !real.Equal(want) {
		t.Errorf("the first reading is %v; want %v", real, want)
	}
	if want := [4]time.Duration{2 * us, 3 * us, 4 * us, 5 * us}; mono != want {
		t.Errorf("the next are %v; want %v", mono, want)
	}
	if i.Elapsed() != 5*us || i.ClockReading() != 5*us || i.Elapsed() != 5*us {
		t.Errorf("got %v and %v from outside; want 5 us, and no reading counted", i.Elapsed(), i.ClockReading())
	}

	if errno := run(t, i, "no_clock"); errno != 28 || i.ClockReading() != 5*us {
		t.Errorf("a clock that does not exist: errno %d, reading %v; want EINVAL, and no reading", errno, i.ClockReading())
	}
	i.AdvanceClock(time.Hour)
	i.AdvanceClock(-time.Minute)
	i.AdvanceClock(math.MinInt64)
	if errno := run(t, i, "no_memory"); errno != 21 {
		t.Errorf("got errno %d; want EFAULT", errno)
	}
	real, mono = readClocks(t, i)
	if want := start.Add(time.Hour + 7*us); !real.Equal(want) || mono[0] != time.Hour+8*us {
		t.Errorf("after a sleep: got %v and %v; want %v and a microsecond more", real, mono[0], want)
	}

	// The end of time is reached, and not passed.
	i.AdvanceClock(math.MaxInt64)
	i.AdvanceClock(math.MaxInt64)
	end := i.ClockReading()
	real, mono = readClocks(t, i)
	if want := time.Unix(0, math.MaxInt64).UTC(); !real.Equal(want) || mono[3] != end || end < 200*365*24*time.Hour {
		t.Errorf("at the end: got %v and %v; want %v and %v", real, mono[3], want, end)
	}
	last := compile(t, newEngine(t, testConfig()), clockText)
	setRestore(t, last, Restore{Clock: end})
	if _, mono := readClocks(t, instantiate(t, last)); mono[0] < end {
		t.Errorf("restored from the end: got %v; want %v at least", mono[0], end)
	}
}

func TestRestore_clock(t *testing.T) {
	e := newEngine(t, testConfig())
	for _, from := range []time.Duration{0, 5 * time.Microsecond, 1000 * time.Hour} {
		m := compile(t, e, clockText)
		setRestore(t, m, Restore{Clock: from})
		before := time.Now()
		i := instantiate(t, m)
		real, mono := readClocks(t, i)
		elapsed := i.Elapsed()
		after := time.Now()
		if real.Before(before.Round(0)) || real.After(after.Round(0)) {
			t.Errorf("from %v: realtime is %v; want one between %v and %v", from, real, before, after)
		}
		last := from
		for _, now := range append(mono[:], elapsed) {
			if now < last || now > from+after.Sub(before) {
				t.Errorf("from %v: got %v then %v; want times that never run backwards, and %v at most", from, mono, elapsed, from+after.Sub(before))
			}
			last = now
		}
	}
}
