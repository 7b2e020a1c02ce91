// Package workloads holds the example functions as built WebAssembly modules, for tests,
// benchmarks and demonstrations. It is not part of the host: nothing that serves calls
// imports it.
//
// The sources lie beside this file, a folder for each; README.md says what each of them
// does. The modules are committed, so that no toolchain is needed to run the tests.
package workloads

import (
	"embed"
	"io/fs"
	"strings"
)

// The modules are built by
//
//	make -C workloads
//
// with clang-19, wasm-ld-19, wasi-libc, libc++-19 and wabt of Debian 12. TestRebuild checks
// that the committed bytes are what it gives.
//
//go:embed bin/*.wasm
var modules embed.FS

// Wasm returns the module of that name: "echo" for bin/echo.wasm. The caller owns the
// bytes. A name that is not in Names is a mistake in the caller, and panics.
func Wasm(name string) []byte {
	bin, err := modules.ReadFile("bin/" + name + ".wasm")
	if err != nil {
		panic("BUG: no workload named " + name)
	}
	return bin
}

// Names returns the names of all modules, sorted.
func Names() []string {
	paths, err := fs.Glob(modules, "bin/*.wasm")
	if err != nil {
		panic("BUG: " + err.Error())
	}
	names := make([]string, len(paths))
	for i, p := range paths {
		names[i] = strings.TrimSuffix(strings.TrimPrefix(p, "bin/"), ".wasm")
	}
	return names
}

// text is the beginning of Lewis Carroll's "Alice's Adventures in Wonderland", which is in
// the public domain.
//
//go:embed wordcount/alice.txt
var text []byte

// Text returns a text to give to "wordcount". The caller owns the bytes.
func Text() []byte { return append([]byte(nil), text...) }
