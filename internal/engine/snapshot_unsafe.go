package engine

/*
#include <stdlib.h>
#include "engine.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"time"
	"unsafe"
)

// Value is what a global holds. Of a reference only what an export names can be said: a
// function, or null. External references are always null, because the host has none to
// give.
type Value struct {
	Type ValType
	Bits [16]byte // of a number, little-endian, in the first 4, 8 or 16 bytes
	Func string   // of a FuncRef: the function's export; "" is null
}

// GlobalValue is what an exported mutable global is to hold.
type GlobalValue struct {
	Export string
	Value  Value
}

// TableValue is what an exported table is to hold: Size elements in all, of which those
// listed differ from what the module itself puts there. Elements beyond the size that the
// table begins with are null unless they are listed.
type TableValue struct {
	Export   string
	Size     uint64
	Elements []TableElement
}

// TableElement is one function reference in a table.
type TableElement struct {
	Index uint64
	Func  string // the function's export; "" is null
}

// Restore is what an instance is given as soon as it is made, so that it goes on from where
// another one was: all of that one's state but for its memory, which is the caller's.
type Restore struct {
	Globals []GlobalValue
	Tables  []TableValue
	Clock   time.Duration // reading of the monotonic clock from which the guest's goes on
}

// SetRestore makes all later instances of the module start as r says. It must be called
// once at most, and while no instance is being made: that of an initialisation, which was
// made before, is not changed by it.
//
// An error names the export that is not there or has another type, or the value that does
// not fit; the module is then as before. What only an instance can show, a lack of memory
// for a table, ends that instance: it is Trapped when it is made.
func (m *Module) SetRestore(r Restore) error {
	if m.c.restore != nil {
		panic("BUG: a module is to be restored in two ways")
	}
	exports := m.exports()
	if err := checkRestore(r, exports); err != nil {
		return fmt.Errorf("restore %w", err)
	}
	m.c.restore = newPlan(r, exports)
	return nil
}

// export is the type of an export.
type export struct {
	kind     C.wasm_externkind_t
	typ      ValType // of a global, or of a table's elements
	mutable  bool
	min, max uint64 // elements of a table
}

func (m *Module) exports() map[string]export {
	var v C.wasm_exporttype_vec_t
	C.fsl_module_exports(m.c, &v)
	defer C.wasm_exporttype_vec_delete(&v)
	out := make(map[string]export, v.size)
	for i := range v.size {
		var e C.fsl_export
		C.fsl_export_at(&v, i, &e)
		out[C.GoStringN(e.name, C.int(e.n))] = export{
			kind: e.kind, typ: ValType(e._type), mutable: bool(e.mutable_), min: uint64(e.min), max: uint64(e.max),
		}
	}
	return out
}

func checkRestore(r Restore, exports map[string]export) error {
	if r.Clock < 0 || r.Clock > C.FSL_CLOCK_MAX {
		return fmt.Errorf("clock: a reading of %d ns is out of range", r.Clock)
	}
	checkFunc := func(name string) error {
		if e, ok := exports[name]; name != "" && (!ok || e.kind != C.WASM_EXTERN_FUNC) {
			return fmt.Errorf("no function is exported as %q", name)
		}
		return nil
	}
	for _, g := range r.Globals {
		e, ok := exports[g.Export]
		switch {
		case !ok || e.kind != C.WASM_EXTERN_GLOBAL:
			return fmt.Errorf("global %q: no global is exported so", g.Export)
		case !e.mutable:
			return fmt.Errorf("global %q: it can't be changed", g.Export)
		case e.typ != g.Value.Type:
			return fmt.Errorf("global %q: it is a %v, not a %v", g.Export, e.typ, g.Value.Type)
		case e.typ != FuncRef && g.Value.Func != "":
			return fmt.Errorf("global %q: a %v can't be function %q", g.Export, e.typ, g.Value.Func)
		}
		if err := checkFunc(g.Value.Func); err != nil {
			return fmt.Errorf("global %q: %w", g.Export, err)
		}
	}
	for _, t := range r.Tables {
		e, ok := exports[t.Export]
		if !ok || e.kind != C.WASM_EXTERN_TABLE {
			return fmt.Errorf("table %q: no table is exported so", t.Export)
		}
		if most := min(e.max, max(e.min, TableElementsMax)); t.Size < e.min || t.Size > most {
			return fmt.Errorf("table %q: a size of %d is not within its %d to %d", t.Export, t.Size, e.min, most)
		}
		for _, el := range t.Elements {
			switch {
			case el.Index >= t.Size:
				return fmt.Errorf("table %q: index %d is beyond its %d elements", t.Export, el.Index, t.Size)
			case e.typ != FuncRef && el.Func != "":
				return fmt.Errorf("table %q: a %v can't be function %q", t.Export, e.typ, el.Func)
			}
			if err := checkFunc(el.Func); err != nil {
				return fmt.Errorf("table %q: index %d: %w", t.Export, el.Index, err)
			}
		}
	}
	return nil
}

// newPlan copies r into C memory, which fsl_module_delete frees. Nothing in r is wrong.
func newPlan(r Restore, exports map[string]export) *C.fsl_restore {
	var names []string
	indices := map[string]C.uint32_t{"": 0}
	index := func(name string) C.uint32_t {
		i, ok := indices[name]
		if !ok {
			names = append(names, name)
			i = C.uint32_t(len(names))
			indices[name] = i
		}
		return i
	}
	globals := newArray[C.fsl_restore_global](len(r.Globals))
	for i, g := range r.Globals {
		out := &globals[i]
		out.name, out.kind, out._func = newName(g.Export), C.wasmtime_valkind_t(g.Value.Type), index(g.Value.Func)
		for j, b := range g.Value.Bits {
			out.bits[j] = C.uint8_t(b)
		}
	}
	tables := newArray[C.fsl_restore_table](len(r.Tables))
	for i, t := range r.Tables {
		elements := newArray[C.fsl_restore_element](len(t.Elements))
		for j, el := range t.Elements {
			elements[j] = C.fsl_restore_element{index: C.uint32_t(el.Index), _func: index(el.Func)}
		}
		tables[i] = C.fsl_restore_table{
			name: newName(t.Export), kind: C.wasmtime_valkind_t(exports[t.Export].typ), size: C.uint64_t(t.Size),
			elements: unsafe.SliceData(elements), nelements: C.size_t(len(elements)),
		}
	}
	funcs := newArray[C.fsl_name](len(names))
	for i, name := range names {
		funcs[i] = newName(name)
	}
	plan := &newArray[C.fsl_restore](1)[0]
	*plan = C.fsl_restore{
		funcs: unsafe.SliceData(funcs), nfuncs: C.size_t(len(funcs)),
		globals: unsafe.SliceData(globals), nglobals: C.size_t(len(globals)),
		tables: unsafe.SliceData(tables), ntables: C.size_t(len(tables)),
		clock: C.int64_t(r.Clock),
	}
	return plan
}

// newArray is zeroed C memory.
func newArray[T any](n int) []T {
	var zero T
	return unsafe.Slice((*T)(C.calloc(C.size_t(max(n, 1)), C.size_t(unsafe.Sizeof(zero)))), n)
}

func newName(s string) C.fsl_name {
	return C.fsl_name{at: (*C.char)(C.CBytes([]byte(s))), n: C.size_t(len(s))}
}

// The methods below read an instance that Instantiate made, while its guest does not run.

// FuncID is the identity of an exported function: what a reference to it in a global or
// a table of this instance reads as. It means nothing in another instance.
func (i Instance) FuncID(export string) (uintptr, error) {
	name, n := chars(export)
	var id C.uintptr_t
	if C.fsl_func_id(i.c, name, n, &id) != C.FSL_READ {
		return 0, fmt.Errorf("read function %q: no function is exported so", export)
	}
	return uintptr(id), nil
}

// Global reads an exported global that holds a number or an external reference, which is
// null or an error. What a FuncRef refers to, GlobalFuncID tells.
func (i Instance) Global(export string) (Value, error) {
	v, _, err := i.global(export)
	if err == nil && v.Type == FuncRef {
		err = errors.New("it is a funcref")
	}
	if err != nil {
		return Value{}, fmt.Errorf("read global %q: %w", export, err)
	}
	return v, nil
}

// GlobalFuncID is the identity of the function that an exported FuncRef global refers to,
// or 0 for null.
func (i Instance) GlobalFuncID(export string) (uintptr, error) {
	v, id, err := i.global(export)
	if err == nil && v.Type != FuncRef {
		err = fmt.Errorf("it is a %v, not a funcref", v.Type)
	}
	if err != nil {
		return 0, fmt.Errorf("read global %q: %w", export, err)
	}
	return id, nil
}

func (i Instance) global(export string) (Value, uintptr, error) {
	name, n := chars(export)
	var kind C.wasmtime_valkind_t
	var bits [16]C.uint8_t
	var id C.uintptr_t
	switch C.fsl_global(i.c, name, n, &kind, &bits[0], &id) {
	case C.FSL_NOT_THERE:
		return Value{}, 0, errors.New("no global is exported so")
	case C.FSL_NOT_NULL:
		return Value{}, 0, errNotNull
	}
	v := Value{Type: ValType(kind)}
	for j, b := range bits {
		v.Bits[j] = byte(b)
	}
	return v, uintptr(id), nil
}

// errNotNull is the answer to an external reference, which no host function hands out.
var errNotNull = errors.New("it holds an external reference, which nothing can give back")

// TableSize is the number of elements of an exported table.
func (i Instance) TableSize(export string) (uint64, error) {
	name, n := chars(export)
	var size C.uint64_t
	if C.fsl_table_size(i.c, name, n, &size) != C.FSL_READ {
		return 0, fmt.Errorf("read table %q: no table is exported so", export)
	}
	return uint64(size), nil
}

// TableFuncIDs fills out with the identities of the functions in an exported table, from
// an index on; 0 is null. All elements of a table of ExternRef must be null. After an
// error out is in no defined state.
func (i Instance) TableFuncIDs(export string, from uint64, out []uintptr) error {
	name, n := chars(export)
	at := C.uint64_t(from)
	ids := (*C.uintptr_t)(unsafe.Pointer(unsafe.SliceData(out)))
	switch C.fsl_table_ids(i.c, name, n, &at, ids, C.size_t(len(out))) {
	case C.FSL_NOT_THERE:
		return fmt.Errorf("read table %q: there is no element %d", export, uint64(at))
	case C.FSL_NOT_NULL:
		return fmt.Errorf("read table %q: index %d: %w", export, uint64(at), errNotNull)
	}
	return nil
}

// chars are a string's bytes, for the time of a call into C.
func chars(s string) (*C.char, C.size_t) {
	return (*C.char)(unsafe.Pointer(unsafe.StringData(s))), C.size_t(len(s))
}
