package registry

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var ctx = context.Background()

func open(t *testing.T, dir string) *Registry {
	t.Helper()
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func function(tenant, name string, wasm []byte) Function {
	module := Hash(wasm)
	return Function{
		Tenant: tenant, Name: name, Module: module, Version: VersionOf(module, 1<<20, time.Second),
		WasmBytes: int64(len(wasm)), MemoryMax: 1 << 20, Timeout: time.Second, Entry: "faasm_call",
		Imports: 2, Uploaded: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), CompileNs: 12345,
	}
}

func publish(t *testing.T, r *Registry, f Function, wasm []byte) {
	t.Helper()
	if err := r.Publish(ctx, f, wasm); err != nil {
		t.Fatal(err)
	}
}

func TestRegistry_unknown(t *testing.T) {
	r := open(t, t.TempDir())
	for _, name := range []string{"absent", "..", "a/../../b", "a\x00b", strings.Repeat("long", 30)} {
		if _, err := r.Function(ctx, "t", name); !errors.Is(err, ErrNotFound) {
			t.Errorf("Function(%q): %v; want ErrNotFound", name, err)
		}
		if err := r.Remove(ctx, "t", name); !errors.Is(err, ErrNotFound) {
			t.Errorf("Remove(%q): %v; want ErrNotFound", name, err)
		}
	}
	if _, err := r.Module(ctx, Hash([]byte("x"))); !errors.Is(err, ErrNotFound) {
		t.Errorf("Module: %v; want ErrNotFound", err)
	}
}

func TestRegistry_publishReopenRemove(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	a, b := function("t", "a", []byte("one")), function("u", "a", []byte("two"))
	publish(t, r, a, []byte("one"))
	publish(t, r, b, []byte("two"))
	a2 := function("t", "a", []byte("three"))
	publish(t, r, a2, []byte("three"))
	r.Close()

	r = open(t, dir)
	list, err := r.Functions(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Function{a2, b}, list); diff != "" {
		t.Errorf("functions (-want +got):\n%s", diff)
	}
	for f, want := range map[string]string{a.Module: "one", a2.Module: "three", b.Module: "two"} {
		if got, err := r.Module(ctx, f); err != nil || string(got) != want {
			t.Errorf("module: %q, %v; want %q", got, err, want)
		}
	}
	if err := r.Remove(ctx, "t", "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Function(ctx, "t", "a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("after Remove: %v", err)
	}
	if _, err := r.Function(ctx, "u", "a"); err != nil {
		t.Errorf("another tenant's function of that name: %v", err)
	}
}

// What is damaged is told, and does not hide the rest.
func TestRegistry_damage(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	good := function("t", "good", []byte("good"))
	publish(t, r, good, []byte("good"))
	bad := function("t", "bad", []byte("bad"))
	publish(t, r, bad, []byte("bad"))
	future := function("t", "future", []byte("good"))
	publish(t, r, future, []byte("good"))

	record := func(name string) string { return filepath.Join(dir, "functions", "t", name+".json") }
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(record("bad"), `{"format": 1, "tenant`)
	write(record("future"), `{"format": 2}`)
	write(filepath.Join(dir, "modules", good.Module+".wasm"), "gone bad")

	list, err := r.Functions(ctx)
	if diff := cmp.Diff([]Function{good}, list); diff != "" {
		t.Errorf("functions (-want +got):\n%s", diff)
	}
	for _, want := range []string{"functions/t/bad.json", "functions/t/future.json: format 2 is not 1"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Functions: %v; want %q in it", err, want)
		}
	}
	if _, err := r.Module(ctx, good.Module); err == nil || !strings.Contains(err.Error(), "is damaged") {
		t.Errorf("a damaged module: %v", err)
	}
}

// A record that can't be written leaves the one before it.
func TestRegistry_publishFailureKeepsOld(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	old := function("t", "f", []byte("old"))
	publish(t, r, old, []byte("old"))
	// A directory in the way of the new module's file, as a stand-in for a full disk.
	next := function("t", "f", []byte("new"))
	if err := os.MkdirAll(filepath.Join(dir, "modules", next.Module+".wasm", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := r.Publish(ctx, next, []byte("new")); err == nil {
		t.Fatal("Publish succeeded")
	}
	got, err := r.Function(ctx, "t", "f")
	if diff := cmp.Diff(old, got); err != nil || diff != "" {
		t.Errorf("after a failed Publish: %v (-want +got):\n%s", err, diff)
	}
}

func TestOpen_badDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(filepath.Join(file, "below")); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("Open below a file: %v; want an error that names it", err)
	}
}

func TestVersionOf_differsByLimits(t *testing.T) {
	seen := map[string]bool{}
	for _, v := range []string{VersionOf("a", 1, 2), VersionOf("a", 2, 1), VersionOf("b", 1, 2), VersionOf("a", 12, 0)} {
		if seen[v] || len(v) != 16 {
			t.Errorf("version %q comes twice or is not 16 digits", v)
		}
		seen[v] = true
	}
}
