package global

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// view is the manifest of a value at one version.
type view struct {
	Info
	gen    uint64
	chunks int64 // those before it are the generation's, unless there is an override

	// overrides are the numbers of other chunks; all of them if whole, else those of the
	// range that was asked for.
	overrides map[int64]uint64
	whole     bool
}

// number returns a chunk's number, or 0 for a hole.
func (v *view) number(index int64) uint64 {
	if n, ok := v.overrides[index]; ok {
		return n
	}
	if index < v.chunks {
		return v.gen
	}
	return 0
}

const (
	// viewsMax is how many views are kept.
	viewsMax = 512

	// viewBytesMax is how much of chunk 0 comes with a view. Scripts copy it thrice, so
	// that for more another exchange costs less.
	viewBytesMax = 16 << 10
)

// remember keeps a view, if it can be used for any range, for the next read of the key.
func (r *Redis) remember(key Key, v *view) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v == nil || !v.whole {
		delete(r.mu.views, key)
		return
	}
	// Two reads may come in either order. Versions grow, and are not used again when a
	// value is deleted.
	if old := r.mu.views[key]; old != nil && old.Version > v.Version {
		return
	}
	for other := range r.mu.views {
		if len(r.mu.views) < viewsMax {
			break
		}
		delete(r.mu.views, other)
	}
	r.mu.views[key] = v
}

func (r *Redis) remembered(key Key) *view {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.views[key]
}

// parseView reads the answer of scriptView.
func parseView(p reply, first, last int64) (v *view, number uint64, data string, err error) {
	if len(p) < 8 {
		return nil, 0, "", fmt.Errorf("%w: a manifest of %d parts", ErrDamaged, len(p))
	}
	if err := p[:6].numbers(); err != nil {
		return nil, 0, "", err
	}
	v = &view{
		Info: Info{Version: p.uint(0), Size: p.int(3), ChunkBytes: p.int(4)}, gen: p.uint(1), chunks: p.int(2),
	}
	if v.Version == 0 || v.ChunkBytes == 0 || v.ChunkBytes > chunkBytesMax {
		return nil, 0, "", fmt.Errorf("%w: version %d, %d bytes in chunks of %d", ErrDamaged, v.Version, v.Size, v.ChunkBytes)
	}
	list := p[7:]
	v.whole = list.string(0) == "A"
	if v.whole && len(list) > 1 {
		if err := list[1:].numbers(); err != nil {
			return nil, 0, "", err
		}
		v.overrides = make(map[int64]uint64, len(list)/2)
		for i := 1; i+1 < len(list); i += 2 {
			v.overrides[list.int(i)] = list.uint(i + 1)
		}
	}
	if !v.whole {
		v.overrides = make(map[int64]uint64)
		for i := first; i < last && int(1+i-first) < len(list); i++ {
			at := list[1+i-first:]
			if at[0] == "" {
				continue
			}
			if err := at[:1].numbers(); err != nil {
				return nil, 0, "", err
			}
			v.overrides[i] = at.uint(0)
		}
	}
	return v, p.uint(5), p.string(6), nil
}

// Stat implements Store.
func (r *Redis) Stat(ctx context.Context, key Key) (Info, error) {
	_, info, err := r.Read(ctx, key, 0, nil)
	return info, err
}

// Read implements Store.
//
// It takes the chunks that the manifest named when it last saw it, and with them asks for
// the version; if that is still the same, it is done, in one exchange. Else it takes the
// new manifest, and those chunks that are others by it.
func (r *Redis) Read(ctx context.Context, key Key, off int64, dst []byte) (n int, info Info, err error) {
	if err = validateRead(key, off); err == nil {
		n, info, err = r.read(ctx, key, off, dst)
	}
	if err != nil {
		return 0, Info{}, fmt.Errorf("read %s: %w", key, err)
	}
	return n, info, nil
}

func (r *Redis) read(ctx context.Context, key Key, off int64, dst []byte) (int, Info, error) {
	if r.ctx.Err() != nil {
		return 0, Info{}, ErrClosed
	}
	f := fill{r: r, key: key, off: off, dst: dst, have: make(map[int64]uint64)}
	if v := r.remembered(key); v != nil && len(dst) > 0 {
		current, err := f.take(ctx, v, true)
		if err != nil {
			return 0, Info{}, err
		}
		if current {
			return len(f.part(v)), v.Info, nil
		}
		r.remember(key, nil)
	}
	var last *view
	for range attemptsMax {
		v, err := f.look(ctx, scriptView)
		if err != nil {
			r.remember(key, nil)
			return 0, Info{}, err
		}
		done, err := f.take(ctx, v, false)
		if err != nil {
			return 0, Info{}, err
		}
		if done {
			r.remember(key, v)
			return len(f.part(v)), v.Info, nil
		}
		if last != nil && last.Version == v.Version {
			return 0, Info{}, fmt.Errorf("%w: version %d lacks chunks", ErrDamaged, v.Version)
		}
		last = v
	}
	return 0, Info{}, ErrConflict
}

