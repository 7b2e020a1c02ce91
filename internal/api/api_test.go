package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/faasm-go/faasm/client"
	"github.com/faasm-go/faasm/internal/api"
	"github.com/faasm-go/faasm/internal/call"
)

// problem reads a reply that must be a problem document in every respect.
func problem(t testing.TB, r reply) client.Problem {
	t.Helper()
	var p client.Problem
	if got, want := r.Header.Get("Content-Type"), "application/problem+json"; got != want {
		t.Fatalf("status %d, Content-Type %q, want %q; body %.200q", r.StatusCode, got, want, r.body)
	}
	dec := json.NewDecoder(bytes.NewReader(r.body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		t.Fatalf("decode %q: %v", r.body, err)
	}
	if p.Status != r.StatusCode {
		t.Errorf("problem has status %d in a reply of status %d", p.Status, r.StatusCode)
	}
	if got, want := p.Type, "/problems/"+string(p.Code); got != want {
		t.Errorf("type %q, want %q", got, want)
	}
	if p.RequestID == "" || p.RequestID != r.Header.Get("X-Request-Id") {
		t.Errorf("requestId %q, header X-Request-Id %q", p.RequestID, r.Header.Get("X-Request-Id"))
	}
	if got := r.Header.Get("X-Content-Type-Options"); got != "nosniff" {
		t.Errorf("X-Content-Type-Options %q on a problem", got)
	}
	return p
}

const someID = "0190a0b0c0d0e0f00112233445566778"

func TestRequests_refused(t *testing.T) {
	s := serve(t, api.Options{})
	long := strings.Repeat("a", 64)
	for _, tc := range []struct {
		method, target string
		code           client.Code
	}{
		// Paths that try to be other paths.
		{"POST", "/f/default/..", client.CodeNotFound},
		{"POST", "/f/default/.", client.CodeNotFound},
		{"POST", "/f/../f/default/echo", client.CodeNotFound},
		{"POST", "/f//echo", client.CodeNotFound},
		{"POST", "//f/default/echo", client.CodeNotFound},
		{"POST", "/f/default//echo", client.CodeNotFound},
		{"POST", "/f/default/echo/", client.CodeNotFound},
		{"POST", "/f/default/", client.CodeNotFound},
		{"POST", "/f/default", client.CodeNotFound},
		{"POST", "/f/default/echo/more", client.CodeNotFound},
		{"POST", "/f/default/%2e%2e", client.CodeBadName},
		{"POST", "/f/%2e%2e/echo", client.CodeBadName},
		{"POST", "/f/default/a%2fecho", client.CodeBadName},
		{"POST", "/f/default%2Fecho/echo", client.CodeBadName},
		{"POST", "/f/default/echo%00", client.CodeBadName},
		{"POST", "/f/default/%ff%fe", client.CodeBadName},
		{"POST", "/f/default/echo%0d%0aX-Evil:1", client.CodeBadName},
		{"POST", "/f/default/%20", client.CodeBadName},
		{"DELETE", "/v1/functions/default/%2e%2e%2f%2e%2e", client.CodeBadName},
		{"GET", "/v1/calls/../calls", client.CodeNotFound},
		{"GET", "/", client.CodeNotFound},
		{"GET", "/%2e%2e/etc/passwd", client.CodeNotFound},
		{"GET", "/v1", client.CodeNotFound},
		{"GET", "/v1/calls/", client.CodeNotFound},
		{"GET", "/V1/calls", client.CodeNotFound},
		{"GET", "/openapi.json/", client.CodeNotFound},
		{"GET", "/" + strings.Repeat("x", 4000), client.CodeNotFound},

		// Names.
		{"POST", "/f/default/Echo", client.CodeBadName},
		{"POST", "/f/default/-echo", client.CodeBadName},
		{"POST", "/f/default/echo.", client.CodeBadName},
		{"POST", "/f/default/" + long, client.CodeBadName},
		{"POST", "/f/" + long + "/echo", client.CodeBadName},
		{"POST", "/f/default/" + strings.Repeat("a", 10_000), client.CodeBadName},
		{"POST", "/f/default/caf%C3%A9", client.CodeBadName},
		{"PUT", "/v1/functions/default/A", client.CodeBadName},
		{"GET", "/v1/functions/default/A", client.CodeBadName},
		{"GET", "/v1/functions/default/A/logs", client.CodeBadName},
		{"GET", "/v1/functions/default/A/versions", client.CodeBadName},
		{"POST", "/v1/functions/A/echo/rollback", client.CodeBadName},
		{"POST", "/v1/functions/default/%2e%2e/warm?count=1", client.CodeBadName},
		{"GET", "/v1/functions?tenant=A", client.CodeBadName},
		{"GET", "/v1/functions?tenant=", client.CodeBadName},
		{"GET", "/v1/calls?tenant=..", client.CodeBadName},
		{"GET", "/v1/calls?function=a/b", client.CodeBadName},

		// Ids.
		{"GET", "/v1/calls/x", client.CodeBadRequest},
		{"GET", "/v1/calls/" + someID[1:], client.CodeBadRequest},
		{"GET", "/v1/calls/" + someID + "0", client.CodeBadRequest},
		{"GET", "/v1/calls/" + someID[1:] + "g", client.CodeBadRequest},
		{"GET", "/v1/calls/%2e%2e", client.CodeBadRequest},
		{"GET", "/v1/calls/" + strings.Repeat("0", 5000), client.CodeBadRequest},
		{"GET", "/v1/calls/x/output", client.CodeBadRequest},
		{"GET", "/v1/calls/x/logs", client.CodeBadRequest},
		{"DELETE", "/v1/calls/x", client.CodeBadRequest},

		// Queries.
		{"GET", "/v1/calls/" + someID + "?wait=", client.CodeBadRequest},
		{"GET", "/v1/calls/" + someID + "?wait=-1s", client.CodeBadRequest},
		{"GET", "/v1/calls/" + someID + "?wait=30", client.CodeBadRequest},
		{"GET", "/v1/calls/" + someID + "?wait=soon", client.CodeBadRequest},
		{"GET", "/v1/calls/" + someID + "?wait=9000h", client.CodeBadRequest},
		{"GET", "/v1/calls/" + someID + "?wait=99999999999999999999h", client.CodeBadRequest},
		{"GET", "/v1/calls/" + someID + "?wait=1s&wait=2s", client.CodeBadRequest},
		{"GET", "/v1/calls/" + someID + "?Wait=1s", client.CodeBadRequest},
		{"GET", "/v1/calls/" + someID + "?wait=%zz", client.CodeBadRequest},
		{"GET", "/v1/calls/" + someID + "?wait=1s;x", client.CodeBadRequest},
		{"GET", "/v1/calls/" + someID + "/output?x", client.CodeBadRequest},
		{"GET", "/v1/calls/" + someID + "/logs?x", client.CodeBadRequest},
		{"DELETE", "/v1/calls/" + someID + "?x", client.CodeBadRequest},
		{"GET", "/v1/calls?limit=0", client.CodeBadRequest},
		{"GET", "/v1/calls?limit=-1", client.CodeBadRequest},
		{"GET", "/v1/calls?limit=1001", client.CodeBadRequest},
		{"GET", "/v1/calls?limit=99999999999999999999", client.CodeBadRequest},
		{"GET", "/v1/calls?limit=ten", client.CodeBadRequest},
		{"GET", "/v1/calls?state=dead", client.CodeBadRequest},
		{"GET", "/v1/calls?state=", client.CodeBadRequest},
		{"GET", "/v1/calls?tennant=default", client.CodeBadRequest},
		{"POST", "/f/default/echo?timeout=0s", client.CodeBadRequest},
		{"POST", "/f/default/echo?timeout=-5s", client.CodeBadRequest},
		{"POST", "/f/default/echo?timeout=5", client.CodeBadRequest},
		{"POST", "/f/default/echo?timeout=1ns", client.CodeBadRequest},
		{"POST", "/f/default/echo?timeout=1e9h", client.CodeBadRequest},
		{"POST", "/f/default/echo?timeout=NaN", client.CodeBadRequest},
		{"POST", "/f/default/echo?timout=5s", client.CodeBadRequest},
		{"PUT", "/v1/functions/default/echo?memory=0", client.CodeBadRequest},
		{"PUT", "/v1/functions/default/echo?memory=-1", client.CodeBadRequest},
		{"PUT", "/v1/functions/default/echo?memory=64MB", client.CodeBadRequest},
		{"PUT", "/v1/functions/default/echo?memory=64%20MiB", client.CodeBadRequest},
		{"PUT", "/v1/functions/default/echo?memory=MiB", client.CodeBadRequest},
		{"PUT", "/v1/functions/default/echo?memory=5GiB", client.CodeBadRequest},
		{"PUT", "/v1/functions/default/echo?memory=18446744073709551615GiB", client.CodeBadRequest},
		{"PUT", "/v1/functions/default/echo?memory=17179869185GiB", client.CodeBadRequest}, // wraps to 1 GiB
		{"PUT", "/v1/functions/default/echo?timeout=0", client.CodeBadRequest},
		{"PUT", "/v1/functions/default/echo?timeout=25h", client.CodeBadRequest},
		{"PUT", "/v1/functions/default/echo?tenant=x", client.CodeBadRequest},
		{"GET", "/v1/functions/default/echo?x=1", client.CodeBadRequest},
		{"DELETE", "/v1/functions/default/echo?x=1", client.CodeBadRequest},
		{"GET", "/v1/functions?x=1", client.CodeBadRequest},
		{"GET", "/v1/host?x=1", client.CodeBadRequest},
		{"GET", "/v1/functions/default/echo/logs?tail=-1", client.CodeBadRequest},
		{"GET", "/v1/functions/default/echo/logs?tail=10001", client.CodeBadRequest},
		{"GET", "/v1/functions/default/echo/logs?tail=", client.CodeBadRequest},
		{"GET", "/v1/functions/default/echo/logs?follow=yes", client.CodeBadRequest},

		{"GET", "/v1/functions/default/echo/versions?x=1", client.CodeBadRequest},
		{"POST", "/v1/functions/default/echo/rollback?version=", client.CodeBadRequest},
		{"POST", "/v1/functions/default/echo/rollback?version=..%2f..%2fetc", client.CodeBadRequest},
		{"POST", "/v1/functions/default/echo/rollback?version=0123456789a", client.CodeBadRequest},
		{"POST", "/v1/functions/default/echo/rollback?version=0123456789AB", client.CodeBadRequest},
		{"POST", "/v1/functions/default/echo/rollback?version=0123456789ag", client.CodeBadRequest},
		{"POST", "/v1/functions/default/echo/rollback?version=" + long + "a", client.CodeBadRequest},
		{"POST", "/v1/functions/default/echo/rollback?version=0123456789ab&version=0123456789ab", client.CodeBadRequest},
		{"POST", "/v1/functions/default/echo/rollback?to=0123456789ab", client.CodeBadRequest},
		{"POST", "/v1/functions/default/echo/warm", client.CodeBadRequest},
		{"POST", "/v1/functions/default/echo/warm?count=", client.CodeBadRequest},
		{"POST", "/v1/functions/default/echo/warm?count=-1", client.CodeBadRequest},
		{"POST", "/v1/functions/default/echo/warm?count=4097", client.CodeBadRequest},
		{"POST", "/v1/functions/default/echo/warm?count=18446744073709551616", client.CodeBadRequest},
		{"POST", "/v1/functions/default/echo/warm?count=1.5", client.CodeBadRequest},
		{"POST", "/v1/functions/default/echo/warm?count=1&x=1", client.CodeBadRequest},
		{"POST", "/v1/collect?keep=0", client.CodeBadRequest},
		{"POST", "/v1/collect?keep=-1", client.CodeBadRequest},
		{"POST", "/v1/collect?keep=10001", client.CodeBadRequest},
		{"POST", "/v1/collect?keep=", client.CodeBadRequest},
		{"POST", "/v1/collect?keep=all", client.CodeBadRequest},
		{"POST", "/v1/collect?tenant=default", client.CodeBadRequest},

		// Methods.
		{"GET", "/v1/functions/default/echo/rollback", client.CodeMethodNotAllowed},
		{"GET", "/v1/functions/default/echo/warm?count=1", client.CodeMethodNotAllowed},
		{"GET", "/v1/collect", client.CodeMethodNotAllowed},
		{"POST", "/v1/functions/default/echo/versions", client.CodeMethodNotAllowed},
		{"GET", "/f/default/echo", client.CodeMethodNotAllowed},
		{"HEAD", "/f/default/echo", client.CodeMethodNotAllowed},
		{"POST", "/v1/functions/default/echo", client.CodeMethodNotAllowed},
		{"PATCH", "/v1/calls/" + someID, client.CodeMethodNotAllowed},
		{"PUT", "/healthz", client.CodeMethodNotAllowed},
		{"BREW", "/v1/host", client.CodeMethodNotAllowed},
		{"post", "/f/default/echo", client.CodeMethodNotAllowed},

		// What is not there.
		{"GET", "/v1/calls/" + someID, client.CodeNoSuchCall},
		{"GET", "/v1/calls/" + someID + "?wait=1m", client.CodeNoSuchCall},
		{"GET", "/v1/calls/" + someID + "/output", client.CodeNoSuchCall},
		{"GET", "/v1/calls/" + someID + "/logs", client.CodeNoSuchCall},
		{"DELETE", "/v1/calls/" + someID, client.CodeNoSuchCall},
		{"POST", "/f/default/nobody", client.CodeNoSuchFunction},
		{"GET", "/v1/functions/default/nobody", client.CodeNoSuchFunction},
		{"DELETE", "/v1/functions/default/nobody", client.CodeNoSuchFunction},
		{"GET", "/v1/functions/default/nobody/logs", client.CodeNoSuchFunction},
		{"GET", "/v1/functions/default/nobody/logs?follow=true", client.CodeNoSuchFunction},
		{"GET", "/v1/functions/default/nobody/versions", client.CodeNoSuchFunction},
		{"POST", "/v1/functions/default/nobody/rollback", client.CodeNoSuchFunction},
		{"POST", "/v1/functions/default/nobody/rollback?version=" + long, client.CodeNoSuchFunction},
		{"POST", "/v1/functions/default/nobody/warm?count=0", client.CodeNoSuchFunction},
		{"GET", "/problems/nothing", client.CodeNotFound},
		{"PUT", "/v1/functions/default/echo", client.CodeInvalidModule}, // no body
	} {
		r := s.do(t, tc.method, tc.target, nil)
		if tc.method == "HEAD" {
			if len(r.body) != 0 || r.StatusCode != api.NewProblem(tc.code, "").Status {
				t.Errorf("HEAD %.100s: status %d, body %q", tc.target, r.StatusCode, r.body)
			}
			continue
		}
		p := problem(t, r)
		if p.Code != tc.code {
			t.Errorf("%s %.100s: code %s (%s), want %s", tc.method, tc.target, p.Code, p.Detail, tc.code)
		}
		if p.Detail == "" || len(p.Detail) > 400 {
			t.Errorf("%s %.100s: detail has %d bytes: %.500q", tc.method, tc.target, len(p.Detail), p.Detail)
		}
		if allow := r.Header.Get("Allow"); (allow != "") != (tc.code == client.CodeMethodNotAllowed) {
			t.Errorf("%s %.100s: Allow %q", tc.method, tc.target, allow)
		}
	}
	if got := s.log.String(); got != "" {
		t.Errorf("clients' mistakes were logged: %s", got)
	}
	if len(s.uploads) != 0 || len(s.calls) != 0 || len(s.filters) != 0 || len(s.warm) != 0 || len(s.keeps) != 0 {
		t.Errorf("a refused request reached the host: %d uploads, %d calls, %d lists, %d warmed, %d collections",
			len(s.uploads), len(s.calls), len(s.filters), len(s.warm), len(s.keeps))
	}
}

func TestOptions_tellsWhatIsAllowed(t *testing.T) {
	s := serve(t, api.Options{})
	for _, tc := range []struct{ target, allow string }{
		{"/f/default/echo", "POST, OPTIONS"},
		{"/v1/calls/" + someID, "GET, HEAD, DELETE, OPTIONS"},
		{"/v1/functions/default/echo", "PUT, GET, HEAD, DELETE, OPTIONS"},
		{"/healthz", "GET, HEAD, OPTIONS"},
	} {
		r := s.do(t, "OPTIONS", tc.target, nil)
		if got := r.Header.Get("Allow"); r.StatusCode != 204 || got != tc.allow || len(r.body) != 0 {
			t.Errorf("OPTIONS %s: status %d, Allow %q, body %q; want 204, %q", tc.target, r.StatusCode, got, r.body, tc.allow)
		}
	}
	if got := problem(t, s.do(t, "OPTIONS", "/nowhere", nil)).Code; got != client.CodeNotFound {
		t.Errorf("OPTIONS /nowhere: %s", got)
	}
}

func TestHead_isGetWithoutBody(t *testing.T) {
	s := serve(t, api.Options{})
	s.functions[[2]string{"default", "echo"}] = client.FunctionInfo{Name: "echo"}
	s.lines = someLines(call.NewID())
	id := s.addCall(call.Record{State: call.Done}, []byte("output"), s.lines...).String()
	for _, target := range []string{"/v1/calls", "/v1/calls/" + id, "/v1/calls/" + id + "/output", "/v1/calls/" + id + "/logs", "/v1/functions",
		"/v1/functions/default/echo", "/v1/functions/default/echo/logs", "/v1/functions/default/echo/versions", "/v1/host", "/problems/trap", "/openapi.json", "/healthz", "/readyz"} {
		head, get := s.do(t, "HEAD", target, nil), s.do(t, "GET", target, nil)
		if len(head.body) != 0 {
			t.Errorf("HEAD %s has a body: %q", target, head.body)
		}
		if diff := cmp.Diff(get.Header, head.Header, cmpopts.IgnoreMapEntries(func(k string, _ []string) bool { return k == "Date" })); diff != "" {
			t.Errorf("HEAD %s: headers differ from GET's (-get +head):\n%s", target, diff)
		}
	}
	// A followed log has no end; its head has.
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(conn, "HEAD /v1/functions/default/echo/logs?follow=true HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	if all, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(all), "HTTP/1.1 200") {
		t.Errorf("HEAD of a followed log: %q, %v", all, err)
	}
}

func TestRequestID(t *testing.T) {
	s := serve(t, api.Options{})
	for _, tc := range []struct {
		given string
		kept  bool
	}{
		{"", false},
		{strings.Repeat("x", 129), false},
		{"two words", false},
		{"quote\"", false},
		{"caf\u00e9", false},
		{strings.Repeat("x", 128), true},
		{"4bf92f35-77b3", true},
	} {
		for _, target := range []string{"/f/default/echo", "/f/default/nobody"} {
			r := s.do(t, "POST", target, nil, "X-Request-Id", tc.given)
			if got := r.Header.Get("X-Request-Id"); (got == tc.given && got != "") != tc.kept {
				t.Errorf("POST %s: gave X-Request-Id %q, got %q back", target, tc.given, got)
			}
		}
	}
	a := problem(t, s.do(t, "GET", "/nowhere", nil)).RequestID
	b := problem(t, s.do(t, "GET", "/nowhere", nil)).RequestID
	if a == b {
		t.Errorf("two requests have the id %s", a)
	}
}

func TestPanic_becomesAProblem(t *testing.T) {
	s := serve(t, api.Options{})
	s.run["panics"] = func(context.Context, api.Invocation) (*call.Result, error) { panic("the secret cause") }
	p := problem(t, s.do(t, "POST", "/f/default/panics", nil, "X-Request-Id", "mine"))
	if p.Code != client.CodeInternal || p.RequestID != "mine" || strings.Contains(p.Detail, "secret") {
		t.Errorf("got problem %+v", p)
	}
	if log := s.log.String(); !strings.Contains(log, "the secret cause") || !strings.Contains(log, "request=mine") || !strings.Contains(log, "fake_test.go") && !strings.Contains(log, "api_test.go") {
		t.Errorf("the log lacks the cause, the request or the stack: %s", log)
	}
	if r := s.do(t, "POST", "/f/default/echo", strings.NewReader("alive")); string(r.body) != "alive" {
		t.Errorf("after the panic: %q", r.body)
	}
	if r := s.do(t, "GET", "/metrics", nil); !strings.Contains(string(r.body), `faasm_http_requests_total{route="POST /f/{tenant}/{function}",status="500"} 1`) {
		t.Errorf("the panic is not counted:\n%s", r.body)
	}
}

func TestPanic_afterTheReplyBeganCutsIt(t *testing.T) {
	s := serve(t, api.Options{})
	s.functions[[2]string{"default", "echo"}] = client.FunctionInfo{}
	resp, err := http.Get(s.url + "/v1/functions/default/echo/logs?follow=true")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	<-s.following
	s.more <- call.Line{Text: "panic"}
	if got, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("the reply ended as if it were whole: %q", got)
	}
	if log := s.log.String(); !strings.Contains(log, "panic in FollowLogs") {
		t.Errorf("the log lacks the cause: %s", log)
	}
	if r := s.do(t, "GET", "/healthz", nil); r.StatusCode != 200 {
		t.Errorf("after the panic: status %d", r.StatusCode)
	}
}

