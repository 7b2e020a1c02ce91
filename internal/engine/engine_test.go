package engine

import (
	"bytes"
	"fmt"
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

// Host functions of the tests, by index.
const (
	hostAnswer = 0 // test.answer: () -> i32
	hostClock  = 1 // test.clock_time_get, which is fast
)

func testConfig() Config {
	return Config{
		Reservation: 16 << 20, Guard: 64 << 10, Stack: 1 << 20,
		Hosts: []HostFunc{
			hostAnswer: {Module: "test", Name: "answer", Results: []ValType{I32}},
			hostClock: {Module: "test", Name: "clock_time_get", Fast: ClockTimeGet,
				Params: []ValType{I32, I64, I32}, Results: []ValType{I32}},
		},
	}
}

func newEngine(t *testing.T, cfg Config) *Engine {
	t.Helper()
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

// compile makes a module of a text in the form of prepared ones: memory 1 is the gate.
func compile(t *testing.T, e *Engine, text string) *Module {
	t.Helper()
	bin, err := FromText(text)
	if err != nil {
		t.Fatal(err)
	}
	m, err := e.Compile(bin, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// newMemory maps what an instance of a module with one page of memory lives in.
func newMemory(t *testing.T) Memory { return newMemoryOf(t, testConfig()) }

func newMemoryOf(t *testing.T, cfg Config) Memory {
	t.Helper()
	const page = 64 << 10
	stack := int(cfg.Stack)
	b, err := syscall.Mmap(-1, 0, stack+int(cfg.Reservation+cfg.Guard)+page, syscall.PROT_NONE, syscall.MAP_PRIVATE|syscall.MAP_ANON|syscall.MAP_NORESERVE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Munmap(b); err != nil {
			t.Errorf("unmap: %v", err)
		}
	})
	for _, part := range [][]byte{b[:stack+page], b[len(b)-page:]} {
		if err := syscall.Mprotect(part, syscall.PROT_READ|syscall.PROT_WRITE); err != nil {
			t.Fatal(err)
		}
	}
	addr := reflect.ValueOf(b).Pointer()
	return Memory{
		Base: addr + uintptr(stack), Size: page, Limit: cfg.Reservation, Reserved: cfg.Reservation,
		Gate: addr + uintptr(len(b)-page), StackTop: addr + uintptr(stack), StackLen: uintptr(stack),
	}
}

// instantiate makes an instance of m, ready to be read and started.
func instantiate(t *testing.T, m *Module) Instance {
	t.Helper()
	i := m.NewInstance(newMemory(t))
	t.Cleanup(i.Close)
	if e := i.Instantiate(); e != Finished {
		t.Fatalf("instantiate: event %d: %s", e, i.Trap().Message)
	}
	return i
}

// run starts an export and wants it to finish.
func run(t *testing.T, i Instance, export string) uint32 {
	t.Helper()
	switch e := i.Start(export, 1); e {
	case Finished:
	case Trapped:
		t.Fatalf("%s: %s", export, i.Trap().Message)
	default:
		t.Fatalf("%s: event %d", export, e)
	}
	return uint32(i.Result())
}

func TestNew_refusesReferencesInHostFunctions(t *testing.T) {
	for _, typ := range []ValType{V128, FuncRef, ExternRef} {
		cfg := testConfig()
		cfg.Hosts[hostAnswer].Results = []ValType{typ}
		if e, err := New(cfg); err == nil {
			e.Close()
			t.Errorf("a host function with a result of type %v was accepted", typ)
		}
	}
}

func TestInstance_Instantiate(t *testing.T) {
	m := compile(t, newEngine(t, testConfig()), `(module (memory 1) (memory 1 1)
	  (global $n (export "n") (mut i32) (i32.const 7))
	  (func (export "next") (result i32)
	    (global.set $n (i32.add (global.get $n) (i32.const 1)))
	    (global.get $n)))`)

	t.Run("does not fit", func(t *testing.T) {
		mem := newMemory(t)
		mem.Size = 4096
		i := m.NewInstance(mem)
		defer i.Close()
		if e := i.Instantiate(); e != Trapped {
			t.Fatalf("got event %d; want Trapped", e)
		}
		if got, want := i.Trap().Message, "the region does not fit the module's memory"; got != want {
			t.Errorf("got %q; want %q", got, want)
		}
	})

	i := instantiate(t, m)
	if v, err := i.Global("n"); err != nil || v.Bits[0] != 7 {
		t.Errorf("got %v, %v before the start; want 7", v, err)
	}
	if got := run(t, i, "next"); got != 8 {
		t.Errorf("got %d; want 8", got)
	}
	if e := i.Instantiate(); e != Finished {
		t.Errorf("got event %d the second time; want Finished", e)
	}
	if got := run(t, i, "next"); got != 9 {
		t.Errorf("got %d; want 9: the second Instantiate made another instance", got)
	}
	if v, err := i.Global("n"); err != nil || v.Bits[0] != 9 {
		t.Errorf("got %v, %v at the end; want 9", v, err)
	}
}

const artefactText = `(module
  (import "test" "answer" (func $answer (result i32)))
  (memory 1) (memory $gate 1 1)
  (table 2 funcref) (elem (i32.const 1) $answer)
  (type $t (func (result i32)))
  (func (export "main") (result i32)
    (i32.store (i32.const 0) (i32.load8_u $gate (i32.const 0)))
    (i32.add (i32.const 2) (call_indirect (type $t) (i32.const 1)))))`

func newArtefact(t *testing.T) []byte {
	t.Helper()
	m := compile(t, newEngine(t, testConfig()), artefactText)
	artefact, err := m.Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return artefact
}

func TestLoad_runsOnAnotherEngine(t *testing.T) {
	artefact := newArtefact(t)
	m, err := newEngine(t, testConfig()).Load(artefact, false)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	clear(artefact) // the module has its own copy
	if got := m.CodeBytes(); got < 4096 || got > uint64(len(artefact))*2 {
		t.Errorf("got %d bytes of code from an artefact of %d", got, len(artefact))
	}
	i := m.NewInstance(newMemory(t))
	defer i.Close()
	if e := i.Start("main", 1); e != HostCall || i.Host() != hostAnswer {
		t.Fatalf("got event %d, host function %d; want a call of answer", e, i.Host())
	}
	if e := i.Answer(40); e != Finished || i.Result() != 42 {
		t.Errorf("got event %d, result %d; want 42", e, i.Result())
	}
}

func TestLoad_refuses(t *testing.T) {
	changed := func(old, new string) []byte {
		a := newArtefact(t)
		if n := bytes.Count(a, []byte(old)); n != 1 || len(old) != len(new) {
			t.Fatalf("%q is %d times in the artefact", old, n)
		}
		return bytes.Replace(a, []byte(old), []byte(new), 1)
	}
	// The engine's section begins: the length of the version, the version, the length of
	// the platform's name, the name. The version is the major one alone.
	a := newArtefact(t)
	at := bytes.Index(a, []byte("-unknown-linux-gnu"))
	at = bytes.LastIndex(a[:at], []byte("39"))
	if at < 0 || a[at-1] != 2 {
		t.Fatalf("there is no version in the artefact at %d", at)
	}
	otherVersion := bytes.Clone(a)
	otherVersion[at] = '4'
	feature := cpuFeatures()[0]
	wasm, err := FromText(`(module)`)
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(*Config)) Config {
		cfg := testConfig()
		change(&cfg)
		return cfg
	}

	for _, tt := range []struct {
		name     string
		artefact []byte
		cfg      Config
	}{
		{"nothing", nil, testConfig()},
		{"a module in Wasm", wasm, testConfig()},
		{"another version", otherVersion, testConfig()},
		{"another platform", changed("-unknown-linux-gnu", "-unknown-linux-gnx"), testConfig()},
		{"a feature that this processor lacks", changed(feature+"\x02\x01", feature[:len(feature)-1]+"?\x02\x01"), testConfig()},
		{"the end is missing", a[:len(a)-100], testConfig()},
		{"half is missing", a[:len(a)/2], testConfig()},
		{"one byte", a[:1], testConfig()},
		{"another reservation", a, with(func(c *Config) { c.Reservation = 4 << 30 })},
		{"another guard", a, with(func(c *Config) { c.Guard = 32 << 20 })},
		{"epochs", a, with(func(c *Config) { c.Epochs = true })},
		{"an import that the engine lacks", a, with(func(c *Config) { c.Hosts = nil })},
		{"an import of another type", a, with(func(c *Config) { c.Hosts[hostAnswer].Results = []ValType{I64} })},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := newEngine(t, tt.cfg).Load(tt.artefact, false)
			if err == nil {
				m.Close()
				t.Fatal("it was loaded")
			}
		})
	}
}

