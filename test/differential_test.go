package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bytecodealliance/wasmtime-go/v39"

	"github.com/faasm-go/faasm/bench/compute"
	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/faaslet"
	"github.com/faasm-go/faasm/internal/wasm"
	"github.com/faasm-go/faasm/workloads"
)

// behaviour is what can be seen of one run.
type behaviour struct {
	output string
	code   int32
	trap   string // empty, or the engine's reason
}

// original runs a module as it was uploaded, in a plain Wasmtime with its own memories,
// stacks and WASI, and the few functions of faasm that these workloads need.
func original(t *testing.T, bin []byte, input string) behaviour {
	t.Helper()
	dir := t.TempDir()
	stdin, stdout := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	if err := os.WriteFile(stdin, []byte(input), 0o600); err != nil {
		t.Fatal(err)
	}
	engine := wasmtime.NewEngine()
	module, err := wasmtime.NewModule(engine, bin)
	if err != nil {
		t.Fatal(err)
	}
	store := wasmtime.NewStore(engine)
	wasi := wasmtime.NewWasiConfig()
	wasi.SetArgv([]string{"f"})
	if err := wasi.SetStdinFile(stdin); err != nil {
		t.Fatal(err)
	}
	if err := wasi.SetStdoutFile(stdout); err != nil {
		t.Fatal(err)
	}
	store.SetWasi(wasi)
	linker := wasmtime.NewLinker(engine)
	if err := linker.DefineWasi(); err != nil {
		t.Fatal(err)
	}
	var explicit []byte
	memory := func(c *wasmtime.Caller) []byte { return c.GetExport("memory").Memory().UnsafeData(c) }
	for name, f := range map[string]any{
		"read_call_input": func(c *wasmtime.Caller, buf, capacity, size int32) int32 {
			m := memory(c)
			copy(m[uint32(buf):uint32(buf)+uint32(capacity)], input)
			for i := range uint32(4) {
				m[uint32(size)+i] = byte(len(input) >> (8 * i))
			}
			return 0
		},
		"write_call_output": func(c *wasmtime.Caller, ptr, n int32) int32 {
			explicit = append([]byte{}, memory(c)[uint32(ptr):uint32(ptr)+uint32(n)]...)
			return 0
		},
		"append_call_output": func(c *wasmtime.Caller, ptr, n int32) int32 {
			explicit = append(explicit, memory(c)[uint32(ptr):uint32(ptr)+uint32(n)]...)
			return 0
		},
		// Linked by the SDK's library, and never called by these workloads.
		"get_call_output": func(_, _, _, _ int32) int32 { return 52 },
		"chain_call":      func(_, _, _, _, _ int32) int32 { return 52 },
		"await_call":      func(_, _ int32) int32 { return 52 },
	} {
		if err := linker.FuncWrap("faasm", name, f); err != nil {
			t.Fatal(err)
		}
	}
	var b behaviour
	instance, err := linker.Instantiate(store, module)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range []string{"_initialize", "faasm_init", "faasm_call", "_start"} {
		f := instance.GetFunc(store, entry)
		if f == nil {
			continue
		}
		result, err := f.Call(store)
		if err != nil {
			if status, ok := err.(*wasmtime.Error); ok {
				if code, ok := status.ExitStatus(); ok {
					b.code = code
					break
				}
			}
			b.trap = reason(err.Error())
			break
		}
		if code, ok := result.(int32); ok {
			b.code = code
		}
	}
	store.Close() // flushes stdout
	text, err := os.ReadFile(stdout)
	if err != nil {
		t.Fatal(err)
	}
	b.output = string(text)
	if explicit != nil {
		b.output = string(explicit)
	}
	return b
}

// reasons are pairs of the engine's words and ours for the same trap.
var reasons = [][2]string{
	{"unreachable", "unreachable"}, {"out of bounds memory access", "out of bounds memory access"},
	{"divide by zero", "divide by zero"}, {"call stack exhausted", "call stack exhausted"},
	{"indirect call type mismatch", "another type"}, {"uninitialized element", "null function pointer"},
	{"integer overflow", "integer overflow"}, {"invalid conversion", "conversion"},
}

func reason(text string) string {
	for _, r := range reasons {
		if strings.Contains(text, r[0]) || strings.Contains(text, r[1]) {
			return r[0]
		}
	}
	return text
}

