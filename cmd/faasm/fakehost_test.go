package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/faasm-go/faasm/client"
)

// fakeHost answers like a host, from memory. A function does what its name says: see
// handleInvoke.
type fakeHost struct {
	*httptest.Server

	began   chan string // receives the function's name when a call of hang begins
	gone    chan string // ... and when its client has left
	follows chan string // receives the function's name when someone follows its log

	mu struct {
		sync.Mutex
		functions []client.FunctionInfo
		calls     []client.CallInfo // oldest first
		outputs   map[string][]byte
		queries   []string // "METHOD path?query" of each request, oldest first
		values    map[string]fakeValue
		versions  client.StateVersion // the last that a value has got
		locked    map[string]bool
	}
}

func newFakeHost(t testing.TB) *fakeHost {
	h := &fakeHost{began: make(chan string, 16), gone: make(chan string, 16), follows: make(chan string, 16)}
	h.mu.outputs = map[string][]byte{}
	h.mu.values, h.mu.locked = map[string]fakeValue{}, map[string]bool{}
	for _, name := range []string{"busy", "echo", "fail", "hungry", "noise", "slow", "trap"} {
		h.mu.functions = append(h.mu.functions, fakeFunction(client.DefaultTenant, name, 64<<20, 5*time.Second, 1234))
	}
	h.mu.functions = append(h.mu.functions, fakeFunction("acme", "resize", 256<<20, 90*time.Second, 3<<20))

	mux := http.NewServeMux()
	mux.HandleFunc("POST /f/{tenant}/{function}", h.handleInvoke)
	mux.HandleFunc("GET /v1/calls", h.handleCalls)
	mux.HandleFunc("GET /v1/calls/{id}", h.handleCall)
	mux.HandleFunc("GET /v1/calls/{id}/output", h.handleOutput)
	mux.HandleFunc("GET /v1/calls/{id}/logs", h.handleCallLogs)
	mux.HandleFunc("DELETE /v1/calls/{id}", h.handleCancel)
	mux.HandleFunc("PUT /v1/functions/{tenant}/{function}", h.handleDeploy)
	mux.HandleFunc("GET /v1/functions", h.handleFunctions)
	mux.HandleFunc("DELETE /v1/functions/{tenant}/{function}", h.handleRemove)
	mux.HandleFunc("GET /v1/functions/{tenant}/{function}/logs", h.handleLogs)
	mux.HandleFunc("GET /v1/functions/{tenant}/{function}/versions", h.handleVersions)
	mux.HandleFunc("POST /v1/functions/{tenant}/{function}/rollback", h.handleRollback)
	mux.HandleFunc("POST /v1/functions/{tenant}/{function}/warm", h.handleWarm)
	mux.HandleFunc("GET /v1/state/{tenant}", h.handleListState)
	mux.HandleFunc("GET /v1/state/{tenant}/{key}", h.handleGetState)
	mux.HandleFunc("PUT /v1/state/{tenant}/{key}", h.handlePutState)
	mux.HandleFunc("DELETE /v1/state/{tenant}/{key}", h.handleDeleteState)
	mux.HandleFunc("POST /v1/locks/{tenant}/{key}", h.handleLock)
	mux.HandleFunc("POST /v1/collect", h.handleCollect)
	mux.HandleFunc("GET /v1/host", func(w http.ResponseWriter, r *http.Request) {
		reply(w, http.StatusOK, client.HostInfo{Version: "v9.8.7", Commit: "c0ffee", Cores: 2})
	})
	mux.HandleFunc("GET /elsewhere/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		if strings.HasSuffix(r.URL.Path, "/functions") {
			io.WriteString(w, "<html>welcome</html>")
			return
		}
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, "<html>no entry\nwithout a badge</html>")
	})
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		h.mu.queries = append(h.mu.queries, r.Method+" "+r.URL.String())
		h.mu.Unlock()
		mux.ServeHTTP(w, r)
	}))
	return h
}

