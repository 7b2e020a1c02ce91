package client_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/faasm-go/faasm/client"
)

// A lock against a real server is tested in internal/api. Here are servers that are none.

// replyWith is a transport that answers every request with what write writes, and ends
// the reply when write returns or the request's context ends.
type replyWith func(ctx context.Context, w io.Writer)

func (write replyWith) RoundTrip(req *http.Request) (*http.Response, error) {
	r, w := io.Pipe()
	stop := context.AfterFunc(req.Context(), func() { w.CloseWithError(req.Context().Err()) })
	go func() {
		defer stop()
		write(req.Context(), w)
		w.Close()
	}()
	return &http.Response{StatusCode: 200, Body: r, Request: req, ContentLength: -1}, nil
}

func TestLock_ofServersThatAreNoHost(t *testing.T) {
	for reply, want := range map[string]string{
		"":                                "unexpected EOF",
		"\n":                              "no token",
		"{}\n":                            "no token",
		`{"token":"0"}` + "\n":            "no token",
		`{"token":5}` + "\n":              "unquoted",
		`{"token":"-5"}` + "\n":           "token",
		`{"lost":"x"}` + "\n":             "no token",
		"<html>\n":                        "invalid character",
		strings.Repeat("x", 1<<20) + "\n": "too long",
	} {
		synctest.Test(t, func(t *testing.T) {
			c, err := client.New("http://host", client.Options{HTTPClient: &http.Client{Transport: replyWith(func(_ context.Context, w io.Writer) { io.WriteString(w, reply) })}})
			if err != nil {
				t.Fatal(err)
			}
			if l, err := c.Lock(t.Context(), "", "k", client.LockOptions{}); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%.20q: %v, %v; want an error with %q", reply, l, err, want)
			}
		})
	}
}

// A host that is silent for long is taken for dead; one that gives signs of life is not.
func TestLock_lostInSilence(t *testing.T) {
	for _, tc := range []struct {
		name        string
		every       time.Duration
		lines       []string
		least, most time.Duration
		want        string
	}{
		{"silence", 0, nil, 10 * time.Second, 30 * time.Second, "said nothing"},
		{"signs of life, then silence", 15 * time.Second, []string{"\n", "\n", "\n"}, 50 * time.Second, 70 * time.Second, "said nothing"},
		{"a reason", 5 * time.Second, []string{"\n", `{"lost":"the reason"}` + "\n"}, 10 * time.Second, 10 * time.Second, "the reason"},
		{"nonsense", 5 * time.Second, []string{"what\n"}, 5 * time.Second, 5 * time.Second, "broke"},
	} {
		synctest.Test(t, func(t *testing.T) {
			transport := replyWith(func(ctx context.Context, w io.Writer) {
				io.WriteString(w, `{"token":"18446744073709551615"}`+"\n")
				for _, line := range tc.lines {
					time.Sleep(tc.every)
					io.WriteString(w, line)
				}
				<-ctx.Done()
			})
			c, err := client.New("http://host", client.Options{HTTPClient: &http.Client{Transport: transport}})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			l, err := c.Lock(ctx, "", "k", client.LockOptions{})
			if err != nil {
				t.Fatal(err)
			}
			cancel() // which is for the waiting alone
			if l.Token() != 1<<64-1 {
				t.Errorf("token %d", l.Token())
			}
			began := time.Now()
			<-l.Lost()
			if took := time.Since(began); took < tc.least || took > tc.most {
				t.Errorf("%s: lost after %s, want %s to %s", tc.name, took, tc.least, tc.most)
			}
			if err := l.Unlock(); !errors.Is(err, client.ErrLockLost) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: unlock: %v; want %q", tc.name, err, tc.want)
			}
		})
	}
}

// What claims to be part of a value must say which.
func TestReadState_ofServersThatAreNoHost(t *testing.T) {
	for _, tc := range []struct {
		ranges string
		status int
		header map[string]string
		want   string
	}{
		{"", 200, nil, "ETag"},
		{"", 200, map[string]string{"ETag": `"abc"`}, "ETag"},
		{"", 200, map[string]string{"ETag": `W/"5"`}, "ETag"},
		{"", 200, map[string]string{"ETag": `5`}, "ETag"},
		{"", 206, map[string]string{"ETag": `"5"`}, "Content-Range"},
		{"0-2", 206, map[string]string{"ETag": `"5"`, "Content-Range": "bytes 0-4/9"}, "Content-Range"},
		{"0-2", 206, map[string]string{"ETag": `"5"`, "Content-Range": "bytes */9"}, "Content-Range"},
		{"0-2", 200, map[string]string{"ETag": `"5"`}, "the whole value"},
	} {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			for k, v := range tc.header {
				w.Header().Set(k, v)
			}
			w.Header().Set("Content-Length", "3")
			w.WriteHeader(tc.status)
			io.WriteString(w, "abc")
		})
		if v, err := c.ReadState(t.Context(), "", "k", client.ReadStateOptions{Range: tc.ranges}); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %+v, %v", tc, v, err)
		}
	}
	// No length at all.
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"5"`)
		w.(http.Flusher).Flush()
		io.WriteString(w, "abc")
	})
	if v, err := c.ReadState(t.Context(), "", "k", client.ReadStateOptions{}); err == nil {
		t.Errorf("a value without a length: %+v", v)
	}
}
