package daemon

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/faasm-go/faasm/client"
	"github.com/faasm-go/faasm/internal/api"
	"github.com/faasm-go/faasm/internal/faaslet"
	"github.com/faasm-go/faasm/internal/hostif"
	"github.com/faasm-go/faasm/internal/registry"
	"github.com/faasm-go/faasm/internal/seal"
	"github.com/faasm-go/faasm/internal/vmem"
)

func cores() int { return runtime.GOMAXPROCS(0) }

func hostLimits(o Options) hostif.Limits {
	l := hostif.DefaultLimits
	l.OutputMax = o.OutputMax
	return l
}

type functionKey struct{ tenant, name string }

// functions is what this host knows of functions: the registry's records, and the code of
// those that were called lately.
//
// Lock order: publishing, then functions.mu; version.mu and resident.mu are leaves.
type functions struct {
	host     *Host
	store    *registry.Registry
	key      seal.Key
	resident resident
	loads    [3]atomic.Uint64 // by loadedHow

	// compiling lets one module at a time be compiled: a compilation uses every core.
	compiling sync.Mutex
	// publishing keeps what serves in the store and what serves here in the same order, and
	// guards known: what this host has seen of the store.
	publishing sync.Mutex
	known      map[registry.Key]string

	mu struct {
		sync.RWMutex
		byKey map[functionKey]*version
		// missing has the functions that a shared store did not have when it was asked.
		missing map[functionKey]time.Time
	}
}

// A version is one version of a function. Its code is loaded on first use, and closed when
// the host needs the memory, or when the version has been replaced and its last call has
// ended.
type version struct {
	record registry.Version
	used   atomic.Int64 // resident.now when it was last acquired

	mu      sync.Mutex
	code    *faaslet.Code
	loading chan struct{} // closed when whoever loads the code has done so, or could not
	err     error         // why the code could not be loaded…
	retryAt time.Time     // …and when to try again
	users   int
	proto   string // the Proto-Faaslet it was loaded with, if that is not the record's
	keep    int    // regions to be kept at hand; see Host.Warm
	retired bool
}

// open reads the registry.
func (f *functions) open(h *Host) error {
	store, err := registry.Open(h.ctx, h.opts.Registry, registry.Options{})
	if err != nil {
		return err
	}
	f.host, f.store = h, store
	f.mu.byKey = map[functionKey]*version{}
	f.mu.missing = map[functionKey]time.Time{}
	f.resident.init(h.opts.MemoryBudget, h.runtime.IdleBytes)
	all, err := store.Changed(h.ctx, nil)
	f.known = all.Known
	if err != nil {
		// One damaged record must not keep all the others from serving.
		h.log.Error("read registry", "error", err)
		if len(all.Versions) == 0 {
			return errors.Join(fmt.Errorf("read registry: %w", err), store.Close())
		}
	}
	for _, r := range all.Versions {
		f.mu.byKey[functionKey{r.Tenant, r.Name}] = &version{record: r}
	}
	return nil
}

func (f *functions) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	for _, v := range f.mu.byKey {
		errs = append(errs, f.retire(v))
	}
	f.mu.byKey = nil
	return errors.Join(append(errs, f.store.Close())...)
}

func (f *functions) count() (tenants, functions int) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	seen := map[string]bool{}
	for k := range f.mu.byKey {
		seen[k.tenant] = true
	}
	return len(seen), len(f.mu.byKey)
}

// regions counts the regions of serving versions: those that a Faaslet holds, and those at
// hand.
func (f *functions) regions() (inUse, idle int) {
	for _, v := range f.resident.list() {
		v.mu.Lock()
		if v.code != nil {
			inUse += v.code.InUse()
			idle += v.code.Idle()
		}
		v.mu.Unlock()
	}
	return inUse, idle
}

func (f *functions) find(tenant, name string) *version {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.mu.byKey[functionKey{tenant, name}]
}

