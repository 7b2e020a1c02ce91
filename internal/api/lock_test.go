package api_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/faasm-go/faasm/client"
	"github.com/faasm-go/faasm/internal/api"
	"github.com/faasm-go/faasm/internal/state/global"
)

// soon is how long to wait for a lock that is about to be free.
const soon = time.Minute

func mustLock(t testing.TB, c *client.Client, key string, opts client.LockOptions) *client.Lock {
	t.Helper()
	if opts.Timeout == 0 {
		opts.Timeout = soon
	}
	l, err := c.Lock(t.Context(), "", key, opts)
	if err != nil {
		t.Fatalf("lock %q, %+v: %v", key, opts, err)
	}
	return l
}

func mustUnlock(t testing.TB, l *client.Lock) {
	t.Helper()
	if err := l.Unlock(); err != nil {
		t.Errorf("unlock: %v", err)
	}
}

func TestLock_excludes(t *testing.T) {
	s := serveState(t, api.Options{})
	c := s.client(t)
	for _, tc := range []struct {
		held, wanted client.LockOptions
		free         bool
	}{
		{client.LockOptions{}, client.LockOptions{}, false},
		{client.LockOptions{}, client.LockOptions{Read: true}, false},
		{client.LockOptions{Read: true}, client.LockOptions{}, false},
		{client.LockOptions{Read: true}, client.LockOptions{Read: true}, true},
	} {
		held := mustLock(t, c, "a//..", tc.held)
		other := mustLock(t, c, "b", client.LockOptions{}) // another key's lock is another lock
		mustUnlock(t, other)
		if !tc.free {
			tc.wanted.Timeout = 10 * time.Millisecond
			_, err := c.Lock(t.Context(), "", "a//..", tc.wanted)
			wantProblem(t, fmt.Sprintf("%+v while %+v", tc.wanted, tc.held), err, client.CodeLockTimeout)
			mustUnlock(t, held)
			tc.wanted.Timeout = 0
		}
		second := mustLock(t, c, "a//..", tc.wanted)
		if second.Token() <= held.Token() {
			t.Errorf("token %d comes after %d", second.Token(), held.Token())
		}
		mustUnlock(t, second)
		if tc.free {
			mustUnlock(t, held)
		}
		select {
		case <-held.Lost():
			t.Error("a lock that was let go of counts as lost")
		default:
		}
	}
}

// A change under the token of a lock that is over is refused.
func TestLock_fences(t *testing.T) {
	s := serveState(t, api.Options{})
	c, ctx := s.client(t), t.Context()
	write := func(token uint64, value string) error {
		_, _, err := c.WriteState(ctx, "", "k", strings.NewReader(value), client.WriteStateOptions{Fence: token})
		return err
	}
	first := mustLock(t, c, "k", client.LockOptions{})
	if err := write(first.Token(), "first"); err != nil {
		t.Fatal(err)
	}
	mustUnlock(t, first)
	second := mustLock(t, c, "k", client.LockOptions{})
	defer second.Unlock()
	wantProblem(t, "WriteState", write(first.Token(), "late"), client.CodeFenced)
	wantProblem(t, "DeleteState", c.DeleteState(ctx, "", "k", client.WriteStateOptions{Fence: first.Token()}), client.CodeFenced)
	if err := write(second.Token(), "second"); err != nil {
		t.Error(err)
	}
	v, err := c.ReadState(ctx, "", "k", client.ReadStateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Body.Close()
	if got, err := io.ReadAll(v.Body); err != nil || string(got) != "second" {
		t.Errorf("the value is %q, %v", got, err)
	}
}

// A lock dies with the connection of who holds it, and who waits for it no longer is not
// in the way of others.
func TestLock_diesWithItsClient(t *testing.T) {
	s := serveState(t, api.Options{})
	c := s.client(t)
	const request = "POST /v1/locks/default/k?timeout=1m HTTP/1.1\r\nHost: x\r\n\r\n"
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, request)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(resp.Body).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, `{"token":"`) || resp.Header.Get("Content-Type") != "application/x-ndjson" {
		t.Fatalf("%q, %v, %v", line, err, resp.Header)
	}
	waiter, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(waiter, request)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Lock(ctx, "", "k", client.LockOptions{Timeout: soon}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a lock that the client gave up waiting for: %v", err)
	}
	waiter.Close()
	conn.Close()
	mustUnlock(t, mustLock(t, c, "k", client.LockOptions{}))
}

