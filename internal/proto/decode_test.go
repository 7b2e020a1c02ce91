package proto

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/faasm-go/faasm/internal/vmem"
	"github.com/klauspost/compress/zstd"
)

// small has one run, from 0x100000, of one page.
func small(t testing.TB) *File {
	s := full()
	s.MemorySize = 3 << 20
	return create(t, s, vmem.Segment{Offset: 1 << 20, Data: text("data")[:page]})
}

// parts are those of a file at rest. Their sums are put right when it is assembled, so
// that what is wrong with the rest can show.
type parts struct {
	fields   [5]uint64 // of the header: length, metadata offset and length, page data offset and length
	metadata string
	padding  []byte
	pages    []byte
	after    []byte
}

func disassemble(t testing.TB, f *File) *parts {
	b := atRest(t, f)
	le := binary.LittleEndian
	length, pages := le.Uint64(b[24:]), le.Uint64(b[32:])
	return &parts{
		fields:   [5]uint64{headerSize, headerSize, length, pages, le.Uint64(b[40:])},
		metadata: string(b[headerSize : headerSize+length]),
		padding:  b[headerSize+length : pages],
		pages:    b[pages : len(b)-trailerSize],
	}
}

// change replaces text of the metadata, once, and what depends on its length.
func (p *parts) change(from, to string) {
	if strings.Count(p.metadata, from) != 1 {
		panic(fmt.Sprintf("%q is not once in %s", from, p.metadata))
	}
	p.setMetadata(strings.Replace(p.metadata, from, to, 1))
}

func (p *parts) setMetadata(m string) {
	p.metadata = m
	h := newHeader([]byte(m), nil)
	p.fields[2], p.fields[3], p.padding = h.metadataLength, h.pagesOffset, make([]byte, h.padding())
}

func (p *parts) assemble() []byte {
	le := binary.LittleEndian
	b := append([]byte(magic), version, 0, 0, 0)
	b = le.AppendUint32(b, uint32(p.fields[0]))
	for _, v := range p.fields[1:] {
		b = le.AppendUint64(b, v)
	}
	b = le.AppendUint32(b, crc32.Checksum([]byte(p.metadata), castagnoli))
	b = le.AppendUint32(b, crc32.Checksum(b, castagnoli))
	b = slices.Concat(b, []byte(p.metadata), p.padding, p.pages)
	sum := sha256.Sum256(b)
	return slices.Concat(b, sum[:], p.after)
}

