package daemon

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/faasm-go/faasm/client"
	"github.com/faasm-go/faasm/internal/api"
	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/engine"
	"github.com/faasm-go/faasm/internal/linux"
	"github.com/faasm-go/faasm/internal/registry/s3test"
	"github.com/faasm-go/faasm/internal/seal"
	"github.com/faasm-go/faasm/workloads"
)

func TestMain(m *testing.M) {
	code := m.Run()
	s3test.Stop()
	os.Exit(code)
}

// loads tells how functions' code came into a host's memory.
func loads(h *Host) (fromStore, compiled, initialised uint64) {
	l := &h.functions.loads
	return l[0].Load(), l[1].Load(), l[2].Load()
}

func wantLoads(t *testing.T, h *Host, store, comp, init uint64) {
	t.Helper()
	if s, c, i := loads(h); s != store || c != comp || i != init {
		t.Errorf("loaded from store %d, compiled %d, initialised %d; want %d, %d, %d", s, c, i, store, comp, init)
	}
}

func wantCounter(t *testing.T, h *Host) {
	t.Helper()
	for range 3 {
		if r := invoke(t, h, "counter_init", ""); r.Outcome != call.Returned || strings.TrimSpace(string(r.Output)) != "101" {
			t.Fatalf("counter: %v, %q, %+v; want 101", r.Outcome, r.Output, r.Failure)
		}
	}
}

func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited a minute until %s", what)
		}
	}
}

func isProblem(err error, code client.Code) bool {
	return errors.Is(err, &client.Problem{Code: code})
}

