// Package proto is the form of a Proto-Faaslet at rest: what an initialised instance
// consists of, as a file from which memory images are mapped directly, and the stream in
// which hosts hand such files to each other. The format is docs/PROTO.md.
//
// A File is checked once, when it is made or decoded, and can't change after that: it is
// a sealed memfd. Its content address names it everywhere.
//
// The package neither captures an instance nor restores one, and it doesn't tell who made
// a snapshot: that is for package seal, below the stream.
package proto

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"math"
	"os"
	"slices"
	"time"

	"github.com/faasm-go/faasm/internal/linux"
	"github.com/faasm-go/faasm/internal/vmem"
	"github.com/faasm-go/faasm/internal/wasm"
	"github.com/klauspost/compress/zstd"
)

// Snapshot is what a Proto-Faaslet holds besides the bytes of its memory.
type Snapshot struct {
	Module     string        // SHA-256 of the uploaded module, 64 lower-case hexadecimal digits
	MemorySize uint64        // bytes, a multiple of vmem.WasmPageSize, at most 4 GiB
	Clock      time.Duration // reading of the monotonic clock, from which its Faaslets' go on
	Globals    []Global      // mutable ones that differ from a new instance's, by index
	Tables     []Table       // those that differ from a new instance's, by index
	Libraries  []Library     // dynamic libraries in the order of their loading; none in this version
}

// Global is what a mutable global holds.
type Global struct {
	Index uint32
	Type  wasm.ValType // a number, V128 or FuncRef
	Bits  [16]byte     // of a number, little-endian, the rest zero
	Func  Ref          // of a FuncRef; else zero
}

// Table is what has become of a table.
type Table struct {
	Index    uint32
	Size     uint64    // in elements
	Elements []Element // that differ from a new instance's, by index
}

// Element is what a table holds at an index.
type Element struct {
	Index uint32
	Func  Ref
}

// Library is a dynamic library that was loaded into the instance.
type Library struct {
	Name string `json:"name"`
}

// Ref is a reference to a function: its index in the module's index space, or Null.
type Ref int64

// Null is the reference to nothing.
const Null Ref = -1

// check returns what is wrong with s.
func (s *Snapshot) check() error {
	if b, err := hex.DecodeString(s.Module); err != nil || len(b) != sha256.Size || s.Module != hex.EncodeToString(b) {
		return fmt.Errorf("module %q is not 64 lower-case hexadecimal digits", s.Module)
	}
	if s.MemorySize%vmem.WasmPageSize != 0 || s.MemorySize > memoryLimit {
		return fmt.Errorf("memory size %d is not a multiple of %d up to 4 GiB", s.MemorySize, vmem.WasmPageSize)
	}
	if s.Clock < 0 {
		return fmt.Errorf("clock %d is negative", int64(s.Clock))
	}
	for i, g := range s.Globals {
		if i > 0 && g.Index <= s.Globals[i-1].Index {
			return fmt.Errorf("global %d comes after global %d", g.Index, s.Globals[i-1].Index)
		}
		if err := g.check(); err != nil {
			return fmt.Errorf("global %d: %w", g.Index, err)
		}
	}
	for i, t := range s.Tables {
		if i > 0 && t.Index <= s.Tables[i-1].Index {
			return fmt.Errorf("table %d comes after table %d", t.Index, s.Tables[i-1].Index)
		}
		if t.Size > math.MaxUint32 {
			return fmt.Errorf("table %d: size %d is beyond 32 bits", t.Index, t.Size)
		}
		for i, e := range t.Elements {
			switch {
			case i > 0 && e.Index <= t.Elements[i-1].Index:
				return fmt.Errorf("table %d: element %d comes after element %d", t.Index, e.Index, t.Elements[i-1].Index)
			case uint64(e.Index) >= t.Size:
				return fmt.Errorf("table %d: element %d is beyond its size %d", t.Index, e.Index, t.Size)
			case !e.Func.valid():
				return fmt.Errorf("table %d: element %d: no function has the index %d", t.Index, e.Index, e.Func)
			}
		}
	}
	return nil
}

func (g *Global) check() error {
	n, ok := width(g.Type)
	switch {
	case !ok:
		return fmt.Errorf("a value of type %s can't be kept", g.Type)
	case g.Type == wasm.FuncRef && !g.Func.valid():
		return fmt.Errorf("no function has the index %d", g.Func)
	case g.Type != wasm.FuncRef && g.Func != 0, !isZero(g.Bits[n:]):
		return fmt.Errorf("more than a value of type %s", g.Type)
	}
	return nil
}

// width is the number of bytes in a value of type t, 0 for a reference; not ok if such
// values have no form at rest.
func width(t wasm.ValType) (n int, ok bool) {
	switch t {
	case wasm.I32, wasm.F32:
		return 4, true
	case wasm.I64, wasm.F64:
		return 8, true
	case wasm.V128:
		return 16, true
	case wasm.FuncRef:
		return 0, true
	}
	return 0, false
}

