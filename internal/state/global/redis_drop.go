package global

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// droppedChunks are chunks to be deleted: those named, or those of what a script dropped
// under a number that nobody else needs.
type droppedChunks struct {
	names  []string
	key    Key
	number string
	bytes  int64 // about how much
	due    time.Time
}

// drop has chunks deleted after dropGrace. If very much is waiting, it deletes what has
// waited longest itself, so that deleting keeps up with writing.
func (r *Redis) drop(d droppedChunks) {
	d.due = time.Now().Add(dropGrace)
	r.mu.Lock()
	r.mu.dropped = append(r.mu.dropped, d)
	r.mu.bytes += d.bytes
	r.mu.Unlock()
	select {
	case r.dropping <- struct{}{}:
	default:
	}
	for d, ok := r.oldest(dropBytesMax); ok; d, ok = r.oldest(dropBytesMax) {
		r.collect(r.ctx, d)
	}
}

// oldest takes what has waited longest off the queue, if more than bytes are in it. Unless
// bytes is negative it leaves the last.
func (r *Redis) oldest(bytes int64) (droppedChunks, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.mu.dropped); n == 0 || r.mu.bytes <= bytes || n == 1 && bytes >= 0 {
		return droppedChunks{}, false
	}
	d := r.mu.dropped[0]
	r.mu.dropped[0] = droppedChunks{}
	r.mu.dropped = r.mu.dropped[1:]
	r.mu.bytes -= d.bytes
	return d, true
}

// due returns when the next is to be deleted.
func (r *Redis) due() (time.Time, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.mu.dropped) == 0 {
		return time.Time{}, false
	}
	return r.mu.dropped[0].due, true
}

// collectAll is the goroutine that deletes what was dropped.
func (r *Redis) collectAll() {
	for {
		due, ok := r.due()
		if !ok {
			select {
			case <-r.dropping:
				continue
			case <-r.ctx.Done():
				return
			}
		}
		select {
		case <-time.After(time.Until(due)):
			if d, ok := r.oldest(-1); ok {
				r.collect(r.ctx, d)
			}
		case <-r.ctx.Done():
			return
		}
	}
}

// collect deletes what was dropped. If it cannot, Sweep will.
func (r *Redis) collect(ctx context.Context, d droppedChunks) {
	if d.names != nil {
		_ = r.unlink(ctx, d.names)
		return
	}
	_, _ = r.collectNumber(ctx, d.key, d.number)
}

// collectNumber deletes what was dropped under a number, and returns how many chunks
// that were.
func (r *Redis) collectNumber(ctx context.Context, key Key, number string) (int64, error) {
	deleted := int64(0)
	for first, cursor := "0", "0"; ; {
		_, p, err := r.run(ctx, scriptDropped, key, []string{number, first, "1000", cursor})
		if errors.Is(err, ErrNotFound) { // somebody else was faster
			return deleted, nil
		}
		if err == nil {
			err = p[min(2, len(p)):].numbers()
		}
		if err != nil {
			return deleted, err
		}
		var names []string
		for i := 2; i+2 < len(p); i += 3 {
			names = append(names, chunkName(key, p.uint(i+1), p.int(i), p.uint(i+2)))
		}
		if err := r.unlink(ctx, names); err != nil {
			return deleted, err
		}
		deleted += int64(len(names))
		if first, cursor = p.string(0), p.string(1); first == "" {
			_, _, err := r.run(ctx, scriptDroppedDone, key, []string{number})
			return deleted, err
		}
	}
}

// unlink deletes keys wherever they are.
func (r *Redis) unlink(ctx context.Context, names []string) error {
	return inParallel(ctx, int64(len(names)), 256, func(first, last int64) error {
		var cmds []rueidis.Completed
		for _, name := range names[first:last] {
			cmds = append(cmds, r.client.B().Unlink().Key(name).Build())
		}
		exchange, cancel := r.exchange(ctx)
		defer cancel()
		for _, result := range r.client.DoMulti(exchange, cmds...) {
			if err := result.Error(); err != nil {
				return r.failure(ctx, err)
			}
		}
		return nil
	})
}

const (
	// sweepGrace is how long ago something must have been dropped for Sweep to think that
	// nobody is about to delete it.
	sweepGrace = time.Minute

	// abandonedGrace is how long ago chunk 0 of a new value must have been stored for Sweep
	// to think that its writer is no more. The clocks of two hosts are not as far apart.
	abandonedGrace = time.Hour
)

// stored is a chunk that a sweep found.
type stored struct {
	name   string
	index  int64
	number uint64
}