// fill is a read under way.
type fill struct {
	r    *Redis
	key  Key
	off  int64
	dst  []byte
	have map[int64]uint64 // the numbers of chunks that are in dst; of holes, none
	done int              // what of dst those are in
}

// part returns what of dst a value fills. Where that is more than by the view before,
// it is zero: a value that has grown may still have the same last chunk.
func (f *fill) part(v *view) []byte {
	part := f.dst[:min(int64(len(f.dst)), max(v.Size-f.off, 0))]
	if len(f.have) > 0 && len(part) > f.done {
		clear(part[f.done:])
	}
	f.done = len(part)
	return part
}

// look gets the manifest, and what of chunk 0 is wanted with it.
func (f *fill) look(ctx context.Context, s *luaScript, version ...string) (*view, error) {
	chunk := f.r.chunk // the usual; another only means that less is got at once
	first, last := f.off/chunk, chunksOf(f.off+int64(len(f.dst)), chunk)
	n := int64(0)
	if most := chunk - f.off; first == 0 && s == scriptView && min(int64(len(f.dst)), most) <= viewBytesMax {
		n = min(int64(len(f.dst)), most)
	}
	args := append([]string{str(first), str(last)}, version...)
	if len(version) == 0 {
		args = append(args, str(f.off), str(n))
	}
	status, p, err := f.r.run(ctx, s, f.key, args)
	if err == nil && status == statusLost {
		err = fmt.Errorf("%w: it lacks chunk 0", ErrDamaged)
	}
	if err != nil {
		return nil, err
	}
	v, number, data, err := parseView(p, first, last)
	if err != nil {
		return nil, err
	}
	if !v.whole && v.ChunkBytes != chunk {
		return nil, fmt.Errorf("%w: chunks of %d bytes", ErrDamaged, v.ChunkBytes)
	}
	if n > 0 && number != 0 && v.ChunkBytes == chunk {
		part := f.part(v)
		part = part[:min(int64(len(part)), n)]
		clear(part[copy(part, data):])
		f.have[0] = number
		f.r.received.Add(uint64(len(data)))
	}
	return v, nil
}

// take gets the chunks of a view that are not in dst yet. It returns whether all are
// there now, and if the version is to be checked, whether it is still the view's.
func (f *fill) take(ctx context.Context, v *view, check bool) (bool, error) {
	part := f.part(v)
	first, last := f.off/v.ChunkBytes, chunksOf(f.off+int64(len(part)), v.ChunkBytes)
	var want []int64
	for i := first; i < last && len(part) > 0; i++ {
		switch number := v.number(i); {
		case number == 0:
			clear(f.span(v, part, i))
			delete(f.have, i)
		case number != f.have[i]:
			want = append(want, i)
		}
	}
	current := true
	if check && (len(want) == 0 || want[0] != 0 && f.r.cluster()) { // it may be at another node
		_, same, err := f.get(ctx, v, part, nil, true)
		if err != nil || !same {
			return false, err
		}
		check = false
	}
	var mu sync.Mutex
	missing := len(want)
	err := inParallel(ctx, int64(len(want)), f.r.wireChunks(), func(from, to int64) error {
		got, same, err := f.get(ctx, v, part, want[from:to], check && from == 0)
		mu.Lock()
		defer mu.Unlock()
		for _, i := range got {
			f.have[i] = v.number(i)
		}
		missing -= len(got)
		current = current && same
		return err
	})
	return current && missing == 0, err
}

