package global

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func take(t testing.TB, s Store, key Key, mode LockMode) *Lease {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	l, err := s.Lock(ctx, key, mode)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func unlock(t testing.TB, l *Lease) {
	t.Helper()
	if err := l.Unlock(t.Context()); err != nil {
		t.Error(err)
	}
}

// queued waits until n stand in the queue of a lock.
func queued(t testing.TB, s Store, key Key, n int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		got := 0
		switch s := s.(type) {
		case *Embedded:
			s.locks.mu.Lock()
			if l := s.locks.mu.locks[string(keyOf(key))]; l != nil {
				got = len(l.queue)
			}
			s.locks.mu.Unlock()
		case *Redis:
			card, err := s.client.Do(t.Context(), s.client.B().Zcard().Key(prefix(key.Tenant)+"lq:"+key.Name).Build()).AsInt64()
			if err != nil {
				t.Fatal(err)
			}
			got = int(card)
		}
		if got == n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d wait for the lock, want %d", got, n)
		}
		time.Sleep(time.Millisecond) // between looks at another process
	}
}

func TestLock_timeout(t *testing.T) {
	drivers(t, func(t *testing.T, open hosts) {
		s, other := open(t), open(t)
		for _, row := range []struct{ held, wanted LockMode }{{LockWrite, LockWrite}, {LockWrite, LockRead}, {LockRead, LockWrite}} {
			held := take(t, s, aKey, row.held)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
			if _, err := other.Lock(ctx, aKey, row.wanted); !errors.Is(err, ErrTimeout) || errors.Is(err, ErrUnavailable) {
				t.Errorf("lock to %d while held to %d: %v, want ErrTimeout", row.wanted, row.held, err)
			}
			cancel()
			ctx, cancelCause := context.WithCancelCause(t.Context())
			mine := errors.New("mine")
			cancelCause(mine)
			if _, err := other.Lock(ctx, aKey, row.wanted); !errors.Is(err, mine) || errors.Is(err, ErrTimeout) {
				t.Errorf("lock with a context that was cancelled: %v", err)
			}
			// Who gave up is in nobody's way.
			queued(t, s, aKey, 0)
			unlock(t, held)
			unlock(t, take(t, other, aKey, LockWrite))
		}
	})
}

func TestLock_readersShare(t *testing.T) {
	drivers(t, func(t *testing.T, open hosts) {
		s, other := open(t), open(t)
		a, b := take(t, s, aKey, LockRead), take(t, other, aKey, LockRead)
		if b.Token() <= a.Token() {
			t.Errorf("token %d after %d", b.Token(), a.Token())
		}
		elsewhere := take(t, other, Key{"t2", "k"}, LockWrite)
		unlock(t, elsewhere)
		unlock(t, a)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if _, err := s.Lock(ctx, aKey, LockWrite); !errors.Is(err, ErrTimeout) {
			t.Errorf("a writer beside a reader: %v", err)
		}
		unlock(t, b)
		if err := b.Unlock(t.Context()); err != nil {
			t.Errorf("second Unlock: %v", err)
		}
		unlock(t, take(t, s, aKey, LockWrite))
	})
}

// Those who wait are served in the order of arrival: a writer is not starved by readers
// that come after it, nor readers by writers. They are woken: the lease is so long that
// nobody would ask again by himself while this test runs.
func TestLock_orderAndWaking(t *testing.T) {
	run := func(t *testing.T, open hosts) {
		stores := []Store{open(t), open(t)}
		first := take(t, stores[0], aKey, LockRead)
		order := make(chan int, 10)
		var g, both sync.WaitGroup
		both.Add(2)
		modes := []LockMode{LockWrite, LockRead, LockRead, LockWrite, LockWrite, LockRead}
		for i, mode := range modes {
			g.Go(func() {
				l := take(t, stores[i%2], aKey, mode)
				order <- i
				if i == 1 || i == 2 {
					both.Done()
					both.Wait() // the two readers hold it at once
				}
				unlock(t, l)
			})
			queued(t, stores[0], aKey, i+1)
		}
		begun := time.Now()
		unlock(t, first)
		if got := <-order; got != 0 {
			t.Errorf("%d was first", got)
		}
		a, b := <-order, <-order
		if a+b != 3 || a == 0 || b == 0 {
			t.Errorf("%d and %d were next, want the readers 1 and 2", a, b)
		}
		for _, want := range []int{3, 4, 5} {
			if got := <-order; got != want {
				t.Errorf("%d was next, want %d", got, want)
			}
		}
		g.Wait()
		t.Logf("six hand-overs in %v", time.Since(begun))
	}
	t.Run("embedded", func(t *testing.T) { run(t, embeddedHosts(t)) })
	t.Run("redis", func(t *testing.T) { run(t, redisHosts(redisURL(t), RedisOptions{Lease: 10 * time.Minute})) })
	t.Run("cluster", func(t *testing.T) { run(t, redisHosts(clusterURL(t), RedisOptions{Lease: 10 * time.Minute})) })
}

