package state

import (
	"bytes"

	"github.com/faasm-go/faasm/internal/vmem"
)

// chunkBytes is the unit in which a replica is present, mapped and compared.
const chunkBytes = vmem.WasmPageSize

// zeros is the base of what was made here.
var zeros [chunkBytes]byte

// chunk says what is known of a present chunk of a replica; the replica's mu guards it.
// Its content is in the replica's memory.
//
// Its base is the content as of the last pull or push. Dirty, that is, changed here and
// not pushed, are the bytes that differ from the base, and those of forced.
type chunk struct {
	// views counts the sessions that have a view of it, and writers those with a writable
	// one, which may change it at any time.
	views, writers int
	base           baseKind
	// forced are bytes to be pushed even if they are as in the base.
	forced byteSet
}

type baseKind uint8

const (
	// baseSame: the base is the present content, for nothing could change it since. No
	// chunk with writers is like this.
	baseSame baseKind = iota
	// baseZeros: the base is zeroes. The chunk was made here.
	baseZeros
	// baseKept: the base is in the replica's bases.
	baseKept
)

// bytes is what the chunk counts in the budget. Its own memory counts even if it is all
// zeroes, for a guest can fill it without asking, and so does the base that a chunk with
// writers needs when it is pushed at the latest.
func (c *chunk) bytes() uint64 {
	n := uint64(chunkBytes)
	if c.base == baseKept || c.writers > 0 {
		n += chunkBytes
	}
	if c.forced.bits != nil {
		n += bitsBytes
	}
	return n
}

// dirty appends the parts of content that are dirty to spans, in order and apart from
// each other. The offsets are in the chunk. base is as long as content.
func (c *chunk) dirty(spans []span, content, base []byte) []span {
	if c.forced.all {
		return append(spans, span{0, int64(len(content))})
	}
	if c.base == baseSame && c.forced.bits == nil {
		return spans
	}
	start := -1 // of the dirty part that at is in
	for i := 0; i < len(content); i += 64 {
		end := min(i+64, len(content))
		forced := c.forced.word(i / 64)
		if forced == 0 && start < 0 && bytes.Equal(content[i:end], base[i:end]) {
			continue
		}
		for at := i; at < end; at++ {
			dirty := content[at] != base[at] || forced>>(at-i)&1 != 0
			if dirty && start < 0 {
				start = at
			} else if !dirty && start >= 0 {
				spans = append(spans, span{int64(start), int64(at)})
				start = -1
			}
		}
	}
	if start >= 0 {
		spans = append(spans, span{int64(start), int64(len(content))})
	}
	return spans
}

// clean tells whether nothing of content is dirty.
func (c *chunk) clean(content, base []byte) bool {
	return c.forced.empty(len(content)) && (c.base == baseSame || bytes.Equal(base, content))
}

// span is [from, to): of bytes, or of chunks.
type span struct{ from, to int64 }

// chunksOf is the chunks that n bytes at off are on. No bytes are on the chunk that they
// would be on if there were any, or the last one.
func chunksOf(off, n, size int64) span {
	s := span{off / chunkBytes, chunkCount(off + n)}
	if n == 0 && size > 0 {
		s.from = min(off, size-1) / chunkBytes
		s.to = s.from + 1
	}
	return s
}

// chunkCount is how many chunks a value of size bytes has.
func chunkCount(size int64) int64 { return (size + chunkBytes - 1) / chunkBytes }

// byteSet is a set of bytes of a chunk. The zero value is empty.
type byteSet struct {
	all  bool
	bits *[chunkBytes / 64]uint64 // unless all; nil: none
}

// bitsBytes is what a set takes that is neither empty nor all.
const bitsBytes = chunkBytes / 8

// word returns what is in the set of the 64 bytes from 64*i.
func (s *byteSet) word(i int) uint64 {
	switch {
	case s.all:
		return ^uint64(0)
	case s.bits == nil:
		return 0
	}
	return s.bits[i]
}

// wordMask is the part of [from, to) that is in word i.
func wordMask(i, from, to int) uint64 {
	m := ^uint64(0)
	if from > 64*i {
		m <<= uint(from - 64*i)
	}
	if to < 64*(i+1) {
		m &= 1<<uint(to-64*i) - 1
	}
	return m
}

func (s *byteSet) add(from, to int) {
	if s.all || from >= to {
		return
	}
	if from == 0 && to == chunkBytes {
		*s = byteSet{all: true}
		return
	}
	if s.bits == nil {
		s.bits = new([chunkBytes / 64]uint64)
	}
	for i := from / 64; 64*i < to; i++ {
		s.bits[i] |= wordMask(i, from, to)
	}
}

func (s *byteSet) remove(from, to int) {
	if s.all {
		s.all, s.bits = false, new([chunkBytes / 64]uint64)
		for i := range s.bits {
			s.bits[i] = ^uint64(0)
		}
	}
	if s.bits == nil || from >= to {
		return
	}
	for i := from / 64; 64*i < to; i++ {
		s.bits[i] &^= wordMask(i, from, to)
	}
}

// empty tells whether none of the first n bytes is in the set.
func (s *byteSet) empty(n int) bool {
	if !s.all && s.bits == nil {
		return true
	}
	for i := 0; 64*i < n; i++ {
		if s.word(i)&wordMask(i, 0, n) != 0 {
			return false
		}
	}
	return true
}