// get puts chunks of a view, which are at one node, into part, and returns those that were
// there. If check it tells whether the value, whose manifest is there too, is at the view's
// version.
func (f *fill) get(ctx context.Context, v *view, part []byte, chunks []int64, check bool) (got []int64, same bool, err error) {
	manifest := prefix(f.key.Tenant) + "v:" + f.key.Name
	name := func(i int64) string { return chunkName(f.key, v.gen, i, v.number(i)) }
	at := manifest
	if !check {
		at = name(chunks[0])
	}
	var empty []int64
	bytes := 0
	err = f.r.wire.exchange(ctx, at, true, func(c *wireConn) error {
		if check {
			c.command("HGET", manifest, "v")
		}
		for _, i := range chunks {
			n := int64(len(f.span(v, part, i)))
			if in := max(f.off-i*v.ChunkBytes, 0); in == 0 && n == min(v.ChunkBytes, v.Size-i*v.ChunkBytes) {
				c.command("GET", name(i))
			} else {
				c.command("GETRANGE", name(i), str(in), str(in+n-1))
			}
		}
		if err := c.flush(); err != nil {
			return err
		}
		same = true
		if check {
			var version [24]byte
			n, err := c.bytes(version[:])
			if err != nil {
				return err
			}
			same = string(version[:max(n, 0)]) == str(v.Version)
		}
		got, empty, bytes = got[:0], empty[:0], 0
		for _, i := range chunks {
			span := f.span(v, part, i)
			n, err := c.bytes(span)
			switch {
			case err != nil:
				return err
			case n < 0:
				continue
			case n == 0:
				empty = append(empty, i)
			default:
				got = append(got, i)
			}
			clear(span[n:])
			bytes += n
		}
		return nil
	})
	if err != nil {
		return nil, false, f.r.failure(ctx, err)
	}
	f.r.received.Add(uint64(bytes))
	for _, i := range empty {
		// GETRANGE does not tell a chunk that is short from one that is gone.
		there, err := f.r.do(ctx, f.r.client.B().Exists().Key(name(i)).Build()).AsInt64()
		if err != nil {
			return nil, false, f.r.failure(ctx, err)
		}
		if there != 0 {
			got = append(got, i)
		}
	}
	return got, same, nil
}

// span returns what of part is of a chunk.
func (f *fill) span(v *view, part []byte, index int64) []byte {
	from := max(index*v.ChunkBytes-f.off, 0)
	return part[from:min((index+1)*v.ChunkBytes-f.off, int64(len(part)))]
}

// Write implements Store. A value of one chunk is one exchange.
func (r *Redis) Write(ctx context.Context, key Key, size int64, src io.ReaderAt, c Condition) (Info, error) {
	err := validateWrite(key, size, c)
	var v *view
	if err == nil {
		v, err = r.write(ctx, key, size, src, c)
	}
	if err != nil {
		return Info{}, fmt.Errorf("write %s: %w", key, err)
	}
	r.remember(key, v)
	return v.Info, nil
}

func (r *Redis) write(ctx context.Context, key Key, size int64, src io.ReaderAt, c Condition) (*view, error) {
	chunks := chunksOf(size, r.chunk)
	if src == nil {
		chunks = 0
	}
	condition := []string{str(c.IfVersion), bit(c.IfAbsent), str(c.Fence)}
	var gen uint64
	var made committed
	var err error
	if chunks > 1 {
		_, p, begun := r.run(ctx, scriptBegin, key, append(condition, microseconds(writerTTL)))
		if begun != nil {
			return nil, begun
		}
		gen = p.uint(0)
		err = r.writeChunks(ctx, key, gen, chunks, size, src)
	}
	if err == nil {
		made, err = r.commit(ctx, key, gen, chunks, size, src, condition)
	}
	if err != nil {
		if chunks > 1 {
			r.abort(key, gen, func() []string {
				var names []string
				for i := int64(1); i < chunks; i++ {
					names = append(names, chunkName(key, gen, i, gen))
				}
				return names
			})
		}
		return nil, err
	}
	v := &view{Info: Info{Version: made.version, Size: size, ChunkBytes: r.chunk}, gen: made.gen, chunks: chunks, whole: true}
	if made.dropped != "0" {
		r.drop(droppedChunks{key: key, number: made.dropped, bytes: size})
	}
	return v, nil
}

// committed is what scriptCommit answers.
type committed struct {
	version, gen uint64
	dropped      string
}

// commit stores the first chunk, if there is one, under a name of its own, and makes it and
// the chunks of the generation the value, in one exchange.
func (r *Redis) commit(ctx context.Context, key Key, gen uint64, chunks, size int64, src io.ReaderAt, condition []string) (committed, error) {
	args := append(condition, str(gen), str(chunks), str(size), str(r.chunk))
	var status string
	var p reply
	var err error
	if chunks == 0 {
		status, p, err = r.run(ctx, scriptCommit, key, append(args, ""))
	} else {
		status, p, err = r.commitFirst(ctx, key, min(size, r.chunk), src, args)
	}
	if err == nil && status == statusAborted {
		err = fmt.Errorf("%w: it was silent for %v", ErrConflict, writerTTL)
	}
	if err == nil {
		err = p.numbers()
	}
	return committed{p.uint(0), p.uint(1), p.string(2)}, err
}

