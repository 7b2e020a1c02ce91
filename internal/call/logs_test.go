package call

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// texts is lines as "stream: text".
func texts(lines []Line) []string {
	var s []string
	for _, l := range lines {
		s = append(s, fmt.Sprintf("%s: %s", l.Stream, l.Text))
	}
	return s
}

// check compares what a LogBuffer says it holds with what it holds.
func (b *LogBuffer) check(t interface{ Errorf(string, ...any) }) {
	b.mu.Lock()
	defer b.mu.Unlock()
	total := 0
	perCall := make(map[ID]int)
	for name, f := range b.mu.functions {
		n := functionOverhead
		for i := f.oldest; i < f.next; i++ {
			line := f.lines[i%uint64(len(f.lines))]
			n += lineOverhead + len(line.Text)
			if perCall[line.Call]++; perCall[line.Call] == 1 {
				n += callOverhead
			}
		}
		for i := f.next; i < f.oldest+uint64(len(f.lines)); i++ {
			if f.lines[i%uint64(len(f.lines))] != (Line{}) {
				t.Errorf("function %v keeps a line it has dropped", name)
			}
		}
		if n != f.bytes {
			t.Errorf("function %v says %d bytes and has %d", name, f.bytes, n)
		}
		if f.next == f.oldest && len(f.followers) == 0 {
			t.Errorf("function %v is kept for nothing", name)
		}
		if used := int(f.next - f.oldest); len(f.lines) > 16 && len(f.lines) > 5*used {
			t.Errorf("function %v has a ring of %d places for %d lines", name, len(f.lines), used)
		}
		if f.bytes > b.opts.FunctionBytes && f.next-f.oldest > 1 {
			t.Errorf("function %v has %d bytes, more than %d", name, f.bytes, b.opts.FunctionBytes)
		}
		total += n
	}
	if total != b.mu.bytes {
		t.Errorf("the buffer says %d bytes and has %d", b.mu.bytes, total)
	}
	if total > b.opts.TotalBytes {
		t.Errorf("the buffer has %d bytes, more than %d", total, b.opts.TotalBytes)
	}
	for id, c := range b.mu.calls {
		if c.n != perCall[id] {
			t.Errorf("call %s says %d lines and has %d", id, c.n, perCall[id])
		}
	}
	if len(b.mu.calls) != len(perCall) {
		t.Errorf("the buffer knows %d calls and has lines of %d", len(b.mu.calls), len(perCall))
	}
}

func TestLogWriter_lines(t *testing.T) {
	long := strings.Repeat("x", lineMax)
	for _, row := range []struct {
		name   string
		writes []string // a leading ! is for stderr
		want   []string // before Close
		closed []string // more of it after
	}{
		{"a line one byte too long", []string{long + "y\n"}, []string{"stdout: " + long, "stdout: y"}, nil},
		{"a longest line", []string{long + "\n"}, []string{"stdout: " + long}, nil},
		{"a longest line, newline apart", []string{long, "\n", "z\n"}, []string{"stdout: " + long, "stdout: z"}, nil},
		{"three lines' worth without a newline", []string{long + long + long}, []string{"stdout: " + long, "stdout: " + long}, []string{"stdout: " + long}},
		{"long in parts", []string{long[1:], "abc"}, []string{"stdout: " + long[1:] + "a"}, []string{"stdout: bc"}},
		{"not UTF-8, and zeroes", []string{"\xff\x00\xfe\n"}, []string{"stdout: \xff\x00\xfe"}, nil},
		{"nothing", []string{"", ""}, nil, nil},
		{"empty lines", []string{"\n\n", "\n"}, []string{"stdout: ", "stdout: ", "stdout: "}, nil},
		{"byte by byte", strings.Split("ab\ncd", ""), []string{"stdout: ab"}, []string{"stdout: cd"}},
		{"streams apart", []string{"o", "!e", "O\n", "!E\n", "o", "!e"}, []string{"stdout: oO", "stderr: eE"}, []string{"stdout: o", "stderr: e"}},
		{"several in one", []string{"a\nb\nc"}, []string{"stdout: a", "stdout: b"}, []string{"stdout: c"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			b := NewLogBuffer(LogBufferOptions{})
			req := newRequest("t", "f")
			w := b.Writer(req)
			for _, s := range row.writes {
				if text, ok := strings.CutPrefix(s, "!"); ok {
					w.Write(Stderr, []byte(text))
				} else {
					w.Write(Stdout, []byte(s))
				}
			}
			if diff := cmp.Diff(row.want, texts(b.Call(req.ID))); diff != "" {
				t.Errorf("before Close (-want +got):\n%s", diff)
			}
			w.Close()
			w.Close()
			if diff := cmp.Diff(append(row.want, row.closed...), texts(b.Call(req.ID))); diff != "" {
				t.Errorf("after Close (-want +got):\n%s", diff)
			}
			b.check(t)
		})
	}
}

