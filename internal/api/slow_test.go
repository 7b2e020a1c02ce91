package api_test

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/faasm-go/faasm/client"
	"github.com/faasm-go/faasm/internal/api"
	"github.com/faasm-go/faasm/internal/call"
)

// pipeListener hands out one end of in-memory connections, on which deadlines run by
// the clock of the synctest bubble.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { close(l.closed); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (l *pipeListener) dial() net.Conn {
	a, b := net.Pipe()
	l.conns <- a
	return b
}

// inBubble runs a test against a server whose time is virtual.
func inBubble(t *testing.T, host *fakeHost, test func(l *pipeListener, s *api.Server)) {
	synctest.Test(t, func(t *testing.T) {
		host.following = make(chan struct{}, 1) // channels belong to the bubble that made them
		host.more = make(chan call.Line)
		host.unfollows = make(chan struct{}, 1)
		l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
		s := api.NewServer(api.New(host, api.Options{Log: slog.New(slog.DiscardHandler)}))
		served := make(chan error, 1)
		go func() { served <- s.Serve(l) }()
		test(l, s)
		s.Close()
		if err := <-served; err != http.ErrServerClosed {
			t.Errorf("Serve: %v", err)
		}
	})
}

func TestSlowClient_header(t *testing.T) {
	inBubble(t, newFakeHost(), func(l *pipeListener, _ *api.Server) {
		c := l.dial()
		began := time.Now()
		io.WriteString(c, "POST /f/default/echo HTTP/1.1\r\nHost:")
		io.ReadAll(c)
		if took := time.Since(began); took < time.Second || took > time.Minute {
			t.Errorf("half a header held the connection for %s", took)
		}
	})
}

func TestSlowClient_body(t *testing.T) {
	for _, tc := range []struct {
		name, request string
		most          time.Duration
	}{
		{"with a length", "Content-Length: 100\r\n\r\nhalf", time.Minute},
		{"chunked", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", 30 * time.Minute},
	} {
		inBubble(t, newFakeHost(), func(l *pipeListener, _ *api.Server) {
			c := l.dial()
			began := time.Now()
			io.WriteString(c, "POST /f/default/echo HTTP/1.1\r\nHost: x\r\n"+tc.request)
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatalf("%s: %v", tc.name, err)
			}
			if p := problem(t, readReply(t, resp)); p.Code != client.CodeBadRequest || !strings.Contains(p.Detail, "too slowly") {
				t.Errorf("%s: %s: %s", tc.name, p.Code, p.Detail)
			}
			if took := time.Since(began); took > tc.most {
				t.Errorf("%s: held for %s", tc.name, took)
			}
			if n, err := io.Copy(io.Discard, c); n != 0 || err != nil {
				t.Errorf("%s: then %d bytes, %v; want the end of the connection", tc.name, n, err)
			}
		})
	}
}

// A body that no handler reads must not hold a connection either.
func TestSlowClient_bodyOfNoRoute(t *testing.T) {
	inBubble(t, newFakeHost(), func(l *pipeListener, _ *api.Server) {
		c := l.dial()
		began := time.Now()
		io.WriteString(c, "POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
		io.ReadAll(c)
		if took := time.Since(began); took > 5*time.Minute {
			t.Errorf("held for %s", took)
		}
	})
}

// The time for the body must not run on while the function runs.
func TestSlowClient_deadlineEndsWithTheBody(t *testing.T) {
	host := newFakeHost()
	host.run["slow"] = func(ctx context.Context, inv api.Invocation) (*call.Result, error) {
		select {
		case <-time.After(3 * time.Hour):
			return returned(0, inv.Input), nil
		case <-ctx.Done():
			return &call.Result{Outcome: call.Cancelled}, nil
		}
	}
	inBubble(t, host, func(l *pipeListener, _ *api.Server) {
		c := l.dial()
		io.WriteString(c, "POST /f/default/slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		if r := readReply(t, resp); r.StatusCode != 200 || string(r.body) != "body" {
			t.Errorf("status %d, body %q", r.StatusCode, r.body)
		}
	})
}

func TestSlowClient_takesNoOutput(t *testing.T) {
	host := newFakeHost()
	var ended atomic.Bool
	host.run["large"] = func(ctx context.Context, inv api.Invocation) (*call.Result, error) {
		context.AfterFunc(ctx, func() { ended.Store(true) })
		return returned(0, make([]byte, 1<<20)), nil
	}
	inBubble(t, host, func(l *pipeListener, _ *api.Server) {
		c := l.dial()
		io.WriteString(c, "POST /f/default/large HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
		synctest.Wait()
		if ended.Load() {
			t.Fatal("the request ended before its time")
		}
		time.Sleep(10 * time.Minute) // virtual
		synctest.Wait()
		if !ended.Load() {
			t.Error("a client that reads nothing still holds its request")
		}
		if got, err := io.ReadAll(c); err == nil && len(got) > 1<<20 {
			t.Errorf("the reply came whole: %d bytes", len(got))
		}
	})
}

func TestFollow_clientThatTakesNothing(t *testing.T) {
	host := newFakeHost()
	host.functions[[2]string{"default", "echo"}] = client.FunctionInfo{}
	inBubble(t, host, func(l *pipeListener, _ *api.Server) {
		c := l.dial()
		io.WriteString(c, "GET /v1/functions/default/echo/logs?follow=true HTTP/1.1\r\nHost: x\r\n\r\n")
		r := bufio.NewReader(c)
		if _, err := http.ReadResponse(r, nil); err != nil {
			t.Fatal(err)
		}
		<-host.following
		time.Sleep(time.Hour) // virtual; a quiet log is no slow client
		host.more <- call.Line{Text: "nobody reads this"}
		time.Sleep(time.Hour)
		synctest.Wait()
		select {
		case <-host.unfollows:
		default:
			t.Error("the log is still followed")
		}
	})
}

func TestShutdown_endsWaitsAndFollowedLogs(t *testing.T) {
	host := newFakeHost()
	host.functions[[2]string{"default", "echo"}] = client.FunctionInfo{}
	inBubble(t, host, func(l *pipeListener, s *api.Server) {
		id := host.addCall(call.Record{State: call.Running}, nil).String()
		wait, follow := l.dial(), l.dial()
		io.WriteString(wait, "GET /v1/calls/"+id+"?wait=5m HTTP/1.1\r\nHost: x\r\n\r\n")
		<-host.following // Wait tells of itself here too
		io.WriteString(follow, "GET /v1/functions/default/echo/logs?follow=true HTTP/1.1\r\nHost: x\r\n\r\n")
		followed := bufio.NewReader(follow)
		log, err := http.ReadResponse(followed, nil)
		if err != nil {
			t.Fatal(err)
		}
		<-host.following

		began := time.Now()
		down := make(chan error, 1)
		go func() { down <- s.Shutdown(context.Background()) }()
		resp, err := http.ReadResponse(bufio.NewReader(wait), nil)
		if err != nil {
			t.Fatal(err)
		}
		if r := readReply(t, resp); r.StatusCode != 200 || !strings.Contains(string(r.body), `"state":"running"`) {
			t.Errorf("wait: %d %s", r.StatusCode, r.body)
		}
		if r := readReply(t, log); len(r.body) != 0 {
			t.Errorf("followed log: %q", r.body)
		}
		if err := <-down; err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if took := time.Since(began); took > time.Minute {
			t.Errorf("Shutdown took %s", took)
		}
	})
}
