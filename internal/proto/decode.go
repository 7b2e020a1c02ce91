package proto

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/faasm-go/faasm/internal/vmem"
	"github.com/faasm-go/faasm/internal/wasm"
	"github.com/klauspost/compress/zstd"
)

// transport decompresses r, and keeps errors of r apart from those of its bytes.
type transport struct {
	r   io.Reader
	err error // of r
	z   *zstd.Decoder
	at  int64 // bytes that came out of z
}

// source is where z reads from.
type source struct{ t *transport }

func (s source) Read(b []byte) (int, error) {
	n, err := s.t.r.Read(b)
	if err != nil && err != io.EOF {
		s.t.err = err
	}
	return n, err
}

func newTransport(r io.Reader) (*transport, error) {
	t := &transport{r: r}
	var err error
	t.z, err = zstd.NewReader(source{t}, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(windowMax))
	return t, err
}

func (t *transport) Read(b []byte) (int, error) {
	n, err := t.z.Read(b)
	t.at += int64(n)
	switch {
	case err == nil || err == io.EOF:
		return n, err
	case t.err != nil:
		return n, fmt.Errorf("read: %w", t.err) // io.ErrUnexpectedEOF as such is ours
	case errors.Is(err, io.ErrUnexpectedEOF):
		return n, &FormatError{t.at, "transport", "the stream ends early"}
	case errors.Is(err, zstd.ErrMagicMismatch):
		return n, &FormatError{t.at, "transport", "not a zstd stream"}
	}
	return n, &FormatError{t.at, "transport", err.Error()}
}

// decoder reads a file front to back.
type decoder struct {
	r  io.Reader
	at int64
}

func (d *decoder) fail(part string, format string, args ...any) error {
	return &FormatError{d.at, part, fmt.Sprintf(format, args...)}
}

// take reads len(b) bytes of a part.
func (d *decoder) take(part string, b []byte) error {
	n, err := io.ReadFull(d.r, b)
	d.at += int64(n)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return d.fail(part, "the file ends here")
	}
	return err
}

// decode reads a file as it is at rest.
func decode(r io.Reader, o DecodeOptions) (_ *File, err error) {
	d := &decoder{r: r}
	h, err := d.header()
	if err != nil {
		return nil, err
	}
	m := make([]byte, h.metadataLength)
	if err := d.take("metadata", m); err != nil {
		return nil, err
	}
	s, runs, err := readMetadata(m, h)
	if err != nil {
		return nil, err
	}
	if s.MemorySize > o.MemoryMax {
		return nil, fmt.Errorf("%w: %d bytes, of at most %d", ErrTooLarge, s.MemorySize, o.MemoryMax)
	}
	padding := make([]byte, h.padding())
	if err := d.take("padding", padding); err != nil {
		return nil, err
	}
	if i := bytes.IndexFunc(padding, func(c rune) bool { return c != 0 }); i >= 0 {
		return nil, &FormatError{headerSize + int64(h.metadataLength) + int64(i), "padding", "not zero"}
	}

	b, err := newBuilder()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.file.Close())
		}
	}()
	for _, part := range [][]byte{h.encode(), m, padding} {
		if err := b.put(part); err != nil {
			return nil, err
		}
	}
	for _, r := range runs {
		if err := d.run(b, r); err != nil {
			return nil, err
		}
	}
	sameRun := func(a, b run) bool { return a.At == b.At && a.Length == b.Length }
	if !slices.EqualFunc(settle(b.found, s.MemorySize), runs, sameRun) {
		return nil, &FormatError{int64(h.pagesOffset), "page data", "not in the runs that this memory has"}
	}
	f, err := b.finish(s, runs, h)
	if err != nil {
		return nil, err
	}
	if err := d.end(f.hash); err != nil {
		return nil, err
	}
	return f, nil
}

