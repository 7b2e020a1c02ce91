package wasm

import (
	"bytes"
	"slices"
	"strings"
)

// sectionID is a section's number in the binary format.
type sectionID byte

const (
	secCustom    sectionID = 0
	secType      sectionID = 1
	secImport    sectionID = 2
	secFunction  sectionID = 3
	secTable     sectionID = 4
	secMemory    sectionID = 5
	secGlobal    sectionID = 6
	secExport    sectionID = 7
	secStart     sectionID = 8
	secElement   sectionID = 9
	secCode      sectionID = 10
	secData      sectionID = 11
	secDataCount sectionID = 12
	secTag       sectionID = 13
)

var sectionNames = [...]string{
	"custom", "type", "import", "function", "table", "memory", "global", "export",
	"start", "element", "code", "data", "data count", "tag",
}

// sectionRank orders the sections: each may stand only behind those of lower rank.
var sectionRank = [...]int{
	secType: 1, secImport: 2, secFunction: 3, secTable: 4, secMemory: 5, secTag: 6,
	secGlobal: 7, secExport: 8, secStart: 9, secElement: 10, secDataCount: 11,
	secCode: 12, secData: 13,
}

// module is an upload, read. Byte slices in it alias the upload.
type module struct {
	file []byte

	// sections holds the content of each section; nil if the module has none.
	sections [len(sectionNames)][]byte
	names    []byte // the content of the custom section "name", without its own name

	types         []FuncType
	imports       []Import
	funcs         []uint32 // the type of each function, imported ones first
	tables        []tableDef
	memory        Memory
	hasMemory     bool
	globals       []globalDef
	exports       []Export
	exportEntries []byte // the export section behind its count
	start         uint32
	hasStart      bool
	elemSegments  []bool // whether each is passive
	elems         int    // in all element segments
	dataCount     int
	hasDataCount  bool
	bodies        []body
	data          []dataSegment
	usesData      bool // some code names a data segment

	// referable says of each function whether a reference to it can exist; nil if none
	// can. See Prepared.Funcs.
	referable []bool

	gates []uint32 // see scanner
	loops int

	drops []drop
	flags map[segmentRef]uint32 // see trackDrops

	copies, fills bool // some code calls copyFunc, fillFunc

	// Functions that are added, and their indices; 0 for those that are not.
	added                                  [][]byte
	gateFunc, copyFunc, fillFunc, dropFunc uint32

	// prepared admits what only Prepare writes: the gate memory, gates, and reserved
	// names. Prepare never sets it; the tests read Prepare's output back with it.
	prepared bool
}

type tableDef struct {
	typ      ValType
	min, max uint32
	hasMax   bool
	changes  bool // some code can change its elements
	grows    bool // some code can grow it
}

type globalDef struct {
	typ     ValType
	mutable bool
	init    Value
}

// reservedPrefix begins the names under which Prepare exports what the embedder needs.
// No export of the guest may begin with it.
const reservedPrefix = "faasm:"

var (
	magic   = []byte("\x00asm")
	version = []byte("\x01\x00\x00\x00")
)

// parse reads the whole of file into m.
func (m *module) parse(file []byte) *Error {
	m.file = file
	r := reader{file: file, fn: -1}
	m.preamble(&r)
	for last := 0; r.err == nil && r.left() > 0; {
		last = m.readSection(&r, last)
	}
	if r.err == nil {
		m.agree(&r)
	}
	if e := r.err; e != nil && e.Func >= 0 {
		e.Name = funcName(findNames(file), uint32(e.Func))
	}
	return r.err
}

// preamble reads what a module begins with, and tells the commonest mistakes apart.
func (m *module) preamble(r *reader) {
	switch {
	case len(r.file) > maxFileBytes:
		r.fail(0, "module of %d bytes; at most %d are allowed", len(r.file), maxFileBytes)
	case len(r.file) == 0:
		r.fail(0, "empty file")
	case isText(r.file):
		r.fail(0, "this is WebAssembly text; convert it to binary first")
	case !bytes.HasPrefix(r.file, magic):
		r.fail(0, "not a WebAssembly module")
	case len(r.file) < len(magic)+len(version):
		r.fail(len(r.file), "unexpected end")
	case r.file[6] == 1:
		r.fail(4, "this is a WebAssembly component, not a core module")
	case !bytes.HasPrefix(r.file[4:], version):
		r.fail(4, "unknown WebAssembly version %x", r.file[4:8])
	default:
		r.pos = len(magic) + len(version)
	}
}

// isText reports whether a file looks like the text format.
func isText(file []byte) bool {
	head := bytes.TrimLeft(file[:min(len(file), 1024)], " \t\r\n")
	return bytes.HasPrefix(head, []byte("(module")) || bytes.HasPrefix(head, []byte(";;"))
}