// The guest's memory is the guest's again after Write.
func TestLogWriter_copies(t *testing.T) {
	b := NewLogBuffer(LogBufferOptions{})
	req := newRequest("t", "f")
	w := b.Writer(req)
	p := []byte("whole\npart")
	w.Write(Stdout, p)
	clear(p)
	w.Close()
	if diff := cmp.Diff([]string{"stdout: whole", "stdout: part"}, texts(b.Call(req.ID))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLogWriter_callBytes(t *testing.T) {
	const note = "system: the call has printed 10 bytes, and what follows is dropped"
	for _, row := range []struct {
		name   string
		writes []string
		want   []string
	}{
		{"one write far beyond", []string{"0123456789abcdef\nxyz\n"}, []string{"stdout: 0123456789", note, "system: 11 bytes of output were dropped"}},
		{"begins in a line", []string{"01234\n56", "78abc\n", "d"}, []string{"stdout: 01234", "stdout: 5678", note, "system: 5 bytes of output were dropped"}},
		{"newlines alone", []string{strings.Repeat("\n", 1000)}, append(slices.Repeat([]string{"stdout: "}, 10), note, "system: 990 bytes of output were dropped")},
		{"exactly", []string{"012345678\n"}, []string{"stdout: 012345678", note}},
		{"one less", []string{"01234567\n"}, []string{"stdout: 01234567"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			b := NewLogBuffer(LogBufferOptions{CallBytes: 10})
			req := newRequest("t", "f")
			w := b.Writer(req)
			for _, s := range row.writes {
				w.Write(Stdout, []byte(s))
			}
			w.Close()
			w.Close()
			if diff := cmp.Diff(row.want, texts(b.Call(req.ID))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			b.check(t)
		})
	}
}

func TestLogWriter_System(t *testing.T) {
	b := NewLogBuffer(LogBufferOptions{CallBytes: 3})
	req := newRequest("t", "f")
	w := b.Writer(req)
	w.Write(Stdout, []byte("ab"))
	w.System("stopped")
	w.Write(Stdout, []byte("c"))
	w.System(strings.Repeat("x", lineMax+1))
	w.Close()
	want := []string{"stdout: ab", "system: stopped", "stdout: c", "system: the call has printed 3 bytes, and what follows is dropped",
		"system: " + strings.Repeat("x", lineMax)}
	if diff := cmp.Diff(want, texts(b.Call(req.ID))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLogWriter_silentIsFree(t *testing.T) {
	b := NewLogBuffer(LogBufferOptions{})
	req := newRequest("t", "f")
	if n := testing.AllocsPerRun(100, func() {
		w := b.Writer(req)
		w.Write(Stdout, nil)
		w.Close()
	}); n != 0 {
		t.Errorf("a silent call makes %v allocations", n)
	}
	if len(b.mu.functions) != 0 || len(b.mu.calls) != 0 {
		t.Error("a silent call left something")
	}
}

// A guest that prints for ever costs what the bounds say, in lines of any length.
func TestLogBuffer_endless(t *testing.T) {
	for _, line := range []string{"\n", "x", "some text\n", strings.Repeat("y", 1<<20)} {
		b := NewLogBuffer(LogBufferOptions{FunctionBytes: 100_000, TotalBytes: 250_000, CallBytes: 1 << 40})
		for i := range 5 {
			w := b.Writer(newRequest("t", fmt.Sprint(i)))
			for range max(20, 100_000/len(line)) {
				w.Write(Stdout, []byte(line))
			}
			w.Close()
			b.check(t)
		}
		if b.mu.bytes < 150_000 {
			t.Errorf("of endless %.10q only %d bytes are kept", line, b.mu.bytes)
		}
	}
}

// Short lines need a large ring; long ones after them do not keep it.
func TestLogBuffer_ringShrinks(t *testing.T) {
	b := NewLogBuffer(LogBufferOptions{CallBytes: 1 << 40})
	w := b.Writer(newRequest("t", "f"))
	w.Write(Stdout, []byte(strings.Repeat("\n", 20_000)))
	b.check(t)
	w.Write(Stdout, []byte(strings.Repeat("x", 200*lineMax)))
	w.Close()
	b.check(t)
}

func TestLogBuffer_manyFunctions(t *testing.T) {
	b := NewLogBuffer(LogBufferOptions{TotalBytes: 50_000})
	for i := range 1000 {
		w := b.Writer(newRequest("t", fmt.Sprint(i)))
		w.Write(Stdout, []byte("once\n"))
		b.check(t)
	}
	if n := len(b.mu.functions); n < 50 {
		t.Errorf("%d functions are left in %d bytes", n, b.mu.bytes)
	}
}

// A function that prints little keeps its lines beside one that prints much.
func TestLogBuffer_quietIsKept(t *testing.T) {
	b := NewLogBuffer(LogBufferOptions{FunctionBytes: 100_000, TotalBytes: 100_000})
	quiet := newRequest("t", "quiet")
	w := b.Writer(quiet)
	w.Write(Stdout, []byte("I was here\n"))
	w.Close()
	for range 5 {
		w := b.Writer(newRequest("t", "loud"))
		w.Write(Stdout, []byte(strings.Repeat("something\n", 10_000)))
		w.Close()
	}
	b.check(t)
	if diff := cmp.Diff([]string{"stdout: I was here"}, texts(b.Tail("t", "quiet", 10))); diff != "" {
		t.Errorf("the quiet function's lines (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"stdout: I was here"}, texts(b.Call(quiet.ID))); diff != "" {
		t.Errorf("the quiet call's lines (-want +got):\n%s", diff)
	}
}

func TestLogBuffer_Tail(t *testing.T) {
	b := NewLogBuffer(LogBufferOptions{})
	for i := range 10 {
		w := b.Writer(newRequest("t", "f"))
		w.Write(Stderr, fmt.Appendln(nil, i))
		w.Close()
	}
	other := b.Writer(newRequest("tf", ""))
	other.Write(Stdout, []byte("not t, f\n"))
	for _, row := range []struct {
		tenant, function string
		n                int
		want             []string
	}{
		{"t", "f", -1, nil},
		{"t", "f", 0, nil},
		{"", "tf", 5, nil},
		{"t", "nobody", 5, nil},
		{"t", "f", 2, []string{"stderr: 8", "stderr: 9"}},
		{"tf", "", 1 << 60, []string{"stdout: not t, f"}},
	} {
		if diff := cmp.Diff(row.want, texts(b.Tail(row.tenant, row.function, row.n))); diff != "" {
			t.Errorf("Tail(%q, %q, %d) (-want +got):\n%s", row.tenant, row.function, row.n, diff)
		}
	}
	if got := b.Tail("t", "f", 100); len(got) != 10 || got[0].Time.IsZero() || got[0].Call.IsZero() {
		t.Errorf("Tail of all: %+v", got)
	}
	if got := b.Call(NewID()); got != nil {
		t.Errorf("lines of an unknown call: %+v", got)
	}
}

// TestLogBuffer_model prints at random under bounds that are always being reached.
func TestLogBuffer_model(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := NewLogBuffer(LogBufferOptions{FunctionBytes: 3000, TotalBytes: 8000, CallBytes: 500})
		type printer struct {
			req *Request
			w   LogWriter
		}
		var live []*printer
		printed := make(map[ID][]string) // all that was ever complete, of each call
		note := func(p *printer) {
			kept := texts(b.Call(p.req.ID))
			all := printed[p.req.ID]
			// What is kept is the end of what was there, and then what is new.
			for n := min(len(kept), len(all)); ; n-- {
				if slices.Equal(kept[:n], all[len(all)-n:]) {
					printed[p.req.ID] = append(all, kept[n:]...)
					return
				}
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"begin": func(rt *rapid.T) {
				req := newRequest("t", rapid.SampledFrom([]string{"f", "g", "h", "i"}).Draw(rt, "function"))
				live = append(live, &printer{req, b.Writer(req)})
			},
			"print": func(rt *rapid.T) {
				if len(live) == 0 {
					rt.Skip()
				}
				p := rapid.SampledFrom(live).Draw(rt, "call")
				before := len(b.Call(p.req.ID))
				text := rapid.StringOfN(rapid.SampledFrom([]rune("ab\n")), 0, 300, -1).Draw(rt, "text")
				p.w.Write(Stream(rapid.IntRange(0, 1).Draw(rt, "stream")), []byte(text))
				if n := strings.Count(text, "\n"); len(b.Call(p.req.ID)) > before+n+3 {
					rt.Errorf("%d newlines made %d lines of %d", n, len(b.Call(p.req.ID)), before)
				}
				note(p)
			},
			"end": func(rt *rapid.T) {
				if len(live) == 0 {
					rt.Skip()
				}
				i := rapid.IntRange(0, len(live)-1).Draw(rt, "call")
				live[i].w.Close()
				note(live[i])
				live = slices.Delete(live, i, i+1)
			},
			"": func(rt *rapid.T) {
				b.check(rt)
				// The lines of a function are those of its calls, each in its order.
				perCall := make(map[ID][]string)
				for _, f := range []string{"f", "g", "h", "i"} {
					for _, line := range b.Tail("t", f, 1000) {
						perCall[line.Call] = append(perCall[line.Call], texts([]Line{line})...)
					}
				}
				for id, want := range perCall {
					if got := texts(b.Call(id)); !slices.Equal(got, want) {
						rt.Errorf("Call(%s) = %q, and in Tail %q", id, got, want)
					}
					all := printed[id]
					if len(all) < len(want) || !slices.Equal(all[len(all)-len(want):], want) {
						rt.Errorf("call %s has %q kept of %q", id, want, all)
					}
				}
			},
		})
	})
}

func TestLogBuffer_Follow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewLogBuffer(LogBufferOptions{})
		req := newRequest("t", "f")
		w := b.Writer(req)
		w.Write(Stdout, []byte("0\n1\n2\n"))
		ctx, cancel := context.WithCancel(t.Context())
		var got []string
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for line := range b.Follow(ctx, "t", "f", 2) {
				got = append(got, line.Text)
			}
		}()
		synctest.Wait()
		w.Write(Stdout, []byte("3\n4\nnot complete"))
		other := b.Writer(newRequest("t", "g"))
		other.Write(Stdout, []byte("another function's\n"))
		synctest.Wait()
		w.Close()
		synctest.Wait()
		cancel()
		<-ended
		if diff := cmp.Diff([]string{"1", "2", "3", "4", "not complete"}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		b.check(t)
	})
}

// Nobody has printed yet; and when the last reader goes, nothing is left.
func TestLogBuffer_Follow_silentFunction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewLogBuffer(LogBufferOptions{})
		ctx, cancel := context.WithCancel(t.Context())
		var g sync.WaitGroup
		for range 3 {
			g.Go(func() {
				for line := range b.Follow(ctx, "t", "f", 10) {
					t.Errorf("line %+v", line)
				}
			})
		}
		synctest.Wait()
		cancel()
		g.Wait()
		if len(b.mu.functions) != 0 || b.mu.bytes != 0 {
			t.Errorf("%d functions and %d bytes are left", len(b.mu.functions), b.mu.bytes)
		}
	})
}

