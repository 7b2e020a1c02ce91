package daemon

import (
	"context"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/faasm-go/faasm/client"
	"github.com/faasm-go/faasm/internal/api"
	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/linux"
	"github.com/faasm-go/faasm/internal/state/global"
	"github.com/faasm-go/faasm/internal/state/redistest"
)

// stateClient is a client of a host.
func stateClient(t *testing.T, h *Host) *client.Client {
	t.Helper()
	s := httptest.NewServer(h.Handler())
	t.Cleanup(s.Close)
	c, err := client.New(s.URL, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func put(t *testing.T, c *client.Client, tenant, key, value string) {
	t.Helper()
	if _, _, err := c.WriteState(ctx, tenant, key, strings.NewReader(value), client.WriteStateOptions{}); err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

func wantValue(t *testing.T, c *client.Client, tenant, key, want string) {
	t.Helper()
	v, err := c.ReadState(ctx, tenant, key, client.ReadStateOptions{})
	if err != nil {
		t.Errorf("get %s: %v", key, err)
		return
	}
	defer v.Body.Close()
	if got, err := io.ReadAll(v.Body); err != nil || string(got) != want {
		t.Errorf("%s is %q, %v; want %q", key, got, err, want)
	}
}

// A host that can't have its state says why, in one line that has no password in it.
func TestNew_refusesBadState(t *testing.T) {
	locked := t.TempDir()
	store, err := global.OpenEmbedded(filepath.Join(locked, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	damaged := t.TempDir()
	if err := os.WriteFile(filepath.Join(damaged, "state.db"), []byte(strings.Repeat("no state\n", 2000)), 0o600); err != nil {
		t.Fatal(err)
	}
	noPEM := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(noPEM, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	port, err := redistest.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	const notLike = "state: its location is not like redis://"
	for _, tt := range []struct {
		opts Options
		want string
	}{
		{Options{State: "state.db"}, notLike},
		{Options{State: "http://:hunter2@store"}, notLike},
		{Options{State: "redis://"}, notLike},
		{Options{State: "redis://user:hunter2@store:port"}, notLike},
		{Options{State: "redis://user:hunter2@store:6379/%zz"}, notLike},
		{Options{State: "redis://store", StateCA: noPEM}, "for rediss locations only"},
		{Options{StateCA: noPEM}, "for rediss locations only"},
		{Options{State: "rediss://store", StateCA: "/nowhere/ca.pem"}, "/nowhere/ca.pem"},
		{Options{State: "rediss://:hunter2@store", StateCA: noPEM}, "no certificate"},
		{Options{State: fmt.Sprintf("redis://user:hunter2@127.0.0.1:%d", port)}, "connection refused"},
		{Options{StateQuota: -1}, "must not be negative"},
		{Options{DataDir: locked}, "state.db"},
		{Options{DataDir: damaged}, "state.db"},
	} {
		if tt.opts.DataDir == "" {
			tt.opts.DataDir = t.TempDir()
		}
		h, err := New(tt.opts)
		if err == nil {
			h.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.ContainsAny(err.Error(), "\n") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("New(%+v): %v; want one line with %q", tt.opts, err, tt.want)
		}
	}
}

func TestNew_refusesRedisWithTheWrongPassword(t *testing.T) {
	redis := redistest.New(t, "--requirepass", "sesame")
	for _, user := range []string{"", ":hunter2@"} {
		h, err := New(Options{DataDir: t.TempDir(), State: fmt.Sprintf("redis://%s127.0.0.1:%d", user, redis.Port)})
		if err == nil {
			h.Close()
		}
		if err == nil || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "hunter2") ||
			!strings.Contains(err.Error(), "NOAUTH") && !strings.Contains(err.Error(), "WRONGPASS") {
			t.Errorf("with %q: %v", user, err)
		}
	}
	h := newHost(t, Options{State: fmt.Sprintf("redis://:sesame@127.0.0.1:%d/0?client_name=hunter2", redis.Port)})
	if got, want := h.Info().State, fmt.Sprintf("redis://127.0.0.1:%d/0", redis.Port); got != want {
		t.Errorf("the host calls its store %q, want %q", got, want)
	}
}

// State in the data directory is there after a restart, and tenants have their own.
func TestState_embedded(t *testing.T) {
	dir := t.TempDir()
	h, err := New(Options{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	put(t, stateClient(t, h), "t", "k", "value")
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	h = newHost(t, Options{DataDir: dir})
	c := stateClient(t, h)
	wantValue(t, c, "t", "k", "value")
	if _, err := c.StatState(ctx, "u", "k"); !isProblem(err, client.CodeNoSuchValue) {
		t.Errorf("another tenant's: %v", err)
	}
	if info := h.Info(); info.State != "embedded" || info.StateQuotaBytes != 0 {
		t.Errorf("%+v", info)
	}
}

// What hosts do with one store is seen by all of them.
func TestHosts_shareState(t *testing.T) {
	store, err := global.OpenEmbedded(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The hosts that used it did not close it.
		if _, err := store.Stat(ctx, global.Key{Tenant: "t", Name: "given"}); err != nil {
			t.Errorf("after its hosts have ended: %v", err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Run("given", func(t *testing.T) { testSharedState(t, "given", Options{Store: store}) })
	t.Run("redis", func(t *testing.T) { testSharedState(t, "redis", Options{State: redistest.New(t).URL()}) })
}

func testSharedState(t *testing.T, key string, opts Options) {
	one, two := stateClient(t, newHost(t, opts)), stateClient(t, newHost(t, opts))
	large := strings.Repeat("0123456789abcdef", 300<<10) // 4.7 MiB: spooled, and more than one piece
	put(t, one, "t", key, large)
	wantValue(t, two, "t", key, large)
	put(t, two, "t", key, "two")
	wantValue(t, one, "t", key, "two")

	lock, err := one.Lock(ctx, "t", key, client.LockOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if l, err := two.Lock(ctx, "t", key, client.LockOptions{Timeout: 20 * time.Millisecond}); !isProblem(err, client.CodeLockTimeout) {
		t.Errorf("the lock of both: %v, %v", l, err)
	}
	if err := lock.Unlock(); err != nil {
		t.Error(err)
	}
	next, err := two.Lock(ctx, "t", key, client.LockOptions{Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer next.Unlock()
	_, _, err = one.WriteState(ctx, "t", key, strings.NewReader("late"), client.WriteStateOptions{Fence: lock.Token()})
	if !isProblem(err, client.CodeFenced) {
		t.Errorf("a late write: %v", err)
	}
	wantValue(t, two, "t", key, "two")
}

// A host whose Redis dies serves functions, says of state that it is not to be had, and
// has it again when Redis has.
func TestState_redisDies(t *testing.T) {
	redis := redistest.New(t)
	h := newHost(t, Options{State: redis.URL()})
	c := stateClient(t, h)
	deploy(t, h, "echo", api.Upload{})
	put(t, c, "t", "k", "value")
	redis.Kill()
	if _, _, err := c.WriteState(ctx, "t", "k", strings.NewReader("x"), client.WriteStateOptions{}); !isProblem(err, client.CodeStateUnavailable) {
		t.Errorf("put: %v", err)
	}
	if _, err := c.ListState(ctx, "t", client.ListStateOptions{}); !isProblem(err, client.CodeStateUnavailable) {
		t.Errorf("ls: %v", err)
	}
	if r := invoke(t, h, "echo", "x"); r.Outcome != call.Returned || string(r.Output) != "x" {
		t.Errorf("a call: %v, %q, %+v", r.Outcome, r.Output, r.Failure)
	}
	if err := redis.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "the host has its state again", func() bool {
		_, _, err := c.WriteState(ctx, "t", "k", strings.NewReader("y"), client.WriteStateOptions{})
		return err == nil
	})
	wantValue(t, c, "t", "k", "y")
}

// The quota is each tenant's, and told; the memory for replicas is a quarter of the
// machine's unless the host is told otherwise.
func TestState_options(t *testing.T) {
	h := newHost(t, Options{StateQuota: 10, StateMemory: 123 << 20})
	c := stateClient(t, h)
	put(t, c, "t", "k", "12345678")
	put(t, c, "u", "k", "12345678")
	_, _, err := c.WriteState(ctx, "t", "l", strings.NewReader("123"), client.WriteStateOptions{})
	if !isProblem(err, client.CodeQuota) {
		t.Errorf("11 bytes of 10: %v", err)
	}
	if list, err := c.ListState(ctx, "t", client.ListStateOptions{}); err != nil || list.Usage != (client.StateUsage{Keys: 1, Bytes: 8, QuotaBytes: 10}) {
		t.Errorf("%+v, %v", list, err)
	}
	if info := h.Info(); info.StateQuotaBytes != 10 || info.StateMemoryMax != 123<<20 {
		t.Errorf("%+v", info)
	}
	metrics, err := c.Metrics(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"faasm_state_replicas 0\n", "faasm_state_memory_bytes 0\n", "faasm_state_memory_max_bytes 1.28974848e+08\n",
		"faasm_state_sent_bytes_total 16\n", "faasm_state_received_bytes_total 0\n"} {
		if !strings.Contains(string(metrics), "\n"+want) {
			t.Errorf("the metrics lack %q", want)
		}
	}
	total, err := linux.MemTotal()
	if err != nil {
		t.Fatal(err)
	}
	if got := newHost(t, Options{}).Info().StateMemoryMax; got != total/4 {
		t.Errorf("memory for state is %d by default, of %d", got, total)
	}
}

// A lock that somebody holds over HTTP does not keep a host from ending.
func TestState_lockDoesNotOutliveTheHost(t *testing.T) {
	store, err := global.OpenEmbedded(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	e, err := NewEmbedded(Options{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(e.URL(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	lock, err := c.Lock(ctx, "t", "k", client.LockOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	<-lock.Lost()
	waiting, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	lease, err := store.Lock(waiting, global.Key{Tenant: "t", Name: "k"}, global.LockWrite)
	if err != nil {
		t.Fatalf("after the host has ended: %v", err)
	}
	if err := lease.Unlock(ctx); err != nil {
		t.Error(err)
	}
	lock.Unlock()
}
