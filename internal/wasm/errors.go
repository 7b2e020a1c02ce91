package wasm

import (
	"fmt"
	"strings"
)

// Error says what is wrong with an uploaded module, and where. Its text is one line
// that the author of the function can act on. Prepare returns no other kind of error.
type Error struct {
	Section string // such as "code"; "" for the file as a whole
	Offset  int    // in bytes from the start of the upload
	Func    int    // index of the function that holds the offset; -1 outside code
	Name    string // of that function, if the module tells
	Msg     string
}

func (e *Error) Error() string {
	var s strings.Builder
	if e.Section != "" {
		s.WriteString(e.Section)
		s.WriteString(" section, ")
	}
	fmt.Fprintf(&s, "offset %#x", e.Offset)
	if e.Func >= 0 {
		fmt.Fprintf(&s, " (function %d", e.Func)
		if e.Name != "" {
			fmt.Fprintf(&s, " %.100q", e.Name)
		}
		s.WriteByte(')')
	}
	s.WriteString(": ")
	s.WriteString(e.Msg)
	return s.String()
}