// prepared runs a module as a Faaslet.
func prepared(t *testing.T, rt *faaslet.Runtime, bin []byte, input string) behaviour {
	t.Helper()
	code, err := rt.Build(bin, faaslet.Limits{MemoryMax: 1 << 30, Timeout: 5 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer code.Close()
	w := &faaslet.World{Logs: call.NewLogBuffer(call.LogBufferOptions{})}
	r, remains := code.Run(call.New(&call.Request{ID: call.NewID(), Tenant: "t", Function: "f", Input: []byte(input)}, nil), w)
	if _, err := remains.Clean(); err != nil {
		t.Fatal(err)
	}
	b := behaviour{output: string(r.Output), code: r.ReturnCode}
	if r.Outcome != call.Returned {
		b.trap = reason(r.Failure.Message)
	}
	return b
}

// A prepared module behaves as the original: same output, same code, same trap, over a
// corpus of real modules from C, C++, Go and WAT.
func TestDifferential(t *testing.T) {
	type run struct{ name, input string }
	corpus := map[string][]byte{"kernels": compute.Wasm}
	var runs []run
	for _, k := range compute.Kernels() {
		runs = append(runs, run{"kernels", string(compute.Request(k, compute.Quick, 1))})
	}
	for _, r := range []run{
		{"hello", "Ada"}, {"hello", ""}, {"noop", ""}, {"noop_cmd", ""}, {"cxx_hello", "b\na\nc\n"}, {"echo", "\x00\xff text"},
		{"counter", ""}, {"counter_init", ""}, {"init_once", ""}, {"image1", "1"},
		{"lisp", "(define (fib n) (if (< n 2) n (+ (fib (- n 1)) (fib (- n 2))))) (display (factor 600851475143)) (fib 18)"}, {"memtouch", "3000000"}, {"mandelbrot", "200 100 64"},
		{"hostile_trap", ""}, {"hostile_divzero", ""}, {"hostile_oob", ""}, {"hostile_exit3", ""}, {"hostile_recurse_stack", ""}, {"hostile_recurse_endless", ""},
	} {
		corpus[r.name] = workloads.Wasm(r.name)
		runs = append(runs, r)
	}
	for name, source := range goPrograms {
		corpus[name] = buildGo(t, source)
		runs = append(runs, run{name, "some words of input, some of them twice"})
	}

	rt, err := faaslet.NewRuntime(faaslet.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	gates := 0
	for _, r := range runs {
		want, got := original(t, corpus[r.name], r.input), prepared(t, rt, corpus[r.name], r.input)
		if r.name == "kernels" { // what follows the checksum is how long it took
			want.output, _, _ = strings.Cut(want.output, " ")
			got.output, _, _ = strings.Cut(got.output, " ")
		}
		if got != want {
			t.Errorf("%s(%.40q): prepared %+.300v; original %+.300v", r.name, r.input, got, want)
		}
	}
	for name, bin := range corpus {
		p, err := wasm.Prepare(bin, wasm.Options{})
		if err != nil {
			t.Fatal(err)
		}
		gates += p.Stats.Gates
		if name != "noop" && p.Stats.Gates == 0 && p.Stats.Loops > 0 {
			t.Errorf("%s has loops and no gate", name)
		}
	}
	t.Logf("%d runs of %d modules with %d gates", len(runs), len(corpus), gates)
}

// goPrograms use goroutines, maps, the collector and big numbers.
var goPrograms = map[string]string{
	"go_words": `package main

import (
	"bufio"
	"fmt"
	"os"
	"sort"
	"sync"
)

func main() {
	counts := map[string]int{}
	words := make(chan string)
	var wg sync.WaitGroup
	var mu sync.Mutex
	for range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for w := range words {
				mu.Lock()
				counts[w]++
				mu.Unlock()
			}
		}()
	}
	s := bufio.NewScanner(os.Stdin)
	s.Split(bufio.ScanWords)
	for s.Scan() {
		words <- s.Text()
	}
	close(words)
	wg.Wait()
	var keys []string
	for k := range counts {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		fmt.Println(k, counts[k])
	}
	if len(keys) > 3 {
		os.Exit(7)
	}
}
`,
	"go_big": `package main

import (
	"fmt"
	"math/big"
)

func main() {
	f := big.NewInt(1)
	for i := int64(1); i <= 2000; i++ {
		f.Mul(f, big.NewInt(i))
	}
	trash := make([][]byte, 0)
	for i := 0; i < 2000; i++ {
		trash = append(trash, make([]byte, 5000))
		if i%100 == 0 {
			trash = trash[:0]
		}
	}
	fmt.Println(f.String(), len(trash))
}
`,
}

func buildGo(t *testing.T, source string) []byte {
	t.Helper()
	dir := t.TempDir()
	file, out := filepath.Join(dir, "main.go"), filepath.Join(dir, "main.wasm")
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-o", out, file)
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOFLAGS=")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build for wasip1: %v\n%s", err, text)
	}
	bin, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return bin
}
