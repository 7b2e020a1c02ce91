package state

import (
	"context"
	"errors"
	"fmt"

	"github.com/faasm-go/faasm/internal/state/global"
)

// room returns ErrQuota if the tenant may not store that many bytes more in the global
// tier. What makes nothing larger always has room, so that a tenant over its quota can
// get below it.
func (t *Tier) room(ctx context.Context, tenant string, more int64) error {
	limit := t.opts.TenantBytesMax
	if limit == 0 || more <= 0 {
		return nil
	}
	used, err := t.store.Usage(ctx, tenant)
	if err != nil {
		return err
	}
	if used.Bytes > limit-more {
		return fmt.Errorf("%w: %d bytes and %d more of %d", ErrQuota, used.Bytes, more, limit)
	}
	return nil
}

// roomFor returns ErrQuota if the value may not have so many bytes.
func (t *Tier) roomFor(ctx context.Context, key global.Key, size int64) error {
	if t.opts.TenantBytesMax == 0 {
		return nil
	}
	was, err := t.store.Stat(ctx, key)
	if err != nil && !errors.Is(err, global.ErrNotFound) {
		return err
	}
	return t.room(ctx, key.Tenant, size-was.Size)
}
