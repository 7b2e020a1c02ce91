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
	// NoGates puts no gates into function bodies, so that what gates cost can be
	// measured. A guest prepared so can not be stopped. The gate memory is there
	// all the same.
	NoGates bool
}

// Prepared is a module that Faaslets can run. Nothing in it may be changed.
//
// # What a snapshot must hold
//
// The state of an instance, between two calls into it, is
//
//   - memory 0: its size and its bytes;
//   - the mutable globals, in Globals. The immutable ones are constants, because no global
//     can be imported;
//   - the tables: size and elements, of those in Tables that change. A reference to a
//     function is an entry of Funcs or null. One to something of the embedder's is null,
//     as long as no import gives the guest any other;
//   - which passive segments have been dropped. Nothing in an instance shows that, so each
//     that some code drops has a flag: a global of type i32, among Globals, that is 0
//     until then. Whoever restores a snapshot sets the globals and calls Drop if it is
//     not "". Active and declared segments are dropped in every new instance.
//
// There is no more to WebAssembly 2.0 with tail calls and relaxed SIMD. The operand stack
// and locals are gone when a call has returned; functions, types, exports and the bytes
// of segments never change; the gate memory stays zero, and no guest can name it. That
// the start function has run is not recorded: who restores must not call it again.
//
// Two things are the host's and may differ where a snapshot is restored: the bits of a
// NaN that arithmetic gives, with what relaxed SIMD leaves open, and how far a memory or
// table may grow. What the embedder itself keeps for an instance is not spoken of here.
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

	// Funcs are the functions that a reference can refer to, by index, if references can
	// change place: some code changes a table of functions, or there is a mutable global
	// of type funcref. Else it is empty, as it is for what compilers of C, C++, Rust and
	// Go emit.
	//
	// The list is complete. A reference comes from an element segment, a constant
	// expression, an export that the embedder passes in, or ref.func in code; and code may
	// name a function in ref.func only if one of the others names it too (C.refs in the
	// specification, which the engine checks).
	Funcs []FuncExport

	// Start is the reserved name of the function that the upload's start section
	// named; "" if there was none. The embedder calls it once an instance is made.
	Start string

	// Drop is the reserved name of a function () -> () that drops the segments whose flags
	// are set; "" if no code drops a passive segment.
	Drop string

	NumFuncs int // imported and defined, in the upload
	Stats    Stats

	names []byte
}

// Stats tells what Prepare did.
type Stats struct {
	Funcs           int // with a body
	Loops           int
	Gates           int // inserted, or begun with by what was
	CodeBytesBefore int // of the code section
	CodeBytesAfter  int
}

// Reserved names of exports.
const (
	memoryExport = reservedPrefix + "memory"
	startExport  = reservedPrefix + "start"
	dropExport   = reservedPrefix + "drop"
	funcExport   = reservedPrefix + "func."   // and the index
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
	m.addBulk()
	m.addGate()
	m.trackDrops()
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
	m.gates, m.copies, m.fills = nil, false, false
	for i := range m.bodies {
		b := &m.bodies[i]
		b.entry, b.gates, b.bulkCalls, b.bulkBytes = false, 0, 0, 0
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
	for _, i := range m.referred() {
		p.Funcs = append(p.Funcs, FuncExport{
			Index:  i,
			Export: export(funcExport+strconv.Itoa(int(i)), ExternFunc, i),
		})
	}
	if len(m.flags) > 0 {
		p.Drop = export(dropExport, ExternFunc, m.dropFunc)
	}
	if m.hasStart {
		p.Start = export(startExport, ExternFunc, m.start)
	}
	return added
}
