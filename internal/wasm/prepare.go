// Package wasm reads uploaded WebAssembly modules and rewrites them into the form that
// Faaslets run: data segments taken out into a memory image, gates put into the code so
// that a running guest can be stopped, and what a snapshot must capture made reachable.
//
// It takes core WebAssembly 2.0, tail calls, extended constant expressions and relaxed
// SIMD. It is not a validator: it checks the binary format, the index spaces and the
// nesting of blocks, as far as its own work depends on them, and leaves the types of
// operands to the engine, which it knows nothing of.
package wasm

import "strconv"

// Options says how to prepare a module. The zero value is what Faaslets need.
type Options struct {
	// NoGates leaves function bodies as they are, so that what gates cost can be
	// measured. A guest prepared so can not be stopped. The gate memory is there
	// all the same.
	NoGates bool
}

// Prepared is a module that Faaslets can run. Nothing in it may be changed.
type Prepared struct {
	// Code is the binary to compile. Its memory 0 is the guest's and its memory 1 is
	// the gate, one page. It has no active data segments and no start function.
	Code []byte

	// Image is what memory 0 holds when an instance starts: segments that are not
	// empty, sorted by offset, without overlap, within the memory's initial size.
	// Their bytes may alias the upload.
	Image []Segment

	Memory  Memory
	Imports []Import // in order; the index of an import is its function's index
	Exports []Export // those of the upload, without the reserved ones
	Globals []Global // mutable ones
	Tables  []Table  // all

	// Start is the reserved name of the function that the upload's start section
	// named; "" if there was none. The embedder calls it once an instance is made.
	Start string

	NumFuncs int // imported and defined
	Stats    Stats

	names []byte
}

// Stats tells what Prepare did.
type Stats struct {
	Funcs           int // with a body
	Loops           int
	Gates           int // inserted
	CodeBytesBefore int // of the code section
	CodeBytesAfter  int
}

// Reserved names of exports.
const (
	memoryExport = reservedPrefix + "memory"
	startExport  = reservedPrefix + "start"
	globalExport = reservedPrefix + "global." // and the index
	tableExport  = reservedPrefix + "table."  // and the index
)

// Prepare reads an uploaded module and rewrites it into the form that Faaslets run. Its
// error is an *Error. It does not change bin, nor may the caller while the result lives.
func Prepare(bin []byte, opts Options) (*Prepared, error) {
	var m module
	if err := m.parse(bin); err != nil {
		return nil, err
	}
	if opts.NoGates {
		m.removeGates()
	}
	p := &Prepared{
		Image:    m.image(),
		Imports:  m.imports,
		Exports:  m.exports,
		NumFuncs: len(m.funcs),
	}
	added := m.reserve(p)
	m.write(p, added)
	return p, nil
}

// FuncExport returns the type of the exported function name, and whether there is one.
func (p *Prepared) FuncExport(name string) (FuncType, bool) {
	for _, e := range p.Exports {
		if e.Kind == ExternFunc && e.Name == name {
			return e.Type, true
		}
	}
	return FuncType{}, false
}

// FuncName returns the name of a function for a human reader, or "" if the module's
// name section has none. It takes time in proportion to that section.
func (p *Prepared) FuncName(index uint32) string { return funcName(p.names, index) }

func (m *module) removeGates() {
	m.gates = nil
	for i := range m.bodies {
		m.bodies[i].entry, m.bodies[i].gates = false, 0
	}
}

// reserve fills in what of p is reached through reserved names, and returns the exports
// to add.
func (m *module) reserve(p *Prepared) []Export {
	var added []Export
	export := func(name string, kind ExternKind, index uint32) string {
		added = append(added, Export{Name: name, Kind: kind, Index: index})
		return name
	}

	p.Memory = m.memory
	if !m.hasMemory {
		p.Memory.HasMax = true
	}
	if p.Memory.Export == "" {
		p.Memory.Export = export(memoryExport, ExternMemory, 0)
	}
	for i, g := range m.globals {
		if g.mutable {
			p.Globals = append(p.Globals, Global{
				Index:  uint32(i),
				Export: export(globalExport+strconv.Itoa(i), ExternGlobal, uint32(i)),
				Type:   g.typ,
				Init:   g.init,
			})
		}
	}
	for i, t := range m.tables {
		p.Tables = append(p.Tables, Table{
			Index:   uint32(i),
			Type:    t.typ,
			Min:     t.min,
			Max:     t.max,
			HasMax:  t.hasMax,
			Export:  export(tableExport+strconv.Itoa(i), ExternTable, uint32(i)),
			Changes: t.changes,
			Grows:   t.grows,
		})
	}
	if m.hasStart {
		p.Start = export(startExport, ExternFunc, m.start)
	}
	return added
}
