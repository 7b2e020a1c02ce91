// Package api is the HTTP interface of a host: it reads requests, checks every name
// and bound in them, asks a Host, and writes replies and problems (RFC 9457).
//
// It is not where anything is decided or run: that is behind Host, which the daemon
// implements. The types that cross the wire are those of package client, so that the
// server and its Go client cannot come apart; openapi.json is held against the route
// table by a test.
//
// The path of a synchronous call (invoke.go) is measured against a bare net/http
// handler; see BenchmarkInvoke_noop.
package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/faasm-go/faasm/client"
)

// Options are the choices of New.
type Options struct {
	// Log takes what goes wrong in the host itself; never one line per call. Nil:
	// slog.Default.
	Log *slog.Logger

	// Registry takes this package's metrics, and is what /metrics shows. Nil: one of
	// its own.
	Registry *prometheus.Registry

	// InputBytesMax bounds the body of a call. Zero: InputBytesMaxDefault.
	InputBytesMax int64

	// ModuleBytesMax bounds an upload. Zero: ModuleBytesMaxDefault.
	ModuleBytesMax int64

	// BodyBytesInFlightMax bounds the memory of all large bodies together, from when
	// they are read until their request is answered; beyond it requests are refused
	// as overloaded. Zero: BodyBytesInFlightMaxDefault.
	BodyBytesInFlightMax int64

	// SpoolDir is where values that are too large for memory wait until they have come
	// whole, in files without names. Empty: the system's directory for temporary files.
	SpoolDir string

	// SpoolBytesMax bounds such a value, and all of them together. Zero:
	// SpoolBytesMaxDefault.
	SpoolBytesMax int64

	// StateQuotaBytes is what a tenant may store in the global tier, for listings to tell.
	// Zero: no quota.
	StateQuotaBytes int64
}

const (
	InputBytesMaxDefault        = 64 << 20
	ModuleBytesMaxDefault       = 256 << 20
	BodyBytesInFlightMaxDefault = 1 << 30
	SpoolBytesMaxDefault        = 16 << 30
)

// Handler serves the HTTP interface. It is an http.Handler.
type Handler struct {
	// Immutable after New.
	host   Host
	log    *slog.Logger
	opts   Options // defaults filled in
	mux    *http.ServeMux
	keyed  map[string]keyRoute // by the path before the tenant
	dotted *endpoint           // for keys with steps in them
	lost   *endpoint           // for paths that the mux must not see
	cross  *endpoint           // for requests that pages of other sites make
	scrape http.Handler

	inFlight  prometheus.Gauge
	bodies    atomic.Int64 // bytes, bounded by opts.BodyBytesInFlightMax
	spooled   atomic.Int64 // bytes, bounded by opts.SpoolBytesMax
	followers atomic.Int64 // followed logs, bounded by followersMax
	holders   atomic.Int64 // locks that are held or waited for, bounded by holdersMax

	stateLogged atomic.Int64 // when the state store's failure was last logged, in Unix seconds

	// streams is done when waits and followed logs must end; see EndStreams.
	streams    context.Context
	endStreams context.CancelFunc

	requestIDs   atomic.Uint64
	requestIDTag string // tells the ids of this process from another's
}

// handlerFunc answers a request, or returns why not before it has written anything.
type handlerFunc func(h *Handler, w http.ResponseWriter, r *http.Request) error

// route is one method of one path.
type route struct {
	method, pattern string
	handle          handlerFunc
}

