package proto

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"

	"github.com/faasm-go/faasm/internal/vmem"
	"github.com/faasm-go/faasm/internal/wasm"
)

// What Decode refuses besides a *FormatError.
var (
	ErrVersion  = errors.New("another version of Proto-Faaslets")
	ErrTooLarge = errors.New("the snapshot's memory is too large")
)

// FormatError tells what in a file is not as the format has it.
type FormatError struct {
	Offset int64  // in the file; of Part "transport", of what was decompressed before
	Part   string // transport, header, metadata, padding, page data, trailer
	Msg    string
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("%s at byte %d: %s", e.Part, e.Offset, e.Msg)
}

// These are the format's numbers: another value of any of them is another version.
const (
	magic       = "FSLPROTO"
	version     = 1
	headerSize  = 56
	metadataMax = 8 << 20     // bytes
	blockSize   = 1 << 20     // bytes of a run under one checksum
	gapMin      = 1 << 20     // least bytes between two runs, and between a run and either end
	runsMax     = 16          // each is two more mappings for every Faaslet
	memoryLimit = 4 << 30     // bytes
	windowMax   = 8 << 20     // bytes that a compressed stream may refer back
	trailerSize = sha256.Size // bytes
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is the fields that vary.
type header struct {
	metadataLength uint64
	pagesOffset    uint64
	pagesLength    uint64
	metadataSum    uint32
}

func newHeader(metadata []byte, runs []run) header {
	h := header{metadataLength: uint64(len(metadata)), metadataSum: crc32.Checksum(metadata, castagnoli)}
	h.pagesOffset = pagesOffset(h.metadataLength)
	for _, r := range runs {
		h.pagesLength += r.Length
	}
	return h
}

func pagesOffset(metadataLength uint64) uint64 {
	return (headerSize + metadataLength + vmem.PageSize - 1) &^ (vmem.PageSize - 1)
}

func (h header) padding() uint64 { return h.pagesOffset - headerSize - h.metadataLength }

func (h header) encode() []byte {
	le := binary.LittleEndian
	b := append(make([]byte, 0, headerSize), magic...)
	b = le.AppendUint32(b, version)
	b = le.AppendUint32(b, headerSize)
	b = le.AppendUint64(b, headerSize) // the metadata's offset
	b = le.AppendUint64(b, h.metadataLength)
	b = le.AppendUint64(b, h.pagesOffset)
	b = le.AppendUint64(b, h.pagesLength)
	b = le.AppendUint32(b, h.metadataSum)
	return le.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// metadata is the form of a Snapshot, and of where its memory is. Its encoding in JSON, as
// package json writes it, is the only one that is valid.
type metadata struct {
	Module     string           `json:"module"`
	MemorySize uint64           `json:"memorySize"`
	ClockNs    int64            `json:"clockNs"`
	Globals    []metadataGlobal `json:"globals"`
	Tables     []metadataTable  `json:"tables"`
	Libraries  []Library        `json:"libraries"`
	Runs       []run            `json:"runs"`
}

type metadataGlobal struct {
	Index uint32 `json:"index"`
	Type  string `json:"type"`
	Bits  string `json:"bits,omitempty"` // hexadecimal, in the order of the value's bytes
	Func  *Ref   `json:"func,omitempty"`
}

type metadataTable struct {
	Index    uint32     `json:"index"`
	Size     uint64     `json:"size"`
	Elements [][2]int64 `json:"elements"` // index and function
}

// run is a part of memory that is in the file. Numbers are bytes.
type run struct {
	At     uint64   `json:"at"`
	Length uint64   `json:"length"`
	Offset uint64   `json:"offset"` // in the page data
	Sums   []uint32 `json:"crc32c"` // of each block
}

func (r run) end() uint64 { return r.At + r.Length }

// blocks are the bytes of r, in blocks at an address. A block is valid until the next one.
func (r run) blocks(memory []vmem.Segment) iter.Seq2[uint64, []byte] {
	return func(yield func(uint64, []byte) bool) {
		buf := make([]byte, min(r.Length, blockSize))
		rest := memory
		for at := r.At; at < r.end(); at += uint64(len(buf)) {
			buf = buf[:min(uint64(len(buf)), r.end()-at)]
			clear(buf)
			for len(rest) > 0 && rest[0].Offset+uint64(len(rest[0].Data)) <= at {
				rest = rest[1:]
			}
			for _, s := range rest {
				if s.Offset >= at+uint64(len(buf)) {
					break
				}
				if s.Offset < at {
					copy(buf, s.Data[at-s.Offset:])
				} else {
					copy(buf[s.Offset-at:], s.Data)
				}
			}
			if !yield(at, buf) {
				return
			}
		}
	}
}

func marshalMetadata(s *Snapshot, runs []run) ([]byte, error) {
	m := metadata{
		Module: s.Module, MemorySize: s.MemorySize, ClockNs: int64(s.Clock),
		Globals: []metadataGlobal{}, Tables: []metadataTable{}, Libraries: []Library{}, Runs: append([]run{}, runs...),
	}
	for _, g := range s.Globals {
		n, _ := width(g.Type)
		j := metadataGlobal{Index: g.Index, Type: g.Type.String(), Bits: hex.EncodeToString(g.Bits[:n])}
		if g.Type == wasm.FuncRef {
			j.Func = &g.Func
		}
		m.Globals = append(m.Globals, j)
	}
	for _, t := range s.Tables {
		j := metadataTable{Index: t.Index, Size: t.Size, Elements: make([][2]int64, 0, len(t.Elements))}
		for _, e := range t.Elements {
			j.Elements = append(j.Elements, [2]int64{int64(e.Index), int64(e.Func)})
		}
		m.Tables = append(m.Tables, j)
	}
	b, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if len(b) > metadataMax {
		return nil, fmt.Errorf("metadata of %d bytes: at most %d can be kept", len(b), metadataMax)
	}
	return b, nil
}
