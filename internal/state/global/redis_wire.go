package global

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redis/rueidis"
)

const (
	// wireExchangesMax is how many exchanges are under way at most, and so how many
	// connections there are to a node.
	wireExchangesMax = 64

	// wireAttemptsMax is how often an exchange is sent elsewhere before it is given up.
	wireAttemptsMax = 16

	// wireTrusted is for how long an idle connection is not looked at before it is used again.
	wireTrusted = 100 * time.Millisecond

	// wireCopyMax is the most that is copied to be sent.
	wireCopyMax = 128 << 10

	// wireOutMax is how much is collected before it is sent, and kept room for.
	wireOutMax = 256 << 10

	// wireListMax is more than any script answers.
	wireListMax = 1 << 20

	// wireLineMax is the longest line of a reply, and what is read of a chunk before the
	// rest goes straight to its place.
	wireLineMax = 4 << 10
)

// wire carries chunks and scripts, on connections of its own: what is sent of a chunk goes to
// the socket from where it is, and what is received from the socket to where it belongs. A
// client copies the one and allocates the other, which takes as long as Redis takes to answer.
// An exchange ends with its context.
//
// It speaks RESP 2. Where the slots of a Redis Cluster are it asks when it is redirected for
// the first time; later redirections tell it of single slots.
type wire struct {
	find    func() string // returns the address of a node, any; "": there is none
	layout  func(ctx context.Context) []slots
	option  rueidis.ClientOption // how to connect
	timeout time.Duration        // of an exchange
	places  chan struct{}        // has one for each exchange under way
	trusted time.Duration        // wireTrusted, but in tests

	mu struct {
		sync.Mutex
		closed bool
		conns  map[*wireConn]struct{}
		idle   map[string][]*wireConn // by address; the one used last is the last
		home   string                 // a node that is thought to be there; "": none
		nodes  []string               // by slot; "": home. None if it is no cluster.
	}
}

// slots are the slots [from, to] of a Redis Cluster, and the address of their node.
type slots struct {
	from, to int64
	at       string
}

// slotCount is how many slots a Redis Cluster has.
const slotCount = 16384

func newWire(find func() string, layout func(ctx context.Context) []slots, option rueidis.ClientOption, timeout time.Duration) *wire {
	w := &wire{find: find, layout: layout, option: option, timeout: timeout, places: make(chan struct{}, wireExchangesMax), trusted: wireTrusted}
	w.mu.conns = make(map[*wireConn]struct{})
	w.mu.idle = make(map[string][]*wireConn)
	return w
}

// close ends what is under way, with errors.
func (w *wire) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.closed = true
	for c := range w.mu.conns {
		c.conn.Close()
	}
	clear(w.mu.idle)
}

