package global

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/faasm-go/faasm/internal/state/redistest"
)

// scripted is a server that answers each connection with what answer returns for the
// commands that it has read so far, which are separated by spaces and line feeds.
func scripted(t *testing.T, answer func(at string, commands string) (reply string, hangUp bool)) (at string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var g sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		g.Wait()
	})
	at = l.Addr().String()
	g.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			g.Go(func() {
				defer c.Close()
				in := bufio.NewReader(c)
				var commands strings.Builder
				for {
					var n int
					if _, err := fmt.Fscanf(in, "*%d\r\n", &n); err != nil {
						return
					}
					for i := range n {
						var size int
						if _, err := fmt.Fscanf(in, "$%d\r\n", &size); err != nil {
							return
						}
						word := make([]byte, size+2)
						if _, err := io.ReadFull(in, word); err != nil {
							return
						}
						if i > 0 {
							commands.WriteByte(' ')
						}
						commands.Write(word[:size])
					}
					commands.WriteByte('\n')
					reply, hangUp := answer(at, commands.String())
					if _, err := io.WriteString(c, reply); err != nil || hangUp {
						return
					}
				}
			})
		}
	})
	return at
}

func wireTo(t *testing.T, at string) *wire {
	b := newWire(func() string { return at }, func(context.Context) []slots { return nil }, rueidis.ClientOption{}, 10*time.Second)
	t.Cleanup(b.close)
	return b
}

// What is no answer to the command is an error, and never more than was asked for; the
// connection is not used again.
func TestWire_hostileAnswers(t *testing.T) {
	long := strings.Repeat("x", 2*wireLineMax)
	for name, row := range map[string]struct {
		reply string
		want  error // nil: any
	}{
		"nothing":                 {"", nil},
		"an empty line":           {"\r\n", ErrDamaged},
		"no carriage return":      {"$1\nx\r\n", ErrDamaged},
		"another kind":            {":5\r\n", ErrDamaged},
		"another protocol":        {"HTTP/1.1 400 Bad Request\r\n\r\n", ErrDamaged},
		"a status":                {"+OK\r\n", ErrDamaged},
		"a list":                  {"*1\r\n$1\r\nx\r\n", ErrDamaged},
		"longer than asked":       {"$5\r\nxxxxx\r\n", ErrDamaged},
		"far longer":              {"$9223372036854775807\r\n", ErrDamaged},
		"longer than numbers":     {"$99999999999999999999\r\n", ErrDamaged},
		"negative":                {"$-2\r\n", ErrDamaged},
		"no number":               {"$x\r\n", ErrDamaged},
		"no length":               {"$\r\n", ErrDamaged},
		"cut short":               {"$4\r\nxx", nil},
		"cut before the end":      {"$4\r\nxxxx", nil},
		"a line that is too long": {"$" + long + "\r\n", ErrDamaged},
		"an error too long":       {"-" + long + "\r\n", ErrDamaged},
		"an error":                {"-ERR it is not so\r\n", serverError("ERR it is not so")},
		"an empty error":          {"-\r\n", serverError("")},
		"moved nowhere":           {"-MOVED 5\r\n", serverError("MOVED 5")},
		"moved to no address":     {"-MOVED 5 x\r\n", serverError("MOVED 5 x")},
	} {
		b := wireTo(t, scripted(t, func(_, _ string) (string, bool) { return row.reply, true }))
		dst := []byte("----")
		err := b.exchange(t.Context(), "key", false, func(c *wireConn) error {
			c.command("GET", "key")
			if err := c.flush(); err != nil {
				return err
			}
			_, err := c.bytes(dst)
			return err
		})
		if err == nil || row.want != nil && !errors.Is(err, row.want) {
			t.Errorf("%s: %v, want %v", name, err, row.want)
		}
		if n := len(b.mu.conns); n != 0 && !isServerError(err) {
			t.Errorf("%s: %d connections are kept", name, n)
		}
	}
}

