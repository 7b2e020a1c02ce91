package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"
)

// sniffBytes is how much of a file is looked at to tell what it is.
const sniffBytes = 512

// readModule reads the Wasm module in file. It looks at the beginning only, and only
// to save the upload of what is plainly no core module; the host judges the rest.
func readModule(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, fmt.Errorf("%s is a directory; name the .wasm file in it", file)
	}
	head := make([]byte, sniffBytes)
	n, err := io.ReadFull(f, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, fmt.Errorf("read module: %w", err)
	}
	head = head[:n]
	if err := checkModule(head); err != nil {
		return nil, fmt.Errorf("%s %w", file, err)
	}
	wasm := bytes.NewBuffer(head)
	if info.Mode().IsRegular() {
		wasm.Grow(int(max(0, info.Size()-int64(n))) + bytes.MinRead)
	}
	if _, err := wasm.ReadFrom(f); err != nil {
		return nil, fmt.Errorf("read module: %w", err)
	}
	return wasm.Bytes(), nil
}

// checkModule returns why a file that begins with head is no core Wasm module, in
// words that continue the file's name, or nil. head may be cut at sniffBytes.
func checkModule(head []byte) error {
	begins := func(magic string) bool { return bytes.HasPrefix(head, []byte(magic)) }
	switch {
	case len(head) == 0:
		return errors.New("is empty")
	case begins("\x00asm\x01\x00\x00\x00"):
		return nil
	case begins("\x00asm") && len(head) >= 8 && head[6] == 1 && head[7] == 0:
		// The four bytes after the magic are, for components, a version and the layer 1.
		return errors.New("is a WebAssembly component; hosts run core modules: build for wasm32-wasip1")
	case begins("\x00asm") && len(head) >= 8:
		return fmt.Errorf("is WebAssembly of version %d; hosts run version 1", uint32(head[4])|uint32(head[5])<<8|uint32(head[6])<<16|uint32(head[7])<<24)
	case begins("\x00asm"):
		return errors.New("is cut off after the WebAssembly magic number")
	case begins("\x7fELF"), begins("\xcf\xfa\xed\xfe"), begins("MZ"):
		return errors.New("is a native program or object; build it for wasm32-wasip1")
	case begins("\x1f\x8b"), begins("PK\x03\x04"), begins("\x28\xb5\x2f\xfd"), begins("\xfd7zXZ"), begins("BZh"):
		return errors.New("is compressed; unpack it first")
	case begins("!<arch>\n"):
		return errors.New("is a static library; link it into a module first")
	case begins("BC\xc0\xde"):
		return errors.New("is LLVM bitcode; link it into a module first")
	}
	if isText(head) {
		if text := strings.TrimSpace(string(head)); strings.HasPrefix(text, "(") || strings.HasPrefix(text, ";;") {
			return errors.New(`is in the WebAssembly text format; translate it with "wat2wasm" first`)
		}
		return errors.New("is a text, not a WebAssembly module; compile it for wasm32-wasip1 first")
	}
	return errors.New(`is not a WebAssembly module: it does not begin with "\0asm"`)
}

// isText tells whether head could begin a text in UTF-8.
func isText(head []byte) bool {
	for len(head) > 0 {
		r, n := utf8.DecodeRune(head)
		if r == utf8.RuneError && n == 1 {
			return !utf8.FullRune(head) // a character that is cut off
		}
		if !unicode.IsPrint(r) && !unicode.IsSpace(r) {
			return false
		}
		head = head[n:]
	}
	return true
}
