package api_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/faasm-go/faasm/client"
	"github.com/faasm-go/faasm/internal/api"
	"github.com/faasm-go/faasm/internal/state"
	"github.com/faasm-go/faasm/internal/state/global"
)

// fakeState is a real global tier, as people see it.
type fakeState struct {
	*global.Embedded

	err     error         // what every method returns, if not nil
	reads   atomic.Int64  // calls of Read
	onRead  func(n int64) // before each Read, with its number from 1
	onPut   func()        // before each Put
	noLocks bool          // Lock waits in vain, until its context ends…
	waiting atomic.Int64  // …and so many do
}

func (s *fakeState) Stat(ctx context.Context, key global.Key) (global.Info, error) {
	if s.err != nil {
		return global.Info{}, s.err
	}
	return s.Embedded.Stat(ctx, key)
}

func (s *fakeState) Read(ctx context.Context, key global.Key, off int64, dst []byte) (int, global.Info, error) {
	if s.err != nil {
		return 0, global.Info{}, s.err
	}
	if n := s.reads.Add(1); s.onRead != nil {
		s.onRead(n)
	}
	return s.Embedded.Read(ctx, key, off, dst)
}

func (s *fakeState) Put(ctx context.Context, key global.Key, size int64, src io.ReaderAt, c global.Condition) (global.Info, error) {
	if s.err != nil {
		return global.Info{}, s.err
	}
	if s.onPut != nil {
		s.onPut()
	}
	return s.Embedded.Write(ctx, key, size, src, c)
}

func (s *fakeState) Delete(ctx context.Context, key global.Key, c global.Condition) error {
	if s.err != nil {
		return s.err
	}
	return s.Embedded.Delete(ctx, key, c)
}

func (s *fakeState) List(ctx context.Context, tenant, prefix, after string, limit int) ([]global.Entry, error) {
	if s.err != nil {
		return nil, s.err
	}
	return s.Embedded.List(ctx, tenant, prefix, after, limit)
}

func (s *fakeState) Lock(ctx context.Context, key global.Key, mode global.LockMode) (*global.Lease, error) {
	if s.err != nil {
		return nil, s.err
	}
	if s.noLocks {
		s.waiting.Add(1)
		defer s.waiting.Add(-1)
		<-ctx.Done()
		return nil, global.ErrTimeout
	}
	return s.Embedded.Lock(ctx, key, mode)
}

// set stores a value behind the HTTP interface's back.
func (s *fakeState) set(t testing.TB, name string, value []byte) uint64 {
	t.Helper()
	info, err := s.Embedded.Write(context.Background(), global.Key{Tenant: "default", Name: name}, int64(len(value)), bytes.NewReader(value), global.Condition{})
	if err != nil {
		t.Fatal(err)
	}
	return info.Version
}

// names returns the names of all keys of the tenant.
func (s *fakeState) names(t testing.TB, tenant string) []string {
	t.Helper()
	entries, err := s.Embedded.List(context.Background(), tenant, "", "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name)
	}
	return out
}

