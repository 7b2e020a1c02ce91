package global

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
)

// scanBatch is how many chunks the collector looks at in one transaction.
const scanBatch = 8192

// writerKey is the entry in the garbage bucket of a generation that is being written,
// whose number is the generation's own.
func writerKey(gen uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, gen), gen)
}

// noteGarbage wakes the collector.
func (e *Embedded) noteGarbage() {
	select {
	case e.garbage <- struct{}{}:
	default:
	}
}

// collectAll is the collector's goroutine. An error ends the round, and the next thing
// that is dropped, or Sweep, begins another: what hinders the collector hinders the
// changes of others too, which report it.
func (e *Embedded) collectAll() {
	ctx := context.Background() // Close ends what runs, by its ErrClosed
	for {
		select {
		case <-e.garbage:
			_, _ = e.collect(ctx)
		case <-e.closing:
			return
		}
	}
}

// Sweep implements Store. Embedded, all garbage is known, and deleted soon in any case;
// Sweep waits for that.
func (e *Embedded) Sweep(ctx context.Context) (Swept, error) {
	swept, err := e.collect(ctx)
	if err != nil {
		return swept, fmt.Errorf("sweep: %w", err)
	}
	return swept, nil
}

// collect goes through the garbage bucket.
func (e *Embedded) collect(ctx context.Context) (swept Swept, err error) {
	e.collecting.Lock()
	defer e.collecting.Unlock()
	for entry := []byte(nil); ; {
		var k []byte
		if err := e.view(ctx, func(t *embeddedTx) error {
			c := t.garbage.Cursor()
			at, v := c.Seek(entry)
			if bytes.Equal(at, entry) && at != nil {
				at, v = c.Next()
			}
			entry, k = bytes.Clone(at), bytes.Clone(v)
			return nil
		}); err != nil || entry == nil {
			return swept, err
		}
		gen := binary.BigEndian.Uint64(entry)
		if _, writing := e.writing.Load(gen); writing {
			continue
		}
		n, err := e.collectEntry(ctx, gen, entry, k)
		swept.Chunks += n
		if err != nil {
			return swept, err
		}
		if bytes.Equal(entry[:8], entry[8:]) {
			swept.Writers++
		}
	}
}

// collectEntry deletes the chunks of the generation that the record of k does not need,
// and then the entry in the garbage bucket.
func (e *Embedded) collectEntry(ctx context.Context, gen uint64, entry, k []byte) (deleted int64, err error) {
	from := chunkKey(gen, 0, 0)
	for more := true; more; {
		var dead [][]byte
		if err := e.view(ctx, func(t *embeddedTx) error {
			r, err := t.record(k)
			if err != nil {
				return err
			}
			dead, from, more = t.unneeded(from, r.epochs(gen), collectBatch)
			return nil
		}); err != nil {
			return deleted, err
		}
		// A chunk that no snapshot needs is needed by none ever after, so nothing is to
		// be looked at again.
		if err := e.change(ctx, len(dead)*ChunkBytes/8, func(t *embeddedTx) error {
			for _, k := range dead {
				t.delete(t.chunks, k)
			}
			if !more {
				t.delete(t.garbage, entry)
			}
			return nil
		}); err != nil {
			return deleted, err
		}
		deleted += int64(len(dead))
	}
	return deleted, nil
}

// unneeded returns up to n chunks of a generation, from the key from, that snapshots with
// these epochs do not see; and whether there may be more, from next.
func (t *embeddedTx) unneeded(from []byte, epochs []uint64, n int) (keys [][]byte, next []byte, more bool) {
	c := t.chunks.Cursor()
	k, _ := c.Seek(from)
	for range scanBatch {
		if len(k) != 24 || !bytes.Equal(k[:8], from[:8]) {
			return keys, nil, false
		}
		if len(keys) == n {
			break
		}
		this := bytes.Clone(k)
		epoch := binary.BigEndian.Uint64(this[16:])
		k, _ = c.Next()
		// The chunk is seen by the epochs from its own to that of the next one.
		until := uint64(1<<64 - 1)
		if len(k) == 24 && bytes.Equal(k[:16], this[:16]) {
			until = binary.BigEndian.Uint64(k[16:])
		}
		needed := false
		for _, e := range epochs {
			needed = needed || e >= epoch && e < until
		}
		if !needed {
			keys = append(keys, this)
		}
	}
	return keys, bytes.Clone(k), true
}
