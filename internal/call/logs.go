package call

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"sync"
	"time"
)

// Stream says who wrote a Line.
type Stream uint8

const (
	Stdout Stream = iota
	Stderr
	System // the host, about the call
)

// String is the name in `faasm logs`.
func (s Stream) String() string {
	switch s {
	case Stdout:
		return "stdout"
	case Stderr:
		return "stderr"
	case System:
		return "system"
	}
	return fmt.Sprintf("stream(%d)", uint8(s))
}

// Line is one line of what a call printed. Text is as the guest wrote it, any bytes but
// a newline.
type Line struct {
	Time   time.Time // when the line was complete
	Call   ID
	Stream Stream
	Text   string
}

const (
	// lineMax is the longest line, in bytes. A longer one is cut into several.
	lineMax = 8 << 10

	// What a line, the first line of a call and that of a function take besides the
	// text, in bytes; they count, so that printing empty lines is no way around the
	// bounds.
	lineOverhead     = 128
	callOverhead     = 128
	functionOverhead = 256

	// What waits for a slow reader of Follow, at most.
	followLinesMax = 4096
	followBytesMax = 256 << 10
)

// LogBufferOptions bound a LogBuffer. The zero value is ready for use.
type LogBufferOptions struct {
	FunctionBytes int // kept for one function; zero: 1 MiB
	TotalBytes    int // kept for all of them; zero: 64 MiB
	CallBytes     int // taken from one call, the rest is dropped; zero: 256 KiB
}

// LogBuffer keeps the last lines that functions printed, in memory. What it holds is
// bounded for each function and in all, lines and their bookkeeping; the oldest lines
// of a function go first, and when all together are too many, those of the function
// that has most.
//
// Nothing in it waits for a reader, so that a guest that prints never waits for one.
// A call that prints nothing costs nothing here.
type LogBuffer struct {
	opts LogBufferOptions // without zeroes

	mu struct {
		sync.Mutex
		functions map[functionName]*functionLines
		calls     map[ID]*callLines // of the calls that have lines here
		bytes     int               // sum over the functions
	}
}

// functionName is a function's key: two strings, so that no two pairs look alike.
type functionName struct{ tenant, function string }

// functionLines is the lines of one function. It exists while it has lines or
// followers.
type functionLines struct {
	name functionName

	// A ring, grown as it fills. The line of sequence number n is lines[n%len(lines)],
	// for n in [oldest, next).
	lines        []Line
	oldest, next uint64

	bytes     int
	followers map[*follower]struct{}
}

// callLines says where the lines of a call are: in function, no older than first nor
// newer than last, between those of others.
type callLines struct {
	function    *functionLines
	first, last uint64
	n           int
}

// NewLogBuffer returns an empty LogBuffer.
func NewLogBuffer(opts LogBufferOptions) *LogBuffer {
	for _, o := range [...]struct {
		value *int
		zero  int
	}{
		{&opts.FunctionBytes, 1 << 20}, {&opts.TotalBytes, 64 << 20}, {&opts.CallBytes, 256 << 10},
	} {
		if *o.value <= 0 {
			*o.value = o.zero
		}
	}
	b := &LogBuffer{opts: opts}
	b.mu.functions = make(map[functionName]*functionLines)
	b.mu.calls = make(map[ID]*callLines)
	return b
}

// Writer returns where a call's output goes. It belongs to the goroutine that carries
// the call, which closes it when the call ends. It must not be copied after its first
// use.
func (b *LogBuffer) Writer(req *Request) LogWriter { return LogWriter{buffer: b, req: req} }

// LogWriter takes the output of one call. It joins what is written into lines: a line
// is complete at a newline, at lineMax bytes, or when the writer is closed; so it holds
// at most lineMax bytes for each of the guest's streams.
type LogWriter struct {
	buffer  *LogBuffer
	req     *Request
	partial [2][]byte // of Stdout and Stderr
	taken   int       // bytes, of what counts towards CallBytes
	dropped int       // bytes, beyond it
}

