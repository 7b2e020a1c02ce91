package wasm

import (
	"errors"
	"testing"
)

// FuzzPrepare looks for uploads that make Prepare panic, or that it accepts and then
// prepares wrongly.
func FuzzPrepare(f *testing.F) {
	for _, name := range fixtures {
		f.Add(fixture(f, name))
	}
	f.Fuzz(func(t *testing.T, bin []byte) {
		p, err := Prepare(bin, Options{})
		if err != nil {
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("error is a %T, want *Error", err)
			}
			if e.Offset < 0 || e.Offset > len(bin) {
				t.Fatalf("error %v in a module of %d bytes", err, len(bin))
			}
			return
		}
		if err := checkPrepared(bin, p); err != nil {
			t.Fatal(err)
		}
		if _, err := Prepare(bin, Options{NoGates: true}); err != nil {
			t.Fatalf("accepted with gates, but without: %v", err)
		}
	})
}
