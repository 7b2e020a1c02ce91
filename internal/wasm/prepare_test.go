package wasm

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPrepare_reports(t *testing.T) {
	p := must(t, fixture(t, "module.wasm"))

	check := func(what string, got, want any) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	check("memory", p.Memory, Memory{Min: 2, Max: 70, HasMax: true, Export: "memory"})
	check("imports", p.Imports, []Import{
		{"faasm", "read_call_input", FuncType{[]ValType{I32, I32}, []ValType{I32}}},
		{"wasi_snapshot_preview1", "proc_exit", FuncType{[]ValType{I32}, nil}},
	})
	callback := FuncType{[]ValType{I32, I64, F32, F64, V128}, []ValType{ExternRef, I32}}
	check("exports", p.Exports, []Export{
		{"memory", ExternMemory, 0, FuncType{}},
		{"second name", ExternMemory, 0, FuncType{}},
		{"double", ExternGlobal, 4, FuncType{}},
		{"_start", ExternFunc, 3, FuncType{}},
		{"callback", ExternFunc, 4, callback},
	})
	check("globals", p.Globals, []Global{
		{1, "faasm:global.1", I32, Value{Type: I32, Lo: 65536}},
		{2, "faasm:global.2", I64, Value{Type: I64, Lo: 1<<64 - 2}},
		{3, "faasm:global.3", F32, Value{Type: F32, Lo: 0xbf000000}},
		{4, "faasm:global.4", F64, Value{Type: F64, Lo: 0x3ff0000000000000}},
		{5, "faasm:global.5", V128, Value{Type: V128, Lo: 1, Hi: 1<<64 - 1}},
		{6, "faasm:global.6", ExternRef, Value{Type: ExternRef, Null: true}},
		{7, "faasm:global.7", FuncRef, Value{Type: FuncRef, Lo: 0}},
		{8, "faasm:global.8", I32, Value{Type: I32}}, // whether $passive has been dropped
	})
	check("tables", p.Tables, []Table{
		{Index: 0, Type: FuncRef, Min: 3, Max: 3, HasMax: true, Export: "faasm:table.0"},
		{Index: 1, Type: ExternRef, Min: 4, Export: "faasm:table.1", Changes: true},
		{Index: 2, Type: FuncRef, Min: 1, Max: 10, HasMax: true, Export: "faasm:table.2", Grows: true, Changes: true},
	})
	check("image", p.Image, []Segment{
		{1, []byte("a")},
		{16, []byte("0123wxyz89")},
		{131070, []byte("ab")},
	})
	check("functions that references can refer to", p.Funcs, []FuncExport{
		{0, "faasm:func.0"}, {2, "faasm:func.2"}, {3, "faasm:func.3"}, {4, "faasm:func.4"},
	})
	check("start", p.Start, "faasm:start")
	check("drop", p.Drop, "faasm:drop")
	check("number of functions", p.NumFuncs, 5)
	check("stats", p.Stats, Stats{Funcs: 3, Gates: 3, CodeBytesBefore: 48, CodeBytesAfter: 48 + 3*len(gate) + markLen + 11})

	for name, want := range map[string]string{"callback": callback.String(), "_start": "() -> ()"} {
		if got, ok := p.FuncExport(name); !ok || got.String() != want {
			t.Errorf("FuncExport(%q) = %v, %v, want %s", name, got, ok, want)
		}
	}
	for _, name := range []string{"memory", "double", "main", ""} {
		if got, ok := p.FuncExport(name); ok {
			t.Errorf("FuncExport(%q) = %v", name, got)
		}
	}
	for i, want := range []string{"input", "exit", "initialize", "main", "", ""} {
		if got := p.FuncName(uint32(i)); got != want {
			t.Errorf("FuncName(%d) = %q, want %q", i, got, want)
		}
	}
}

func TestPrepare_memory(t *testing.T) {
	memory := func(limits ...any) []byte { return section(secMemory, vec(cat(limits...))) }
	rows := []struct {
		name string
		bin  []byte
		want Memory
	}{
		{"none", binaryOf(), Memory{HasMax: true, Export: "faasm:memory"}},
		{"none, empty section", binaryOf(section(secMemory, 0)), Memory{HasMax: true, Export: "faasm:memory"}},
		{"not exported", binaryOf(memory(0, 3)), Memory{Min: 3, Export: "faasm:memory"}},
		{"exported without a name", binaryOf(memory(0, 3), section(secExport, vec(cat("", 2, 0)))), Memory{Min: 3, Export: "faasm:memory"}},
		{"exported", binaryOf(memory(0, 3), section(secExport, vec(cat("m", 2, 0), cat("n", 2, 0)))), Memory{Min: 3, Export: "m"}},
		{"largest minimum", binaryOf(memory(0, 65_535)), Memory{Min: 65_535, Export: "faasm:memory"}},
		{"largest maximum", binaryOf(memory(1, 0, 65_535)), Memory{Max: 65_535, HasMax: true, Export: "faasm:memory"}},
		{"maximum with the top page", binaryOf(memory(1, 1, 65_536)), Memory{Min: 1, Max: 65_535, HasMax: true, Export: "faasm:memory"}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			if diff := cmp.Diff(row.want, must(t, row.bin).Memory); diff != "" {
				t.Errorf("memory (-want +got):\n%s", diff)
			}
		})
	}
}