func compress(t testing.TB, b []byte, opts ...zstd.EOption) []byte {
	t.Helper()
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out, opts...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestDecode_refuses(t *testing.T) {
	leaves(t)
	f := small(t)
	whole := atRest(t, f)
	length := disassemble(t, f).fields[2]
	if got := disassemble(t, f).assemble(); !bytes.Equal(got, whole) {
		t.Fatal("the test's parts are not the file's")
	}
	const run = `{"at":1048576,"length":4096,"offset":0,"crc32c":[`
	sum := fmt.Sprint(crc32.Checksum(f.pageData(t), castagnoli))
	meta := func(from, to string) func(*parts) { return func(p *parts) { p.change(from, to) } }
	flip := func(at uint64) func([]byte) []byte {
		return func(b []byte) []byte { b[at] ^= 0x10; return b }
	}
	for _, c := range []struct {
		name   string
		change func(*parts)
		bytes  func([]byte) []byte // after that
		want   any                 // a FormatError, with Msg as a part of its own, or a sentinel
		text   string              // of a sentinel's error, after "decode Proto-Faaslet: "
	}{
		{name: "nothing", bytes: func([]byte) []byte { return nil }, want: FormatError{0, "header", "the file ends here"}},
		{name: "ELF", bytes: func([]byte) []byte { return []byte("\x7fELF\x02\x01\x01\x00\x00") }, want: FormatError{0, "header", `no Proto-Faaslet: it begins with "\x7fELF\x02\x01\x01\x00"`}},
		{name: "gzip", bytes: func([]byte) []byte { return []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00") }, want: FormatError{0, "header", `no Proto-Faaslet: it begins with "\x1f\x8b\b\x00\x00\x00\x00\x00"`}},
		{name: "Wasm", bytes: func([]byte) []byte { return []byte("\x00asm\x01\x00\x00\x00\x01") }, want: FormatError{0, "header", `no Proto-Faaslet: it begins with "\x00asm\x01\x00\x00\x00"`}},
		{name: "version 0", bytes: func(b []byte) []byte { b[8] = 0; return b }, want: ErrVersion, text: "another version of Proto-Faaslets: format version 0; this build reads 1: deploy the function again, or upgrade the host"},
		{name: "version 7, with another header", bytes: func([]byte) []byte { return []byte("FSLPROTO\x07\x00\x00\x00") }, want: ErrVersion, text: "another version of Proto-Faaslets: format version 7; this build reads 1: deploy the function again, or upgrade the host"},
		{name: "version damaged", bytes: flip(11), want: ErrVersion, text: "another version of Proto-Faaslets: format version 268435457; this build reads 1: deploy the function again, or upgrade the host"},

		{name: "header damaged", bytes: flip(24), want: FormatError{52, "header", "its checksum is"}},
		{name: "header's length", change: func(p *parts) { p.fields[0] = 64 }, want: FormatError{12, "header", "header length 64 is not 56"}},
		{name: "metadata elsewhere", change: func(p *parts) { p.fields[1] = 4096 }, want: FormatError{16, "header", "metadata offset 4096 is not 56"}},
		{name: "metadata of 4 GiB", change: func(p *parts) { p.fields[2] = 4 << 30 }, want: FormatError{24, "header", "metadata length 4294967296 is above 8388608"}},
		{name: "metadata whose length wraps", change: func(p *parts) { p.fields[2] = 1<<64 - 1 }, want: FormatError{24, "header", "metadata length 18446744073709551615 is above 8388608"}},
		{name: "metadata longer than it is", change: func(p *parts) { p.fields[2]++ }, want: FormatError{56, "metadata", "its checksum is"}},
		{name: "page data elsewhere", change: func(p *parts) { p.fields[3] += page }, want: FormatError{32, "header", "page data offset 8192 is not 4096"}},
		{name: "page data before all", change: func(p *parts) { p.fields[3] = 0 }, want: FormatError{32, "header", "page data offset 0 is not 4096"}},
		{name: "page data longer than its runs", change: func(p *parts) { p.fields[4] += page }, want: FormatError{56, "metadata", "runs of 4096 bytes in page data of 8192"}},
		{name: "page data whose length wraps", change: func(p *parts) { p.fields[4] = 1<<64 - page }, want: FormatError{56, "metadata", "runs of 4096 bytes in page data of 18446744073709547520"}},

		{name: "metadata damaged", bytes: flip(100), want: FormatError{56, "metadata", "its checksum is"}},
		{name: "metadata is no JSON", change: func(p *parts) { p.setMetadata("\x7fELF") }, want: FormatError{56, "metadata", `invalid character '\x7f' looking for beginning of value`}},
		{name: "no metadata", change: func(p *parts) { p.setMetadata("") }, want: FormatError{56, "metadata", "EOF"}},
		{name: "metadata is null", change: func(p *parts) { p.setMetadata("null") }, want: FormatError{56, "metadata", `module "" is not 64`}},
		{name: "metadata nests without end", change: func(p *parts) { p.setMetadata(`{"globals":` + strings.Repeat("[", 1<<20)) }, want: FormatError{-1, "metadata", ""}},
		{name: "unknown field", change: meta(`"clockNs"`, `"clock":1,"clockNs"`), want: FormatError{-1, "metadata", `unknown field "clock"`}},
		{name: "unknown field of a run", change: meta(`"crc32c"`, `"x":1,"crc32c"`), want: FormatError{-1, "metadata", `unknown field "x"`}},
		{name: "field twice", change: meta(`"clockNs":1500000000`, `"clockNs":1500000000,"clockNs":1500000000`), want: FormatError{-1, "metadata", "not in its canonical form"}},
		{name: "field left out", change: meta(`"libraries":[],`, ``), want: FormatError{-1, "metadata", "not in its canonical form"}},
		{name: "field is null", change: meta(`"libraries":[]`, `"libraries":null`), want: FormatError{-1, "metadata", "not in its canonical form"}},
		{name: "field in capitals", change: meta(`"clockNs"`, `"ClockNs"`), want: FormatError{-1, "metadata", "not in its canonical form"}},
		{name: "space", change: meta(`"libraries":[]`, `"libraries": []`), want: FormatError{-1, "metadata", "not in its canonical form"}},
		{name: "space at the end", change: func(p *parts) { p.setMetadata(p.metadata + "\n") }, want: FormatError{int64(headerSize + length), "metadata", "not in its canonical form"}},
		{name: "second value", change: func(p *parts) { p.setMetadata(p.metadata + "{}") }, want: FormatError{int64(headerSize + length), "metadata", "not in its canonical form"}},
		{name: "escape", change: meta(`"i32"`, `"\u0069\u0033\u0032"`), want: FormatError{-1, "metadata", "not in its canonical form"}},
		{name: "exponent", change: meta(`"clockNs":1500000000`, `"clockNs":15e8`), want: FormatError{-1, "metadata", "cannot unmarshal number 15e8"}},
		{name: "libraries", change: meta(`"libraries":[]`, `"libraries":[{"name":"libm.so"},{"name":"libx\n.so"}]`), want: ErrVersion,
			text: `another version of Proto-Faaslets: it has loaded the dynamic libraries "libm.so", "libx\n.so", and this build loads none: deploy the function again, or upgrade the host`},
		{name: "module", change: meta(module, "../../etc/passwd"), want: FormatError{56, "metadata", `module "../../etc/passwd" is not 64 lower-case hexadecimal digits`}},
		{name: "clock before zero", change: meta(`"clockNs":1500000000`, `"clockNs":-1`), want: FormatError{56, "metadata", "clock -1 is negative"}},
		{name: "memory of half a page", change: meta(`"memorySize":3145728`, `"memorySize":3145729`), want: FormatError{56, "metadata", "memory size 3145729 is not"}},
		{name: "memory that is huge", change: meta(`"memorySize":3145728`, `"memorySize":18446744073709486080`), want: FormatError{56, "metadata", "memory size 18446744073709486080 is not"}},
		{name: "memory above the limit", change: meta(`"memorySize":3145728`, `"memorySize":3211264`), want: ErrTooLarge, text: "the snapshot's memory is too large: 3211264 bytes, of at most 3145728"},
		{name: "global's type", change: meta(`"i64"`, `"externref"`), want: FormatError{56, "metadata", `global 1: a value of type "externref" can't be kept`}},
		{name: "global's bits", change: meta(`"bits":"ffffffff"`, `"bits":"ffffffffff"`), want: FormatError{56, "metadata", `global 0: bits "ffffffffff" are not those of i32`}},
		{name: "global's bits are long", change: meta(`"bits":"ffffffff"`, `"bits":"`+strings.Repeat("ff", 1000)+`"`), want: FormatError{56, "metadata", "are not those of i32"}},
		{name: "global's bits are no hexadecimal", change: meta(`"bits":"ffffffff"`, `"bits":"fffffffg"`), want: FormatError{56, "metadata", `global 0: bits "fffffffg" are not those of i32`}},
		{name: "global's bits in capitals", change: meta(`"bits":"ffffffff"`, `"bits":"fffffffF"`), want: FormatError{-1, "metadata", "not in its canonical form"}},
		{name: "global has no bits", change: meta(`,"bits":"ffffffff"`, ``), want: FormatError{56, "metadata", `global 0: bits "" are not those of i32`}},
		{name: "funcref without function", change: meta(`,"func":-1`, ``), want: FormatError{56, "metadata", "global 6: a function belongs to a funcref"}},
		{name: "number with function", change: meta(`"bits":"ffffffff"`, `"bits":"ffffffff","func":0`), want: FormatError{56, "metadata", "global 0: a function belongs to a funcref"}},
		{name: "function below null", change: meta(`"func":-1`, `"func":-2`), want: FormatError{56, "metadata", "global 6: no function has the index -2"}},
		{name: "global of 33 bits", change: meta(`"index":4294967295`, `"index":4294967296`), want: FormatError{-1, "metadata", "cannot unmarshal number 4294967296"}},
		{name: "globals unsorted", change: meta(`{"index":1,`, `{"index":0,`), want: FormatError{56, "metadata", "global 0 comes after global 0"}},
		{name: "element below zero", change: meta(`[[0,0]`, `[[-1,0]`), want: FormatError{56, "metadata", "table 0: element index -1 is not of 32 bits"}},
		{name: "element of one number", change: meta(`[[0,0]`, `[[0]`), want: FormatError{-1, "metadata", "not in its canonical form"}},
		{name: "element of three", change: meta(`[[0,0]`, `[[0,0,0]`), want: FormatError{-1, "metadata", "not in its canonical form"}},
		{name: "element past the end", change: meta(`"size":3`, `"size":2`), want: FormatError{56, "metadata", "table 0: element 2 is beyond its size 2"}},

		{name: "no runs", change: meta(run+sum+`]}`, ``), want: FormatError{56, "metadata", "runs of 0 bytes in page data of 4096"}},
		{name: "run is empty", change: meta(run, `{"at":1048576,"length":0,"offset":0,"crc32c":[`), want: FormatError{56, "metadata", "run at 0x100000, 0 bytes: not whole pages"}},
		{name: "run between pages", change: meta(run, `{"at":1048577,"length":4096,"offset":0,"crc32c":[`), want: FormatError{56, "metadata", "run at 0x100001, 4096 bytes: not whole pages"}},
		{name: "run of half a page", change: meta(run, `{"at":1048576,"length":4095,"offset":0,"crc32c":[`), want: FormatError{56, "metadata", "run at 0x100000, 4095 bytes: not whole pages"}},
		{name: "run past the end", change: meta(run, `{"at":1048576,"length":2101248,"offset":0,"crc32c":[`), want: FormatError{56, "metadata", "run at 0x100000, 2101248 bytes: passes the memory's end 0x300000"}},
		{name: "run that wraps", change: meta(run, `{"at":1048576,"length":18446744073709547520,"offset":0,"crc32c":[`), want: FormatError{56, "metadata", "run at 0x100000, 18446744073709547520 bytes: passes the memory's end 0x300000"}},
		{name: "run at the end of addresses", change: meta(run, `{"at":18446744073709547520,"length":4096,"offset":0,"crc32c":[`), want: FormatError{56, "metadata", "run at 0xfffffffffffff000, 4096 bytes: passes the memory's end 0x300000"}},
		{name: "run near the start", change: meta(run, `{"at":4096,"length":4096,"offset":0,"crc32c":[`), want: FormatError{4096, "page data", "not in the runs that this memory has"}},
		{name: "run near the end", change: meta(run, `{"at":2101248,"length":4096,"offset":0,"crc32c":[`), want: FormatError{4096, "page data", "not in the runs that this memory has"}},
		{name: "run of zeros", change: func(p *parts) {
			clear(p.pages)
			p.change(sum, fmt.Sprint(crc32.Checksum(p.pages, castagnoli)))
		}, want: FormatError{4096, "page data", "not in the runs that this memory has"}},
		{name: "runs near each other", change: func(p *parts) {
			p.pages = slices.Concat(p.pages, p.pages)
			p.fields[4] += page
			p.change(run+sum+"]}", run+sum+`]},{"at":1056768,"length":4096,"offset":4096,"crc32c":[`+sum+"]}")
		}, want: FormatError{4096, "page data", "not in the runs that this memory has"}},
		{name: "runs overlap", change: meta(run, `{"at":1048576,"length":4096,"offset":0,"crc32c":[0]},{"at":1048576,"length":4096,"offset":4096,"crc32c":[`), want: FormatError{56, "metadata", "run at 0x100000: not after the one before it, which ends at 0x101000"}},
		{name: "runs unsorted", change: meta(run, `{"at":2093056,"length":4096,"offset":0,"crc32c":[0]},{"at":0,"length":4096,"offset":4096,"crc32c":[`), want: FormatError{56, "metadata", "run at 0x0: not after the one before it, which ends at 0x200000"}},
		{name: "runs share page data", change: meta(run, `{"at":0,"length":4096,"offset":0,"crc32c":[0]},{"at":1052672,"length":4096,"offset":0,"crc32c":[`), want: FormatError{56, "metadata", "run at 0x101000: page data offset 0 is not 4096"}},
		{name: "run far into page data", change: meta(run, `{"at":1048576,"length":4096,"offset":18446744073709547520,"crc32c":[`), want: FormatError{56, "metadata", "run at 0x100000: page data offset 18446744073709547520 is not 0"}},
		{name: "too many runs", change: meta(run, strings.Repeat(`{"at":0,"length":4096,"offset":0,"crc32c":[0]},`, runsMax)+run), want: FormatError{56, "metadata", "17 runs are more than 16"}},
		{name: "no checksum", change: meta(run+sum, run), want: FormatError{-1, "metadata", "run at 0x100000: 0 checksums, not 1"}},
		{name: "too many checksums", change: meta(run, run+"1,"), want: FormatError{56, "metadata", "run at 0x100000: 2 checksums, not 1"}},
		{name: "another checksum", change: meta(run+sum, run+"1"), want: FormatError{4096, "page data", "the checksum of the 4096 bytes for address 0x100000 is"}},

		{name: "padding", change: func(p *parts) { p.padding[5] = 1 }, want: FormatError{int64(headerSize+length) + 5, "padding", "not zero"}},
		{name: "page data damaged", bytes: flip(8000), want: FormatError{4096, "page data", "the checksum of the 4096 bytes for address 0x100000 is"}},
		{name: "page data short", change: func(p *parts) { p.pages = p.pages[:100] }, want: FormatError{4096 + 132, "page data", "the file ends here"}},
		{name: "page data long", change: func(p *parts) { p.pages = append(p.pages, 0) }, want: FormatError{8192, "trailer", "the SHA-256 is"}},
		{name: "trailer damaged", bytes: flip(8192), want: FormatError{8192, "trailer", "the SHA-256 is"}},
		{name: "a byte after the end", change: func(p *parts) { p.after = []byte{0} }, want: FormatError{8192 + 32, "trailer", "bytes follow it"}},
		{name: "twice", change: func(p *parts) { p.after = whole }, want: FormatError{8192 + 32, "trailer", "bytes follow it"}},
	} {
		p := disassemble(t, f)
		p.padding, p.pages = slices.Clone(p.padding), slices.Clone(p.pages)
		if c.change != nil {
			c.change(p)
		}
		b := p.assemble()
		if c.bytes != nil {
			b = c.bytes(b)
		}
		got, err := Decode(bytes.NewReader(compress(t, b)), DecodeOptions{MemoryMax: 3 << 20})
		if got != nil || err == nil {
			t.Errorf("%s: no error", c.name)
			continue
		}
		switch want := c.want.(type) {
		case error:
			if !errors.Is(err, want) || err.Error() != "decode Proto-Faaslet: "+c.text {
				t.Errorf("%s: %v, want %s", c.name, err, c.text)
			}
		case FormatError:
			var e *FormatError
			// Where package json sees an error in the text is its own affair.
			if !errors.As(err, &e) || e.Part != want.Part || !strings.Contains(e.Msg, want.Msg) ||
				want.Offset >= 0 && e.Offset != want.Offset || e.Offset < 0 || e.Offset > int64(len(b)) {
				t.Errorf("%s: %v, want %v", c.name, err, &want)
			}
		}
	}
}

func (f *File) pageData(t testing.TB) []byte { return []byte(disassemble(t, f).pages) }

// Each damaged bit of a file at rest is found, and where it is is told.
func TestDecode_everyBit(t *testing.T) {
	leaves(t)
	f := small(t)
	whole := atRest(t, f)
	length := int64(disassemble(t, f).fields[2])
	for at := range whole {
		bits := []int{0, 1, 2, 3, 4, 5, 6, 7}
		if at >= int(headerSize+length) && at < 8192 {
			if at%7 != 0 {
				continue // enough of padding and page data
			}
			bits = []int{at % 8}
		}
		for _, bit := range bits {
			b := slices.Clone(whole)
			b[at] ^= 1 << bit
			got, err := decode(bytes.NewReader(b), DecodeOptions{MemoryMax: 3 << 20})
			if got != nil || err == nil {
				t.Fatalf("bit %d of byte %d: no error", bit, at)
			}
			var e *FormatError
			part, from := "", int64(0)
			switch {
			case at < 8:
				part = "header"
			case at < 12:
				if !errors.Is(err, ErrVersion) {
					t.Errorf("bit %d of byte %d: %v, want ErrVersion", bit, at, err)
				}
				continue
			case at < headerSize:
				part, from = "header", 52
			case at < headerSize+int(length):
				part, from = "metadata", headerSize
			case at < 4096:
				part, from = "padding", int64(at)
			case at < 8192:
				part, from = "page data", 4096
			default:
				part, from = "trailer", 8192
			}
			if !errors.As(err, &e) || e.Part != part || e.Offset != from {
				t.Errorf("bit %d of byte %d: %v, want %s at byte %d", bit, at, err, part, from)
			}
		}
	}
}

// A file that was cut says where.
func TestDecode_everyLength(t *testing.T) {
	leaves(t)
	f := small(t)
	whole := atRest(t, f)
	for n := 0; n < len(whole); n += 1 + n%3 {
		got, err := decode(bytes.NewReader(whole[:n]), DecodeOptions{MemoryMax: 3 << 20})
		var e *FormatError
		if got != nil || !errors.As(err, &e) || e.Offset != int64(n) || e.Msg != "the file ends here" {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
}

// Bits and lengths of the compressed form: zstd has bits that mean nothing, so the same
// file may come out, but never another.
func TestDecode_transportEveryBit(t *testing.T) {
	leaves(t)
	f := small(t)
	whole := encode(t, f)
	for bit := range 8 * len(whole) {
		b := slices.Clone(whole)
		b[bit/8] ^= 1 << (bit % 8)
		got, err := Decode(bytes.NewReader(b), DecodeOptions{MemoryMax: 3 << 20})
		if err == nil {
			if got.Hash() != f.Hash() {
				t.Errorf("bit %d of byte %d: another file came out", bit%8, bit/8)
			}
			if err := got.Close(); err != nil {
				t.Error(err)
			}
			continue
		}
		var e *FormatError
		if !errors.As(err, &e) && !errors.Is(err, ErrVersion) {
			t.Errorf("bit %d of byte %d: %v", bit%8, bit/8, err)
		}
	}
	for n := range whole {
		got, err := Decode(bytes.NewReader(whole[:n]), DecodeOptions{MemoryMax: 3 << 20})
		var e *FormatError
		if got != nil || !errors.As(err, &e) || n > 0 && e.Part != "transport" {
			t.Errorf("cut to %d of %d bytes: %v", n, len(whole), err)
		}
	}
}

func TestDecode_transport(t *testing.T) {
	leaves(t)
	f := small(t)
	whole, rest := encode(t, f), atRest(t, f)
	stalled := errors.New("stalled")
	for _, c := range []struct {
		name string
		r    io.Reader
		is   error
		want string
	}{
		{"nothing", bytes.NewReader(nil), nil, "header at byte 0: the file ends here"},
		{"the file at rest", bytes.NewReader(rest), nil, "transport at byte 0: not a zstd stream"},
		{"ELF", strings.NewReader("\x7fELF\x02\x01\x01\x00"), nil, "transport at byte 0: not a zstd stream"},
		{"gzip", strings.NewReader("\x1f\x8b\x08\x00\x00"), nil, "transport at byte 0: not a zstd stream"},
		{"Wasm", strings.NewReader("\x00asm\x01\x00\x00\x00"), nil, "transport at byte 0: not a zstd stream"},
		{"bytes follow", io.MultiReader(bytes.NewReader(whole), strings.NewReader("more")), nil, "transport at byte 8224: not a zstd stream"},
		{"a second frame follows", io.MultiReader(bytes.NewReader(whole), bytes.NewReader(whole)), nil, "trailer at byte 8224: bytes follow it"},
		{"a window of 16 MiB", strings.NewReader("\x28\xb5\x2f\xfd\x00\x70\x01\x00\x00"), nil, "transport at byte 0: window size exceeded"},
		{"fails at once", iotest.ErrReader(stalled), stalled, "read: stalled"},
		{"fails in the middle", io.MultiReader(bytes.NewReader(whole[:100]), iotest.ErrReader(stalled)), stalled, "read: stalled"},
		{"fails at the end", io.MultiReader(bytes.NewReader(whole), iotest.ErrReader(stalled)), stalled, "read: stalled"},
		{"source ends early and says so", io.MultiReader(bytes.NewReader(whole[:100]), iotest.ErrReader(io.ErrUnexpectedEOF)), io.ErrUnexpectedEOF, "read: unexpected EOF"},
	} {
		got, err := Decode(c.r, DecodeOptions{MemoryMax: 3 << 20})
		var e *FormatError
		if got != nil || err == nil || err.Error() != "decode Proto-Faaslet: "+c.want {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		} else if errors.As(err, &e) == (c.is != nil) || !errors.Is(err, c.is) && c.is != nil {
			t.Errorf("%s: %#v has another type", c.name, err)
		}
	}
	for name, r := range map[string]io.Reader{
		"bytes": iotest.OneByteReader(bytes.NewReader(whole)), "data with EOF": iotest.DataErrReader(bytes.NewReader(whole)),
		"fastest": bytes.NewReader(compress(t, rest, zstd.WithEncoderLevel(zstd.SpeedFastest))),
		"best":    bytes.NewReader(compress(t, rest, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(windowMax))),
	} {
		got, err := Decode(r, DecodeOptions{MemoryMax: 3 << 20})
		if err != nil || got.Hash() != f.Hash() {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := got.Close(); err != nil {
			t.Error(err)
		}
	}
}

// zeroReader is n zeros.
func zeroReader(n int64) io.Reader { return io.LimitReader(zeroes{}, n) }

type zeroes struct{}

func (zeroes) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// What unpacks to far more than it is takes no more memory than it may.
func TestDecode_bombs(t *testing.T) {
	leaves(t)
	const limit = 1 << 30 // of the memory that may be asked for
	big := atRest(t, create(t, Snapshot{Module: module, MemorySize: 1 << 30}, vmem.Segment{Offset: 0, Data: []byte{1}}, vmem.Segment{Offset: 1<<30 - 1, Data: []byte{1}}))
	s := full()
	s.MemorySize = 4 << 30
	wide := disassemble(t, create(t, s))
	elements := `"elements":[[0,0]` + strings.Repeat(`,[0,0]`, 1<<20) + `,[2,-1]]`
	wide.change(`"elements":[[0,0],[2,-1]]`, elements)
	for name, c := range map[string]struct {
		r    io.Reader
		want string
		most uint64 // bytes that may be allocated
	}{
		"zeros":                      {zeroReader(1 << 30), "header at byte 0: no Proto-Faaslet", 32 << 20},
		"zeros after a file":         {io.MultiReader(bytes.NewReader(big), zeroReader(1<<30)), "bytes follow it", 32 << 20},
		"as many elements as can be": {bytes.NewReader(wide.assemble()), "element 0 comes after element 0", 300 << 20},
	} {
		var bomb bytes.Buffer
		z, err := zstd.NewWriter(&bomb)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(z, c.r); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		if bomb.Len() > 1<<20 {
			t.Errorf("%s: %d bytes are no bomb", name, bomb.Len())
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f, err := Decode(&bomb, DecodeOptions{MemoryMax: limit})
		runtime.ReadMemStats(&after)
		if f != nil || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
		got := after.TotalAlloc - before.TotalAlloc
		t.Logf("%s: %d KiB", name, got>>10)
		if got > c.most {
			t.Errorf("%s: %d bytes were allocated", name, got)
		}
	}
}

// FuzzDecode gives the decoder bytes in three forms: compressed, at rest, and as metadata
// and page data in a file whose sums are right.
func FuzzDecode(f *testing.F) {
	for _, file := range []*File{small(f), create(f, full(), fullMemory()...), create(f, Snapshot{Module: module})} {
		p := disassemble(f, file)
		f.Add(byte(0), encode(f, file), []byte(nil))
		f.Add(byte(1), atRest(f, file), []byte(nil))
		f.Add(byte(2), []byte(p.metadata), p.pages[:min(len(p.pages), 2*page)])
	}
	v1, err := os.ReadFile("testdata/v1.proto")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(byte(0), v1, []byte(nil))
	o := DecodeOptions{MemoryMax: 8 << 20}
	f.Fuzz(func(t *testing.T, form byte, b, pages []byte) {
		var file *File
		var err error
		switch form % 3 {
		case 0:
			file, err = Decode(bytes.NewReader(b), o)
		case 1:
			file, err = decode(bytes.NewReader(b), o)
		case 2:
			p := parts{fields: [5]uint64{headerSize, headerSize, 0, 0, uint64(len(pages))}, pages: pages}
			p.setMetadata(string(b))
			b = p.assemble()
			file, err = decode(bytes.NewReader(b), o)
		}
		if err != nil {
			var e *FormatError
			if !errors.As(err, &e) && !errors.Is(err, ErrVersion) && !errors.Is(err, ErrTooLarge) {
				t.Fatalf("error of another kind: %v", err)
			}
			if e != nil && (e.Offset < 0 || e.Part == "" || e.Msg == "") {
				t.Fatalf("%#v does not tell what is wrong", e)
			}
			return
		}
		defer file.Close()
		rest := atRest(t, file)
		if form%3 != 0 && !bytes.Equal(rest, b) {
			t.Fatal("the decoded file is not what was decoded")
		}
		if file.snapshot.MemorySize > o.MemoryMax {
			t.Fatalf("took a memory of %d bytes", file.snapshot.MemorySize)
		}
		segments := memory(t, file)
		made, err := Create(file.Snapshot(), segments)
		if err != nil || made.Hash() != file.Hash() {
			t.Fatalf("Create makes another file of what was decoded (%v)", err)
		}
		defer made.Close()
		again, err := Decode(bytes.NewReader(encode(t, file)), o)
		if err != nil {
			t.Fatalf("decode what was encoded: %v", err)
		}
		defer again.Close()
		if again.Hash() != file.Hash() || !bytes.Equal(atRest(t, again), rest) {
			t.Fatal("another file came out of its encoding")
		}
	})
}