// serveState is serve with state. Bodies are spooled to a directory that must be empty in
// the end.
func serveState(t testing.TB, opts api.Options) *testServer {
	t.Helper()
	store, err := global.OpenEmbedded(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	opts.SpoolDir = t.TempDir()
	t.Cleanup(func() {
		if left, err := os.ReadDir(opts.SpoolDir); err != nil || len(left) > 0 {
			t.Errorf("left of bodies: %v, %v", left, err)
		}
	})
	s := serve(t, opts)
	s.fakeHost.state = &fakeState{Embedded: store}
	return s
}

// tag is a version as an entity tag.
func tag(v uint64) string { return fmt.Sprintf("%q", fmt.Sprint(v)) }

// A key is any text, and reaches the store byte for byte or not at all.
func TestState_keysAreKept(t *testing.T) {
	s := serveState(t, api.Options{})
	const root = "/v1/state/default/"
	long := strings.Repeat("k", client.KeyBytesMax)
	for _, tc := range []struct {
		target string
		code   client.Code
	}{
		{root, client.CodeBadKey},
		{root + ".", client.CodeBadKey},
		{root + "..", client.CodeBadKey},
		{root + "../b", client.CodeBadKey},
		{root + "a/..", client.CodeBadKey},
		{root + "a/../../other/b", client.CodeBadKey},
		{root + "a/./b", client.CodeBadKey},
		{root + "a//../b", client.CodeBadKey},
		{root + "%ff", client.CodeBadKey},
		{root + "%c0%af", client.CodeBadKey}, // a slash, overlong
		{root + "%ed%a0%80", client.CodeBadKey},
		{root + "a%00%80", client.CodeBadKey},
		{root + long + "k", client.CodeBadKey},
		{root + strings.Repeat("%C3%A9", client.KeyBytesMax/2) + "k", client.CodeBadKey},
		{"/v1/state/Default/k", client.CodeBadName},
		{"/v1/state/a%2Fb/k", client.CodeBadName},
		{"/v1/state/a%2Fb/café", client.CodeBadName}, // with a byte that should have been escaped
		{"/v1/state/a%2Fb/k|", client.CodeBadName},
		{"/v1/state/%2e%2e/k", client.CodeBadName},
		{"/v1/state/%00/k", client.CodeBadName},
		{"/v1/state//k", client.CodeNotFound},
		{"/v1/state/../k", client.CodeNotFound},
		{"/v1/state/./k", client.CodeNotFound},
		{"//v1/state/default/k", client.CodeNotFound},
		{"/v1//state/default/k", client.CodeNotFound},
		{"/v1/../v1/state/default/k", client.CodeNotFound},
		{"/V1/state/default/k", client.CodeNotFound},
		{"/v1%2Fstate/default/k", client.CodeNotFound},
		{"/v1/state", client.CodeNotFound},
		{"/v1/state/", client.CodeNotFound},
		{"/v1/locks/default", client.CodeNotFound},
	} {
		for _, method := range []string{"PUT", "GET", "DELETE"} {
			if p := problem(t, s.do(t, method, tc.target, nil)); p.Code != tc.code || len(p.Detail) > 400 {
				t.Errorf("%s %.100s: %s (%s), want %s", method, tc.target, p.Code, p.Detail, tc.code)
			}
		}
	}
	if got := s.fakeHost.state.names(t, "default"); got != nil {
		t.Fatalf("keys were made: %q", got)
	}

	for path, key := range map[string]string{
		"k":                       "k",
		"a/b":                     "a/b",
		"a%2Fb":                   "a/b",
		"a%2fb":                   "a/b",
		"a//b":                    "a//b",
		"a%2F/b":                  "a//b",
		"a/":                      "a/",
		"/":                       "/",
		"/a":                      "/a",
		"//":                      "//",
		"%2F":                     "/",
		"%2E":                     ".",
		"%2e%2e":                  "..",
		"a%2F..%2Fb":              "a/../b",
		"...":                     "...",
		".a/..b":                  ".a/..b",
		"%252F":                   "%2F",
		"%252e%252e":              "%2e%2e",
		"a+b":                     "a+b",
		"a%20b":                   "a b",
		"a;b,c=d@e:f":             "a;b,c=d@e:f",
		"%3Fa%23b":                "?a#b",
		"%00":                     "\x00",
		"%0D%0AX-Evil:1":          "\r\nX-Evil:1",
		"%C3%A9":                  "é",
		"e%CC%81":                 "e\u0301",
		"%F0%9F%90%9D":            "🐝",
		long:                      long,
		"v1/state/other/k":        "v1/state/other/k",
		strings.Repeat("/", 1024): strings.Repeat("/", 1024),
	} {
		body := "value of " + path
		if r := s.do(t, "PUT", root+path, strings.NewReader(body)); r.StatusCode != 200 && r.StatusCode != 201 {
			t.Errorf("PUT %.100s: status %d: %s", path, r.StatusCode, r.body)
			continue
		}
		dst := make([]byte, 5000)
		n, _, err := s.fakeHost.state.Embedded.Read(t.Context(), global.Key{Tenant: "default", Name: key}, 0, dst)
		if err != nil || string(dst[:n]) != body {
			t.Errorf("PUT %.100s: under %.100q there is %q, %v", path, key, dst[:n], err)
		}
		if r := s.do(t, "GET", root+path, nil); r.StatusCode != 200 || string(r.body) != body {
			t.Errorf("GET %.100s: status %d, %q", path, r.StatusCode, r.body)
		}
		if r := s.do(t, "DELETE", root+path, nil); r.StatusCode != 204 {
			t.Errorf("DELETE %.100s: status %d", path, r.StatusCode)
		}
	}
	if got := append(s.fakeHost.state.names(t, "default"), s.fakeHost.state.names(t, "other")...); got != nil {
		t.Errorf("keys are left: %q", got)
	}
	if got := s.log.String(); got != "" {
		t.Errorf("clients' mistakes were logged: %s", got)
	}
}

func TestState_refused(t *testing.T) {
	s := serveState(t, api.Options{})
	s.fakeHost.state.set(t, "k", []byte("0123456789"))
	const k, lock = "/v1/state/default/k", "/v1/locks/default/k"
	for _, tc := range []struct {
		method, target string
		header         []string
		code           client.Code
	}{
		{"GET", k + "?version=1", nil, client.CodeBadRequest},
		{"PUT", k + "?if-match=1", nil, client.CodeBadRequest},
		{"DELETE", k + "?x", nil, client.CodeBadRequest},
		{"GET", "/v1/state/default?limit=0", nil, client.CodeBadRequest},
		{"GET", "/v1/state/default?limit=10001", nil, client.CodeBadRequest},
		{"GET", "/v1/state/default?limit=-1", nil, client.CodeBadRequest},
		{"GET", "/v1/state/default?Prefix=a", nil, client.CodeBadRequest},
		{"GET", "/v1/state/default?prefix=a&prefix=b", nil, client.CodeBadRequest},
		{"GET", "/v1/state/default?prefix=%ff", nil, client.CodeBadKey},
		{"GET", "/v1/state/default?after=%ff", nil, client.CodeBadKey},
		{"GET", "/v1/state/default?prefix=" + strings.Repeat("a", 1025), nil, client.CodeBadKey},
		{"GET", "/v1/state/A", nil, client.CodeBadName},

		{"POST", k, nil, client.CodeMethodNotAllowed},
		{"PATCH", k, nil, client.CodeMethodNotAllowed},
		{"get", k, nil, client.CodeMethodNotAllowed},
		{"PUT", "/v1/state/default", nil, client.CodeMethodNotAllowed},
		{"DELETE", "/v1/state/default", nil, client.CodeMethodNotAllowed},
		{"GET", lock, nil, client.CodeMethodNotAllowed},

		{"GET", "/v1/state/default/none", nil, client.CodeNoSuchValue},
		{"GET", "/v1/state/default/none", []string{"Range", "bytes=0-1"}, client.CodeNoSuchValue},
		{"GET", "/v1/state/default/none", []string{"Range", "bytes=1-0"}, client.CodeNoSuchValue},
		{"GET", "/v1/state/default/none", []string{"If-Match", "*"}, client.CodeVersionMismatch},
		{"GET", "/v1/state/default/none", []string{"If-None-Match", "*"}, client.CodeNoSuchValue},
		{"DELETE", "/v1/state/default/none", nil, client.CodeNoSuchValue},
		{"DELETE", "/v1/state/default/none", []string{"If-Match", "*"}, client.CodeVersionMismatch},
		{"GET", "/v1/state/other/k", nil, client.CodeNoSuchValue},

		{"GET", k, []string{"If-Match", "1"}, client.CodeBadRequest},
		{"GET", k, []string{"If-Match", ""}, client.CodeBadRequest},
		{"GET", k, []string{"If-Match", ","}, client.CodeBadRequest},
		{"PUT", k, []string{"If-Match", `"1`}, client.CodeBadRequest},
		{"PUT", k, []string{"If-Match", `"1" "2"`}, client.CodeBadRequest},
		{"PUT", k, []string{"If-Match", `*, "1"`}, client.CodeBadRequest},
		{"PUT", k, []string{"If-Match", `w/"1"`}, client.CodeBadRequest},
		{"PUT", k, []string{"If-None-Match", `all`}, client.CodeBadRequest},
		{"DELETE", k, []string{"If-Match", `1`}, client.CodeBadRequest},
		{"DELETE", k, []string{"If-None-Match", `*`}, client.CodeBadRequest},
		{"PUT", k, []string{"Content-Range", "bytes 0-1/10"}, client.CodeBadRequest},
		{"PUT", k, []string{"Faasm-Fence", "0"}, client.CodeBadRequest},
		{"PUT", k, []string{"Faasm-Fence", "-1"}, client.CodeBadRequest},
		{"PUT", k, []string{"Faasm-Fence", ""}, client.CodeBadRequest},
		{"PUT", k, []string{"Faasm-Fence", "18446744073709551616"}, client.CodeBadRequest},
		{"PUT", k, []string{"Faasm-Fence", "1", "Faasm-Fence", "2"}, client.CodeBadRequest},
		{"DELETE", k, []string{"Faasm-Fence", "x"}, client.CodeBadRequest},
		{"PUT", k, []string{"Sec-Fetch-Site", "cross-site"}, client.CodeCrossOrigin},
		{"DELETE", k, []string{"Sec-Fetch-Site", "cross-site"}, client.CodeCrossOrigin},
		{"POST", lock, []string{"Sec-Fetch-Site", "cross-site"}, client.CodeCrossOrigin},

		{"POST", lock + "?mode=", nil, client.CodeBadRequest},
		{"POST", lock + "?mode=Write", nil, client.CodeBadRequest},
		{"POST", lock + "?mode=read&mode=write", nil, client.CodeBadRequest},
		{"POST", lock + "?timeout=10", nil, client.CodeBadRequest},
		{"POST", lock + "?timeout=0s", nil, client.CodeBadRequest},
		{"POST", lock + "?timeout=-1s", nil, client.CodeBadRequest},
		{"POST", lock + "?timeout=6m", nil, client.CodeBadRequest},
		{"POST", lock + "?wait=1s", nil, client.CodeBadRequest},
		{"POST", "/v1/locks/default/", nil, client.CodeBadKey},
		{"POST", "/v1/locks/default/..", nil, client.CodeBadKey},
		{"POST", "/v1/locks/default/%ff", nil, client.CodeBadKey},
		{"POST", "/v1/locks/A/k", nil, client.CodeBadName},
	} {
		r := s.do(t, tc.method, tc.target, nil, tc.header...)
		p := problem(t, r)
		if p.Code != tc.code || p.Detail == "" || len(p.Detail) > 400 {
			t.Errorf("%s %.100s %q: %s (%.500s), want %s", tc.method, tc.target, tc.header, p.Code, p.Detail, tc.code)
		}
		if r.Header.Get("ETag") != "" || r.Header.Get("Accept-Ranges") != "" || r.Header.Get("Content-Length") != fmt.Sprint(len(r.body)) {
			t.Errorf("%s %.100s %q: a problem with headers of a value: %v", tc.method, tc.target, tc.header, r.Header)
		}
	}
	if p := problem(t, s.do(t, "POST", lock, strings.NewReader("x"))); p.Code != client.CodeBadRequest {
		t.Errorf("a lock with a body: %s", p.Code)
	}
	if r := s.do(t, "GET", k, nil); string(r.body) != "0123456789" {
		t.Errorf("afterwards the value is %q", r.body)
	}
	for target, allow := range map[string]string{k: "GET, HEAD, PUT, DELETE, OPTIONS", lock: "POST, OPTIONS", "/v1/state/default": "GET, HEAD, OPTIONS"} {
		if r := s.do(t, "OPTIONS", target, nil); r.StatusCode != 204 || r.Header.Get("Allow") != allow {
			t.Errorf("OPTIONS %s: status %d, Allow %q", target, r.StatusCode, r.Header.Get("Allow"))
		}
	}
	if got := s.log.String(); got != "" {
		t.Errorf("clients' mistakes were logged: %s", got)
	}
}

func TestState_ranges(t *testing.T) {
	s := serveState(t, api.Options{})
	version := s.fakeHost.state.set(t, "k", []byte("0123456789"))
	s.fakeHost.state.set(t, "empty", nil)
	old := tag(version - 1)
	for _, tc := range []struct {
		key, ranges, ifRange string
		status               int
		body, contentRange   string
	}{
		// None that could be sent.
		{"k", "bytes=10-", "", 416, "", "bytes */10"},
		{"k", "bytes=10-20", "", 416, "", "bytes */10"},
		{"k", "bytes=99999999999999999999-", "", 416, "", "bytes */10"},
		{"k", "bytes=-0", "", 416, "", "bytes */10"},
		{"k", "bytes=5-4", "", 416, "", "bytes */10"},
		{"k", "bytes=", "", 416, "", "bytes */10"},
		{"k", "bytes=-", "", 416, "", "bytes */10"},
		{"k", "bytes=5", "", 416, "", "bytes */10"},
		{"k", "bytes=--5", "", 416, "", "bytes */10"},
		{"k", "bytes=-5-", "", 416, "", "bytes */10"},
		{"k", "bytes=+1-2", "", 416, "", "bytes */10"},
		{"k", "bytes=0x1-2", "", 416, "", "bytes */10"},
		{"k", "bytes=1-2-3", "", 416, "", "bytes */10"},
		{"empty", "bytes=0-", "", 416, "", "bytes */0"},
		{"empty", "bytes=0-0", "", 416, "", "bytes */0"},
		{"empty", "bytes=-1", "", 416, "", "bytes */0"},

		{"k", "bytes=0-0", "", 206, "0", "bytes 0-0/10"},
		{"k", "bytes=9-", "", 206, "9", "bytes 9-9/10"},
		{"k", "bytes=2-4", "", 206, "234", "bytes 2-4/10"},
		{"k", "bytes=0-99999999999999999999999", "", 206, "0123456789", "bytes 0-9/10"},
		{"k", "bytes=7-1099511627776", "", 206, "789", "bytes 7-9/10"},
		{"k", "bytes=-3", "", 206, "789", "bytes 7-9/10"},
		{"k", "bytes=-99999999999999999999999", "", 206, "0123456789", "bytes 0-9/10"},
		{"k", "bytes=2-4", tag(version), 206, "234", "bytes 2-4/10"},

		// Those that need not be obeyed, and of another version.
		{"k", "", "", 200, "0123456789", ""},
		{"k", "items=0-1", "", 200, "0123456789", ""},
		{"k", "bytes 0-1", "", 200, "0123456789", ""},
		{"k", "bytes=0-1,4-5", "", 200, "0123456789", ""},
		{"k", "bytes=2-4", old, 200, "0123456789", ""},
		{"k", "bytes=2-4", "W/" + tag(version), 200, "0123456789", ""},
		{"k", "bytes=2-4", "Sat, 29 Oct 1994 19:43:31 GMT", 200, "0123456789", ""},
		{"k", "bytes=99-", old, 200, "0123456789", ""},
		{"empty", "bytes=0-", old, 200, "", ""},
		{"empty", "", "", 200, "", ""},
	} {
		var header []string
		if tc.ranges != "" {
			header = append(header, "Range", tc.ranges)
		}
		if tc.ifRange != "" {
			header = append(header, "If-Range", tc.ifRange)
		}
		r := s.do(t, "GET", "/v1/state/default/"+tc.key, nil, header...)
		if r.StatusCode != tc.status || r.Header.Get("Content-Range") != tc.contentRange {
			t.Errorf("%s %q: status %d, Content-Range %q; want %d, %q", tc.key, header, r.StatusCode, r.Header.Get("Content-Range"), tc.status, tc.contentRange)
			continue
		}
		if tc.status == 416 {
			if p := problem(t, r); p.Code != client.CodeRangeNotSatisfiable {
				t.Errorf("%s %q: %s", tc.key, header, p.Code)
			}
			continue
		}
		if string(r.body) != tc.body || r.Header.Get("Content-Length") != fmt.Sprint(len(tc.body)) {
			t.Errorf("%s %q: %q, length %s; want %q", tc.key, header, r.body, r.Header.Get("Content-Length"), tc.body)
		}
		if r.Header.Get("Accept-Ranges") != "bytes" || r.Header.Get("ETag") == "" || r.Header.Get("X-Content-Type-Options") != "nosniff" ||
			r.Header.Get("Content-Type") != "application/octet-stream" {
			t.Errorf("%s %q: headers %v", tc.key, header, r.Header)
		}
	}
	// HEAD tells of the whole, whatever the range.
	for _, header := range [][]string{nil, {"Range", "bytes=0-1"}, {"Range", "bytes=99-"}, {"Range", "bytes=5-4"}} {
		if r := s.do(t, "HEAD", "/v1/state/default/k", nil, header...); r.StatusCode != 200 || r.ContentLength != 10 || r.Header.Get("ETag") != tag(version) || len(r.body) != 0 {
			t.Errorf("HEAD %q: status %d, length %d, ETag %s, body %q", header, r.StatusCode, r.ContentLength, r.Header.Get("ETag"), r.body)
		}
	}
}

// Each condition, of each method, for a value that is there and one that is not.
func TestState_conditions(t *testing.T) {
	s := serveState(t, api.Options{})
	for _, tc := range []struct {
		header, tag      string // V is the version, O another
		get, put, delete int    // status for a value that is there; 0: not to be asked
		getNo, putNo     int    // and for none
	}{
		{"If-Match", `"O"`, 412, 412, 412, 412, 412},
		{"If-Match", `W/"V"`, 412, 412, 412, 412, 412},
		{"If-Match", `"0V"`, 412, 412, 412, 412, 412},
		{"If-Match", `"V "`, 412, 412, 412, 412, 412},
		{"If-Match", `"-V"`, 412, 412, 412, 412, 412},
		{"If-Match", `"0"`, 412, 412, 412, 412, 412},
		{"If-Match", `""`, 412, 412, 412, 412, 412},
		{"If-Match", `"O, V"`, 412, 412, 412, 412, 412},
		{"If-Match", `"V"`, 200, 200, 204, 412, 412},
		{"If-Match", `"O" , "V"`, 200, 200, 204, 412, 412},
		{"If-Match", `,"V",`, 200, 200, 204, 412, 412},
		{"If-Match", `*`, 200, 200, 204, 412, 412},
		{"If-None-Match", `"V"`, 304, 412, 0, 404, 201},
		{"If-None-Match", `W/"V"`, 304, 412, 0, 404, 201},
		{"If-None-Match", `"O","V"`, 304, 412, 0, 404, 201},
		{"If-None-Match", `*`, 304, 412, 0, 404, 201},
		{"If-None-Match", `"O"`, 200, 200, 0, 404, 201},
		{"If-None-Match", `"abc"`, 200, 200, 0, 404, 201},
	} {
		for _, there := range []bool{true, false} {
			for _, method := range []string{"GET", "HEAD", "PUT", "DELETE"} {
				key := "k"
				version := s.fakeHost.state.set(t, key, []byte("before"))
				want := map[string]int{"GET": tc.get, "HEAD": tc.get, "PUT": tc.put, "DELETE": tc.delete}[method]
				if !there {
					key = "none"
					want = map[string]int{"GET": tc.getNo, "HEAD": tc.getNo, "PUT": tc.putNo}[method]
				}
				if want == 0 {
					continue
				}
				value := strings.NewReplacer("V", fmt.Sprint(version), "O", fmt.Sprint(version-1)).Replace(tc.tag)
				if tc.tag[0] == 'W' {
					value = "W/" + tag(version)
				}
				r := s.do(t, method, "/v1/state/default/"+key, strings.NewReader("after"), tc.header, value)
				if r.StatusCode != want {
					t.Errorf("%s of %s with %s: %s: status %d, want %d: %s", method, key, tc.header, value, r.StatusCode, want, r.body)
				}
				if r.StatusCode == 304 && (r.Header.Get("ETag") != tag(version) || len(r.body) != 0) {
					t.Errorf("%s with %s: %s: ETag %s, body %q", method, tc.header, value, r.Header.Get("ETag"), r.body)
				}
				if r.StatusCode == 412 && method != "HEAD" {
					if p := problem(t, r); p.Code != client.CodeVersionMismatch {
						t.Errorf("%s with %s: %s: %s", method, tc.header, value, p.Code)
					}
				}
				dst := make([]byte, 10)
				n, now, err := s.fakeHost.state.Embedded.Read(t.Context(), global.Key{Tenant: "default", Name: key}, 0, dst)
				changed := there && (err != nil || now.Version != version) || !there && err == nil
				if changed != (want == 204 || method == "PUT" && want < 300) {
					t.Errorf("%s of %s with %s: %s, status %d: then there is %q, %v", method, key, tc.header, value, want, dst[:n], err)
				}
				if method == "PUT" && want < 300 && r.Header.Get("ETag") != tag(now.Version) {
					t.Errorf("PUT gives ETag %s of version %d", r.Header.Get("ETag"), now.Version)
				}
				s.fakeHost.state.Embedded.Delete(t.Context(), global.Key{Tenant: "default", Name: "none"}, global.Condition{})
			}
		}
	}
}

// Of many writers that read the same version, one wins.
func TestPutState_racing(t *testing.T) {
	s := serveState(t, api.Options{})
	const writers = 8
	race := func(what string, header ...string) (wins int) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range writers {
			wg.Go(func() {
				r := s.do(t, "PUT", "/v1/state/default/k", strings.NewReader(fmt.Sprint("writer ", i)), header...)
				mu.Lock()
				defer mu.Unlock()
				switch r.StatusCode {
				case 200, 201:
					wins++
				case 412:
				default:
					t.Errorf("%s: status %d: %s", what, r.StatusCode, r.body)
				}
			})
		}
		wg.Wait()
		return wins
	}
	if wins := race("If-None-Match", "If-None-Match", "*"); wins != 1 {
		t.Errorf("%d of %d made the value that was not there", wins, writers)
	}
	for range 10 {
		version := s.do(t, "HEAD", "/v1/state/default/k", nil).Header.Get("ETag")
		if wins := race("If-Match", "If-Match", version); wins != 1 {
			t.Errorf("%d of %d replaced version %s", wins, writers, version)
		}
	}
	if wins := race("If-Match: *", "If-Match", "*"); wins != writers {
		t.Errorf("%d of %d replaced any version", wins, writers)
	}
}

