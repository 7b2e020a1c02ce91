package main

import (
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseSize_refused(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"", "is not like"},
		{" ", "is not like"},
		{"-1", "is not like"},
		{"+1", "is not like"},
		{"0x10", "unknown unit"},
		{"1e9", "unknown unit"},
		{"MiB", "is not like"},
		{".5MiB", "is not like"},
		{"5.MiB", "is not like"},
		{"1.2.3MiB", "is not like"},
		{"1.0000000000000000001EiB", "is not like"},
		{"64MB", "write 64MiB"},
		{"64 kb", "write 64KiB"},
		{"64MiBs", "unknown unit"},
		{"64Mi", "unknown unit"},
		{"64XiB", "unknown unit"},
		{"64 Mi B", "unknown unit"},
		{"1.5", "not a whole number of bytes"},
		{"0.3KiB", "not a whole number of bytes"},
		{"16EiB", "larger than 16EiB"},
		{"18446744073709551616", "larger than 16EiB"},
		{"999999999999999999999999999999MiB", "larger than 16EiB"},
		{"64MiB\x00", "unknown unit"},
	} {
		got, err := parseSize(test.text)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("parseSize(%q) = %d, %v; want an error with %q", test.text, got, err, test.want)
		}
	}
}

func TestParseSize(t *testing.T) {
	for _, test := range []struct {
		text string
		want uint64
	}{
		{"0", 0},
		{"65536", 65536},
		{"65536B", 65536},
		{"64MiB", 64 << 20},
		{"64M", 64 << 20},
		{"64m", 64 << 20},
		{"64mib", 64 << 20},
		{" 64 MiB ", 64 << 20},
		{"1GiB", 1 << 30},
		{"1.5GiB", 3 << 29},
		{"0.5K", 512},
		{"2T", 2 << 40},
		{"1P", 1 << 50},
		{"15.5EiB", 31 << 59},
		{"15.999999999999999999EiB", 0}, // not whole: refused below
		{"18446744073709551615", math.MaxUint64},
		{"0.000000953674316406250MiB", 0}, // 21 digits: refused below
	} {
		got, err := parseSize(test.text)
		if test.want == 0 && test.text != "0" {
			if err == nil {
				t.Errorf("parseSize(%q) = %d, want an error", test.text, got)
			}
			continue
		}
		if err != nil || got != test.want {
			t.Errorf("parseSize(%q) = %d, %v; want %d", test.text, got, err, test.want)
		}
	}
}

// TestSize_stringIsExact shows that help texts state defaults without loss.
func TestSize_stringIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := size(rapid.Uint64().Draw(t, "size") << rapid.IntRange(0, 63).Draw(t, "shift"))
		var got size
		if err := got.Set(want.String()); err != nil || got != want {
			t.Fatalf("size %d is written %q and read as %d, %v", uint64(want), want.String(), uint64(got), err)
		}
	})
	for _, test := range []struct {
		size size
		want string
	}{{0, "0"}, {1000, "1000"}, {64 << 20, "64MiB"}, {1 << 30, "1GiB"}, {3 << 29, "1536MiB"}} {
		if got := test.size.String(); got != test.want {
			t.Errorf("%d is written %q, want %q", uint64(test.size), got, test.want)
		}
	}
}

func TestFormatSize(t *testing.T) {
	for _, test := range []struct {
		size uint64
		want string
	}{
		{0, "0 B"},
		{1023, "1023 B"},
		{1024, "1.0 KiB"},
		{1536, "1.5 KiB"},
		{1<<20 - 1, "1.0 MiB"},
		{64 << 20, "64.0 MiB"},
		{1<<30 - 1, "1.0 GiB"},
		{5 << 40, "5.0 TiB"},
		{math.MaxUint64, "16.0 EiB"},
	} {
		if got := formatSize(test.size); got != test.want {
			t.Errorf("formatSize(%d) = %q, want %q", test.size, got, test.want)
		}
	}
}