func TestLogBuffer_Follow_leftLoop(t *testing.T) {
	b := NewLogBuffer(LogBufferOptions{})
	w := b.Writer(newRequest("t", "f"))
	w.Write(Stdout, []byte("0\n1\n"))
	for range b.Follow(t.Context(), "t", "f", 2) {
		break
	}
	if n := len(b.mu.functions[functionName{"t", "f"}].followers); n != 0 {
		t.Errorf("%d followers are left", n)
	}
}

// A reader that does not read holds up nobody, holds no more than its bound, and
// learns what it missed.
func TestLogBuffer_Follow_slow(t *testing.T) {
	for _, row := range []struct {
		name string
		line string
		kept int
	}{
		{"short lines", "x\n", followLinesMax},
		{"long lines", strings.Repeat("x", lineMax-1) + "\n", followBytesMax / (lineMax - 1)},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := NewLogBuffer(LogBufferOptions{CallBytes: 1 << 40})
				w := b.Writer(newRequest("t", "f"))
				w.Write(Stdout, []byte("first\n"))
				ctx, cancel := context.WithCancel(t.Context())
				var got []Line
				read, ended := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(ended)
					for line := range b.Follow(ctx, "t", "f", 1) {
						got = append(got, line)
						<-read
					}
				}()
				synctest.Wait()
				const lines = 2 * followLinesMax
				w.Write(Stdout, []byte(strings.Repeat(row.line, lines)))
				w.Write(Stdout, []byte("short\n")) // would still fit, but not in its place
				close(read)
				synctest.Wait()
				w.Write(Stdout, []byte("last\n"))
				synctest.Wait()
				cancel()
				<-ended
				if len(got) != 1+row.kept+1+1 {
					t.Fatalf("%d lines were read, want the first, %d, a note, and the last", len(got), row.kept)
				}
				note, last := got[len(got)-2], got[len(got)-1]
				want := fmt.Sprintf("%d lines were dropped, for they came faster than they were read", lines+1-row.kept)
				if note.Stream != System || note.Text != want || last.Text != "last" {
					t.Errorf("note %q, want %q; then %q", note.Text, want, last.Text)
				}
			})
		})
	}
}