func fakeFunction(tenant, name string, memory uint64, timeout time.Duration, wasmBytes int64) client.FunctionInfo {
	return client.FunctionInfo{
		Tenant: tenant, Name: name, Version: servingVersion, MemoryBytes: memory, Timeout: client.Duration(timeout),
		WasmBytes: wasmBytes, Entry: "faasm_call", Imports: 4, Uploaded: time.Now().Add(-210 * time.Minute), CompileMs: 34.21,
		SnapshotBytes: 128 << 10, StoredBytes: 700, StartUs: 2.9,
	}
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

func replyProblem(w http.ResponseWriter, p client.Problem) {
	p.Type = "/problems/" + string(p.Code)
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p)
}

func (h *fakeHost) known(tenant, function string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(h.mu.functions, func(f client.FunctionInfo) bool { return f.Tenant == tenant && f.Name == function })
}

func noSuchFunction(w http.ResponseWriter, r *http.Request) {
	replyProblem(w, client.Problem{Status: 404, Code: client.CodeNoSuchFunction,
		Detail: fmt.Sprintf("tenant %q has no function %q", r.PathValue("tenant"), r.PathValue("function"))})
}

// run decides how a call of function ends.
func run(function string, input []byte) (outcome string, returnCode int32, failure *client.Failure, output []byte, log string) {
	switch function {
	case "trap":
		return client.OutcomeTrapped, 0, &client.Failure{
			// What a guest may have put into its names and its log must not reach the terminal.
			Message: "out of bounds memory access",
			Backtrace: []client.Frame{
				{FuncIndex: 7, FuncName: "parse\x1b[31m_header", Offset: 0x2c},
				{FuncIndex: 3, Offset: 0x104},
			},
		}, nil, "reading header\nlength is 4294967295\x07\n"
	case "fail":
		return client.OutcomeReturned, 3, nil, []byte("half of it"), "no such user\n"
	case "hungry":
		return client.OutcomeMemoryLimit, 0, &client.Failure{Message: "memory limit of 65536 KiB reached"}, nil, ""
	case "slow":
		return client.OutcomeDeadline, 0, &client.Failure{Message: "deadline exceeded: stopped after 5s"}, nil, ""
	case "noise":
		return client.OutcomeReturned, 0, nil, []byte{0xff, 0x00, '\n', 0x80}, ""
	}
	return client.OutcomeReturned, 0, nil, input, ""
}

func (h *fakeHost) handleInvoke(w http.ResponseWriter, r *http.Request) {
	tenant, function := r.PathValue("tenant"), r.PathValue("function")
	if function == "hang" {
		h.began <- function
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
		h.gone <- function
		return
	}
	if !h.known(tenant, function) {
		noSuchFunction(w, r)
		return
	}
	input, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if function == "busy" {
		w.Header().Set("Retry-After", "2")
		replyProblem(w, client.Problem{Status: 429, Code: client.CodeOverloaded, Detail: "the queue of tenant default is full (1000 calls)"})
		return
	}
	outcome, returnCode, failure, output, log := run(function, input)
	usage := client.Usage{QueuedUs: 12, StartUs: 2.913, WallUs: 1234, CPUUs: 1180, MemoryBytes: 1 << 20, HostCalls: 3}
	outputBytes := int64(len(output))
	accepted := time.Now().Add(-90 * time.Second)

	h.mu.Lock()
	id := fmt.Sprintf("0199c3f0b7aa4c1e8d0f%012d", len(h.mu.calls)+1)
	info := client.CallInfo{ID: id, Tenant: tenant, Function: function, Version: "3f2a91c04d7e", State: client.StateDone,
		Outcome: outcome, Failure: failure, Attempt: 1, Accepted: accepted, Started: accepted, Finished: accepted,
		Usage: &usage, OutputBytes: &outputBytes}
	if outcome == client.OutcomeReturned {
		info.ReturnCode = &returnCode
	}
	h.mu.outputs[id] = output
	info.Async = r.Header.Get("Prefer") == "respond-async"
	h.mu.calls = append(h.mu.calls, info)
	h.mu.Unlock()

	if info.Async {
		queued := client.CallInfo{ID: id, Tenant: tenant, Function: function, State: client.StateQueued, Async: true, Attempt: 1, Accepted: accepted}
		w.Header().Set("Location", "/v1/calls/"+id)
		reply(w, http.StatusAccepted, queued)
		return
	}
	header := w.Header()
	header.Set("Faasm-Call-Id", id)
	header.Set("Faasm-Outcome", outcome)
	header.Set("Faasm-Queued-Us", strconv.FormatInt(usage.QueuedUs, 10))
	header.Set("Faasm-Start-Us", strconv.FormatFloat(usage.StartUs, 'f', 3, 64))
	header.Set("Faasm-Wall-Us", strconv.FormatInt(usage.WallUs, 10))
	header.Set("Faasm-Cpu-Us", strconv.FormatInt(usage.CPUUs, 10))
	header.Set("Faasm-Memory-Bytes", strconv.FormatUint(usage.MemoryBytes, 10))
	if outcome == client.OutcomeReturned && returnCode == 0 {
		w.Write(output)
		return
	}
	p := client.Problem{Status: 500, CallID: id, Tenant: tenant, Function: function, Log: log}
	switch outcome {
	case client.OutcomeTrapped:
		p.Code = client.CodeTrap
	case client.OutcomeReturned:
		p.Code, p.ReturnCode, p.Detail = client.CodeReturnCode, &returnCode, fmt.Sprintf("%s returned %d", function, returnCode)
	case client.OutcomeMemoryLimit:
		p.Code, p.Status = client.CodeMemoryLimit, 507
	case client.OutcomeDeadline:
		p.Code, p.Status = client.CodeDeadline, 504
	}
	if failure != nil {
		p.Detail, p.Backtrace = failure.Message, failure.Backtrace
	}
	replyProblem(w, p)
}

