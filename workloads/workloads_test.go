package workloads

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWasm_unknownPanics(t *testing.T) {
	for _, name := range []string{"", "no_such", "../workloads", "echo.wasm"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Wasm(%q) did not panic", name)
				}
			}()
			Wasm(name)
		}()
	}
}

func TestWasm_callerOwnsBytes(t *testing.T) {
	Wasm("noop")[0] = 0xff
	if got, want := Wasm("noop")[0], byte(0); got != want {
		t.Errorf("first byte after a caller wrote to its copy: got %#x, want %#x", got, want)
	}
}

func TestWasm_areModules(t *testing.T) {
	magic := []byte("\x00asm\x01\x00\x00\x00")
	total := 0
	for _, name := range Names() {
		bin := Wasm(name)
		if !bytes.HasPrefix(bin, magic) {
			t.Errorf("%s: got first bytes %x, want %x", name, bin[:min(len(bin), len(magic))], magic)
		}
		total += len(bin)
	}
	// The modules are part of every clone and of every test binary that uses them.
	if limit := 1_500_000; total > limit {
		t.Errorf("all modules: got %d bytes, want at most %d", total, limit)
	}
}

// TestNames_haveSources finds a module whose source is gone, and a source that nobody built.
func TestNames_haveSources(t *testing.T) {
	var want []string
	for _, pattern := range []string{"*/*.c", "*/*.cc", "*/*.wat"} {
		sources, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, source := range sources {
			folder, file := filepath.Split(source)
			folder = filepath.Clean(folder)
			name := strings.TrimSuffix(file, filepath.Ext(file))
			if name != folder {
				name = folder + "_" + name
			}
			want = append(want, name)
		}
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, Names()); diff != "" {
		t.Errorf("modules differ from sources (-sources +modules):\n%s", diff)
	}
}

// TestRebuild builds all modules again, with the command above the embed directive, and
// compares them with the committed ones.
func TestRebuild(t *testing.T) {
	for _, tool := range []string{"make", "clang-19", "clang++-19", "wasm-ld-19", "llvm-ar-19", "wat2wasm"} {
		if _, err := exec.LookPath(tool); err != nil {
			if slices.Contains(strings.Split(os.Getenv("REQUIRE_FEATURES"), ","), "clang") {
				t.Fatalf("clang is a required feature: %v", err)
			}
			t.Skipf("cannot build the modules: %v", err)
		}
	}
	bin, obj := t.TempDir(), t.TempDir()
	// The tools are named because CC and the like in the environment would win otherwise.
	build := exec.CommandContext(t.Context(), "make", "BIN="+bin, "OBJ="+obj,
		"CC=clang-19", "CXX=clang++-19", "AR=llvm-ar-19", "WAT2WASM=wat2wasm")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build, err, out)
	}
	for _, name := range Names() {
		got, err := os.ReadFile(filepath.Join(bin, name+".wasm"))
		if err != nil {
			t.Error(err)
			continue
		}
		if !bytes.Equal(got, Wasm(name)) {
			t.Errorf("%s: the committed module, %d bytes, is not what its source gives, %d bytes", name, len(Wasm(name)), len(got))
		}
	}
}