func TestErrors_ofTheHost(t *testing.T) {
	s := serve(t, api.Options{})
	for _, tc := range []struct {
		err        error
		code       client.Code
		detail     string // must be in the problem
		retryAfter string
		logged     bool
	}{
		{errors.New("secret path /var/lib"), client.CodeInternal, "requestId", "", true},
		{api.NewProblem(client.CodeInternal, "disk full"), client.CodeInternal, "disk full", "", true},
		{fmt.Errorf("list: %w", call.ErrNotFound), client.CodeNoSuchCall, "no such call", "", false},
		{fmt.Errorf("list: %w", call.ErrNotFinished), client.CodeNotFinished, "not finished", "", false},
		{fmt.Errorf("list: %w", call.ErrOutputDropped), client.CodeNoSuchCall, "too large", "", false},
		{fmt.Errorf("list: %w", context.Canceled), client.CodeCancelled, "canceled", "", false},
		{fmt.Errorf("list: %w", api.Overloaded("no room for calls", 1500*time.Millisecond)), client.CodeOverloaded, "no room", "2", false},
		{api.Draining(time.Nanosecond), client.CodeDraining, "shutting down", "1", false},
	} {
		before := len(s.log.String())
		s.callsErr = tc.err
		r := s.do(t, "GET", "/v1/calls", nil)
		p := problem(t, r)
		if p.Code != tc.code || !strings.Contains(p.Detail, tc.detail) || strings.Contains(p.Detail, "secret") {
			t.Errorf("%v: code %s, detail %q; want %s, %q", tc.err, p.Code, p.Detail, tc.code, tc.detail)
		}
		if got := r.Header.Get("Retry-After"); got != tc.retryAfter {
			t.Errorf("%v: Retry-After %q, want %q", tc.err, got, tc.retryAfter)
		}
		log := s.log.String()[before:]
		if (log != "") != tc.logged || tc.logged && !strings.Contains(log, p.RequestID) {
			t.Errorf("%v: request %s, logged %q", tc.err, p.RequestID, log)
		}
	}
}

