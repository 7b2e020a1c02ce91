package api

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Time limits of a Server. There is none for a reply as a whole, since a call lasts as
// long as its function's timeout says; see body.go for bodies.
const (
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
	headerBytesMax    = 64 << 10
)

// Server serves a Handler over HTTP/1.1 such that slow clients cannot exhaust it.
type Server struct {
	http http.Server
}

// NewServer returns a server for h. The caller gives it a listener.
func NewServer(h *Handler) *Server {
	s := &Server{}
	s.http.Handler = h
	s.http.ReadHeaderTimeout = readHeaderTimeout
	s.http.IdleTimeout = idleTimeout
	s.http.MaxHeaderBytes = headerBytesMax
	s.http.ErrorLog = slog.NewLogLogger(h.log.Handler(), slog.LevelWarn)
	s.http.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if c, ok := c.(*conn); ok {
			return context.WithValue(ctx, connKey{}, c)
		}
		return ctx
	}
	s.http.RegisterOnShutdown(h.EndStreams)
	return s
}

// Serve takes l and serves its connections until Shutdown or Close, of which it returns
// http.ErrServerClosed.
func (s *Server) Serve(l net.Listener) error { return s.http.Serve(listener{l}) }

// Shutdown ends streams (Handler.EndStreams), takes no new connections, and returns
// when the requests in flight are answered or ctx is done.
func (s *Server) Shutdown(ctx context.Context) error { return s.http.Shutdown(ctx) }

// Close drops every connection.
func (s *Server) Close() error { return s.http.Close() }

type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c}, nil
}

// conn is a connection on which a handler can leave two things for the moment when its
// reply goes out: header lines that do not go through http.Header, and what to do after
// the reply, on the goroutine that has nothing else to do then.
//
// JUSTIFICATION: the eight headers of a call's result, set in the response's map, cost
// 3.3 of the 22 µs of a call with no work in it: net/http grows that map, clones it and
// sorts it (BenchmarkInvoke_noop). Put into the bytes, they cost 0.3.
type conn struct {
	net.Conn

	// lines is what goes behind the status line of the response that is begun next.
	// Like Write, it is only touched by the goroutine that serves the connection.
	lines []byte
	buf   []byte

	// written is called once, after the next write: net/http ends every response by one.
	// Where a handler panics instead, endpoint.finish calls it.
	written func()
}

type connKey struct{}

// connOf returns the connection of r if it can take header lines, else nil.
func connOf(r *http.Request) *conn {
	c, _ := r.Context().Value(connKey{}).(*conn)
	return c
}

// Write writes b, and the lines that wait. net/http ends every response by a flush, so
// b then begins with a status line.
func (c *conn) Write(b []byte) (int, error) {
	if c.written != nil {
		defer c.runWritten()
	}
	if len(c.lines) == 0 {
		return c.Conn.Write(b)
	}
	at := bytes.IndexByte(b, '\n') + 1
	if at == 0 || !bytes.HasPrefix(b, []byte("HTTP/1.")) {
		return 0, errNoStatusLine
	}
	c.buf = append(append(append(c.buf[:0], b[:at]...), c.lines...), b[at:]...)
	added := len(c.lines)
	c.lines = c.lines[:0]
	n, err := c.Conn.Write(c.buf)
	if cap(c.buf) > connBufBytesMax {
		c.buf = nil
	}
	// The caller knows of b alone. How much of it went out after an error matters to
	// nobody: the connection is then done for.
	return min(max(n-added, 0), len(b)), err
}

// runWritten does what was left for after the reply, once.
func (c *conn) runWritten() {
	f := c.written
	c.written = nil
	if f != nil {
		f()
	}
}

// connBufBytesMax is what an idle connection may keep; net/http writes a small reply
// in one piece of at most 4 KiB.
const connBufBytesMax = 8 << 10

var errNoStatusLine = errors.New("header lines wait, but what is written is no status line")

// CloseWrite lets net/http end a connection such that the client can still read the
// last reply.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
