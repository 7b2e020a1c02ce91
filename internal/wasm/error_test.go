package wasm

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

var noType = section(secType, vec(funcType(nil, nil)))

func TestPrepare_malformed(t *testing.T) {
	oneFunc := section(secFunction, vec(raw(0)))
	memory := section(secMemory, vec(raw(0, 1)))
	table := section(secTable, vec(cat(FuncRef, 0, 2)))
	// inCode makes a module of one function whose code begins at offset 0x1f if the
	// instructions with their end take less than 126 bytes.
	inCode := func(instructions ...byte) []byte {
		return binaryOf(noType, oneFunc, memory, section(secCode, vec(code(instructions))))
	}
	must(t, inCode(0x01))

	rows := []struct {
		name string
		bin  []byte
		want string
	}{
		// What is not a module at all.
		{"empty", nil, "offset 0x0: empty file"},
		{"text", []byte(" \n(module)"), "offset 0x0: this is WebAssembly text; convert it to binary first"},
		{"commented text", []byte(";; sum\n(module)"), "offset 0x0: this is WebAssembly text; convert it to binary first"},
		{"ELF", []byte("\x7fELF\x02\x01\x01\x00\x00"), "offset 0x0: not a WebAssembly module"},
		{"magic cut", raw(0, 'a', 's'), "offset 0x0: not a WebAssembly module"},
		{"version cut", raw(0, 'a', 's', 'm', 1, 0), "offset 0x6: unexpected end"},
		{"component", raw(0, 'a', 's', 'm', 0x0d, 0, 1, 0), "offset 0x4: this is a WebAssembly component, not a core module"},
		{"version 2", raw(0, 'a', 's', 'm', 2, 0, 0, 0), "offset 0x4: unknown WebAssembly version 02000000"},
		{"dynamic library", binaryOf(customSection("dylink.0", 1)), "custom section, offset 0xa: this is a dynamic library, not a function"},
		{"old dynamic library", binaryOf(customSection("dylink", 1)), "custom section, offset 0xa: this is a dynamic library, not a function"},

		// Sections.
		{"section number", binaryOf(raw(14, 0)), "offset 0x8: unknown section 14"},
		{"section number 255", binaryOf(raw(255, 0)), "offset 0x8: unknown section 255"},
		{"section size cut", binaryOf(raw(1)), "type section, offset 0x9: unexpected end"},
		{"section size past the end", binaryOf(raw(1, 2, 0)), "type section, offset 0xa: unexpected end: 2 bytes announced, 1 left"},
		{"section size of six bytes", binaryOf(raw(1, 0x80, 0x80, 0x80, 0x80, 0x80, 0)), "type section, offset 0x9: number does not fit 32 bits"},
		{"section size above 32 bits", binaryOf(raw(1, 0xff, 0xff, 0xff, 0xff, 0x1f)), "type section, offset 0x9: number does not fit 32 bits"},
		{"section size 4 GiB", binaryOf(raw(1, 0xff, 0xff, 0xff, 0xff, 0x0f)), "type section, offset 0xe: unexpected end: 4294967295 bytes announced, 0 left"},
		{"section too long", binaryOf(raw(1, 2, 0, 0)), "type section, offset 0xb: 1 bytes too many"},
		{"section twice", binaryOf(raw(1, 1, 0), raw(1, 1, 0)), "offset 0xb: a second type section"},
		{"section late", binaryOf(raw(3, 1, 0), raw(1, 1, 0)), "offset 0xb: the type section stands too late"},
		{"data count behind code", binaryOf(raw(10, 1, 0), raw(12, 1, 0)), "offset 0xb: the data count section stands too late"},
		{"data before code", binaryOf(raw(11, 1, 0), raw(10, 1, 0)), "offset 0xb: the code section stands too late"},
		{"custom section without name", binaryOf(raw(0, 0)), "custom section, offset 0xa: unexpected end"},
		{"custom section with name cut", binaryOf(raw(0, 2, 5, 'a')), "custom section, offset 0xb: unexpected end: 5 bytes announced, 1 left"},
		{"custom section with name not UTF-8", binaryOf(raw(0, 2, 1, 0xff)), `custom section, offset 0xa: name "\xff" is not UTF-8`},
		{"tags", binaryOf(raw(13, 3, 1, 0, 0)), "tag section, offset 0xa: tags are of the exceptions proposal, which is not supported"},

		// Types.
		{"type count 4 billion", binaryOf(raw(1, 5, 0xff, 0xff, 0xff, 0xff, 0x0f)), "type section, offset 0xa: 4294967295 types; at most 100000 are allowed"},
		{"type count past the end", binaryOf(raw(1, 2, 5, 0x60)), "type section, offset 0xa: 5 types announced in the 1 bytes left"},
		{"type form", binaryOf(section(secType, vec(raw(0x61)))), "type section, offset 0xb: unknown type form 0x61"},
		{"struct type", binaryOf(section(secType, vec(raw(0x5f, 0)))), "type section, offset 0xb: type form 0x5f is of the garbage collection proposal, which is not supported"},
		{"recursion group", binaryOf(section(secType, vec(raw(0x4e, 0)))), "type section, offset 0xb: type form 0x4e is of the garbage collection proposal, which is not supported"},
		{"parameter of no type", binaryOf(section(secType, vec(raw(0x60, 1, 0x40, 0)))), "type section, offset 0xd: unknown value type 0x40"},
		{"parameter of typed reference", binaryOf(section(secType, vec(raw(0x60, 1, 0x64, 0, 0)))), "type section, offset 0xd: value type 0x64 is of the typed function references proposal, which is not supported"},
		{"result of exnref", binaryOf(section(secType, vec(raw(0x60, 0, 1, 0x69)))), "type section, offset 0xe: value type 0x69 is of the exceptions proposal, which is not supported"},
		{"result of anyref", binaryOf(section(secType, vec(raw(0x60, 0, 1, 0x6e)))), "type section, offset 0xe: value type 0x6e is of the garbage collection proposal, which is not supported"},
		{"parameters too many", binaryOf(section(secType, vec(cat(byte(0x60), 1001, bytes.Repeat(raw(0x7f), 1001), 0)))), "type section, offset 0xd: 1001 parameters; at most 1000 are allowed"},

		// Imports.
		{"import of type unknown", binaryOf(noType, section(secImport, vec(cat("m", "f", 0, 1)))), "import section, offset 0x16: type 1 does not exist; there are 1"},
		{"import of a table", binaryOf(section(secImport, vec(cat("env", "t", 1, FuncRef, 0, 1)))), `import section, offset 0xb: import "env" "t" is a table; only functions can be imported`},
		{"import of a memory", binaryOf(section(secImport, vec(cat("env", "memory", 2, 0, 1)))), `import section, offset 0xb: import "env" "memory" is a memory; only functions can be imported`},
		{"import of a global", binaryOf(section(secImport, vec(cat("env", "__stack_pointer", 3, I32, 1)))), `import section, offset 0xb: import "env" "__stack_pointer" is a global; only functions can be imported`},
		{"import of a tag", binaryOf(section(secImport, vec(cat("env", "__cpp_exception", 4, 0, 0)))), `import section, offset 0xb: import "env" "__cpp_exception" is a tag, of the exceptions proposal, which is not supported`},
		{"import of kind 5", binaryOf(section(secImport, vec(cat("env", "x", 5, 0)))), `import section, offset 0xb: import "env" "x" is of unknown kind 0x5`},
		{"import name not UTF-8", binaryOf(noType, section(secImport, vec(cat("m", "\xc0\x80", 0, 0)))), `import section, offset 0x13: name "\xc0\x80" is not UTF-8`},
		{"import name of 4 GiB", binaryOf(section(secImport, cat(1, raw(0xff, 0xff, 0xff, 0xff, 0x0f)))), "import section, offset 0xb: name of 4294967295 bytes; at most 100000 are allowed"},

		// Functions and code.
		{"function of type unknown", binaryOf(noType, section(secFunction, vec(raw(1)))), "function section, offset 0x11: type 1 does not exist; there are 1"},
		{"function without code", binaryOf(noType, oneFunc), "offset 0x12: 1 functions declared, 0 have code"},
		{"code without function", binaryOf(section(secCode, vec(code()))), "code section, offset 0xa: 0 functions declared, 1 have code"},
		{"code count wrong", binaryOf(noType, oneFunc, section(secCode, vec(code(), code()))), "code section, offset 0x14: 1 functions declared, 2 have code"},
		{"body past the section", binaryOf(noType, oneFunc, section(secCode, raw(1, 3, 0, 0x0b))), "code section, offset 0x16 (function 0): unexpected end: 3 bytes announced, 2 left"},
		{"body without locals", binaryOf(noType, oneFunc, section(secCode, raw(1, 0))), "code section, offset 0x16 (function 0): unexpected end"},
		{"locals too many", binaryOf(noType, oneFunc, section(secCode, vec(sized(cat(1, 50_001, I32, byte(opEnd)))))), "code section, offset 0x16 (function 0): 50001 locals; at most 50000 are allowed"},
		{"locals that wrap", binaryOf(noType, oneFunc, section(secCode, vec(sized(cat(2, 1<<32-1, I32, 1<<32-1, I32, byte(opEnd)))))), "code section, offset 0x16 (function 0): 4294967295 locals; at most 50000 are allowed"},
		{"local of no type", binaryOf(noType, oneFunc, section(secCode, vec(sized(cat(1, 1, byte(0x00), byte(opEnd)))))), "code section, offset 0x18 (function 0): unknown value type 0x0"},
		{"no end", binaryOf(noType, oneFunc, section(secCode, vec(sized(raw(0, 0x01))))), "code section, offset 0x18 (function 0): unexpected end"},
		{"block without end", inCode(0x02, 0x40), "code section, offset 0x1f (function 0): unexpected end"},
		{"code behind the end", inCode(0x0b, 0x01), "code section, offset 0x1d (function 0): 2 bytes too many"},
		{"else in a block", inCode(0x02, 0x40, 0x05, 0x0b), "code section, offset 0x1e (function 0): else outside an if"},
		{"else in a function", inCode(0x05), "code section, offset 0x1c (function 0): else outside an if"},
		{"else twice", inCode(0x41, 0, 0x04, 0x40, 0x05, 0x05, 0x0b), "code section, offset 0x21 (function 0): else outside an if"},
		{"block type unknown", inCode(0x02, 0x05), "code section, offset 0x1d (function 0): block type 5 does not exist; there are 1"},
		{"block type negative", inCode(0x02, 0xff, 0x7f), "code section, offset 0x1d (function 0): block type -1 does not exist; there are 1"},
		{"block type of no value type", inCode(0x02, 0x41), "code section, offset 0x1d (function 0): unknown value type 0x41"},
		{"block type above 33 bits", inCode(0x02, 0xff, 0xff, 0xff, 0xff, 0x1f), "code section, offset 0x1d (function 0): number does not fit 33 bits"},
		{"label unknown", inCode(0x0c, 0x01), "code section, offset 0x1d (function 0): label 1 does not exist; there are 1"},
		{"label table unknown", inCode(0x0e, 0x01, 0x00, 0x07), "code section, offset 0x1f (function 0): label 7 does not exist; there are 1"},
		{"label table count", inCode(0x0e, 0xff, 0xff, 0xff, 0xff, 0x0f), "code section, offset 0x1d (function 0): 4294967295 labels announced in the 1 bytes left"},
		{"call of function unknown", inCode(0x10, 0x01), "code section, offset 0x1d (function 0): function 1 does not exist; there are 1"},
		{"indirect call without table", inCode(0x11, 0x00, 0x00), "code section, offset 0x1e (function 0): table 0 does not exist; there are 0"},
		{"global unknown", inCode(0x23, 0x00), "code section, offset 0x1d (function 0): global 0 does not exist; there are 0"},
		{"table unknown", inCode(0x26, 0x00), "code section, offset 0x1d (function 0): table 0 does not exist; there are 0"},
		{"element segment unknown", inCode(0xfc, 0x0d, 0x00), "code section, offset 0x1e (function 0): element segment 0 does not exist; there are 0"},
		{"data without count", inCode(0xfc, 0x09, 0x00), "code section, offset 0x1e (function 0): data segment named in code, but the module has no data count section"},
		{"constant above 32 bits", inCode(0x41, 0xff, 0xff, 0xff, 0xff, 0x1f), "code section, offset 0x1d (function 0): number does not fit 32 bits"},
		{"constant below 32 bits", inCode(0x41, 0x80, 0x80, 0x80, 0x80, 0x60), "code section, offset 0x1d (function 0): number does not fit 32 bits"},
		{"constant of six bytes", inCode(0x41, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00), "code section, offset 0x1d (function 0): number does not fit 32 bits"},
		{"constant above 64 bits", inCode(0x42, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02), "code section, offset 0x1d (function 0): number does not fit 64 bits"},
		{"constant of eleven bytes", inCode(0x42, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00), "code section, offset 0x1d (function 0): number does not fit 64 bits"},
		{"constant cut", binaryOf(noType, oneFunc, section(secCode, vec(sized(raw(0, 0x44, 1, 2))))), "code section, offset 0x18 (function 0): unexpected end: 8 bytes announced, 2 left"},
		{"select of no type", inCode(0x1c, 0x01, 0x40), "code section, offset 0x1e (function 0): unknown value type 0x40"},
		{"null of i32", inCode(0xd0, 0x7f), "code section, offset 0x1d (function 0): i32 is not a heap type"},
		{"null of any", inCode(0xd0, 0x6e), "code section, offset 0x1d (function 0): value type 0x6e is of the garbage collection proposal, which is not supported"},

		// Opcodes of other proposals, and of none.
		{"try", inCode(0x06, 0x40), "code section, offset 0x1c (function 0): opcode 0x06 is of the exceptions proposal, which is not supported"},
		{"throw", inCode(0x08, 0x00), "code section, offset 0x1c (function 0): opcode 0x08 is of the exceptions proposal, which is not supported"},
		{"delegate", inCode(0x18, 0x00), "code section, offset 0x1c (function 0): opcode 0x18 is of the exceptions proposal, which is not supported"},
		{"try_table", inCode(0x1f, 0x40), "code section, offset 0x1c (function 0): opcode 0x1f is of the exceptions proposal, which is not supported"},
		{"call_ref", inCode(0x14, 0x00), "code section, offset 0x1c (function 0): opcode 0x14 is of the typed function references proposal, which is not supported"},
		{"ref.as_non_null", inCode(0xd4), "code section, offset 0x1c (function 0): opcode 0xd4 is of the typed function references proposal, which is not supported"},
		{"ref.eq", inCode(0xd3), "code section, offset 0x1c (function 0): opcode 0xd3 is of the garbage collection proposal, which is not supported"},
		{"struct.new", inCode(0xfb, 0x00), "code section, offset 0x1c (function 0): opcode 0xfb is of the garbage collection proposal, which is not supported"},
		{"resume", inCode(0xe3), "code section, offset 0x1c (function 0): opcode 0xe3 is of the stack switching proposal, which is not supported"},
		{"atomic", inCode(0xfe, 0x10, 0x02, 0x00), "code section, offset 0x1c (function 0): opcode 0xfe is of the threads and atomics proposal, which is not supported"},
		{"i64.add128", inCode(0xfc, 0x13), "code section, offset 0x1c (function 0): opcode 0xfc 0x13 is of the wide arithmetic proposal, which is not supported"},
		{"opcode unknown", inCode(0xff), "code section, offset 0x1c (function 0): unknown opcode 0xff"},
		{"opcode between", inCode(0x27, 0x00), "code section, offset 0x1c (function 0): unknown opcode 0x27"},
		{"opcode behind 0xfc unknown", inCode(0xfc, 0x20), "code section, offset 0x1c (function 0): unknown opcode 0xfc 0x20"},
		{"opcode behind 0xfd unknown", inCode(0xfd, 0x9a, 0x01), "code section, offset 0x1c (function 0): unknown opcode 0xfd 0x9a"},
		{"opcode behind 0xfd far off", inCode(0xfd, 0xff, 0xff, 0xff, 0xff, 0x0f), "code section, offset 0x1c (function 0): unknown opcode 0xfd 0xffffffff"},
		{"opcode behind 0xfd of 33 bits", inCode(0xfd, 0xff, 0xff, 0xff, 0xff, 0x1f), "code section, offset 0x1d (function 0): number does not fit 32 bits"},

		// Memories.
		{"two memories", binaryOf(section(secMemory, vec(raw(0, 1), raw(0, 1)))), "memory section, offset 0xa: 2 memories: the multi-memory proposal is not supported"},
		{"shared memory", binaryOf(section(secMemory, vec(raw(3, 1, 1)))), "memory section, offset 0xb: shared memory: the threads proposal is not supported"},
		{"memory64", binaryOf(section(secMemory, vec(raw(4, 1)))), "memory section, offset 0xb: memory with 64-bit addresses: the memory64 proposal is not supported"},
		{"custom page size", binaryOf(section(secMemory, vec(raw(8, 1, 0)))), "memory section, offset 0xb: memory with pages of another size: the custom page sizes proposal is not supported"},
		{"memory flags", binaryOf(section(secMemory, vec(raw(0x10, 1)))), "memory section, offset 0xb: unknown limits 0x10"},
		{"memory of 4 GiB", binaryOf(section(secMemory, vec(cat(0, 65_536)))), "memory section, offset 0xb: memory of 65536 pages; at most 65535 are allowed"},
		{"memory above 4 GiB", binaryOf(section(secMemory, vec(cat(1, 1, 65_537)))), "memory section, offset 0xb: memory with a maximum of 65537 pages; there are at most 65536"},
		{"memory with maximum below minimum", binaryOf(section(secMemory, vec(cat(1, 2, 1)))), "memory section, offset 0xb: memory with minimum 2 above its maximum 1"},
		{"access without memory", binaryOf(noType, oneFunc, section(secCode, vec(code(raw(0x41, 0, 0x2d, 0, 0, 0x1a))))), "code section, offset 0x1a (function 0): memory 0 does not exist; there are 0"},
		{"fill without memory", binaryOf(noType, oneFunc, section(secCode, vec(code(raw(0xfc, 0x0b, 0))))), "code section, offset 0x19 (function 0): memory 0 does not exist; there are 0"},
		{"access to the gate", inCode(0x41, 0, 0x2d, 0x40, 1, 0, 0x1a), "code section, offset 0x1f (function 0): access to a memory by number: the multi-memory proposal is not supported"},
		{"lane of the gate", inCode(0xfd, 0x54, 0x40, 1, 0, 0), "code section, offset 0x1e (function 0): access to a memory by number: the multi-memory proposal is not supported"},
		{"growth of the gate", inCode(0x40, 1), "code section, offset 0x1d (function 0): memory 1: the multi-memory proposal is not supported"},
		{"copy to the gate", inCode(0xfc, 0x0a, 1, 0), "code section, offset 0x1e (function 0): memory 1: the multi-memory proposal is not supported"},
		{"copy from the gate", inCode(0xfc, 0x0a, 0, 1), "code section, offset 0x1f (function 0): memory 1: the multi-memory proposal is not supported"},
		{"alignment", inCode(0x28, 5, 0), "code section, offset 0x1d (function 0): alignment of 2 to the 5 is more than any access has"},
		{"offset above 32 bits", inCode(0x28, 2, 0x80, 0x80, 0x80, 0x80, 0x10), "code section, offset 0x1e (function 0): number does not fit 32 bits"},

		// Tables and elements.
		{"table of i32", binaryOf(section(secTable, vec(cat(I32, 0, 1)))), "table section, offset 0xb: i32 is not a reference type"},
		{"table with initial value", binaryOf(section(secTable, vec(cat(raw(0x40, 0), FuncRef, 0, 1)))), "table section, offset 0xb: table with an initial value: the typed function references proposal is not supported"},
		{"table64", binaryOf(section(secTable, vec(cat(FuncRef, 4, 1)))), "table section, offset 0xc: table with 64-bit addresses: the memory64 proposal is not supported"},
		{"shared table", binaryOf(section(secTable, vec(cat(FuncRef, 3, 1, 1)))), "table section, offset 0xc: shared table: the threads proposal is not supported"},
		{"tables too many", binaryOf(section(secTable, vec(slices.Repeat([][]byte{cat(FuncRef, 0, 1)}, 17)...))), "table section, offset 0xa: 17 tables; at most 16 are allowed"},
		{"tables too large", binaryOf(section(secTable, vec(cat(FuncRef, 0, 9_999_999), cat(ExternRef, 0, 2)))), "table section, offset 0x11: tables of 10000001 initial elements in all; at most 10000000 are allowed"},
		{"element flags", binaryOf(table, section(secElement, vec(raw(8)))), "element section, offset 0x11: unknown element segment flags 0x8"},
		{"element without table", binaryOf(section(secElement, vec(raw(0, 0x41, 0, 0x0b, 0)))), "element section, offset 0xb: table 0 does not exist; there are 0"},
		{"element of table unknown", binaryOf(table, section(secElement, vec(raw(2, 1, 0x41, 0, 0x0b, 0, 0)))), "element section, offset 0x12: table 1 does not exist; there are 1"},
		{"element kind", binaryOf(table, section(secElement, vec(raw(1, 1, 0)))), "element section, offset 0x12: unknown element kind 0x1"},
		{"element of function unknown", binaryOf(table, section(secElement, vec(raw(1, 0, 1, 0)))), "element section, offset 0x14: function 0 does not exist; there are 0"},
		{"element of other type", binaryOf(table, section(secElement, vec(cat(6, 0, raw(0x41, 0, 0x0b), ExternRef, 0)))), "element section, offset 0x11: externref segment for a table of funcref"},
		{"element expression of other type", binaryOf(table, section(secElement, vec(cat(5, FuncRef, 1, raw(0xd0, 0x6f, 0x0b))))), "element section, offset 0x14: constant expression does not give one funcref"},
		{"elements beyond the table", binaryOf(noType, oneFunc, table, section(secElement, vec(raw(0, 0x41, 1, 0x0b, 2, 0, 0))), section(secCode, vec(code()))), "element section, offset 0x1f: elements 1 to 3 lie beyond the initial size of table 0, which is 2"},
		{"elements at offset -1", binaryOf(table, section(secElement, vec(raw(0, 0x41, 0x7f, 0x0b, 0)))), "element section, offset 0x15: elements 4294967295 to 4294967295 lie beyond the initial size of table 0, which is 2"},

		// Globals and constant expressions.
		{"global mutability", binaryOf(section(secGlobal, vec(cat(I32, 4, raw(0x41, 0, 0x0b))))), "global section, offset 0xc: unknown mutability 0x4"},
		{"shared global", binaryOf(section(secGlobal, vec(cat(I32, 2, raw(0x41, 0, 0x0b))))), "global section, offset 0xc: shared global: the shared-everything threads proposal is not supported"},
		{"global of other type", binaryOf(section(secGlobal, vec(cat(I64, 0, raw(0x41, 0, 0x0b))))), "global section, offset 0xd: constant expression does not give one i64"},
		{"global of nothing", binaryOf(section(secGlobal, vec(cat(I32, 0, raw(0x0b))))), "global section, offset 0xd: constant expression does not give one i32"},
		{"global of two values", binaryOf(section(secGlobal, vec(cat(I32, 0, raw(0x41, 0, 0x41, 0, 0x0b))))), "global section, offset 0xd: constant expression does not give one i32"},
		{"global of itself", binaryOf(section(secGlobal, vec(cat(I32, 0, raw(0x23, 0, 0x0b))))), "global section, offset 0xe: global 0 does not exist; there are 0"},
		{"global of a mutable one", binaryOf(section(secGlobal, vec(cat(I32, 1, raw(0x41, 0, 0x0b)), cat(I32, 0, raw(0x23, 0, 0x0b))))), "global section, offset 0x12: constant expression reads global 0, which is mutable"},
		{"global of a call", binaryOf(section(secGlobal, vec(cat(I32, 0, raw(0x10, 0, 0x0b))))), "global section, offset 0xd: opcode 0x10 is not allowed in a constant expression"},
		{"global of a division", binaryOf(section(secGlobal, vec(cat(I32, 0, raw(0x41, 1, 0x41, 1, 0x6d, 0x0b))))), "global section, offset 0x11: opcode 0x6d is not allowed in a constant expression"},
		{"global of a sum of one", binaryOf(section(secGlobal, vec(cat(I32, 0, raw(0x41, 1, 0x6a, 0x0b))))), "global section, offset 0xf: constant expression lacks two operands of type i32"},
		{"global of a sum of others", binaryOf(section(secGlobal, vec(cat(I64, 0, raw(0x41, 1, 0x41, 1, 0x7c, 0x0b))))), "global section, offset 0x11: constant expression lacks two operands of type i64"},
		{"global of an expression too deep", binaryOf(section(secGlobal, vec(cat(I32, 0, bytes.Repeat(raw(0x41, 0), 101), byte(0x0b))))), "global section, offset 0xd6: constant expression with more than 100 operands"},
		{"global of an expression without end", binaryOf(section(secGlobal, vec(cat(I32, 0, raw(0x41, 0))))), "global section, offset 0xf: unexpected end"},

		// Exports and start.
		{"export twice", binaryOf(memory, section(secExport, vec(cat("m", 2, 0), cat("m", 2, 0)))), `export section, offset 0x14: two exports are named "m"`},
		{"export with our prefix", binaryOf(memory, section(secExport, vec(cat("faasm:memory", 2, 0)))), `export section, offset 0x10: export "faasm:memory": names that begin with "faasm:" are reserved`},
		{"export of function unknown", binaryOf(section(secExport, vec(cat("f", 0, 0)))), "export section, offset 0xe: function 0 does not exist; there are 0"},
		{"export of table unknown", binaryOf(section(secExport, vec(cat("t", 1, 0)))), "export section, offset 0xe: table 0 does not exist; there are 0"},
		{"export of memory unknown", binaryOf(section(secExport, vec(cat("m", 2, 0)))), "export section, offset 0xe: memory 0 does not exist; there are 0"},
		{"export of the gate", binaryOf(memory, section(secExport, vec(cat("gate", 2, 1)))), "export section, offset 0x16: memory 1 does not exist; there are 1"},
		{"export of global unknown", binaryOf(section(secExport, vec(cat("g", 3, 0)))), "export section, offset 0xe: global 0 does not exist; there are 0"},
		{"export of a tag", binaryOf(section(secExport, vec(cat("x", 4, 0)))), `export section, offset 0xd: export "x" is a tag, of the exceptions proposal, which is not supported`},
		{"export of kind 5", binaryOf(section(secExport, vec(cat("x", 5, 0)))), `export section, offset 0xd: export "x" is of unknown kind 0x5`},
		{"start unknown", binaryOf(section(secStart, 0)), "start section, offset 0xa: function 0 does not exist; there are 0"},
		{"start with parameter", binaryOf(section(secType, vec(funcType([]ValType{I32}, nil))), oneFunc, section(secStart, 0), section(secCode, vec(code()))), "start section, offset 0x15: start function 0 has type (i32) -> (); it must take and return nothing"},

		// Data.
		{"data flags", binaryOf(memory, section(secData, vec(raw(3)))), "data section, offset 0x10: unknown data segment flags 0x3"},
		{"data of another memory", binaryOf(memory, section(secData, vec(cat(2, 1, raw(0x41, 0, 0x0b), "a")))), "data section, offset 0x10: data segment for memory 1: the multi-memory proposal is not supported"},
		{"data without memory", binaryOf(section(secData, vec(cat(0, raw(0x41, 0, 0x0b), "")))), "data section, offset 0xb: memory 0 does not exist; there are 0"},
		{"data beyond the memory", binaryOf(memory, section(secData, vec(cat(0, cat(byte(0x41), sleb(65_535), byte(0x0b)), "ab")))), "data section, offset 0x10: data at 0xffff to 0x10001 lies beyond the memory's initial size, 0x10000"},
		{"empty data beyond the memory", binaryOf(memory, section(secData, vec(cat(0, cat(byte(0x41), sleb(65_537), byte(0x0b)), "")))), "data section, offset 0x10: data at 0x10001 to 0x10001 lies beyond the memory's initial size, 0x10000"},
		{"data at -1", binaryOf(memory, section(secData, vec(cat(0, raw(0x41, 0x7f, 0x0b), "a")))), "data section, offset 0x10: data at 0xffffffff to 0x100000000 lies beyond the memory's initial size, 0x10000"},
		{"data at i64", binaryOf(memory, section(secData, vec(cat(0, raw(0x42, 0, 0x0b), "a")))), "data section, offset 0x11: constant expression does not give one i32"},
		{"data longer than the section", binaryOf(memory, section(secData, vec(cat(1, 5, raw('a'))))), "data section, offset 0x12: unexpected end: 5 bytes announced, 1 left"},
		{"data of 4 GiB", binaryOf(memory, section(secData, vec(cat(1, 1<<32-1)))), "data section, offset 0x16: unexpected end: 4294967295 bytes announced, 0 left"},
		{"data count wrong", binaryOf(memory, section(secDataCount, 2), section(secData, vec(cat(1, "a")))), "offset 0x16: data count section announces 2 segments, data section has 1"},
		{"data count without data", binaryOf(section(secDataCount, 1)), "offset 0xb: data count section announces 1 segments, data section has 0"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			p, err := Prepare(row.bin, Options{})
			if err == nil {
				t.Fatalf("Prepare accepts %x", row.bin)
			}
			if p != nil {
				t.Errorf("Prepare returns %v with an error", p)
			}
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("error is a %T, want *Error", err)
			}
			if got := err.Error(); got != row.want {
				t.Errorf("error\n got  %s\n want %s", got, row.want)
			}
		})
	}
}

