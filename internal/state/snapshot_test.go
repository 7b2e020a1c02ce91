package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/faasm-go/faasm/internal/state/global"
)

// borrower is a Store that sends what it is lent from where it is, as far as that is kept.
type borrower struct {
	global.Store
	most int64 // is lent at once
	// during is run with what is written, before any of it is lent.
	during func(src global.Lender, size int64)
	// wrote is run with what Write makes the value.
	wrote          func(data []byte)
	kept, repeated atomic.Int64
}

func (b *borrower) Write(ctx context.Context, key global.Key, size int64, src io.ReaderAt, c global.Condition) (global.Info, error) {
	lender, ok := src.(global.Lender)
	if !ok {
		return b.Store.Write(ctx, key, size, src, c)
	}
	if b.during != nil {
		b.during(lender, size)
	}
	data := make([]byte, size)
	for off := int64(0); off < size; off += b.most {
		to := data[off:min(off+b.most, size)]
		pieces, mark := lender.Lend(nil, off, int64(len(to)))
		runtime.Gosched()
		sent := 0
		for _, p := range pieces {
			sent += copy(to[sent:], p)
		}
		if sent != len(to) {
			return global.Info{}, fmt.Errorf("%d bytes lent of %d at %d", sent, len(to), off)
		}
		if lender.Kept(mark) {
			b.kept.Add(1)
			continue
		}
		b.repeated.Add(1)
		if n, err := lender.ReadAt(to, off); n != len(to) {
			return global.Info{}, fmt.Errorf("read %d bytes at %d: %d, %w", len(to), off, n, err)
		}
	}
	if b.wrote != nil {
		b.wrote(data)
	}
	return b.Store.Write(ctx, key, size, bytes.NewReader(data), c)
}

// What is lent is what the snapshot has for as long as it is said to be, whatever becomes of
// the value, and to read it always is.
func TestSnapshot_Lend(t *testing.T) {
	const size = 3*chunkBytes + 50
	next := pattern(size, 2)
	for what, row := range map[string]struct {
		change func(t *testing.T, o *Session)
		kept   bool
	}{
		"Set":               {func(t *testing.T, o *Session) { must(t, o.Set("k", next)) }, false},
		"Set, smaller":      {func(t *testing.T, o *Session) { must(t, o.Set("k", next[:chunkBytes+10])) }, false},
		"Set, to nothing":   {func(t *testing.T, o *Session) { must(t, o.Set("k", nil)) }, false},
		"Set, much larger":  {func(t *testing.T, o *Session) { must(t, o.Set("k", bytes.Repeat(next, 20))) }, false},
		"Set, and back":     {func(t *testing.T, o *Session) { must(t, o.Set("k", next[:5])); must(t, o.Set("k", next)) }, false},
		"SetAt":             {func(t *testing.T, o *Session) { must(t, o.SetAt("k", 5, []byte{0})) }, false},
		"SetAt, the end":    {func(t *testing.T, o *Session) { must(t, o.SetAt("k", size-1, []byte{0})) }, false},
		"SetAt, two chunks": {func(t *testing.T, o *Session) { must(t, o.SetAt("k", chunkBytes-1, []byte{0, 0})) }, false},
		"written view": {func(t *testing.T, o *Session) {
			m := view(t, o, "k", Access{}, 0, -1)
			m[0], m[2*chunkBytes], m[size-1] = 0, 0, 0
		}, false},
		"view to be written": {func(t *testing.T, o *Session) { view(t, o, "k", Access{}, 2*chunkBytes, 1) }, false},
		"view and SetAt": {func(t *testing.T, o *Session) {
			view(t, o, "k", Access{ReadOnly: true}, 0, -1)
			must(t, o.SetAt("k", 0, []byte{0}))
		}, false},
		"mask cleared": {func(t *testing.T, o *Session) {
			must(t, o.Set("other", next))
			must(t, o.PushMask("other", "k"))
		}, false},
		"set, deleted": {func(t *testing.T, o *Session) {
			must(t, o.Set("k", next))
			_ = o.tier.Delete(t.Context(), o.key("k"), global.Condition{})
		}, false},

		"nothing":        {func(*testing.T, *Session) {}, true},
		"read":           {func(t *testing.T, o *Session) { value(t, o, "k") }, true},
		"read-only view": {func(t *testing.T, o *Session) { view(t, o, "k", Access{ReadOnly: true}, 0, -1) }, true},
		"flag":           {func(t *testing.T, o *Session) { must(t, o.FlagDirty("k", 100, 5)) }, true},
		"given up": {func(t *testing.T, o *Session) {
			o.tier.forget(o.key("k"))
			must(t, o.Set("k", next)) // which is another
		}, true},
		"reclaimed":   {func(t *testing.T, o *Session) { o.tier.reclaimMappings() }, true},
		"tier closed": {func(t *testing.T, o *Session) { must(t, o.tier.Close()) }, true},
	} {
		for _, writer := range []bool{false, true} {
			name := fmt.Sprintf("%s, mapped %t", what, writer)
			store := &borrower{Store: newStore(t), most: chunkBytes}
			tier := newTier(t, store, Options{})
			s, o := newSession(t, tier), newSession(t, tier)
			before := pattern(size, 1)
			must(t, s.Set("k", before))
			var m []byte
			if writer {
				m = view(t, s, "k", Access{}, chunkBytes, chunkBytes)
				m[1] = 0
				before[chunkBytes+1] = 0
			}
			ran := false
			store.during = func(src global.Lender, n int64) {
				if ran || n != size {
					return
				}
				ran = true
				const off = 10 // not where a chunk begins
				pieces, mark := src.Lend([][]byte{{9}}, off, size-off)
				if len(pieces) != 5 || len(pieces[0]) != 1 || !src.Kept(mark) {
					t.Errorf("%s: %d pieces lent, kept %t", name, len(pieces), src.Kept(mark))
				}
				if row.change(t, o); writer {
					m[0]++ // which was lent as it was
				}
				kept, lent := src.Kept(mark), slices.Concat(pieces[1:]...)
				if kept != row.kept {
					t.Errorf("%s: kept %t, want %t", name, kept, row.kept)
				}
				if kept {
					wantBytes(t, name+": lent", lent, before[off:])
				}
				again, at := src.Lend(nil, 0, size)
				wantBytes(t, name+": lent again", slices.Concat(again...), before)
				if !src.Kept(at) || src.Kept(mark) != row.kept {
					t.Errorf("%s: then kept is %t, and as it was before %t", name, src.Kept(at), src.Kept(mark))
				}
				read := make([]byte, size+1)
				if n, err := src.ReadAt(read, 0); n != size || err != io.EOF {
					t.Errorf("%s: read %d bytes, %v", name, n, err)
				}
				wantBytes(t, name+": read", read[:size], before)
			}
			must(t, s.Push("k"))
			if !ran {
				t.Errorf("%s: nothing was lent", name)
			}
			if what == "tier closed" || what == "set, deleted" {
				continue
			}
			wantBytes(t, name+": pushed", globally(t, s, "k"), before)
			want := value(t, o, "k")
			must(t, o.PushDirty("k"))
			wantBytes(t, name+": pushed next", globally(t, s, "k"), want)
		}
	}
}

