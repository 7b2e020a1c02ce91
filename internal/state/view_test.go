package state

import (
	"context"
	"slices"
	"testing"

	"github.com/faasm-go/faasm/internal/state/global"
)

func TestSession_View_shares(t *testing.T) {
	store := newStore(t)
	tier := newTier(t, store, Options{})
	a, b := newSession(t, tier), newSession(t, tier)
	ma := view(t, a, "k", Access{Create: true, CreateSize: chunkBytes + 1}, 0, -1)
	mb := view(t, b, "k", Access{}, 0, -1)
	ma[chunkBytes] = 7
	if mb[chunkBytes] != 7 {
		t.Error("a write of one session is not seen in the other's view")
	}
	if got := value(t, b, "k"); got[chunkBytes] != 7 {
		t.Error("a write through a view is not read")
	}
	for what, row := range map[string]struct {
		a       Access
		private bool
	}{
		"": {Access{}, false}, "read-only": {Access{ReadOnly: true}, true}, "create": {Access{Create: true}, false},
	} {
		v, err := b.View("k", row.a, 0, -1)
		if err != nil || v.Private != row.private {
			t.Errorf("view %s: private %t, %v", what, v.Private, err)
		}
	}
}

// Only what a view covers is brought, once, and asking again asks nobody.
func TestSession_View_bringsWhatItCovers(t *testing.T) {
	store := &hooked{Store: newStore(t)}
	s := newSession(t, newTier(t, store, Options{}))
	want := pattern(10*chunkBytes+5, 1)
	put(t, s, "k", want)
	for _, row := range []struct {
		off, n, chunks, calls int64
	}{
		{3*chunkBytes + 5, 1, 1, 2}, {3 * chunkBytes, chunkBytes, 0, 0}, {3*chunkBytes - 1, 2, 1, 1},
		{0, 10 * chunkBytes, 8, 2}, {5, 9 * chunkBytes, 0, 0}, {10 * chunkBytes, 5, -1, 1}, {0, -1, 0, 0}, {10*chunkBytes + 5, 0, 0, 0},
	} {
		before, calls := store.Moved().Received, store.calls.Load()
		got := view(t, s, "k", Access{}, row.off, row.n)
		n := row.n
		if n < 0 {
			n = int64(len(want)) - row.off
		}
		wantBytes(t, "view", got, want[row.off:][:n])
		received := int64(store.Moved().Received - before)
		if row.chunks == -1 {
			row.chunks, received = 0, received-5
		}
		if received != row.chunks*chunkBytes || store.calls.Load()-calls != row.calls {
			t.Errorf("view of %d at %d: %d bytes in %d calls, want %d chunks in %d", row.n, row.off, received, store.calls.Load()-calls, row.chunks, row.calls)
		}
	}
}

func TestSession_View_pull(t *testing.T) {
	a, b := onTwoHosts(t)
	want := pattern(3*chunkBytes, 1)
	put(t, a, "k", want)
	whole := view(t, b, "k", Access{}, 0, -1)

	next := pattern(3*chunkBytes, 2)
	put(t, a, "k", next)
	wantBytes(t, "before", view(t, b, "k", Access{}, 0, -1), want)
	part := view(t, b, "k", Access{Pull: true}, chunkBytes+5, 1)
	wantBytes(t, "part", part, next[chunkBytes+5:][:1])
	wantBytes(t, "its chunk", whole[chunkBytes:2*chunkBytes], next[chunkBytes:2*chunkBytes])
	wantBytes(t, "others", whole[:chunkBytes], want[:chunkBytes])

	// Another size is taken over, whatever is asked for.
	for _, size := range []int{chunkBytes + 10, 4 * chunkBytes, 7} {
		next = pattern(size, uint64(size))
		put(t, a, "k", next)
		v, err := b.View("k", Access{Pull: true}, 0, 5)
		if err != nil || v.Size != int64(size) {
			t.Fatalf("view after a resize to %d: %+v, %v", size, v, err)
		}
		wantBytes(t, "resized", value(t, b, "k"), next)
	}
	_, err := b.View("k", Access{Pull: true}, 8, 1)
	wantErr(t, "beyond the new end", err, ErrRange)

	// Made here and not pushed: there is nothing to pull, and it stays.
	mine := view(t, b, "mine", Access{Create: true, CreateSize: 9}, 0, -1)
	mine[1] = 1
	if again := view(t, b, "mine", Access{Create: true, Pull: true}, 0, -1); again[1] != 1 {
		t.Error("what was made here is lost")
	}
	_, err = b.View("mine", Access{Pull: true}, 0, -1)
	wantErr(t, "pull what is here alone", err, global.ErrNotFound)
	if mine[1] != 1 {
		t.Error("what was made here is lost")
	}
}

// What a failed read left is neither seen nor kept.
func TestSession_View_failedRead(t *testing.T) {
	store := &hooked{Store: newStore(t)}
	s := newSession(t, newTier(t, store, Options{}))
	put(t, s, "k", pattern(3*chunkBytes, 1))
	store.before = func(_ context.Context, op string) error {
		if op == "Read" {
			return global.ErrUnavailable
		}
		return nil
	}
	_, err := s.View("k", Access{}, 0, -1)
	wantErr(t, "view", err, global.ErrUnavailable)
	r, err := s.find(s.slot("k"))
	must(t, err)
	if n, err := r.memory.Resident(); n != 0 || err != nil {
		t.Errorf("%d bytes resident, %v", n, err)
	}
	s.tier.unpin(r)
	must(t, s.Set("k", []byte("x")))
	v, err := s.View("k", Access{}, 0, -1)
	must(t, err)
	wantBytes(t, "beyond the end", v.Memory.Bytes()[1:], make([]byte, 3*chunkBytes-1))
}

