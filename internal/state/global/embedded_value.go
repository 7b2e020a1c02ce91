package global

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
)

// Stat implements Store.
func (e *Embedded) Stat(ctx context.Context, key Key) (Info, error) {
	_, info, err := e.Read(ctx, key, 0, nil)
	return info, err
}

// Read implements Store. It is one transaction, and never ErrConflict.
func (e *Embedded) Read(ctx context.Context, key Key, off int64, dst []byte) (n int, info Info, err error) {
	if err = validateRead(key, off); err == nil {
		err = e.view(ctx, func(t *embeddedTx) error {
			r, err := t.record(keyOf(key))
			if err != nil {
				return err
			}
			n, info, err = t.read(&r.value, off, dst)
			return err
		})
	}
	if err != nil {
		return 0, Info{}, fmt.Errorf("read %s: %w", key, err)
	}
	e.received.Add(uint64(n))
	return n, info, nil
}

// read copies what a snapshot has from off.
func (t *embeddedTx) read(s *snapshot, off int64, dst []byte) (int, Info, error) {
	if s.version == 0 {
		return 0, Info{}, ErrNotFound
	}
	left := max(int64(s.size)-off, 0)
	dst = dst[:min(int64(len(dst)), left)]
	chunk := int64(s.chunk)
	for at := off; at < off+int64(len(dst)); {
		index, in := at/chunk, at%chunk
		part := dst[at-off:]
		part = part[:min(int64(len(part)), chunk-in)]
		data, _, err := t.chunkOf(s, uint64(index))
		if err != nil {
			return 0, Info{}, err
		}
		n := 0
		if in < int64(len(data)) {
			n = copy(part, data[in:])
		}
		clear(part[n:])
		at += int64(len(part))
	}
	return len(dst), s.info(), nil
}

// check returns why a change may not be made. It is called in apply, so that nothing
// comes between it and the change.
func (e *Embedded) check(k []byte, r *record, c Condition) error {
	if c.Fence != 0 && e.locks.token(string(k)) != c.Fence {
		return ErrFenced
	}
	if c.IfAbsent && r.value.version != 0 || c.IfVersion != 0 && r.value.version != c.IfVersion {
		return fmt.Errorf("%w: it is at %d", ErrVersion, r.value.version)
	}
	return nil
}

// checked returns the record of a key if the change may be made.
func (e *Embedded) checked(t *embeddedTx, k []byte, c Condition) (record, error) {
	r, err := t.record(k)
	if err != nil {
		return r, err
	}
	return r, e.check(k, &r, c)
}

// checkedValue is checked for changes of a value that must be there.
func (e *Embedded) checkedValue(t *embeddedTx, k []byte, c Condition) (record, error) {
	r, err := t.record(k)
	if err != nil {
		return r, err
	}
	if c.Fence != 0 || r.value.version != 0 {
		err = e.check(k, &r, c)
	}
	if err == nil && r.value.version == 0 {
		err = ErrNotFound
	}
	return r, err
}

// Write implements Store. A value of up to writeBatch chunks is one change; a longer one
// is stored in several, of which the last makes it the value.
func (e *Embedded) Write(ctx context.Context, key Key, size int64, src io.ReaderAt, c Condition) (Info, error) {
	info, err := e.write(ctx, key, size, src, c)
	if err != nil {
		return Info{}, fmt.Errorf("write %s: %w", key, err)
	}
	return info, nil
}

func (e *Embedded) write(ctx context.Context, key Key, size int64, src io.ReaderAt, c Condition) (Info, error) {
	if err := validateWrite(key, size, c); err != nil {
		return Info{}, err
	}
	k := keyOf(key)
	chunks := chunksOf(size, ChunkBytes)
	if src == nil {
		chunks = 0
	}
	var gen uint64
	var info Info
	for first := int64(0); ; first += writeBatch {
		last := min(first+writeBatch, chunks)
		batch, n, err := readChunks(src, first, last, size)
		if err == nil {
			err = e.change(ctx, n, func(t *embeddedTx) error {
				r, err := e.checked(t, k, c)
				if err != nil {
					return err
				}
				if gen == 0 {
					gen = e.tick()
					if last < chunks {
						e.writing.Store(gen, nil)
						t.put(t.garbage, writerKey(gen), k)
					}
				}
				for i, b := range batch {
					t.put(t.chunks, chunkKey(gen, uint64(first)+uint64(i), gen), b)
				}
				if last < chunks {
					return nil
				}
				was := r
				r.value = snapshot{version: e.tick(), size: uint64(size), chunk: ChunkBytes, gen: gen, epoch: gen}
				if first > 0 {
					t.delete(t.garbage, writerKey(gen))
				}
				t.update(key.Tenant, k, &was, &r)
				if was.value.gen != 0 {
					e.drop(t, k, &r, was.value.gen)
				}
				info = r.value.info()
				return nil
			})
		}
		if err == nil {
			e.sent.Add(uint64(n))
		}
		if err != nil || last == chunks {
			if _, wrote := e.writing.LoadAndDelete(gen); wrote && err != nil {
				e.noteGarbage()
			}
			return info, err
		}
	}
}