func (h *fakeHost) handleCalls(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	q := r.URL.Query()
	list := client.CallList{Calls: []client.CallInfo{}}
	for _, c := range slices.Backward(h.mu.calls) {
		if (q.Get("tenant") == "" || q.Get("tenant") == c.Tenant) && (q.Get("function") == "" || q.Get("function") == c.Function) &&
			(q.Get("state") == "" || q.Get("state") == string(c.State)) {
			list.Calls = append(list.Calls, c)
		}
	}
	if n, err := strconv.Atoi(q.Get("limit")); err == nil && n < len(list.Calls) {
		list.Calls = list.Calls[:n]
	}
	reply(w, http.StatusOK, list)
}

// call replies with a problem and returns nil if the request's id names no call.
func (h *fakeHost) call(w http.ResponseWriter, r *http.Request) *client.CallInfo {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.mu.calls {
		if h.mu.calls[i].ID == r.PathValue("id") {
			info := h.mu.calls[i]
			return &info
		}
	}
	replyProblem(w, client.Problem{Status: 404, Code: client.CodeNoSuchCall, Detail: "no call " + r.PathValue("id") + " is known"})
	return nil
}

func (h *fakeHost) handleCall(w http.ResponseWriter, r *http.Request) {
	if r.PathValue("id") == "running" {
		if wait := r.URL.Query().Get("wait"); wait != "" {
			<-r.Context().Done()
			return
		}
		reply(w, http.StatusOK, client.CallInfo{ID: "running", Tenant: "default", Function: "echo", State: client.StateRunning,
			Parent: "0199c3f0b7aa4c1e8d0f000000000001", Attempt: 1, Accepted: time.Now().Add(-90 * time.Second)})
		return
	}
	if info := h.call(w, r); info != nil {
		reply(w, http.StatusOK, info)
	}
}

func (h *fakeHost) handleOutput(w http.ResponseWriter, r *http.Request) {
	if r.PathValue("id") == "running" {
		replyProblem(w, client.Problem{Status: 409, Code: client.CodeNotFinished, Detail: "call running has not finished"})
		return
	}
	if info := h.call(w, r); info != nil {
		w.Write(h.mu.outputs[info.ID])
	}
}

func (h *fakeHost) handleCallLogs(w http.ResponseWriter, r *http.Request) {
	if info := h.call(w, r); info != nil {
		fmt.Fprintf(w, "2026-03-01T10:00:00.000001Z %s stderr only this call\n", info.ID[len(info.ID)-8:])
	}
}