func keyFile(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "cluster.key")
	if _, err := seal.OpenKey(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// A function deployed on one host starts on another that shares store and key without
// being compiled or initialised there, and what one host does the other follows.
func TestHosts_shareAStore(t *testing.T) {
	bucket, key := s3test.Bucket(t), keyFile(t)
	opts := Options{Registry: bucket, ClusterKey: key, RegistryRefresh: 10 * time.Millisecond, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	a, early := newHost(t, opts), newHost(t, opts)
	deploy(t, a, "counter_init", api.Upload{})
	wantCounter(t, a)
	wantLoads(t, a, 0, 0, 0)
	wantCounter(t, early) // was there before the function
	wantLoads(t, early, 1, 0, 0)
	late := newHost(t, opts)
	wantCounter(t, late)
	wantLoads(t, late, 1, 0, 0)

	// A new version, a rollback on another host, a removal.
	first := version0(t, a, "counter_init")
	deploy(t, a, "echo", api.Upload{Function: "counter_init"})
	second := version0(t, a, "counter_init")
	for _, h := range []*Host{early, late} {
		until(t, "another host serves the new version", func() bool { return version0(t, h, "counter_init") == second })
		if r := invoke(t, h, "counter_init", "echoed"); string(r.Output) != "echoed" {
			t.Errorf("the new version says %q", r.Output)
		}
	}
	if _, err := late.Rollback(ctx, "t", "counter_init", ""); err != nil {
		t.Fatal(err)
	}
	for _, h := range []*Host{a, early} {
		until(t, "another host serves the old version again", func() bool { return version0(t, h, "counter_init") == first })
		wantCounter(t, h)
	}
	if err := early.Remove(ctx, "t", "counter_init"); err != nil {
		t.Fatal(err)
	}
	for _, h := range []*Host{a, late} {
		until(t, "another host forgets the function", func() bool {
			_, err := h.Function(ctx, "t", "counter_init")
			return isProblem(err, client.CodeNoSuchFunction)
		})
	}
	for _, h := range []*Host{a, early, late} {
		if _, c, i := loads(h); c+i != 0 {
			t.Errorf("a host compiled %d times and initialised %d times", c, i)
		}
	}
}

func version0(t *testing.T, h *Host, name string) string {
	t.Helper()
	f, err := h.Function(ctx, "t", name)
	if err != nil {
		t.Fatal(err)
	}
	return f.Version
}

// A host believes nothing that its key has not sealed: it makes all anew from the module,
// and keeps it, so that it does so once.
func TestHosts_withAnotherKey(t *testing.T) {
	bucket := s3test.Bucket(t)
	a := newHost(t, Options{Registry: bucket, ClusterKey: keyFile(t)})
	deploy(t, a, "counter_init", api.Upload{})
	deploy(t, a, "luck", api.Upload{})
	key := keyFile(t)
	b := newHost(t, Options{Registry: bucket, ClusterKey: key})
	wantCounter(t, b)
	if r := invoke(t, b, "luck", ""); r.Outcome != call.Returned {
		t.Errorf("luck: %+v", r.Failure)
	}
	wantLoads(t, b, 0, 0, 2)
	again := newHost(t, Options{Registry: bucket, ClusterKey: key})
	wantCounter(t, again)
	if r := invoke(t, again, "luck", ""); r.Outcome != call.Returned {
		t.Errorf("luck: %+v", r.Failure)
	}
	wantLoads(t, again, 2, 0, 0)
}

// A bit that was changed anywhere in an artefact or a Proto-Faaslet has it made anew, and
// one that is gone too. The function serves whatever happens to them.
func TestLoad_tamperedStore(t *testing.T) {
	data := t.TempDir()
	h, err := New(Options{DataDir: data})
	if err != nil {
		t.Fatal(err)
	}
	deploy(t, h, "counter_init", api.Upload{})
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	flip := func(at func(n int) int) func(b []byte) []byte {
		return func(b []byte) []byte { b[at(len(b))] ^= 4; return b }
	}
	for _, tt := range []struct {
		name                     string
		dir                      string
		change                   func([]byte) []byte // nil: the file is removed
		store, comp, initialised uint64
	}{
		{"nothing", "artefacts", func(b []byte) []byte { return b }, 1, 0, 0},
		{"artefact, first byte", "artefacts", flip(func(n int) int { return 0 }), 0, 1, 0},
		{"artefact, middle", "artefacts", flip(func(n int) int { return n / 2 }), 0, 1, 0},
		{"artefact, last byte", "artefacts", flip(func(n int) int { return n - 1 }), 0, 1, 0},
		{"artefact cut short", "artefacts", func(b []byte) []byte { return b[:len(b)/3] }, 0, 1, 0},
		{"artefact empty", "artefacts", func(b []byte) []byte { return nil }, 0, 1, 0},
		{"artefact gone", "artefacts", nil, 0, 1, 0},
		{"Proto-Faaslet, first byte", "protos", flip(func(n int) int { return 0 }), 0, 0, 1},
		{"Proto-Faaslet, middle", "protos", flip(func(n int) int { return n / 2 }), 0, 0, 1},
		{"Proto-Faaslet, last byte", "protos", flip(func(n int) int { return n - 1 }), 0, 0, 1},
		{"Proto-Faaslet cut short", "protos", func(b []byte) []byte { return b[:len(b)/3] }, 0, 0, 1},
		{"Proto-Faaslet gone", "protos", nil, 0, 0, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			changeFile(t, filepath.Join(data, "registry", tt.dir), tt.change)
			for i, want := range [][3]uint64{{tt.store, tt.comp, tt.initialised}, {1, 0, 0}} {
				h, err := New(Options{DataDir: data})
				if err != nil {
					t.Fatal(err)
				}
				wantCounter(t, h)
				if s, c, in := loads(h); [3]uint64{s, c, in} != want {
					t.Errorf("start %d: loads %d, %d, %d; want %d", i, s, c, in, want)
				}
				if err := h.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// changeFile changes the one file below dir.
func changeFile(t *testing.T, dir string, change func([]byte) []byte) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		n++
		if change == nil {
			return os.Remove(path)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(path, change(bytes.Clone(b)), 0o600)
	})
	if err != nil || n != 1 {
		t.Fatalf("changed %d files in %s: %v", n, dir, err)
	}
}

// An artefact of one module under the name of another's, sealed by the cluster itself, is
// not taken for it.
func TestLoad_swappedArtefacts(t *testing.T) {
	data := t.TempDir()
	h, err := New(Options{DataDir: data})
	if err != nil {
		t.Fatal(err)
	}
	deploy(t, h, "counter_init", api.Upload{})
	deploy(t, h, "echo", api.Upload{})
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"artefacts", "protos"} {
		var paths []string
		err := filepath.WalkDir(filepath.Join(data, "registry", dir), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				paths = append(paths, path)
			}
			return err
		})
		if err != nil || len(paths) != 2 {
			t.Fatalf("%v in %s: %v", paths, dir, err)
		}
		tmp := filepath.Join(t.TempDir(), "x")
		if err := errors.Join(os.Rename(paths[0], tmp), os.Rename(paths[1], paths[0]), os.Rename(tmp, paths[1])); err != nil {
			t.Fatal(err)
		}
	}
	h = newHost(t, Options{DataDir: data})
	wantCounter(t, h)
	if r := invoke(t, h, "echo", "mine"); string(r.Output) != "mine" {
		t.Errorf("echo says %q", r.Output)
	}
	wantLoads(t, h, 0, 0, 2)
}

// A failed initialisation leaves the version before it serving, and tells the uploader why.
func TestDeploy_initialisationFails(t *testing.T) {
	h := newHost(t, Options{InitTimeout: 50 * time.Millisecond})
	deploy(t, h, "echo", api.Upload{Function: "f"})
	for name, want := range map[string]string{
		"hostile_init_trap":    "faasm_init: unreachable code reached",
		"hostile_init_spin":    "faasm_init: deadline exceeded",
		"hostile_init_nonzero": "faasm_init returned 3",
		"hostile_init_exit":    "faasm_init exited with 4",
	} {
		_, _, err := h.Deploy(ctx, api.Upload{Tenant: "t", Function: "f", Wasm: workloads.Wasm(name)})
		var p *client.Problem
		if !errors.As(err, &p) || p.Code != client.CodeInitialisationFailed || !strings.Contains(p.Detail, want) {
			t.Errorf("%s: %v; want initialisation-failed, %q", name, err, want)
		}
		if r := invoke(t, h, "f", "still here"); string(r.Output) != "still here" {
			t.Errorf("after %s the function says %q, %+v", name, r.Output, r.Failure)
		}
	}
	if n, _ := h.functions.regions(); n != 0 {
		t.Errorf("%d regions are in use", n)
	}
}

// What a deploy tells of initialisation.
func TestDeploy_tells(t *testing.T) {
	h := newHost(t, Options{})
	info := func(name string) client.FunctionInfo {
		f, _, err := h.Deploy(ctx, api.Upload{Tenant: "t", Function: "f", Wasm: workloads.Wasm(name), MemoryBytes: 128 << 20})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	plain, printing, large := info("hello"), info("hostile_init_print"), info("image1")
	if plain.Initialised || plain.InitialiseMs != 0 || plain.InitLog != "" || plain.CompileMs <= 0 || plain.StartUs <= 0 || plain.StoredBytes <= 0 {
		t.Errorf("a function without initialisation: %+v", plain)
	}
	if !printing.Initialised || printing.InitialiseMs <= 0 || len(printing.InitLog) < 60<<10 || len(printing.InitLog) > 70<<10 {
		t.Errorf("one that prints: %d bytes of log, %+v", len(printing.InitLog), printing.Initialised)
	}
	if large.SnapshotBytes < 1<<20 || large.SnapshotBytes > 2<<20 {
		t.Errorf("one with an image of 1 MiB: a snapshot of %d bytes", large.SnapshotBytes)
	}
	if f, err := h.Function(ctx, "t", "f"); err != nil || f.InitLog != "" || f.SnapshotBytes != large.SnapshotBytes {
		t.Errorf("later: %+v, %v", f, err)
	}
}

func TestRollback(t *testing.T) {
	data := t.TempDir()
	h, err := New(Options{DataDir: data})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Rollback(ctx, "t", "f", ""); !isProblem(err, client.CodeNoSuchFunction) {
		t.Errorf("of a function that is not there: %v", err)
	}
	deploy(t, h, "echo", api.Upload{Function: "f"})
	first := version0(t, h, "f")
	if _, err := h.Rollback(ctx, "t", "f", ""); !isProblem(err, client.CodeNoPreviousVersion) {
		t.Errorf("of a first version: %v", err)
	}
	deploy(t, h, "hello", api.Upload{Function: "f"})
	second := version0(t, h, "f")
	deploy(t, h, "counter_init", api.Upload{Function: "f"})
	third := version0(t, h, "f")
	if _, err := h.Rollback(ctx, "t", "f", strings.Repeat("0", 16)); !isProblem(err, client.CodeNoSuchVersion) {
		t.Errorf("to a version that is not there: %v", err)
	}
	for _, step := range []struct{ to, want, output string }{
		{"", second, "hello, x\n"}, {"", first, "x"}, {third, third, "101"}, {third, third, "101"}, {first, first, "x"},
	} {
		f, err := h.Rollback(ctx, "t", "f", step.to)
		if err != nil || f.Version != step.want {
			t.Fatalf("to %q: %+v, %v; want %s", step.to, f.Version, err, step.want)
		}
		if r := invoke(t, h, "f", "x"); string(r.Output) != step.output {
			t.Errorf("after a rollback to %q: %q; want %q", step.to, r.Output, step.output)
		}
	}
	list, err := h.Versions(ctx, "t", "f")
	if err != nil || len(list.Versions) != 3 || list.Serving != first {
		t.Errorf("versions: %+v, %v", list, err)
	}
	if _, comp, init := loads(h); comp+init != 0 {
		t.Errorf("rolling back compiled %d times and initialised %d times", comp, init)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	h = newHost(t, Options{DataDir: data})
	if r := invoke(t, h, "f", "over a restart"); string(r.Output) != "over a restart" {
		t.Errorf("after a restart: %q", r.Output)
	}
}

// What is kept warm stays, whatever is called besides, until it is taken back.
func TestWarm(t *testing.T) {
	h := newHost(t, Options{MemoryBudget: 1})
	deploy(t, h, "echo", api.Upload{})
	deploy(t, h, "hello", api.Upload{})
	resident := func(name string) bool {
		v := h.functions.find("t", name)
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.code != nil
	}
	w, err := h.Warm(ctx, "t", "echo", 5)
	if err != nil || w.Count != 5 || w.Ready < 5 || !w.Resident {
		t.Fatalf("warm: %+v, %v", w, err)
	}
	for range 20 {
		invoke(t, h, "hello", "")
		invoke(t, h, "echo", "")
		h.functions.makeRoom()
		if !resident("echo") || resident("hello") {
			t.Fatalf("resident: echo %v, hello %v; want only echo with a budget of 1 byte", resident("echo"), resident("hello"))
		}
	}
	if idle := h.functions.find("t", "echo").code.Idle(); idle < 5 {
		t.Errorf("%d regions are at hand; want 5", idle)
	}
	if _, err := h.Warm(ctx, "t", "echo", 0); err != nil {
		t.Fatal(err)
	}
	h.functions.makeRoom()
	if resident("echo") {
		t.Error("echo stays although it is to be kept warm no more")
	}
	if _, err := h.Warm(ctx, "t", "nothing", 1); !isProblem(err, client.CodeNoSuchFunction) {
		t.Errorf("warm a function that is not there: %v", err)
	}
}

var budgetFunctions = flag.Int("functions", 600, "functions of TestBudget")

// However many functions are deployed and called in turn, code, images and regions stay
// within the budget, and so does the process's memory.
func TestBudget(t *testing.T) {
	budget := uint64(*budgetFunctions) * (16 << 10) // enough for a quarter of them
	h := newHost(t, Options{DataDir: shmDir(t), MemoryBudget: budget})
	const wat = `(module (import "faasm" "write_call_output" (func $out (param i32 i32) (result i32))) (memory 2) (data (i32.const 8) "function %06d")
	  (func (export "faasm_init") (memory.fill (i32.const 4096) (i32.const 7) (i32.const 8192)))
	  (func (export "faasm_call") (result i32) (memory.fill (i32.const 65536) (i32.const 7) (i32.const 20000)) (call $out (i32.const 8) (i32.const 15))))`
	name := func(i int) string { return fmt.Sprintf("f%06d", i) }
	debug.FreeOSMemory() // what earlier tests left is not to hide what this one takes
	before, err := linux.PSS()
	if err != nil {
		t.Fatal(err)
	}
	for i := range *budgetFunctions {
		bin, err := engine.FromText(fmt.Sprintf(wat, i))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := h.Deploy(ctx, api.Upload{Tenant: "t", Function: name(i), Wasm: bin}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		for i := range *budgetFunctions {
			if r := invoke(t, h, name(i), ""); string(r.Output) != fmt.Sprintf("function %06d", i) {
				t.Fatalf("%s says %q, %+v", name(i), r.Output, r.Failure)
			}
			if b := h.functions.resident.bytes(); b > budget+1<<20 {
				t.Fatalf("%d bytes are resident after %s; the budget is %d", b, name(i), budget)
			}
		}
	}
	if n := h.functions.resident.count(); n == 0 || n == *budgetFunctions || h.functions.resident.evicted.Load() < uint64(*budgetFunctions) {
		t.Errorf("%d functions are resident, %d were evicted", n, h.functions.resident.evicted.Load())
	}
	if _, comp, init := loads(h); comp+init != 0 {
		t.Errorf("compiled %d, initialised %d; want all loaded from the store", comp, init)
	}
	after, err := linux.PSS()
	if err != nil {
		t.Fatal(err)
	}
	// Records, Go's heap and the allocators' caches come on top.
	if grown, most := int64(after)-int64(before), int64(budget)+int64(*budgetFunctions)*(8<<10)+64<<20; grown > most {
		t.Errorf("the process grew by %d bytes; want at most %d", grown, most)
	}
	t.Logf("%d functions, budget %d KiB: resident %d KiB, %d functions; the process grew by %d KiB",
		*budgetFunctions, budget>>10, h.functions.resident.bytes()>>10, h.functions.resident.count(), (int64(after)-int64(before))>>10)
}

// shmDir is a directory in memory, since thousands of deploys would each wait for a disk.
func shmDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "faasm-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// A dense host runs the same functions, in less address space.
func TestProfile_dense(t *testing.T) {
	h := newHost(t, Options{Profile: ProfileDense})
	deploy(t, h, "counter_init", api.Upload{MemoryBytes: 256 << 20})
	wantCounter(t, h)
	if got := h.Info().Profile; got != ProfileDense {
		t.Errorf("the host says its profile is %q", got)
	}
	_, _, err := h.Deploy(ctx, api.Upload{Tenant: "t", Function: "large", Wasm: workloads.Wasm("echo"), MemoryBytes: 257 << 20})
	if !isProblem(err, client.CodeBadRequest) {
		t.Errorf("a function of 257 MiB: %v", err)
	}
	if r := invoke(t, h, "counter_init", ""); r.Outcome != call.Returned {
		t.Errorf("after it: %+v", r.Failure)
	}
}