// rss is the process's resident memory in bytes.
func rss(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(text))
	var pages int64
	for _, c := range fields[1] {
		pages = 10*pages + int64(c-'0')
	}
	return pages * int64(os.Getpagesize())
}

// The engine asks for a heap, before the memories, if a module has a use for external
// references, which can only be null. The module's memories must be its own all the same.
func TestCompile_externalReferences(t *testing.T) {
	e := newEngine(t, testConfig())
	for _, tt := range []struct{ name, fields, body string }{
		{"none", ``, `(i32.const 1)`},
		{"constant global", `(global $g externref (ref.null extern))`, `(ref.is_null (global.get $g))`},
		{"parameter", `(func $f (param externref) (result i32) (ref.is_null (local.get 0)))`, `(call $f (ref.null extern))`},
		{"table", `(table $t 2 10 externref)`,
			`(table.set $t (i32.const 1) (ref.null extern))
			(table.fill $t (i32.const 0) (ref.null extern) (i32.const 2))
			(drop (table.grow $t (ref.null extern) (i32.const 8)))
			(ref.is_null (table.get $t (i32.const 9)))`},
		{"function references only", `(table 1 funcref) (global $g (mut funcref) (ref.null func))`, `(ref.is_null (global.get $g))`},
	} {
		for _, pages := range []uint32{0, 1} {
			text := fmt.Sprintf(`(module (memory $m %d) (memory $gate 1 1) %s
			  (func (export "grow") (result i32)
			    (drop (memory.grow $m (i32.const 2)))
			    (i32.store $m (i32.const 65536) (i32.const 0x12345678))
			    (i32.add (i32.mul (i32.const 100) (memory.size $m)) (memory.size $gate)))
			  (func (export "refs") (result i32) %s))`, pages, tt.fields, tt.body)
			m := compile(t, e, text)
			mem := newMemory(t)
			mem.Size = uint64(pages) * 64 << 10
			i := m.NewInstance(mem)
			defer i.Close()
			if got := run(t, i, "refs"); got != 1 {
				t.Errorf("%s, %d pages: the reference is not null", tt.name, pages)
			}
			if got, want := run(t, i, "grow"), 100*(pages+2)+1; got != want {
				t.Errorf("%s, %d pages: got sizes %d; want %d", tt.name, pages, got, want)
			}
			if got, want := i.Memory()[65536:65540], []byte{0x78, 0x56, 0x34, 0x12}; !bytes.Equal(got, want) {
				t.Errorf("%s, %d pages: got %x in memory; want %x", tt.name, pages, got, want)
			}
		}
	}
}