// readSection reads the section at r. It takes the rank of the last section that was not
// a custom one, and returns the new last rank.
func (m *module) readSection(r *reader, last int) int {
	at := r.pos
	id := sectionID(r.byte())
	if int(id) >= len(sectionNames) {
		r.fail(at, "unknown section %d", id)
		return last
	}
	if id != secCustom {
		rank := sectionRank[id]
		if rank == last {
			r.fail(at, "a second %s section", sectionNames[id])
		} else if rank < last {
			r.fail(at, "the %s section stands too late", sectionNames[id])
		}
		last = rank
	}
	r.section = sectionNames[id]
	s := r.within(r.u32())
	r.section = ""
	if s.err == nil {
		m.sections[id] = s.file[s.pos:len(s.file):len(s.file)]
		m.section(id, &s)
	}
	r.err = s.err
	return last
}

// agree checks what one section says of another.
func (m *module) agree(r *reader) {
	end := len(m.file)
	if defined := len(m.funcs) - len(m.imports); len(m.bodies) != defined {
		r.fail(end, "%d functions declared, %d have code", defined, len(m.bodies))
	}
	if m.hasDataCount && len(m.data) != m.dataCount {
		r.fail(end, "data count section announces %d segments, data section has %d", m.dataCount, len(m.data))
	}
	if n := len(m.referred()); n > maxReferable {
		r.fail(end, "%d functions that references can refer to, and references change; at most %d are allowed", n, maxReferable)
	}
}

// section reads the content of a section, all of r.
func (m *module) section(id sectionID, r *reader) {
	switch id {
	case secCustom:
		m.customSection(r)
	case secType:
		m.typeSection(r)
	case secImport:
		m.importSection(r)
	case secFunction:
		m.functionSection(r)
	case secTable:
		m.tableSection(r)
	case secMemory:
		m.memorySection(r)
	case secGlobal:
		m.globalSection(r)
	case secExport:
		m.exportSection(r)
	case secStart:
		m.startSection(r)
	case secElement:
		m.elementSection(r)
	case secDataCount:
		m.hasDataCount = true
		m.dataCount = int(r.u32())
	case secCode:
		m.codeSection(r)
	case secData:
		m.dataSection(r)
	case secTag:
		r.fail(r.pos, "tags are of the exceptions proposal, which is not supported")
	}
	r.finish()
}

func (m *module) customSection(r *reader) {
	at := r.pos
	switch r.name() {
	case "name":
		if r.err == nil && m.names == nil {
			m.names = r.file[r.pos:]
		}
	case "dylink", "dylink.0":
		r.fail(at, "this is a dynamic library, not a function")
	}
	r.bytes(uint32(r.left()))
}

// funcForm begins a function type.
const funcForm = 0x60

func (m *module) typeSection(r *reader) {
	n := r.count("types", maxTypes)
	m.types = make([]FuncType, 0, n)
	for range n {
		at := r.pos
		switch form := r.byte(); form {
		case funcForm:
		case 0x4e, 0x4f, 0x50, 0x5e, 0x5f:
			r.fail(at, "type form %#x is of the garbage collection proposal, which is not supported", form)
		default:
			r.fail(at, "unknown type form %#x", form)
		}
		t := FuncType{Params: r.valTypes("parameters"), Results: r.valTypes("results")}
		if r.err != nil {
			return
		}
		m.types = append(m.types, t)
	}
}

func (r *reader) valTypes(what string) []ValType {
	n := r.count(what, maxParams)
	if n == 0 {
		return nil
	}
	list := make([]ValType, n)
	for i := range list {
		list[i] = r.valType()
	}
	return list
}

func (r *reader) valType() ValType {
	at := r.pos
	t := ValType(r.byte())
	switch t {
	case I32, I64, F32, F64, V128, FuncRef, ExternRef:
	case 0x63, 0x64:
		r.fail(at, "value type %#x is of the typed function references proposal, which is not supported", byte(t))
	case 0x69, 0x74:
		r.fail(at, "value type %#x is of the exceptions proposal, which is not supported", byte(t))
	case 0x6a, 0x6b, 0x6c, 0x6d, 0x6e, 0x71, 0x72, 0x73:
		r.fail(at, "value type %#x is of the garbage collection proposal, which is not supported", byte(t))
	default:
		r.fail(at, "unknown value type %#x", byte(t))
	}
	return t
}

func (r *reader) refType() ValType {
	at := r.pos
	t := r.valType()
	if !t.IsRef() {
		r.fail(at, "%v is not a reference type", t)
	}
	return t
}

// index reads an index that must be below n.
func (r *reader) index(what string, n int) uint32 {
	at := r.pos
	i := r.u32()
	if uint64(i) >= uint64(n) {
		r.fail(at, "%s %d does not exist; there are %d", what, i, n)
		return 0
	}
	return i
}

