package faaslet

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/faasm-go/faasm/internal/engine"
	"github.com/faasm-go/faasm/internal/hostif"
	"github.com/faasm-go/faasm/internal/wasm"
)

// manifest is what is known of a module besides its machine code. It is stored with the
// code, so that a host which loads an artefact need not read the Wasm.
type manifest struct {
	Format int    `json:"format"`
	Module string `json:"module"` // SHA-256 of the upload, hexadecimal

	Init  []step `json:"init,omitempty"` // what initialisation runs, in order
	Entry step   `json:"entry"`          // what a call runs
	Drop  string `json:"drop,omitempty"` // see wasm.Prepared.Drop
	Table string `json:"table,omitempty"`
	// Memory is the name under which the module exports memory 0.
	Memory string `json:"memory"`

	MallocsOutput bool   `json:"mallocsOutput,omitempty"`
	Imports       int    `json:"imports"`
	NumFuncs      uint32 `json:"numFuncs"`  // the upload's own; those behind it are ours
	MemoryMin     uint64 `json:"memoryMin"` // bytes
	GrowsTables   bool   `json:"growsTables,omitempty"`

	// What a snapshot must hold besides memory, under the names that the machine code
	// exports it.
	Globals []global   `json:"globals,omitempty"`
	Tables  []table    `json:"tables,omitempty"` // those that code can change
	Funcs   []function `json:"funcs,omitempty"`
}

// manifestFormat changes with manifest, and with anything that package wasm does to code:
// an artefact of another format is compiled anew.
const manifestFormat = 2

// A step is an export that initialisation or a call runs.
type step struct {
	Export  string `json:"export"`
	Results int    `json:"results,omitempty"`
}

type global struct {
	Index  uint32       `json:"index"`
	Export string       `json:"export"`
	Type   wasm.ValType `json:"type"`
}

type table struct {
	Index  uint32       `json:"index"`
	Export string       `json:"export"`
	Type   wasm.ValType `json:"type"`
}

type function struct {
	Index  uint32 `json:"index"`
	Export string `json:"export"`
}

// Entry points, in the order of preference (ABI section 0).
const (
	entryCall  = "faasm_call"
	entryMain  = "__main_void" // a main() linked as a reactor
	entryStart = "_start"
)

// describe makes the manifest of a module that was prepared, or says at which step it fails.
func describe(bin []byte, p *wasm.Prepared) (manifest, error) {
	hash := sha256.Sum256(bin)
	m := manifest{
		Format: manifestFormat, Module: hex.EncodeToString(hash[:]), Drop: p.Drop, Memory: p.Memory.Export, MallocsOutput: mallocsOutput(p),
		Imports: len(p.Imports), NumFuncs: uint32(p.NumFuncs), MemoryMin: p.Memory.Min * wasm.PageSize,
	}
	if err := checkImports(p.Imports); err != nil {
		return m, &BuildError{StepLink, err}
	}
	var err error
	if m.Init, m.Entry, err = steps(p); err != nil {
		return m, &BuildError{StepEntry, err}
	}
	for _, g := range p.Globals {
		m.Globals = append(m.Globals, global{g.Index, g.Export, g.Type})
	}
	for _, t := range p.Tables {
		m.GrowsTables = m.GrowsTables || t.Grows
		if t.Index == 0 {
			m.Table = t.Export
		}
		if t.Changes {
			m.Tables = append(m.Tables, table{t.Index, t.Export, t.Type})
		}
	}
	for _, f := range p.Funcs {
		m.Funcs = append(m.Funcs, function{f.Index, f.Export})
	}
	return m, nil
}

// resets returns the exports of the globals that are all that a guest can change besides the
// bytes and the size of its memory; see wasm.Prepared. ok is false if there is more.
func (m *manifest) resets() (exports []string, ok bool) {
	if len(m.Tables) > 0 || m.Drop != "" {
		return nil, false
	}
	for _, g := range m.Globals {
		if g.Type == wasm.FuncRef || g.Type == wasm.ExternRef {
			return nil, false
		}
		exports = append(exports, g.Export)
	}
	return exports, true
}

func checkImports(imports []wasm.Import) error {
	for _, imp := range imports {
		f, ok := hostif.Lookup(imp.Module, imp.Name)
		if !ok {
			if !hostif.HasModule(imp.Module) {
				return fmt.Errorf("import %s.%s: there is no host module %q; a function imports from faasm, wasi_snapshot_preview1 or env", imp.Module, imp.Name, imp.Module)
			}
			return fmt.Errorf("import %s.%s: the host interface has no such function", imp.Module, imp.Name)
		}
		if want := (wasm.FuncType{Params: valTypes(f.Params), Results: valTypes(f.Results)}); !imp.Type.Equal(want) {
			return fmt.Errorf("import %s.%s: the module takes it for %s, but it is %s", imp.Module, imp.Name, imp.Type, want)
		}
	}
	return nil
}

