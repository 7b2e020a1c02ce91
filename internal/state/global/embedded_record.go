package global

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// castagnoli is the polynomial that processors have an instruction for.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// keyOf is a key in the keys bucket. The length keeps tenants apart; names of a tenant
// follow each other in order.
func keyOf(key Key) []byte {
	b := make([]byte, 0, 1+len(key.Tenant)+len(key.Name))
	b = append(append(b, byte(len(key.Tenant))), key.Tenant...)
	return append(b, key.Name...)
}

// snapshot says which chunks make up a value: for each index, the one of the generation
// with the greatest epoch that is not after the snapshot's. Where there is none, or one
// that is short, there are zeroes.
type snapshot struct {
	version uint64
	size    uint64
	chunk   uint64
	gen     uint64
	epoch   uint64
}

func (s *snapshot) info() Info {
	return Info{Version: s.version, Size: int64(s.size), ChunkBytes: int64(s.chunk)}
}

// record is all that is known of a key but its bytes.
type record struct {
	value     snapshot                // version 0 if there is none
	published [PublishedKept]snapshot // oldest first; version 0 if there are fewer
	list      struct {
		gen   uint64 // of the elements, which are chunks of epoch gen; 0 if there is no list
		n     uint64
		bytes uint64
	}
}

func (r *record) fields() []*uint64 {
	var f []*uint64
	for _, s := range []*snapshot{&r.value, &r.published[0], &r.published[1]} {
		f = append(f, &s.version, &s.size, &s.chunk, &s.gen, &s.epoch)
	}
	return append(f, &r.list.gen, &r.list.n, &r.list.bytes)
}

// bytes is what the record counts for in its tenant's usage.
func (r *record) bytes() uint64 {
	return r.value.size + r.published[0].size + r.published[1].size + r.list.bytes
}

func (r *record) empty() bool { return r.value.version == 0 && r.list.gen == 0 }

// epochs returns the epochs of the snapshots that need chunks of the generation.
func (r *record) epochs(gen uint64) []uint64 {
	var out []uint64
	for _, s := range append([]snapshot{r.value}, r.published[:]...) {
		if s.version != 0 && s.gen == gen {
			out = append(out, s.epoch)
		}
	}
	if r.list.gen == gen {
		out = append(out, gen)
	}
	return out
}

func (r *record) encode() []byte {
	var b []byte
	for _, f := range r.fields() {
		b = binary.BigEndian.AppendUint64(b, *f)
	}
	return seal(b)
}

// record returns what is stored under a key, which is zero if nothing is.
func (t *embeddedTx) record(k []byte) (record, error) {
	var r record
	v := t.keys.Get(k)
	if v == nil {
		return r, nil
	}
	b, err := unseal(v)
	fields := r.fields()
	if err != nil || len(b) != 8*len(fields) {
		return r, fmt.Errorf("%w: the record has %d bytes", ErrDamaged, len(v))
	}
	for i, f := range fields {
		*f = binary.BigEndian.Uint64(b[8*i:])
	}
	if r.value.version != 0 && (r.value.chunk == 0 || r.value.chunk > 1<<30) {
		return r, fmt.Errorf("%w: chunks of %d bytes", ErrDamaged, r.value.chunk)
	}
	return r, nil
}

// update stores a record in place of what it was, or takes it away if it is empty, and
// keeps the tenant's usage.
func (t *embeddedTx) update(tenant string, k []byte, was, is *record) {
	var bytes, keys uint64
	if b, err := unseal(t.usage.Get([]byte(tenant))); err == nil && len(b) == 16 {
		bytes, keys = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	}
	bytes += is.bytes() - was.bytes()
	switch {
	case is.empty():
		t.delete(t.keys, k)
		if !was.empty() {
			keys--
		}
	default:
		t.put(t.keys, k, is.encode())
		if was.empty() {
			keys++
		}
	}
	if keys == 0 {
		t.delete(t.usage, []byte(tenant))
		return
	}
	t.put(t.usage, []byte(tenant), seal(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, bytes), keys)))
}

// seal appends a checksum, and unseal takes it off.
func seal(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func unseal(b []byte) ([]byte, error) {
	if len(b) < 4 {
		return nil, fmt.Errorf("%w: %d bytes have no checksum", ErrDamaged, len(b))
	}
	b, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(b, castagnoli) != sum {
		return nil, fmt.Errorf("%w: the checksum of %d bytes is wrong", ErrDamaged, len(b))
	}
	return b, nil
}

func chunkKey(gen, index, epoch uint64) []byte {
	b := make([]byte, 0, 24)
	b = binary.BigEndian.AppendUint64(b, gen)
	b = binary.BigEndian.AppendUint64(b, index)
	return binary.BigEndian.AppendUint64(b, epoch)
}

// chunkOf returns a chunk of a snapshot, or nil if it is a hole, and its epoch.
func (t *embeddedTx) chunkOf(s *snapshot, index uint64) (data []byte, epoch uint64, err error) {
	var value []byte
	// There are few epochs of a chunk: the current one, and those of published versions.
	prefix := chunkKey(s.gen, index, 0)
	c := t.chunks.Cursor()
	for k, v := c.Seek(prefix); len(k) == 24 && bytes.Equal(k[:16], prefix[:16]); k, v = c.Next() {
		at := binary.BigEndian.Uint64(k[16:])
		if at > s.epoch {
			break
		}
		value, epoch = v, at
	}
	if value == nil {
		return nil, 0, nil
	}
	data, err = unseal(value)
	if err != nil {
		return nil, 0, fmt.Errorf("chunk %d: %w", index, err)
	}
	return data, epoch, nil
}