// missingFor is how long a function that a shared store does not have is taken to be
// missing, before the store is asked again.
const missingFor = time.Second

// lookUp is find that also asks a store which other hosts write to.
func (f *functions) lookUp(ctx context.Context, tenant, name string) *version {
	if v := f.find(tenant, name); v != nil || !f.store.Shared() {
		return v
	}
	key := functionKey{tenant, name}
	f.mu.RLock()
	asked := f.mu.missing[key]
	f.mu.RUnlock()
	if time.Since(asked) < missingFor {
		return nil
	}
	record, err := f.store.Function(ctx, tenant, name)
	if err != nil && !errors.Is(err, registry.ErrNotFound) {
		f.host.log.Error("look up function", "tenant", tenant, "function", name, "error", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if v := f.mu.byKey[key]; v != nil {
		return v
	}
	if err != nil {
		const most = 10_000 // a client that invents names must not fill the memory
		if len(f.mu.missing) >= most {
			clear(f.mu.missing)
		}
		f.mu.missing[key] = time.Now()
		return nil
	}
	delete(f.mu.missing, key)
	v := &version{record: record}
	f.mu.byKey[key] = v
	return v
}

// acquire returns the serving version of a function and its code, which is loaded on first
// use and held until release. The version is nil if there is no such function.
func (f *functions) acquire(tenant, name string) (*version, *faaslet.Code, error) {
	for {
		v := f.find(tenant, name)
		if v == nil {
			return nil, nil, nil
		}
		code, err := f.hold(v)
		if !errors.Is(err, errReplaced) {
			return v, code, err
		}
		// It was replaced or removed since it was found.
	}
}

// errReplaced is why a version that serves no more can't be held.
var errReplaced = errors.New("this version has been replaced")

// retryAfter is how long a version whose code can't be loaded answers so without trying.
const retryAfter = time.Second

// hold returns a version's code, which stays until release.
func (f *functions) hold(v *version) (*faaslet.Code, error) {
	v.used.Store(f.resident.now.Load())
	v.mu.Lock()
	for {
		switch {
		case v.retired:
			v.mu.Unlock()
			return nil, errReplaced
		case v.code != nil:
			v.users++
			code := v.code
			v.mu.Unlock()
			return code, nil
		case v.err != nil && time.Now().Before(v.retryAt):
			defer v.mu.Unlock()
			return nil, v.err
		case v.loading != nil:
			loading := v.loading
			v.mu.Unlock()
			<-loading
			v.mu.Lock()
		default:
			v.loading = make(chan struct{})
			v.mu.Unlock()
			return f.load(v)
		}
	}
}

// load loads a version's code, which its caller then holds, and ends the loading.
func (f *functions) load(v *version) (*faaslet.Code, error) {
	record := v.record
	if v.proto != "" {
		record.Proto = v.proto
	}
	code, proto, err := f.loadCode(record)
	if err != nil {
		f.host.log.Error("load function", "tenant", record.Tenant, "function", record.Name, "version", record.Version, "error", err)
	} else {
		f.resident.add(v, code.Bytes())
	}
	v.mu.Lock()
	close(v.loading)
	v.loading = nil
	v.code, v.err, v.retryAt, v.proto = code, err, time.Now().Add(retryAfter), proto
	if code != nil {
		v.users++ // before anybody may evict it; if the version was retired meanwhile, release closes it
		if v.keep > 0 {
			code.Keep(v.keep)
		}
	}
	v.mu.Unlock()
	f.makeRoom()
	return code, err
}

// drop closes code that its version has let go of.
func (f *functions) drop(v *version, code *faaslet.Code) error {
	f.resident.remove(v)
	return code.Close()
}

func (f *functions) dropLogged(v *version, code *faaslet.Code) {
	if err := f.drop(v, code); err != nil {
		f.host.log.Error("close function", "tenant", v.record.Tenant, "function", v.record.Name, "version", v.record.Version, "error", err)
	}
}

func (f *functions) release(v *version) {
	v.mu.Lock()
	v.users--
	var unused *faaslet.Code
	if v.retired && v.users == 0 {
		unused, v.code = v.code, nil
	}
	v.mu.Unlock()
	if unused != nil {
		f.dropLogged(v, unused)
	}
}

// retire takes a version out of service. Its code is closed now, or when its last user
// releases it.
func (f *functions) retire(v *version) error {
	v.mu.Lock()
	v.retired = true
	var unused *faaslet.Code
	if v.users == 0 {
		unused, v.code = v.code, nil
	}
	v.mu.Unlock()
	if unused == nil {
		return nil
	}
	return f.drop(v, unused)
}

// serve makes v what its function's next call gets, and retires what it replaces.
func (f *functions) serve(v *version) (created bool) {
	key := functionKey{v.record.Tenant, v.record.Name}
	f.mu.Lock()
	old := f.mu.byKey[key]
	f.mu.byKey[key] = v
	f.mu.Unlock()
	if old != nil {
		f.retireLogged(old)
	}
	return old == nil
}

func (f *functions) forget(key functionKey) {
	f.mu.Lock()
	old := f.mu.byKey[key]
	delete(f.mu.byKey, key)
	f.mu.Unlock()
	if old != nil {
		f.retireLogged(old)
	}
}

func (f *functions) retireLogged(v *version) {
	if err := f.retire(v); err != nil {
		f.host.log.Error("retire function version", "tenant", v.record.Tenant, "function", v.record.Name, "version", v.record.Version, "error", err)
	}
}

// Deploy makes an upload the serving version of its function. After an error the previous
// one serves on.
func (h *Host) Deploy(ctx context.Context, up api.Upload) (client.FunctionInfo, bool, error) {
	none := client.FunctionInfo{}
	if h.draining.Load() {
		return none, false, api.Draining(drainRetryAfter)
	}
	limits, err := h.limits(up)
	if err != nil {
		return none, false, err
	}
	f := &h.functions
	code, err := f.compile(up.Wasm, limits)
	if err != nil {
		return none, false, buildProblem(err)
	}
	record := registry.Version{
		Tenant: up.Tenant, Name: up.Function,
		Module: code.Module(), Version: registry.VersionOf(code.Module(), limits.MemoryMax, limits.Timeout),
		WasmBytes: int64(len(up.Wasm)), MemoryMax: limits.MemoryMax, Timeout: limits.Timeout,
		Entry: code.Entry(), Imports: code.Imports(), Uploaded: time.Now().UTC(),
		CompileNs: code.CompileTime.Nanoseconds(), Initialises: code.Initialises(),
	}
	discard := func(err error) (client.FunctionInfo, bool, error) { return none, false, errors.Join(err, code.Close()) }
	p, took, log, err := h.initialise(ctx, code, up.Tenant, up.Function)
	if err != nil {
		return discard(err)
	}
	defer p.Close()
	if code.Initialises() {
		record.InitialiseNs = took.Nanoseconds()
	}
	record.Proto, record.SnapshotBytes = p.Hash(), p.Size()
	if err := code.StartFrom(p); err != nil {
		return discard(err)
	}
	code.Warm()
	start, err := code.MeasureStart()
	if err != nil {
		return discard(err)
	}
	record.StartNs = start.Nanoseconds()

	f.publishing.Lock()
	defer f.publishing.Unlock()
	if record, err = f.publish(ctx, record, up.Wasm, code, p); err != nil {
		return discard(err)
	}
	v := &version{record: record, code: code}
	v.used.Store(f.resident.now.Load())
	f.resident.add(v, code.Bytes())
	created := f.serve(v)
	f.makeRoom()
	info := functionInfo(record)
	info.InitLog = log
	return info, created, nil
}

// limits fills in and checks what an upload asks for.
func (h *Host) limits(up api.Upload) (faaslet.Limits, error) {
	l := faaslet.Limits{MemoryMax: up.MemoryBytes, Timeout: up.Timeout}
	if l.MemoryMax == 0 {
		l.MemoryMax = h.opts.MemoryDefault
	}
	if l.Timeout == 0 {
		l.Timeout = h.opts.TimeoutDefault
	}
	switch {
	case l.MemoryMax > h.opts.MemoryMax:
		return l, api.NewProblem(client.CodeBadRequest, fmt.Sprintf("a memory limit of %d bytes exceeds this host's maximum, %d", l.MemoryMax, h.opts.MemoryMax))
	case l.Timeout > h.opts.TimeoutMax:
		return l, api.NewProblem(client.CodeBadRequest, fmt.Sprintf("a timeout of %v exceeds this host's maximum, %v", l.Timeout, h.opts.TimeoutMax))
	}
	return l, nil
}

// buildProblem tells the uploader at which step the upload failed.
func buildProblem(err error) error {
	if errors.Is(err, vmem.ErrExhausted) {
		return api.Overloaded(err.Error(), time.Second)
	}
	var b *faaslet.BuildError
	if !errors.As(err, &b) {
		return err
	}
	codes := map[faaslet.Step]client.Code{
		faaslet.StepValidate: client.CodeInvalidModule,
		faaslet.StepPrepare:  client.CodeInvalidModule,
		faaslet.StepLink:     client.CodeUnknownImport,
		faaslet.StepEntry:    client.CodeInvalidModule,
		faaslet.StepLimit:    client.CodeLimitTooSmall,
		faaslet.StepCompile:  client.CodeInvalidModule,
	}
	return api.NewProblem(codes[b.Step], fmt.Sprintf("%s: %v", b.Step, b.Err))
}

func functionInfo(r registry.Version) client.FunctionInfo {
	return client.FunctionInfo{
		Tenant: r.Tenant, Name: r.Name, Version: r.Version, MemoryBytes: r.MemoryMax,
		Timeout: client.Duration(r.Timeout), WasmBytes: r.WasmBytes, Entry: r.Entry, Imports: r.Imports,
		Uploaded: r.Uploaded, CompileMs: float64(r.CompileNs) / 1e6,
		Initialised: r.Initialises, InitialiseMs: float64(r.InitialiseNs) / 1e6,
		SnapshotBytes: r.SnapshotBytes, StoredBytes: r.StoredBytes, StartUs: float64(r.StartNs) / 1e3,
	}
}

// Function describes the serving version.
func (h *Host) Function(ctx context.Context, tenant, name string) (client.FunctionInfo, error) {
	v := h.functions.lookUp(ctx, tenant, name)
	if v == nil {
		return client.FunctionInfo{}, api.NoSuchFunction(tenant, name)
	}
	return functionInfo(v.record), nil
}

// Functions lists the functions of a tenant, or of all if tenant is empty.
func (h *Host) Functions(_ context.Context, tenant string) ([]client.FunctionInfo, error) {
	f := &h.functions
	f.mu.RLock()
	var list []client.FunctionInfo
	for k, v := range f.mu.byKey {
		if tenant == "" || tenant == k.tenant {
			list = append(list, functionInfo(v.record))
		}
	}
	f.mu.RUnlock()
	slices.SortFunc(list, func(a, b client.FunctionInfo) int {
		return strings.Compare(a.Tenant+"/"+a.Name, b.Tenant+"/"+b.Name)
	})
	return list, nil
}

// Remove takes a function out of service. Calls that run go on.
func (h *Host) Remove(ctx context.Context, tenant, name string) error {
	f := &h.functions
	f.publishing.Lock()
	defer f.publishing.Unlock()
	if err := f.store.Remove(ctx, tenant, name); err != nil {
		if errors.Is(err, registry.ErrNotFound) {
			return api.NoSuchFunction(tenant, name)
		}
		return err
	}
	f.forget(functionKey{tenant, name})
	return nil
}
