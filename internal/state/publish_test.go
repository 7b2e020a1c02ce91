package state

import (
	"context"
	"testing"

	"github.com/faasm-go/faasm/internal/state/global"
)

func TestSession_Publish(t *testing.T) {
	a, b := onTwoHosts(t)
	one, two := pattern(2*chunkBytes+5, 1), pattern(10, 2)
	published := Access{Published: true}
	must(t, a.Set("k", one))
	_, err := b.View("k", published, 0, -1)
	wantErr(t, "before", err, global.ErrNotFound)
	v1, err := a.Publish("k") // pushes
	must(t, err)
	again, err := a.Publish("k")
	if err != nil || again != v1 {
		t.Errorf("published again: %d, %v; want %d", again, err, v1)
	}
	m := view(t, b, "k", published, 0, -1)
	wantBytes(t, "published", m, one)
	if v, err := b.View("k", published, 5, 1); err != nil || !v.Private || v.Len != chunkBytes {
		t.Errorf("view: %+v, %v; want a private chunk", v, err)
	}

	must(t, a.Set("k", two))
	v2, err := a.Publish("k")
	if err != nil || v2 <= v1 {
		t.Errorf("next version: %d after %d, %v", v2, v1, err)
	}
	wantBytes(t, "own, at once", view(t, a, "k", published, 0, -1), two)
	wantBytes(t, "pinned by the session", view(t, b, "k", published, 0, -1), one)
	other := newSession(t, b.tier)
	wantBytes(t, "of the host", view(t, other, "k", published, 0, -1), one)
	wantBytes(t, "asked for the latest", view(t, other, "k", Access{Published: true, Pull: true}, 0, -1), two)
	wantBytes(t, "pinned still", view(t, b, "k", published, 0, -1), one)
	wantBytes(t, "of the host now", view(t, newSession(t, b.tier), "k", published, 0, -1), two)
	wantBytes(t, "the value itself", view(t, b, "k", Access{}, 0, -1), two)

	// Forgotten by the store, kept by who has it.
	for i := range 3 {
		must(t, a.Set("k", pattern(20, uint64(i))))
		_, err := a.Publish("k")
		must(t, err)
	}
	wantBytes(t, "forgotten elsewhere", view(t, b, "k", published, 0, -1), one)
	wantBytes(t, "mapped all the time", m, one)
	latest := view(t, b, "k", Access{Published: true, Pull: true}, 0, -1)
	wantBytes(t, "latest", latest, pattern(20, 2))
	wantBytes(t, "mapped before", m, one)
	_, err = b.View("k", published, 21, 0)
	wantErr(t, "beyond the end", err, ErrRange)
}

// What others push does not change what is published, nor do writes here.
func TestSession_Publish_immutable(t *testing.T) {
	a, b := onTwoHosts(t)
	want := pattern(3*chunkBytes, 1)
	put(t, a, "k", want)
	_, err := a.Publish("k") // there is no replica here
	must(t, err)
	got := view(t, b, "k", Access{Published: true}, 0, 1)
	m := view(t, a, "k", Access{}, 0, -1)
	for i := range m {
		m[i] = 0
	}
	must(t, a.Push("k"))
	must(t, b.Pull("k"))
	wantBytes(t, "first chunk", got, want[:1])
	wantBytes(t, "all", view(t, b, "k", Access{Published: true}, 0, -1), want)
	if n := b.tier.Stats().Replicas; n != 2 {
		t.Errorf("%d replicas, want the value and what is published", n)
	}
}

// A host that knew a version which the store has forgotten finds the latest.
func TestSession_View_publishedForgotten(t *testing.T) {
	a, b := onTwoHosts(t)
	must(t, a.Set("k", pattern(2*chunkBytes, 9)))
	_, err := a.Publish("k")
	must(t, err)
	r, err := b.openPublished(b.key("k"), false)
	must(t, err)
	b.tier.unpin(r)
	for i := range global.PublishedKept {
		must(t, a.Set("k", pattern(10, uint64(i))))
		_, err := a.Publish("k")
		must(t, err)
	}
	wantBytes(t, "latest", view(t, b, "k", Access{Published: true}, 0, -1), pattern(10, global.PublishedKept-1))
}