// What is absent is lent as zeroes, and stays so when it is made.
func TestSnapshot_Lend_absent(t *testing.T) {
	const size = 2*chunkBytes + 7
	want := make([]byte, size)
	want[0] = 1
	for what, change := range map[string]func(o *Session){
		"SetAt": func(o *Session) { must(t, o.SetAt("k", chunkBytes, []byte{5})) },
		"view":  func(o *Session) { view(t, o, "k", Access{}, size-1, 1)[0] = 5 },
	} {
		store := &borrower{Store: newStore(t), most: chunkBytes}
		tier := newTier(t, store, Options{})
		s, o := newSession(t, tier), newSession(t, tier)
		view(t, s, "k", Access{Create: true, CreateSize: size}, 0, 1)[0] = 1
		store.during = func(src global.Lender, _ int64) {
			pieces, mark := src.Lend(nil, 0, size)
			change(o)
			lent := slices.Concat(pieces...)
			if src.Kept(mark) {
				wantBytes(t, what+": lent", lent, want)
			}
			pieces, _ = src.Lend(nil, 0, size)
			wantBytes(t, what+": lent again", slices.Concat(pieces...), want)
		}
		must(t, s.Push("k"))
		wantBytes(t, what, globally(t, s, "k"), want)
	}
}

// Whoever sets, views and pushes at once, what is sent is one value that was set.
func TestSnapshot_Lend_hammer(t *testing.T) {
	t.Logf("seed %d", *seed)
	const pushes = 300
	store := &borrower{Store: newStore(t), most: 4 * chunkBytes}
	sizeOf := func(tag byte) int { return int(tag) % 7 * 2 * chunkBytes / 3 }
	store.wrote = func(data []byte) {
		if len(data) > 0 && (len(data) != sizeOf(data[0]) || !bytes.Equal(data, bytes.Repeat(data[:1], len(data)))) {
			t.Errorf("%d bytes were sent that begin with %d and are not one value", len(data), data[0])
		}
	}
	tier := newTier(t, store, Options{})
	must(t, newSession(t, tier).Set("k", bytes.Repeat([]byte{1}, sizeOf(1))))
	var over atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		random := rand.New(rand.NewPCG(*seed, 1))
		s := tier.Session("tenant", direct)
		defer s.Close()
		for !over.Load() {
			tag := byte(random.UintN(255)) + 1
			if err := s.Set("k", bytes.Repeat([]byte{tag}, sizeOf(tag))); err != nil {
				t.Error(err)
				return
			}
		}
	})
	wg.Go(func() {
		for !over.Load() {
			s := tier.Session("tenant", direct)
			if _, err := s.View("k", Access{}, 0, -1); err != nil && !errors.Is(err, ErrRange) {
				t.Error(err) // it may have become smaller meanwhile
			}
			s.Close()
		}
	})
	s := newSession(t, tier)
	for range pushes {
		must(t, s.Push("k"))
	}
	over.Store(true)
	wg.Wait()
	t.Logf("%d ranges were kept, %d read again", store.kept.Load(), store.repeated.Load())
}