// A list has no more elements, and no longer ones, than any script answers.
func TestWire_hostileLists(t *testing.T) {
	for name, reply := range map[string]string{
		"too many":      fmt.Sprintf("*%d\r\n", wireListMax+1),
		"far too many":  "*2147483647\r\n",
		"a list within": "*1\r\n*1\r\n$1\r\nx\r\n",
		"too long":      fmt.Sprintf("*1\r\n$%d\r\n", ElementBytesMax+1),
		"a status":      "+OK\r\n",
		"cut short":     "*2\r\n$1\r\nx\r\n",
	} {
		b := wireTo(t, scripted(t, func(_, _ string) (string, bool) { return reply, true }))
		err := b.exchange(t.Context(), "key", false, func(c *wireConn) error {
			c.command("EVALSHA")
			if err := c.flush(); err != nil {
				return err
			}
			_, err := c.list()
			return err
		})
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// Whatever a server sends, taking it ends, and gives no more than there was room for.
func FuzzWireConn_replies(f *testing.F) {
	for _, seed := range []string{
		"+OK\r\n", "-ERR no\r\n", ":5\r\n", "$-1\r\n", "$0\r\n\r\n", "$3\r\nabc\r\n", "$99999999999\r\n", "*-1\r\n", "*0\r\n",
		"*2\r\n$1\r\na\r\n:7\r\n", "*1\r\n*1\r\n$1\r\na\r\n", "*1048576\r\n$16777216\r\n", "\r\n", "\n", "$3\nabc\r\n",
	} {
		f.Add([]byte(seed), false)
		f.Add([]byte(seed), true)
	}
	f.Fuzz(func(t *testing.T, replies []byte, asking bool) {
		conn := func() *wireConn {
			return &wireConn{in: bufio.NewReaderSize(bytes.NewReader(replies), wireLineMax), pending: 3, asking: asking}
		}
		var dst [8]byte
		if n, err := conn().bytes(dst[:]); err == nil && (n < -1 || n > len(dst)) {
			t.Errorf("a string of %d bytes in %d", n, len(dst))
		}
		list, err := conn().list()
		total := 0
		for _, word := range list {
			total += len(word)
		}
		if err == nil && total > len(replies) {
			t.Errorf("%d bytes of %d", total, len(replies))
		}
		if c := conn(); c.skip() == nil && c.pending != 0 {
			t.Errorf("%d replies are left", c.pending)
		}
		_ = conn().okays(3)
	})
}

// get is an exchange of one GET.
func get(ctx context.Context, b *wire, key string, reads bool) (string, error) {
	var dst [16]byte
	n := 0
	err := b.exchange(ctx, key, reads, func(c *wireConn) (err error) {
		c.command("GET", key)
		if err := c.flush(); err != nil {
			return err
		}
		n, err = c.bytes(dst[:])
		return err
	})
	return string(dst[:max(n, 0)]), err
}

// An exchange goes where it is sent, remembers MOVED and not ASK, and gives up when it is
// sent in circles.
func TestWire_redirections(t *testing.T) {
	var asked []string
	var mu sync.Mutex
	note := func(node, commands string) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, node+" "+strings.ReplaceAll(strings.TrimSpace(commands), "\n", " "))
	}
	reply := func(commands, text string) (string, bool) {
		if strings.HasSuffix(commands, "ASKING\n") {
			return "+OK\r\n", false
		}
		return text, strings.Contains(text, "$") // so that the next exchange connects anew
	}
	owner := scripted(t, func(_, commands string) (string, bool) {
		note("owner", commands)
		return reply(commands, "$5\r\nvalue\r\n")
	})
	home := scripted(t, func(at, commands string) (string, bool) {
		note("home", commands)
		_, port, _ := net.SplitHostPort(owner)
		switch key := strings.Fields(commands)[len(strings.Fields(commands))-1]; key {
		case "moved":
			return fmt.Sprintf("-MOVED %d :%s\r\n", slotOf(key), port), false // its own host
		case "asked":
			return fmt.Sprintf("-ASK %d %s\r\n", slotOf(key), owner), false
		case "circle":
			return fmt.Sprintf("-MOVED %d %s\r\n", slotOf(key), at), false
		}
		return reply(commands, "$4\r\nhere\r\n")
	})
	b := wireTo(t, home)
	b.trusted = 0
	for _, row := range []struct{ key, want, asked string }{
		{"other", "here", "home GET other"},
		{"moved", "value", "home GET moved, owner GET moved"},
		{"moved", "value", "owner GET moved"},
		{"{moved}2", "value", "owner GET {moved}2"},
		{"asked", "value", "home GET asked, owner ASKING, owner ASKING GET asked"},
		{"other", "here", "home GET other"},
	} {
		mu.Lock()
		asked = nil
		mu.Unlock()
		for _, c := range b.mu.idle { // the servers note all that a connection has said
			for _, c := range c {
				b.drop(c)
			}
		}
		clear(b.mu.idle)
		got, err := get(t.Context(), b, row.key, false)
		mu.Lock()
		if how := strings.Join(asked, ", "); got != row.want || err != nil || how != row.asked {
			t.Errorf("GET %s: %q, %v, by %s; want %q, by %s", row.key, got, err, how, row.want, row.asked)
		}
		mu.Unlock()
	}
	if _, err := get(t.Context(), b, "circle", false); !isServerError(err) {
		t.Errorf("sent in circles: %v, want the server's error", err)
	}
}