func (r *Redis) commitFirst(ctx context.Context, key Key, n int64, src io.ReaderAt, args []string) (status string, p reply, err error) {
	if r.ctx.Err() != nil {
		return "", nil, ErrClosed
	}
	id := r.newID()
	at := prefix(key.Tenant)
	args = append(args, id)
	var list []string
	err = r.wire.exchange(ctx, at, false, func(c *wireConn) error {
		if err := c.set(newName(key.Tenant, id), src, 0, n); err != nil {
			return err
		}
		sets := c.pending
		c.script("EVALSHA", scriptCommit.sha, at, key.Name, args)
		if err := c.flush(); err != nil {
			return err
		}
		if err := c.okays(sets); err != nil {
			return err
		}
		list, err = c.list()
		return err
	})
	r.sent.Add(uint64(n))
	if unknownScript(err) {
		return r.run(ctx, scriptCommit, key, args)
	}
	if err != nil {
		return "", nil, r.failure(ctx, err)
	}
	return answer(list)
}

// writeChunks stores all chunks but the first.
func (r *Redis) writeChunks(ctx context.Context, key Key, gen uint64, chunks, size int64, src io.ReaderAt) error {
	alive := time.Now()
	var mu sync.Mutex
	return inParallel(ctx, chunks-1, r.wireChunks(), func(first, last int64) error {
		mu.Lock()
		renew := time.Since(alive) > writerTTL/4
		if renew {
			alive = time.Now()
		}
		mu.Unlock()
		if renew {
			if status, _, err := r.run(ctx, scriptRenew, key, []string{str(gen), microseconds(writerTTL)}); err != nil {
				return err
			} else if status != statusOK {
				return fmt.Errorf("%w: it was silent for %v", ErrConflict, writerTTL)
			}
		}
		err := r.wire.exchange(ctx, chunkName(key, gen, first+1, gen), false, func(c *wireConn) error {
			for i := first + 1; i <= last; i++ {
				if err := c.set(chunkName(key, gen, i, gen), src, i*r.chunk, min(size-i*r.chunk, r.chunk)); err != nil {
					return err
				}
			}
			if err := c.flush(); err != nil {
				return err
			}
			return c.okays(c.pending)
		})
		if err != nil {
			return r.failure(ctx, err)
		}
		r.sent.Add(uint64(min((last+1)*r.chunk, size) - (first+1)*r.chunk))
		return nil
	})
}

// sourceError is an error of what was to be written.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

// readFull reads what is to be written at off.
func readFull(src io.ReaderAt, b []byte, off int64) error {
	if n, err := src.ReadAt(b, off); n < len(b) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return &sourceError{fmt.Errorf("read the %d bytes at %d to be written: %w", len(b), off, err)}
	}
	return nil
}

func microseconds(d time.Duration) string { return str(d.Microseconds()) }

// abort takes back a registration, in the background, and then deletes the chunks, unless
// they have been committed after all.
func (r *Redis) abort(key Key, number uint64, names func() []string) {
	r.spawn(func() {
		if _, p, err := r.run(r.ctx, scriptAbort, key, []string{str(number)}); err == nil && p.string(0) == "1" {
			r.unlink(r.ctx, names())
		}
	})
}

// Patch implements Store.
//
// One that falls on chunk 0 alone is one script. Else the node of each chunk makes a new
// chunk of the old one, and the manifest then takes those whose old one it still names;
// the others are done again.
func (r *Redis) Patch(ctx context.Context, key Key, ranges []Range, c Condition) (Info, error) {
	err := validatePatch(key, ranges, c)
	var info Info
	if err == nil {
		info, err = r.patch(ctx, key, ranges, c, nil)
	}
	if err != nil {
		return Info{}, fmt.Errorf("patch %s: %w", key, err)
	}
	return info, nil
}