func (m *module) importSection(r *reader) {
	n := r.count("imports", maxImports)
	m.imports = make([]Import, 0, n)
	m.funcs = make([]uint32, 0, n)
	for range n {
		at := r.pos
		module, name := r.name(), r.name()
		kind := r.byte()
		if r.err != nil {
			return
		}
		switch kind {
		case 0:
			t := r.index("type", len(m.types))
			if r.err != nil {
				return
			}
			m.funcs = append(m.funcs, t)
			m.imports = append(m.imports, Import{module, name, m.types[t]})
		case 1, 2, 3:
			r.fail(at, "import %.100q %.100q is a %v; only functions can be imported", module, name, ExternKind(kind))
		case 4:
			r.fail(at, "import %.100q %.100q is a tag, of the exceptions proposal, which is not supported", module, name)
		default:
			r.fail(at, "import %.100q %.100q is of unknown kind %#x", module, name, kind)
		}
	}
}

func (m *module) functionSection(r *reader) {
	n := r.count("functions", maxFuncs-len(m.imports))
	funcs := make([]uint32, len(m.imports), len(m.imports)+n)
	copy(funcs, m.funcs)
	for range n {
		funcs = append(funcs, r.index("type", len(m.types)))
		if r.err != nil {
			return
		}
	}
	m.funcs = funcs
}

// limits reads the size limits of a table or a memory. The flags are those of all the
// proposals that add one, so that the message can name the right one.
func (r *reader) limits(what string) (lo, hi uint32, hasMax bool) {
	at := r.pos
	flags := r.byte()
	switch {
	case flags <= 1:
	case flags >= 0x10:
		r.fail(at, "unknown limits %#x", flags)
	case flags&2 != 0:
		r.fail(at, "shared %s: the threads proposal is not supported", what)
	case flags&4 != 0:
		r.fail(at, "%s with 64-bit addresses: the memory64 proposal is not supported", what)
	default:
		r.fail(at, "%s with pages of another size: the custom page sizes proposal is not supported", what)
	}
	lo = r.u32()
	if flags&1 != 0 {
		hasMax = true
		if hi = r.u32(); hi < lo {
			r.fail(at, "%s with minimum %d above its maximum %d", what, lo, hi)
		}
	}
	return lo, hi, hasMax
}

func (m *module) tableSection(r *reader) {
	n := r.count("tables", maxTables)
	total := uint64(0)
	for range n {
		at := r.pos
		if r.left() > 0 && r.file[r.pos] == 0x40 {
			r.fail(at, "table with an initial value: the typed function references proposal is not supported")
		}
		var t tableDef
		t.typ = r.refType()
		t.min, t.max, t.hasMax = r.limits("table")
		if total += uint64(t.min); total > maxTableElems {
			r.fail(at, "tables of %d initial elements in all; at most %d are allowed", total, maxTableElems)
		}
		if r.err != nil {
			return
		}
		m.tables = append(m.tables, t)
	}
}

func (m *module) memorySection(r *reader) {
	at := r.pos
	n := r.u32()
	if m.prepared {
		if n != 2 {
			r.fail(at, "%d memories in a prepared module", n)
		}
	} else if n > 1 {
		r.fail(at, "%d memories: the multi-memory proposal is not supported", n)
	}
	if n == 0 || r.err != nil {
		return
	}
	at = r.pos
	lo, hi, hasMax := r.limits("memory")
	switch {
	case lo > maxMemoryPages:
		r.fail(at, "memory of %d pages; at most %d are allowed", lo, maxMemoryPages)
	case hi > 65_536:
		r.fail(at, "memory with a maximum of %d pages; there are at most 65536", hi)
	}
	m.hasMemory = true
	m.memory = Memory{Min: uint64(lo), Max: min(uint64(hi), maxMemoryPages), HasMax: hasMax}
	if m.prepared {
		if gate := r.bytes(uint32(len(gateMemory))); !bytes.Equal(gate, gateMemory) {
			r.fail(r.pos, "gate memory has limits %#x", gate)
		}
	}
}

// memories returns how many memories there are, the gate left out.
func (m *module) memories() int {
	if m.hasMemory {
		return 1
	}
	return 0
}

func (m *module) globalSection(r *reader) {
	n := r.count("globals", maxGlobals)
	m.globals = make([]globalDef, 0, n)
	for range n {
		g := globalDef{typ: r.valType()}
		at := r.pos
		switch mut := r.byte(); mut {
		case 0, 1:
			g.mutable = mut == 1
		case 2, 3:
			r.fail(at, "shared global: the shared-everything threads proposal is not supported")
		default:
			r.fail(at, "unknown mutability %#x", mut)
		}
		g.init = m.constExpr(r, g.typ)
		if r.err != nil {
			return
		}
		m.globals = append(m.globals, g)
	}
}

