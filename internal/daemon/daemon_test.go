package daemon

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/faasm-go/faasm/client"
	"github.com/faasm-go/faasm/internal/api"
	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/workloads"
)

var ctx = context.Background()

func newHost(t *testing.T, opts Options) *Host {
	t.Helper()
	if opts.DataDir == "" {
		opts.DataDir = t.TempDir()
	}
	h, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Errorf("close host: %v", err)
		}
	})
	return h
}

func deploy(t *testing.T, h *Host, name string, up api.Upload) {
	t.Helper()
	up.Tenant, up.Wasm = "t", bytes.Clone(workloads.Wasm(name))
	if up.Function == "" {
		up.Function = name
	}
	if _, _, err := h.Deploy(ctx, up); err != nil {
		t.Fatal(err)
	}
}

func invoke(t *testing.T, h *Host, name, input string) *call.Result {
	t.Helper()
	_, r, done, err := h.Invoke(ctx, api.Invocation{Tenant: "t", Function: name, Input: []byte(input)})
	if err != nil {
		t.Fatal(err)
	}
	done()
	return r
}

func TestNew_refusesBadOptions(t *testing.T) {
	for _, tt := range []struct {
		opts Options
		want string
	}{
		{Options{}, "data directory is not set"},
		{Options{DataDir: "/proc/none/such"}, "/proc/none"},
		{Options{DataDir: t.TempDir(), MemoryMax: 5 << 30}, "exceeds what a Faaslet can have with profile fast"},
		{Options{DataDir: t.TempDir(), MemoryDefault: 2 << 20, MemoryMax: 1 << 20}, "default memory limit"},
		{Options{DataDir: t.TempDir(), TimeoutDefault: 2 * time.Hour}, "default timeout"},
		{Options{DataDir: t.TempDir(), OutputMax: -1}, "must not be negative"},
		{Options{DataDir: t.TempDir(), KeepVersions: -1}, "must not be negative"},
		{Options{DataDir: t.TempDir(), Profile: "slow"}, `profile "slow" is neither fast nor dense`},
		{Options{DataDir: t.TempDir(), Profile: ProfileDense, MemoryMax: 1 << 30}, "exceeds what a Faaslet can have with profile dense"},
		{Options{DataDir: t.TempDir(), Registry: "ftp://store/functions"}, `scheme "ftp" is not one of s3`},
		{Options{DataDir: t.TempDir(), Registry: "/proc/none/such"}, "open registry"},
		{Options{DataDir: t.TempDir(), ClusterKey: "/dev/null"}, "/dev/null"},
		{Options{DataDir: t.TempDir(), ClusterKey: "/nowhere/at/all"}, "/nowhere/at/all"},
	} {
		h, err := New(tt.opts)
		if err == nil {
			h.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("New(%+v): %v; want %q", tt.opts, err, tt.want)
		}
	}
}

func TestDeploy_limits(t *testing.T) {
	h := newHost(t, Options{MemoryDefault: 1 << 20, MemoryMax: 8 << 20, TimeoutDefault: time.Second, TimeoutMax: 10 * time.Second})
	for _, tt := range []struct {
		name string
		up   api.Upload
		code client.Code
	}{
		{"too much memory", api.Upload{MemoryBytes: 9 << 20}, client.CodeBadRequest},
		{"too long", api.Upload{Timeout: time.Minute}, client.CodeBadRequest},
		{"less memory than it begins with", api.Upload{MemoryBytes: 64 << 10}, client.CodeLimitTooSmall},
	} {
		tt.up.Tenant, tt.up.Function, tt.up.Wasm = "t", "echo", bytes.Clone(workloads.Wasm("echo"))
		if _, _, err := h.Deploy(ctx, tt.up); !errors.Is(err, &client.Problem{Code: tt.code}) {
			t.Errorf("%s: %v; want %s", tt.name, err, tt.code)
		}
	}
	deploy(t, h, "echo", api.Upload{})
	if f, err := h.Function(ctx, "t", "echo"); err != nil || f.MemoryBytes != 1<<20 || time.Duration(f.Timeout) != time.Second {
		t.Errorf("without limits: %+v, %v; want the host's defaults", f, err)
	}
}

// A version that is replaced or removed under load lets its calls end, and none is lost.
func TestDeploy_replacesUnderLoad(t *testing.T) {
	h := newHost(t, Options{})
	deploy(t, h, "echo", api.Upload{Function: "f"})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				r := invoke(t, h, "f", "x")
				if r.Outcome != call.Returned || string(r.Output) != "x" && string(r.Output) != "1" {
					t.Errorf("%v, %q, %+v", r.Outcome, r.Output, r.Failure)
					return
				}
			}
		})
	}
	for i := range 40 {
		deploy(t, h, []string{"counter", "echo"}[i%2], api.Upload{Function: "f"})
	}
	close(stop)
	wg.Wait()
	if n, _ := h.functions.regions(); n != 0 {
		t.Errorf("%d regions are in use", n)
	}
}

// The limits of a host are its own: what it is told has an effect.
func TestOptions_haveEffect(t *testing.T) {
	h := newHost(t, Options{OutputMax: 10})
	deploy(t, h, "echo", api.Upload{})
	if r := invoke(t, h, "echo", "0123456789"); r.Outcome != call.Returned || r.ReturnCode != 0 {
		t.Errorf("an output of the limit: %v, %d", r.Outcome, r.ReturnCode)
	}
	if r := invoke(t, h, "echo", "0123456789a"); r.ReturnCode == 0 {
		t.Errorf("an output above the limit: %v, %d", r.Outcome, r.ReturnCode)
	}
	h.StopAccepting()
	if _, _, _, err := h.Invoke(ctx, api.Invocation{Tenant: "t", Function: "echo"}); !errors.Is(err, &client.Problem{Code: client.CodeDraining}) {
		t.Errorf("a call while draining: %v", err)
	}
	if _, _, err := h.Deploy(ctx, api.Upload{Tenant: "t", Function: "g"}); !errors.Is(err, &client.Problem{Code: client.CodeDraining}) {
		t.Errorf("an upload while draining: %v", err)
	}
	if h.Ready() == nil {
		t.Error("a draining host is ready")
	}
}

// Finished asynchronous calls are forgotten after the retention, and not before.
func TestRetention(t *testing.T) {
	h := newHost(t, Options{Retention: time.Hour})
	deploy(t, h, "echo", api.Upload{})
	rec, err := h.Submit(ctx, api.Invocation{Tenant: "t", Function: "echo", Input: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	id := rec.Request.ID
	if rec, err = h.Wait(ctx, id); err != nil || rec.State != call.Done {
		t.Fatalf("%+v, %v", rec, err)
	}
	for _, tt := range []struct {
		after time.Duration
		kept  bool
	}{{30 * time.Minute, true}, {2 * time.Hour, false}} {
		if _, err := h.durable.Sweep(ctx, time.Now().Add(tt.after)); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Call(ctx, id); (err == nil) != tt.kept {
			t.Errorf("after %v: %v; kept should be %v", tt.after, err, tt.kept)
		}
	}
}