// A host may keep one problem and return it to everybody.
func TestErrors_sharedByRequests(t *testing.T) {
	s := serve(t, api.Options{})
	shared := api.Draining(time.Second)
	s.callsErr, s.deployErr, s.ready = shared, shared, shared
	var wg sync.WaitGroup
	for method, target := range map[string]string{"GET ": "/v1/calls", "PUT": "/v1/functions/default/f", "GET": "/readyz"} {
		wg.Go(func() {
			for range 10 {
				if p := problem(t, s.do(t, strings.TrimSpace(method), target, strings.NewReader("x"))); p.Instance != target {
					t.Errorf("%s: instance %s", target, p.Instance)
				}
			}
		})
	}
	wg.Wait()
	if shared.Instance != "" || shared.RequestID != "" {
		t.Errorf("the host's problem was changed: %+v", shared)
	}
}

func TestReady_whileDraining(t *testing.T) {
	s := serve(t, api.Options{})
	if r := s.do(t, "GET", "/readyz", nil); r.StatusCode != 200 || string(r.body) != "ok\n" {
		t.Errorf("readyz: %d %q", r.StatusCode, r.body)
	}
	s.ready = api.Draining(5 * time.Second)
	r := s.do(t, "GET", "/readyz", nil)
	if p := problem(t, r); p.Code != client.CodeDraining || r.Header.Get("Retry-After") != "5" {
		t.Errorf("draining: %s, Retry-After %q", p.Code, r.Header.Get("Retry-After"))
	}
	if r := s.do(t, "GET", "/healthz", nil); r.StatusCode != 200 || string(r.body) != "ok\n" {
		t.Errorf("healthz while draining: %d %q", r.StatusCode, r.body)
	}
}