func (h *fakeHost) handleCancel(w http.ResponseWriter, r *http.Request) {
	if r.PathValue("id") == "running" {
		reply(w, http.StatusOK, client.CallInfo{ID: "running", State: client.StateDone, Outcome: client.OutcomeCancelled})
		return
	}
	if info := h.call(w, r); info != nil {
		reply(w, http.StatusOK, info)
	}
}

func (h *fakeHost) handleDeploy(w http.ResponseWriter, r *http.Request) {
	tenant, function := r.PathValue("tenant"), r.PathValue("function")
	wasm, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if bytes.Contains(wasm, []byte("bad import")) {
		replyProblem(w, client.Problem{Status: 422, Code: client.CodeUnknownImport, Detail: `import "env"."launch" is not in the host interface`})
		return
	}
	if bytes.Contains(wasm, []byte("bad start")) {
		replyProblem(w, client.Problem{Status: 422, Code: client.CodeInitialisationFailed, Detail: "initialisation: unreachable",
			Backtrace: []client.Frame{{FuncIndex: 1, FuncName: "_initialize", Offset: 5}}, Log: "no table\n"})
		return
	}
	memory, timeout := uint64(64<<20), 5*time.Second
	if s := r.URL.Query().Get("memory"); s != "" {
		memory, _ = strconv.ParseUint(s, 10, 64)
	}
	if s := r.URL.Query().Get("timeout"); s != "" {
		timeout, _ = time.ParseDuration(s)
	}
	info := fakeFunction(tenant, function, memory, timeout, int64(len(wasm)))
	if bytes.Contains(wasm, []byte("initialises")) {
		info.Initialised, info.InitialiseMs, info.SnapshotBytes, info.StoredBytes = true, 1234.5, 32<<20+100<<10, 4<<20+200<<10
	}
	if bytes.Contains(wasm, []byte("prints")) {
		// As in a trap's log: what a guest prints must not reach the terminal as it is.
		info.InitLog = "loading table\nred \x1b[31malert\r\nready"
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, f := range h.mu.functions {
		if f.Tenant == tenant && f.Name == function {
			h.mu.functions[i] = info
			reply(w, http.StatusOK, info)
			return
		}
	}
	h.mu.functions = append(h.mu.functions, info)
	reply(w, http.StatusCreated, info)
}

// Each function has three versions.
const (
	oldestVersion  = "00000000000a"
	olderVersion   = "1b7d00aa93c2"
	servingVersion = "3f2a91c04d7e"
)

func (h *fakeHost) versions(r *http.Request) []client.FunctionInfo {
	var list []client.FunctionInfo
	for i, version := range []string{servingVersion, olderVersion, oldestVersion} {
		info := fakeFunction(r.PathValue("tenant"), r.PathValue("function"), 64<<20, 5*time.Second, 1234)
		info.Version, info.Uploaded = version, info.Uploaded.Add(-time.Duration(i)*72*time.Hour)
		list = append(list, info)
	}
	list[2].StartUs = 0
	return list
}

func (h *fakeHost) handleVersions(w http.ResponseWriter, r *http.Request) {
	if !h.known(r.PathValue("tenant"), r.PathValue("function")) {
		noSuchFunction(w, r)
		return
	}
	reply(w, http.StatusOK, client.VersionList{Serving: servingVersion, Versions: h.versions(r)})
}

func (h *fakeHost) handleRollback(w http.ResponseWriter, r *http.Request) {
	tenant, function, version := r.PathValue("tenant"), r.PathValue("function"), r.URL.Query().Get("version")
	if !h.known(tenant, function) {
		noSuchFunction(w, r)
		return
	}
	if version == "" && function == "fail" {
		replyProblem(w, client.Problem{Status: 409, Code: client.CodeNoPreviousVersion, Tenant: tenant, Function: function,
			Detail: fmt.Sprintf("no version of function %q served before this one", function)})
		return
	}
	for _, info := range h.versions(r) {
		if info.Version == version || version == "" && info.Version == olderVersion {
			reply(w, http.StatusOK, info)
			return
		}
	}
	replyProblem(w, client.Problem{Status: 404, Code: client.CodeNoSuchVersion, Tenant: tenant, Function: function,
		Detail: fmt.Sprintf("function %q has no version %q", function, version)})
}

// handleWarm has room for three regions.
func (h *fakeHost) handleWarm(w http.ResponseWriter, r *http.Request) {
	if !h.known(r.PathValue("tenant"), r.PathValue("function")) {
		noSuchFunction(w, r)
		return
	}
	count, err := strconv.Atoi(r.URL.Query().Get("count"))
	if err != nil || count < 0 || count > 4096 {
		replyProblem(w, client.Problem{Status: 400, Code: client.CodeBadRequest,
			Detail: fmt.Sprintf("count=%q is not a number from 0 to 4096", r.URL.Query().Get("count"))})
		return
	}
	reply(w, http.StatusOK, client.WarmInfo{Count: count, Ready: min(count, 3), Resident: true})
}

// handleCollect finds something to delete only when it is told how much to keep.
func (h *fakeHost) handleCollect(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("keep") == "" {
		reply(w, http.StatusOK, client.CollectInfo{})
		return
	}
	reply(w, http.StatusOK, client.CollectInfo{Versions: 3, Modules: 2, Artefacts: 4, Protos: 1, Bytes: 5<<20 + 512<<10})
}

func (h *fakeHost) handleFunctions(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := client.FunctionList{Functions: []client.FunctionInfo{}}
	for _, f := range h.mu.functions {
		if tenant := r.URL.Query().Get("tenant"); tenant == "" || tenant == f.Tenant {
			list.Functions = append(list.Functions, f)
		}
	}
	reply(w, http.StatusOK, list)
}

func (h *fakeHost) handleRemove(w http.ResponseWriter, r *http.Request) {
	tenant, function := r.PathValue("tenant"), r.PathValue("function")
	if !h.known(tenant, function) {
		noSuchFunction(w, r)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.functions = slices.DeleteFunc(h.mu.functions, func(f client.FunctionInfo) bool { return f.Tenant == tenant && f.Name == function })
	w.WriteHeader(http.StatusNoContent)
}

func (h *fakeHost) handleLogs(w http.ResponseWriter, r *http.Request) {
	if !h.known(r.PathValue("tenant"), r.PathValue("function")) {
		noSuchFunction(w, r)
		return
	}
	lines := []string{
		"2026-03-01T10:00:00.000001Z 0199c3f0 stdout first line",
		"2026-03-01T10:00:00.000002Z 0199c3f1 stderr red \x1b[31malert",
		"2026-03-01T10:00:00.000003Z 0199c3f1 system 10 bytes were dropped",
	}
	if n, err := strconv.Atoi(r.URL.Query().Get("tail")); err == nil && n < len(lines) {
		lines = lines[len(lines)-n:]
	}
	for _, line := range lines {
		io.WriteString(w, line+"\n")
	}
	if r.URL.Query().Get("follow") == "true" {
		w.(http.Flusher).Flush()
		h.follows <- r.PathValue("function")
		<-r.Context().Done()
	}
}

type fakeValue struct {
	version client.StateVersion
	data    []byte
}

// value returns the value that a request is about, if it may have it, or replies with a
// problem. The caller holds h.mu.
func (h *fakeHost) value(w http.ResponseWriter, r *http.Request) (key string, v fakeValue, ok bool) {
	key = r.PathValue("tenant") + " " + r.PathValue("key")
	v = h.mu.values[key]
	match, noneMatch, fence := r.Header.Get("If-Match"), r.Header.Get("If-None-Match"), r.Header.Get("Faasm-Fence")
	switch {
	case match != "" && match != fmt.Sprintf("%q", v.version.String()), noneMatch == "*" && v.version != 0:
		replyProblem(w, client.Problem{Status: 412, Code: client.CodeVersionMismatch, Detail: fmt.Sprintf("the value is at version %d", v.version)})
		return key, v, false
	case fence != "" && (fence != "17" || !h.mu.locked[key]):
		replyProblem(w, client.Problem{Status: 412, Code: client.CodeFenced, Detail: "the lease that the change relies on is over"})
		return key, v, false
	case r.Method != http.MethodPut && v.version == 0:
		replyProblem(w, client.Problem{Status: 404, Code: client.CodeNoSuchValue,
			Detail: fmt.Sprintf("tenant %q has no value %q", r.PathValue("tenant"), r.PathValue("key"))})
		return key, v, false
	}
	return key, v, true
}

// handleGetState breaks off in the middle of the value "torn".
func (h *fakeHost) handleGetState(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, v, ok := h.value(w, r)
	if !ok {
		return
	}
	w.Header().Set("ETag", fmt.Sprintf("%q", v.version.String()))
	if r.PathValue("key") == "torn" {
		w.Header().Set("Content-Length", "2048")
		w.Write(make([]byte, 1024))
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(v.data))
}

func (h *fakeHost) handlePutState(w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if r.PathValue("key") == "too-much" {
		replyProblem(w, client.Problem{Status: 507, Code: client.CodeQuota, Detail: "the tenant's quota of state is used up: 5 bytes and 4 more of 6"})
		return
	}
	key, old, ok := h.value(w, r)
	if !ok {
		return
	}
	h.mu.versions++
	h.mu.values[key] = fakeValue{h.mu.versions, data}
	status := http.StatusOK
	if old.version == 0 {
		status = http.StatusCreated
	}
	reply(w, status, client.StateInfo{Version: h.mu.versions, Size: int64(len(data))})
}

func (h *fakeHost) handleDeleteState(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if key, _, ok := h.value(w, r); ok {
		delete(h.mu.values, key)
		w.WriteHeader(http.StatusNoContent)
	}
}

// handleListState gives two names at a time. Each tenant has the list "log" besides its
// values.
func (h *fakeHost) handleListState(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	q := r.URL.Query()
	list := client.StateList{Values: []client.StateEntry{}, Usage: client.StateUsage{Keys: 1, Bytes: 36, QuotaBytes: 1 << 20}}
	all := []client.StateEntry{{Name: "log", ListElements: 3, ListBytes: 36}}
	for key, v := range h.mu.values {
		if name, ok := strings.CutPrefix(key, r.PathValue("tenant")+" "); ok {
			list.Usage.Keys++
			list.Usage.Bytes += int64(len(v.data))
			e := client.StateEntry{Name: name, Version: v.version, Size: int64(len(v.data))}
			if name == "model" {
				e.Published = []client.StateVersion{v.version}
			}
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b client.StateEntry) int { return strings.Compare(a.Name, b.Name) })
	for _, e := range all {
		if strings.HasPrefix(e.Name, q.Get("prefix")) && e.Name > q.Get("after") {
			if len(list.Values) == 2 {
				list.Next = list.Values[1].Name
				break
			}
			list.Values = append(list.Values, e)
		}
	}
	reply(w, http.StatusOK, list)
}

// handleLock gives token 17. It takes the lock of "fleeting" away at once, and has none of
// "taken".
func (h *fakeHost) handleLock(w http.ResponseWriter, r *http.Request) {
	if r.PathValue("key") == "taken" {
		replyProblem(w, client.Problem{Status: 423, Code: client.CodeLockTimeout, Detail: fmt.Sprintf("the lock of %q was not to be had in %s", "taken", r.URL.Query().Get("timeout"))})
		return
	}
	key := r.PathValue("tenant") + " " + r.PathValue("key")
	hold := func(locked bool) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.mu.locked[key] = locked
	}
	hold(true)
	defer hold(false)
	enc := json.NewEncoder(w)
	enc.Encode(client.LockEvent{Token: 17})
	w.(http.Flusher).Flush()
	if r.PathValue("key") == "fleeting" {
		enc.Encode(client.LockEvent{Lost: "the host is shutting down"})
		return
	}
	<-r.Context().Done()
}

// requests returns the requests so far, one a line.
func (h *fakeHost) requests() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.mu.queries, "\n") + "\n"
}

// await returns what comes out of c, or fails if nothing does for long.
func await(ctx context.Context, c <-chan string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	select {
	case s := <-c:
		return s, nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}