func (d *decoder) header() (h header, err error) {
	var b [headerSize]byte
	if err := d.take("header", b[:len(magic)]); err != nil {
		return h, err
	}
	if string(b[:len(magic)]) != magic {
		return h, &FormatError{0, "header", fmt.Sprintf("no Proto-Faaslet: it begins with %q", b[:len(magic)])}
	}
	// What follows the version depends on it.
	le := binary.LittleEndian
	if err := d.take("header", b[8:12]); err != nil {
		return h, err
	}
	if v := le.Uint32(b[8:]); v != version {
		return h, fmt.Errorf("%w: format version %d; this build reads %d: deploy the function again, or upgrade the host", ErrVersion, v, version)
	}
	if err := d.take("header", b[12:]); err != nil {
		return h, err
	}
	if got, want := crc32.Checksum(b[:52], castagnoli), le.Uint32(b[52:]); got != want {
		return h, &FormatError{52, "header", fmt.Sprintf("its checksum is %08x, not %08x", got, want)}
	}
	h = header{
		metadataLength: le.Uint64(b[24:]), pagesOffset: le.Uint64(b[32:]),
		pagesLength: le.Uint64(b[40:]), metadataSum: le.Uint32(b[48:]),
	}
	switch {
	case le.Uint32(b[12:]) != headerSize:
		err = &FormatError{12, "header", fmt.Sprintf("header length %d is not %d", le.Uint32(b[12:]), headerSize)}
	case le.Uint64(b[16:]) != headerSize:
		err = &FormatError{16, "header", fmt.Sprintf("metadata offset %d is not %d", le.Uint64(b[16:]), headerSize)}
	case h.metadataLength > metadataMax:
		err = &FormatError{24, "header", fmt.Sprintf("metadata length %d is above %d", h.metadataLength, metadataMax)}
	case h.pagesOffset != pagesOffset(h.metadataLength):
		err = &FormatError{32, "header", fmt.Sprintf("page data offset %d is not %d", h.pagesOffset, pagesOffset(h.metadataLength))}
	}
	return h, err
}

// run reads the page data of r.
func (d *decoder) run(b *builder, r run) error {
	buf := make([]byte, min(r.Length, blockSize))
	for i, want := range r.Sums {
		done := uint64(i) * blockSize
		block := buf[:min(blockSize, r.Length-done)]
		start := d.at
		if err := d.take("page data", block); err != nil {
			return err
		}
		if got := crc32.Checksum(block, castagnoli); got != want {
			return &FormatError{start, "page data", fmt.Sprintf("the checksum of the %d bytes for address %#x is %08x, not %08x", len(block), r.At+done, got, want)}
		}
		if err := b.putPages(block, r.At+done); err != nil {
			return err
		}
	}
	return nil
}

// end reads what follows the page data.
func (d *decoder) end(hash [sha256.Size]byte) error {
	var got [sha256.Size]byte
	start := d.at
	if err := d.take("trailer", got[:]); err != nil {
		return err
	}
	if got != hash {
		return &FormatError{start, "trailer", fmt.Sprintf("the SHA-256 is %x, not %x", hash, got)}
	}
	switch n, err := io.ReadFull(d.r, got[:1]); {
	case n > 0:
		return d.fail("trailer", "bytes follow it")
	case err != io.EOF:
		return err
	}
	return nil
}

