package api_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/faasm-go/faasm/client"
	"github.com/faasm-go/faasm/internal/api"
	"github.com/faasm-go/faasm/internal/call"
)

// fakeHost is a Host whose functions are Go functions, by name.
type fakeHost struct {
	run map[string]func(ctx context.Context, inv api.Invocation) (*call.Result, error)

	inFlight atomic.Int64 // calls whose done is still to come

	mu        sync.Mutex
	functions map[[2]string]client.FunctionInfo
	versions  map[[2]string][]client.FunctionInfo // oldest first
	warm      map[[2]string]int
	keeps     []int // what Collect was given
	calls     map[call.ID]*fakeCall
	uploads   []api.Upload
	ready     error
	info      client.HostInfo
	deployErr error
	initLog   string // what every initialisation prints
	callsErr  error
	filters   []call.Filter
	lines     []call.Line    // of every function
	more      chan call.Line // what FollowLogs hands on
	state     *fakeState     // nil but after serveState
	following chan struct{}  // gets one when FollowLogs waits
	unfollows chan struct{}  // gets one when FollowLogs ends
}

type fakeCall struct {
	rec    call.Record
	output []byte
	lines  []call.Line
	done   chan struct{}
}

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)

func returned(code int32, output []byte) *call.Result {
	return &call.Result{Outcome: call.Returned, ReturnCode: code, Output: output, Started: epoch, Finished: epoch.Add(time.Second), Version: "0123456789ab",
		Usage: call.Usage{Queued: 1, Start: 2913, Wall: 1500 * time.Microsecond, CPU: 1001, MemoryPeak: 1 << 17, HostCalls: 2}}
}

func newFakeHost() *fakeHost {
	return &fakeHost{
		run: map[string]func(context.Context, api.Invocation) (*call.Result, error){
			"echo": func(_ context.Context, inv api.Invocation) (*call.Result, error) { return returned(0, inv.Input), nil },
		},
		functions: map[[2]string]client.FunctionInfo{},
		versions:  map[[2]string][]client.FunctionInfo{},
		warm:      map[[2]string]int{},
		calls:     map[call.ID]*fakeCall{},
		more:      make(chan call.Line),
		following: make(chan struct{}, 1),
		unfollows: make(chan struct{}, 1),
		info: client.HostInfo{Version: "0.1.0", Commit: "abc1234", Cores: 2, Started: epoch, Tenants: 1, Functions: 3, CallsQueued: 4, CallsRunning: 5,
			Profile: "dense", MemoryBudgetBytes: 1 << 33, ResidentBytes: 1 << 20, ResidentFunctions: 2, RegionsIdle: 6,
			State: "redis://store:6379", StateReplicas: 7, StateMemoryBytes: 8 << 20, StateMemoryMax: 9 << 30, StateQuotaBytes: 10 << 30},
	}
}

// addCall makes a call known and returns its id.
func (f *fakeHost) addCall(rec call.Record, output []byte, lines ...call.Line) call.ID {
	if rec.Request.ID.IsZero() {
		rec.Request.ID = call.NewID()
	}
	c := &fakeCall{rec: rec, output: output, lines: lines, done: make(chan struct{})}
	c.rec.OutputBytes = len(output)
	if rec.State == call.Done {
		close(c.done)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[rec.Request.ID] = c
	return rec.Request.ID
}

// finish ends a call.
func (f *fakeHost) finish(id call.ID, res call.Result) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.calls[id]
	c.rec.State, c.rec.Started, c.rec.Result = call.Done, res.Started, res
	c.output, c.rec.OutputBytes = res.Output, len(res.Output)
	close(c.done)
}

func (f *fakeHost) Invoke(ctx context.Context, inv api.Invocation) (call.ID, *call.Result, func(), error) {
	run := f.run[inv.Function]
	if run == nil {
		return call.ID{}, nil, nil, api.NoSuchFunction(inv.Tenant, inv.Function)
	}
	res, err := run(ctx, inv)
	if err != nil {
		return call.ID{}, nil, nil, err
	}
	id := f.addCall(call.Record{
		Request: call.Request{Tenant: inv.Tenant, Function: inv.Function, Accepted: epoch, Attempt: 1},
		State:   call.Done, Started: res.Started, Result: *res,
	}, res.Output, f.lines...)
	f.inFlight.Add(1)
	return id, res, func() { f.inFlight.Add(-1) }, nil
}

func (f *fakeHost) Submit(_ context.Context, inv api.Invocation) (call.Record, error) {
	if f.run[inv.Function] == nil {
		return call.Record{}, api.NoSuchFunction(inv.Tenant, inv.Function)
	}
	rec := call.Record{
		Request: call.Request{ID: call.NewID(), Tenant: inv.Tenant, Function: inv.Function, Accepted: epoch, Attempt: 1, Async: true},
		State:   call.Queued,
	}
	f.addCall(rec, nil)
	return rec, nil
}