func TestLogBuffer_hammer(t *testing.T) {
	b := NewLogBuffer(LogBufferOptions{FunctionBytes: 20_000, TotalBytes: 50_000, CallBytes: 5_000})
	ctx, cancel := context.WithCancel(t.Context())
	var printers, readers sync.WaitGroup
	for range 8 {
		printers.Go(func() {
			for range 300 {
				req := newRequest("t", fmt.Sprint(rand.IntN(6)))
				w := b.Writer(req)
				for range rand.IntN(20) {
					w.Write(Stream(rand.IntN(2)), []byte(strings.Repeat("ab\ncde", rand.IntN(200))))
				}
				w.Close()
				for _, line := range b.Call(req.ID) {
					if line.Call != req.ID {
						t.Error("a line of another call")
					}
				}
				b.Tail("t", req.Function, 10)
			}
		})
	}
	for i := range 6 {
		readers.Go(func() {
			n := 0
			for line := range b.Follow(ctx, "t", fmt.Sprint(i), 5) {
				if line.Time.After(time.Now()) {
					t.Error("a line of the future")
				}
				n++
			}
			if n == 0 {
				t.Error("a reader read nothing")
			}
		})
	}
	printers.Wait()
	cancel()
	readers.Wait()
	b.check(t)
}

func BenchmarkLogWriter(b *testing.B) {
	line := []byte("a line of some forty characters, no more\n")
	buffer := NewLogBuffer(LogBufferOptions{})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		req := newRequest("t", "f")
		for pb.Next() {
			req := &Request{ID: NewID(), Tenant: req.Tenant, Function: req.Function}
			w := buffer.Writer(req)
			w.Write(Stdout, line)
			w.Close()
		}
	})
}
