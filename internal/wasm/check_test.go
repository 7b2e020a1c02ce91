package wasm

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// Fixtures, with the commands that made them, in testdata:
//
//	wat2wasm --enable-tail-call --debug-names gates.wat -o gates.wasm
//	wat2wasm --debug-names module.wat -o module.wasm
//	wat2wasm --debug-names state.wat -o state.wasm
//	clang-19 --target=wasm32-wasi -O3 -ffast-math -msimd128 -mbulk-memory -mtail-call -s sort.c -o sort.wasm
//
// opcodes.wasm was written by the generators of opcode_test.go, and opcodes.txt is what
// wasm-objdump -d of wabt 1.0.32 reads in it: each instruction's offset, length and name.
var fixtures = []string{"gates.wasm", "module.wasm", "opcodes.wasm", "sort.wasm", "state.wasm"}

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	bin, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// TestFixtures_rebuild rebuilds the fixtures with the commands above and compares.
func TestFixtures_rebuild(t *testing.T) {
	for _, command := range []string{
		"wat2wasm --enable-tail-call --debug-names gates.wat -o gates.wasm",
		"wat2wasm --debug-names module.wat -o module.wasm",
		"wat2wasm --debug-names state.wat -o state.wasm",
		"clang-19 --target=wasm32-wasi -O3 -ffast-math -msimd128 -mbulk-memory -mtail-call -s sort.c -o sort.wasm",
	} {
		args := strings.Fields(command)
		out := args[len(args)-1]
		t.Run(out, func(t *testing.T) {
			if _, err := exec.LookPath(args[0]); err != nil {
				unsupported(t, map[string]string{"wat2wasm": "wabt", "clang-19": "clang"}[args[0]], err)
			}
			rebuilt := filepath.Join(t.TempDir(), out)
			cmd := exec.Command(args[0], append(args[1:len(args)-1:len(args)-1], rebuilt)...)
			cmd.Dir = "testdata"
			if text, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", command, err, text)
			}
			bin, err := os.ReadFile(rebuilt)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(bin, fixture(t, out)) {
				t.Errorf("testdata/%s is not what its source gives now", out)
			}
		})
	}
}

// unsupported skips a test for want of a feature. A host whose REQUIRE_FEATURES names the
// feature promises to have it, and there the test fails instead.
func unsupported(t *testing.T, feature string, why error) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("REQUIRE_FEATURES"), ","), feature) {
		t.Fatalf("feature %s is required: %v", feature, why)
	}
	t.Skipf("feature %s is missing: %v", feature, why)
}

// must fails the test if a module that it expects to be good is refused.
func must(t *testing.T, bin []byte) *Prepared {
	t.Helper()
	p, err := Prepare(bin, Options{})
	if err != nil {
		t.Fatalf("Prepare: %v", err)
	}
	if err := checkPrepared(bin, p); err != nil {
		t.Fatal(err)
	}
	return p
}

