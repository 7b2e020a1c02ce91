package api_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/faasm-go/faasm/internal/api"
	"github.com/faasm-go/faasm/internal/state/global"
)

// FuzzStatePath looks for a path, or conditions, that the routes of state answer with an
// error of their own making, and for one that reads or writes another value than the one it
// names. path is what follows /v1/state/, and each line of a header a field.
func FuzzStatePath(f *testing.F) {
	long := strings.Repeat("k", 2000)
	for _, path := range []string{
		"canary/secret", "canary/secret?", "canary", "canary/", "canary//secret", "other/../canary/secret", "other/..%2Fcanary%2Fsecret",
		"canary%2Fsecret", "canary%2Fsecret/é", "canary%2Fx/y|", "canary%252Fsecret", "canary/secret%00", "canary%00/secret", "%00/%00",
		"canary/%ff", "\xff/\xc0\xaf", "canary/%c0%af", "", "/", "//", "/secret", "./canary/secret", "%2e%2e/canary/secret", "CANARY/secret",
		"canary/" + long, long + "/secret", strings.Repeat("a/", 1000), "canary/%zz", "canary/%", "other/caf\u00e9", "other/cafe\u0301", "other/%C3%A9",
		"canary/secret#x", "canary;x/secret", "canary/secret;x", "other?prefix=&after=&limit=18446744073709551616", "canary?prefix=%ff", "other?prefix=../canary/",
		"other/\u202e\u2215", "canary\\secret", "canary%5csecret", "*", "other/k", "%2F\x80",
	} {
		for method := range byte(4) {
			f.Add(method, path, "", "", "", []byte("body"))
		}
	}
	for _, fields := range []string{
		"bytes=0-0", "bytes=-5", "bytes=5-", "bytes=-0", "bytes=0-1,5-6", "bytes=0-0\nbytes=1-1", "bytes=18446744073709551616-", "bytes=-18446744073709551616",
		"bytes=9223372036854775807-9223372036854775807", "bytes=5-1", "bytes=--1", "bytes=a-b", "bytes=", "items=0-1", "*", `"1"`, `W/"1"`, `"1", "2"`, `"`, ",", "\n",
		`"18446744073709551616"`, `"01"`, "\xff",
	} {
		for method := range byte(4) {
			f.Add(method, "canary/secret", fields, "", "", []byte{})
			f.Add(method, "canary/secret", "", fields, "", []byte{})
			f.Add(method, "canary/secret", "bytes=1-", "", fields, []byte("x"))
		}
	}

	s := serveState(f, api.Options{})
	store := s.fakeHost.state.Embedded
	const mark = "4ff3f2f6-7b0e"
	canary, secret := global.Key{Tenant: "canary", Name: "secret"}, []byte("the mark is "+mark+" and nobody else's")
	write := func(t testing.TB, key global.Key, value []byte) {
		t.Helper()
		if _, err := store.Write(context.Background(), key, int64(len(value)), bytes.NewReader(value), global.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	write(f, canary, secret)
	write(f, global.Key{Tenant: "canary", Name: mark}, nil)
	stored := func(t testing.TB, key global.Key) (value []byte, ok bool) {
		t.Helper()
		value = make([]byte, 1<<20)
		n, _, err := store.Read(context.Background(), key, 0, value)
		if err != nil && !errors.Is(err, global.ErrNotFound) && !errors.Is(err, global.ErrInvalid) {
			t.Fatal(err)
		}
		return value[:n], err == nil
	}

	f.Fuzz(func(t *testing.T, method byte, path, ranges, match, noneMatch string, body []byte) {
		verb := []string{"GET", "PUT", "HEAD", "DELETE"}[method%4]
		if strings.Contains(path, "\n") || strings.Contains(path+string(body), mark) || len(body) > 1<<10 {
			return // a header, or no secret
		}
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(verb + " /v1/state/" + path + " HTTP/1.1\r\nHost: x\r\n" +
			fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body))))
		if err != nil {
			return // which net/http refuses
		}
		for name, fields := range map[string]string{"Range": ranges, "If-Match": match, "If-None-Match": noneMatch} {
			if fields != "" {
				r.Header[name] = strings.Split(fields, "\n")
			}
		}
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, r)
		got := reply{w.Result(), w.Body.Bytes()}

		// What the path names, in the plainest reading.
		named, _, _ := strings.Cut(path, "?")
		tenant, name, ofKey := strings.Cut(named, "/")
		key := global.Key{}
		var errTenant, errName error
		key.Tenant, errTenant = url.PathUnescape(tenant)
		key.Name, errName = url.PathUnescape(name)
		isKey := ofKey && errTenant == nil && errName == nil

		switch {
		case got.StatusCode >= 500:
			t.Errorf("%s %q: status %d: %.300q", verb, path, got.StatusCode, got.body)
		case got.StatusCode >= 400:
			if p := problem(t, got); p.Code == "" {
				t.Errorf("%s %q: status %d without a code", verb, path, got.StatusCode)
			}
		case ofKey && !isKey, got.StatusCode >= 300 && got.StatusCode != http.StatusNotModified:
			t.Errorf("%s %q: status %d", verb, path, got.StatusCode)
		}
		if ours := isKey && key == canary || !ofKey && key.Tenant == canary.Tenant; !ours && bytes.Contains(got.body, []byte(mark)) {
			t.Errorf("%s %q: what is of another key: %q", verb, path, got.body)
		}
		if verb == "GET" && isKey && key == canary {
			want := secret
			switch got.StatusCode {
			case http.StatusPartialContent:
				var from, to, size int
				if _, err := fmt.Sscanf(got.Header.Get("Content-Range"), "bytes %d-%d/%d", &from, &to, &size); err != nil || size != len(secret) || from > to || to >= size {
					t.Fatalf("Content-Range %q: %v", got.Header.Get("Content-Range"), err)
				}
				want = secret[from : to+1]
				fallthrough
			case http.StatusOK:
				if !bytes.Equal(got.body, want) {
					t.Errorf("GET %q, Range %q: %q, want %q", path, ranges, got.body, want)
				}
			}
		}
		if verb == "GET" || verb == "HEAD" {
			return
		}
		done := got.StatusCode < 300
		if verb == "PUT" && done {
			if value, ok := stored(t, key); !ok || !bytes.Equal(value, body) {
				t.Errorf("PUT %q: %q is stored, %v, want %q", path, value, ok, body)
			}
			if err := store.Delete(context.Background(), key, global.Condition{}); err != nil {
				t.Error(err)
			}
		}
		if done && key == canary {
			if _, ok := stored(t, canary); ok {
				t.Errorf("DELETE %q: it is there", path)
			}
			write(t, canary, secret)
		}
		if value, ok := stored(t, canary); !ok || !bytes.Equal(value, secret) {
			t.Errorf("%s %q: the value of another key is %q, %v", verb, path, value, ok)
		}
	})
}
