package wasm

import "fmt"

// PageSize is the unit of linear memory, in bytes.
const PageSize = 65_536

// ValType is the type of a value, in its binary encoding.
type ValType byte

// The value types of WebAssembly 2.0.
const (
	I32       ValType = 0x7f
	I64       ValType = 0x7e
	F32       ValType = 0x7d
	F64       ValType = 0x7c
	V128      ValType = 0x7b
	FuncRef   ValType = 0x70
	ExternRef ValType = 0x6f
)

func (t ValType) String() string {
	switch t {
	case I32:
		return "i32"
	case I64:
		return "i64"
	case F32:
		return "f32"
	case F64:
		return "f64"
	case V128:
		return "v128"
	case FuncRef:
		return "funcref"
	case ExternRef:
		return "externref"
	}
	return fmt.Sprintf("type %#x", byte(t))
}

// IsRef reports whether values of type t are references.
func (t ValType) IsRef() bool { return t == FuncRef || t == ExternRef }

// FuncType is the signature of a function.
type FuncType struct {
	Params, Results []ValType
}

// String writes the type as "(i32, i64) -> (i32)".
func (t FuncType) String() string {
	list := func(types []ValType) string {
		s := "("
		for i, v := range types {
			if i > 0 {
				s += ", "
			}
			s += v.String()
		}
		return s + ")"
	}
	return list(t.Params) + " -> " + list(t.Results)
}

// Equal reports whether t and u are the same signature.
func (t FuncType) Equal(u FuncType) bool {
	return string(t.Params) == string(u.Params) && string(t.Results) == string(u.Results)
}

// ExternKind says what an export is, in its binary encoding.
type ExternKind byte

// The kinds of exports.
const (
	ExternFunc   ExternKind = 0
	ExternTable  ExternKind = 1
	ExternMemory ExternKind = 2
	ExternGlobal ExternKind = 3
)

func (k ExternKind) String() string {
	switch k {
	case ExternFunc:
		return "function"
	case ExternTable:
		return "table"
	case ExternMemory:
		return "memory"
	case ExternGlobal:
		return "global"
	}
	return fmt.Sprintf("kind %d", byte(k))
}

// Import is a function that the module wants from the host interface.
type Import struct {
	Module, Name string
	Type         FuncType
}

// Export is something the author of the module made visible.
type Export struct {
	Name  string
	Kind  ExternKind
	Index uint32
	Type  FuncType // of a function; else zero
}

// Memory describes memory 0, the guest's. A module that declares none gets an empty
// one, with Min and Max zero.
type Memory struct {
	Min    uint64 // in pages
	Max    uint64 // in pages, at most 65,535; meaningless unless HasMax
	HasMax bool
	Export string // a name under which Code exports it, the author's or a reserved one; never empty
}

// Value is a constant.
type Value struct {
	Type ValType
	// Lo and Hi are the bits, little-endian: numbers of up to 64 bits are in Lo, zero-
	// extended. The index of a referenced function is in Lo.
	Lo, Hi uint64
	Null   bool // for a null reference
}

// Global is a mutable global: one that the module defines, or the flag of a segment.
type Global struct {
	Index  uint32
	Export string // the reserved name that reaches it
	Type   ValType
	Init   Value // what it holds in a new instance
}

// Table is a table that the module defines.
type Table struct {
	Index    uint32
	Type     ValType // FuncRef or ExternRef
	Min, Max uint32  // in elements; Max is meaningless unless HasMax
	HasMax   bool
	Export   string // the reserved name that reaches it
	Changes  bool   // some code of the module can change its elements
	Grows    bool   // some code of the module can grow it
}

// FuncExport is a function that a reference can refer to.
type FuncExport struct {
	Index  uint32
	Export string // the reserved name that reaches it
}

// Segment is a run of bytes in memory 0.
type Segment struct {
	Offset uint64
	Data   []byte
}