func (f *fakeHost) find(id call.ID) (*fakeCall, error) {
	if c := f.calls[id]; c != nil {
		return c, nil
	}
	return nil, api.NoSuchCall(id)
}

func (f *fakeHost) Call(_ context.Context, id call.ID) (call.Record, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := f.find(id)
	if err != nil {
		return call.Record{}, err
	}
	return c.rec, nil
}

func (f *fakeHost) Wait(ctx context.Context, id call.ID) (call.Record, error) {
	f.mu.Lock()
	c, err := f.find(id)
	f.mu.Unlock()
	if err != nil {
		return call.Record{}, err
	}
	select {
	case f.following <- struct{}{}:
	default:
	}
	select {
	case <-c.done:
	case <-ctx.Done():
	}
	return f.Call(ctx, id)
}

func (f *fakeHost) Calls(_ context.Context, filter call.Filter) ([]call.Record, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.filters = append(f.filters, filter)
	var all []call.Record
	for _, c := range f.calls {
		all = append(all, c.rec)
	}
	slices.SortFunc(all, func(a, b call.Record) int { return bytes.Compare(b.Request.ID[:], a.Request.ID[:]) })
	return all, f.callsErr
}

func (f *fakeHost) Output(_ context.Context, id call.ID) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.calls[id]
	switch {
	case c == nil:
		return nil, call.ErrNotFound
	case c.rec.State != call.Done:
		return nil, call.ErrNotFinished
	}
	return c.output, nil
}

func (f *fakeHost) Cancel(_ context.Context, id call.ID) (call.Record, error) {
	f.mu.Lock()
	c, err := f.find(id)
	f.mu.Unlock()
	if err != nil {
		return call.Record{}, err
	}
	if c.rec.State != call.Done {
		f.finish(id, call.Result{Outcome: call.Cancelled, Finished: epoch, Failure: &call.Failure{Message: "cancelled"}})
	}
	return f.Call(context.Background(), id)
}

func (f *fakeHost) CallLogs(_ context.Context, id call.ID) ([]call.Line, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := f.find(id)
	if err != nil {
		return nil, err
	}
	return c.lines, nil
}

func (f *fakeHost) Deploy(_ context.Context, up api.Upload) (client.FunctionInfo, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.deployErr != nil {
		return client.FunctionInfo{}, false, f.deployErr
	}
	f.uploads = append(f.uploads, up)
	key := [2]string{up.Tenant, up.Function}
	_, replaced := f.functions[key]
	info := client.FunctionInfo{Tenant: up.Tenant, Name: up.Function, Version: "0123456789ab", MemoryBytes: up.MemoryBytes,
		Timeout: client.Duration(up.Timeout), WasmBytes: int64(len(up.Wasm)), Entry: "_start", Imports: 3, Uploaded: epoch, CompileMs: 1.5,
		Initialised: true, InitialiseMs: 20.5, SnapshotBytes: 32 << 20, StoredBytes: 4 << 20, StartUs: 4.25}
	f.functions[key] = info
	info.InitLog = f.initLog
	return info, !replaced, nil
}

func (f *fakeHost) Function(_ context.Context, tenant, function string) (client.FunctionInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, ok := f.functions[[2]string{tenant, function}]
	if !ok {
		return info, api.NoSuchFunction(tenant, function)
	}
	return info, nil
}

func (f *fakeHost) Functions(_ context.Context, tenant string) ([]client.FunctionInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []client.FunctionInfo
	for key, info := range f.functions {
		if tenant == "" || tenant == key[0] {
			all = append(all, info)
		}
	}
	slices.SortFunc(all, func(a, b client.FunctionInfo) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Name, b.Name))
	})
	return all, nil
}

func (f *fakeHost) Versions(ctx context.Context, tenant, function string) (client.VersionList, error) {
	info, err := f.Function(ctx, tenant, function)
	if err != nil {
		return client.VersionList{}, err
	}
	list := client.VersionList{Serving: info.Version}
	for _, v := range slices.Backward(f.versions[[2]string{tenant, function}]) {
		list.Versions = append(list.Versions, v)
	}
	return list, nil
}

