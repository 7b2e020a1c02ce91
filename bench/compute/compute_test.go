package compute

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var rewrite = flag.Bool("rewrite", false, "write bin/kernels.wasm and testdata/quick.txt anew")

// wasmFlags compile for the guest; with linkFlags they are the command above
// the declaration of Wasm.
var (
	wasmFlags = []string{"--target=wasm32-wasi", "-std=c17", "-O3", "-msimd128", "-ffp-contract=off", "-fno-math-errno"}
	linkFlags = []string{"--target=wasm32-wasi", "-Wl,--strip-debug", "-Wl,--stack-first", "-Wl,-z,stack-size=65536"}
)

// clang returns the compiler, or skips the test. A host whose REQUIRE_FEATURES
// names clang promises to have it, and there the test fails instead.
func clang(t *testing.T) string {
	t.Helper()
	cc, err := exec.LookPath("clang-19")
	if err != nil {
		unsupported(t, "clang", fmt.Sprintf("no compiler: %v", err))
	}
	return cc
}

func unsupported(t *testing.T, feature, why string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("REQUIRE_FEATURES"), ","), feature) {
		t.Fatalf("feature %s is required: %s", feature, why)
	}
	t.Skipf("feature %s is missing: %s", feature, why)
}

var native struct {
	once sync.Once
	exe  string
	err  error
}

var nativeDir string

// TestMain owns the folder in which the native program is built, once for all
// tests.
func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "kernels")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	nativeDir = dir
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func nativeExe(t *testing.T) string {
	t.Helper()
	cc := clang(t)
	native.once.Do(func() {
		native.exe, native.err = BuildNative(context.Background(), nativeDir, cc)
	})
	if native.err != nil {
		t.Fatal(native.err)
	}
	return native.exe
}

func TestNative_hostileRequests(t *testing.T) {
	exe := nativeExe(t)
	tests := []struct {
		request, stderr string
	}{
		{"", "kernels: read request: no line\n"},
		{"\n", "kernels: read request: empty line\n"},
		{" \r\n", "kernels: read request: empty line\n"},
		{"nosuch quick 1\n", "kernels: unknown kernel nosuch\n"},
		{"gem quick 1\n", "kernels: unknown kernel gem\n"},
		{strings.Repeat("x", 500) + " quick 1\n", "kernels: unknown kernel " + strings.Repeat("x", 127) + "\n"},
		{"gemm\n", "kernels: unknown size (none)\n"},
		{"gemm large 1\n", "kernels: unknown size large\n"},
		{"gemm quick\n", "kernels: repeats out of range: (none)\n"},
		{"gemm quick 0\n", "kernels: repeats out of range: 0\n"},
		{"gemm quick -1\n", "kernels: repeats out of range: -1\n"},
		{"gemm quick 1x\n", "kernels: repeats out of range: 1x\n"},
		{"gemm quick 101\n", "kernels: repeats out of range: 101\n"},
		{"gemm quick 99999999999999999999\n", "kernels: repeats out of range: 99999999999999999999\n"},
		{"gemm quick 1 1\n", "kernels: unexpected word 1\n"},
	}
	for _, tt := range tests {
		cmd := exec.Command(exe)
		cmd.Stdin = strings.NewReader(tt.request)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 2 {
			t.Errorf("request %q: got error %v, want exit status 2", tt.request, err)
		}
		if got, want := stderr.String(), tt.stderr; got != want {
			t.Errorf("request %q: got stderr %q, want %q", tt.request, got, want)
		}
		if stdout.Len() != 0 {
			t.Errorf("request %q: got output %q, want none", tt.request, &stdout)
		}
	}
}

func TestRunNative_unknownKernel(t *testing.T) {
	_, err := RunNative(t.Context(), nativeExe(t), "nosuch", Quick, 1)
	if err == nil {
		t.Fatal("got no error")
	}
	if got, want := err.Error(), "run native kernel nosuch: exit status 2: kernels: unknown kernel nosuch"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestKernels_sameAsNativeList(t *testing.T) {
	cmd := exec.Command(nativeExe(t))
	cmd.Stdin = strings.NewReader("list\n")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Fields(string(out)), Kernels()); diff != "" {
		t.Errorf("names differ (-native +Kernels):\n%s", diff)
	}
	if got, want := len(Kernels()), 24; got < want {
		t.Errorf("got %d kernels, want at least %d", got, want)
	}
}

// TestNative_checksums runs each kernel in two processes, twice in each, and
// compares with the checksums in testdata. A kernel fails by itself if its two
// runs differ. The file holds for every machine and for the guest: a line of it
// changes only when a kernel's mathematics, data or quick size does.
func TestNative_checksums(t *testing.T) {
	exe := nativeExe(t)
	const golden = "testdata/quick.txt"
	var got strings.Builder
	for _, name := range Kernels() {
		var sums [2]uint64
		for i := range sums {
			r, err := RunNative(t.Context(), exe, name, Quick, 2)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := len(r.Elapsed), 2; got != want {
				t.Errorf("%s: got %d times, want %d", name, got, want)
			}
			sums[i] = r.Checksum
		}
		if sums[0] != sums[1] {
			t.Errorf("%s: got checksums %016x and %016x from the same request", name, sums[0], sums[1])
		}
		fmt.Fprintf(&got, "%s %016x\n", name, sums[0])
	}
	if *rewrite {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got.String(), "\n")); diff != "" {
		t.Errorf("checksums differ (-%s +got):\n%s", golden, diff)
	}
}