// routes is the whole interface. openapi.json says the same, and a test compares.
var routes = []route{
	{"POST", "/f/{tenant}/{function}", (*Handler).handlePostInvoke},
	{"GET", "/v1/calls", (*Handler).handleGetCalls},
	{"GET", "/v1/calls/{id}", (*Handler).handleGetCall},
	{"DELETE", "/v1/calls/{id}", (*Handler).handleDeleteCall},
	{"GET", "/v1/calls/{id}/output", (*Handler).handleGetOutput},
	{"GET", "/v1/calls/{id}/logs", (*Handler).handleGetCallLogs},
	{"GET", "/v1/functions", (*Handler).handleGetFunctions},
	{"PUT", "/v1/functions/{tenant}/{function}", (*Handler).handlePutFunction},
	{"GET", "/v1/functions/{tenant}/{function}", (*Handler).handleGetFunction},
	{"DELETE", "/v1/functions/{tenant}/{function}", (*Handler).handleDeleteFunction},
	{"GET", "/v1/functions/{tenant}/{function}/logs", (*Handler).handleGetFunctionLogs},
	{"GET", "/v1/functions/{tenant}/{function}/versions", (*Handler).handleGetVersions},
	{"POST", "/v1/functions/{tenant}/{function}/rollback", (*Handler).handlePostRollback},
	{"POST", "/v1/functions/{tenant}/{function}/warm", (*Handler).handlePostWarm},
	{"GET", "/v1/state/{tenant}", (*Handler).handleListState},
	{"GET", "/v1/state/{tenant}/{key}", (*Handler).handleGetState},
	{"PUT", "/v1/state/{tenant}/{key}", (*Handler).handlePutState},
	{"DELETE", "/v1/state/{tenant}/{key}", (*Handler).handleDeleteState},
	{"POST", "/v1/locks/{tenant}/{key}", (*Handler).handlePostLock},
	{"POST", "/v1/collect", (*Handler).handlePostCollect},
	{"GET", "/v1/host", (*Handler).handleGetHost},
	{"GET", "/problems/{code}", (*Handler).handleGetProblem},
	{"GET", "/openapi.json", (*Handler).handleGetOpenAPI},
	{"GET", "/healthz", (*Handler).handleGetHealthz},
	{"GET", "/readyz", (*Handler).handleGetReadyz},
	{"GET", "/metrics", (*Handler).handleGetMetrics},
}

// New returns the HTTP interface of host. It panics if opts.Registry has metrics of
// these names already.
func New(host Host, opts Options) *Handler {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.Registry == nil {
		opts.Registry = prometheus.NewRegistry()
	}
	if opts.InputBytesMax == 0 {
		opts.InputBytesMax = InputBytesMaxDefault
	}
	if opts.ModuleBytesMax == 0 {
		opts.ModuleBytesMax = ModuleBytesMaxDefault
	}
	if opts.BodyBytesInFlightMax == 0 {
		opts.BodyBytesInFlightMax = BodyBytesInFlightMaxDefault
	}
	if opts.SpoolBytesMax == 0 {
		opts.SpoolBytesMax = SpoolBytesMaxDefault
	}
	h := &Handler{
		host:         host,
		log:          opts.Log,
		opts:         opts,
		mux:          http.NewServeMux(),
		keyed:        map[string]keyRoute{},
		requestIDTag: newRequestIDTag(),
	}
	h.streams, h.endStreams = context.WithCancel(context.Background())

	m := newMetrics(opts.Registry)
	h.inFlight = m.inFlight
	h.scrape = promhttp.HandlerFor(opts.Registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(opts.Log.Handler(), slog.LevelError),
	})
	h.lost = &endpoint{h: h, handle: handleLost, metrics: m.route("none")}
	h.cross = &endpoint{h: h, handle: handleCross, metrics: h.lost.metrics}
	h.dotted = &endpoint{h: h, handle: handleDotted, metrics: h.lost.metrics}
	h.mux.Handle("/", h.lost)
	allowed := map[string][]string{}
	for _, rt := range routes {
		name := rt.method + " " + rt.pattern
		h.handle(rt.method, rt.pattern, &endpoint{h: h, handle: rt.handle, metrics: m.route(name)})
		allowed[rt.pattern] = append(allowed[rt.pattern], rt.method)
		if rt.method == http.MethodGet {
			allowed[rt.pattern] = append(allowed[rt.pattern], http.MethodHead)
		}
	}
	for pattern, methods := range allowed {
		h.handle("", pattern, &endpoint{h: h, handle: handleOtherMethod(append(methods, http.MethodOptions)), metrics: m.route(pattern)})
	}
	return h
}

