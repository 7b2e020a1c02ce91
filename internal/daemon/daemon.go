// Package daemon is a host: it puts the parts together and owns them. It is the only
// package that knows all the others.
//
// What it decides itself is the order of things: what is written before what is
// acknowledged (Submit), which version a call gets (functions.go), and how a host stops
// without losing what it accepted (Close).
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/faasm-go/faasm/client"
	"github.com/faasm-go/faasm/internal/api"
	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/faaslet"
	"github.com/faasm-go/faasm/internal/linux"
	"github.com/faasm-go/faasm/internal/registry"
	"github.com/faasm-go/faasm/internal/sched"
)

// Options are a host's. Zero values mean the defaults named beside them.
type Options struct {
	DataDir        string        // made if it is not there; required
	MemoryDefault  uint64        // a function's memory limit; 64 MiB
	MemoryMax      uint64        // the most a function may ask for; 4 GiB less 64 KiB
	TimeoutDefault time.Duration // of a function; 30 s
	TimeoutMax     time.Duration // the most a function may ask for; 1 h
	InputMax       int64         // bytes of a call's input; 64 MiB
	OutputMax      int           // bytes of a call's output; 64 MiB
	Retention      time.Duration // of finished asynchronous calls; 24 h
	Sched          sched.Options
	Log            *slog.Logger // nil: discarded
	Trace          func(string) // if not nil, is given each host call of each guest, as a line
	Version        string
	Commit         string
}