// TestPrepare_limits passes each limit by one, in modules too large for the table above.
func TestPrepare_limits(t *testing.T) {
	oneFunc := section(secFunction, vec(raw(0)))
	funcBody := func(instructions []byte) []byte {
		return binaryOf(noType, oneFunc, section(secCode, vec(code(instructions))))
	}
	nested := func(depth int) []byte {
		return funcBody(cat(bytes.Repeat(raw(0x02, 0x40), depth), bytes.Repeat(raw(opEnd), depth)))
	}
	many := func(id sectionID, n int, item []byte) []byte {
		return section(id, n, bytes.Repeat(item, n))
	}
	exports := func(n int) []byte {
		items := make([][]byte, n)
		for i := range items {
			items[i] = cat(string(rune('a'+i%26))+string(rune(0x4e00+i/26)), 2, 0)
		}
		return binaryOf(section(secMemory, vec(raw(0, 1))), section(secExport, vec(items...)))
	}
	rows := []struct {
		name string
		make func(n int) []byte
		most int
		want string // the message, for one more
	}{
		{"types", func(n int) []byte { return binaryOf(many(secType, n, funcType(nil, nil))) }, maxTypes,
			"100001 types; at most 100000 are allowed"},
		{"imports", func(n int) []byte { return binaryOf(noType, many(secImport, n, cat("", "", 0, 0))) }, maxImports,
			"100001 imports; at most 100000 are allowed"},
		{"functions with imports", func(n int) []byte {
			return binaryOf(noType, section(secImport, vec(cat("", "", 0, 0))), many(secFunction, n-1, raw(0)), many(secCode, n-1, code()))
		}, maxFuncs, "999997 functions; at most 999996 are allowed"},
		{"globals", func(n int) []byte { return binaryOf(many(secGlobal, n, cat(I32, 1, raw(0x41, 0, 0x0b)))) }, maxGlobals,
			"100001 globals; at most 100000 are allowed"},
		{"exports", exports, maxExports, "100001 exports; at most 100000 are allowed"},
		{"element segments", func(n int) []byte { return binaryOf(many(secElement, n, cat(1, 0, 0))) }, maxElemSegments,
			"100001 element segments; at most 100000 are allowed"},
		{"elements", func(n int) []byte {
			return binaryOf(noType, oneFunc,
				section(secElement, vec(cat(1, 0, 10, make([]byte, 10)), cat(1, 0, n-10, make([]byte, n-10)))),
				section(secCode, vec(code())))
		}, maxElems, "9999991 elements; at most 9999990 are allowed"},
		{"functions to refer to", func(n int) []byte {
			all := make([][]byte, n)
			for i := range all {
				all[i] = cat(i)
			}
			return binaryOf(noType, many(secFunction, n, raw(0)), section(secTable, vec(cat(FuncRef, 0, 0))),
				section(secElement, vec(cat(1, 0, vec(all...)))), section(secCode, n, code(raw(0x26, 0)), bytes.Repeat(code(), n-1)))
		}, maxReferable, "500001 functions that references can refer to, and references change; at most 500000 are allowed"},
		{"data segments", func(n int) []byte { return binaryOf(many(secData, n, cat(1, ""))) }, maxDataSegments,
			"100001 data segments; at most 100000 are allowed"},
		{"nesting", func(n int) []byte { return nested(n - 1) }, maxNesting,
			"more than 50000 blocks inside one another"},
		{"name", func(n int) []byte { return binaryOf(customSection(strings.Repeat("a", n))) }, maxNameBytes,
			"name of 100001 bytes; at most 100000 are allowed"},
		{"results", func(n int) []byte {
			return binaryOf(section(secType, vec(cat(byte(0x60), 0, n, bytes.Repeat(raw(0x7f), n)))))
		}, maxParams, "1001 results; at most 1000 are allowed"},
		{"body with gates", func(n int) []byte {
			return funcBody(cat(raw(0x03, 0x40, opEnd), bytes.Repeat(raw(0x01), n-2-3-len(gate))))
		}, maxBodyBytes, "code of 7654322 bytes, gates included; at most 7654321 are allowed"},
		{"file", func(n int) []byte {
			bin := make([]byte, n)
			copy(bin, binaryOf(cat(secCustom, n-13, "xyz")))
			return bin
		}, maxFileBytes, "module of 268435457 bytes; at most 268435456 are allowed"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			if _, err := Prepare(row.make(row.most), Options{}); err != nil {
				t.Errorf("at the limit: %v", err)
			}
			_, err := Prepare(row.make(row.most+1), Options{})
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("one above the limit: error %v", err)
			}
			if got, want := e.Msg, row.want; got != want {
				t.Errorf("one above the limit:\n got  %s\n want %s", got, want)
			}
		})
	}
}

