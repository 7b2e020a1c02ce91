package state

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/faasm-go/faasm/internal/state/global"
)

// direct is a Waiter that gives up after a time that no test should need.
func direct(wait func(ctx context.Context)) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	wait(ctx)
}

func newStore(t testing.TB) global.Store {
	t.Helper()
	store, err := global.OpenEmbedded(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

// newTier is one host over a store. When the test ends none of its memory may be left.
func newTier(t testing.TB, store global.Store, opts Options) *Tier {
	t.Helper()
	opts.Store = shared{store}
	tier, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tier.Close(); err != nil {
			t.Error(err)
		}
		if n := tier.budget.used(); n != 0 {
			t.Errorf("%d bytes are still counted after Close", n)
		}
	})
	return tier
}

func newSession(t testing.TB, tier *Tier) *Session {
	t.Helper()
	s := tier.Session("tenant", direct)
	t.Cleanup(s.Close)
	return s
}

// onTwoHosts returns sessions on two hosts over one store.
func onTwoHosts(t testing.TB) (a, b *Session) {
	t.Helper()
	store := newStore(t)
	return newSession(t, newTier(t, store, Options{})), newSession(t, newTier(t, store, Options{}))
}

// must fails the test for an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// pattern is bytes that differ from place to place, and are never 0.
func pattern(n int, tag uint64) []byte {
	b := make([]byte, n)
	random := rand.New(rand.NewPCG(tag, uint64(n)))
	for i := range b {
		b[i] = byte(random.UintN(255)) + 1
	}
	return b
}

func wantBytes(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d bytes, want %d", what, len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("%s: byte %d of %d is %#x, want %#x", what, i, len(got), got[i], want[i])
		}
	}
}

// value is the whole value as s sees it.
func value(t testing.TB, s *Session, name string) []byte {
	t.Helper()
	size, err := s.Size(name)
	must(t, err)
	b := make([]byte, size)
	n, err := s.ReadAt(name, 0, b)
	must(t, err)
	return b[:n]
}

// globally is the whole value as the global tier has it.
func globally(t testing.TB, s *Session, name string) []byte {
	t.Helper()
	info, err := s.tier.store.Stat(t.Context(), s.key(name))
	must(t, err)
	b := make([]byte, info.Size)
	n, _, err := s.tier.store.Read(t.Context(), s.key(name), 0, b)
	must(t, err)
	return b[:n]
}

// put makes a value in the global tier.
func put(t testing.TB, s *Session, name string, data []byte) {
	t.Helper()
	_, err := s.tier.store.Write(t.Context(), s.key(name), int64(len(data)), bytes.NewReader(data), global.Condition{})
	must(t, err)
}

// view maps the range and returns its bytes as a guest would have them at off.
func view(t testing.TB, s *Session, name string, a Access, off, n int64) []byte {
	t.Helper()
	v, err := s.View(name, a, off, n)
	must(t, err)
	if v.Offset%chunkBytes != 0 || v.Len%chunkBytes != 0 || v.Offset+v.Len > v.Memory.Size() {
		t.Fatalf("view of %d at %d: %+v of a memory of %d", n, off, v, v.Memory.Size())
	}
	if n < 0 {
		n = v.Size - off
	}
	return v.Memory.Bytes()[off : off+n]
}

func TestSession_twoHosts(t *testing.T) {
	a, b := onTwoHosts(t)
	want := pattern(3*chunkBytes+17, 1)
	must(t, a.Set("k", want))
	wantBytes(t, "own", value(t, a, "k"), want)
	_, err := b.Size("k")
	wantErr(t, "before the push", err, global.ErrNotFound)
	must(t, a.Push("k"))
	wantBytes(t, "other's", value(t, b, "k"), want)

	// Two hosts push different bytes of one page.
	ma := view(t, a, "k", Access{}, 0, -1)
	mb := view(t, b, "k", Access{}, 0, -1)
	ma[100], mb[101] = 0, 0
	want[100], want[101] = 0, 0
	must(t, a.PushDirty("k"))
	must(t, b.PushDirty("k"))
	wantBytes(t, "both", globally(t, a, "k"), want)
	must(t, a.Pull("k"))
	wantBytes(t, "pulled", ma, want)
}