// A value that is always another when it is about to be written.
func TestPutState_changesTooOften(t *testing.T) {
	s := serveState(t, api.Options{})
	s.fakeHost.state.set(t, "k", []byte("0"))
	s.fakeHost.state.onPut = func() { s.fakeHost.state.set(t, "k", []byte("other")) }
	p := problem(t, s.do(t, "PUT", "/v1/state/default/k", strings.NewReader("mine"), "If-Match", "*"))
	if p.Code != client.CodeConflict {
		t.Errorf("%s: %s", p.Code, p.Detail)
	}
	if r := s.do(t, "GET", "/v1/state/default/k", nil); string(r.body) != "other" {
		t.Errorf("the value is %q", r.body)
	}
}

// A body that does not come whole changes nothing.
func TestPutState_brokenBodies(t *testing.T) {
	s := serveState(t, api.Options{SpoolBytesMax: 4 << 20, StateQuotaBytes: 3 << 20})
	version := s.fakeHost.state.set(t, "k", []byte("before"))
	const head = "PUT /v1/state/default/k HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
	two := strings.Repeat("x", 2<<20)
	for _, tc := range []struct {
		request string
		code    client.Code
	}{
		{"Content-Length: 10\r\n\r\nshort", client.CodeBadRequest},
		{"Content-Length: 3000000\r\n\r\n" + two, client.CodeBadRequest},
		{"Content-Length: 3145729\r\n\r\n", client.CodeQuota},
		{"Content-Length: 9223372036854775807\r\n\r\n", client.CodeQuota},
		{"Transfer-Encoding: chunked\r\n\r\n5\r\nhel", client.CodeBadRequest},
		{"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", client.CodeBadRequest},
		{"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n", client.CodeBadRequest},
		{"Transfer-Encoding: chunked\r\n\r\n200000\r\n" + two + "\r\n", client.CodeBadRequest},
		{"Transfer-Encoding: chunked\r\n\r\n400001\r\n" + two + two + "x\r\n0\r\n\r\n", client.CodeQuota},
	} {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, head+tc.request)
		conn.(*net.TCPConn).CloseWrite()
		got, err := io.ReadAll(conn)
		conn.Close()
		if err != nil {
			t.Fatalf("%.60q: %v", tc.request, err)
		}
		if want := `"code":"` + string(tc.code) + `"`; !strings.Contains(string(got), want) {
			t.Errorf("%.60q: got %q, want %s", tc.request, got, want)
		}
	}
	if info, err := s.fakeHost.state.Embedded.Stat(t.Context(), global.Key{Tenant: "default", Name: "k"}); err != nil || info.Version != version {
		t.Errorf("then the value is at version %d, %v; it was at %d", info.Version, err, version)
	}
}

