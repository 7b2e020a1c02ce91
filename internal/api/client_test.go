package api_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/faasm-go/faasm/client"
	"github.com/faasm-go/faasm/internal/api"
	"github.com/faasm-go/faasm/internal/call"
)

// The tests of this file drive every route through the Go client, so that the two are
// tested against each other.

// wantProblem tells whether err is a problem of the code, and returns it.
func wantProblem(t testing.TB, what string, err error, code client.Code) *client.Problem {
	t.Helper()
	var p *client.Problem
	if !errors.As(err, &p) {
		t.Fatalf("%s: got error %v, want problem %s", what, err, code)
	}
	if p.Code != code {
		t.Errorf("%s: problem %s (%s), want %s", what, p.Code, p.Detail, code)
	}
	if !errors.Is(err, &client.Problem{Code: code}) {
		t.Errorf("%s: errors.Is does not find the code %s", what, code)
	}
	return p
}

func TestClient_problemsOfEveryRoute(t *testing.T) {
	s := serve(t, api.Options{InputBytesMax: 1 << 20, ModuleBytesMax: 2 << 20})
	c, ctx := s.client(t), t.Context()
	running := s.addCall(call.Record{State: call.Running}, nil).String()
	big := bytes.NewReader(make([]byte, 3<<20))
	for _, tc := range []struct {
		what string
		do   func() error
		code client.Code
	}{
		{"Invoke of a path", func() error { _, err := c.Invoke(ctx, "", "../functions", nil, client.InvokeOptions{}); return err }, client.CodeBadName},
		{"Invoke for a tenant that is a path", func() error { _, err := c.Invoke(ctx, "a/b?x#y%2f", "echo", nil, client.InvokeOptions{}); return err }, client.CodeBadName},
		{"Invoke with a negative timeout", func() error {
			_, err := c.Invoke(ctx, "", "echo", nil, client.InvokeOptions{Timeout: -1})
			return err
		}, client.CodeBadRequest},
		{"Invoke with too much", func() error { _, err := c.Invoke(ctx, "", "echo", big, client.InvokeOptions{}); return err }, client.CodeTooLarge},
		{"Invoke with too much, of unknown length", func() error {
			_, err := c.Invoke(ctx, "", "echo", struct{ io.Reader }{bytes.NewReader(make([]byte, 3<<20))}, client.InvokeOptions{})
			return err
		}, client.CodeTooLarge},
		{"Invoke of nobody", func() error { _, err := c.Invoke(ctx, "", "nobody", nil, client.InvokeOptions{}); return err }, client.CodeNoSuchFunction},
		{"Submit to nobody", func() error { _, err := c.Submit(ctx, "", "nobody", nil, client.InvokeOptions{}); return err }, client.CodeNoSuchFunction},
		{"Call of a bad id", func() error { _, err := c.Call(ctx, "x"); return err }, client.CodeBadRequest},
		{"Call", func() error { _, err := c.Call(ctx, someID); return err }, client.CodeNoSuchCall},
		{"Wait", func() error { _, err := c.Wait(ctx, someID); return err }, client.CodeNoSuchCall},
		{"Output", func() error { _, err := c.Output(ctx, someID); return err }, client.CodeNoSuchCall},
		{"Output too early", func() error { _, err := c.Output(ctx, running); return err }, client.CodeNotFinished},
		{"CallLogs", func() error { _, err := c.CallLogs(ctx, someID); return err }, client.CodeNoSuchCall},
		{"Cancel", func() error { _, err := c.Cancel(ctx, someID); return err }, client.CodeNoSuchCall},
		{"Calls", func() error { _, err := c.Calls(ctx, client.CallFilter{State: "dead"}); return err }, client.CodeBadRequest},
		{"Calls of a bad tenant", func() error { _, err := c.Calls(ctx, client.CallFilter{Tenant: "A"}); return err }, client.CodeBadName},
		{"Deploy of nothing", func() error { _, _, err := c.Deploy(ctx, "", "f", nil, client.DeployOptions{}); return err }, client.CodeInvalidModule},
		{"Deploy of too much", func() error { _, _, err := c.Deploy(ctx, "", "f", big, client.DeployOptions{}); return err }, client.CodeTooLarge},
		{"Deploy under a bad name", func() error {
			_, _, err := c.Deploy(ctx, "", "F", strings.NewReader("x"), client.DeployOptions{})
			return err
		}, client.CodeBadName},
		{"Function", func() error { _, err := c.Function(ctx, "", "nobody"); return err }, client.CodeNoSuchFunction},
		{"Functions", func() error { _, err := c.Functions(ctx, "A"); return err }, client.CodeBadName},
		{"Remove", func() error { return c.Remove(ctx, "", "nobody") }, client.CodeNoSuchFunction},
		{"Versions", func() error { _, err := c.Versions(ctx, "", "nobody"); return err }, client.CodeNoSuchFunction},
		{"Rollback of nobody", func() error { _, err := c.Rollback(ctx, "", "nobody", ""); return err }, client.CodeNoSuchFunction},
		{"Rollback to a path", func() error { _, err := c.Rollback(ctx, "", "f", "../../x"); return err }, client.CodeBadRequest},
		{"Warm of nobody", func() error { _, err := c.Warm(ctx, "", "nobody", 1); return err }, client.CodeNoSuchFunction},
		{"Warm of less than nothing", func() error { _, err := c.Warm(ctx, "", "f", -1); return err }, client.CodeBadRequest},
		{"Warm of too many", func() error { _, err := c.Warm(ctx, "", "f", 4097); return err }, client.CodeBadRequest},
		{"Collect of less than nothing", func() error { _, err := c.Collect(ctx, -1); return err }, client.CodeBadRequest},
		{"FunctionLogs", func() error { _, err := c.FunctionLogs(ctx, "", "nobody", client.LogOptions{}); return err }, client.CodeNoSuchFunction},
		{"FunctionLogs, following", func() error {
			_, err := c.FunctionLogs(ctx, "", "nobody", client.LogOptions{Follow: true})
			return err
		}, client.CodeNoSuchFunction},
		{"ProblemPage", func() error { _, err := c.ProblemPage(ctx, "nothing"); return err }, client.CodeNotFound},
	} {
		big.Seek(0, io.SeekStart)
		p := wantProblem(t, tc.what, tc.do(), tc.code)
		if p.Title == "" || p.Detail == "" || p.RequestID == "" || p.Usage != nil {
			t.Errorf("%s: %+v", tc.what, p)
		}
	}
}