// A read is sent again when the connection breaks, and while Redis is loading; a change is
// not.
func TestWire_readsAgain(t *testing.T) {
	for name, text := range map[string]string{"the connection breaks": "", "Redis is loading": "-LOADING not yet\r\n"} {
		var mu sync.Mutex
		left := 2
		at := scripted(t, func(_, _ string) (string, bool) {
			mu.Lock()
			defer mu.Unlock()
			if left--; left >= 0 {
				return text, true
			}
			return "$1\r\nx\r\n", true
		})
		b := wireTo(t, at)
		if _, err := get(t.Context(), b, "key", false); err == nil {
			t.Errorf("%s: a change was sent again", name)
		}
		if got, err := get(t.Context(), b, "key", true); got != "x" || err != nil {
			t.Errorf("%s: a read returned %q, %v", name, got, err)
		}
	}
}

// A read that is under way when the store is closed ends, and is not sent again.
func TestWire_close(t *testing.T) {
	asked := make(chan struct{}, 1)
	w := wireTo(t, scripted(t, func(_, _ string) (string, bool) {
		asked <- struct{}{}
		return "", false
	}))
	w.timeout = time.Hour
	done := make(chan error, 1)
	go func() {
		_, err := get(t.Context(), w, "key", true)
		done <- err
	}()
	<-asked
	w.close()
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("%v, want ErrClosed", err)
	}
}

// An idle connection that the server has closed is not used for a change.
func TestWire_idleConnectionsClosed(t *testing.T) {
	s := redistest.New(t)
	r := openRedis(t, s.URL(), RedisOptions{})
	r.wire.trusted = 0
	write(t, r, aKey, []byte("a"))
	raw := rawClient(t, s)
	r.wire.mu.Lock()
	idle := r.wire.mu.idle[r.wire.mu.home]
	r.wire.mu.Unlock()
	if len(idle) == 0 {
		t.Fatal("no connection is idle, so this shows nothing")
	}
	for _, c := range idle {
		if err := raw.Do(t.Context(), raw.B().ClientKill().Addr(c.conn.LocalAddr().String()).Build()).Error(); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(20 * time.Second); c.silent(); { // it is closed a little later
			if time.Now().After(deadline) {
				t.Fatal("the connection is not closed")
			}
		}
	}
	write(t, r, aKey, []byte("b"))
	// A Redis that has lost its scripts is told them again.
	if err := raw.Do(t.Context(), raw.B().ScriptFlush().Build()).Error(); err != nil {
		t.Fatal(err)
	}
	write(t, r, aKey, []byte("c"))
	if got, _ := read(t, r, aKey); string(got) != "c" {
		t.Errorf("read %q, want c", got)
	}
}

// A caller that gives up gets away at once from a Redis that hangs, whatever the time-out.
func TestWire_cancel(t *testing.T) {
	s := redistest.New(t)
	r := openRedis(t, s.URL(), RedisOptions{Timeout: time.Hour})
	large := make([]byte, 20*ChunkBytes)
	write(t, r, aKey, large)
	s.Signal(syscall.SIGSTOP)
	defer s.Signal(syscall.SIGCONT)
	stop := errors.New("no longer")
	for name, do := range map[string]func(ctx context.Context) error{
		"Read":  func(ctx context.Context) error { _, _, err := r.Read(ctx, aKey, 0, large); return err },
		"Write": func(ctx context.Context) error { return writeTo(ctx, r, aKey, large) },
		"Write of one chunk": func(ctx context.Context) error {
			return writeTo(ctx, r, aKey, large[:1])
		},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(20*time.Millisecond, func() { cancel(stop) })
		if err := do(ctx); !errors.Is(err, stop) {
			t.Errorf("%s: %v, want the cause", name, err)
		}
	}
}

func writeTo(ctx context.Context, s Store, key Key, value []byte) error {
	_, err := s.Write(ctx, key, int64(len(value)), bytes.NewReader(value), Condition{})
	return err
}

