package state

import (
	"context"
	"fmt"
	"io"

	"github.com/faasm-go/faasm/internal/state/global"
)

// People work on the global tier, which is the truth. What a Faaslet wrote and did not
// push they do not see.

// Stat is global.Store's.
func (t *Tier) Stat(ctx context.Context, key global.Key) (global.Info, error) {
	return t.store.Stat(ctx, key)
}

// Read is global.Store's.
func (t *Tier) Read(ctx context.Context, key global.Key, off int64, dst []byte) (int, global.Info, error) {
	return t.store.Read(ctx, key, off, dst)
}

// Put is global.Store's Write, within the tenant's quota: ErrQuota. This host's replica,
// if there is one, has the new content afterwards, or is given up; writes to it that were
// not pushed are lost. Those of other hosts stay as they are until they are pulled.
func (t *Tier) Put(ctx context.Context, key global.Key, size int64, src io.ReaderAt, c global.Condition) (global.Info, error) {
	if err := t.roomFor(ctx, key, size); err != nil {
		return global.Info{}, fmt.Errorf("put %s: %w", key, err)
	}
	info, err := t.store.Write(ctx, key, size, src, c)
	if err != nil {
		return global.Info{}, err
	}
	_ = t.refresh(ctx, key) // else the replica is given up: the value is stored, and that is what was asked
	return info, nil
}

// Delete is global.Store's. This host's replica is given up as well; who has it mapped
// keeps the memory.
func (t *Tier) Delete(ctx context.Context, key global.Key, c global.Condition) error {
	if err := t.store.Delete(ctx, key, c); err != nil {
		return err
	}
	t.forget(key)
	return nil
}

// List is global.Store's.
func (t *Tier) List(ctx context.Context, tenant, prefix, after string, limit int) ([]global.Entry, error) {
	return t.store.List(ctx, tenant, prefix, after, limit)
}

// Usage is global.Store's.
func (t *Tier) Usage(ctx context.Context, tenant string) (global.Usage, error) {
	return t.store.Usage(ctx, tenant)
}

// Lock is global.Store's.
func (t *Tier) Lock(ctx context.Context, key global.Key, mode global.LockMode) (*global.Lease, error) {
	return t.store.Lock(ctx, key, mode)
}