// A large value comes through, of known length and of unknown, and holds neither memory
// nor disk afterwards; too many at once are refused.
func TestPutState_large(t *testing.T) {
	s := serveState(t, api.Options{SpoolBytesMax: 24 << 20, BodyBytesInFlightMax: 16 << 20})
	value := make([]byte, 20<<20+123)
	for i := range value {
		value[i] = byte(i>>16) ^ byte(i*7)
	}
	for _, body := range []func() io.Reader{
		func() io.Reader { return bytes.NewReader(value) },
		func() io.Reader { return struct{ io.Reader }{bytes.NewReader(value)} },
	} {
		if r := s.do(t, "PUT", "/v1/state/default/large", body()); r.StatusCode/100 != 2 {
			t.Fatalf("PUT: status %d: %s", r.StatusCode, r.body)
		}
		r := s.do(t, "GET", "/v1/state/default/large", nil)
		if r.StatusCode != 200 || !bytes.Equal(r.body, value) {
			t.Errorf("GET: status %d, %d bytes, same %t", r.StatusCode, len(r.body), bytes.Equal(r.body, value))
		}
		r = s.do(t, "GET", "/v1/state/default/large", nil, "Range", "bytes=5000000-15000000")
		if r.StatusCode != 206 || !bytes.Equal(r.body, value[5000000:15000001]) {
			t.Errorf("GET of a range: status %d, %d bytes", r.StatusCode, len(r.body))
		}
		s.do(t, "DELETE", "/v1/state/default/large", nil)
	}

	for _, body := range []io.Reader{bytes.NewReader(make([]byte, 24<<20+1)), struct{ io.Reader }{bytes.NewReader(make([]byte, 24<<20+1))}} {
		if p := problem(t, s.do(t, "PUT", "/v1/state/default/large", body, "Expect", "100-continue")); p.Code != client.CodeTooLarge {
			t.Errorf("a value above the limit: %s", p.Code)
		}
	}

	// One upload is held where all of its body has come.
	holding, release := make(chan struct{}), make(chan struct{})
	s.fakeHost.state.onPut = func() { holding <- struct{}{}; <-release }
	done := make(chan reply)
	go func() { done <- s.do(t, "PUT", "/v1/state/default/large", bytes.NewReader(value)) }()
	<-holding
	r := s.do(t, "PUT", "/v1/state/default/other", bytes.NewReader(value), "Expect", "100-continue")
	if p := problem(t, r); p.Code != client.CodeOverloaded || r.Header.Get("Retry-After") == "" {
		t.Errorf("a second upload: %s", p.Code)
	}
	s.fakeHost.state.onPut = nil
	close(release)
	if r := <-done; r.StatusCode != 201 {
		t.Errorf("the first upload: status %d", r.StatusCode)
	}
	if r := s.do(t, "PUT", "/v1/state/default/other", bytes.NewReader(value)); r.StatusCode != 201 {
		t.Errorf("afterwards: status %d: %s", r.StatusCode, r.body)
	}
}

