package wasm

import "unicode/utf8"

// Subsections of the name section.
const (
	moduleName = 0
	funcNames  = 1
)

// keptNames returns those subsections of a name section's content that name the module
// and its functions, for backtraces. The others name locals, which nobody asks for, and
// things that the rewriting may have removed.
func keptNames(names []byte) []byte {
	var kept []byte
	r := reader{file: names, fn: -1}
	for r.left() > 0 {
		at := r.pos
		id := r.byte()
		r.bytes(r.u32())
		if r.err == nil && (id == moduleName || id == funcNames) {
			kept = append(kept, names[at:r.pos]...)
		}
	}
	return kept
}

// findNames returns the content of a file's name section, or nil. Nothing else in the
// file needs to be well-formed: the names serve to say what is wrong with it.
func findNames(file []byte) []byte {
	r := reader{file: file, pos: min(8, len(file)), fn: -1}
	for r.err == nil && r.left() > 0 {
		id := sectionID(r.byte())
		s := r.within(r.u32())
		if id == secCustom && s.name() == "name" && s.err == nil {
			return s.file[s.pos:]
		}
	}
	return nil
}

// funcName looks a function up in the content of a name section. It returns "" if the
// section does not name it, or is malformed: names are a comment, by the specification.
func funcName(names []byte, index uint32) string {
	r := reader{file: names, fn: -1}
	for r.err == nil && r.left() > 0 {
		id := r.byte()
		s := r.within(r.u32())
		if id != funcNames {
			continue
		}
		for n := s.u32(); n > 0 && s.err == nil; n-- {
			i, name := s.u32(), s.bytes(s.u32())
			if i == index && s.err == nil && len(name) <= maxNameBytes && utf8.Valid(name) {
				return string(name)
			}
		}
	}
	return ""
}