// A session that asked for the latest version gets it, or a later one, even if another that
// had heard of an older one is first or last to make this host's replica of it.
func TestTier_make_olderVersion(t *testing.T) {
	a, b := onTwoHosts(t)
	var versions [3]uint64
	for i := range versions {
		must(t, a.Set("k", pattern(10, uint64(i))))
		var err error
		versions[i], err = a.Publish("k")
		must(t, err)
	}
	key, tier := b.key("k"), b.tier
	var had *replica // what was made and returned last
	for _, row := range []struct {
		heard, want int
		mapped      bool
	}{
		{heard: 1, want: 1, mapped: true},
		{heard: 0, want: 1},
		{heard: 1, want: 1},
		{heard: 2, want: 2},
		{heard: 1, want: 2},
	} {
		r, err := tier.make(key, versions[row.heard], originGlobal, 10)
		must(t, err)
		if r.version != versions[row.want] {
			t.Errorf("who heard of version %d got %d, want %d", versions[row.heard], r.version, versions[row.want])
		}
		if had != nil && had != r && had.version == r.version {
			t.Errorf("version %d is on this host twice", r.version)
		}
		had = r
		if row.mapped {
			view(t, b, "k", Access{Published: true}, 0, -1)
		}
		tier.unpin(r)
	}
	wantBytes(t, "mapped all the time", view(t, b, "k", Access{Published: true}, 0, -1), pattern(10, 1))
	wantBytes(t, "of the host", view(t, newSession(t, tier), "k", Access{Published: true}, 0, -1), pattern(10, 2))
	if n := tier.Stats().Replicas; n != 1 {
		t.Errorf("%d replicas, want the latest version", n)
	}
}

// Two sessions of a host have heard of two versions, and make them in either order.
func TestSession_View_publishedMeanwhile(t *testing.T) {
	for _, olderFirst := range []bool{true, false} {
		inner := newStore(t)
		a := newSession(t, newTier(t, inner, Options{}))
		store := &late{Store: inner, heard: make(chan struct{}), goOn: make(map[uint64]chan struct{})}
		tier := newTier(t, store, Options{})
		var done [2]chan []byte
		var versions [2]uint64
		for i := range done {
			must(t, a.Set("k", pattern(10, uint64(i))))
			var err error
			versions[i], err = a.Publish("k")
			must(t, err)
			store.goOn[versions[i]] = make(chan struct{})
			s := newSession(t, tier)
			done[i] = make(chan []byte, 1)
			go func() {
				v, err := s.View("k", Access{Published: true, Pull: true}, 0, -1)
				if err != nil {
					t.Error(err)
					done[i] <- nil
					return
				}
				done[i] <- v.Memory.Bytes()[:v.Size]
			}()
			<-store.heard
		}
		var older, newer []byte
		if olderFirst {
			close(store.goOn[versions[0]])
			older = <-done[0]
		}
		close(store.goOn[versions[1]])
		newer = <-done[1]
		wantBytes(t, "latest", newer, pattern(10, 1))
		if !olderFirst {
			close(store.goOn[versions[0]])
			older = <-done[0]
			wantBytes(t, "later than what it heard of", older, pattern(10, 1))
		} else {
			wantBytes(t, "what it has mapped", older, pattern(10, 0))
		}
		wantBytes(t, "of the host", view(t, newSession(t, tier), "k", Access{Published: true}, 0, -1), pattern(10, 1))
	}
}

// A session that had heard of an older version when this host published one gets that, and
// leaves it to nobody who asks afterwards.
func TestSession_View_publishedHereMeanwhile(t *testing.T) {
	store := &late{Store: newStore(t), heard: make(chan struct{}, 2), goOn: make(map[uint64]chan struct{})}
	tier := newTier(t, store, Options{})
	a, b := newSession(t, tier), newSession(t, tier)
	older, newer := pattern(10, 1), pattern(10, 2)
	must(t, a.Set("k", older))
	v1, err := a.Publish("k")
	must(t, err)
	store.goOn[v1] = make(chan struct{})
	done := make(chan error, 1)
	go func() {
		_, err := b.View("k", Access{Published: true}, 0, -1)
		done <- err
	}()
	<-store.heard
	must(t, a.Set("k", newer))
	v2, err := a.Publish("k")
	must(t, err)
	store.goOn[v2] = make(chan struct{})
	close(store.goOn[v2])
	close(store.goOn[v1])
	must(t, <-done)

	wantBytes(t, "what it has mapped", view(t, b, "k", Access{Published: true}, 0, -1), older)
	wantBytes(t, "of the host", view(t, newSession(t, tier), "k", Access{Published: true}, 0, -1), newer)
	if n := tier.Stats().Replicas; n != 2 {
		t.Errorf("%d replicas, want the value and what is published", n)
	}
	if n := len(tier.mu.asking); n != 0 {
		t.Errorf("%d keys are asked for, want none", n)
	}
}

// late is a Store whose answer to Published comes late: when goOn of the version is closed.
type late struct {
	global.Store
	heard chan struct{}
	goOn  map[uint64]chan struct{}
}

func (l *late) Published(ctx context.Context, key global.Key) (global.Info, error) {
	info, err := l.Store.Published(ctx, key)
	goOn := l.goOn[info.Version]
	l.heard <- struct{}{}
	select {
	case <-goOn:
		return info, err
	case <-ctx.Done():
		return global.Info{}, context.Cause(ctx)
	}
}
