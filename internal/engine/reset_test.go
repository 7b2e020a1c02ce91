package engine

import (
	"runtime"
	"syscall"
	"testing"
	"time"
)

// Numbers of each type that a guest changes, and ways not to come to an end.
const resetText = `(module
  (import "test" "answer" (func $answer (result i32)))
  (memory 1 4) (memory 1 1)
  (global $i32 (export "i32") (mut i32) (i32.const 1))
  (global $i64 (export "i64") (mut i64) (i64.const 1))
  (global $f32 (export "f32") (mut f32) (f32.const 1))
  (global $f64 (export "f64") (mut f64) (f64.const 1))
  (global $v128 (export "v128") (mut v128) (v128.const i64x2 1 1))
  (export "memory" (memory 0))
  (func (export "spoil") (result i32)
    (global.set $i32 (i32.const 5)) (global.set $i64 (i64.const 5)) (global.set $f32 (f32.const 5))
    (global.set $f64 (f64.const 5)) (global.set $v128 (v128.const i64x2 5 5))
    (i32.const 7))
  (func (export "an export whose name is longer than the engine keeps") (result i32) (i32.const 8))
  (func (export "call") (result i32) (global.set $i32 (i32.const 6)) (call $answer))
  (func (export "grow") (result i32) (memory.grow (i32.const 1)))
  (func (export "refused") (result i32) (memory.grow (i32.const 2)))
  (func (export "die") (result i32) unreachable))`

var resetGlobals = []string{"i32", "i64", "f32", "f64", "v128"}

func resettable(t *testing.T) *Module {
	m := compile(t, newEngine(t, testConfig()), resetText)
	m.SetReset(resetGlobals)
	return m
}

// After a reset all is as in a new instance, with what is restored, whatever was run.
func TestInstance_Reset(t *testing.T) {
	m := resettable(t)
	setRestore(t, m, Restore{
		Globals: []GlobalValue{
			{"i64", Value{Type: I64, Bits: bits(t, "0102030405060780")}},
			{"f32", Value{Type: F32, Bits: bits(t, "2301a0ff")}}, // a signalling NaN
			{"v128", Value{Type: V128, Bits: bits(t, "000102030405060708090a0b0c0d0eff")}},
		},
		Clock: time.Hour,
	})
	mem := newMemory(t)
	mem.Limit = mem.Size
	i := m.NewInstance(mem)
	t.Cleanup(i.Close)
	if e := i.Instantiate(); e != Finished {
		t.Fatalf("instantiate: event %d: %s", e, i.Trap().Message)
	}
	first := map[string]Value{}
	for _, g := range resetGlobals {
		v, err := i.Global(g)
		if err != nil {
			t.Fatal(err)
		}
		first[g] = v
	}
	for range 3 {
		for export, want := range map[string]uint32{
			"spoil": 7, "an export whose name is longer than the engine keeps": 8, "refused": ^uint32(0), "call": 9,
		} {
			event := i.Start(export, 1)
			if event == HostCall {
				event = i.Answer(9)
			}
			if event != Finished || uint32(i.Result()) != want {
				t.Fatalf("%s: event %d, %d; want its end and %d", export, event, uint32(i.Result()), want)
			}
			if refused := i.GrowRefused(); refused != (export == "refused") {
				t.Errorf("%s: refused to grow: %v", export, refused)
			}
			if now := i.Elapsed(); now < time.Hour || now > time.Hour+time.Minute {
				t.Errorf("%s: its clock is at %v; want an hour", export, now)
			}
			if !i.Reset() {
				t.Fatalf("%s: not reset", export)
			}
			for _, g := range resetGlobals {
				if v, err := i.Global(g); err != nil || v != first[g] {
					t.Errorf("%s: after the reset %s is %v, %v; want %v", export, g, v, err, first[g])
				}
			}
		}
	}
}

// What is not at its end, or has changed what a reset does not put back, is not reset.
func TestInstance_Reset_refuses(t *testing.T) {
	for name, run := range map[string]func(m *Module) Instance{
		"a guest that died":  func(m *Module) Instance { i := instantiate(t, m); i.Start("die", 1); return i },
		"a guest that waits": func(m *Module) Instance { i := instantiate(t, m); i.Start("call", 1); return i },
		"a memory that grew": func(m *Module) Instance { i := instantiate(t, m); i.Start("grow", 1); return i },
		"a memory that the host grew": func(m *Module) Instance {
			i := instantiate(t, m)
			if _, err := i.Grow("memory", 64<<10); err != nil {
				t.Fatal(err)
			}
			return i
		},
		"a logical clock": func(m *Module) Instance {
			i := m.NewInstance(newMemory(t))
			i.LogicalClock()
			i.Instantiate()
			return i
		},
		"one reset often enough": func(m *Module) Instance {
			i := instantiate(t, m)
			for range 1_000_000 {
				i.Start("spoil", 1)
				if !i.Reset() {
					return i
				}
			}
			return i
		},
	} {
		i := run(resettable(t))
		if i.Reset() {
			t.Errorf("%s was reset", name)
		}
		if name == "a logical clock" {
			i.Close()
		}
	}
	m := compile(t, newEngine(t, testConfig()), resetText)
	if i := instantiate(t, m); i.Reset() {
		t.Error("an instance was reset whose module may have other things that change")
	}
}

// The kernel tells of each page that a thread touches for the first time, and of none that
// it touches again.
func TestThreadFaulted(t *testing.T) {
	if !CountsFaults() {
		t.Fatal("this kernel does not count page faults")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const pages = 256
	memory, err := syscall.Mmap(-1, 0, pages*4096, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Munmap(memory)
	if err := syscall.Madvise(memory, syscall.MADV_NOHUGEPAGE); err != nil {
		t.Fatal(err)
	}
	again := 0
	ThreadFaulted()
	for page := range pages {
		memory[page*4096] = 1
		if !ThreadFaulted() {
			t.Fatalf("page %d: no fault", page)
		}
		memory[page*4096+1] = 1
		if ThreadFaulted() {
			again++ // something else, of Go's runtime
		}
	}
	if again > pages/2 {
		t.Errorf("%d faults of %d pages that were there", again, pages)
	}
}