// Counters that are read and written under the lock lose no update, and tokens grow.
func TestLock_exclusion(t *testing.T) {
	drivers(t, func(t *testing.T, open hosts) {
		stores := []Store{open(t), open(t)}
		write(t, stores[0], aKey, make([]byte, 8))
		const workers, rounds = 6, 15
		var held atomic.Int32
		var last atomic.Uint64
		var g sync.WaitGroup
		for w := range workers {
			g.Go(func() {
				s := stores[w%2]
				for range rounds {
					l := take(t, s, aKey, LockWrite)
					if n := held.Add(1); n != 1 {
						t.Errorf("%d hold the lock", n)
					}
					if was := last.Swap(l.Token()); was >= l.Token() {
						t.Errorf("token %d after %d", l.Token(), was)
					}
					b := make([]byte, 8)
					if _, _, err := s.Read(t.Context(), aKey, 0, b); err != nil {
						t.Error(err)
					}
					b[0]++
					if _, err := s.Patch(t.Context(), aKey, []Range{{0, b}}, Condition{Fence: l.Token()}); err != nil {
						t.Error(err)
					}
					held.Add(-1)
					unlock(t, l)
				}
			})
		}
		g.Wait()
		if b, _ := read(t, stores[0], aKey); b[0] != workers*rounds {
			t.Errorf("%d updates are left of %d", b[0], workers*rounds)
		}
	})
}

// Tokens grow over a restart of the embedded store, and those from before are refused.
func TestEmbedded_tokensAfterRestart(t *testing.T) {
	path := t.TempDir() + "/state.db"
	var last uint64
	for range 3 {
		e, err := OpenEmbedded(path)
		if err != nil {
			t.Fatal(err)
		}
		if last != 0 {
			if _, err := e.Write(t.Context(), aKey, 0, nil, Condition{Fence: last}); !errors.Is(err, ErrFenced) {
				t.Errorf("a write with a token from before: %v", err)
			}
		}
		l := take(t, e, aKey, LockWrite)
		if l.Token() <= last {
			t.Errorf("token %d after %d", l.Token(), last)
		}
		last = l.Token()
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// childLock holds a lock, and writes under it when it is told to.
func childLock(url string) {
	ctx := context.Background()
	r, err := OpenRedis(ctx, url, RedisOptions{Lease: 300 * time.Millisecond})
	if err != nil {
		panic(err)
	}
	l, err := r.Lock(ctx, aKey, LockWrite)
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Token())
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		_, writeErr := r.Write(ctx, aKey, 4, strings.NewReader("late"), Condition{Fence: l.Token()})
		_, patchErr := r.Patch(ctx, aKey, []Range{{2 * ChunkBytes, []byte("late")}}, Condition{Fence: l.Token()})
		fmt.Println(errors.Is(writeErr, ErrFenced), errors.Is(patchErr, ErrFenced), writeErr, patchErr)
		<-l.Lost()
		fmt.Println(errors.Is(l.Unlock(ctx), ErrLeaseLost))
	}
}

// A holder that is stopped loses its lease to another; its late changes are refused, and
// it hears of it.
func TestRedis_pausedHolder(t *testing.T) {
	for name, url := range map[string]func(testing.TB) string{"redis": redisURL, "cluster": clusterURL} {
		t.Run(name, func(t *testing.T) {
			url := url(t)
			s := openRedis(t, url, RedisOptions{Lease: 300 * time.Millisecond})
			write(t, s, aKey, make([]byte, 3*ChunkBytes))
			cmd := exec.Command(os.Args[0], "-global.child=lock", url)
			cmd.Stderr = os.Stderr
			in, _ := cmd.StdinPipe()
			out, _ := cmd.StdoutPipe()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Wait()
			defer in.Close()
			lines := bufio.NewScanner(out)
			lines.Scan()
			var token uint64
			fmt.Sscan(lines.Text(), &token)
			// While it runs it keeps the lock, for longer than the lease lasts.
			ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
			if _, err := s.Lock(ctx, aKey, LockRead); !errors.Is(err, ErrTimeout) {
				t.Errorf("lock while another holds and renews it: %v", err)
			}
			cancel()
			cmd.Process.Signal(syscall.SIGSTOP)
			l := take(t, s, aKey, LockWrite)
			if token == 0 || l.Token() <= token {
				t.Errorf("token %d after %d", l.Token(), token)
			}
			if _, err := s.Write(t.Context(), aKey, 4, strings.NewReader("mine"), Condition{Fence: l.Token()}); err != nil {
				t.Error(err)
			}
			cmd.Process.Signal(syscall.SIGCONT)
			fmt.Fprintln(in, "go on")
			lines.Scan()
			if !strings.HasPrefix(lines.Text(), "true true") {
				t.Errorf("late changes: %s", lines.Text())
			}
			lines.Scan()
			if lines.Text() != "true" {
				t.Errorf("late unlock is ErrLeaseLost: %s", lines.Text())
			}
			if b, _ := read(t, s, aKey); string(b) != "mine" {
				t.Errorf("the value is %q", b)
			}
			unlock(t, l)
		})
	}
}

// A waiter that dies is passed over when its place runs out.
func TestRedis_deadWaiter(t *testing.T) {
	url := redisURL(t)
	s := openRedis(t, url, RedisOptions{Lease: 300 * time.Millisecond})
	held := take(t, s, aKey, LockWrite)
	cmd := exec.Command(os.Args[0], "-global.child=lock", url)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	queued(t, s, aKey, 1)
	cmd.Process.Kill()
	cmd.Wait()
	got := make(chan *Lease)
	go func() { got <- take(t, s, aKey, LockRead) }()
	queued(t, s, aKey, 2)
	unlock(t, held)
	unlock(t, <-got)
}
