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
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/faasm-go/faasm/client"
	"github.com/faasm-go/faasm/internal/api"
	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/faaslet"
	"github.com/faasm-go/faasm/internal/linux"
	"github.com/faasm-go/faasm/internal/sched"
	"github.com/faasm-go/faasm/internal/seal"
	"github.com/faasm-go/faasm/internal/state"
	"github.com/faasm-go/faasm/internal/state/global"
	"github.com/faasm-go/faasm/internal/vmem"
)

// Options are a host's. Zero values mean the defaults named beside them.
type Options struct {
	DataDir        string        // made if it is not there; required
	MemoryDefault  uint64        // a function's memory limit; 64 MiB
	MemoryMax      uint64        // the most a function may ask for; what the profile allows
	TimeoutDefault time.Duration // of a function; 30 s
	TimeoutMax     time.Duration // the most a function may ask for; 1 h
	InputMax       int64         // bytes of a call's input; 64 MiB
	OutputMax      int           // bytes of a call's output; 64 MiB
	Retention      time.Duration // of finished asynchronous calls; 24 h

	Registry        string        // directory or URL of the object store; registry in DataDir
	ClusterKey      string        // file, made if it is not there; cluster.key in DataDir
	KeepVersions    int           // of each function, that a collection leaves; 10
	RegistryRefresh time.Duration // between two looks at a registry that other hosts write to; 5 s
	InitTimeout     time.Duration // of an upload's initialisation; 60 s
	MemoryBudget    uint64        // bytes of code, images and idle regions kept resident; a quarter of the machine's memory
	Profile         string        // "fast" or "dense": how much address space a Faaslet has; fast

	State       string       // URL of the global tier of state, redis or rediss; state.db in DataDir
	StateCA     string       // file with the certificates that a rediss server's may be signed by; those of the system
	StateMemory uint64       // bytes of replicas of state, half of them of one tenant; a quarter of the machine's memory
	StateQuota  int64        // bytes that a tenant may store in the global tier; as many as there is room for
	Store       global.Store // the global tier, instead of State; the caller closes it after the host

	Sched   sched.Options
	Log     *slog.Logger // nil: discarded
	Trace   func(string) // if not nil, is given each host call of each guest, as a line
	Version string
	Commit  string
}

// Profiles: how much address space each Faaslet has.
const (
	// ProfileFast gives a Faaslet all that a 32-bit address reaches, so that its code needs
	// no bounds checks; some 30,000 fit into a process.
	ProfileFast = "fast"
	// ProfileDense gives it 256 MiB. Its code checks each access, and 100,000 fit.
	ProfileDense = "dense"
)

var layouts = map[string]vmem.Layout{ProfileFast: vmem.FastLayout, ProfileDense: vmem.DenseLayout}

// defaultBudget is a quarter of the machine's memory.
func defaultBudget() uint64 {
	total, err := linux.MemTotal()
	if err != nil {
		return 1 << 30
	}
	return total / 4
}