// Write takes what the guest wrote to s, Stdout or Stderr. p is not kept.
func (w *LogWriter) Write(s Stream, p []byte) {
	if len(p) == 0 {
		return
	}
	if room := w.buffer.opts.CallBytes - w.taken; len(p) > room {
		w.dropped += len(p) - room
		p = p[:room]
		if room == 0 {
			return
		}
	}
	w.taken += len(p)
	now := time.Now()
	partial := &w.partial[s]
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		line := p
		if end >= 0 {
			line = p[:end]
		}
		complete := end >= 0
		if room := lineMax - len(*partial); len(line) > room {
			line, complete = line[:room], true
			p = p[room:]
		} else {
			p = p[min(len(line)+1, len(p)):]
		}
		switch {
		case !complete:
			*partial = append(*partial, line...)
		case len(*partial) > 0:
			*partial = append(*partial, line...)
			w.buffer.add(w.req, Line{now, w.req.ID, s, string(*partial)})
			*partial = (*partial)[:0]
		default:
			w.buffer.add(w.req, Line{now, w.req.ID, s, string(line)})
		}
	}
	if w.taken == w.buffer.opts.CallBytes {
		w.flush(now)
		w.buffer.add(w.req, Line{now, w.req.ID, System,
			fmt.Sprintf("the call has printed %d bytes, and what follows is dropped", w.taken)})
	}
}

// System adds a line of the host's own about the call. It does not count towards
// CallBytes.
func (w *LogWriter) System(text string) {
	now := time.Now()
	w.flush(now)
	w.buffer.add(w.req, Line{now, w.req.ID, System, text[:min(len(text), lineMax)]})
}

// flush completes the lines that have begun.
func (w *LogWriter) flush(now time.Time) {
	for s := range w.partial {
		if len(w.partial[s]) > 0 {
			w.buffer.add(w.req, Line{now, w.req.ID, Stream(s), string(w.partial[s])})
		}
		w.partial[s] = nil
	}
}

// Close completes the lines that have begun, and tells what was dropped.
func (w *LogWriter) Close() {
	if w.taken == 0 {
		return
	}
	now := time.Now()
	w.flush(now)
	if w.dropped > 0 {
		w.buffer.add(w.req, Line{now, w.req.ID, System, fmt.Sprintf("%d bytes of output were dropped", w.dropped)})
		w.dropped = 0
	}
}

// add appends a line to those of the call's function.
func (b *LogBuffer) add(req *Request, line Line) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.functionLocked(functionName{req.Tenant, req.Function})
	if f.next-f.oldest == uint64(len(f.lines)) {
		f.resize(max(4, 2*len(f.lines)))
	}
	f.lines[f.next%uint64(len(f.lines))] = line
	size := lineOverhead + len(line.Text)
	c := b.mu.calls[line.Call]
	if c == nil || c.function != f {
		if c != nil { // an ID under two functions: the later one has it
			c.function.bytes -= callOverhead
			b.mu.bytes -= callOverhead
		}
		c = &callLines{function: f, first: f.next}
		b.mu.calls[line.Call] = c
		size += callOverhead
	}
	c.last = f.next
	c.n++
	f.next++
	f.bytes += size
	b.mu.bytes += size

	for w := range f.followers {
		w.addLocked(line)
	}
	for f.bytes > b.opts.FunctionBytes && f.next-f.oldest > 1 {
		b.dropLocked(f)
	}
	for b.mu.bytes > b.opts.TotalBytes {
		// A quarter of the largest at once, so that looking for it is rare.
		var most *functionLines
		for _, g := range b.mu.functions {
			if g.next > g.oldest && (most == nil || g.bytes > most.bytes) {
				most = g
			}
		}
		if most == nil {
			break // nothing but followers of silent functions
		}
		for goal := most.bytes - most.bytes/4; most.next > most.oldest && most.bytes > goal; {
			b.dropLocked(most)
		}
		b.releaseLocked(most)
	}
}

// functionLocked returns the lines of a function, made if need be.
func (b *LogBuffer) functionLocked(name functionName) *functionLines {
	f := b.mu.functions[name]
	if f == nil {
		f = &functionLines{name: name, bytes: functionOverhead}
		b.mu.functions[name] = f
		b.mu.bytes += functionOverhead
	}
	return f
}

