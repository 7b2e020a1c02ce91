package proto

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/faasm-go/faasm/internal/linux"
	"github.com/faasm-go/faasm/internal/vmem"
	"github.com/faasm-go/faasm/internal/wasm"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// rewrite makes tests write the files in testdata that they compare with.
var rewrite = flag.Bool("proto.rewrite", false, "write the files in testdata again")

const (
	page     = vmem.PageSize
	wasmPage = vmem.WasmPageSize
)

var module = strings.Repeat("0123456789abcdef", 4)

// full is a snapshot with something of each kind.
func full() Snapshot {
	return Snapshot{
		Module: module, MemorySize: 4 << 20, Clock: 1500 * time.Millisecond,
		Globals: []Global{
			{Index: 0, Type: wasm.I32, Bits: [16]byte{0xff, 0xff, 0xff, 0xff}},
			{Index: 1, Type: wasm.I64, Bits: [16]byte{1, 7: 0x80}},
			{Index: 2, Type: wasm.F32, Bits: [16]byte{0, 0, 0xc0, 0x7f}},
			{Index: 3, Type: wasm.F64, Bits: [16]byte{7: 0xf0}},
			{Index: 5, Type: wasm.V128, Bits: [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}},
			{Index: 6, Type: wasm.FuncRef, Func: Null},
			{Index: 7, Type: wasm.FuncRef, Func: 0},
			{Index: 1<<32 - 1, Type: wasm.FuncRef, Func: 1<<32 - 1},
		},
		Tables: []Table{
			{Index: 0, Size: 3, Elements: []Element{{0, 0}, {2, Null}}},
			{Index: 2, Size: 1<<32 - 1, Elements: []Element{{1<<32 - 2, 1<<32 - 1}}},
			{Index: 3},
		},
	}
}

// text is 5,000 bytes, so that pages are filled in part.
func text(s string) []byte { return []byte(strings.Repeat(s, 5000/len(s))) }

func fullMemory() []vmem.Segment {
	return []vmem.Segment{{Offset: 1<<20 + 100, Data: text("data ")}, {Offset: 3 << 20, Data: text("heap ")}}
}

func create(t testing.TB, s Snapshot, memory ...vmem.Segment) *File {
	t.Helper()
	f, err := Create(s, memory)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return f
}