// readMetadata parses and checks metadata. An error in its text has the offset there.
func readMetadata(b []byte, h header) (Snapshot, []run, error) {
	fail := func(at int64, format string, args ...any) (Snapshot, []run, error) {
		return Snapshot{}, nil, &FormatError{headerSize + at, "metadata", fmt.Sprintf(format, args...)}
	}
	if got := crc32.Checksum(b, castagnoli); got != h.metadataSum {
		return fail(0, "its checksum is %08x, not %08x", got, h.metadataSum)
	}
	var m metadata
	j := json.NewDecoder(bytes.NewReader(b))
	j.DisallowUnknownFields()
	if err := j.Decode(&m); err != nil {
		return fail(j.InputOffset(), "%s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if len(m.Libraries) > 0 {
		var names []string
		for _, l := range m.Libraries {
			names = append(names, fmt.Sprintf("%q", l.Name))
		}
		return Snapshot{}, nil, fmt.Errorf("%w: it has loaded the dynamic libraries %s, and this build loads none: deploy the function again, or upgrade the host", ErrVersion, strings.Join(names, ", "))
	}
	s, err := m.snapshot()
	if err != nil {
		return fail(0, "%v", err)
	}
	if err := checkRuns(m.Runs, s.MemorySize, h.pagesLength); err != nil {
		return fail(0, "%v", err)
	}
	canonical, err := marshalMetadata(&s, m.Runs)
	if err != nil {
		return fail(0, "%v", err)
	}
	if !bytes.Equal(b, canonical) {
		at := 0
		for at < min(len(b), len(canonical)) && b[at] == canonical[at] {
			at++
		}
		return fail(int64(at), "not in its canonical form")
	}
	return s, m.Runs, nil
}

func (m *metadata) snapshot() (Snapshot, error) {
	s := Snapshot{Module: m.Module, MemorySize: m.MemorySize, Clock: time.Duration(m.ClockNs)}
	for _, j := range m.Globals {
		g := Global{Index: j.Index}
		for _, t := range [...]wasm.ValType{wasm.I32, wasm.I64, wasm.F32, wasm.F64, wasm.V128, wasm.FuncRef} {
			if j.Type == t.String() {
				g.Type = t
			}
		}
		n, ok := width(g.Type)
		if !ok {
			return s, fmt.Errorf("global %d: a value of type %q can't be kept", j.Index, j.Type)
		}
		if bits, err := hex.DecodeString(j.Bits); err != nil || copy(g.Bits[:], bits) != n || len(bits) != n {
			return s, fmt.Errorf("global %d: bits %q are not those of %s", j.Index, j.Bits, j.Type)
		}
		if (j.Func != nil) != (g.Type == wasm.FuncRef) {
			return s, fmt.Errorf("global %d: a function belongs to a funcref, and to nothing else", j.Index)
		}
		if j.Func != nil {
			g.Func = *j.Func
		}
		s.Globals = append(s.Globals, g)
	}
	for _, j := range m.Tables {
		t := Table{Index: j.Index, Size: j.Size}
		if len(j.Elements) > 0 {
			t.Elements = make([]Element, 0, len(j.Elements))
		}
		for _, e := range j.Elements {
			if int64(uint32(e[0])) != e[0] {
				return s, fmt.Errorf("table %d: element index %d is not of 32 bits", j.Index, e[0])
			}
			t.Elements = append(t.Elements, Element{uint32(e[0]), Ref(e[1])})
		}
		s.Tables = append(s.Tables, t)
	}
	return s, s.check()
}

// checkRuns returns what is wrong with runs of a memory of size bytes, whose page data is
// of length bytes.
func checkRuns(runs []run, size, length uint64) error {
	if len(runs) > runsMax {
		return fmt.Errorf("%d runs are more than %d", len(runs), runsMax)
	}
	var end, offset uint64
	for i, r := range runs {
		blocks := (r.Length + blockSize - 1) / blockSize
		switch {
		case (r.At|r.Length)%vmem.PageSize != 0 || r.Length == 0:
			return fmt.Errorf("run at %#x, %d bytes: not whole pages", r.At, r.Length)
		case r.At > size || r.Length > size-r.At:
			return fmt.Errorf("run at %#x, %d bytes: passes the memory's end %#x", r.At, r.Length, size)
		case i > 0 && r.At < end:
			return fmt.Errorf("run at %#x: not after the one before it, which ends at %#x", r.At, end)
		case r.Offset != offset:
			return fmt.Errorf("run at %#x: page data offset %d is not %d", r.At, r.Offset, offset)
		case uint64(len(r.Sums)) != blocks:
			return fmt.Errorf("run at %#x: %d checksums, not %d", r.At, len(r.Sums), blocks)
		}
		end, offset = r.end(), offset+r.Length
	}
	if offset != length {
		return fmt.Errorf("runs of %d bytes in page data of %d", offset, length)
	}
	return nil
}