// TestKernels_mathematics compares each kernel with its definition; see the
// head of testdata/check.c.
func TestKernels_mathematics(t *testing.T) {
	cc := clang(t)
	dir := t.TempDir()
	if _, err := writeSources(dir); err != nil {
		t.Fatal(err)
	}
	check, err := filepath.Abs("testdata/check.c")
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-std=c17", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-I", ".", "-o", "check", check, "-lm"}
	if err := runCompiler(t.Context(), dir, cc, args); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(filepath.Join(dir, "check")).CombinedOutput()
	if err != nil {
		lines := strings.SplitAfter(string(out), "\n")
		t.Errorf("%v\n%s", err, strings.Join(lines[:min(len(lines), 40)], ""))
	}
}

func TestBuildNative_errors(t *testing.T) {
	ctx := t.Context()
	if _, err := BuildNative(ctx, filepath.Join(t.TempDir(), "absent"), "clang-19"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent folder: got %v, want %v", err, os.ErrNotExist)
	}
	if _, err := BuildNative(ctx, t.TempDir(), "no-such-compiler"); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("absent compiler: got %v, want %v", err, exec.ErrNotFound)
	}
	cc := filepath.Join(t.TempDir(), "cc")
	if err := os.WriteFile(cc, []byte("#!/bin/sh\necho no such flag: \"$2\" >&2\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := BuildNative(ctx, t.TempDir(), cc)
	if err == nil {
		t.Fatal("failing compiler: got no error")
	}
	if got, want := err.Error(), "compile kernels with "+cc+": exit status 3\nno such flag: -O3"; got != want {
		t.Errorf("failing compiler: got %q, want %q", got, want)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := BuildNative(cancelled, t.TempDir(), cc); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v, want %v", err, context.Canceled)
	}
}

func TestParseResult(t *testing.T) {
	for _, output := range []string{
		"",
		"\n",
		"af9a3104ae0ff856 1",
		"af9a3104ae0ff856\n",
		"af9a3104ae0ff856 \n",
		"af9a3104ae0ff856 1\n2\n",
		"af9a3104ae0ff856 1 \n",
		"af9a3104ae0ff856  1\n",
		"af9a3104ae0ff856 -1\n",
		"af9a3104ae0ff856 1.5\n",
		"af9a3104ae0ff856 9223372036854775808\n",
		"af9a3104ae0ff85 1\n",
		"0af9a3104ae0ff856 1\n",
		"xf9a3104ae0ff856a 1\n",
	} {
		if r, err := ParseResult([]byte(output)); err == nil {
			t.Errorf("output %q: got %v, want an error", output, r)
		}
	}

	got, err := ParseResult([]byte("af9a3104ae0ff856 700769 0 9223372036854775807\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := Result{Checksum: 0xaf9a3104ae0ff856, Elapsed: []time.Duration{700769, 0, 1<<63 - 1}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("result differs (-want +got):\n%s", diff)
	}
}

// wasmCompiler, by the first line of its --version, made bin/kernels.wasm, with
// Debian's wasi-libc 0.0~git20220510. Another one makes other bytes.
const wasmCompiler = "Debian clang version 19.1.7 (3~deb12u1)"

// TestWasm_rebuild builds the guest from the sources beside it and compares
// with what is committed.
func TestWasm_rebuild(t *testing.T) {
	cc := clang(t)
	if _, err := os.Stat("/usr/include/wasm32-wasi/stdio.h"); err != nil {
		unsupported(t, "clang", fmt.Sprintf("no C library for Wasm: %v", err))
	}
	out, err := exec.Command(cc, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if version, _, _ := strings.Cut(string(out), "\n"); version != wasmCompiler {
		unsupported(t, "clang", fmt.Sprintf("%s is %q, and bin/kernels.wasm is by %q", cc, version, wasmCompiler))
	}

	dir := t.TempDir()
	units, err := writeSources(dir)
	if err != nil {
		t.Fatal(err)
	}
	compile := append(slices.Clone(wasmFlags), "-c")
	if err := runCompiler(t.Context(), dir, cc, append(compile, units...)); err != nil {
		t.Fatal(err)
	}
	link := append(slices.Clone(linkFlags), "-o", "kernels.wasm")
	for _, unit := range units {
		link = append(link, strings.TrimSuffix(unit, ".c")+".o")
	}
	if err := runCompiler(t.Context(), dir, cc, link); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "kernels.wasm"))
	if err != nil {
		t.Fatal(err)
	}
	if *rewrite {
		if err := os.WriteFile("bin/kernels.wasm", got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(got, Wasm) {
		t.Errorf("bin/kernels.wasm (%d bytes) is not what the sources build to (%d bytes); rerun with -rewrite", len(Wasm), len(got))
	}
}