// Merge implements Store. It is a Patch with what it makes of the chunks it reads, which
// only takes effect on those chunks.
func (r *Redis) Merge(ctx context.Context, key Key, off int64, e Element, op Op, operand []byte, c Condition) (Info, error) {
	err := validateMerge(key, off, e, op, operand, c)
	var info Info
	if err == nil {
		slot := r.merging[maphash.Comparable(mergeSeed, key)%uint64(len(r.merging))]
		select {
		case slot <- struct{}{}:
			info, err = r.patch(ctx, key, []Range{{off, operand}}, c, func(dst, operand []byte) { combine(dst, operand, e, op) })
			<-slot
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	if err != nil {
		return Info{}, fmt.Errorf("merge %s: %w", key, err)
	}
	return info, nil
}

var mergeSeed = maphash.MakeSeed()

// patch puts ranges into the value, or if merge is given, what that makes of the bytes
// that are there and those of the range; the ranges are then within the value.
func (r *Redis) patch(ctx context.Context, key Key, ranges []Range, c Condition, merge func(dst, operand []byte)) (info Info, err error) {
	chunk := r.chunk
	patches := splitRanges(ranges, chunk)
	lost := make(map[int64]uint64) // the numbers of chunks that were named and not there
	err = attempt(ctx, func() error {
		var status string
		var err error
		if len(patches) == 1 && patches[0].index == 0 {
			status, info, err = r.patchFirst(ctx, key, patches[0], c, chunk, merge)
		} else {
			status, info, patches, err = r.patchMany(ctx, key, patches, c, chunk, merge, lost)
		}
		switch {
		case err != nil:
			return err
		case status == statusChunk:
			// Before anything was done, for a value never changes its chunks' size but by
			// being replaced.
			if chunk = info.ChunkBytes; chunk <= 0 || chunk > chunkBytesMax {
				return fmt.Errorf("%w: chunks of %d bytes", ErrDamaged, chunk)
			}
			patches = splitRanges(ranges, chunk)
			return errAgain
		case status != statusOK:
			return errAgain
		}
		return nil
	})
	r.remember(key, nil)
	return info, err
}

// patchFirst patches chunk 0.
func (r *Redis) patchFirst(ctx context.Context, key Key, p chunkPatch, c Condition, chunk int64, merge func(dst, operand []byte)) (status string, info Info, err error) {
	args := []string{str(c.IfVersion), str(c.Fence), str(chunk), ""}
	if merge != nil {
		span := p.pieces[0] // a merge has one range
		got := make([]byte, len(span.data))
		status, v, err := r.run(ctx, scriptView, key, []string{"0", "1", str(span.off), str(len(got))})
		if err != nil || status != statusOK {
			return status, Info{}, lostChunk(status, err)
		}
		view, number, data, err := parseView(v, 0, 1)
		if err != nil {
			return "", Info{}, err
		}
		if view.Size < int64(p.end) {
			return "", Info{}, fmt.Errorf("%w: the range ends at %d, the value at %d", ErrInvalid, p.end, view.Size)
		}
		copy(got, data)
		r.received.Add(uint64(len(data)))
		merge(got, span.data)
		args[3] = str(number)
		p.pieces = []piece{{span.off, got}}
	}
	total := 0
	for _, piece := range p.pieces {
		args = append(args, str(piece.off), string(piece.data)) // copied: the script may be sent late
		total += len(piece.data)
	}
	status, reply, err := r.run(ctx, scriptPatch0, key, args)
	r.sent.Add(uint64(total))
	if err != nil || status == statusLost {
		return status, Info{}, lostChunk(status, err)
	}
	if status == statusChunk {
		return status, Info{ChunkBytes: reply.int(0)}, nil
	}
	return status, Info{Version: reply.uint(0), Size: reply.int(3), ChunkBytes: chunk}, nil
}

// lostChunk returns the error of a script that did not find chunk 0, which is in the
// slot of the manifest.
func lostChunk(status string, err error) error {
	if err == nil && status == statusLost {
		return fmt.Errorf("%w: it lacks chunk 0", ErrDamaged)
	}
	return err
}

// patchMany patches any chunks, and returns those that it could not: of them nothing is
// changed. A chunk whose old one is lost, and lost again under the same number, is damage.
func (r *Redis) patchMany(ctx context.Context, key Key, patches []chunkPatch, c Condition, chunk int64, merge func(dst, operand []byte), lost map[int64]uint64) (status string, info Info, left []chunkPatch, err error) {
	indices := make([]byte, 0, 8*len(patches))
	for _, p := range patches {
		indices = binary.LittleEndian.AppendUint64(indices, uint64(p.index))
	}
	status, begun, err := r.run(ctx, scriptPatchBegin, key, []string{str(c.IfVersion), str(c.Fence), str(chunk), microseconds(writerTTL), string(indices)})
	if err != nil {
		return "", Info{}, patches, err
	}
	if status == statusChunk {
		return status, Info{ChunkBytes: begun.int(0)}, patches, nil
	}
	number, gen, size := begun.uint(0), begun.uint(1), begun.int(2)
	fresh := func() []string {
		names := make([]string, len(patches))
		for i, p := range patches {
			names[i] = chunkName(key, gen, p.index, number)
		}
		return names
	}
	err = begun.numbers()
	if err == nil && len(begun) != 3+len(patches) {
		err = fmt.Errorf("%w: %d chunks of %d", ErrDamaged, len(begun)-3, len(patches))
	}
	if err != nil {
		r.abort(key, number, func() []string { return nil })
		return "", Info{}, patches, err
	}
	if last := len(patches) - 1; merge != nil && last >= 0 {
		if end := patches[last].index*chunk + int64(patches[last].end); end > size {
			r.abort(key, number, func() []string { return nil })
			return "", Info{}, patches, fmt.Errorf("%w: the range ends at %d, the value at %d", ErrInvalid, end, size)
		}
	}
	old := func(i int64) uint64 { return begun.uint(int(3 + i)) }
	made := make([]bool, len(patches))
	err = inParallel(ctx, int64(len(patches)), r.exchangeChunks(), func(first, last int64) error {
		return r.makeChunks(ctx, key, gen, number, chunk, patches[first:last], func(i int64) uint64 { return old(first + i) }, made[first:last], merge)
	})
	if err != nil {
		r.abort(key, number, fresh)
		return "", Info{}, patches, err
	}
	var commit []byte
	var doing []chunkPatch
	var was []uint64
	var unlink []string
	for i, p := range patches {
		if !made[i] {
			if lost[p.index] == old(int64(i)) {
				r.abort(key, number, fresh)
				return "", Info{}, patches, fmt.Errorf("%w: it lacks chunk %d", ErrDamaged, p.index)
			}
			lost[p.index] = old(int64(i))
			left = append(left, p)
			continue
		}
		doing, was = append(doing, p), append(was, old(int64(i)))
		for _, n := range []uint64{uint64(p.index), old(int64(i)), uint64(p.end)} {
			commit = binary.LittleEndian.AppendUint64(commit, n)
		}
	}
	status, p, err := r.run(ctx, scriptPatchCommit, key, []string{str(c.IfVersion), str(c.Fence), str(gen), str(number), string(commit)})
	if err != nil {
		r.abort(key, number, fresh)
		return "", Info{}, patches, err
	}
	switch status {
	case statusAborted, statusGone:
		r.drop(droppedChunks{names: fresh(), bytes: int64(len(patches)) * chunk})
		return status, Info{}, patches, nil
	}
	info = Info{Version: p.uint(0), Size: p.int(2), ChunkBytes: chunk}
	conflicts := true
	for i := 3; i < len(p); i++ {
		at := p.int(i) - 1
		switch {
		case at < 0:
			conflicts = false
		case conflicts:
			left = append(left, doing[at])
			unlink = append(unlink, chunkName(key, gen, doing[at].index, number))
		default:
			unlink = append(unlink, chunkName(key, gen, doing[at].index, was[at]))
		}
	}
	if len(unlink) > 0 {
		r.drop(droppedChunks{names: unlink, bytes: int64(len(unlink)) * chunk})
	}
	if len(left) > 0 {
		return statusConflict, Info{}, left, nil
	}
	return statusOK, info, nil, nil
}

// makeChunks stores the new chunks of patches, under number, and says in made which. It
// cannot make one whose old chunk is gone.
func (r *Redis) makeChunks(ctx context.Context, key Key, gen, number uint64, chunk int64, patches []chunkPatch, old func(int64) uint64, made []bool, merge func(dst, operand []byte)) error {
	if merge != nil {
		var err error
		if patches, err = r.mergeChunks(ctx, key, gen, patches, old, made, merge); err != nil {
			return err
		}
	} else {
		for i := range made {
			made[i] = true
		}
	}
	b := r.client.B
	build := func(i int64, eval bool) rueidis.Completed {
		p := patches[i]
		to := chunkName(key, gen, p.index, number)
		if len(p.pieces) == 1 && int64(len(p.pieces[0].data)) == chunk {
			return b().Set().Key(to).Value(string(p.pieces[0].data)).Build()
		}
		from := to
		if old(i) != 0 {
			from = chunkName(key, gen, p.index, old(i))
		}
		args := make([]string, 0, 2*len(p.pieces))
		for _, piece := range p.pieces {
			args = append(args, str(piece.off), string(piece.data))
		}
		if eval {
			return b().Eval().Script(copyChunk.text).Numkeys(2).Key(from, to).Arg(args...).Build()
		}
		return b().Evalsha().Sha1(copyChunk.sha).Numkeys(2).Key(from, to).Arg(args...).Build()
	}
	var at []int64
	var cmds []rueidis.Completed
	for i, p := range patches {
		if !made[i] {
			continue
		}
		at, cmds = append(at, int64(i)), append(cmds, build(int64(i), false))
		for _, piece := range p.pieces {
			r.sent.Add(uint64(len(piece.data)))
		}
	}
	exchange, cancel := r.exchange(ctx)
	defer cancel()
	for j, result := range r.client.DoMulti(exchange, cmds...) {
		i := at[j]
		err := result.Error()
		if reply, ok := rueidis.IsRedisErr(err); ok && reply.IsNoScript() {
			result = r.do(ctx, build(i, true))
			err = result.Error()
		}
		if err != nil {
			return r.failure(ctx, err)
		}
		if n, err := result.AsInt64(); err == nil && n == 0 { // SET says OK
			made[i] = false
		}
	}
	return nil
}

// mergeChunks returns patches that put what merge makes of the chunks in their place.
func (r *Redis) mergeChunks(ctx context.Context, key Key, gen uint64, patches []chunkPatch, old func(int64) uint64, made []bool, merge func(dst, operand []byte)) ([]chunkPatch, error) {
	out := slices.Clone(patches)
	var cmds []rueidis.Completed
	for i, p := range patches {
		span := p.pieces[0] // a merge has one range
		name := chunkName(key, gen, p.index, old(int64(i)))
		cmds = append(cmds,
			r.client.B().Exists().Key(name).Build(),
			r.client.B().Getrange().Key(name).Start(int64(span.off)).End(int64(span.off+len(span.data)-1)).Build())
	}
	exchange, cancel := r.exchange(ctx)
	defer cancel()
	results := r.client.DoMulti(exchange, cmds...)
	for i, p := range patches {
		there, err := results[2*i].AsInt64()
		if err != nil {
			return nil, r.failure(ctx, err)
		}
		data, err := results[2*i+1].ToString()
		if err != nil {
			return nil, r.failure(ctx, err)
		}
		if there == 0 && old(int64(i)) != 0 {
			continue
		}
		made[i] = true
		r.received.Add(uint64(len(data)))
		got := make([]byte, len(p.pieces[0].data))
		copy(got, data)
		merge(got, p.pieces[0].data)
		out[i].pieces = []piece{{p.pieces[0].off, got}}
	}
	return out, nil
}

// Delete implements Store.
func (r *Redis) Delete(ctx context.Context, key Key, c Condition) error {
	err := validateChange(key, c)
	if err == nil {
		err = r.change(ctx, key, scriptDelete, 0, str(c.IfVersion), str(c.Fence))
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

// change runs a script that answers, from a position on, with what it dropped.
func (r *Redis) change(ctx context.Context, key Key, s *luaScript, from int, args ...string) error {
	_, p, err := r.run(ctx, s, key, args)
	if err != nil {
		return err
	}
	r.remember(key, nil)
	for i := from; i < len(p); i++ {
		r.drop(droppedChunks{key: key, number: p.string(i), bytes: dropBytesMax / 4})
	}
	return nil
}

// Publish implements Store.
func (r *Redis) Publish(ctx context.Context, key Key, c Condition) (Info, error) {
	err := validateChange(key, c)
	var p reply
	if err == nil {
		_, p, err = r.run(ctx, scriptPublish, key, []string{str(c.IfVersion), str(c.Fence)})
	}
	if err != nil {
		return Info{}, fmt.Errorf("publish %s: %w", key, err)
	}
	for i := 3; i < len(p); i++ {
		r.drop(droppedChunks{key: key, number: p.string(i), bytes: dropBytesMax / 4})
	}
	return Info{Version: p.uint(0), Size: p.int(1), ChunkBytes: p.int(2)}, nil
}

// Published implements Store.
func (r *Redis) Published(ctx context.Context, key Key) (Info, error) {
	_, info, err := r.ReadPublished(ctx, key, 0, 0, nil)
	return info, err
}

// ReadPublished implements Store.
func (r *Redis) ReadPublished(ctx context.Context, key Key, version uint64, off int64, dst []byte) (n int, info Info, err error) {
	if err = validateRead(key, off); err == nil {
		n, info, err = r.readPublished(ctx, key, version, off, dst)
	}
	if err != nil {
		return 0, Info{}, fmt.Errorf("read published version %d of %s: %w", version, key, err)
	}
	return n, info, nil
}

func (r *Redis) readPublished(ctx context.Context, key Key, version uint64, off int64, dst []byte) (int, Info, error) {
	f := fill{r: r, key: key, off: off, dst: dst, have: make(map[int64]uint64)}
	last := uint64(0)
	for {
		v, err := f.look(ctx, scriptPublishedView, str(version))
		if err != nil {
			return 0, Info{}, err
		}
		done, err := f.take(ctx, v, false)
		if err != nil {
			return 0, Info{}, err
		}
		if done {
			return len(f.part(v)), v.Info, nil
		}
		// It lacks a chunk: it has been dropped since, or is damaged.
		if v.Version == last {
			return 0, Info{}, fmt.Errorf("%w: version %d lacks chunks", ErrDamaged, v.Version)
		}
		last = v.Version
	}
}

// Unpublish implements Store.
func (r *Redis) Unpublish(ctx context.Context, key Key, version uint64) error {
	err := key.Validate()
	if err == nil {
		err = r.change(ctx, key, scriptUnpublish, 0, str(version))
	}
	if err != nil {
		return fmt.Errorf("unpublish version %d of %s: %w", version, key, err)
	}
	return nil
}

// List implements Store.
func (r *Redis) List(ctx context.Context, tenant, prefix, after string, limit int) ([]Entry, error) {
	err := validateList(tenant, limit)
	var p reply
	if err == nil {
		_, p, err = r.run(ctx, scriptNames, Key{Tenant: tenant}, []string{prefix, after, str(limit)})
	}
	if err != nil {
		return nil, fmt.Errorf("list keys of tenant %q: %w", tenant, err)
	}
	var list []Entry
	for ; len(p) >= 7; p = p[7:] {
		if err := p[1:6].numbers(); err != nil {
			return nil, fmt.Errorf("list keys of tenant %q: %q: %w", tenant, p.string(0), err)
		}
		e := Entry{
			Name: p.string(0), Info: Info{Version: p.uint(1), Size: p.int(2), ChunkBytes: p.int(3)},
			ListLen: p.int(4), ListBytes: p.int(5),
		}
		for _, v := range strings.Fields(p.string(6)) {
			n, err := strconv.ParseUint(v, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("list keys of tenant %q: %q: %w: published version %q", tenant, e.Name, ErrDamaged, v)
			}
			e.Published = append(e.Published, n)
		}
		list = append(list, e)
	}
	return list, nil
}

// Usage implements Store.
func (r *Redis) Usage(ctx context.Context, tenant string) (Usage, error) {
	err := validateTenant(tenant)
	var p reply
	if err == nil {
		if _, p, err = r.run(ctx, scriptUsage, Key{Tenant: tenant}, nil); err == nil {
			err = p.numbers()
		}
	}
	if err != nil {
		return Usage{}, fmt.Errorf("usage of tenant %q: %w", tenant, err)
	}
	return Usage{Bytes: p.int(0), Keys: p.int(1)}, nil
}

// Append implements Store.
func (r *Redis) Append(ctx context.Context, key Key, element []byte) (int64, error) {
	err := validateAppend(key, element)
	var p reply
	if err == nil {
		_, p, err = r.run(ctx, scriptAppend, key, []string{string(element)}) // copied: it may be sent late
	}
	if err != nil {
		return 0, fmt.Errorf("append to %s: %w", key, err)
	}
	r.sent.Add(uint64(len(element)))
	return p.int(0), nil
}

// exact is more than there is of anything, and a number that scripts can add to.
const exact = 1 << 52

// ReadList implements Store.
func (r *Redis) ReadList(ctx context.Context, key Key, first int64, n int, bytesMax int64) ([][]byte, error) {
	err := validateReadList(key, first, n, bytesMax)
	var p reply
	if err == nil {
		_, p, err = r.run(ctx, scriptReadList, key, []string{str(min(first, exact)), str(min(int64(n), exact)), str(min(bytesMax, exact))})
	}
	if err != nil {
		return nil, fmt.Errorf("read list %s: %w", key, err)
	}
	var elements [][]byte
	for i := range p {
		elements = append(elements, []byte(p.string(i)))
		r.received.Add(uint64(len(elements[i])))
	}
	return elements, nil
}

// StatList implements Store.
func (r *Redis) StatList(ctx context.Context, key Key) (n, bytes int64, err error) {
	var p reply
	if err = key.Validate(); err == nil {
		if _, p, err = r.run(ctx, scriptStatList, key, nil); err == nil {
			err = p.numbers()
		}
	}
	if err != nil {
		return 0, 0, fmt.Errorf("stat list %s: %w", key, err)
	}
	return p.int(0), p.int(1), nil
}

// ClearList implements Store.
func (r *Redis) ClearList(ctx context.Context, key Key) error {
	err := key.Validate()
	if err == nil {
		_, _, err = r.run(ctx, scriptClearList, key, nil)
	}
	if err != nil {
		return fmt.Errorf("clear list %s: %w", key, err)
	}
	return nil
}
