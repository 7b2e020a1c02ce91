package main

import (
	"strings"
	"testing"
	"unicode"

	"pgregory.net/rapid"
)

func TestPrintable(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"\x1b]0;title\x07", `\x1b]0;title\x07`},
		{"one\r\ntwo", `one\r\ntwo`},
		{"\xff\xfeé", `\xff\xfeé`},
		{"\u202egnol", `\u202egnol`}, // right-to-left override
		{"\u009b31m", `\u009b31m`},   // the one-character form of ESC [
		{"\U000e0041", `\ue0041`},
		{"a\tb", "a b"},
		{"plain 日本 🎉", "plain 日本 🎉"},
		{"", ""},
	} {
		if got := printable(test.text); got != test.want {
			t.Errorf("printable(%q) = %q, want %q", test.text, got, test.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		text := string(rapid.SliceOf(rapid.Byte()).Draw(t, "text"))
		if got := printable(text); strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Fatalf("printable(%q) = %q, which is not", text, got)
		}
	})
}