// growText has a function of each kind of answer that a growth could be kept from: it holds
// the memory's size and an access to it in the same function as the host call, so that code
// which kept either over the call would trap or return another sum.
const growText = `(module
  (import "test" "answer" (func $answer (result i32)))
  (memory (export "mem") 1 %s) (memory $gate 1 1)
  (func (export "nested") (result i32) (i32.mul (call $answer) (memory.size)))
  (func (export "main") (result i32) (local $n i32) (local $at i32)
    (i32.store (i32.const 65532) (i32.const 1))
    (local.set $n (memory.size))
    (local.set $at (call $answer))
    (i32.store (local.get $at) (i32.add (i32.load (local.get $at)) (i32.load (i32.const 65532))))
    (memory.fill (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 4)) (i32.const 7) (i32.const 4))
    (i32.add (i32.load (local.get $at)) (i32.add (i32.mul (i32.const 1000) (local.get $n)) (i32.mul (i32.const 100) (memory.size)))))
  (func (export "own") (result i32) (drop (call $answer)) (memory.grow (i32.const 1)))
  (func (export "beyond") (result i32) (i32.load (call $answer))))`

var growConfigs = []struct {
	name string
	cfg  func() Config
}{
	{"checked bounds", testConfig},
	{"guarded bounds", func() Config {
		cfg := testConfig()
		cfg.Reservation, cfg.Guard = 4<<30, 32<<20
		return cfg
	}},
}

