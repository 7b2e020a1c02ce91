package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/faasm-go/faasm/internal/api"
	"github.com/faasm-go/faasm/internal/state"
	"github.com/faasm-go/faasm/internal/state/global"
)

// stateEmbedded is what a host calls its own global tier, in its data directory.
const stateEmbedded = "embedded"

// stateURL reads a location of the global tier. Its errors have no password in them.
func stateURL(location string) (*url.URL, error) {
	u, err := url.Parse(location)
	if err != nil || u.Scheme != "redis" && u.Scheme != "rediss" || u.Host == "" {
		return nil, errors.New("state: its location is not like redis://host:6379 or rediss://user:password@host:6379")
	}
	return u, nil
}

// stateName is what may be told of a location: no user, no password, no options.
func stateName(location string) string {
	u, err := stateURL(location)
	if err != nil {
		return stateEmbedded
	}
	return u.Scheme + "://" + u.Host + u.Path
}

// borrowed is a store that somebody else closes.
type borrowed struct{ global.Store }

func (borrowed) Close() error { return nil }

// openStore opens the global tier.
func openStore(ctx context.Context, o Options) (global.Store, error) {
	switch {
	case o.Store != nil:
		return borrowed{o.Store}, nil
	case o.State == "":
		return global.OpenEmbedded(filepath.Join(o.DataDir, "state.db"))
	}
	var opts global.RedisOptions
	if o.StateCA != "" {
		var err error
		if opts.CA, err = os.ReadFile(o.StateCA); err != nil {
			return nil, fmt.Errorf("read certificates of the state store: %w", err)
		}
	}
	return global.OpenRedis(ctx, o.State, opts)
}

// openState opens both tiers.
//
// Preconditions: the runtime is there.
func (h *Host) openState(ctx context.Context) error {
	store, err := openStore(ctx, h.opts)
	if err != nil {
		return err
	}
	h.store = store
	h.state, err = state.New(state.Options{
		Store: store, Arena: h.runtime.Arena(), MemoryMax: h.opts.StateMemory, TenantMemoryMax: h.opts.StateMemory / 2,
		TenantBytesMax: h.opts.StateQuota,
	})
	if err != nil {
		return errors.Join(err, store.Close())
	}
	return nil
}

// State is people's access to state.
func (h *Host) State() api.State { return h.state }

// stateSweepPeriod is how often a host looks for what writers that crashed left behind.
// That goes through all that is stored.
const stateSweepPeriod = time.Hour

// sweepState sweeps the global tier.
func (h *Host) sweepState() {
	swept, err := h.store.Sweep(h.ctx)
	if err != nil && h.ctx.Err() == nil {
		h.log.Error("sweep state", "error", err)
	} else if swept != (global.Swept{}) {
		h.log.Info("state of writers that had crashed was deleted", "chunks", swept.Chunks, "writers", swept.Writers)
	}
}