func (r Ref) valid() bool { return r >= Null && r <= math.MaxUint32 }

// File is a Proto-Faaslet at rest: the format's bytes in a sealed memfd. It is safe for
// concurrent use.
type File struct {
	file     *os.File
	snapshot Snapshot
	extents  []vmem.Extent
	hash     [sha256.Size]byte
	length   int64
	pages    int64 // not all zero
}

// Create makes a file of a snapshot and the contents of its memory: segments sorted by
// offset, without overlap, within MemorySize, and zeros elsewhere. The segments' bytes are
// copied, and must not change meanwhile; s belongs to the file from then on. Equal
// snapshots of equal memory make equal files.
func Create(s Snapshot, memory []vmem.Segment) (*File, error) {
	f, err := newFile(s, memory)
	if err != nil {
		return nil, fmt.Errorf("make Proto-Faaslet: %w", err)
	}
	return f, nil
}

func newFile(s Snapshot, memory []vmem.Segment) (_ *File, err error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	if len(s.Libraries) > 0 {
		return nil, errors.New("dynamic libraries can't be kept yet")
	}
	runs, err := layOut(s.MemorySize, memory)
	if err != nil {
		return nil, err
	}
	for i := range runs {
		r := &runs[i]
		for _, block := range r.blocks(memory) {
			r.Sums = append(r.Sums, crc32.Checksum(block, castagnoli))
		}
	}
	m, err := marshalMetadata(&s, runs)
	if err != nil {
		return nil, err
	}
	h := newHeader(m, runs)
	b, err := newBuilder()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.file.Close())
		}
	}()
	for _, part := range [][]byte{h.encode(), m, make([]byte, h.padding())} {
		if err := b.put(part); err != nil {
			return nil, err
		}
	}
	for _, r := range runs {
		for at, block := range r.blocks(memory) {
			if err := b.putPages(block, at); err != nil {
				return nil, err
			}
		}
	}
	return b.finish(s, runs, h)
}

// DecodeOptions bounds what Decode takes.
type DecodeOptions struct {
	MemoryMax uint64 // bytes of linear memory; larger ones are ErrTooLarge
}

// Decode reads what Encode wrote. It reads r to its end, so that an r which checks its
// bytes, as seal.Reader does, can have its say; errors of r are wrapped. Bytes that are no
// Proto-Faaslet, or a damaged one, are a *FormatError; those of another version are
// ErrVersion. Whatever r brings, all that is held at a time is the memory of the snapshot
// itself, a few MiB for decompressing, and metadata, which takes some 200 MiB at the very
// worst.
func Decode(r io.Reader, o DecodeOptions) (*File, error) {
	t, err := newTransport(r)
	if err != nil {
		return nil, fmt.Errorf("decode Proto-Faaslet: %w", err)
	}
	defer t.z.Close()
	f, err := decode(t, o)
	if err != nil {
		return nil, fmt.Errorf("decode Proto-Faaslet: %w", err)
	}
	return f, nil
}

// Encode writes the file for Decode: compressed, in one pass. After an error, w has a part
// of it.
func (f *File) Encode(w io.Writer) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(windowMax))
	if err != nil {
		return fmt.Errorf("encode Proto-Faaslet: %w", err)
	}
	_, err = io.Copy(z, io.NewSectionReader(f.file, 0, f.length))
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		return fmt.Errorf("encode Proto-Faaslet: %w", err)
	}
	return nil
}

// Snapshot is what the file holds besides memory. The caller must not change its slices.
func (f *File) Snapshot() Snapshot { return f.snapshot }

// Hash is the content address: the SHA-256 that ends the file, in hexadecimal.
func (f *File) Hash() string { return hex.EncodeToString(f.hash[:]) }

// Pages is the number of memory pages, of vmem.PageSize, that are not all zero.
func (f *File) Pages() int64 { return f.pages }

// Size is the length of the file in bytes, less the memory pages that are all zero: those
// are holes of it.
func (f *File) Size() int64 {
	n := f.length
	for _, e := range f.extents {
		n -= int64(e.End - e.Start)
	}
	return n + f.pages*vmem.PageSize
}

// Image makes an image of the memory, mapped from the file's own pages. It outlives f.
func (f *File) Image() (*vmem.Image, error) {
	if len(f.extents) == 0 {
		return vmem.NewImage(nil, f.snapshot.MemorySize, nil)
	}
	file, err := linux.Dup(f.file)
	if err != nil {
		return nil, fmt.Errorf("make image of Proto-Faaslet: %w", err)
	}
	img, err := vmem.NewImage(file, f.snapshot.MemorySize, f.extents)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make image of Proto-Faaslet: %w", err), file.Close())
	}
	return img, nil
}

// Close gives the file up. Images that were made of it stay valid.
func (f *File) Close() error { return f.file.Close() }

