package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/faasm-go/faasm/client"
	"github.com/faasm-go/faasm/internal/api"
	"github.com/faasm-go/faasm/internal/registry"
)

// Versions lists what has been deployed as a function and is still kept.
func (h *Host) Versions(ctx context.Context, tenant, name string) (client.VersionList, error) {
	list, serving, err := h.functions.store.Versions(ctx, tenant, name)
	if errors.Is(err, registry.ErrNotFound) {
		return client.VersionList{}, api.NoSuchFunction(tenant, name)
	}
	if err != nil {
		return client.VersionList{}, err
	}
	out := client.VersionList{Serving: serving}
	for _, r := range list {
		out.Versions = append(out.Versions, functionInfo(r))
	}
	return out, nil
}

// Rollback has an earlier version serve again: the one named, or the one that served before
// the present one. Its code is loaded first, so that no call waits for it.
func (h *Host) Rollback(ctx context.Context, tenant, name, to string) (client.FunctionInfo, error) {
	if h.draining.Load() {
		return client.FunctionInfo{}, api.Draining(drainRetryAfter)
	}
	f := &h.functions
	f.publishing.Lock()
	defer f.publishing.Unlock()
	record, err := f.store.RollbackTarget(ctx, tenant, name, to)
	if err != nil {
		return client.FunctionInfo{}, h.versionProblem(err, tenant, name, to)
	}
	serving := f.lookUp(ctx, tenant, name)
	v := serving
	if v == nil || v.record.Version != record.Version {
		v = &version{record: record}
	}
	if _, err := f.hold(v); err != nil {
		return client.FunctionInfo{}, fmt.Errorf("load version %s: %w", record.Version, err)
	}
	record, err = f.store.Rollback(ctx, tenant, name, to)
	f.release(v)
	if v != serving && (err != nil || record.Version != v.record.Version) {
		f.retireLogged(v)
	}
	if err != nil {
		return client.FunctionInfo{}, h.versionProblem(err, tenant, name, to)
	}
	if record.Version != v.record.Version { // another host changed the function since
		v = &version{record: record}
	}
	if v != serving {
		f.serve(v)
	}
	return functionInfo(record), nil
}

func (h *Host) versionProblem(err error, tenant, name, to string) error {
	switch {
	case errors.Is(err, registry.ErrNoPrevious):
		return api.NoPreviousVersion(tenant, name)
	case errors.Is(err, registry.ErrNotFound) && h.functions.find(tenant, name) == nil:
		return api.NoSuchFunction(tenant, name)
	case errors.Is(err, registry.ErrNotFound):
		return api.NoSuchVersion(tenant, name, to)
	}
	return err
}

// Warm loads a function and keeps count clean regions at hand for it, until this host stops
// or another version serves.
func (h *Host) Warm(ctx context.Context, tenant, name string, count int) (client.WarmInfo, error) {
	if h.draining.Load() {
		return client.WarmInfo{}, api.Draining(drainRetryAfter)
	}
	f := &h.functions
	if f.lookUp(ctx, tenant, name) == nil {
		return client.WarmInfo{}, api.NoSuchFunction(tenant, name)
	}
	v, code, err := f.acquire(tenant, name)
	if err != nil {
		return client.WarmInfo{}, err
	}
	if v == nil {
		return client.WarmInfo{}, api.NoSuchFunction(tenant, name)
	}
	defer f.release(v)
	v.mu.Lock()
	v.keep = count
	v.mu.Unlock()
	code.Keep(count)
	return client.WarmInfo{Count: count, Ready: code.Idle(), Resident: true}, nil
}

// Collect deletes from the store what nothing refers to any more. keep is how many versions
// of each function are kept besides those that serve or served; 0: as many as configured.
func (h *Host) Collect(ctx context.Context, keep int) (client.CollectInfo, error) {
	if keep == 0 {
		keep = h.opts.KeepVersions
	}
	c, err := h.functions.store.Collect(ctx, registry.CollectOptions{KeepVersions: keep, Grace: collectGrace, Now: time.Now()})
	info := client.CollectInfo{Versions: c.Versions, Modules: c.Modules, Artefacts: c.Artefacts, Protos: c.Protos, Bytes: c.Bytes}
	return info, err
}

const (
	// collectGrace is how old an object must be before it is deleted: longer than any
	// deploy takes, whose objects are not referred to until its end.
	collectGrace = time.Hour
	collectEvery = time.Hour
)

// collectOld keeps the store from growing for ever.
func (h *Host) collectOld() {
	if c, err := h.Collect(h.ctx, 0); err != nil && h.ctx.Err() == nil {
		h.log.Error("collect registry", "error", err)
	} else if c.Bytes > 0 {
		h.log.Info("collected registry", "versions", c.Versions, "modules", c.Modules, "artefacts", c.Artefacts, "protos", c.Protos, "bytes", c.Bytes)
	}
}

// refresh follows what other hosts do to a shared store.
func (h *Host) refresh() {
	if err := h.functions.refresh(h.ctx); err != nil && h.ctx.Err() == nil {
		h.log.Error("refresh registry", "error", err)
	}
}

func (f *functions) refresh(ctx context.Context) error {
	f.publishing.Lock()
	defer f.publishing.Unlock()
	changes, err := f.store.Changed(ctx, f.known)
	f.known = changes.Known
	for _, r := range changes.Versions {
		if v := f.find(r.Tenant, r.Name); v == nil || v.record.Version != r.Version {
			f.serve(&version{record: r})
		}
	}
	for _, k := range changes.Removed {
		f.forget(functionKey{k.Tenant, k.Name})
	}
	return err
}