// releaseLocked forgets f if nothing is left of it.
func (b *LogBuffer) releaseLocked(f *functionLines) {
	if f.next == f.oldest && len(f.followers) == 0 {
		delete(b.mu.functions, f.name)
		b.mu.bytes -= f.bytes
	}
}

// dropLocked forgets the oldest line of f.
func (b *LogBuffer) dropLocked(f *functionLines) {
	line := &f.lines[f.oldest%uint64(len(f.lines))]
	size := lineOverhead + len(line.Text)
	if c := b.mu.calls[line.Call]; c != nil && c.function == f {
		if c.n--; c.n == 0 {
			delete(b.mu.calls, line.Call)
			size += callOverhead
		}
	}
	*line = Line{}
	f.oldest++
	f.bytes -= size
	b.mu.bytes -= size
	if len(f.lines) > 16 && f.next-f.oldest < uint64(len(f.lines))/4 {
		f.resize(len(f.lines) / 2)
	}
}

// resize makes the ring one of n places.
func (f *functionLines) resize(n int) {
	lines := make([]Line, n)
	for n := f.oldest; n < f.next; n++ {
		lines[n%uint64(len(lines))] = f.lines[n%uint64(len(f.lines))]
	}
	f.lines = lines
}

// lastLocked returns copies of the last n lines.
func (f *functionLines) lastLocked(n int) []Line {
	have := int(f.next - f.oldest)
	lines := make([]Line, 0, max(0, min(n, have)))
	for i := f.next - uint64(cap(lines)); i < f.next; i++ {
		lines = append(lines, f.lines[i%uint64(len(f.lines))])
	}
	return lines
}

// Tail returns the last n lines of a function, oldest first, or as many as are kept.
func (b *LogBuffer) Tail(tenant, function string, n int) []Line {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.mu.functions[functionName{tenant, function}]
	if f == nil {
		return nil
	}
	return f.lastLocked(n)
}

// Call returns the lines of one call that are kept, oldest first. Lines that have begun
// and are not complete are not among them.
func (b *LogBuffer) Call(id ID) []Line {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.mu.calls[id]
	if c == nil {
		return nil
	}
	f := c.function
	lines := make([]Line, 0, c.n)
	for n := max(c.first, f.oldest); n <= c.last; n++ {
		if line := &f.lines[n%uint64(len(f.lines))]; line.Call == id {
			lines = append(lines, *line)
		}
	}
	return lines
}

// follower is a reader of Follow. Its fields are guarded by the LogBuffer's mu.
type follower struct {
	lines   []Line
	bytes   int
	dropped int           // lines, after those in lines
	wake    chan struct{} // holds a token if there is something to read
}

// addLocked queues a line for the reader, or drops it if too much waits already.
func (w *follower) addLocked(line Line) {
	if w.dropped > 0 || len(w.lines) == followLinesMax || w.bytes+len(line.Text) > followBytesMax {
		w.dropped++
	} else {
		w.lines = append(w.lines, line)
		w.bytes += len(line.Text)
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Follow returns the last tail lines of a function and then, until ctx ends or the loop
// is left, those that come, with none missing between. A reader too slow misses lines,
// and is told how many by a line of the System. What waits for it is bounded; who
// serves readers bounds their number.
func (b *LogBuffer) Follow(ctx context.Context, tenant, function string, tail int) iter.Seq[Line] {
	return func(yield func(Line) bool) {
		w := &follower{wake: make(chan struct{}, 1)}
		b.mu.Lock()
		f := b.functionLocked(functionName{tenant, function})
		if f.followers == nil {
			f.followers = make(map[*follower]struct{})
		}
		f.followers[w] = struct{}{}
		lines := f.lastLocked(tail)
		b.mu.Unlock()
		defer func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			delete(f.followers, w)
			b.releaseLocked(f)
		}()

		for {
			for _, line := range lines {
				if !yield(line) {
					return
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-w.wake:
			}
			b.mu.Lock()
			var dropped int
			lines, dropped = w.lines, w.dropped
			w.lines, w.bytes, w.dropped = nil, 0, 0
			b.mu.Unlock()
			if dropped > 0 {
				lines = append(lines, Line{Time: time.Now(), Stream: System,
					Text: fmt.Sprintf("%d lines were dropped, for they came faster than they were read", dropped)})
			}
		}
	}
}