// TestPrepare_roundTrip prepares modules in which there is nothing to change.
func TestPrepare_roundTrip(t *testing.T) {
	// Sizes written with more bytes than they need, as linkers do, stay so.
	paddedBody := cat(raw(0x88, 0x80, 0x00), raw(0, opI32Const, 0x80, 0x80, 0x00, 0x1a, 0x01, opEnd))
	bin := binaryOf(
		section(secType, vec(funcType([]ValType{I32}, nil))),
		section(secFunction, vec(raw(0), raw(0))),
		section(secMemory, vec(raw(0, 1))),
		section(secExport, vec(cat("memory", 2, 0))),
		section(secCode, vec(paddedBody, code())),
	)
	want := bytes.Replace(bin, section(secMemory, vec(raw(0, 1))), section(secMemory, vec(raw(0, 1), gateMemory)), 1)
	if got := must(t, bin).Code; !bytes.Equal(got, want) {
		t.Errorf("code\n got  %x\n want %x", got, want)
	}
}

func TestPrepare_noGates(t *testing.T) {
	for _, name := range fixtures {
		bin := fixture(t, name)
		p, err := Prepare(bin, Options{NoGates: true})
		if err != nil {
			t.Fatal(err)
		}
		var before module
		after := module{prepared: true}
		if err := before.parse(bin); err != nil {
			t.Fatal(err)
		}
		if err := after.parse(p.Code); err != nil {
			t.Fatalf("%s: parse the prepared module: %v", name, err)
		}
		for i, b := range before.bodies {
			got := after.file[after.bodies[i].begin:after.bodies[i].end]
			for flag := len(before.globals); flag < len(after.globals); flag++ {
				got = bytes.ReplaceAll(got, appendMark(nil, uint32(flag)), nil)
			}
			if !bytes.Equal(got, before.file[b.begin:b.end]) {
				t.Errorf("%s: body %d changed by more than marks", name, i)
			}
		}
		if p.Stats.Gates != 0 {
			t.Errorf("%s: %d gates", name, p.Stats.Gates)
		}
		gated := must(t, bin)
		if diff := cmp.Diff(gated.Image, p.Image); diff != "" {
			t.Errorf("%s: image (-with gates +without):\n%s", name, diff)
		}
	}
}

func TestPrepare_customSections(t *testing.T) {
	names := cat(
		byte(moduleName), sized(cat("m")),
		byte(funcNames), sized(vec(cat(0, "f"))),
		byte(2), sized(vec(cat(0, vec(cat(0, "local"))))),
		byte(9), sized(vec(cat(0, "segment"))),
	)
	bin := binaryOf(
		customSection(".debug_info", 1, 2, 3),
		section(secType, vec(funcType(nil, nil))),
		customSection("name", names),
		section(secFunction, vec(raw(0))),
		customSection("producers", 0),
		section(secCode, vec(code())),
		customSection("name", raw(1, 0xff)),
		customSection("target_features", 0),
	)
	p := must(t, bin)
	want := customSection("name", byte(moduleName), sized(cat("m")), byte(funcNames), sized(vec(cat(0, "f"))))
	if !bytes.HasSuffix(p.Code, want) {
		t.Errorf("prepared module ends with %x, want %x", p.Code[len(p.Code)-len(want):], want)
	}
	for _, word := range []string{"debug", "producers", "features", "local", "segment"} {
		if bytes.Contains(p.Code, []byte(word)) {
			t.Errorf("%q is still in the prepared module", word)
		}
	}
	if got, want := p.FuncName(0), "f"; got != want {
		t.Errorf("FuncName(0) = %q, want %q", got, want)
	}
}

// TestPrepare_tables has one function that does one thing to table 1 of two, or only
// reads it.
func TestPrepare_tables(t *testing.T) {
	rows := []struct {
		name           string
		code           []byte
		changes, grows [2]bool
	}{
		{"size", raw(0xfc, 0x10, 1), [2]bool{}, [2]bool{}},
		{"get", raw(0x25, 1), [2]bool{}, [2]bool{}},
		{"indirect call", raw(0x11, 0, 1), [2]bool{}, [2]bool{}},
		{"element dropped", raw(0xfc, 0x0d, 0), [2]bool{}, [2]bool{}},
		{"set", raw(0x26, 1), [2]bool{false, true}, [2]bool{}},
		{"fill", raw(0xfc, 0x11, 1), [2]bool{false, true}, [2]bool{}},
		{"init", raw(0xfc, 0x0c, 0, 1), [2]bool{false, true}, [2]bool{}},
		{"copy from", raw(0xfc, 0x0e, 0, 1), [2]bool{true, false}, [2]bool{}},
		{"copy to", raw(0xfc, 0x0e, 1, 0), [2]bool{false, true}, [2]bool{}},
		{"grow", raw(0xfc, 0x0f, 1), [2]bool{false, true}, [2]bool{false, true}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			p := must(t, binaryOf(
				section(secType, vec(funcType(nil, nil))),
				section(secFunction, vec(raw(0))),
				section(secTable, vec(cat(FuncRef, 0, 2), cat(FuncRef, 0, 2))),
				section(secElement, vec(cat(1, 0, 0))),
				section(secCode, vec(code(row.code))),
			))
			for i, table := range p.Tables {
				if table.Changes != row.changes[i] || table.Grows != row.grows[i] {
					t.Errorf("table %d: changes %v, grows %v; want %v, %v", i, table.Changes, table.Grows, row.changes[i], row.grows[i])
				}
			}
		})
	}
}