// handle puts an endpoint where requests find it. The empty method is any other.
func (h *Handler) handle(method, pattern string, e *endpoint) {
	if root, ok := strings.CutSuffix(pattern, "{tenant}/{key}"); ok {
		if h.keyed[root] == nil {
			h.keyed[root] = keyRoute{}
		}
		h.keyed[root][method] = e
		return
	}
	h.mux.Handle(strings.TrimSpace(method+" "+pattern), e)
}

// EndStreams ends the requests that wait for something to happen: a long poll is
// answered with the state there is, a followed log ends, and a lock is let go of. Calls
// go on.
// Server.Shutdown does it.
func (h *Handler) EndStreams() { h.endStreams() }

// crossOrigin refuses what a browser sends on behalf of another site's page, reading
// excepted.
var crossOrigin = http.NewCrossOriginProtection()

func handleCross(_ *Handler, _ http.ResponseWriter, r *http.Request) error {
	return NewProblem(client.CodeCrossOrigin, "a page of another site asked a browser for this")
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// No web page may call functions of a host that listens on the loopback address of
	// the person who looks at it.
	if err := crossOrigin.Check(r); err != nil {
		h.cross.ServeHTTP(w, r)
		return
	}
	// EscapedPath makes a path anew that has a byte in it which should have been escaped, and
	// then a %2F is a slash: part of a tenant would be part of a key.
	p := r.URL.EscapedPath()
	if e := h.keyEndpoint(r, cmp.Or(r.URL.RawPath, p)); e != nil {
		e.ServeHTTP(w, r)
		return
	}
	// The mux would answer a path with empty or dot segments with a redirect to the
	// cleaned one. Here that is never meant: it is a name that was empty.
	if !cleanPath(p) {
		h.lost.ServeHTTP(w, r)
		return
	}
	h.mux.ServeHTTP(w, r)
}

// cleanPath tells whether p is absolute and has no empty and no dot segments but for
// a slash at the end.
func cleanPath(p string) bool {
	if !strings.HasPrefix(p, "/") {
		return false
	}
	if p != "/" {
		p = strings.TrimSuffix(p, "/")
	}
	return path.Clean(p) == p
}

func handleLost(_ *Handler, _ http.ResponseWriter, r *http.Request) error {
	return NewProblem(client.CodeNotFound, "there is nothing at "+quote(r.URL.EscapedPath()))
}

// handleOtherMethod answers the methods of a path that no route has. The allowed ones
// are not changed afterwards.
func handleOtherMethod(allowed []string) handlerFunc {
	allow := []string{strings.Join(allowed, ", ")}
	return func(_ *Handler, w http.ResponseWriter, r *http.Request) error {
		w.Header()["Allow"] = allow
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusNoContent)
			return nil
		}
		return NewProblem(client.CodeMethodNotAllowed, fmt.Sprintf("%s is not one of %s", quote(r.Method), allow[0]))
	}
}

// endpoint is a route in service: what is the same for all of them around its handler.
type endpoint struct {
	h       *Handler
	handle  handlerFunc
	metrics *routeMetrics
}

// recorder remembers the status, for the metrics and for knowing whether an error can
// still be told.
type recorder struct {
	http.ResponseWriter
	status int  // 0 until the header is written
	cut    bool // the connection must be cut, so that half a reply is not taken for a whole
}

func (rec *recorder) WriteHeader(status int) {
	if rec.status == 0 {
		rec.status = status
	}
	rec.ResponseWriter.WriteHeader(status)
}

func (rec *recorder) Write(b []byte) (int, error) {
	if rec.status == 0 {
		rec.status = http.StatusOK
	}
	return rec.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (rec *recorder) Unwrap() http.ResponseWriter { return rec.ResponseWriter }

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	e.h.inFlight.Inc()
	rec := &recorder{ResponseWriter: w}
	defer e.finish(rec, r, began)

	if id := r.Header["X-Request-Id"]; id != nil && validRequestID(id[0]) {
		w.Header()["X-Request-Id"] = id[:1:1]
	}
	if r.ContentLength != 0 {
		// Also for handlers that do not read the body: net/http reads what is left.
		setReadDeadline(w, r.ContentLength)
	}
	if err := e.handle(e.h, rec, r); err != nil {
		e.h.fail(rec, r, err)
	}
}