// A reply has one version of a value, or breaks off.
func TestGetState_changesMeanwhile(t *testing.T) {
	s := serveState(t, api.Options{})
	st := s.fakeHost.state
	const size = 9 << 20 // three pieces, after the head
	get := func(header ...string) (*http.Response, []byte, error) {
		req, _ := http.NewRequest("GET", s.url+"/v1/state/default/k", nil)
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return resp, body, err
	}
	for _, tc := range []struct {
		name   string
		header []string
		change func(read int64)
		cut    bool
		letter byte
	}{
		{"before the first piece", nil, func(read int64) {
			if read == 2 {
				st.set(t, "k", bytes.Repeat([]byte("b"), size))
			}
		}, false, 'b'},
		{"before the first piece, to another size", nil, func(read int64) {
			if read == 2 {
				st.set(t, "k", []byte("b"))
			}
		}, false, 'b'},
		{"in the middle", nil, func(read int64) {
			if read == 3 {
				st.set(t, "k", bytes.Repeat([]byte("b"), size))
			}
		}, true, 'a'},
		{"in the middle, to nothing", nil, func(read int64) {
			if read == 4 {
				st.Embedded.Delete(t.Context(), global.Key{Tenant: "default", Name: "k"}, global.Condition{})
			}
		}, true, 'a'},
		{"in the middle of a range", []string{"Range", "bytes=1-9000000"}, func(read int64) {
			if read == 3 {
				st.set(t, "k", bytes.Repeat([]byte("b"), size))
			}
		}, true, 'a'},
	} {
		st.onRead = nil
		st.set(t, "k", bytes.Repeat([]byte("a"), size))
		st.reads.Store(0)
		st.onRead = tc.change
		resp, body, err := get(tc.header...)
		if (err != nil) != tc.cut {
			t.Errorf("%s: %d of %d bytes, %v; cut off should be %t", tc.name, len(body), resp.ContentLength, err, tc.cut)
		}
		if n := bytes.Count(body, []byte{tc.letter}); n != len(body) || n == 0 {
			t.Errorf("%s: %d of %d bytes are of the version that was begun", tc.name, n, len(body))
		}
	}
	// A value that is another each time somebody looks.
	st.onRead = nil
	st.set(t, "k", bytes.Repeat([]byte("a"), 100<<10))
	st.onRead = func(int64) { st.set(t, "k", bytes.Repeat([]byte("a"), 100<<10)) }
	if p := problem(t, s.do(t, "GET", "/v1/state/default/k", nil)); p.Code != client.CodeConflict {
		t.Errorf("a value that changes always: %s", p.Code)
	}
	// One that is gone before the first byte.
	st.onRead = func(read int64) {
		st.Embedded.Delete(t.Context(), global.Key{Tenant: "default", Name: "k"}, global.Condition{})
	}
	st.reads.Store(0)
	if p := problem(t, s.do(t, "GET", "/v1/state/default/k", nil)); p.Code != client.CodeNoSuchValue {
		t.Errorf("a value that went away: %s", p.Code)
	}
	if got := s.log.String(); got != "" {
		t.Errorf("changes were logged: %s", got)
	}
}

