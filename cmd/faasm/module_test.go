package main

import (
	"strings"
	"testing"
)

func TestCheckModule(t *testing.T) {
	for _, test := range []struct{ name, head, want string }{
		{"empty", "", "is empty"},
		{"magic only", "\x00asm", "is cut off"},
		{"magic and part of a version", "\x00asm\x01\x00", "is cut off"},
		{"component", "\x00asm\x0d\x00\x01\x00", "is a WebAssembly component"},
		{"version 2", "\x00asm\x02\x00\x00\x00", "is WebAssembly of version 2"},
		{"ELF", "\x7fELF\x02\x01", "is a native program"},
		{"Windows program", "MZ\x90\x00", "is a native program"},
		{"gzip", "\x1f\x8b\x08", "is compressed"},
		{"zip", "PK\x03\x04", "is compressed"},
		{"archive", "!<arch>\nx.o/", "is a static library"},
		{"bitcode", "BC\xc0\xde", "is LLVM bitcode"},
		{"text format", "  (module)", "text format"},
		{"text format after a comment", ";; hi\n(module)", "text format"},
		{"shell script", "#!/bin/sh\n", "is a text"},
		{"HTML of an error page", "<!DOCTYPE html>", "is a text"},
		{"text cut within a character", strings.Repeat("é", sniffBytes/2)[:sniffBytes-1], "is a text"},
		{"zero bytes", "\x00\x00\x00\x00\x00\x00\x00\x00", "is not a WebAssembly module"},
		{"noise", "\x80\x81\x82", "is not a WebAssembly module"},
		{"magic late", "x\x00asm\x01\x00\x00\x00", "is not a WebAssembly module"},
		{"module", "\x00asm\x01\x00\x00\x00", ""},
		{"module with sections", "\x00asm\x01\x00\x00\x00\x01\x04\x01\x60\x00\x00", ""},
	} {
		err := checkModule([]byte(test.head))
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v, want no error", test.name, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: %v, want an error with %q", test.name, err, test.want)
		}
	}
}

// A device that never ends must be refused by its beginning.
func TestReadModule_endless(t *testing.T) {
	_, err := readModule("/dev/zero")
	if err == nil || !strings.Contains(err.Error(), "is not a WebAssembly module") {
		t.Errorf("read /dev/zero: %v, want that it is no module", err)
	}
}