func TestError_namesFunction(t *testing.T) {
	names := cat(byte(funcNames), sized(vec(cat(0, "main"), cat(1, "compute π"))))
	body := vec(code(), code(raw(0xff)))
	before := binaryOf(customSection("name", names), noType, section(secFunction, vec(raw(0), raw(0))), section(secCode, body))
	behind := binaryOf(noType, section(secFunction, vec(raw(0), raw(0))), section(secCode, body), customSection("name", names))
	for _, bin := range [][]byte{before, behind} {
		_, err := Prepare(bin, Options{})
		if err == nil {
			t.Fatal("Prepare accepts opcode 0xff")
		}
		if got, want := err.Error(), `(function 1 "compute π"): unknown opcode 0xff`; !strings.HasSuffix(got, want) {
			t.Errorf("error %q, want the end %q", got, want)
		}
	}

	// A name that is too long for a line is cut.
	long := cat(byte(funcNames), sized(vec(cat(0, strings.Repeat("long", 1000)))))
	_, err := Prepare(binaryOf(customSection("name", long), noType, section(secFunction, vec(raw(0))), section(secCode, vec(code(raw(0xff))))), Options{})
	if err == nil {
		t.Fatal("Prepare accepts opcode 0xff")
	}
	if got, want := err.Error(), `(function 0 "`+strings.Repeat("long", 25)+`"): unknown opcode 0xff`; !strings.HasSuffix(got, want) {
		t.Errorf("error %q, want the end %q", got, want)
	}

	// A name section that is malformed, or that follows a malformed section, is no more
	// than no name; nor is a name that is not UTF-8.
	for _, bin := range [][]byte{
		binaryOf(customSection("name", byte(funcNames), sized(vec(cat(0, "\xff")))), noType, section(secFunction, vec(raw(0))), section(secCode, vec(code(raw(0xff))))),
		binaryOf(customSection("name", raw(1, 9)), noType, section(secFunction, vec(raw(0))), section(secCode, vec(code(raw(0xff))))),
		append(binaryOf(noType, section(secFunction, vec(raw(0))), section(secCode, vec(code(raw(0xff))))), 0x0b, 0x7f),
	} {
		_, err := Prepare(bin, Options{})
		if err == nil {
			t.Fatal("Prepare accepts opcode 0xff")
		}
		if got, want := err.Error(), `(function 0): unknown opcode 0xff`; !strings.HasSuffix(got, want) {
			t.Errorf("error %q, want the end %q", got, want)
		}
	}
}