// TestPrepare_startIsImport has an import for its start function, which is rare but valid.
func TestPrepare_startIsImport(t *testing.T) {
	p := must(t, binaryOf(
		section(secType, vec(funcType(nil, nil))),
		section(secImport, vec(cat("env", "begin", 0, 0))),
		section(secStart, 0),
	))
	if got, want := p.Start, "faasm:start"; got != want {
		t.Errorf("start is %q, want %q", got, want)
	}
}

// TestPrepare_refusesItsOutput: the gate and the reserved names cannot be taken twice.
func TestPrepare_refusesItsOutput(t *testing.T) {
	for _, name := range fixtures {
		if _, err := Prepare(must(t, fixture(t, name)).Code, Options{}); err == nil {
			t.Errorf("%s: a prepared module is taken for an upload", name)
		}
	}
}

func TestPrepare_leavesUploadAlone(t *testing.T) {
	for _, name := range fixtures {
		bin := fixture(t, name)
		must(t, bin)
		if !bytes.Equal(bin, fixture(t, name)) {
			t.Errorf("%s: Prepare changes the upload", name)
		}
	}
}

// sectionEnds returns the offsets at which a module may be cut off without being
// malformed: where one section ends and no other section is missing.
func sectionEnds(bin []byte) map[int]bool {
	ends := map[int]bool{8: true}
	r := reader{file: bin, pos: 8}
	functions, code, dataCount, data := false, false, false, false
	for r.left() > 0 {
		switch sectionID(r.byte()) {
		case secFunction:
			functions = true
		case secCode:
			code = true
		case secDataCount:
			dataCount = true
		case secData:
			data = true
		}
		r.bytes(r.u32())
		ends[r.pos] = functions == code && dataCount == data
	}
	return ends
}

func TestPrepare_truncated(t *testing.T) {
	for _, name := range fixtures {
		bin := fixture(t, name)
		whole := sectionEnds(bin)
		for n := range bin {
			_, err := Prepare(bin[:n], Options{})
			if accepted := err == nil; accepted != whole[n] {
				t.Errorf("%s cut off at %#x: error %v", name, n, err)
			}
		}
	}
}

// TestPrepare_bitFlips changes a few bits of good modules. What is then still accepted
// must be prepared right.
func TestPrepare_bitFlips(t *testing.T) {
	accepted, refused := 0, 0
	for i, name := range fixtures {
		bin := fixture(t, name)
		for seed := range uint64(1000) {
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			flipped := bytes.Clone(bin)
			for range 1 + rng.IntN(3) {
				flipped[rng.IntN(len(bin))] ^= 1 << rng.IntN(8)
			}
			p, err := Prepare(flipped, Options{})
			if err != nil {
				refused++
				continue
			}
			accepted++
			if err := checkPrepared(flipped, p); err != nil {
				t.Fatalf("%s, seed %d: %v", name, seed, err)
			}
		}
	}
	if accepted < 100 || refused < 100 {
		t.Errorf("%d modules accepted, %d refused: the flips say little", accepted, refused)
	}
}

// goModule builds a program with the Go toolchain that runs the test.
func goModule(t testing.TB) []byte {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(dir, "main.go")
	program := `package main

import "fmt"

func main() { fmt.Println("hello") }
`
	if err := os.WriteFile(source, []byte(program), 0o644); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "main.wasm")
	build := exec.Command("go", "build", "-o", out, source)
	build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOFLAGS=", "GOWORK=off")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build, err, text)
	}
	bin, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

func TestPrepare_goModule(t *testing.T) {
	p := must(t, goModule(t))
	if _, ok := p.FuncExport("_start"); !ok {
		t.Errorf("no _start among the exports %v", p.Exports)
	}
	if p.Stats.Loops < 100 || p.Stats.Gates <= p.Stats.Loops || len(p.Image) == 0 {
		t.Errorf("stats %+v, %d segments in the image", p.Stats, len(p.Image))
	}
	if spare := cap(p.Code) - len(p.Code); spare > 1024 {
		t.Errorf("%d bytes more than needed were allocated for the code", spare)
	}
}

func BenchmarkPrepare(b *testing.B) {
	bin := goModule(b)
	for _, opts := range []Options{{}, {NoGates: true}} {
		b.Run(fmt.Sprintf("NoGates=%v", opts.NoGates), func(b *testing.B) {
			b.SetBytes(int64(len(bin)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Prepare(bin, opts); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