// checkPrepared reads a prepared module back, and says where it is not the upload with
// nothing done to it but what Prepare promises, or that the engine takes one and not the
// other.
func checkPrepared(upload []byte, p *Prepared) error {
	var before module
	after := module{prepared: true}
	if err := before.parse(upload); err != nil {
		return fmt.Errorf("parse the upload: %w", err)
	}
	if err := after.parse(p.Code); err != nil {
		return fmt.Errorf("parse the prepared module: %w", err)
	}

	// What must be as it was.
	added, err := checkDrops(&before, &after, p)
	if err != nil {
		return err
	}
	for _, id := range []sectionID{secType, secImport, secFunction, secTable, secGlobal, secElement} {
		if n := added[id]; n > 0 {
			if err := checkExtended(before.sections[id], after.sections[id], n); err != nil {
				return fmt.Errorf("%s section: %w", sectionNames[id], err)
			}
			continue
		}
		if !bytes.Equal(before.sections[id], after.sections[id]) {
			return fmt.Errorf("%s section changed", sectionNames[id])
		}
	}
	if after.hasStart {
		return fmt.Errorf("start section is still there")
	}
	if before.usesData && !bytes.Equal(before.sections[secDataCount], after.sections[secDataCount]) {
		return fmt.Errorf("data count section changed")
	}

	// Memory. One that the upload lacks is there and empty.
	want := before.memory
	if !before.hasMemory {
		want.HasMax = true
	}
	want.Export = p.Memory.Export
	got := after.memory
	got.Export = want.Export
	if p.Memory != want || got != want {
		return fmt.Errorf("memory %+v, in the code %+v, want %+v", p.Memory, got, want)
	}

	// Exports: those of the upload, and then what is reserved.
	if diff := cmp.Diff(before.exports, p.Exports, cmpopts.EquateEmpty()); diff != "" {
		return fmt.Errorf("exports (-upload +prepared):\n%s", diff)
	}
	n := len(before.exports)
	if diff := cmp.Diff(before.exports, after.exports[:n:n], cmpopts.EquateEmpty()); diff != "" {
		return fmt.Errorf("exports in the code (-upload +prepared):\n%s", diff)
	}
	reserved := map[string]Export{}
	for _, e := range after.exports[n:] {
		if !strings.HasPrefix(e.Name, "faasm:") {
			return fmt.Errorf("new export %q is not reserved", e.Name)
		}
		reserved[e.Name] = e
	}
	reach := func(name string, kind ExternKind, index uint32) error {
		e, ok := reserved[name]
		if !ok || e.Kind != kind || e.Index != index {
			return fmt.Errorf("%v %d is not reached by %q", kind, index, name)
		}
		delete(reserved, name)
		return nil
	}
	if before.memory.Export == "" {
		if err := reach(p.Memory.Export, ExternMemory, 0); err != nil {
			return err
		}
	} else if p.Memory.Export != before.memory.Export {
		return fmt.Errorf("memory export %q, want %q", p.Memory.Export, before.memory.Export)
	}
	mutable := added[secGlobal]
	for _, g := range before.globals {
		if g.mutable {
			mutable++
		}
	}
	if len(p.Globals) != mutable || len(p.Tables) != len(before.tables) {
		return fmt.Errorf("%d globals and %d tables, want %d and %d", len(p.Globals), len(p.Tables), mutable, len(before.tables))
	}
	for _, g := range p.Globals {
		if err := reach(g.Export, ExternGlobal, g.Index); err != nil {
			return err
		}
	}
	for _, t := range p.Tables {
		if err := reach(t.Export, ExternTable, t.Index); err != nil {
			return err
		}
	}
	if (p.Start != "") != before.hasStart {
		return fmt.Errorf("start is %q", p.Start)
	}
	if before.hasStart {
		if err := reach(p.Start, ExternFunc, before.start); err != nil {
			return err
		}
	}
	if err := checkFuncs(&before, p.Funcs); err != nil {
		return err
	}
	for _, f := range p.Funcs {
		if err := reach(f.Export, ExternFunc, f.Index); err != nil {
			return err
		}
	}
	if p.Drop != "" {
		if err := reach(p.Drop, ExternFunc, uint32(len(after.funcs)-1)); err != nil {
			return err
		}
	}
	if len(reserved) > 0 {
		return fmt.Errorf("exports that nothing asks for: %v", reserved)
	}

	if err := checkImage(&before, p.Image); err != nil {
		return err
	}
	if err := checkData(&before, &after); err != nil {
		return err
	}
	if err := checkGates(upload, p.Code); err != nil {
		return err
	}
	return engineAccepts(upload, p)
}

// checkData compares the data sections: nothing if code names no segment, and else the
// passive segments as they were and empty ones for the rest.
func checkData(before, after *module) error {
	if !before.usesData {
		if after.hasDataCount || len(after.data) > 0 {
			return fmt.Errorf("%d data segments left that no code names", len(after.data))
		}
		return nil
	}
	if len(before.data) != len(after.data) {
		return fmt.Errorf("%d data segments became %d", len(before.data), len(after.data))
	}
	for i, s := range after.data {
		want := before.data[i].init
		if before.data[i].active {
			want = nil
		}
		if s.active || !bytes.Equal(s.init, want) {
			return fmt.Errorf("data segment %d: active %v, bytes %x, want %x", i, s.active, s.init, want)
		}
	}
	return nil
}

// checkImage compares an image with what instantiation would do, byte by byte.
func checkImage(m *module, image []Segment) error {
	model := map[uint64]byte{}
	for _, s := range m.data {
		if s.active {
			for i, c := range s.init {
				model[uint64(s.offset)+uint64(i)] = c
			}
		}
	}
	end := uint64(0)
	for i, s := range image {
		if len(s.Data) == 0 {
			return fmt.Errorf("segment %d of the image is empty", i)
		}
		if s.Offset < end {
			return fmt.Errorf("segment %d of the image begins at %#x, before the end of the one before, %#x", i, s.Offset, end)
		}
		for j, c := range s.Data {
			if want, ok := model[s.Offset+uint64(j)]; !ok || c != want {
				return fmt.Errorf("image has %#x at %#x, want %#x (%v)", c, s.Offset+uint64(j), want, ok)
			}
			delete(model, s.Offset+uint64(j))
		}
		end = s.Offset + uint64(len(s.Data))
	}
	if end > m.memory.Min*PageSize {
		return fmt.Errorf("image ends at %#x, beyond the memory", end)
	}
	if len(model) > 0 {
		return fmt.Errorf("%d bytes are missing from the image", len(model))
	}
	return nil
}