// restless is a Lender whose bytes change while they are sent, as often as it has changes.
type restless struct {
	before, after []byte
	mu            sync.Mutex
	changes       int
	lent          uint64
}

func (s *restless) ReadAt(b []byte, off int64) (int, error) { return copy(b, s.after[off:]), nil }

func (s *restless) Lend(pieces [][]byte, off, n int64) ([][]byte, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lent++
	for end := off + n; off < end; off += 1000 { // odd pieces
		pieces = append(pieces, s.before[off:min(off+1000, end)])
	}
	return pieces, s.lent
}

func (s *restless) Kept(uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes--
	return s.changes < 0
}

// What changes while it is sent is sent again from ReadAt, and what was torn is never seen.
func TestRedis_Write_lender(t *testing.T) {
	for name, url := range map[string]func(testing.TB) string{"redis": redisURL, "cluster": clusterURL} {
		t.Run(name, func(t *testing.T) {
			r := openRedis(t, url(t), RedisOptions{})
			r.chunk = redisChunkBytes
			for _, size := range []int{1, wireCopyMax, wireCopyMax + 1, redisChunkBytes, 5*redisChunkBytes + 77} {
				for _, changes := range []int{0, 1, 1000} {
					s := &restless{before: pattern(size, 1), after: pattern(size, 2), changes: changes}
					if changes == 0 || changes == 1 && size > redisChunkBytes { // any piece may be the one that changes
						s.before = s.after
					}
					if _, err := r.Write(t.Context(), aKey, int64(size), s, Condition{}); err != nil {
						t.Fatal(err)
					}
					got, _ := read(t, r, aKey)
					diffBytes(t, fmt.Sprintf("%d bytes, %d changes", size, changes), got, s.after)
					if want := uint64(chunksOf(int64(size), redisChunkBytes)); size > wireCopyMax && s.lent < want-1 {
						t.Errorf("%d bytes: it lent %d times", size, s.lent)
					}
				}
			}
		})
	}
}

// An error of the source is the caller's, and what was there stays.
func TestRedis_Write_sourceFails(t *testing.T) {
	r := openRedis(t, redisURL(t), RedisOptions{})
	write(t, r, aKey, []byte("as it was"))
	broken := errors.New("broken")
	for _, size := range []int64{1, ChunkBytes, 10 * ChunkBytes} {
		_, err := r.Write(t.Context(), aKey, size, failing{broken}, Condition{})
		if !errors.Is(err, broken) || errors.Is(err, ErrUnavailable) {
			t.Errorf("%d bytes: %v, want the source's error", size, err)
		}
	}
	if got, _ := read(t, r, aKey); string(got) != "as it was" {
		t.Errorf("it is %q", got)
	}
}

type failing struct{ err error }

func (f failing) ReadAt([]byte, int64) (int, error) { return 0, f.err }

// The slot of a key is that of its hash tag, if it has one that is not empty.
func TestSlotOf(t *testing.T) {
	const check = 12739 // of CRC-16/XMODEM, as published
	for key, same := range map[string]bool{
		"123456789": true, "{123456789}x": true, "x{123456789}": true, "x{123456789}{y}": true, "}{123456789}": true,
		"{}123456789": false, "{}x": false, "{{123456789}}": false, "{123456789": false, "123456789}": false, "": false,
	} {
		if got := slotOf(key); (got == check) != same {
			t.Errorf("slot of %q: %d, want %d: %v", key, got, check, same)
		}
	}
	if got := slotOf("{}x"); got == slotOf("x") || got == slotOf("") {
		t.Errorf("slot of {}x: %d, that of what is left without the braces", got)
	}
}

// A write of many chunks is redirected, and from then on the place of every slot is known.
func TestWire_learnsLayout(t *testing.T) {
	r := openRedis(t, clusterURL(t), RedisOptions{})
	write(t, r, aKey, pattern(40*ChunkBytes, 1))
	r.wire.mu.Lock()
	defer r.wire.mu.Unlock()
	if len(r.wire.mu.nodes) != slotCount {
		t.Fatalf("%d slots are known, want %d", len(r.wire.mu.nodes), slotCount)
	}
	at := make(map[string]int)
	for _, node := range r.wire.mu.nodes {
		at[node]++
	}
	if at[""] > 0 || len(at) != 3 {
		t.Errorf("slots by node: %v, want all at three", at)
	}
}
