package state

import (
	"context"
	"io"
	"sync/atomic"

	"github.com/faasm-go/faasm/internal/state/global"
)

// hooked is a Store with something that happens before its operations.
type hooked struct {
	global.Store
	// before is run before each operation on values, which does not take place if it
	// returns an error.
	before func(ctx context.Context, op string) error
	// after is run after each Write, Patch and Merge that has taken effect.
	after func()
	calls atomic.Int64
}

func (h *hooked) hook(ctx context.Context, op string) error {
	h.calls.Add(1)
	if h.before == nil {
		return nil
	}
	return h.before(ctx, op)
}

func (h *hooked) done(info global.Info, err error) (global.Info, error) {
	if err == nil && h.after != nil {
		h.after()
	}
	return info, err
}

func (h *hooked) Stat(ctx context.Context, key global.Key) (global.Info, error) {
	if err := h.hook(ctx, "Stat"); err != nil {
		return global.Info{}, err
	}
	return h.Store.Stat(ctx, key)
}

// Read scribbles before it fails, for after an error the content of dst is undefined.
func (h *hooked) Read(ctx context.Context, key global.Key, off int64, dst []byte) (int, global.Info, error) {
	if err := h.hook(ctx, "Read"); err != nil {
		for i := range dst {
			dst[i] = 0xee
		}
		return 0, global.Info{}, err
	}
	return h.Store.Read(ctx, key, off, dst)
}

// Write reads some of src before it fails.
func (h *hooked) Write(ctx context.Context, key global.Key, size int64, src io.ReaderAt, c global.Condition) (global.Info, error) {
	if err := h.hook(ctx, "Write"); err != nil {
		if src != nil {
			_, _ = src.ReadAt(make([]byte, min(size, chunkBytes)), 0)
		}
		return global.Info{}, err
	}
	return h.done(h.Store.Write(ctx, key, size, src, c))
}

func (h *hooked) Patch(ctx context.Context, key global.Key, ranges []global.Range, c global.Condition) (global.Info, error) {
	if err := h.hook(ctx, "Patch"); err != nil {
		return global.Info{}, err
	}
	return h.done(h.Store.Patch(ctx, key, ranges, c))
}

func (h *hooked) Merge(ctx context.Context, key global.Key, off int64, e global.Element, op global.Op, operand []byte, c global.Condition) (global.Info, error) {
	if err := h.hook(ctx, "Merge"); err != nil {
		return global.Info{}, err
	}
	return h.done(h.Store.Merge(ctx, key, off, e, op, operand, c))
}

func (h *hooked) Delete(ctx context.Context, key global.Key, c global.Condition) error {
	if err := h.hook(ctx, "Delete"); err != nil {
		return err
	}
	return h.Store.Delete(ctx, key, c)
}

func (h *hooked) Publish(ctx context.Context, key global.Key, c global.Condition) (global.Info, error) {
	if err := h.hook(ctx, "Publish"); err != nil {
		return global.Info{}, err
	}
	return h.Store.Publish(ctx, key, c)
}

func (h *hooked) Published(ctx context.Context, key global.Key) (global.Info, error) {
	if err := h.hook(ctx, "Published"); err != nil {
		return global.Info{}, err
	}
	return h.Store.Published(ctx, key)
}

func (h *hooked) ReadPublished(ctx context.Context, key global.Key, version uint64, off int64, dst []byte) (int, global.Info, error) {
	if err := h.hook(ctx, "ReadPublished"); err != nil {
		return 0, global.Info{}, err
	}
	return h.Store.ReadPublished(ctx, key, version, off, dst)
}

// held stops the next operation op until let is called. reached is closed when it is there.
func (h *hooked) held(op string) (reached chan struct{}, let func()) {
	reached, gate := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	h.before = func(ctx context.Context, this string) error {
		if this != op || once.Swap(true) {
			return nil
		}
		close(reached)
		select {
		case <-gate:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return reached, func() { close(gate) }
}