// exchange has use send commands to the node of key, and take the replies; again if it is
// redirected, or, for reads, if the connection breaks. An error of the server's is a
// serverError.
func (w *wire) exchange(ctx context.Context, key string, reads bool, use func(c *wireConn) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, w.timeout, ErrUnavailable)
	defer cancel()
	select {
	case w.places <- struct{}{}:
		defer func() { <-w.places }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	pause := 10 * time.Millisecond
	at, asking := w.node(key), false
	for attempt := 1; ; attempt++ {
		err := w.once(ctx, at, asking, use)
		var says serverError
		var absent *absentError
		switch {
		case err == nil || ctx.Err() != nil || errors.Is(err, ErrDamaged) || errors.Is(err, ErrClosed):
			return err // what makes no sense is the same the next time
		case errors.As(err, &says):
			to, ask := says.redirection(at)
			if to != "" && attempt < wireAttemptsMax {
				if !ask {
					w.moved(ctx, key, to)
				}
				at, asking = to, ask
				continue
			}
			switch says.code() {
			case "READONLY":
				w.forget(at) // another is the master now
				return err
			case "LOADING", "TRYAGAIN", "CLUSTERDOWN":
			default:
				return err
			}
		case errors.As(err, &absent):
			w.forget(at)
			if other := w.node(key); other != at && attempt < wireAttemptsMax {
				at, asking = other, false // nothing has been sent
				continue
			}
		}
		if !reads {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
		pause = min(2*pause, 200*time.Millisecond)
		at, asking = w.node(key), false
	}
}

// once has use do an exchange with a node.
func (w *wire) once(ctx context.Context, at string, asking bool, use func(c *wireConn) error) error {
	c, err := w.take(ctx, at)
	if err != nil {
		return err
	}
	c.asking = asking
	intact, err := c.during(ctx, func() error {
		err := use(c)
		if err == nil || isServerError(err) {
			if skipped := c.skip(); skipped != nil { // the replies that use did not take after an error
				return skipped
			}
		}
		return err
	})
	if intact && (err == nil || isServerError(err)) {
		w.give(c)
	} else {
		w.drop(c)
	}
	return err
}

// node is where a key is thought to be, or "" if there is no node.
func (w *wire) node(key string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.nodes != nil {
		if at := w.mu.nodes[slotOf(key)]; at != "" {
			return at
		}
	}
	if w.mu.home == "" {
		w.mu.home = w.find()
	}
	return w.mu.home
}

// moved takes note of where a key is.
func (w *wire) moved(ctx context.Context, key, to string) {
	w.mu.Lock()
	first := w.mu.nodes == nil
	if first {
		w.mu.nodes = make([]string, slotCount)
	}
	w.mu.Unlock()
	var all []slots
	if first {
		all = w.layout(ctx)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range all {
		for i := max(s.from, 0); i <= min(s.to, slotCount-1); i++ {
			w.mu.nodes[i] = s.at
		}
	}
	w.mu.nodes[slotOf(key)] = to
}

// forget takes note that a node is not there, or not the one that it was.
func (w *wire) forget(at string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.home == at {
		w.mu.home = ""
	}
	for slot, node := range w.mu.nodes {
		if node == at {
			w.mu.nodes[slot] = ""
		}
	}
	for _, c := range w.mu.idle[at] {
		w.dropLocked(c)
	}
	delete(w.mu.idle, at)
}

// slotOf is the slot of a key in a Redis Cluster: a CRC-16 (XMODEM) of its hash tag.
func slotOf(key string) uint16 {
	if _, tag, ok := strings.Cut(key, "{"); ok {
		if tag, _, ok := strings.Cut(tag, "}"); ok && tag != "" {
			key = tag
		}
	}
	crc := uint16(0)
	for i := range len(key) {
		crc ^= uint16(key[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return crc % slotCount
}

// take returns a connection to a node, idle or new.
func (w *wire) take(ctx context.Context, at string) (*wireConn, error) {
	for {
		w.mu.Lock()
		idle := w.mu.idle[at]
		if len(idle) == 0 {
			w.mu.Unlock()
			return w.connect(ctx, at)
		}
		c := idle[len(idle)-1]
		w.mu.idle[at] = idle[:len(idle)-1]
		w.mu.Unlock()
		if time.Since(c.used) < w.trusted || c.silent() {
			return c, nil
		}
		w.drop(c)
	}
}

func (w *wire) give(c *wireConn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.closed {
		w.dropLocked(c)
		return
	}
	c.used = time.Now()
	w.mu.idle[c.at] = append(w.mu.idle[c.at], c)
}

func (w *wire) drop(c *wireConn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dropLocked(c)
}

func (w *wire) dropLocked(c *wireConn) {
	c.conn.Close()
	delete(w.mu.conns, c)
}

// absentError is that of a node that no connection is to be had to.
type absentError struct{ err error }

func (e *absentError) Error() string { return e.err.Error() }
func (e *absentError) Unwrap() error { return e.err }

// connect makes a connection to a node.
func (w *wire) connect(ctx context.Context, at string) (*wireConn, error) {
	if at == "" {
		return nil, &absentError{errors.New("there is no node")}
	}
	conn, err := w.dial(ctx, at)
	if err != nil {
		return nil, &absentError{err}
	}
	c := &wireConn{at: at, conn: conn, in: bufio.NewReaderSize(conn, wireLineMax)}
	under := conn
	if secure, ok := conn.(*tls.Conn); ok {
		under = secure.NetConn()
	}
	if socket, ok := under.(syscall.Conn); ok {
		if c.socket, err = socket.SyscallConn(); err != nil {
			conn.Close()
			return nil, &absentError{err}
		}
	}
	w.mu.Lock()
	closed := w.mu.closed
	w.mu.conns[c] = struct{}{}
	w.mu.Unlock()
	intact := false
	if closed {
		err = ErrClosed
	} else if intact, err = c.during(ctx, func() error { return c.enter(w.option) }); err == nil && !intact {
		err = context.Cause(ctx)
	}
	if err != nil {
		w.drop(c)
		return nil, err
	}
	return c, nil
}

func (w *wire) dial(ctx context.Context, at string) (net.Conn, error) {
	dialer := w.option.Dialer
	switch {
	case w.option.DialCtxFn != nil:
		return w.option.DialCtxFn(ctx, at, &dialer, w.option.TLSConfig)
	case w.option.TLSConfig != nil:
		secure := tls.Dialer{NetDialer: &dialer, Config: w.option.TLSConfig}
		return secure.DialContext(ctx, "tcp", at)
	}
	return dialer.DialContext(ctx, "tcp", at)
}

// serverError is an error that a server answered.
type serverError string

func (e serverError) Error() string { return string(e) }

func isServerError(err error) bool {
	var says serverError
	return errors.As(err, &says)
}

func (e serverError) code() string {
	code, _, _ := strings.Cut(string(e), " ")
	return code
}

// redirection returns where the server says that the key is, or "", and whether to ask there
// for this once. from is where the server is.
func (e serverError) redirection(from string) (to string, ask bool) {
	words := strings.Fields(string(e))
	if len(words) != 3 || words[0] != "MOVED" && words[0] != "ASK" {
		return "", false
	}
	host, port, err := net.SplitHostPort(words[2])
	if err != nil {
		return "", false
	}
	if host == "" {
		host, _, _ = net.SplitHostPort(from)
	}
	return net.JoinHostPort(host, port), words[0] == "ASK"
}

// wireConn is a connection to a node. Commands are collected until flush. Replies are taken in
// the order of the commands.
type wireConn struct {
	at     string
	conn   net.Conn
	socket syscall.RawConn // nil: it can't be looked at
	used   time.Time
	in     *bufio.Reader

	out     []byte
	pieces  [][]byte // room
	pending int      // replies to come
	asking  bool     // each command follows an ASKING
}

// during runs do, and cuts the connection short if ctx ends meanwhile: it is not intact then.
func (c *wireConn) during(ctx context.Context, do func() error) (intact bool, err error) {
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) })
	err = do()
	return stop(), err
}

// silent tells whether an idle connection is still there, with nothing to be read.
func (c *wireConn) silent() bool {
	if c.socket == nil {
		return true
	}
	var n int
	var err error
	if c.socket.Read(func(fd uintptr) bool {
		var b [1]byte
		n, err = syscall.Read(int(fd), b[:])
		return true
	}) != nil {
		return false
	}
	return n <= 0 && errors.Is(err, syscall.EAGAIN)
}

// enter says who we are.
func (c *wireConn) enter(option rueidis.ClientOption) error {
	switch {
	case option.Username != "":
		c.command("AUTH", option.Username, option.Password)
	case option.Password != "":
		c.command("AUTH", option.Password)
	}
	if option.SelectDB != 0 {
		c.command("SELECT", strconv.Itoa(option.SelectDB))
	}
	if err := c.flush(); err != nil {
		return err
	}
	return c.okays(c.pending)
}

// begin begins a command of n words.
func (c *wireConn) begin(n int) {
	if c.asking {
		c.out = append(c.out, "*1\r\n$6\r\nASKING\r\n"...)
	}
	c.length('*', n)
	c.pending++
}

func (c *wireConn) length(kind byte, n int) {
	c.out = append(c.out, kind)
	c.out = strconv.AppendInt(c.out, int64(n), 10)
	c.out = append(c.out, "\r\n"...)
}

func (c *wireConn) word(s string) {
	c.length('$', len(s))
	c.out = append(c.out, s...)
	c.out = append(c.out, "\r\n"...)
}

func (c *wireConn) command(words ...string) {
	c.begin(len(words))
	for _, word := range words {
		c.word(word)
	}
}

// script is a call of a script, by its hash (EVALSHA) or text (EVAL).
func (c *wireConn) script(how, script, at, name string, args []string) {
	c.begin(5 + len(args))
	for _, word := range []string{how, script, "1", at, name} {
		c.word(word)
	}
	for _, a := range args {
		c.word(a)
	}
}

// flush sends what has been collected.
func (c *wireConn) flush() error {
	_, err := c.conn.Write(c.out)
	c.out = c.out[:0]
	if cap(c.out) > 2*wireOutMax {
		c.out = nil
	}
	return err
}

// set collects a SET of the n bytes of src at off. Many bytes it sends at once, from where
// they are, and if they change meanwhile once more in a SET of its own. Few it copies, to go
// out together with what follows: each write takes as long as to copy wireCopyMax.
func (c *wireConn) set(name string, src io.ReaderAt, off, n int64) error {
	begin := func() {
		c.begin(3)
		c.word("SET")
		c.word(name)
		c.length('$', int(n))
	}
	if l, ok := src.(Lender); ok && n > wireCopyMax {
		begin()
		pieces, mark := l.Lend(append(c.pieces[:0], c.out), off, n)
		all := net.Buffers(pieces)
		_, err := all.WriteTo(c.conn)
		clear(pieces)
		c.out, c.pieces = append(c.out[:0], "\r\n"...), pieces
		if err != nil || l.Kept(mark) {
			return err
		}
	}
	begin()
	at := len(c.out)
	c.out = slices.Grow(c.out, int(n))[:at+int(n)]
	if err := readFull(src, c.out[at:], off); err != nil {
		return err
	}
	c.out = append(c.out, "\r\n"...)
	if len(c.out) > wireOutMax {
		return c.flush()
	}
	return nil
}

// line returns a line of a reply, good until the next is read.
func (c *wireConn) line() ([]byte, error) {
	line, err := c.in.ReadSlice('\n')
	if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
		return nil, err
	}
	line, whole := bytes.CutSuffix(line, []byte("\r\n"))
	if !whole || len(line) == 0 {
		return nil, fmt.Errorf("%w: Redis answered %.40q", ErrDamaged, line)
	}
	return line, nil
}

// head returns the first line of the next reply: what kind it is and what follows.
func (c *wireConn) head() (kind byte, rest []byte, err error) {
	for range 2 {
		line, err := c.line()
		if err != nil {
			return 0, nil, err
		}
		kind, rest = line[0], line[1:]
		if !c.asking {
			break
		}
	}
	c.pending--
	if kind == '-' {
		return 0, nil, serverError(rest)
	}
	return kind, rest, nil
}

// okays takes n replies that say OK.
func (c *wireConn) okays(n int) error {
	for range n {
		if kind, rest, err := c.head(); err != nil {
			return err
		} else if kind != '+' {
			return unexpected(kind, rest)
		}
	}
	return nil
}

func unexpected(kind byte, rest []byte) error {
	return fmt.Errorf("%w: Redis answered %c%.40q", ErrDamaged, kind, rest)
}

// count reads a length, which is -1 for what is not there.
func count(kind byte, rest []byte, most int) (int, error) {
	n, err := strconv.Atoi(string(rest))
	if err != nil || n < -1 || n > most {
		return 0, unexpected(kind, rest)
	}
	return n, nil
}

// bytes takes a reply that is a string and has room in dst, and returns its length, or -1 if
// it is nil.
func (c *wireConn) bytes(dst []byte) (int, error) {
	kind, rest, err := c.head()
	if err != nil {
		return 0, err
	}
	if kind != '$' {
		return 0, unexpected(kind, rest)
	}
	n, err := count(kind, rest, len(dst))
	if err != nil || n < 0 {
		return n, err
	}
	return n, c.body(dst[:n])
}

// body takes what follows the line of a string, which is as long as dst.
func (c *wireConn) body(dst []byte) error {
	if _, err := io.ReadFull(c.in, dst); err != nil {
		return err
	}
	_, err := c.in.Discard(2)
	return err
}

// list takes a reply that is a list of strings and numbers.
func (c *wireConn) list() ([]string, error) {
	kind, rest, err := c.head()
	if err != nil {
		return nil, err
	}
	if kind != '*' {
		return nil, unexpected(kind, rest)
	}
	n, err := count(kind, rest, wireListMax)
	if err != nil {
		return nil, err
	}
	var room [64]byte
	list := make([]string, 0, min(max(n, 0), 16))
	for range n {
		line, err := c.line()
		if err != nil {
			return nil, err
		}
		kind, rest := line[0], line[1:]
		if kind == '+' || kind == ':' {
			list = append(list, string(rest))
			continue
		}
		if kind != '$' {
			return nil, unexpected(kind, rest)
		}
		n, err := count(kind, rest, ElementBytesMax)
		if err != nil {
			return nil, err
		}
		if n < 0 {
			list = append(list, "")
			continue
		}
		word := room[:min(n, len(room))]
		if n > len(room) {
			word = make([]byte, n)
		}
		if err := c.body(word); err != nil {
			return nil, err
		}
		list = append(list, string(word))
	}
	return list, nil
}

// skip takes the replies that are still to come, whatever they are.
func (c *wireConn) skip() error {
	for c.pending > 0 {
		kind, rest, err := c.head()
		if isServerError(err) {
			continue
		}
		if err == nil {
			err = c.skipBody(kind, rest, 0)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *wireConn) skipBody(kind byte, rest []byte, depth int) error {
	switch kind {
	case '$':
		n, err := count(kind, rest, 512<<20)
		if err == nil && n >= 0 {
			_, err = c.in.Discard(n + 2)
		}
		return err
	case '*':
		n, err := count(kind, rest, wireListMax)
		if err == nil && depth > 0 {
			err = unexpected(kind, rest) // no script of ours answers a list in a list here
		}
		for range max(n, 0) {
			if err != nil {
				break
			}
			var line []byte
			if line, err = c.line(); err == nil {
				err = c.skipBody(line[0], line[1:], depth+1)
			}
		}
		return err
	}
	return nil
}