func (f *fakeHost) Rollback(ctx context.Context, tenant, function, version string) (client.FunctionInfo, error) {
	info, err := f.Function(ctx, tenant, function)
	if err != nil {
		return info, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	key := [2]string{tenant, function}
	at := slices.IndexFunc(f.versions[key], func(v client.FunctionInfo) bool {
		if version == "" {
			return v.Version != info.Version
		}
		return v.Version == version
	})
	switch {
	case at < 0 && version == "":
		return info, api.NoPreviousVersion(tenant, function)
	case at < 0:
		return info, api.NoSuchVersion(tenant, function, version)
	}
	f.functions[key] = f.versions[key][at]
	return f.functions[key], nil
}

func (f *fakeHost) Warm(ctx context.Context, tenant, function string, count int) (client.WarmInfo, error) {
	if _, err := f.Function(ctx, tenant, function); err != nil {
		return client.WarmInfo{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.warm[[2]string{tenant, function}] = count
	return client.WarmInfo{Count: count, Ready: min(count, 3), Resident: true}, nil
}

func (f *fakeHost) Collect(_ context.Context, keep int) (client.CollectInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keeps = append(f.keeps, keep)
	return client.CollectInfo{Versions: 1, Modules: 2, Artefacts: 3, Protos: 4, Bytes: 5 << 30}, nil
}

func (f *fakeHost) Remove(ctx context.Context, tenant, function string) error {
	if _, err := f.Function(ctx, tenant, function); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.functions, [2]string{tenant, function})
	return nil
}

func (f *fakeHost) FunctionLogs(ctx context.Context, tenant, function string, tail int) ([]call.Line, error) {
	if _, err := f.Function(ctx, tenant, function); err != nil {
		return nil, err
	}
	return f.lines[max(0, len(f.lines)-tail):], nil
}

func (f *fakeHost) FollowLogs(ctx context.Context, tenant, function string, tail int) (iter.Seq[call.Line], error) {
	lines, err := f.FunctionLogs(ctx, tenant, function, tail)
	if err != nil {
		return nil, err
	}
	return func(yield func(call.Line) bool) {
		defer func() { f.unfollows <- struct{}{} }()
		for _, line := range lines {
			if !yield(line) {
				return
			}
		}
		f.following <- struct{}{}
		for {
			select {
			case <-ctx.Done():
				return
			case line := <-f.more:
				if line.Text == "panic" {
					panic("panic in FollowLogs")
				}
				if !yield(line) {
					return
				}
			}
		}
	}, nil
}

func (f *fakeHost) State() api.State { return f.state }

func (f *fakeHost) Ready() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ready
}

func (f *fakeHost) Info() client.HostInfo { return f.info }

// logSink keeps what is logged.
type logSink struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *logSink) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(b)
}

func (s *logSink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// testServer is a Handler on a real listener.
type testServer struct {
	*fakeHost
	handler *api.Handler
	server  *api.Server
	addr    string
	url     string
	log     *logSink
}

func serve(t testing.TB, opts api.Options) *testServer {
	t.Helper()
	s := &testServer{fakeHost: newFakeHost(), log: &logSink{}}
	opts.Log = slog.New(slog.NewTextHandler(s.log, nil))
	s.handler = api.New(s.fakeHost, opts)
	s.server = api.NewServer(s.handler)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr, s.url = l.Addr().String(), "http://"+l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- s.server.Serve(l) }()
	t.Cleanup(func() {
		s.handler.EndStreams()
		s.server.Close()
		if err := <-served; err != http.ErrServerClosed {
			t.Errorf("Serve: %v", err)
		}
		// Every call is cleaned up after, however its reply went. Handlers may still be
		// about to notice that the server has closed.
		for end := time.Now().Add(10 * time.Second); s.inFlight.Load() != 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Errorf("%d calls were never cleaned up after", s.inFlight.Load())
				break
			}
		}
	})
	return s
}

func (s *testServer) client(t testing.TB) *client.Client {
	t.Helper()
	c, err := client.New(s.url, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// reply is a response with its body read.
type reply struct {
	*http.Response
	body []byte
}

// do sends a request whose path is sent exactly as it is in target.
func (s *testServer) do(t testing.TB, method, target string, body io.Reader, header ...string) reply {
	t.Helper()
	req, err := http.NewRequest(method, s.url, body)
	if err != nil {
		t.Fatal(err)
	}
	req.URL.Opaque = "//" + s.addr + target
	if strings.HasPrefix(target, "//") || !strings.HasPrefix(target, "/") {
		return s.raw(t, method+" "+target+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	}
	if i := strings.IndexByte(target, '?'); i >= 0 {
		req.URL.Opaque, req.URL.RawQuery = "//"+s.addr+target[:i], target[i+1:]
		req.URL.ForceQuery = true
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	return readReply(t, resp)
}

// raw sends bytes and reads one response.
func (s *testServer) raw(t testing.TB, request string) reply {
	t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%.100q: %v", request, err)
	}
	return readReply(t, resp)
}

func readReply(t testing.TB, resp *http.Response) reply {
	t.Helper()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("read reply: %v", err)
	}
	return reply{resp, body}
}
