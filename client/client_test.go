package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/faasm-go/faasm/client"
)

// The client against a real server is tested in internal/api, beside the fake host.
// Here are servers that are none, and what the client does before it sends anything.

func serve(t *testing.T, handler http.HandlerFunc) *client.Client {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	c, err := client.New(s.URL, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestNew_refusesWhatIsNoHost(t *testing.T) {
	for _, base := range []string{"", "localhost:8080", "127.0.0.1:8080", "/v1", "ftp://x", "http://", "http://%zz", "http://x/?a=b", "http://x/#f", "://x"} {
		if c, err := client.New(base, client.Options{}); err == nil {
			t.Errorf("%q: got a client of %s", base, c.BaseURL())
		}
	}
}

func TestNew_keepsAPathPrefix(t *testing.T) {
	var path atomic.Value
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { path.Store(r.URL.EscapedPath()) }))
	defer s.Close()
	for base, want := range map[string]string{"": "/healthz", "/": "/healthz", "/a%2Fb/c//": "/a%2Fb/c/healthz"} {
		c, err := client.New(s.URL+base, client.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Healthy(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := path.Load(); got != want {
			t.Errorf("base %q: asked for %s, want %s", base, got, want)
		}
		c.Close()
	}
}

// A name must not be able to reach another route than the one that was meant.
func TestNames_cannotLeaveTheirSegment(t *testing.T) {
	var path atomic.Value
	c := serve(t, func(w http.ResponseWriter, r *http.Request) { path.Store(r.URL.EscapedPath()); w.WriteHeader(204) })
	for _, name := range []string{"", ".", ".."} {
		path.Store("nothing")
		if err := c.Remove(t.Context(), "default", name); !errors.Is(err, client.ErrEmptyName) {
			t.Errorf("function %q: %v", name, err)
		}
		if _, err := c.Call(t.Context(), name); !errors.Is(err, client.ErrEmptyName) {
			t.Errorf("call %q: %v", name, err)
		}
		if got := path.Load(); got != "nothing" {
			t.Errorf("name %q: asked for %s", name, got)
		}
	}
	for name, want := range map[string]string{
		"../../f":   "..%2F..%2Ff",
		"a?b=c":     "a%3Fb=c",
		"a#b":       "a%23b",
		"%2e%2e":    "%252e%252e",
		"a b\r\nX:": "a%20b%0D%0AX:",
		"\x00\xff":  "%00%FF",
	} {
		if err := c.Remove(t.Context(), "default", name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		if got := path.Load(); got != "/v1/functions/default/"+want {
			t.Errorf("%q: asked for %s", name, got)
		}
	}
}

func TestProblem_ofServersThatAreNoHost(t *testing.T) {
	long := strings.Repeat("x", 10_000)
	for _, tc := range []struct {
		name, contentType, body string
		status                  int
		want                    client.Problem
	}{
		{"a proxy's page", "text/html", "<h1>Bad Gateway</h1>", 502, client.Problem{Title: "Bad Gateway", Detail: "<h1>Bad Gateway</h1>"}},
		{"nothing", "", "", 503, client.Problem{Title: "Service Unavailable"}},
		{"a lie about the type", "application/problem+json", "<oops", 500, client.Problem{Title: "Internal Server Error", Detail: "<oops"}},
		{"half a document", "application/problem+json", `{"code":"trap"`, 500, client.Problem{Title: "Internal Server Error", Detail: `{"code":"trap"`}},
		{"wrong types", "application/problem+json", `{"code":5,"status":"x"}`, 500, client.Problem{Title: "Internal Server Error", Detail: `{"code":5,"status":"x"}`}},
		{"no text", "text/plain", "\xff\xfe", 500, client.Problem{Title: "Internal Server Error", Detail: "\uFFFD"}},
		{"a long page", "text/plain", long, 404, client.Problem{Title: "Not Found", Detail: long[:512]}},
		{"a status that disagrees", "application/problem+json; charset=utf-8", `{"code":"trap","status":200,"title":"T"}`, 500, client.Problem{Code: client.CodeTrap, Title: "T"}},
		{"a code of the future", "application/problem+json", `{"code":"new","title":"T","detail":"D","more":[1]}`, 418, client.Problem{Code: "new", Title: "T", Detail: "D"}},
		{"a redirect without a target", "", "", 304, client.Problem{Title: "Not Modified"}},
	} {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Content-Type"] = []string{tc.contentType}
			w.Header()["Retry-After"] = []string{"Fri, 31 Dec 1999 23:59:59 GMT"}
			w.WriteHeader(tc.status)
			io.WriteString(w, tc.body)
		})
		_, err := c.Invoke(t.Context(), "", "f", nil, client.InvokeOptions{})
		var p *client.Problem
		if !errors.As(err, &p) {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		tc.want.Status = tc.status
		if diff := cmp.Diff(&tc.want, p); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
		if p.Error() == "" {
			t.Errorf("%s: no text", tc.name)
		}
	}
}

func TestReplies_ofServersThatAreNoHost(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"a page": func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>welcome") },
		"half a reply": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Faasm-Wall-Us", "1")
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, `{"functions":[`)
		},
		"nothing": func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) },
	} {
		c, ctx := serve(t, handler), t.Context()
		if r, err := c.Invoke(ctx, "", "f", nil, client.InvokeOptions{}); err == nil {
			t.Errorf("%s: Invoke: %+v", name, r)
		}
		if r, err := c.Submit(ctx, "", "f", nil, client.InvokeOptions{}); err == nil {
			t.Errorf("%s: Submit: %+v", name, r)
		}
		if r, err := c.Functions(ctx, ""); err == nil {
			t.Errorf("%s: Functions: %+v", name, r)
		}
		if r, err := c.Wait(ctx, "0"); err == nil {
			t.Errorf("%s: Wait: %+v", name, r)
		}
	}
}