func TestMetrics_countByRouteAndStatus(t *testing.T) {
	s := serve(t, api.Options{})
	s.do(t, "POST", "/f/default/echo", nil)
	s.do(t, "POST", "/f/default/echo", nil)
	s.do(t, "POST", "/f/default/nobody", nil)
	s.do(t, "POST", "/nowhere", nil)
	s.do(t, "PATCH", "/v1/calls", nil)
	got := string(s.do(t, "GET", "/metrics", nil).body)
	for _, want := range []string{
		`faasm_http_requests_total{route="POST /f/{tenant}/{function}",status="200"} 2`,
		`faasm_http_requests_total{route="POST /f/{tenant}/{function}",status="404"} 1`,
		`faasm_http_requests_total{route="none",status="404"} 1`,
		`faasm_http_requests_total{route="/v1/calls",status="405"} 1`,
		`faasm_http_request_seconds_count{route="POST /f/{tenant}/{function}"} 3`,
		`faasm_http_requests_in_flight 1`, // this one
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("/metrics lacks %s in\n%s", want, got)
		}
	}
}

// The two ways of sending a result's headers (see conn in server.go) must not differ.
func TestResultHeaders_sameWithoutAServer(t *testing.T) {
	s := serve(t, api.Options{})
	for _, size := range []int{0, 1, 2048, 2049, 100_000} {
		s.run["sized"] = func(context.Context, api.Invocation) (*call.Result, error) {
			return returned(0, make([]byte, size)), nil
		}
		served := s.do(t, "POST", "/f/default/sized", nil)
		recorder := httptest.NewRecorder()
		s.handler.ServeHTTP(recorder, httptest.NewRequest("POST", "/f/default/sized", nil))
		ignore := cmpopts.IgnoreMapEntries(func(k string, _ []string) bool { return k == "Date" || k == "Faasm-Call-Id" || k == "Content-Length" })
		if diff := cmp.Diff(recorder.Header(), served.Header, ignore); diff != "" {
			t.Errorf("output of %d bytes (-recorder +server):\n%s", size, diff)
		}
		if got, want := served.Header.Get("Content-Length"), fmt.Sprint(size); got != want {
			t.Errorf("output of %d bytes: Content-Length %q", size, got)
		}
	}
}

func someLines(id call.ID) []call.Line {
	return []call.Line{
		{Time: epoch, Call: id, Stream: call.Stdout, Text: "one"},
		{Time: epoch.Add(time.Microsecond), Call: id, Stream: call.Stderr, Text: "two\nforged\r line \xff"},
		{Time: epoch.Add(time.Second), Call: id, Stream: call.System, Text: "dropped 5 bytes"},
	}
}

// A page of another site can't have a browser call a host that listens on loopback.
func TestRequests_crossOriginRefused(t *testing.T) {
	s := serve(t, api.Options{})
	for _, tt := range []struct {
		name, header, value string
		status              int
	}{
		{"a page of another site", "Sec-Fetch-Site", "cross-site", 403},
		{"an old browser", "Origin", "https://evil.example", 403},
		{"a page of the same site", "Sec-Fetch-Site", "same-origin", 200},
		{"a program", "X-Nothing", "", 200},
	} {
		req, err := http.NewRequest("POST", s.url+"/f/default/echo", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(tt.header, tt.value)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tt.status {
			t.Errorf("%s: %d; want %d", tt.name, resp.StatusCode, tt.status)
		}
	}
}
