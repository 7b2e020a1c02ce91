package state

import (
	"context"
	"fmt"

	"github.com/faasm-go/faasm/internal/state/global"
)

// Publish pushes the value if something of it was not pushed yet, as Push does, and makes
// what the global tier has then a published version, which it returns.
func (s *Session) Publish(name string) (version uint64, err error) {
	err = s.pushing(name, func(ctx context.Context, r *replica, c global.Condition) error {
		if r.dirty() {
			return r.push(ctx, c)
		}
		return nil
	})
	if err == nil {
		err = s.blocking(func(ctx context.Context) error {
			info, err := s.tier.store.Publish(ctx, s.key(name), s.condition(name))
			version = info.Version
			return err
		})
	}
	if err != nil {
		return 0, fmt.Errorf("publish %s: %w", s.key(name), err)
	}
	s.tier.supersede(s.key(name), version)
	return version, nil
}

// asking is kept of a key while sessions ask the global tier for its latest published
// version.
type asking struct {
	sessions int
	least    uint64 // what this host has published meanwhile: an older answer is out of date
}

// ask runs do, which asks for the latest published version of key and inserts it.
func (t *Tier) ask(key global.Key, do func() (*replica, error)) (*replica, error) {
	count := func(more int) {
		t.mu.Lock()
		defer t.mu.Unlock()
		a := t.mu.asking[key]
		if a.sessions += more; a.sessions == 0 {
			delete(t.mu.asking, key)
			return
		}
		t.mu.asking[key] = a
	}
	count(1)
	defer count(-1)
	return do()
}

// supersede takes the published version that this host uses out of the table if it is older
// than this one, and has older ones stay out that a session has just heard of: who asks next
// gets the latest. Who has it mapped keeps it.
func (t *Tier) supersede(key global.Key, version uint64) {
	t.mu.Lock()
	if a, ok := t.mu.asking[key]; ok {
		a.least = max(a.least, version)
		t.mu.asking[key] = a
	}
	t.mu.Unlock()
	r, err := t.pin(slot{key, true})
	if r == nil || err != nil {
		return
	}
	if r.version < version {
		t.giveUp(r)
	}
	t.unpin(r)
}

// openPublished returns the replica of the published version that the session or the host
// uses, or of the latest if there is none or latest is set, pinned.
func (s *Session) openPublished(key global.Key, latest bool) (*replica, error) {
	at := slot{key, true}
	if h := s.views[at]; h != nil && !latest {
		h.r.pins.Add(1)
		return h.r, nil
	}
	r, err := s.find(at)
	if err != nil || r != nil && !latest {
		return r, err
	}
	if r != nil {
		s.tier.unpin(r)
	}
	return s.tier.ask(key, func() (*replica, error) {
		var info global.Info
		if err := s.blocking(func(ctx context.Context) (err error) {
			info, err = s.tier.store.Published(ctx, key)
			return err
		}); err != nil {
			return nil, err
		}
		return s.tier.make(key, info.Version, originGlobal, info.Size)
	})
}