func TestInstance_Grow_whileAHostCallWaits(t *testing.T) {
	const page = 64 << 10
	for _, tt := range growConfigs {
		t.Run(tt.name, func(t *testing.T) {
			cfg := tt.cfg()
			m := compile(t, newEngine(t, cfg), fmt.Sprintf(growText, ""))
			i := m.NewInstance(newMemoryOf(t, cfg))
			defer i.Close()
			if e := i.Start("main", 1); e != HostCall {
				t.Fatalf("event %d; want a host call", e)
			}
			old := i.Memory()
			at, err := i.Grow("mem", 3*page)
			if err != nil || at != page || i.Size() != 4*page || len(i.Memory()) != 4*page {
				t.Fatalf("got address %#x, size %#x, %v", at, i.Size(), err)
			}
			i.Memory()[at+8] = 34 // the host reaches it at once
			if &old[0] != &i.Memory()[0] {
				t.Error("the memory has moved")
			}

			// Once more from a host call that guest code of the first one makes.
			if e := i.CallGuest("nested"); e != HostCall {
				t.Fatalf("event %d; want a host call", e)
			}
			if at, err := i.Grow("mem", page); err != nil || at != 4*page {
				t.Fatalf("got address %#x, %v", at, err)
			}
			if e := i.Answer(10); e != GuestDone || i.Result() != 50 {
				t.Fatalf("event %d, result %d; want a memory of 5 pages", e, i.Result())
			}

			if e := i.Answer(at + 8); e != Finished {
				t.Fatalf("event %d: %s", e, i.Trap().Message)
			}
			if got, want := i.Result(), uint64(35+1000+500); got != want {
				t.Errorf("got %d; want %d", got, want)
			}
			if got := i.Memory()[5*page-4:]; !bytes.Equal(got, []byte{7, 7, 7, 7}) {
				t.Errorf("the last bytes are %v", got)
			}
			if i.GrowRefused() {
				t.Error("a growth counts as refused")
			}
			if e := i.Start("beyond", 1); e != HostCall {
				t.Fatalf("event %d; want a host call", e)
			}
			if e := i.Answer(5 * page); e != Trapped || i.Trap().Code != OutOfBounds {
				t.Errorf("a load at the memory's end: event %d; want a trap", e)
			}
		})
	}
}

func TestInstance_Grow_refused(t *testing.T) {
	const page = 64 << 10
	for _, tt := range []struct {
		name, max, export string
		delta             uint64
	}{
		{"no such memory", "", "memory", page},
		{"not a memory", "", "main", page},
		{"half a page", "", "mem", page / 2},
		{"the limit", "", "mem", 4 * page},
		{"far more than the limit", "", "mem", 1 << 40},
		{"a sum that wraps", "", "mem", 1<<64 - page},
		{"the module's own maximum", "3", "mem", 3 * page},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := compile(t, newEngine(t, testConfig()), fmt.Sprintf(growText, tt.max))
			mem := newMemory(t)
			mem.Limit = 4 * page
			i := m.NewInstance(mem)
			defer i.Close()
			if e := i.Start("own", 1); e != HostCall {
				t.Fatalf("event %d; want a host call", e)
			}
			if at, err := i.Grow(tt.export, tt.delta); err == nil {
				t.Errorf("the memory has grown at %#x", at)
			}
			if i.Size() != page || i.GrowRefused() {
				t.Errorf("size %#x, refused to the guest: %v; want nothing changed", i.Size(), i.GrowRefused())
			}
			if e := i.Answer(0); e != Finished || i.Result() != 1 || i.Size() != 2*page {
				t.Errorf("after it the guest's own growth: event %d, result %d, size %#x", e, i.Result(), i.Size())
			}
		})
	}
}

// Only what the guest asks for itself counts as refused to it.
func TestInstance_GrowRefused(t *testing.T) {
	m := compile(t, newEngine(t, testConfig()), fmt.Sprintf(growText, ""))
	mem := newMemory(t)
	mem.Limit = mem.Size
	i := m.NewInstance(mem)
	defer i.Close()
	if e := i.Start("own", 1); e != HostCall {
		t.Fatalf("event %d; want a host call", e)
	}
	if _, err := i.Grow("mem", 64<<10); err == nil || i.GrowRefused() {
		t.Errorf("growth past the limit: %v, refused to the guest: %v", err, i.GrowRefused())
	}
	if e := i.Answer(0); e != Finished || !i.GrowRefused() {
		t.Errorf("event %d; want the guest's own growth refused", e)
	}
}

func TestCompile_refusesOtherMemories(t *testing.T) {
	e := newEngine(t, testConfig())
	for _, text := range []string{
		`(module)`,
		`(module (memory 1))`,
		`(module (memory 1) (memory 1 1) (memory 1) (memory 1))`,
	} {
		bin, err := FromText(text)
		if err != nil {
			t.Fatal(err)
		}
		m, err := e.Compile(bin, false)
		if err == nil {
			m.Close()
			t.Errorf("%s: it was compiled", text)
		} else if want := "compile: a prepared module has two memories"; err.Error() != want {
			t.Errorf("%s: got %v; want %s", text, err, want)
		}
	}
}