func TestLock_lost(t *testing.T) {
	s := serveState(t, api.Options{})
	l := mustLock(t, s.client(t), "k", client.LockOptions{})
	if err := s.fakeHost.state.Embedded.Close(); err != nil {
		t.Fatal(err)
	}
	<-l.Lost()
	if err := l.Unlock(); !errors.Is(err, client.ErrLockLost) || !strings.Contains(err.Error(), "renew") {
		t.Errorf("unlock: %v", err)
	}
	if err := l.Unlock(); !errors.Is(err, client.ErrLockLost) {
		t.Errorf("unlock again: %v", err)
	}
}

// A host that goes away takes the lock with it, and the holder is told.
func TestLock_lostWithTheHost(t *testing.T) {
	for name, end := range map[string]func(s *testServer){
		"the host is shutting down": func(s *testServer) { s.server.Shutdown(context.Background()) },
		"the connection":            func(s *testServer) { s.server.Close() },
	} {
		s := serveState(t, api.Options{})
		c := s.client(t)
		l := mustLock(t, c, "k", client.LockOptions{})
		waits := make(chan error)
		go func() {
			_, err := c.Lock(t.Context(), "", "k", client.LockOptions{Timeout: soon})
			waits <- err
		}()
		end(s)
		<-l.Lost()
		if err := l.Unlock(); !errors.Is(err, client.ErrLockLost) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: unlock: %v", name, err)
		}
		if err := <-waits; err == nil {
			t.Errorf("%s: who waited got the lock", name)
		}
	}
}

func TestLock_boundedInNumber(t *testing.T) {
	s := serveState(t, api.Options{})
	s.fakeHost.state.noLocks = true
	c := s.client(t)
	ctx, cancel := context.WithCancel(t.Context())
	const most = 1024
	var wg sync.WaitGroup
	for range most {
		wg.Go(func() {
			if _, err := c.Lock(ctx, "", "k", client.LockOptions{Timeout: soon}); !errors.Is(err, context.Canceled) {
				t.Errorf("a lock that is waited for: %v", err)
			}
		})
	}
	for end := time.Now().Add(time.Minute); s.fakeHost.state.waiting.Load() < most; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d requests wait for a lock, want %d", s.fakeHost.state.waiting.Load(), most)
		}
	}
	_, err := c.Lock(t.Context(), "", "k", client.LockOptions{})
	if p := wantProblem(t, "one lock more", err, client.CodeOverloaded); p.RetryAfter == 0 {
		t.Error("no Retry-After")
	}
	cancel()
	wg.Wait()
}

// The host says something every few seconds, and takes the lock from whoever does not
// listen, or has gone in a way that it is not told of.
func TestLock_signsOfLife(t *testing.T) {
	dir := t.TempDir()
	for name, leave := range map[string]func(c net.Conn, body *bufio.Reader){
		"takes nothing": func(net.Conn, *bufio.Reader) {},
		// net/http sees these bytes and nothing after them.
		"sends bytes and goes": func(c net.Conn, _ *bufio.Reader) { io.WriteString(c, "x"); c.Close() },
		"listens and goes": func(c net.Conn, body *bufio.Reader) {
			for range 10 {
				if line, err := body.ReadString('\n'); err != nil || line != "\n" {
					t.Errorf("a sign of life: %q, %v", line, err)
				}
			}
			c.Close()
		},
	} {
		host := newFakeHost()
		inBubble(t, host, func(l *pipeListener, _ *api.Server) {
			store, err := global.OpenEmbedded(filepath.Join(dir, strings.ReplaceAll(name, " ", "-")))
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			host.state = &fakeState{Embedded: store}
			c := l.dial()
			defer c.Close()
			io.WriteString(c, "POST /v1/locks/default/k HTTP/1.1\r\nHost: x\r\n\r\n")
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			body := bufio.NewReader(resp.Body)
			if line, err := body.ReadString('\n'); err != nil || !strings.Contains(line, "token") {
				t.Fatalf("%s: %q, %v", name, line, err)
			}
			synctest.Wait()
			leave(c, body)
			began := time.Now()
			lease, err := store.Lock(context.Background(), global.Key{Tenant: "default", Name: "k"}, global.LockWrite)
			if err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took > time.Minute {
				t.Errorf("%s: the lock was free after %s", name, took)
			}
			lease.Unlock(context.Background())
		})
	}
}