func TestState_errorsOfTheStore(t *testing.T) {
	s := serveState(t, api.Options{})
	for _, tc := range []struct {
		err        error
		code       client.Code
		detail     string
		retryAfter string
	}{
		{fmt.Errorf("read: %w: dial tcp 10.0.0.1: secret", global.ErrUnavailable), client.CodeStateUnavailable, "does not answer", "1"},
		{fmt.Errorf("read: %w: chunk secret", global.ErrDamaged), client.CodeStateDamaged, "can't be read", ""},
		{fmt.Errorf("write: %w: secret", global.ErrFull), client.CodeStateFull, "no room", ""},
		{fmt.Errorf("write: %w", global.ErrClosed), client.CodeDraining, "shutting down", ""},
		{fmt.Errorf("write: %w: 5 bytes and 3 more of 6", state.ErrQuota), client.CodeQuota, "3 more of 6", ""},
		{fmt.Errorf("write: %w", global.ErrFenced), client.CodeFenced, "lease", ""},
		{fmt.Errorf("write: %w", global.ErrConflict), client.CodeConflict, "too often", ""},
		{errors.New("secret"), client.CodeInternal, "requestId", ""},
	} {
		s.fakeHost.state.err = tc.err
		for _, target := range []string{"GET /v1/state/default/k", "HEAD /v1/state/default/k", "PUT /v1/state/default/k", "DELETE /v1/state/default/k", "GET /v1/state/default", "POST /v1/locks/default/k"} {
			method, path, _ := strings.Cut(target, " ")
			r := s.do(t, method, path, nil)
			if method == "HEAD" {
				if want := api.NewProblem(tc.code, "").Status; r.StatusCode != want {
					t.Errorf("%s, %v: status %d, want %d", target, tc.err, r.StatusCode, want)
				}
				continue
			}
			p := problem(t, r)
			if p.Code != tc.code || !strings.Contains(p.Detail, tc.detail) || strings.Contains(p.Detail, "secret") || r.Header.Get("Retry-After") != tc.retryAfter {
				t.Errorf("%s, %v: %s (%s), Retry-After %q; want %s, %q", target, tc.err, p.Code, p.Detail, r.Header.Get("Retry-After"), tc.code, tc.retryAfter)
			}
		}
	}
	// The cause is in the log, and not once for each request.
	if n := strings.Count(s.log.String(), "global tier of state"); n < 1 || n > 2 {
		t.Errorf("the store's failure was logged %d times:\n%s", n, s.log.String())
	}
}