// readChunks reads the chunks [first, last) of what is to be written, and seals them.
func readChunks(src io.ReaderAt, first, last, size int64) (chunks [][]byte, total int, err error) {
	for i := first; i < last; i++ {
		n := min(size-i*ChunkBytes, ChunkBytes)
		b := make([]byte, n, n+4)
		if got, err := src.ReadAt(b, i*ChunkBytes); int64(got) < n {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, 0, fmt.Errorf("read the %d bytes at %d to be written: %w", n, i*ChunkBytes, err)
		}
		chunks = append(chunks, seal(b))
		total += int(n)
	}
	return chunks, total, nil
}

// drop sees to the chunks of a generation that the record r of k may not need any more:
// they are deleted here if they are few, and else by the collector.
func (e *Embedded) drop(t *embeddedTx, k []byte, r *record, gen uint64) {
	if len(r.epochs(gen)) == 0 {
		keys, _, more := t.unneeded(chunkKey(gen, 0, 0), nil, writeBatch/8)
		for _, k := range keys {
			t.delete(t.chunks, k)
		}
		if !more {
			return
		}
	}
	t.put(t.garbage, binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, gen), e.tick()), k)
	e.noteGarbage()
}

// Patch implements Store.
func (e *Embedded) Patch(ctx context.Context, key Key, ranges []Range, c Condition) (Info, error) {
	err := validatePatch(key, ranges, c)
	var info Info
	if err == nil {
		info, err = e.patch(ctx, key, ranges, c, ValueBytesMax, func(dst []byte, p piece) { copy(dst, p.data) })
	}
	if err != nil {
		return Info{}, fmt.Errorf("patch %s: %w", key, err)
	}
	return info, nil
}

// Merge implements Store.
func (e *Embedded) Merge(ctx context.Context, key Key, off int64, el Element, op Op, operand []byte, c Condition) (Info, error) {
	err := validateMerge(key, off, el, op, operand, c)
	var info Info
	if err == nil {
		info, err = e.patch(ctx, key, []Range{{off, operand}}, c, -1, func(dst []byte, p piece) { combine(dst, p.data, el, op) })
	}
	if err != nil {
		return Info{}, fmt.Errorf("merge %s: %w", key, err)
	}
	return info, nil
}

// patch puts pieces into the chunks that they fall on, in changes of writeBatch chunks,
// or in one if there is a condition on the version. The ranges may end at sizeMax, or if
// that is negative, at the end of the value.
func (e *Embedded) patch(ctx context.Context, key Key, ranges []Range, c Condition, sizeMax int64, put func(dst []byte, p piece)) (info Info, err error) {
	k := keyOf(key)
	end := int64(0)
	for _, r := range ranges {
		end = max(end, r.Offset+int64(len(r.Data)))
	}
	patches := splitRanges(ranges, ChunkBytes)
	for {
		batch := patches
		if c.IfVersion == 0 {
			batch = patches[:min(len(patches), writeBatch)]
		}
		total := 0
		for _, p := range batch {
			for _, piece := range p.pieces {
				total += len(piece.data)
			}
		}
		err = e.change(ctx, len(batch)*ChunkBytes, func(t *embeddedTx) error {
			r, err := e.checkedValue(t, k, c)
			if err != nil {
				return err
			}
			was, v := r, &r.value
			if v.chunk != ChunkBytes {
				return fmt.Errorf("%w: chunks of %d bytes", ErrDamaged, v.chunk)
			}
			if sizeMax < 0 && end > int64(v.size) {
				return fmt.Errorf("%w: the range ends at %d, the value at %d", ErrInvalid, end, v.size)
			}
			if len(batch) == 0 {
				info = v.info()
				return nil
			}
			chunks := make([][]byte, len(batch))
			for i, p := range batch {
				data, _, err := t.chunkOf(v, uint64(p.index))
				if err != nil {
					return err
				}
				n := max(len(data), p.end)
				chunks[i] = make([]byte, n, n+4)
				copy(chunks[i], data)
				for _, piece := range p.pieces {
					put(chunks[i][piece.off:piece.off+len(piece.data)], piece)
				}
				v.size = max(v.size, uint64(p.index)*v.chunk+uint64(p.end))
			}
			// Of an older epoch is a chunk that a published version may share; it stays.
			for i, p := range batch {
				t.put(t.chunks, chunkKey(v.gen, uint64(p.index), v.epoch), seal(chunks[i]))
			}
			v.version = e.tick()
			t.update(key.Tenant, k, &was, &r)
			info = v.info()
			return nil
		})
		if err != nil {
			return Info{}, err
		}
		e.sent.Add(uint64(total))
		if patches = patches[len(batch):]; len(patches) == 0 {
			return info, nil
		}
	}
}

