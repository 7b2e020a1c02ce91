package main

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// sizeUnits are the units of sizes, each 1024 times the one before it.
const sizeUnits = "KMGTPE"

// size is a number of bytes as a flag: 65536, 64KiB, 64K, 1.5GiB.
type size uint64

// sizeVar defines a flag for a size.
func sizeVar(flags *pflag.FlagSet, p *uint64, name string, value uint64, usage string) {
	*p = value
	flags.Var((*size)(p), name, usage)
}

// Set parses s; see parseSize.
func (s *size) Set(text string) error {
	v, err := parseSize(text)
	if err == nil {
		*s = size(v)
	}
	return err
}

// String is a form that Set reads. It is exact, unlike formatSize.
func (s *size) String() string {
	v := uint64(*s)
	if v == 0 {
		return "0"
	}
	steps := min(bits.TrailingZeros64(v)/10, len(sizeUnits))
	if steps == 0 {
		return strconv.FormatUint(v, 10)
	}
	return strconv.FormatUint(v>>(10*steps), 10) + sizeUnits[steps-1:steps] + "iB"
}

// Type names the value in help texts.
func (s *size) Type() string { return "size" }

// parseSize reads a number of bytes: digits, with an optional fraction if a unit
// follows, and one of KiB, MiB, GiB, TiB, PiB, EiB, or their first letters alone for
// the same, or B. Case does not count. MB and its like are refused, because people
// mean both 10⁶ and 2²⁰ by it.
func parseSize(text string) (uint64, error) {
	s := strings.TrimSpace(text)
	digits := 0
	for digits < len(s) && (s[digits] >= '0' && s[digits] <= '9' || s[digits] == '.') {
		digits++
	}
	number, unit := s[:digits], strings.ToUpper(strings.TrimSpace(s[digits:]))
	if number == "" || number[0] == '.' || number[len(number)-1] == '.' {
		return 0, fmt.Errorf("size %q is not like 65536, 64KiB or 1.5GiB", text)
	}
	shift := 0
	if unit != "" && unit != "B" {
		at := strings.IndexByte(sizeUnits, unit[0])
		switch {
		case at >= 0 && (len(unit) == 1 || unit[1:] == "IB"):
			shift = 10 * (at + 1)
		case at >= 0 && unit[1:] == "B":
			return 0, fmt.Errorf("size %q: %s is 1000 to some and 1024 to others; write %s%ciB", text, s[digits:], number, unit[0])
		default:
			return 0, fmt.Errorf("size %q: unknown unit %q; use KiB, MiB or GiB", text, strings.TrimSpace(s[digits:]))
		}
	}
	whole, fraction, hasFraction := strings.Cut(number, ".")
	if strings.Contains(fraction, ".") || len(fraction) > 18 {
		return 0, fmt.Errorf("size %q is not like 65536, 64KiB or 1.5GiB", text)
	}
	n, err := strconv.ParseUint(whole, 10, 64)
	if err != nil || n<<shift>>shift != n {
		return 0, fmt.Errorf("size %q is larger than 16EiB", text)
	}
	n <<= shift
	if !hasFraction {
		return n, nil
	}
	// What is behind the point is f/scale of the unit. At most 18 digits: both fit.
	f, scale := uint64(0), uint64(1)
	for _, digit := range fraction {
		f, scale = 10*f+uint64(digit-'0'), 10*scale
	}
	hi, lo := bits.Mul64(f, 1<<shift)
	quotient, remainder := bits.Div64(hi, lo, scale) // hi < scale, because f < scale
	if remainder != 0 {
		return 0, fmt.Errorf("size %q is not a whole number of bytes", text)
	}
	return n + quotient, nil
}

// formatSize writes a size for people: 512 B, 1.5 KiB, 64.0 MiB.
func formatSize(n uint64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n)/1024, 0
	// 1023.95 would be written as 1024.0.
	for v >= 1023.95 {
		v /= 1024
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", v, sizeUnits[unit])
}