// builder writes a file front to back.
type builder struct {
	file  *os.File
	sum   hash.Hash // of all before at
	at    int64
	pages int64
	found []run // of the pages, not settled
}

func newBuilder() (*builder, error) {
	file, err := linux.NewMemfd("proto-faaslet")
	if err != nil {
		return nil, err
	}
	return &builder{file: file, sum: sha256.New()}, nil
}

func (b *builder) put(p []byte) error {
	if _, err := b.file.WriteAt(p, b.at); err != nil {
		return err
	}
	b.sum.Write(p)
	b.at += int64(len(p))
	return nil
}

// putPages writes whole pages of memory from an address on, and leaves those that are all
// zero as holes.
func (b *builder) putPages(p []byte, address uint64) error {
	for i := 0; i < len(p); {
		n := 0 // bytes of pages from i on that are not zero
		for i+n < len(p) && !isZero(p[i+n:i+n+vmem.PageSize]) {
			b.found = addPage(b.found, address+uint64(i+n))
			n += vmem.PageSize
		}
		if n > 0 {
			if _, err := b.file.WriteAt(p[i:i+n], b.at+int64(i)); err != nil {
				return err
			}
			b.pages += int64(n / vmem.PageSize)
		}
		i += n + vmem.PageSize // past the zero page that ended it
	}
	b.sum.Write(p)
	b.at += int64(len(p))
	return nil
}

// finish writes the trailer and seals. The file is the result's after success only.
func (b *builder) finish(s Snapshot, runs []run, h header) (*File, error) {
	f := &File{file: b.file, snapshot: s, pages: b.pages}
	b.sum.Sum(f.hash[:0])
	if err := b.put(f.hash[:]); err != nil {
		return nil, err
	}
	f.length = b.at
	for _, r := range runs {
		f.extents = append(f.extents, vmem.Extent{Start: r.At, End: r.At + r.Length, Offset: h.pagesOffset + r.Offset})
	}
	if err := linux.SealMemfd(b.file); err != nil {
		return nil, err
	}
	return f, nil
}

var zeros [vmem.PageSize]byte

// isZero tells whether all of p, at most a page, is zero.
func isZero(p []byte) bool { return bytes.Equal(p, zeros[:len(p)]) }

// layOut decides which runs of memory the file holds.
func layOut(size uint64, memory []vmem.Segment) ([]run, error) {
	var runs []run
	var end uint64
	for _, s := range memory {
		n := uint64(len(s.Data))
		if n == 0 {
			continue
		}
		if s.Offset < end || s.Offset > size || n > size-s.Offset {
			return nil, fmt.Errorf("memory segment at %#x, %d bytes: overlaps the one before it or passes the end %#x", s.Offset, n, size)
		}
		end = s.Offset + n
		for at := s.Offset; at < end; {
			page := at &^ (vmem.PageSize - 1)
			next := min(page+vmem.PageSize, end)
			if !isZero(s.Data[at-s.Offset : next-s.Offset]) {
				runs = addPage(runs, page)
			}
			at = next
		}
	}
	return settle(runs, size), nil
}

// settle makes what pages are in runs that are few, and says where the file has them.
func settle(runs []run, size uint64) []run {
	runs = joinNearest(runs)
	if n := len(runs); n > 0 {
		// Small margins become holes: one mapping instead of three.
		first, last := &runs[0], &runs[n-1]
		if first.At < gapMin {
			first.At, first.Length = 0, first.Length+first.At
		}
		if size-last.end() < gapMin {
			last.Length = size - last.At
		}
	}
	var offset uint64
	for i := range runs {
		runs[i].Offset = offset
		offset += runs[i].Length
	}
	return runs
}

// addPage adds a page that is not before the last one of runs.
func addPage(runs []run, page uint64) []run {
	if n := len(runs); n > 0 && page < runs[n-1].end()+gapMin {
		runs[n-1].Length = page + vmem.PageSize - runs[n-1].At
		return runs
	}
	return append(runs, run{At: page, Length: vmem.PageSize})
}

// joinNearest leaves runsMax runs, joining those with the least gaps between them.
func joinNearest(runs []run) []run {
	if len(runs) <= runsMax {
		return runs
	}
	seconds := make([]int, 0, len(runs)-1) // of each pair of neighbours
	for i := 1; i < len(runs); i++ {
		seconds = append(seconds, i)
	}
	gap := func(i int) uint64 { return runs[i].At - runs[i-1].end() }
	slices.SortStableFunc(seconds, func(a, b int) int {
		switch {
		case gap(a) > gap(b):
			return -1
		case gap(a) < gap(b):
			return 1
		}
		return 0
	})
	apart := seconds[:runsMax-1]
	joined := runs[:1:1]
	for i, r := range runs[1:] {
		if slices.Contains(apart, i+1) {
			joined = append(joined, r)
		} else {
			last := &joined[len(joined)-1]
			last.Length = r.end() - last.At
		}
	}
	return joined
}