func valTypes(in []engine.ValType) []wasm.ValType {
	var out []wasm.ValType
	for _, t := range in {
		out = append(out, [...]wasm.ValType{engine.I32: wasm.I32, engine.I64: wasm.I64, engine.F32: wasm.F32, engine.F64: wasm.F64}[t])
	}
	return out
}

// steps finds what initialisation runs, and what a call does.
func steps(p *wasm.Prepared) (init []step, entry step, err error) {
	exported := map[string]wasm.FuncType{}
	var names []string
	for _, e := range p.Exports {
		if e.Kind == wasm.ExternFunc {
			exported[e.Name] = e.Type
			names = append(names, e.Name)
		}
	}
	find := func(name string, results ...wasm.ValType) (step, bool, error) {
		t, ok := exported[name]
		if !ok {
			return step{}, false, nil
		}
		want := wasm.FuncType{Results: results}
		if !t.Equal(want) && !(len(t.Params) == 0 && len(t.Results) == 0 && name == "faasm_init") {
			return step{}, false, fmt.Errorf("export %s is a function %s; it must be %s", name, t, want)
		}
		return step{name, len(t.Results)}, true, nil
	}
	// first adds the first of the names that the module exports to what initialisation runs.
	first := func(names []string, results ...wasm.ValType) error {
		for _, name := range names {
			s, ok, err := find(name, results...)
			if ok {
				init = append(init, s)
			}
			if ok || err != nil {
				return err
			}
		}
		return nil
	}
	if p.Start != "" {
		init = append(init, step{Export: p.Start})
	}
	i := slices.IndexFunc([]string{entryCall, entryMain, entryStart}, func(name string) bool { _, ok := exported[name]; return ok })
	if i < 0 {
		return nil, step{}, fmt.Errorf("the module exports neither faasm_call nor _start (it exports %s): link it as a command, or as a reactor with --export=faasm_call", list(names))
	}
	// A command's _start runs its constructors itself, in each call.
	command := i == 2
	if !command {
		if err := first([]string{"_initialize", "__wasm_call_ctors"}); err != nil {
			return nil, step{}, err
		}
	}
	if err := first([]string{"faasm_init", "_faasm_zygote"}, wasm.I32); err != nil {
		return nil, step{}, err
	}
	if command {
		entry, _, err = find(entryStart)
	} else {
		entry, _, err = find([]string{entryCall, entryMain}[i], wasm.I32)
	}
	return init, entry, err
}

func list(names []string) string {
	const most = 8
	if len(names) == 0 {
		return "no function"
	}
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// mallocsOutput tells which dialect the guest speaks; see hostif.Dialect2020.
func mallocsOutput(p *wasm.Prepared) bool {
	for _, imp := range p.Imports {
		if imp.Module == "env" && slices.Contains(hostif.Dialect2020, imp.Name) {
			return false
		}
	}
	return slices.ContainsFunc(p.Exports, func(e wasm.Export) bool {
		return e.Kind == wasm.ExternFunc && e.Name == "malloc"
	})
}

// An artefact is the manifest, as JSON behind its length (4 bytes, little endian), and then
// the machine code.

func encodeArtefact(m manifest, code []byte) ([]byte, error) {
	text, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, 4+len(text)+len(code))
	out = binary.LittleEndian.AppendUint32(out, uint32(len(text)))
	return append(append(out, text...), code...), nil
}

// ErrArtefact is returned for an artefact that this build can't load: the module is to be
// compiled anew.
var ErrArtefact = errors.New("artefact of another build or machine")

func decodeArtefact(b []byte) (m manifest, code []byte, err error) {
	if len(b) < 4 {
		return m, nil, fmt.Errorf("%w: %d bytes", ErrArtefact, len(b))
	}
	n := uint64(binary.LittleEndian.Uint32(b))
	if n > uint64(len(b)-4) {
		return m, nil, fmt.Errorf("%w: a manifest of %d bytes in %d", ErrArtefact, n, len(b))
	}
	if err := json.Unmarshal(b[4:4+n], &m); err != nil {
		return m, nil, fmt.Errorf("%w: manifest: %w", ErrArtefact, err)
	}
	if m.Format != manifestFormat {
		return m, nil, fmt.Errorf("%w: manifest format %d, and this build writes %d", ErrArtefact, m.Format, manifestFormat)
	}
	return m, b[4+n:], nil
}