// Sweep implements Store. It looks at all keys of each node. What belongs to a damaged value it
// leaves alone, and says so in the end.
func (r *Redis) Sweep(ctx context.Context) (Swept, error) {
	var swept Swept
	var damaged error
	for address, node := range r.client.Nodes() {
		for cursor, more := uint64(0), true; more; {
			exchange, cancel := r.exchange(ctx)
			page, err := node.Do(exchange, node.B().Scan().Cursor(cursor).Match("faasm:*").Count(1000).Build()).AsScanEntry()
			cancel()
			if err != nil {
				return swept, fmt.Errorf("sweep %s: %w", address, r.failure(ctx, err))
			}
			cursor, more = page.Cursor, page.Cursor != 0
			if err := r.sweepPage(ctx, page.Elements, &swept); errors.Is(err, ErrDamaged) {
				damaged = fmt.Errorf("sweep %s: %w", address, err)
			} else if err != nil {
				return swept, fmt.Errorf("sweep %s: %w", address, err)
			}
		}
	}
	return swept, damaged
}

// sweepPage looks at keys that were found together. ErrDamaged means that it has done what can
// be done.
func (r *Redis) sweepPage(ctx context.Context, names []string, swept *Swept) error {
	found := make(map[Key][]stored)
	var abandoned []string
	for _, name := range names {
		if key, chunk, ok := parseName(name); ok {
			found[key] = append(found[key], chunk)
		} else if since, ok := parseNewName(name); ok && time.Since(since) > abandonedGrace {
			abandoned = append(abandoned, name)
		}
	}
	if err := r.unlink(ctx, abandoned); err != nil {
		return err
	}
	swept.Chunks += int64(len(abandoned))
	var damaged error
	for key, chunks := range found {
		if err := r.sweepKey(ctx, key, chunks, swept); errors.Is(err, ErrDamaged) {
			damaged = fmt.Errorf("%s: %w", key, err)
		} else if err != nil {
			return err
		}
	}
	return damaged
}

// sweepKey looks at chunks of a value.
func (r *Redis) sweepKey(ctx context.Context, key Key, chunks []stored, swept *Swept) error {
	chunks = slices.DeleteFunc(chunks, func(c stored) bool { return c.name == "" })
	args := []string{microseconds(sweepGrace)}
	for _, c := range chunks {
		args = append(args, str(c.index), str(c.number))
	}
	_, p, err := r.run(ctx, scriptSweep, key, args)
	if err != nil {
		return err
	}
	swept.Writers += p.int(0)
	var dead []string
	i := 1
	for ; i < len(p) && p.string(i) != "0"; i++ {
		if at := p.int(i) - 1; at < int64(len(chunks)) {
			dead = append(dead, chunks[at].name)
		}
	}
	if err := r.unlink(ctx, dead); err != nil {
		return err
	}
	swept.Chunks += int64(len(dead))
	for i++; i < len(p); i++ {
		n, err := r.collectNumber(ctx, key, p.string(i))
		if err != nil {
			return err
		}
		swept.Chunks += n
	}
	return nil
}

// newName is the key of a chunk 0 that is about to be committed.
func newName(tenant, id string) string { return prefix(tenant) + "n:" + id }

// newID names such a chunk, and says since when it is there.
func (r *Redis) newID() string {
	return str(time.Now().Unix()) + "-" + r.name + "-" + str(r.ids.Add(1))
}

// parseNewName returns what newID has said.
func parseNewName(name string) (since time.Time, ok bool) {
	rest, ours := strings.CutPrefix(name, "faasm:{")
	_, rest, _ = strings.Cut(rest, "}")
	id, is := strings.CutPrefix(rest, "n:")
	seconds, _, _ := strings.Cut(id, "-")
	n, err := strconv.ParseInt(seconds, 10, 64)
	return time.Unix(n, 0), ours && is && err == nil
}

// parseName takes the key of a chunk apart, or that of a hash of writers, which has no
// chunk.
func parseName(name string) (key Key, c stored, ok bool) {
	rest, ours := strings.CutPrefix(name, "faasm:")
	if !ours {
		return key, c, false
	}
	var tenant, number string
	if chunk, is := strings.CutPrefix(rest, "c:{"); is {
		tag, rest, _ := strings.Cut(chunk, "}")
		_, index, _ := strings.Cut(tag, ".")
		parts := strings.SplitN(rest, ":", 3)
		if len(parts) < 3 {
			return key, c, false
		}
		i, err := strconv.ParseInt(index, 10, 64)
		if err != nil {
			return key, c, false
		}
		c.name, c.index = name, i
		number, tenant, key.Name = parts[0], parts[1], parts[2]
	} else {
		in, is := strings.CutPrefix(rest, "{")
		if !is {
			return key, c, false
		}
		tenant, rest, _ = strings.Cut(in, "}")
		if writers, is := strings.CutPrefix(rest, "w:"); is {
			key.Name = writers
		} else if chunk, is := strings.CutPrefix(rest, "0:"); is {
			c.name = name
			number, key.Name, _ = strings.Cut(chunk, ":")
		} else {
			return key, c, false
		}
	}
	var err error
	if key.Tenant, err = url.QueryUnescape(tenant); err != nil {
		return key, c, false
	}
	if c.name != "" {
		if c.number, err = strconv.ParseUint(number, 10, 64); err != nil {
			return key, c, false
		}
	}
	return key, c, true
}