// finish is deferred, so it runs in a panic too.
func (e *endpoint) finish(rec *recorder, r *http.Request, began time.Time) {
	v := recover()
	if v != nil && v != http.ErrAbortHandler {
		e.h.panicked(rec, r, v)
	}
	e.h.inFlight.Dec()
	e.metrics.observe(rec.status, time.Since(began))
	if rec.cut || v == http.ErrAbortHandler {
		if c := connOf(r); c != nil {
			c.runWritten() // no reply will be written
		}
		panic(http.ErrAbortHandler)
	}
}

// panicked answers a request whose handler has panicked: the host has other requests
// to live for. net/http would recover as well, but leave the client without a reply.
func (h *Handler) panicked(rec *recorder, r *http.Request, v any) {
	h.fail(rec, r, fmt.Errorf("panic: %v\n%s", v, debug.Stack()))
}

// fail answers with the problem that err is. If the reply has begun, all that can be
// done is to cut it off.
func (h *Handler) fail(rec *recorder, r *http.Request, err error) {
	if rec.status != 0 {
		if r.Context().Err() == nil && !errors.Is(err, errSlowClient) && !errors.Is(err, errValueChanged) {
			h.log.Error("reply cut off", "method", r.Method, "path", r.URL.Path, "err", err)
		}
		rec.cut = true
		return
	}
	p, internal := problemOf(err)
	header := rec.Header()
	if id := header["X-Request-Id"]; id != nil {
		p.RequestID = id[0]
	} else {
		p.RequestID = h.newRequestID()
		header["X-Request-Id"] = []string{p.RequestID}
	}
	if internal {
		h.log.Error("internal error", "method", r.Method, "path", r.URL.Path, "request", p.RequestID, "err", err)
	}
	if p.Instance == "" {
		p.Instance = r.URL.EscapedPath()
		if len(p.Instance) > 4*client.NameBytesMax {
			p.Instance = ""
		}
	}
	writeProblem(rec, p)
}

func writeProblem(w http.ResponseWriter, p *client.Problem) {
	body, err := json.Marshal(p)
	if err != nil {
		panic("BUG: encode problem: " + err.Error())
	}
	header := w.Header()
	if p.RetryAfter > 0 {
		header["Retry-After"] = []string{strconv.FormatInt(retryAfterSeconds(p.RetryAfter), 10)}
	}
	header["Content-Type"] = problemType
	header["X-Content-Type-Options"] = nosniff
	header["Cache-Control"] = noStore
	header["Content-Length"] = []string{strconv.Itoa(len(body) + 1)}
	w.WriteHeader(p.Status)
	w.Write(append(body, '\n')) // an error here is the client's going, and nobody is left to tell
}

// Values of headers, shared by all replies: net/http reads them only.
var (
	problemType = []string{"application/problem+json"}
	jsonType    = []string{"application/json"}
	textType    = []string{"text/plain; charset=utf-8"}
	nosniff     = []string{"nosniff"}
	noStore     = []string{"no-store"}
)

func writeJSON(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode reply: %w", err)
	}
	header := w.Header()
	header["Content-Type"] = jsonType
	header["X-Content-Type-Options"] = nosniff
	header["Cache-Control"] = noStore
	header["Content-Length"] = []string{strconv.Itoa(len(body) + 1)}
	w.WriteHeader(status)
	w.Write(append(body, '\n')) // as in writeProblem
	return nil
}

func writeText(w http.ResponseWriter, text string) {
	header := w.Header()
	header["Content-Type"] = textType
	header["X-Content-Type-Options"] = nosniff
	header["Content-Length"] = []string{strconv.Itoa(len(text))}
	w.Write([]byte(text)) // as in writeProblem
}