func TestInvoke_noHostThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	c, err := client.New("http://"+addr, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Invoke(t.Context(), "", "f", nil, client.InvokeOptions{}); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v", err)
	}
}

// transport answers requests in memory, so that time can be virtual.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A host that shuts down answers every wait at once; the client must not turn that
// into a storm.
func TestWait_pausesAfterAnEarlyAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		c, err := client.New("http://host", client.Options{HTTPClient: &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
			if r.URL.RawQuery != "wait=30s" {
				t.Errorf("query %q", r.URL.RawQuery)
			}
			asked++
			return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(`{"state":"running"}`)), Request: r}, nil
		})}})
		if err != nil {
			t.Fatal(err)
		}
		if info, err := c.Wait(ctx, "0"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %+v, %v", info, err)
		}
		if asked < 2 || asked > 100 {
			t.Errorf("%d requests in 10 s", asked)
		}
	})
}

// What will be refused is not sent: the body waits for the host's consent.
func TestDeploy_asksBeforeItSends(t *testing.T) {
	var sent atomic.Int64
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Expect"); got != "100-continue" {
			t.Errorf("Expect %q", got)
		}
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	})
	_, _, err := c.Deploy(t.Context(), "", "f", strings.NewReader(strings.Repeat("x", 8<<20)), client.DeployOptions{Progress: sent.Store})
	var p *client.Problem
	if !errors.As(err, &p) || p.Status != http.StatusRequestEntityTooLarge {
		t.Errorf("got %v", err)
	}
	if n := sent.Load(); n != 0 {
		t.Errorf("sent %d bytes", n)
	}
}

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{
		"": false, ".": false, "..": false, "-a": false, "a-": false, "_a": false, "a_": false, ".a": false, "a.": false, "A": false, "a/b": false, "a b": false,
		"a\x00": false, "caf\u00e9": false, "a%2f": false, "a\n": false, strings.Repeat("a", 64): false,
		"a": true, "0": true, "a.b": true, "a..b": true, "a-_.b": true, strings.Repeat("a", 63): true,
	} {
		if got := client.ValidName(name); got != want {
			t.Errorf("%q: %t, want %t", name, got, want)
		}
	}
}

func TestFunctionInfo_timeoutIsText(t *testing.T) {
	b, err := json.Marshal(client.FunctionInfo{Timeout: client.Duration(90 * time.Second)})
	if err != nil || !strings.Contains(string(b), `"timeout":"1m30s"`) {
		t.Errorf("%s, %v", b, err)
	}
	var info client.FunctionInfo
	for _, bad := range []string{`{"timeout":5}`, `{"timeout":"5"}`, `{"timeout":""}`} {
		if err := json.Unmarshal([]byte(bad), &info); err == nil {
			t.Errorf("%s: read as %s", bad, info.Timeout)
		}
	}
}
