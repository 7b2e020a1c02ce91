package state

import (
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