func (m *module) exportSection(r *reader) {
	n := r.count("exports", maxExports)
	m.exports = make([]Export, 0, n)
	seen := make(map[string]struct{}, n)
	first := r.pos
	for range n {
		at := r.pos
		e := Export{Name: r.name()}
		kindAt := r.pos
		e.Kind = ExternKind(r.byte())
		if r.err != nil {
			return
		}
		if _, twice := seen[e.Name]; twice {
			r.fail(at, "two exports are named %.100q", e.Name)
		}
		seen[e.Name] = struct{}{}
		if !m.prepared && strings.HasPrefix(e.Name, reservedPrefix) {
			r.fail(at, "export %.100q: names that begin with %q are reserved", e.Name, reservedPrefix)
		}
		switch e.Kind {
		case ExternFunc:
			e.Index = r.index("function", len(m.funcs))
			if r.err == nil {
				e.Type = m.types[m.funcs[e.Index]]
				m.refer(e.Index)
			}
		case ExternTable:
			e.Index = r.index("table", len(m.tables))
		case ExternMemory:
			e.Index = r.index("memory", m.memories())
			if m.memory.Export == "" {
				m.memory.Export = e.Name
			}
		case ExternGlobal:
			e.Index = r.index("global", len(m.globals))
		case 4:
			r.fail(kindAt, "export %.100q is a tag, of the exceptions proposal, which is not supported", e.Name)
		default:
			r.fail(kindAt, "export %.100q is of unknown kind %#x", e.Name, byte(e.Kind))
		}
		if r.err != nil {
			return
		}
		m.exports = append(m.exports, e)
	}
	m.exportEntries = r.file[first:r.pos]
}

func (m *module) startSection(r *reader) {
	at := r.pos
	m.start = r.index("function", len(m.funcs))
	if r.err != nil {
		return
	}
	if t := m.types[m.funcs[m.start]]; !t.Equal(FuncType{}) {
		r.fail(at, "start function %d has type %v; it must take and return nothing", m.start, t)
	}
	m.hasStart = true
}

// elementSection reads past the element segments, which stay as they are: the engine
// fills the tables of each new instance from them.
func (m *module) elementSection(r *reader) {
	n := r.count("element segments", maxElemSegments)
	m.elemSegments = make([]bool, 0, n)
	for range n {
		at := r.pos
		flags := r.u32()
		if flags > 7 {
			r.fail(at, "unknown element segment flags %#x", flags)
			return
		}
		// Bit 0: passive or declared. Bit 1: with a table index, or declared. Bit 2:
		// expressions in place of function indices.
		active, exprs := flags&1 == 0, flags&4 != 0
		table, offset := uint32(0), Value{}
		if active {
			if flags&2 != 0 {
				table = r.index("table", len(m.tables))
			} else if len(m.tables) == 0 {
				r.fail(at, "table 0 does not exist; there are 0")
			}
			offset = m.constExpr(r, I32)
		}
		typ := FuncRef
		if flags&3 != 0 {
			if exprs {
				typ = r.refType()
			} else if kind := r.byte(); kind != 0 {
				r.fail(r.pos-1, "unknown element kind %#x", kind)
			}
		}
		listAt := r.pos
		count := r.count("elements", maxElems-m.elems)
		for i := 0; i < count && r.err == nil; i++ {
			if exprs {
				m.constExpr(r, typ)
			} else if f := r.index("function", len(m.funcs)); r.err == nil {
				m.refer(f)
			}
		}
		if r.err != nil {
			return
		}
		if active {
			t := m.tables[table]
			if typ != t.typ {
				r.fail(at, "%v segment for a table of %v", typ, t.typ)
			}
			if offset.Lo+uint64(count) > uint64(t.min) {
				r.fail(listAt, "elements %d to %d lie beyond the initial size of table %d, which is %d",
					offset.Lo, offset.Lo+uint64(count), table, t.min)
			}
		}
		m.elems += count
		m.elemSegments = append(m.elemSegments, flags&3 == 1)
	}
}

// refer notes that a reference to function f can exist.
func (m *module) refer(f uint32) {
	if m.referable == nil {
		m.referable = make([]bool, len(m.funcs))
	}
	m.referable[f] = true
}

// referred returns the functions of Prepared.Funcs.
func (m *module) referred() []uint32 {
	table := func(t tableDef) bool { return t.typ == FuncRef && t.changes }
	global := func(g globalDef) bool { return g.typ == FuncRef && g.mutable }
	if !slices.ContainsFunc(m.tables, table) && !slices.ContainsFunc(m.globals, global) {
		return nil
	}
	var funcs []uint32
	for i, can := range m.referable {
		if can {
			funcs = append(funcs, uint32(i))
		}
	}
	return funcs
}