// atRest is the file's bytes.
func atRest(t testing.TB, f *File) []byte {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(f.file, 0, f.length))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func encode(t testing.TB, f *File) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := f.Encode(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// memory is what a region that is bound to the file's image contains.
func memory(t testing.TB, f *File) []vmem.Segment {
	t.Helper()
	img, err := f.Image()
	if err != nil {
		t.Fatal(err)
	}
	a, err := vmem.NewArena(vmem.FastLayout, vmem.ArenaOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pool := vmem.NewPool(a, img, 1)
	r, err := pool.Take()
	if err != nil {
		t.Fatal(err)
	}
	found, err := r.Contents(img.Size)
	if err != nil {
		t.Fatal(err)
	}
	var out []vmem.Segment
	for _, s := range found {
		out = append(out, vmem.Segment{Offset: s.Offset, Data: slices.Clone(s.Data)})
	}
	_, err = pool.Give(r, img.Size)
	if err := errors.Join(err, pool.Close(), a.Close()); err != nil {
		t.Fatal(err)
	}
	return out
}

// sameMemory compares segments by what memory they make, less what is zero.
func sameMemory(size uint64, a, b []vmem.Segment) bool {
	flat := func(segments []vmem.Segment) []byte {
		m := make([]byte, size)
		for _, s := range segments {
			copy(m[s.Offset:], s.Data)
		}
		return m
	}
	return bytes.Equal(flat(a), flat(b))
}

// leaves fails the test if it ends with more open files or goroutines than it began with.
func leaves(t testing.TB) {
	t.Helper()
	before, err := linux.OpenFiles()
	if err != nil {
		t.Fatal(err)
	}
	goroutines := runtime.NumGoroutine()
	t.Cleanup(func() {
		if after, err := linux.OpenFiles(); after != before || err != nil {
			t.Errorf("%d files are open, %d before (%v)", after, before, err)
		}
		if after := runtime.NumGoroutine(); after > goroutines {
			t.Errorf("%d goroutines run, %d before", after, goroutines)
		}
	})
}

func TestCreate_refuses(t *testing.T) {
	leaves(t)
	for _, c := range []struct {
		name   string
		change func(*Snapshot)
		memory []vmem.Segment
		want   string
	}{
		{"segment past the end", nil, []vmem.Segment{{Offset: 4<<20 - 1, Data: []byte{1, 2}}}, "memory segment at 0x3fffff, 2 bytes: overlaps the one before it or passes the end 0x400000"},
		{"segment that wraps", nil, []vmem.Segment{{Offset: 1<<64 - 1, Data: []byte{1, 2}}}, "memory segment at 0xffffffffffffffff, 2 bytes: overlaps the one before it or passes the end 0x400000"},
		{"segments overlap", nil, []vmem.Segment{{Offset: 0, Data: []byte{1, 2}}, {Offset: 1, Data: []byte{1}}}, "memory segment at 0x1, 1 bytes: overlaps the one before it or passes the end 0x400000"},
		{"segments unsorted", nil, []vmem.Segment{{Offset: 9, Data: []byte{1}}, {Offset: 1, Data: []byte{1}}}, "memory segment at 0x1, 1 bytes: overlaps the one before it or passes the end 0x400000"},
		{"no module", func(s *Snapshot) { s.Module = "" }, nil, `module "" is not 64 lower-case hexadecimal digits`},
		{"short module", func(s *Snapshot) { s.Module = "00" }, nil, `module "00" is not 64 lower-case hexadecimal digits`},
		{"module in capitals", func(s *Snapshot) { s.Module = strings.ToUpper(module) }, nil, `module "` + strings.ToUpper(module) + `" is not 64 lower-case hexadecimal digits`},
		{"odd memory", func(s *Snapshot) { s.MemorySize = page }, nil, "memory size 4096 is not a multiple of 65536 up to 4 GiB"},
		{"too much memory", func(s *Snapshot) { s.MemorySize = 4<<30 + wasmPage }, nil, "memory size 4295032832 is not a multiple of 65536 up to 4 GiB"},
		{"clock before zero", func(s *Snapshot) { s.Clock = -1 }, nil, "clock -1 is negative"},
		{"globals unsorted", func(s *Snapshot) { s.Globals[1].Index = 0 }, nil, "global 0 comes after global 0"},
		{"externref", func(s *Snapshot) { s.Globals[0].Type = wasm.ExternRef }, nil, "global 0: a value of type externref can't be kept"},
		{"no type", func(s *Snapshot) { s.Globals[0].Type = 0 }, nil, "global 0: a value of type type 0x0 can't be kept"},
		{"more bits than the type has", func(s *Snapshot) { s.Globals[0].Bits[4] = 1 }, nil, "global 0: more than a value of type i32"},
		{"number and function", func(s *Snapshot) { s.Globals[0].Func = 1 }, nil, "global 0: more than a value of type i32"},
		{"function and number", func(s *Snapshot) { s.Globals[5].Bits[0] = 1 }, nil, "global 6: more than a value of type funcref"},
		{"function below null", func(s *Snapshot) { s.Globals[5].Func = -2 }, nil, "global 6: no function has the index -2"},
		{"tables unsorted", func(s *Snapshot) { s.Tables[1].Index = 0 }, nil, "table 0 comes after table 0"},
		{"huge table", func(s *Snapshot) { s.Tables[1].Size = 1 << 32 }, nil, "table 2: size 4294967296 is beyond 32 bits"},
		{"elements unsorted", func(s *Snapshot) { s.Tables[0].Elements[1].Index = 0 }, nil, "table 0: element 0 comes after element 0"},
		{"element past the end", func(s *Snapshot) { s.Tables[0].Size = 2 }, nil, "table 0: element 2 is beyond its size 2"},
		{"element below null", func(s *Snapshot) { s.Tables[0].Elements[0].Func = -2 }, nil, "table 0: element 0: no function has the index -2"},
		{"element beyond all functions", func(s *Snapshot) { s.Tables[0].Elements[0].Func = 1 << 32 }, nil, "table 0: element 0: no function has the index 4294967296"},
		{"a library", func(s *Snapshot) { s.Libraries = []Library{{"libm.so"}} }, nil, "dynamic libraries can't be kept yet"},
		{"too much metadata", func(s *Snapshot) {
			s.Tables = []Table{{Index: 0, Size: 1 << 20, Elements: make([]Element, 1<<20)}}
			for i := range s.Tables[0].Elements {
				s.Tables[0].Elements[i].Index = uint32(i)
			}
		}, nil, "metadata of 11472398 bytes: at most 8388608 can be kept"},
	} {
		s := full()
		if c.change != nil {
			c.change(&s)
		}
		f, err := Create(s, c.memory)
		if f != nil || err == nil || err.Error() != "make Proto-Faaslet: "+c.want {
			t.Errorf("%s: %v, want make Proto-Faaslet: %s", c.name, err, c.want)
		}
	}
}

// Create, Encode, Decode: the same snapshot, memory and address come out.
func TestFile_roundTrip(t *testing.T) {
	for name, c := range map[string]struct {
		snapshot Snapshot
		memory   []vmem.Segment
	}{
		"all":       {full(), fullMemory()},
		"nothing":   {Snapshot{Module: module}, nil},
		"zeros":     {Snapshot{Module: module, MemorySize: wasmPage}, []vmem.Segment{{Offset: 0, Data: make([]byte, wasmPage)}}},
		"last byte": {Snapshot{Module: module, MemorySize: wasmPage}, []vmem.Segment{{Offset: wasmPage - 1, Data: []byte{1}}}},
	} {
		t.Run(name, func(t *testing.T) {
			leaves(t)
			made := create(t, c.snapshot, c.memory...)
			got, err := Decode(bytes.NewReader(encode(t, made)), DecodeOptions{MemoryMax: c.snapshot.MemorySize})
			if err != nil {
				t.Fatal(err)
			}
			defer got.Close()
			if !bytes.Equal(atRest(t, got), atRest(t, made)) {
				t.Error("other bytes came out")
			}
			if got.Hash() != made.Hash() || got.Size() != made.Size() || got.Pages() != made.Pages() {
				t.Errorf("%s, %d bytes, %d pages came out, of %s, %d, %d", got.Hash(), got.Size(), got.Pages(), made.Hash(), made.Size(), made.Pages())
			}
			for what, f := range map[string]*File{"made": made, "decoded": got} {
				if diff := cmp.Diff(c.snapshot, f.Snapshot()); diff != "" {
					t.Errorf("%s: snapshot (-want +got):\n%s", what, diff)
				}
				if m := memory(t, f); !sameMemory(c.snapshot.MemorySize, m, c.memory) {
					t.Errorf("%s: the image has other memory", what)
				}
			}
		})
	}
}

// Whatever the segments, an image has their bytes, and how they are cut does not matter.
func TestCreate_memory(t *testing.T) {
	leaves(t)
	rapid.Check(t, func(t *rapid.T) {
		size := uint64(rapid.IntRange(1, 80).Draw(t, "pages")) * wasmPage
		model := make([]byte, size)
		for range rapid.IntRange(0, 8).Draw(t, "writes") {
			at := rapid.Uint64Range(0, size-1).Draw(t, "at")
			n := min(size-at, rapid.SampledFrom([]uint64{1, 10, page, 3 * page, 1 << 20}).Draw(t, "n"))
			fill := rapid.SampledFrom([]byte{0, 1}).Draw(t, "fill")
			for i := range n {
				model[at+i] = fill
			}
		}
		cut := func(label string) []vmem.Segment {
			var out []vmem.Segment
			for at := uint64(0); at < size; {
				n := min(size-at, rapid.Uint64Range(1, size).Draw(t, label))
				if !bytes.Equal(model[at:at+n], make([]byte, n)) || rapid.Bool().Draw(t, "zeros too") {
					out = append(out, vmem.Segment{Offset: at, Data: model[at : at+n]})
				}
				at += n
			}
			return out
		}
		s := Snapshot{Module: module, MemorySize: size}
		one, err := Create(s, cut("one"))
		if err != nil {
			t.Fatal(err)
		}
		defer one.Close()
		two, err := Create(s, cut("two"))
		if err != nil {
			t.Fatal(err)
		}
		defer two.Close()
		if one.Hash() != two.Hash() {
			t.Errorf("the same memory in other segments has the hash %s, and not %s", two.Hash(), one.Hash())
		}
		again, err := decode(io.NewSectionReader(one.file, 0, one.length), DecodeOptions{MemoryMax: size})
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		got := make([]byte, size)
		for _, e := range again.extents {
			if _, err := again.file.ReadAt(got[e.Start:e.End], int64(e.Offset)); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, model) {
			t.Error("the file has other memory")
		}
		pages := int64(0)
		for p := range slices.Chunk(model, page) {
			if !isZero(p) {
				pages++
			}
		}
		if again.Pages() != pages || one.Pages() != pages {
			t.Errorf("%d and %d pages, want %d", one.Pages(), again.Pages(), pages)
		}
	})
}

func TestCreate_runs(t *testing.T) {
	if gapMin < vmem.HoleMin {
		t.Errorf("gaps of %d bytes are cut, but vmem.HoleMin is %d", gapMin, vmem.HoleMin)
	}
	const size = 64 << 20
	at := func(offsets ...uint64) (out []vmem.Segment) {
		for _, o := range offsets {
			out = append(out, vmem.Segment{Offset: o, Data: []byte{1}})
		}
		return out
	}
	// Pages whose distances grow: the nearest are joined when they are too many.
	var many, manyRuns []uint64
	for i, offset := uint64(0), uint64(2<<20); i < runsMax+2; i++ {
		many = append(many, offset)
		switch {
		case i == 0:
			manyRuns = append(manyRuns, offset, offset+page)
		case i <= 2:
			manyRuns[1] = offset + page
		default:
			manyRuns = append(manyRuns, offset, offset+page)
		}
		offset += page + gapMin + i*page
	}
	for _, c := range []struct {
		name   string
		memory []vmem.Segment
		want   []uint64 // start and end of each run
	}{
		{"none", nil, nil},
		{"zeros", []vmem.Segment{{Offset: 5 << 20, Data: make([]byte, 9000)}}, nil},
		{"middle", at(5<<20 + 5), []uint64{5 << 20, 5<<20 + page}},
		{"gap that is too small", at(5<<20, 6<<20), []uint64{5 << 20, 6<<20 + page}},
		{"least gap", at(5<<20, 6<<20+page), []uint64{5 << 20, 5<<20 + page, 6<<20 + page, 6<<20 + 2*page}},
		{"margins that are too small", at(1<<20-page, size-1<<20), []uint64{0, 1 << 20, size - 1<<20, size}},
		{"least margins", at(1<<20, size-1<<20-page), []uint64{1 << 20, 1<<20 + page, size - 1<<20 - page, size - 1<<20}},
		{"page in two segments", []vmem.Segment{{Offset: 5 << 20, Data: []byte{1}}, {Offset: 5<<20 + page - 1, Data: []byte{1, 1}}}, []uint64{5 << 20, 5<<20 + 2*page}},
		{"too many", at(many...), manyRuns},
	} {
		f := create(t, Snapshot{Module: module, MemorySize: size}, c.memory...)
		var got []uint64
		for _, e := range f.extents {
			got = append(got, e.Start, e.End)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: runs (-want +got):\n%s", c.name, diff)
		}
		again, err := decode(io.NewSectionReader(f.file, 0, f.length), DecodeOptions{MemoryMax: size})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	}
}

// What a memory does not have costs nothing, at rest or on its way.
func TestCreate_sparse(t *testing.T) {
	const size = 4 << 30
	f := create(t, Snapshot{Module: module, MemorySize: size},
		vmem.Segment{Offset: 1 << 30, Data: []byte{1}}, vmem.Segment{Offset: 1<<30 + 512<<10, Data: []byte{2}}, vmem.Segment{Offset: size - 1, Data: []byte{3}})
	if f.Pages() != 3 || f.Size() != 4*page+trailerSize {
		t.Errorf("%d pages, %d bytes, want 3, %d", f.Pages(), f.Size(), 4*page+trailerSize)
	}
	img, err := f.Image()
	if err != nil {
		t.Fatal(err)
	}
	a, err := vmem.NewArena(vmem.FastLayout, vmem.ArenaOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pool := vmem.NewPool(a, img, 1)
	if got := img.Bytes(); got > 8*page {
		t.Errorf("the file takes %d bytes of memory, for 3 pages", got)
	}
	if err := errors.Join(pool.Close(), a.Close()); err != nil {
		t.Error(err)
	}
	if n := len(encode(t, f)); n > 2000 {
		t.Errorf("encoded it takes %d bytes", n)
	}
}

func TestFile_isSealed(t *testing.T) {
	f := create(t, full(), fullMemory()...)
	if _, err := f.file.WriteAt([]byte{1}, 0); err == nil {
		t.Error("the file can be written")
	}
	if f.file.Truncate(0) == nil {
		t.Error("the file can be truncated")
	}
	img, err := f.Image()
	if err != nil {
		t.Fatal(err) // vmem checks the seals
	}
	a, err := vmem.NewArena(vmem.FastLayout, vmem.ArenaOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(vmem.NewPool(a, img, 1).Close(), a.Close()); err != nil {
		t.Error(err)
	}
}

func TestFile_Close(t *testing.T) {
	leaves(t)
	f := create(t, full(), fullMemory()...)
	img, err := f.Image()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if img, err := f.Image(); img != nil || err == nil {
		t.Errorf("Image after Close: %v", err)
	}
	if err := f.Encode(io.Discard); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Encode after Close: %v", err)
	}
	if err := f.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Close again: %v", err)
	}
	// The image has its own descriptor.
	a, err := vmem.NewArena(vmem.FastLayout, vmem.ArenaOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pool := vmem.NewPool(a, img, 1)
	r, err := pool.Take()
	if err != nil {
		t.Fatal(err)
	}
	if m, err := r.Contents(img.Size); err != nil || !sameMemory(img.Size, m, fullMemory()) {
		t.Errorf("an image of a closed file has other memory (%v)", err)
	}
	_, err = pool.Give(r, img.Size)
	if err := errors.Join(err, pool.Close(), a.Close()); err != nil {
		t.Error(err)
	}
}

func TestFile_concurrent(t *testing.T) {
	leaves(t)
	f := create(t, full(), fullMemory()...)
	a, err := vmem.NewArena(vmem.FastLayout, vmem.ArenaOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := encode(t, f)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 10 {
				var b bytes.Buffer
				if err := f.Encode(&b); err != nil || !bytes.Equal(b.Bytes(), want) {
					t.Errorf("Encode: %v, %d bytes, want %d", err, b.Len(), len(want))
				}
				img, err := f.Image()
				if err != nil {
					t.Error(err)
					return
				}
				if err := vmem.NewPool(a, img, 1).Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// failingWriter fails once it has taken n bytes.
type failingWriter struct {
	n   int
	err error
}

func (w *failingWriter) Write(b []byte) (int, error) {
	if len(b) > w.n {
		return w.n, w.err
	}
	w.n -= len(b)
	return len(b), nil
}

func TestFile_Encode_writeFails(t *testing.T) {
	leaves(t)
	f := create(t, full(), fullMemory()...)
	full := errors.New("full")
	whole := len(encode(t, f))
	for n := 0; n < whole; n += 7 {
		if err := f.Encode(&failingWriter{n, full}); !errors.Is(err, full) {
			t.Errorf("the sink fails after %d bytes: %v", n, err)
		}
	}
}

// dump is what a file holds, for people to compare.
func dump(f *File, memory []vmem.Segment) string {
	var b strings.Builder
	s := f.Snapshot()
	fmt.Fprintf(&b, "hash %s\nsize %d\npages %d\nmodule %s\nmemory %d\nclock %v\n", f.Hash(), f.Size(), f.Pages(), s.Module, s.MemorySize, s.Clock)
	for _, g := range s.Globals {
		fmt.Fprintf(&b, "global %d %s %x %d\n", g.Index, g.Type, g.Bits, g.Func)
	}
	for _, t := range s.Tables {
		fmt.Fprintf(&b, "table %d size %d\n", t.Index, t.Size)
		for _, e := range t.Elements {
			fmt.Fprintf(&b, "  %d: %d\n", e.Index, e.Func)
		}
	}
	for _, e := range f.extents {
		fmt.Fprintf(&b, "run %#x to %#x at byte %d\n", e.Start, e.End, e.Offset)
	}
	for _, m := range memory {
		fmt.Fprintf(&b, "memory %#x %d bytes, from %q\n", m.Offset, len(m.Data), bytes.TrimLeft(m.Data, "\x00")[:20])
	}
	return b.String()
}

// TestDecode_version1 reads a file that was written when version 1 was new. It is written
// again by -proto.rewrite, for a new version only, under a new name.
func TestDecode_version1(t *testing.T) {
	leaves(t)
	const archive, golden = "testdata/v1.proto", "testdata/v1.txt"
	made := create(t, full(), fullMemory()...)
	if *rewrite {
		if err := errors.Join(os.MkdirAll(filepath.Dir(archive), 0o755), os.WriteFile(archive, encode(t, made), 0o644),
			os.WriteFile(golden, []byte(dump(made, memory(t, made))), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	f, err := Decode(r, DecodeOptions{MemoryMax: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), dump(f, memory(t, f))); diff != "" {
		t.Errorf("%s (-want +got):\n%s", archive, diff)
	}
	// Today's encoder still writes it so: else hosts of two builds disagree on addresses.
	if made.Hash() != f.Hash() {
		t.Errorf("the same snapshot has the hash %s now, %s then", made.Hash(), f.Hash())
	}
}
