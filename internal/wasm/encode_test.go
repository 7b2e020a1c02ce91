package wasm

import (
	"encoding/binary"
	"slices"
)

// cat joins pieces of a binary: bytes as they are, strings with their length before
// them, non-negative ints as unsigned LEB128, and raw bytes.
func cat(pieces ...any) []byte {
	var out []byte
	for _, p := range pieces {
		switch p := p.(type) {
		case []byte:
			out = append(out, p...)
		case string:
			out = binary.AppendUvarint(out, uint64(len(p)))
			out = append(out, p...)
		case int:
			out = binary.AppendUvarint(out, uint64(p))
		case byte:
			out = append(out, p)
		case ValType:
			out = append(out, byte(p))
		case sectionID:
			out = append(out, byte(p))
		default:
			panic("BUG: piece of unknown type")
		}
	}
	return out
}

// raw is short for a byte slice in a table.
func raw(b ...byte) []byte { return b }

// sleb encodes a signed LEB128 number.
func sleb(v int64) []byte {
	var out []byte
	for {
		c := byte(v & 0x7f)
		v >>= 7
		if v == 0 && c&0x40 == 0 || v == -1 && c&0x40 != 0 {
			return append(out, c)
		}
		out = append(out, c|0x80)
	}
}

// sized puts the length of content before it.
func sized(content []byte) []byte { return cat(len(content), content) }

// vec puts the number of items before them.
func vec(items ...[]byte) []byte { return cat(len(items), slices.Concat(items...)) }

func section(id sectionID, content ...any) []byte { return cat(id, sized(cat(content...))) }

// binaryOf makes a module of sections.
func binaryOf(sections ...[]byte) []byte {
	return cat(magic, version, slices.Concat(sections...))
}

func customSection(name string, content ...any) []byte {
	return section(secCustom, name, cat(content...))
}

// funcType encodes a function type; types are separated from results by the caller.
func funcType(params, results []ValType) []byte {
	out := cat(byte(0x60), len(params))
	for _, t := range params {
		out = append(out, byte(t))
	}
	out = cat(out, len(results))
	for _, t := range results {
		out = append(out, byte(t))
	}
	return out
}

// code encodes a function without locals; the final end is added.
func code(instructions ...[]byte) []byte {
	return sized(cat(0, slices.Concat(instructions...), byte(opEnd)))
}

// moduleOf makes a module with a memory of one page, a table of two funcrefs, a mutable
// i32 global, one data segment, passive, and functions of type () -> () with the given
// bodies, as code makes them.
func moduleOf(bodies ...[]byte) []byte {
	funcs := make([][]byte, len(bodies))
	for i := range funcs {
		funcs[i] = cat(0)
	}
	return binaryOf(
		section(secType, vec(funcType(nil, nil))),
		section(secFunction, vec(funcs...)),
		section(secTable, vec(cat(FuncRef, 0, 2))),
		section(secMemory, vec(raw(0, 1))),
		section(secGlobal, vec(cat(I32, 1, raw(opI32Const, 0, opEnd)))),
		section(secElement, vec(cat(1, 0, 0))), // passive, of functions, empty
		section(secDataCount, 1),
		section(secCode, vec(bodies...)),
		section(secData, vec(cat(1, "abc"))),
	)
}