func TestListState(t *testing.T) {
	s := serveState(t, api.Options{StateQuotaBytes: 1 << 30})
	st := s.fakeHost.state
	if r := s.do(t, "GET", "/v1/state/default", nil); r.StatusCode != 200 || string(r.body) != `{"values":[],"usage":{"keys":0,"bytes":0,"quotaBytes":1073741824}}`+"\n" {
		t.Errorf("of nothing: %d %s", r.StatusCode, r.body)
	}
	c, ctx := s.client(t), t.Context()
	var want []client.StateEntry
	for i, name := range []string{"a", "a/\x00", "a/b", "a\u0301", "b", "\u00e9"} { // in order of their bytes
		v := st.set(t, name, make([]byte, i))
		want = append(want, client.StateEntry{Name: name, Version: client.StateVersion(v), Size: int64(i)})
	}
	key := global.Key{Tenant: "default", Name: "b"}
	if _, err := st.Publish(ctx, key, global.Condition{}); err != nil {
		t.Fatal(err)
	}
	want[4].Published = []client.StateVersion{want[4].Version}
	for _, k := range []string{"b", "list"} {
		for range 3 {
			if _, err := st.Append(ctx, global.Key{Tenant: "default", Name: k}, []byte("four")); err != nil {
				t.Fatal(err)
			}
		}
	}
	want[4].ListElements, want[4].ListBytes = 3, 12
	want = append(want[:5], client.StateEntry{Name: "list", ListElements: 3, ListBytes: 12}, want[5])
	st.Embedded.Write(ctx, global.Key{Tenant: "other", Name: "a"}, 0, nil, global.Condition{})

	for _, tc := range []struct {
		opts client.ListStateOptions
		want []client.StateEntry
		next string
	}{
		{client.ListStateOptions{}, want, ""},
		{client.ListStateOptions{Prefix: "a"}, want[:4], ""},
		{client.ListStateOptions{Prefix: "a/"}, want[1:3], ""},
		{client.ListStateOptions{After: "a\u0301"}, want[4:], ""},
		{client.ListStateOptions{Limit: 2}, want[:2], "a/\x00"},
		{client.ListStateOptions{Prefix: "a", After: "a/\x00", Limit: 1}, want[2:3], "a/b"},
		{client.ListStateOptions{Prefix: "nothing"}, []client.StateEntry{}, ""},
		{client.ListStateOptions{After: "\u00e9"}, []client.StateEntry{}, ""},
	} {
		got, err := c.ListState(ctx, "", tc.opts)
		if err != nil {
			t.Errorf("%+v: %v", tc.opts, err)
			continue
		}
		if diff := cmp.Diff(tc.want, got.Values); diff != "" || got.Next != tc.next {
			t.Errorf("%+v: next %q (-want +got):\n%s", tc.opts, got.Next, diff)
		}
		if got.Usage.Keys != 7 || got.Usage.Bytes == 0 || got.Usage.QuotaBytes != 1<<30 {
			t.Errorf("%+v: usage %+v", tc.opts, got.Usage)
		}
	}
	for i, name := range []string{"a", "a/\x00", "a/b"} {
		if got, err := c.StatState(ctx, "", name); err != nil || cmp.Diff(&want[i], got) != "" {
			t.Errorf("StatState(%q): %+v, %v", name, got, err)
		}
	}
	for _, name := range []string{"a/", "lis", "zzz"} {
		_, err := c.StatState(ctx, "", name)
		wantProblem(t, name, err, client.CodeNoSuchValue)
	}
}