func TestClient_deploy(t *testing.T) {
	s := serve(t, api.Options{})
	c, ctx := s.client(t), t.Context()
	module := bytes.Repeat([]byte("\x00asm"), 1<<20)
	s.initLog = "ready\n"
	for _, wasm := range []io.Reader{bytes.NewReader(module), struct{ io.Reader }{bytes.NewReader(module)}} {
		var steps []int64
		info, created, err := c.Deploy(ctx, "", "resize", wasm, client.DeployOptions{
			MemoryBytes: 64 << 20, Timeout: 90 * time.Second, Progress: func(n int64) { steps = append(steps, n) }})
		if err != nil {
			t.Fatal(err)
		}
		if want := len(s.uploads) == 1; created != want {
			t.Errorf("upload %d: created %t", len(s.uploads), created)
		}
		want := &client.FunctionInfo{Tenant: "default", Name: "resize", Version: "0123456789ab", MemoryBytes: 64 << 20, Timeout: client.Duration(90 * time.Second),
			WasmBytes: 4 << 20, Entry: "_start", Imports: 3, Uploaded: epoch, CompileMs: 1.5,
			Initialised: true, InitialiseMs: 20.5, SnapshotBytes: 32 << 20, StoredBytes: 4 << 20, StartUs: 4.25, InitLog: "ready\n"}
		if diff := cmp.Diff(want, info); diff != "" {
			t.Errorf("info (-want +got):\n%s", diff)
		}
		got := s.uploads[len(s.uploads)-1]
		if got.Tenant != "default" || got.Function != "resize" || !bytes.Equal(got.Wasm, module) || got.MemoryBytes != 64<<20 || got.Timeout != 90*time.Second {
			t.Errorf("the host got %s/%s, %d bytes, memory %d, timeout %s", got.Tenant, got.Function, len(got.Wasm), got.MemoryBytes, got.Timeout)
		}
		for i := 1; i < len(steps); i++ {
			if steps[i] <= steps[i-1] {
				t.Errorf("progress went from %d to %d", steps[i-1], steps[i])
			}
		}
		if len(steps) < 2 || steps[len(steps)-1] != 4<<20 {
			t.Errorf("progress %v does not end at the module's size", steps)
		}
	}
	if _, _, err := c.Deploy(ctx, "other", "plain", strings.NewReader("x"), client.DeployOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := s.uploads[2]; got.MemoryBytes != 0 || got.Timeout != 0 {
		t.Errorf("without options the host got memory %d, timeout %s", got.MemoryBytes, got.Timeout)
	}

	// What the host has against a module comes through whole.
	for _, err := range []*client.Problem{
		api.NewProblem(client.CodeInvalidModule, "code section, offset 0x12: bad opcode"),
		api.NewProblem(client.CodeUnknownImport, `env.nothing`),
		api.NewProblem(client.CodeLimitTooSmall, "needs 128 MiB"),
		api.InitialisationFailed(call.Failure{Message: "unreachable", Backtrace: []call.Frame{{FuncIndex: 3, Offset: 9}}}, "hello\n"),
	} {
		s.deployErr = err
		_, _, got := c.Deploy(ctx, "", "resize", strings.NewReader("x"), client.DeployOptions{})
		p := wantProblem(t, "Deploy", got, err.Code)
		if p.Status != 422 || p.Detail != err.Detail || p.Log != err.Log || cmp.Diff(p.Backtrace, err.Backtrace) != "" {
			t.Errorf("got %+v, want %+v", p, err)
		}
	}
}

func TestClient_sizesOfMemory(t *testing.T) {
	s := serve(t, api.Options{})
	for text, want := range map[string]uint64{"1": 1, "65536B": 65536, "1KiB": 1 << 10, "64MiB": 64 << 20, "4GiB": 4 << 30} {
		if r := s.do(t, "PUT", "/v1/functions/default/f?memory="+text, strings.NewReader("x")); r.StatusCode/100 != 2 {
			t.Errorf("memory=%s: %d %s", text, r.StatusCode, r.body)
			continue
		}
		if got := s.uploads[len(s.uploads)-1].MemoryBytes; got != want {
			t.Errorf("memory=%s: %d bytes, want %d", text, got, want)
		}
	}
}

func TestClient_functions(t *testing.T) {
	s := serve(t, api.Options{})
	c, ctx := s.client(t), t.Context()
	if r := s.do(t, "GET", "/v1/functions", nil); string(r.body) != `{"functions":[]}`+"\n" {
		t.Errorf("no functions: %s", r.body)
	}
	for _, name := range []string{"default/b", "default/a", "other/a"} {
		tenant, function, _ := strings.Cut(name, "/")
		if _, _, err := c.Deploy(ctx, tenant, function, strings.NewReader("x"), client.DeployOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	list := func(tenant string) string {
		infos, err := c.Functions(ctx, tenant)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, f := range infos {
			names = append(names, f.Tenant+"/"+f.Name)
		}
		return strings.Join(names, " ")
	}
	if got, want := list(""), "default/a default/b other/a"; got != want {
		t.Errorf("all: %s, want %s", got, want)
	}
	if got, want := list("other"), "other/a"; got != want {
		t.Errorf("of other: %s, want %s", got, want)
	}
	if info, err := c.Function(ctx, "other", "a"); err != nil || info.Name != "a" || info.Tenant != "other" {
		t.Errorf("Function: %+v, %v", info, err)
	}
	if err := c.Remove(ctx, "", "a"); err != nil {
		t.Fatal(err)
	}
	if got, want := list(""), "default/b other/a"; got != want {
		t.Errorf("after Remove: %s, want %s", got, want)
	}
}

// The reply to a deploy carries the end of what initialisation printed, as text.
func TestPutFunction_boundsTheLog(t *testing.T) {
	s := serve(t, api.Options{})
	s.initLog = strings.Repeat("loading\n", 100_000) + "\xff\n"
	info, _, err := s.client(t).Deploy(t.Context(), "", "f", strings.NewReader("x"), client.DeployOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if log := info.InitLog; len(log) > 64<<10 || len(log) < 60<<10 || !strings.HasPrefix(log, "loading\n") || !strings.HasSuffix(log, "loading\n\uFFFD\n") {
		t.Errorf("log of %d bytes: %.20q ... %q", len(log), log, log[max(0, len(log)-20):])
	}
}

func TestClient_versions(t *testing.T) {
	s := serve(t, api.Options{})
	c, ctx := s.client(t), t.Context()
	first, second := client.FunctionInfo{Tenant: "default", Name: "f", Version: "00000000000a"}, client.FunctionInfo{Tenant: "default", Name: "f", Version: "00000000000b"}
	key := [2]string{"default", "f"}
	s.versions[key], s.functions[key] = []client.FunctionInfo{first, second}, second

	list, err := c.Versions(ctx, "", "f")
	if err != nil {
		t.Fatal(err)
	}
	want := &client.VersionList{Serving: "00000000000b", Versions: []client.FunctionInfo{second, first}}
	if diff := cmp.Diff(want, list); diff != "" {
		t.Errorf("versions (-want +got):\n%s", diff)
	}

	_, err = c.Rollback(ctx, "", "f", strings.Repeat("0", 64))
	if p := wantProblem(t, "Rollback", err, client.CodeNoSuchVersion); p.Status != 404 || p.Tenant != "default" || p.Function != "f" || !strings.Contains(p.Detail, strings.Repeat("0", 64)) {
		t.Errorf("problem %+v", p)
	}
	// A version in a body, where it is not looked for, must not roll back to another.
	for _, body := range []io.Reader{strings.NewReader(`{"version":"00000000000b"}`), struct{ io.Reader }{strings.NewReader("{}")}} {
		if p := problem(t, s.do(t, "POST", "/v1/functions/default/f/rollback", body)); p.Code != client.CodeBadRequest || !strings.Contains(p.Detail, "?version=") {
			t.Errorf("a body: %s (%s)", p.Code, p.Detail)
		}
	}
	for _, step := range []struct{ to, want string }{{"", "00000000000a"}, {"00000000000b", "00000000000b"}, {"00000000000a", "00000000000a"}} {
		got, err := c.Rollback(ctx, "", "f", step.to)
		if err != nil || got.Version != step.want {
			t.Fatalf("Rollback to %q: %+v, %v; want %s", step.to, got, err, step.want)
		}
		if serves, err := c.Function(ctx, "", "f"); err != nil || serves.Version != step.want {
			t.Errorf("after Rollback to %q: %+v, %v; want %s", step.to, serves, err, step.want)
		}
	}
	s.versions[key] = []client.FunctionInfo{first}
	_, err = c.Rollback(ctx, "", "f", "")
	if p := wantProblem(t, "Rollback", err, client.CodeNoPreviousVersion); p.Status != 409 || p.Tenant != "default" || p.Function != "f" {
		t.Errorf("problem %+v", p)
	}
}

func TestClient_warm(t *testing.T) {
	s := serve(t, api.Options{})
	c, ctx := s.client(t), t.Context()
	key := [2]string{"default", "f"}
	s.functions[key] = client.FunctionInfo{Name: "f"}
	for _, count := range []int{4096, 2, 0} {
		got, err := c.Warm(ctx, "", "f", count)
		if err != nil {
			t.Fatal(err)
		}
		want := &client.WarmInfo{Count: count, Ready: min(count, 3), Resident: true}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("count %d (-want +got):\n%s", count, diff)
		}
		if s.warm[key] != count {
			t.Errorf("count %d: the host got %d", count, s.warm[key])
		}
	}
}

func TestClient_collect(t *testing.T) {
	s := serve(t, api.Options{})
	for _, keep := range []int{0, 1, 10_000} {
		got, err := s.client(t).Collect(t.Context(), keep)
		if err != nil {
			t.Fatal(err)
		}
		want := &client.CollectInfo{Versions: 1, Modules: 2, Artefacts: 3, Protos: 4, Bytes: 5 << 30}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("keep %d (-want +got):\n%s", keep, diff)
		}
	}
	if diff := cmp.Diff([]int{0, 1, 10_000}, s.keeps); diff != "" {
		t.Errorf("what the host was to keep (-want +got):\n%s", diff)
	}
}

func TestClient_invoke(t *testing.T) {
	s := serve(t, api.Options{})
	c, ctx := s.client(t), t.Context()
	got, err := c.Invoke(ctx, "", "echo", strings.NewReader("\x00hello"), client.InvokeOptions{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	want := &client.Reply{CallID: got.CallID, Output: []byte("\x00hello"), ContentType: "application/octet-stream",
		Usage: client.Usage{QueuedUs: 1, StartUs: 2.913, WallUs: 1500, CPUUs: 2, MemoryBytes: 1 << 17}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reply (-want +got):\n%s", diff)
	}
	if _, err := call.ParseID(got.CallID); err != nil {
		t.Error(err)
	}
	large := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	if got, err := c.Invoke(ctx, "", "echo", bytes.NewReader(large), client.InvokeOptions{}); err != nil || !bytes.Equal(got.Output, large) {
		t.Errorf("4 MiB: %v", err)
	}

	s.run["fails"] = func(context.Context, api.Invocation) (*call.Result, error) {
		res := returned(7, []byte("half"))
		return res, nil
	}
	s.lines = []call.Line{{Stream: call.Stderr, Text: "no such image"}}
	_, err = c.Invoke(ctx, "", "fails", nil, client.InvokeOptions{})
	p := wantProblem(t, "Invoke", err, client.CodeReturnCode)
	if p.ReturnCode == nil || *p.ReturnCode != 7 || p.Log != "no such image\n" || p.Outcome != "returned" || p.Usage == nil || p.Usage.WallUs != 1500 {
		t.Errorf("problem %+v", p)
	}
	if out, err := c.Output(ctx, p.CallID); err != nil || string(out) != "half" {
		t.Errorf("output of the failed call: %q, %v", out, err)
	}
	if got, want := err.Error(), "return-code: fails returned 7"; got != want {
		t.Errorf("error %q, want %q", got, want)
	}

	// Each ends on its own problem, with what it says about trying again.
	s.run["busy"] = func(context.Context, api.Invocation) (*call.Result, error) {
		return nil, api.Overloaded("the queue is full", 3*time.Second)
	}
	_, err = c.Invoke(ctx, "", "busy", nil, client.InvokeOptions{})
	if p := wantProblem(t, "Invoke", err, client.CodeOverloaded); p.RetryAfter != 3*time.Second || p.CallID != "" || p.Usage != nil {
		t.Errorf("problem %+v", p)
	}
}

func TestClient_invokeCancelledByContext(t *testing.T) {
	s := serve(t, api.Options{})
	running, cancelled := make(chan struct{}), make(chan struct{})
	s.run["waits"] = func(ctx context.Context, _ api.Invocation) (*call.Result, error) {
		close(running)
		<-ctx.Done()
		close(cancelled)
		return &call.Result{Outcome: call.Cancelled}, nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-running
		cancel()
	}()
	if _, err := s.client(t).Invoke(ctx, "", "waits", nil, client.InvokeOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	<-cancelled
}

func TestClient_asyncCall(t *testing.T) {
	s := serve(t, api.Options{})
	c, ctx := s.client(t), t.Context()
	info, err := c.Submit(ctx, "", "echo", strings.NewReader("x"), client.InvokeOptions{Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	want := &client.CallInfo{ID: info.ID, Tenant: "default", Function: "echo", State: client.StateQueued, Async: true, Attempt: 1, Accepted: epoch}
	if diff := cmp.Diff(want, info); diff != "" {
		t.Errorf("submitted (-want +got):\n%s", diff)
	}
	id, err := call.ParseID(info.ID)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		<-s.following // Wait waits
		s.finish(id, *returned(3, []byte("out")))
	}()
	done, err := c.Wait(ctx, info.ID)
	if err != nil {
		t.Fatal(err)
	}
	code, size := int32(3), int64(3)
	want.State, want.Outcome, want.ReturnCode, want.OutputBytes = client.StateDone, client.OutcomeReturned, &code, &size
	want.Version, want.Started, want.Finished = "0123456789ab", epoch, epoch.Add(time.Second)
	want.Usage = &client.Usage{QueuedUs: 1, StartUs: 2.913, WallUs: 1500, CPUUs: 2, MemoryBytes: 1 << 17, HostCalls: 2}
	if diff := cmp.Diff(want, done); diff != "" {
		t.Errorf("done (-want +got):\n%s", diff)
	}
	// A finished call stays as it is.
	for what, do := range map[string]func(context.Context, string) (*client.CallInfo, error){"Call": c.Call, "Wait": c.Wait, "Cancel": c.Cancel} {
		got, err := do(ctx, info.ID)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s of a finished call (-want +got):\n%s", what, diff)
		}
	}
	if out, err := c.Output(ctx, info.ID); err != nil || string(out) != "out" {
		t.Errorf("Output: %q, %v", out, err)
	}
}

func TestClient_cancel(t *testing.T) {
	s := serve(t, api.Options{})
	parent := call.NewID()
	id := s.addCall(call.Record{State: call.Running, Started: epoch, Request: call.Request{Parent: parent, Tenant: "t", Function: "f", Attempt: 2, Accepted: epoch}}, nil)
	got, err := s.client(t).Cancel(t.Context(), id.String())
	if err != nil {
		t.Fatal(err)
	}
	zero := int64(0)
	want := &client.CallInfo{ID: id.String(), Tenant: "t", Function: "f", State: client.StateDone, Outcome: client.OutcomeCancelled, Failure: &client.Failure{Message: "cancelled"},
		Parent: parent.String(), Attempt: 2, Accepted: epoch, Finished: epoch, OutputBytes: &zero}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestClient_waitEndsWithItsContext(t *testing.T) {
	s := serve(t, api.Options{})
	id := s.addCall(call.Record{State: call.Running}, nil).String()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-s.following
		cancel()
	}()
	if info, err := s.client(t).Wait(ctx, id); !errors.Is(err, context.Canceled) {
		t.Errorf("got %+v, %v", info, err)
	}
}

func TestGetCall_waitTellsTheStateThereIs(t *testing.T) {
	s := serve(t, api.Options{})
	id := s.addCall(call.Record{State: call.Running}, nil).String()
	for _, wait := range []string{"0s", "1ms"} {
		if r := s.do(t, "GET", "/v1/calls/"+id+"?wait="+wait, nil); r.StatusCode != 200 || !strings.Contains(string(r.body), `"state":"running"`) {
			t.Errorf("wait=%s: %d %s", wait, r.StatusCode, r.body)
		}
	}
}

func TestClient_calls(t *testing.T) {
	s := serve(t, api.Options{})
	c, ctx := s.client(t), t.Context()
	if r := s.do(t, "GET", "/v1/calls", nil); string(r.body) != `{"calls":[]}`+"\n" {
		t.Errorf("no calls: %s", r.body)
	}
	older := s.addCall(call.Record{State: call.Queued, Request: call.Request{ID: call.ID{1}}}, nil)
	newer := s.addCall(call.Record{State: call.Running, Request: call.Request{ID: call.ID{2}}}, nil)
	s.filters = nil
	got, err := c.Calls(ctx, client.CallFilter{Tenant: "default", Function: "echo", State: client.StateRunning, Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].ID != newer.String() || got[1].ID != older.String() {
		t.Errorf("calls %+v", got)
	}
	if _, err := c.Calls(ctx, client.CallFilter{}); err != nil {
		t.Fatal(err)
	}
	want := []call.Filter{{Tenant: "default", Function: "echo", State: call.Running, Limit: 1000}, {Limit: call.ListLimitDefault}}
	if diff := cmp.Diff(want, s.filters); diff != "" {
		t.Errorf("filters (-want +got):\n%s", diff)
	}
}

func TestClient_logs(t *testing.T) {
	s := serve(t, api.Options{})
	c, ctx := s.client(t), t.Context()
	s.functions[[2]string{"default", "echo"}] = client.FunctionInfo{}
	id, err := call.ParseID(someID)
	if err != nil {
		t.Fatal(err)
	}
	s.lines = someLines(id)
	s.addCall(call.Record{Request: call.Request{ID: id}, State: call.Running}, nil, s.lines...)
	lines := []string{
		"2026-01-02T03:04:05.678901Z 45566778 stdout one\n",
		"2026-01-02T03:04:05.678902Z 45566778 stderr two\\nforged\\r line \uFFFD\n",
		"2026-01-02T03:04:06.678901Z 45566778 system dropped 5 bytes\n",
	}
	if got, err := c.CallLogs(ctx, someID); err != nil || string(got) != strings.Join(lines, "") {
		t.Errorf("CallLogs: %q, %v", got, err)
	}
	for tail, want := range map[int]string{0: strings.Join(lines, ""), 1: lines[2], -1: "", 10_000: strings.Join(lines, "")} {
		r, err := c.FunctionLogs(ctx, "", "echo", client.LogOptions{Tail: tail})
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		r.Close()
		if err != nil || string(got) != want {
			t.Errorf("tail %d: %q, %v; want %q", tail, got, err, want)
		}
	}
	if r := s.do(t, "GET", "/v1/functions/default/echo/logs?follow=false", nil); r.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("type %q", r.Header.Get("Content-Type"))
	}
}

func TestClient_followLogs(t *testing.T) {
	s := serve(t, api.Options{})
	c := s.client(t)
	s.functions[[2]string{"default", "echo"}] = client.FunctionInfo{}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := c.FunctionLogs(ctx, "", "echo", client.LogOptions{Follow: true}) // returns though nothing has been printed
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	<-s.following
	lines := bufio.NewScanner(r)
	for _, text := range []string{"first", "second"} {
		s.more <- call.Line{Time: epoch, Stream: call.Stdout, Text: text}
		// Each line arrives before the next is printed.
		if !lines.Scan() || !strings.HasSuffix(lines.Text(), " 00000000 stdout "+text) {
			t.Fatalf("got %q, %v; want %s", lines.Text(), lines.Err(), text)
		}
	}
	cancel()
	<-s.unfollows
	if lines.Scan() || !errors.Is(lines.Err(), context.Canceled) {
		t.Errorf("after cancel: %q, %v", lines.Text(), lines.Err())
	}
}

func TestFollow_boundedInNumber(t *testing.T) {
	s := serve(t, api.Options{})
	s.functions[[2]string{"default", "echo"}] = client.FunctionInfo{}
	s.unfollows = make(chan struct{}, 1000)
	c := s.client(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	followed := 0
	for ; followed < 1000; followed++ {
		r, err := c.FunctionLogs(ctx, "", "echo", client.LogOptions{Follow: true})
		if err != nil {
			if p := wantProblem(t, "FunctionLogs", err, client.CodeOverloaded); p.RetryAfter == 0 {
				t.Error("no Retry-After")
			}
			break
		}
		defer r.Close()
		<-s.following
	}
	if followed == 1000 {
		t.Fatal("1000 logs are followed at once")
	}
	cancel()
	for range followed {
		<-s.unfollows
	}
	again, err := c.FunctionLogs(t.Context(), "", "echo", client.LogOptions{Follow: true})
	for errors.Is(err, &client.Problem{Code: client.CodeOverloaded}) {
		again, err = c.FunctionLogs(t.Context(), "", "echo", client.LogOptions{Follow: true}) // the last ones are about to end
	}
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func TestClient_hostRoutes(t *testing.T) {
	s := serve(t, api.Options{})
	c, ctx := s.client(t), t.Context()
	if got, err := c.Host(ctx); err != nil || cmp.Diff(&s.info, got) != "" {
		t.Errorf("Host: %+v, %v", got, err)
	}
	if err := c.Healthy(ctx); err != nil {
		t.Errorf("Healthy: %v", err)
	}
	if err := c.Ready(ctx); err != nil {
		t.Errorf("Ready: %v", err)
	}
	s.ready = api.Draining(time.Second)
	wantProblem(t, "Ready", c.Ready(ctx), client.CodeDraining)
	if got, err := c.OpenAPI(ctx); err != nil || !bytes.Contains(got, []byte(`"openapi": "3.1`)) {
		t.Errorf("OpenAPI: %.100q, %v", got, err)
	}
	if got, err := c.Metrics(ctx); err != nil || !bytes.Contains(got, []byte("faasm_http_requests_total")) {
		t.Errorf("Metrics: %.100q, %v", got, err)
	}
	if got, err := c.ProblemPage(ctx, client.CodeTrap); err != nil || !bytes.Contains(got, []byte("What to do")) {
		t.Errorf("ProblemPage: %.100q, %v", got, err)
	}
	if r := s.do(t, "GET", "/openapi.json", nil); r.Header.Get("Content-Type") != "application/json" || r.StatusCode != http.StatusOK {
		t.Errorf("openapi.json: %d %s", r.StatusCode, r.Header.Get("Content-Type"))
	}
}