func TestSession_Delete_whileViewed(t *testing.T) {
	store := newStore(t)
	tier := newTier(t, store, Options{})
	a, b := newSession(t, tier), newSession(t, tier)
	must(t, a.Set("k", pattern(chunkBytes, 1)))
	_, err := a.Publish("k")
	must(t, err)
	ma, mb := view(t, a, "k", Access{}, 0, -1), view(t, b, "k", Access{}, 0, -1)
	mp := view(t, b, "k", Access{Published: true}, 0, -1)
	must(t, a.Delete("k"))
	wantErr(t, "deleted again", a.Delete("k"), global.ErrNotFound)
	ma[0], ma[chunkBytes-1] = 1, 2
	if mb[0] != 1 || mb[chunkBytes-1] != 2 {
		t.Error("who has a deleted value mapped lost the memory")
	}
	wantBytes(t, "published", mp, pattern(chunkBytes, 1))
	_, err = a.View("k", Access{}, 0, -1)
	wantErr(t, "view of what was deleted", err, global.ErrNotFound)
	_, err = a.View("k", Access{Published: true}, 0, -1)
	wantErr(t, "published view of what was deleted", err, global.ErrNotFound)
	_, err = a.Size("k")
	wantErr(t, "size", err, global.ErrNotFound)

	fresh := view(t, a, "k", Access{Create: true, CreateSize: 3}, 0, -1)
	wantBytes(t, "made anew", fresh, make([]byte, 3))
	fresh[0] = 9
	if ma[0] != 1 {
		t.Error("the new value is in the old one's memory")
	}
	must(t, a.Push("k"))
	if got := value(t, b, "k"); len(got) != 3 || got[0] != 9 {
		t.Errorf("other session sees % x", got)
	}
	// What was made here alone is deleted here.
	must(t, a.Set("alone", []byte("x")))
	must(t, a.Delete("alone"))
	wantErr(t, "again", a.Delete("alone"), global.ErrNotFound)
	a.Close()
	b.Close()
	tier.reclaimMappings()
	if n := tier.Stats().MemoryBytes; n != 0 {
		t.Errorf("%d bytes left", n)
	}
}

// A value that another host deleted can be made anew here, though this host knew of it.
func TestSession_View_deletedElsewhere(t *testing.T) {
	for _, how := range []string{"known", "partly here"} {
		a, b := onTwoHosts(t)
		put(t, a, "k", pattern(3*chunkBytes, 1))
		must(t, b.FlagDirty("k", 0, 0)) // b knows of it
		if how == "partly here" {
			view(t, b, "k", Access{}, 0, 1)
		}
		must(t, a.Delete("k"))
		v, err := b.View("k", Access{Create: true, CreateSize: 7}, 0, -1)
		if how == "known" {
			if err != nil || v.Size != 7 {
				t.Errorf("made anew: %+v, %v", v, err)
			}
			continue
		}
		wantErr(t, "what is not here", err, global.ErrNotFound)
		wantErr(t, "pull", b.Pull("k"), global.ErrNotFound)
		got := make([]byte, 5)
		_, err = b.ReadAt("k", 0, got)
		must(t, err)
		wantBytes(t, "what is here", got, pattern(3*chunkBytes, 1)[:5])
		must(t, b.Delete("k"))
		v, err = b.View("k", Access{Create: true, CreateSize: 7}, 0, -1)
		if err != nil || v.Size != 7 {
			t.Errorf("made anew: %+v, %v", v, err)
		}
	}
}

// What a session has mapped is the same after a thousand other views.
func TestSession_View_manyRanges(t *testing.T) {
	s, _ := onTwoHosts(t)
	first := view(t, s, "k", Access{Create: true, CreateSize: 64 * chunkBytes}, 0, 1)
	first[0] = 1
	for i := range int64(64) {
		at := (i * 37 % 64) * chunkBytes
		view(t, s, "k", Access{ReadOnly: i%2 == 0}, at, min(3*chunkBytes, 64*chunkBytes-at))[0] |= 1
	}
	want := make([]byte, 64*chunkBytes)
	for i := range want {
		if i%chunkBytes == 0 {
			want[i] = 1
		}
	}
	if !slices.Equal(value(t, s, "k"), want) {
		t.Error("views are not of one value")
	}
	h := s.views[slot{key: s.key("k")}]
	r := h.r
	for i, c := range r.mu.chunks {
		n := 0
		if h.writable.cover(span{i, i + 1}) {
			n = 1
		}
		if c.writers != n {
			t.Errorf("chunk %d has %d writers, want %d", i, c.writers, n)
		}
	}
	r.pins.Add(1)
	s.Close()
	for i, c := range r.mu.chunks {
		if c.writers != 0 {
			t.Errorf("chunk %d has %d writers after Close", i, c.writers)
		}
	}
	s.tier.unpin(r)
}