// Delete implements Store.
func (e *Embedded) Delete(ctx context.Context, key Key, c Condition) error {
	err := validateChange(key, c)
	if err == nil {
		k := keyOf(key)
		err = e.change(ctx, 0, func(t *embeddedTx) error {
			r, err := t.record(k)
			if err != nil {
				return err
			}
			if c.Fence == 0 && r.empty() {
				return ErrNotFound
			}
			if err := e.check(k, &r, c); err != nil {
				return err
			}
			if r.empty() {
				return ErrNotFound
			}
			var none record
			t.update(key.Tenant, k, &r, &none)
			gens := map[uint64]bool{r.value.gen: true, r.list.gen: true}
			for _, p := range r.published {
				gens[p.gen] = true
			}
			delete(gens, 0)
			for gen := range gens {
				e.drop(t, k, &none, gen)
			}
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

// List implements Store.
func (e *Embedded) List(ctx context.Context, tenant, prefix, after string, limit int) (list []Entry, err error) {
	if err = validateList(tenant, limit); err == nil {
		err = e.view(ctx, func(t *embeddedTx) error {
			from := max(prefix, after)
			under := keyOf(Key{tenant, prefix})
			skip := keyOf(Key{tenant, after})
			c := t.keys.Cursor()
			for k, _ := c.Seek(keyOf(Key{tenant, from})); bytes.HasPrefix(k, under) && len(list) < limit; k, _ = c.Next() {
				if bytes.Equal(k, skip) {
					continue
				}
				name := string(k[1+len(tenant):])
				r, err := t.record(k)
				if err != nil {
					return fmt.Errorf("%q: %w", name, err)
				}
				entry := Entry{Name: name, ListLen: int64(r.list.n), ListBytes: int64(r.list.bytes)}
				if r.value.version != 0 {
					entry.Info = r.value.info()
				}
				for _, p := range r.published {
					if p.version != 0 {
						entry.Published = append(entry.Published, p.version)
					}
				}
				list = append(list, entry)
			}
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("list keys of tenant %q: %w", tenant, err)
	}
	return list, nil
}

// Usage implements Store.
func (e *Embedded) Usage(ctx context.Context, tenant string) (u Usage, err error) {
	if err = validateTenant(tenant); err == nil {
		err = e.view(ctx, func(t *embeddedTx) error {
			v := t.usage.Get([]byte(tenant))
			if v == nil {
				return nil
			}
			b, err := unseal(v)
			if err != nil || len(b) != 16 {
				return fmt.Errorf("%w: the record has %d bytes", ErrDamaged, len(v))
			}
			u = Usage{Bytes: int64(binary.BigEndian.Uint64(b)), Keys: int64(binary.BigEndian.Uint64(b[8:]))}
			return nil
		})
	}
	if err != nil {
		return Usage{}, fmt.Errorf("usage of tenant %q: %w", tenant, err)
	}
	return u, nil
}

// Publish implements Store.
func (e *Embedded) Publish(ctx context.Context, key Key, c Condition) (info Info, err error) {
	if err = validateChange(key, c); err == nil {
		k := keyOf(key)
		err = e.change(ctx, 0, func(t *embeddedTx) error {
			r, err := e.checkedValue(t, k, c)
			if err != nil {
				return err
			}
			info = r.value.info()
			was, p := r, &r.published
			for _, s := range p {
				if s.version == r.value.version {
					return nil
				}
			}
			free := len(p) - 1
			for free > 0 && p[free-1].version == 0 {
				free--
			}
			oldest := p[0]
			if p[free].version != 0 {
				copy(p[:], p[1:])
			}
			p[free] = r.value
			r.value.epoch = e.tick() // what is written from now on is another epoch's
			t.update(key.Tenant, k, &was, &r)
			if was.published[free].version != 0 {
				e.drop(t, k, &r, oldest.gen)
			}
			return nil
		})
	}
	if err != nil {
		return Info{}, fmt.Errorf("publish %s: %w", key, err)
	}
	return info, nil
}

// Published implements Store.
func (e *Embedded) Published(ctx context.Context, key Key) (Info, error) {
	_, info, err := e.ReadPublished(ctx, key, 0, 0, nil)
	return info, err
}

// ReadPublished implements Store.
func (e *Embedded) ReadPublished(ctx context.Context, key Key, version uint64, off int64, dst []byte) (n int, info Info, err error) {
	if err = validateRead(key, off); err == nil {
		err = e.view(ctx, func(t *embeddedTx) error {
			r, err := t.record(keyOf(key))
			if err != nil {
				return err
			}
			var s snapshot
			for _, p := range r.published {
				if p.version != 0 && (version == 0 || p.version == version) {
					s = p
				}
			}
			n, info, err = t.read(&s, off, dst)
			return err
		})
	}
	if err != nil {
		return 0, Info{}, fmt.Errorf("read published version %d of %s: %w", version, key, err)
	}
	e.received.Add(uint64(n))
	return n, info, nil
}

// Unpublish implements Store.
func (e *Embedded) Unpublish(ctx context.Context, key Key, version uint64) error {
	err := key.Validate()
	if err == nil {
		k := keyOf(key)
		err = e.change(ctx, 0, func(t *embeddedTx) error {
			r, err := t.record(k)
			if err != nil {
				return err
			}
			was := r
			var kept [PublishedKept]snapshot
			n, gen := 0, uint64(0)
			for _, p := range r.published {
				switch {
				case p.version == 0:
				case p.version == version:
					gen = p.gen
				default:
					kept[n] = p
					n++
				}
			}
			if gen == 0 {
				return ErrNotFound
			}
			r.published = kept
			t.update(key.Tenant, k, &was, &r)
			e.drop(t, k, &r, gen)
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("unpublish version %d of %s: %w", version, key, err)
	}
	return nil
}

// Append implements Store.
func (e *Embedded) Append(ctx context.Context, key Key, element []byte) (index int64, err error) {
	if err = validateAppend(key, element); err == nil {
		k := keyOf(key)
		sealed := seal(append(make([]byte, 0, len(element)+4), element...))
		err = e.change(ctx, len(element), func(t *embeddedTx) error {
			r, err := t.record(k)
			if err != nil {
				return err
			}
			was, l := r, &r.list
			if l.gen == 0 {
				l.gen = e.tick()
			}
			index = int64(l.n)
			t.put(t.chunks, chunkKey(l.gen, l.n, l.gen), sealed)
			l.n++
			l.bytes += uint64(len(element))
			t.update(key.Tenant, k, &was, &r)
			return nil
		})
	}
	if err != nil {
		return 0, fmt.Errorf("append to %s: %w", key, err)
	}
	e.sent.Add(uint64(len(element)))
	return index, nil
}

// ReadList implements Store.
func (e *Embedded) ReadList(ctx context.Context, key Key, first int64, n int, bytesMax int64) (elements [][]byte, err error) {
	total := int64(0)
	if err = validateReadList(key, first, n, bytesMax); err == nil {
		err = e.view(ctx, func(t *embeddedTx) error {
			r, err := t.record(keyOf(key))
			if err != nil || r.list.gen == 0 {
				return err
			}
			c := t.chunks.Cursor()
			prefix := chunkKey(r.list.gen, 0, 0)[:8]
			k, v := c.Seek(chunkKey(r.list.gen, uint64(first), 0))
			for ; bytes.HasPrefix(k, prefix) && len(elements) < n; k, v = c.Next() {
				b, err := unseal(v)
				if err != nil {
					return fmt.Errorf("element %d: %w", first+int64(len(elements)), err)
				}
				if len(elements) > 0 && total+int64(len(b)) > bytesMax {
					return nil
				}
				total += int64(len(b))
				elements = append(elements, bytes.Clone(b))
			}
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("read list %s: %w", key, err)
	}
	e.received.Add(uint64(total))
	return elements, nil
}

// StatList implements Store.
func (e *Embedded) StatList(ctx context.Context, key Key) (n, bytes int64, err error) {
	if err = key.Validate(); err == nil {
		err = e.view(ctx, func(t *embeddedTx) error {
			r, err := t.record(keyOf(key))
			n, bytes = int64(r.list.n), int64(r.list.bytes)
			return err
		})
	}
	if err != nil {
		return 0, 0, fmt.Errorf("stat list %s: %w", key, err)
	}
	return n, bytes, nil
}

// ClearList implements Store.
func (e *Embedded) ClearList(ctx context.Context, key Key) error {
	err := key.Validate()
	if err == nil {
		k := keyOf(key)
		err = e.change(ctx, 0, func(t *embeddedTx) error {
			r, err := t.record(k)
			if err != nil || r.list.gen == 0 {
				return err
			}
			was := r
			r.list = record{}.list
			t.update(key.Tenant, k, &was, &r)
			e.drop(t, k, &r, was.list.gen)
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("clear list %s: %w", key, err)
	}
	return nil
}