func (o Options) withDefaults() Options {
	if o.MemoryDefault == 0 {
		o.MemoryDefault = 64 << 20
	}
	if o.MemoryMax == 0 {
		o.MemoryMax = faaslet.MemoryLimitMax
	}
	if o.TimeoutDefault == 0 {
		o.TimeoutDefault = 30 * time.Second
	}
	if o.TimeoutMax == 0 {
		o.TimeoutMax = time.Hour
	}
	if o.InputMax == 0 {
		o.InputMax = 64 << 20
	}
	if o.OutputMax == 0 {
		o.OutputMax = 64 << 20
	}
	if o.Retention == 0 {
		o.Retention = 24 * time.Hour
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

func (o Options) validate() error {
	switch {
	case o.DataDir == "":
		return errors.New("data directory is not set")
	case o.MemoryMax > faaslet.MemoryLimitMax:
		return fmt.Errorf("memory maximum of %d bytes exceeds what a 32-bit memory can have, %d", o.MemoryMax, uint64(faaslet.MemoryLimitMax))
	case o.MemoryDefault > o.MemoryMax:
		return fmt.Errorf("default memory limit of %d bytes exceeds the maximum, %d", o.MemoryDefault, o.MemoryMax)
	case o.TimeoutDefault > o.TimeoutMax:
		return fmt.Errorf("default timeout of %v exceeds the maximum, %v", o.TimeoutDefault, o.TimeoutMax)
	case o.TimeoutDefault < 0 || o.Retention < 0 || o.InputMax < 0 || o.OutputMax < 0:
		return errors.New("limits must not be negative")
	}
	return nil
}

// Host is one running host. It implements api.Host.
type Host struct {
	opts    Options
	log     *slog.Logger
	started time.Time

	runtime   *faaslet.Runtime
	functions functions
	sched     *sched.Scheduler
	calls     call.Table
	durable   *call.Log
	recovered sync.Map // call.ID → true: calls of an earlier life that have not run in this one
	logs      *call.LogBuffer
	world     faaslet.World
	metrics   *prometheus.Registry
	outcomes  [8]atomic.Uint64 // finished calls, by outcome

	draining atomic.Bool
	stop     context.CancelFunc
	wg       sync.WaitGroup // background loops, and asynchronous calls being accepted
}

var _ api.Host = (*Host)(nil)

// New opens the data directory and starts a host in it. Asynchronous calls that were
// accepted and not finished before run again.
func New(opts Options) (h *Host, err error) {
	opts = opts.withDefaults()
	if err := opts.validate(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(opts.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	h = &Host{opts: opts, log: opts.Log, started: time.Now()}
	var undo []func() error
	defer func() {
		if err != nil {
			for i := len(undo) - 1; i >= 0; i-- {
				err = errors.Join(err, undo[i]())
			}
			h = nil
		}
	}()

	h.durable, err = call.OpenLog(filepath.Join(opts.DataDir, "calls.db"), call.LogOptions{Retention: opts.Retention})
	if err != nil {
		return nil, err
	}
	undo = append(undo, h.durable.Close)
	store, err := registry.Open(filepath.Join(opts.DataDir, "registry"))
	if err != nil {
		return nil, err
	}
	undo = append(undo, store.Close)

	limits := hostLimits(opts)
	h.runtime, err = faaslet.NewRuntime(faaslet.Options{Hosts: limits})
	if err != nil {
		return nil, err
	}
	undo = append(undo, h.runtime.Close)
	if opts.Sched.LiveMax == 0 {
		opts.Sched.LiveMax = liveMax(h.log)
	}
	if h.sched, err = sched.New(opts.Sched, h.run); err != nil {
		return nil, err
	}
	h.logs = call.NewLogBuffer(call.LogBufferOptions{})
	h.world = faaslet.World{Host: h, Logs: h.logs, Trace: opts.Trace}
	if err = h.functions.open(h, store); err != nil {
		return nil, err
	}
	h.metrics = newMetrics(h)

	ctx, stop := context.WithCancel(context.Background())
	h.stop = stop
	if err = h.requeue(); err != nil {
		return nil, err
	}
	h.wg.Add(1)
	go h.sweepLoop(ctx)
	return h, nil
}

// mapsPerFaaslet is how many of the process's mappings a live Faaslet takes: its stack,
// its image, and the guard after it.
const mapsPerFaaslet = 3

// liveMax is how many Faaslets may be alive at once: the default, or what the kernel's
// limit on mappings allows.
func liveMax(log *slog.Logger) int {
	const most, spare = 20_000, 4_000
	maps, err := linux.MaxMapCount()
	if err != nil {
		return most
	}
	n := max(16, min(most, (maps-spare)/mapsPerFaaslet))
	if n < most {
		log.Warn("vm.max_map_count limits how many Faaslets can be alive", "max_map_count", maps, "live_max", n,
			"remedy", fmt.Sprintf("sysctl vm.max_map_count=%d", most*mapsPerFaaslet+spare))
	}
	return n
}

// Handler is the host's HTTP interface.
func (h *Host) Handler() *api.Handler {
	return api.New(h, api.Options{Log: h.log, Registry: h.metrics, InputBytesMax: h.opts.InputMax})
}

// Server is a server for the host's HTTP interface.
func (h *Host) Server() *api.Server { return api.NewServer(h.Handler()) }

// StopAccepting refuses calls and uploads from now on. Calls that a running one chains are
// still taken.
func (h *Host) StopAccepting() { h.draining.Store(true) }

// Drain returns when the calls that were accepted have ended or ctx is done.
//
// Preconditions: StopAccepting was called, or more calls may come than end.
func (h *Host) Drain(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if st := h.sched.Stats(); st.Live == 0 && st.Waiting == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Close stops the host: calls that still run are cancelled, but asynchronous ones stay in
// the log and run again when a host opens it. It returns when nothing is left.
func (h *Host) Close() error {
	h.draining.Store(true)
	h.stop()
	h.calls.EachLive(func(c *call.Call) { c.Cancel(call.HostLost) })
	h.sched.Close()
	h.wg.Wait()
	return errors.Join(h.functions.close(), h.runtime.Close(), h.durable.Close())
}

// Ready tells whether the host takes calls.
func (h *Host) Ready() error {
	if h.draining.Load() {
		return api.Draining(drainRetryAfter)
	}
	return nil
}

const drainRetryAfter = 5 * time.Second

// Info returns the host's basic facts.
func (h *Host) Info() client.HostInfo {
	st := h.sched.Stats()
	tenants, functions := h.functions.count()
	return client.HostInfo{
		Version: h.opts.Version, Commit: h.opts.Commit, Cores: cores(), Started: h.started.UTC(),
		Tenants: tenants, Functions: functions, CallsQueued: st.Waiting, CallsRunning: st.Live,
	}
}

// sweepLoop deletes what the log need not keep any longer.
func (h *Host) sweepLoop(ctx context.Context) {
	defer h.wg.Done()
	const every = time.Minute
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if _, err := h.durable.Sweep(ctx, now); err != nil && ctx.Err() == nil {
				h.log.Error("sweep call log", "error", err)
			}
		}
	}
}