func TestClient_state(t *testing.T) {
	s := serveState(t, api.Options{})
	c, ctx := s.client(t), t.Context()
	for _, key := range []string{".", "..", "../..", "a/../../other/k", "/", "a//b/", "%2e%2e", "a?b#c", "\x00\r\n", "caf\u00e9", " ", strings.Repeat("\u20ac", 341)} {
		read := func(opts client.ReadStateOptions) (*client.StateValue, string) {
			t.Helper()
			v, err := c.ReadState(ctx, "", key, opts)
			if err != nil {
				t.Fatalf("%.50q: %v", key, err)
			}
			defer v.Body.Close()
			body, err := io.ReadAll(v.Body)
			if err != nil {
				t.Fatal(err)
			}
			return v, string(body)
		}
		if _, err := c.ReadState(ctx, "", key, client.ReadStateOptions{}); !errors.Is(err, &client.Problem{Code: client.CodeNoSuchValue}) {
			t.Errorf("%.50q: read of nothing: %v", key, err)
		}
		first, created, err := c.WriteState(ctx, "", key, strings.NewReader("0123456789"), client.WriteStateOptions{IfAbsent: true})
		if err != nil || !created || first.Size != 10 || first.Version == 0 {
			t.Fatalf("%.50q: first write: %+v, %t, %v", key, first, created, err)
		}
		_, _, err = c.WriteState(ctx, "", key, strings.NewReader("x"), client.WriteStateOptions{IfAbsent: true})
		wantProblem(t, "write of what is there", err, client.CodeVersionMismatch)
		if names := s.fakeHost.state.names(t, "default"); len(names) != 1 || names[0] != key {
			t.Errorf("%.50q became %.50q", key, names)
		}
		if v, body := read(client.ReadStateOptions{}); body != "0123456789" || v.StateInfo != *first || v.Offset != 0 || v.Length != 10 {
			t.Errorf("%.50q: read %q, %+v", key, body, v)
		}
		for r, want := range map[string]string{"2-4": "234", "7-": "789", "-1": "9"} {
			if v, body := read(client.ReadStateOptions{Range: r, IfVersion: first.Version}); body != want || v.StateInfo != *first || v.Length != int64(len(want)) || v.Offset != int64(want[0]-'0') {
				t.Errorf("%.50q: range %s: %q, %+v", key, r, body, v)
			}
		}
		_, err = c.ReadState(ctx, "", key, client.ReadStateOptions{Range: "10-"})
		wantProblem(t, "range behind the end", err, client.CodeRangeNotSatisfiable)
		second, created, err := c.WriteState(ctx, "", key, nil, client.WriteStateOptions{IfVersion: first.Version})
		if err != nil || created || second.Version <= first.Version || second.Size != 0 {
			t.Errorf("%.50q: second write: %+v, %t, %v", key, second, created, err)
		}
		_, err = c.ReadState(ctx, "", key, client.ReadStateOptions{IfVersion: first.Version})
		wantProblem(t, "read of an old version", err, client.CodeVersionMismatch)
		wantProblem(t, "delete of an old version", c.DeleteState(ctx, "", key, client.WriteStateOptions{IfVersion: first.Version}), client.CodeVersionMismatch)
		wantProblem(t, "delete of another's", c.DeleteState(ctx, "other", key, client.WriteStateOptions{}), client.CodeNoSuchValue)
		if err := c.DeleteState(ctx, "", key, client.WriteStateOptions{IfVersion: second.Version}); err != nil {
			t.Errorf("%.50q: delete: %v", key, err)
		}
		mustUnlock(t, mustLock(t, c, key, client.LockOptions{}))
	}
	for _, tenant := range []string{"..", "."} {
		if _, err := c.ReadState(ctx, tenant, "k", client.ReadStateOptions{}); !errors.Is(err, client.ErrEmptyName) {
			t.Errorf("tenant %q: %v", tenant, err)
		}
	}
	_, err := c.ReadState(ctx, "a/b", "k", client.ReadStateOptions{})
	wantProblem(t, "a tenant that is a path", err, client.CodeBadName)
	for _, key := range []string{"", "\xff", strings.Repeat("k", 1025)} {
		_, getErr := c.ReadState(ctx, "", key, client.ReadStateOptions{})
		_, _, putErr := c.WriteState(ctx, "", key, nil, client.WriteStateOptions{})
		_, statErr := c.StatState(ctx, "", key)
		_, lockErr := c.Lock(ctx, "", key, client.LockOptions{})
		for _, err := range []error{getErr, putErr, statErr, lockErr, c.DeleteState(ctx, "", key, client.WriteStateOptions{})} {
			if !errors.Is(err, client.ErrBadKey) {
				t.Errorf("key %.50q: %v", key, err)
			}
		}
	}
}
