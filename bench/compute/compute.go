// Package compute holds the numeric kernels that say how fast a Faaslet
// calculates: C sources, the guest that is built from them, and how to build and
// run their native twin. It is not the bench itself: it neither runs the guest
// nor draws a ratio.
//
// Each kernel is a piece of mathematics written for this package, with data of
// its own, made by a formula. The two builds are one program. It reads one line
// (see Request), makes the kernel's data, runs it as often as asked, and prints
// a checksum over the exact bits of the results and what each run took by its
// own monotonic clock (see ParseResult). Making the data, hashing the results,
// starting the process and compiling the guest are outside the measured time.
//
// Both builds must print the same checksum. They do because every operation is
// in one order that no compiler may change, multiplications and additions are
// not fused, and nothing is used of the mathematical library but the square
// root, which has one right answer.
package compute

import (
	"embed"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Sources holds the kernels, in the folder "kernels".
//
//go:embed kernels/*.c kernels/*.h
var Sources embed.FS

// Wasm is the guest: a WASI command with all kernels in it. It is not to be
// written to. It is built in a folder with nothing but the sources, and without
// binaryen's wasm-opt in PATH, which clang would run if it linked with -O3, by
//
//	clang-19 --target=wasm32-wasi -std=c17 -O3 -msimd128 -ffp-contract=off -fno-math-errno -c *.c
//	clang-19 --target=wasm32-wasi -Wl,--strip-debug -Wl,--stack-first -Wl,-z,stack-size=65536 -o kernels.wasm *.o
//
// and "go test ./bench/compute -run TestWasm_rebuild -rewrite" does just that.
// The functions keep their names, so that a trap says where it was. Its memory
// grows to 25 MiB, whatever is asked.
//
//go:embed bin/kernels.wasm
var Wasm []byte

// Size is how much work a kernel does.
type Size string

const (
	Quick  Size = "quick"  // some 5 ms of native code on a core of 2024
	Medium Size = "medium" // some 100 ms
)

// RepeatsMax is the most runs that one request may ask for.
const RepeatsMax = 100

var listEntry = regexp.MustCompile(`\bX\((\w+)\)`)

// Kernels returns the names of all kernels, related ones side by side.
func Kernels() []string {
	list, err := Sources.ReadFile("kernels/list.h")
	if err != nil {
		panic(fmt.Sprintf("BUG: read embedded list of kernels: %v", err))
	}
	var names []string
	for _, m := range listEntry.FindAllSubmatch(list, -1) {
		names = append(names, string(m[1]))
	}
	return names
}

// Request returns the line that asks for repeats runs of a kernel, to be given
// to either build as its standard input.
func Request(kernel string, size Size, repeats int) []byte {
	return fmt.Appendf(nil, "%s %s %d\n", kernel, size, repeats)
}

// Result is what a kernel printed.
type Result struct {
	// Checksum digests the exact bits of the results. It depends on the kernel
	// and the size alone, not on the machine nor on the build.
	Checksum uint64

	// Elapsed is what each run took, in the order in which they were made.
	Elapsed []time.Duration
}

// ParseResult reads the line that either build prints for a request:
//
//	CHECKSUM NANOSECONDS...
//
// with the checksum as 16 hexadecimal digits.
func ParseResult(output []byte) (Result, error) {
	line, ok := strings.CutSuffix(string(output), "\n")
	if !ok || strings.Contains(line, "\n") {
		return Result{}, fmt.Errorf("parse result %q: not one line", output)
	}
	fields := strings.Split(line, " ")
	if len(fields) < 2 {
		return Result{}, fmt.Errorf("parse result %q: no runs", output)
	}
	if len(fields[0]) != 16 {
		return Result{}, fmt.Errorf("parse result %q: checksum is not 16 digits", output)
	}
	checksum, err := strconv.ParseUint(fields[0], 16, 64)
	if err != nil {
		return Result{}, fmt.Errorf("parse result %q: checksum: %w", output, err)
	}
	r := Result{Checksum: checksum}
	for i, field := range fields[1:] {
		ns, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return Result{}, fmt.Errorf("parse result %q: run %d: %w", output, i, err)
		}
		if ns < 0 {
			return Result{}, fmt.Errorf("parse result %q: run %d: negative time", output, i)
		}
		r.Elapsed = append(r.Elapsed, time.Duration(ns))
	}
	return r, nil
}