func (o Options) withDefaults() Options {
	if o.MemoryDefault == 0 {
		o.MemoryDefault = 64 << 20
	}
	if o.Profile == "" {
		o.Profile = ProfileFast
	}
	if o.MemoryMax == 0 {
		o.MemoryMax = faaslet.MemoryMax(layouts[o.Profile])
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
	if o.Registry == "" {
		o.Registry = filepath.Join(o.DataDir, "registry")
	}
	if o.ClusterKey == "" {
		o.ClusterKey = filepath.Join(o.DataDir, "cluster.key")
	}
	if o.KeepVersions == 0 {
		o.KeepVersions = 10
	}
	if o.RegistryRefresh == 0 {
		o.RegistryRefresh = 5 * time.Second
	}
	if o.InitTimeout == 0 {
		o.InitTimeout = time.Minute
	}
	if o.MemoryBudget == 0 {
		o.MemoryBudget = defaultBudget()
	}
	if o.StateMemory == 0 {
		o.StateMemory = defaultBudget()
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
	case layouts[o.Profile] == vmem.Layout{}:
		return fmt.Errorf("profile %q is neither %s nor %s", o.Profile, ProfileFast, ProfileDense)
	case o.MemoryMax > faaslet.MemoryMax(layouts[o.Profile]):
		return fmt.Errorf("memory maximum of %d bytes exceeds what a Faaslet can have with profile %s, %d", o.MemoryMax, o.Profile, faaslet.MemoryMax(layouts[o.Profile]))
	case o.MemoryDefault > o.MemoryMax:
		return fmt.Errorf("default memory limit of %d bytes exceeds the maximum, %d", o.MemoryDefault, o.MemoryMax)
	case o.TimeoutDefault > o.TimeoutMax:
		return fmt.Errorf("default timeout of %v exceeds the maximum, %v", o.TimeoutDefault, o.TimeoutMax)
	case o.StateCA != "" && !strings.HasPrefix(o.State, "rediss://"):
		return errors.New("certificates of the state store are for rediss locations only")
	case o.TimeoutDefault < 0 || o.StateQuota < 0 || o.Retention < 0 || o.InputMax < 0 || o.OutputMax < 0 ||
		o.KeepVersions < 0 || o.RegistryRefresh < 0 || o.InitTimeout < 0:
		return errors.New("limits must not be negative")
	}
	if o.State != "" {
		_, err := stateURL(o.State)
		return err
	}
	return nil
}

// spoolDir is where bodies wait that are too large for memory, in files without names.
func (o Options) spoolDir() string { return filepath.Join(o.DataDir, "tmp") }

// Host is one running host. It implements api.Host.
type Host struct {
	opts    Options
	log     *slog.Logger
	started time.Time

	runtime   *faaslet.Runtime
	store     global.Store // closed by state
	state     *state.Tier
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
	ctx      context.Context // done when the host stops
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
	if err := os.MkdirAll(opts.spoolDir(), 0o700); err != nil {
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
	key, err := seal.OpenKey(opts.ClusterKey)
	if err != nil {
		return nil, err
	}
	h.functions.key = key
	h.runtime, err = faaslet.NewRuntime(faaslet.Options{
		Layout: layouts[opts.Profile], Hosts: hostLimits(opts), Key: key, Reclaim: h.functions.reclaim,
		Arena: vmem.ArenaOptions{MappingsMax: mappingsMax(), RetainMax: opts.MemoryBudget / 2},
	})
	if err != nil {
		return nil, err
	}
	undo = append(undo, h.runtime.Close)
	if err = h.openState(context.Background()); err != nil {
		return nil, err
	}
	undo = append(undo, h.state.Close)
	if opts.Sched.LiveMax == 0 {
		opts.Sched.LiveMax = liveMax(h.log, opts.Profile)
	}
	if h.sched, err = sched.New(opts.Sched, h.run); err != nil {
		return nil, err
	}
	h.logs = call.NewLogBuffer(call.LogBufferOptions{})
	h.world = faaslet.World{Host: h, State: h.state, Logs: h.logs, Trace: opts.Trace}
	ctx, stop := context.WithCancel(context.Background())
	h.ctx, h.stop = ctx, stop
	undo = append(undo, func() error { stop(); return nil })
	if err = h.functions.open(h); err != nil {
		return nil, err
	}
	undo = append(undo, h.functions.close)
	h.metrics = newMetrics(h)
	if err = h.requeue(); err != nil {
		return nil, err
	}
	h.every(time.Minute, h.sweepLog)
	h.every(residentTick, h.mindBudget)
	h.every(collectEvery, h.collectOld)
	h.every(stateSweepPeriod, h.sweepState)
	if h.functions.store.Shared() {
		h.every(opts.RegistryRefresh, h.refresh)
	}
	return h, nil
}

const (
	// mapsPerFaaslet is how many of the process's mappings a live Faaslet takes: its stack,
	// its image, and the guard after it.
	mapsPerFaaslet = 3
	// mapsSpare is what is left for all else that maps memory: Go's heap, threads, files. A
	// process that finds none left is ended by Go's allocator.
	mapsSpare = 4_000
)

// mappingsMax is how many mappings Faaslets and code may take.
func mappingsMax() int {
	maps, err := linux.MaxMapCount()
	if err != nil {
		return 0
	}
	return max(100, maps-mapsSpare)
}

// liveMax is how many Faaslets may be alive at once: the default, or what the kernel's
// limit on mappings allows.
func liveMax(log *slog.Logger, profile string) int {
	most := map[string]int{ProfileFast: 20_000, ProfileDense: 100_000}[profile]
	n := most
	if limit := mappingsMax() / mapsPerFaaslet; limit > 0 {
		n = min(most, limit)
	}
	if n < most {
		log.Warn("vm.max_map_count limits how many Faaslets can be alive", "live_max", n,
			"remedy", fmt.Sprintf("sysctl vm.max_map_count=%d", most*mapsPerFaaslet+mapsSpare))
	}
	return n
}

// Handler is the host's HTTP interface.
func (h *Host) Handler() *api.Handler {
	return api.New(h, api.Options{Log: h.log, Registry: h.metrics, InputBytesMax: h.opts.InputMax,
		SpoolDir: h.opts.spoolDir(), StateQuotaBytes: h.opts.StateQuota})
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
	return errors.Join(h.functions.close(), h.state.Close(), h.runtime.Close(), h.durable.Close())
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
	_, idle := h.functions.regions()
	replicas := h.state.Stats()
	return client.HostInfo{
		Version: h.opts.Version, Commit: h.opts.Commit, Cores: cores(), Started: h.started.UTC(),
		Tenants: tenants, Functions: functions, CallsQueued: st.Waiting, CallsRunning: st.Live,
		Profile: h.opts.Profile, MemoryBudgetBytes: h.opts.MemoryBudget, ResidentBytes: h.functions.resident.bytes(),
		ResidentFunctions: h.functions.resident.count(), RegionsIdle: idle,
		State: stateName(h.opts.State), StateReplicas: replicas.Replicas, StateMemoryBytes: replicas.MemoryBytes,
		StateMemoryMax: h.opts.StateMemory, StateQuotaBytes: h.opts.StateQuota,
	}
}

// every has do called at each tick, until the host stops.
func (h *Host) every(period time.Duration, do func()) {
	h.wg.Go(func() {
		tick := time.NewTicker(period)
		defer tick.Stop()
		for {
			select {
			case <-h.ctx.Done():
				return
			case <-tick.C:
				do()
			}
		}
	})
}

// sweepLog deletes what the log need not keep any longer.
func (h *Host) sweepLog() {
	if _, err := h.durable.Sweep(h.ctx, time.Now()); err != nil && h.ctx.Err() == nil {
		h.log.Error("sweep call log", "error", err)
	}
}
