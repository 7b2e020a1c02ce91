package daemon

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/faasm-go/faasm/client"
	"github.com/faasm-go/faasm/internal/api"
	"github.com/faasm-go/faasm/internal/faaslet"
	"github.com/faasm-go/faasm/internal/hostif"
	"github.com/faasm-go/faasm/internal/registry"
)

func cores() int { return runtime.GOMAXPROCS(0) }

func hostLimits(o Options) hostif.Limits {
	l := hostif.DefaultLimits
	l.OutputMax = o.OutputMax
	return l
}

type functionKey struct{ tenant, name string }

// functions is what this host knows of functions: the registry's records, and the code of
// those that were called.
type functions struct {
	host  *Host
	store *registry.Registry

	// deploying lets one upload at a time be compiled and published: a compilation uses
	// every core already.
	deploying sync.Mutex

	mu struct {
		sync.RWMutex
		byKey map[functionKey]*version
	}
}

// A version is one version of a function. Its code is built on first use, and closed when
// the version has been replaced and its last call has ended.
type version struct {
	record registry.Function

	mu      sync.Mutex
	code    *faaslet.Code
	err     error // why the code can't be built
	users   int
	retired bool
}

// open reads the registry.
func (f *functions) open(h *Host, store *registry.Registry) error {
	f.host, f.store = h, store
	f.mu.byKey = map[functionKey]*version{}
	records, err := store.Functions(context.Background())
	if err != nil {
		// One damaged record must not keep all the others from serving.
		h.log.Error("read registry", "error", err)
		if len(records) == 0 && !errors.Is(err, registry.ErrNotFound) {
			return fmt.Errorf("read registry: %w", err)
		}
	}
	for _, r := range records {
		f.mu.byKey[functionKey{r.Tenant, r.Name}] = &version{record: r}
	}
	return nil
}

func (f *functions) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	for _, v := range f.mu.byKey {
		errs = append(errs, v.retire())
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

// inUse is the number of regions that serving versions hold.
func (f *functions) inUse() int {
	f.mu.RLock()
	defer f.mu.RUnlock()
	n := 0
	for _, v := range f.mu.byKey {
		v.mu.Lock()
		if v.code != nil {
			n += v.code.InUse()
		}
		v.mu.Unlock()
	}
	return n
}

func (f *functions) find(tenant, name string) *version {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.mu.byKey[functionKey{tenant, name}]
}

// acquire returns the serving version of a function and its code, which is built on first
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

func (f *functions) hold(v *version) (*faaslet.Code, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.retired {
		return nil, errReplaced
	}
	if v.code == nil && v.err == nil {
		v.code, v.err = f.load(v.record)
		if v.err != nil {
			f.host.log.Error("load function", "tenant", v.record.Tenant, "function", v.record.Name, "error", v.err)
		}
	}
	if v.err != nil {
		return nil, v.err
	}
	v.users++
	return v.code, nil
}

func (f *functions) load(r registry.Function) (*faaslet.Code, error) {
	wasm, err := f.store.Module(context.Background(), r.Module)
	if err != nil {
		return nil, err
	}
	return f.host.runtime.Build(wasm, faaslet.Limits{MemoryMax: r.MemoryMax, Timeout: r.Timeout})
}

func (v *version) release() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.users--
	if v.retired && v.users == 0 {
		v.closeLocked()
	}
}

// retire closes the code, now or when its last user releases it.
func (v *version) retire() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.retired = true
	if v.users > 0 {
		return nil
	}
	return v.closeLocked()
}

func (v *version) closeLocked() error {
	if v.code == nil {
		return nil
	}
	err := v.code.Close()
	v.code = nil
	return err
}

// Deploy makes an upload the serving version of its function. After an error the previous
// one serves on.
func (h *Host) Deploy(ctx context.Context, up api.Upload) (client.FunctionInfo, bool, error) {
	if h.draining.Load() {
		return client.FunctionInfo{}, false, api.Draining(drainRetryAfter)
	}
	limits, err := h.limits(up)
	if err != nil {
		return client.FunctionInfo{}, false, err
	}
	f := &h.functions
	f.deploying.Lock()
	defer f.deploying.Unlock()

	code, err := h.runtime.Build(up.Wasm, limits)
	if err != nil {
		return client.FunctionInfo{}, false, buildProblem(err)
	}
	module := registry.Hash(up.Wasm)
	record := registry.Function{
		Tenant: up.Tenant, Name: up.Function,
		Module: module, Version: registry.VersionOf(module, limits.MemoryMax, limits.Timeout),
		WasmBytes: int64(len(up.Wasm)), MemoryMax: limits.MemoryMax, Timeout: limits.Timeout,
		Entry: code.Entry(), Imports: code.Imports(), Uploaded: time.Now().UTC(), CompileNs: code.CompileTime.Nanoseconds(),
	}
	if err := f.store.Publish(ctx, record, up.Wasm); err != nil {
		return client.FunctionInfo{}, false, errors.Join(err, code.Close())
	}
	key := functionKey{up.Tenant, up.Function}
	f.mu.Lock()
	old := f.mu.byKey[key]
	f.mu.byKey[key] = &version{record: record, code: code}
	f.mu.Unlock()
	if old != nil {
		if err := old.retire(); err != nil {
			h.log.Error("retire function version", "tenant", up.Tenant, "function", up.Function, "version", old.record.Version, "error", err)
		}
	}
	return functionInfo(record), old == nil, nil
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

func functionInfo(r registry.Function) client.FunctionInfo {
	return client.FunctionInfo{
		Tenant: r.Tenant, Name: r.Name, Version: r.Version, MemoryBytes: r.MemoryMax,
		Timeout: client.Duration(r.Timeout), WasmBytes: r.WasmBytes, Entry: r.Entry, Imports: r.Imports,
		Uploaded: r.Uploaded, CompileMs: float64(r.CompileNs) / 1e6,
	}
}

// Function describes the serving version.
func (h *Host) Function(_ context.Context, tenant, name string) (client.FunctionInfo, error) {
	v := h.functions.find(tenant, name)
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
	f.deploying.Lock()
	defer f.deploying.Unlock()
	if err := f.store.Remove(ctx, tenant, name); err != nil {
		if errors.Is(err, registry.ErrNotFound) {
			return api.NoSuchFunction(tenant, name)
		}
		return err
	}
	key := functionKey{tenant, name}
	f.mu.Lock()
	old := f.mu.byKey[key]
	delete(f.mu.byKey, key)
	f.mu.Unlock()
	if old == nil {
		return nil
	}
	return old.retire()
}
