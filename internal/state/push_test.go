package state

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/faasm-go/faasm/internal/state/global"
)

// Two hosts push what they changed of the same pages, byte by byte, and both keep it.
func TestSession_PushDirty_exact(t *testing.T) {
	random := rand.New(rand.NewPCG(*seed, 1))
	t.Logf("seed %d", *seed)
	store := newStore(t)
	const size = 3*chunkBytes + 1000
	want := pattern(size, 1)
	for _, how := range []string{"views", "calls", "mixed"} {
		var on [3]*Session
		for i := range on {
			on[i] = newSession(t, newTier(t, store, Options{}))
		}
		put(t, on[0], how, want)
		now := slices.Clone(want)
		var mapped [3][]byte
		for i, s := range on {
			if how != "calls" {
				mapped[i] = view(t, s, how, Access{}, 0, -1)
			}
		}
		for range 5 {
			for range 500 {
				at, b := random.IntN(size), byte(random.UintN(256))
				// Each byte has one host that writes it, so the result does not depend on the order.
				i := (at*7 + at/13) % 3
				if now[at] = b; how == "views" || how == "mixed" && random.IntN(2) == 0 {
					mapped[i][at] = b
				} else {
					must(t, on[i].SetAt(how, int64(at), []byte{b}))
				}
			}
			for _, s := range on {
				must(t, s.PushDirty(how))
				if dirty, err := s.Dirty(how); dirty || err != nil {
					t.Fatalf("dirty after the push: %t, %v", dirty, err)
				}
			}
			wantBytes(t, how, globally(t, on[0], how), now)
		}
	}
}

func TestSession_PushDirty_onlyWhatChanged(t *testing.T) {
	store := newStore(t)
	s := newSession(t, newTier(t, store, Options{}))
	put(t, s, "k", pattern(20*chunkBytes, 1))
	m := view(t, s, "k", Access{}, 0, -1)
	for _, row := range []struct {
		what   string
		change func()
		bytes  uint64
	}{
		{"nothing", func() {}, 0},
		{"a byte", func() { m[5]++ }, 1},
		{"as it was", func() { m[5]++; m[5]-- }, 0},
		{"edges", func() { m[0]++; m[chunkBytes-1]++; m[chunkBytes]++; m[20*chunkBytes-1]++ }, 4},
		{"every other byte", func() {
			for i := 0; i < 3*chunkBytes; i += 2 {
				m[i]++
			}
		}, 3 * chunkBytes / 2},
		{"all", func() {
			for i := range m {
				m[i]++
			}
		}, 20 * chunkBytes},
		{"flagged", func() { must(t, s.FlagDirty("k", 10, 3*chunkBytes)) }, 3 * chunkBytes},
		{"flagged and changed", func() { must(t, s.FlagDirty("k", 10, 10)); m[5]++; m[12]++; m[20]++ }, 12},
		{"set as it was", func() { must(t, s.SetAt("k", 7, m[7:70])) }, 0},
	} {
		row.change()
		dirty, err := s.Dirty("k")
		must(t, err)
		if dirty != (row.bytes > 0) {
			t.Errorf("%s: dirty %t", row.what, dirty)
		}
		sent := store.Moved().Sent
		must(t, s.PushDirty("k"))
		if got := store.Moved().Sent - sent; got != row.bytes {
			t.Errorf("%s: pushed %d bytes, want %d", row.what, got, row.bytes)
		}
		wantBytes(t, row.what, globally(t, s, "k"), m)
	}
}

func TestSession_PushRange(t *testing.T) {
	a, b := onTwoHosts(t)
	want := pattern(3*chunkBytes, 1)
	put(t, a, "k", want)
	must(t, a.Pull("k"))
	must(t, b.Pull("k"))
	mine := bytes.Repeat([]byte{0}, 3*chunkBytes)
	must(t, b.SetAt("k", 0, mine))
	for _, r := range []struct{ off, n int64 }{{5, 1}, {chunkBytes - 2, 4}, {2*chunkBytes - 1, chunkBytes + 1}} {
		must(t, b.PushRange("k", r.off, r.n))
		clear(want[r.off : r.off+r.n])
		wantBytes(t, "pushed", globally(t, a, "k"), want)
		if dirty, err := b.Dirty("k"); !dirty || err != nil {
			t.Errorf("rest dirty: %t, %v", dirty, err)
		}
	}
	// What is not changed is pushed if it is flagged.
	put(t, a, "k", pattern(3*chunkBytes, 2))
	must(t, a.PushRange("k", 100, 10))
	got := globally(t, a, "k")
	wantBytes(t, "unchanged", got[100:110], pattern(3*chunkBytes, 2)[100:110])
	must(t, a.FlagDirty("k", 100, 10))
	must(t, a.PushRange("k", 102, 6))
	got = globally(t, a, "k")
	wantBytes(t, "flagged", got[102:108], pattern(3*chunkBytes, 1)[102:108])
	wantBytes(t, "before it", got[:102], pattern(3*chunkBytes, 2)[:102])
	// The rest is pushed later, and that alone.
	must(t, b.PushDirty("k"))
	got = globally(t, a, "k")
	wantBytes(t, "rest", got[200:300], mine[200:300])
	if got[5] == 0 {
		t.Error("what was pushed before was pushed again")
	}
	wantBytes(t, "local", value(t, a, "k"), pattern(3*chunkBytes, 1))
}

// A value that two hosts make is one value, of what both wrote.
func TestSession_push_madeTwice(t *testing.T) {
	for how, push := range map[string]func(s *Session, off, n int64) error{
		"PushDirty": func(s *Session, _, _ int64) error { return s.PushDirty("k") },
		"PushRange": func(s *Session, off, n int64) error { return s.PushRange("k", off, n) },
	} {
		a, b := onTwoHosts(t)
		const size = 2*chunkBytes + 9
		create := Access{Create: true, CreateSize: size}
		ma, mb := view(t, a, "k", create, 0, -1), view(t, b, "k", create, chunkBytes, -1)
		want := make([]byte, size)
		for i := range int64(100) {
			at := chunkBytes + 2*i
			ma[at], mb[at+1-chunkBytes] = 1, 2
			want[at], want[at+1] = 1, 2
		}
		must(t, push(a, chunkBytes, 200))
		must(t, push(b, chunkBytes, 200))
		wantBytes(t, how, globally(t, a, "k"), want)
		must(t, b.Pull("k"))
		wantBytes(t, how+" pulled", value(t, b, "k"), want)
	}
}

func TestSession_PushRange_setValue(t *testing.T) {
	s, other := onTwoHosts(t)
	want := pattern(2*chunkBytes, 1)
	must(t, s.Set("k", want))
	must(t, s.PushRange("k", 10, 20))
	got := make([]byte, 2*chunkBytes)
	copy(got[10:30], want[10:30])
	wantBytes(t, "made of zeroes and a range", globally(t, s, "k"), got)
	wantBytes(t, "elsewhere", value(t, other, "k"), got)
	must(t, s.PushDirty("k"))
	wantBytes(t, "whole", globally(t, s, "k"), want)
	// A smaller value replaces it.
	must(t, s.Set("k", want[:10]))
	must(t, s.PushDirty("k"))
	wantBytes(t, "smaller", globally(t, s, "k"), want[:10])
}

// Once part of a value that was set here has been pushed or pulled, a push of the rest touches
// the rest alone, so that it keeps what another host has pushed meanwhile: here an X at 1.
func TestSession_PushDirty_afterPart(t *testing.T) {
	pushRange := func(off, n int64) func(s *Session) error {
		return func(s *Session) error { return s.PushRange("k", off, n) }
	}
	for _, row := range []struct {
		what string
		set  string // where the global tier has aaaa
		part func(s *Session) error
		want string
	}{
		{"nothing", "bbbb", func(*Session) error { return nil }, "bbbb"},
		{"a push of no bytes", "bbbb", pushRange(1, 0), "bbbb"},
		{"a pull of no bytes", "bbbb", func(s *Session) error { return s.PullRange("k", 1, 0) }, "bbbb"},
		{"a push of others", "bbbb", pushRange(2, 2), "bbbb"},
		{"a push of all", "bbbb", pushRange(0, 4), "bXbb"},
		{"a push of part", "bbbb", pushRange(1, 1), "bXbb"},
		{"a push by mask", "bbbb", func(s *Session) error { return s.PushMask("k", "mask") }, "bXbb"},
		{"a pull of part", "bbbb", func(s *Session) error { return s.PullRange("k", 1, 1) }, "bXbb"},
		{"a view that pulls", "bbbb", func(s *Session) error { _, err := s.View("k", Access{Pull: true}, 1, 1); return err }, "aXaa"},
		{"set again", "bbbb", func(s *Session) error { return errors.Join(s.PushRange("k", 0, 4), s.Set("k", []byte("cccc"))) }, "cccc"},
		{"larger, its end pushed", "bbbbbb", pushRange(1, 5), "bXbbbb"},
		// The global value gets its new size by a push of the whole alone.
		{"larger, its end not pushed", "bbbbbb", pushRange(0, 5), "bbbbbb"},
		{"larger, pulled", "bbbbbb", func(s *Session) error { return s.PullRange("k", 0, 4) }, "aaaabb"},
		{"smaller", "bb", pushRange(0, 2), "bb"},
	} {
		a, b := onTwoHosts(t)
		must(t, a.Set("mask", []byte{0, 1, 0, 0}))
		must(t, a.Set("k", []byte("aaaa")))
		must(t, a.Push("k"))
		must(t, a.Set("k", []byte(row.set)))
		must(t, row.part(a))
		must(t, b.Pull("k"))
		must(t, b.SetAt("k", 1, []byte("X")))
		must(t, b.PushDirty("k"))
		must(t, a.PushDirty("k"))
		if got := string(globally(t, a, "k")); got != row.want {
			t.Errorf("%s: %s is pushed, want %s", row.what, got, row.want)
		}
		if dirty, err := a.Dirty("k"); dirty || err != nil {
			t.Errorf("%s: dirty after the push: %t, %v", row.what, dirty, err)
		}
	}
}

func TestSession_PushMask(t *testing.T) {
	a, b := onTwoHosts(t)
	const size = 2*chunkBytes + 100
	want := pattern(size, 1)
	put(t, a, "k", want)
	m := view(t, b, "k", Access{}, 0, -1)
	mask := view(t, b, "mask", Access{Create: true, CreateSize: size}, 0, -1)
	for i := range m {
		m[i] = 0
		if i%5 == 0 || i/chunkBytes == 1 {
			mask[i] = byte(i%255) + 1
			want[i] = 0
		}
	}
	must(t, b.PushMask("k", "mask"))
	wantBytes(t, "pushed", globally(t, a, "k"), want)
	wantBytes(t, "mask", mask, make([]byte, size))
	if dirty, _ := b.Dirty("k"); !dirty {
		t.Error("what the mask left out is not dirty any more")
	}
	must(t, b.Set("short", make([]byte, size-1)))
	wantErr(t, "mask of another size", b.PushMask("k", "short"), ErrRange)
	_, err := a.Size("mask")
	wantErr(t, "mask elsewhere", err, global.ErrNotFound)

	// Its own mask: what is not zero is pushed, and is zero then.
	must(t, b.Set("self", []byte{1, 0, 2}))
	must(t, b.PushMask("self", "self"))
	wantBytes(t, "self", globally(t, b, "self"), []byte{1, 0, 2})
	wantBytes(t, "self here", value(t, b, "self"), []byte{0, 0, 0})
}

// What changes while a push is under way is not part of it, and is pushed next.
func TestSession_push_whileWritten(t *testing.T) {
	const size = 2*chunkBytes + 50
	next := pattern(size, 2)
	type change func(m []byte, other *Session)
	changes := map[string]change{
		"pointer": func(m []byte, _ *Session) { m[5], m[chunkBytes+5] = 1, 2 },
		"SetAt": func(_ []byte, o *Session) {
			must(t, o.SetAt("k", 5, []byte{1}))
			must(t, o.SetAt("k", chunkBytes+5, []byte{2}))
		},
		"new view": func(_ []byte, o *Session) { m := view(t, o, "k", Access{}, 0, -1); m[5], m[chunkBytes+5] = 1, 2 },
		"Set":      func(_ []byte, o *Session) { must(t, o.Set("k", next)) },
		"smaller":  func(_ []byte, o *Session) { must(t, o.Set("k", next[:10])) },
		"larger":   func(_ []byte, o *Session) { must(t, o.Set("k", slices.Concat(next, next, next))) },
		"flag":     func(_ []byte, o *Session) { must(t, o.FlagDirty("k", 100, 5)) },
	}
	pushes := map[string]struct {
		op   string
		push func(s *Session) error
	}{
		"Push":      {"Write", func(s *Session) error { return s.Push("k") }},
		"PushDirty": {"Patch", func(s *Session) error { return s.PushDirty("k") }},
		"PushRange": {"Patch", func(s *Session) error { return s.PushRange("k", 0, size) }},
	}
	for how, p := range pushes {
		for what, change := range changes {
			for _, fails := range []bool{false, true} {
				store := &hooked{Store: newStore(t)}
				tier := newTier(t, store, Options{})
				s, other := newSession(t, tier), newSession(t, tier)
				put(t, s, "k", pattern(size, 1))
				must(t, s.Pull("k")) // else a view waits for the push
				before := pattern(size, 1)
				var m []byte
				if what == "pointer" {
					m = view(t, s, "k", Access{}, 0, -1)
					m[0], m[chunkBytes] = 9, 8
				} else {
					must(t, s.SetAt("k", 0, []byte{9}))
					must(t, s.SetAt("k", chunkBytes, []byte{8}))
				}
				before[0], before[chunkBytes] = 9, 8
				reached, let := store.held(p.op)
				if fails {
					inner := store.before
					store.before = func(ctx context.Context, op string) error {
						err := inner(ctx, op)
						if op == p.op && err == nil {
							err = global.ErrUnavailable
						}
						return err
					}
				}
				done := make(chan error, 1)
				go func() { done <- p.push(s) }()
				<-reached
				change(m, other)
				let()
				err := <-done
				if fails {
					wantErr(t, how+" "+what, err, global.ErrUnavailable)
					wantBytes(t, how+" failed, "+what, globally(t, s, "k"), pattern(size, 1))
				} else {
					must(t, err)
					got := globally(t, s, "k")
					if what == "pointer" && how == "Push" {
						// A pointer's write may be part of it already.
						got[5], got[chunkBytes+5] = before[5], before[chunkBytes+5]
					}
					wantBytes(t, how+" with "+what, got, before)
				}
				store.before = nil
				want := value(t, s, "k")
				must(t, s.PushDirty("k"))
				wantBytes(t, how+" after "+what, globally(t, s, "k"), want)
				if dirty, _ := s.Dirty("k"); dirty {
					t.Errorf("%s with %s: dirty at the end", how, what)
				}
			}
		}
	}
}

// What is written through a pointer when all is sent, but before that is known here, is
// pushed next.
func TestSession_push_writtenLast(t *testing.T) {
	const size = 2*chunkBytes + 48
	for call, push := range map[string]func(s *Session) error{
		"Push":      func(s *Session) error { return s.Push("k") },
		"PushDirty": func(s *Session) error { return s.PushDirty("k") },
		"PushRange": func(s *Session) error { return s.PushRange("k", 8, size-8) },
		"PushMask":  func(s *Session) error { return s.PushMask("k", "mask") },
		"Merge":     func(s *Session) error { return s.Merge("k", global.Int64, global.Sum) },
		"Publish":   func(s *Session) error { _, err := s.Publish("k"); return err },
	} {
		for _, how := range []string{"pulled", "made", "set"} {
			store := &hooked{Store: newStore(t)}
			s := newSession(t, newTier(t, store, Options{}))
			switch how {
			case "pulled":
				put(t, s, "k", make([]byte, size))
			case "set":
				must(t, s.Set("k", make([]byte, size)))
			}
			must(t, s.Set("mask", bytes.Repeat([]byte{1}, size)))
			m := view(t, s, "k", Access{Create: true, CreateSize: size}, 0, -1)
			m[8], m[chunkBytes], m[size-8] = 1, 2, 3
			store.after = func() {
				for _, at := range []int{8, 16, chunkBytes, size - 8} {
					m[at]++
				}
			}
			must(t, push(s))
			store.after = nil
			if dirty, _ := s.Dirty("k"); !dirty {
				t.Errorf("%s of what was %s: not dirty", call, how)
			}
			if call == "Merge" {
				must(t, s.Merge("k", global.Int64, global.Sum))
			} else {
				must(t, s.PushDirty("k"))
			}
			wantBytes(t, call+" of what was "+how, globally(t, s, "k"), m)
		}
	}
}

// A push as a whole is at once for every reader.
func TestSession_Push_atomic(t *testing.T) {
	store := newStore(t)
	a := newSession(t, newTier(t, store, Options{}))
	reader := newTier(t, store, Options{})
	const size = 40 * chunkBytes
	must(t, a.Set("k", bytes.Repeat([]byte{1}, size)))
	must(t, a.Push("k"))
	done := make(chan error, 1)
	go func() {
		s := reader.Session("tenant", direct)
		defer s.Close()
		for last := byte(1); last < 20; {
			if err := s.Pull("k"); err != nil {
				done <- err
				return
			}
			b := make([]byte, size)
			if _, err := s.ReadAt("k", 0, b); err != nil {
				done <- err
				return
			}
			last = b[0]
			if !bytes.Equal(b, bytes.Repeat(b[:1], size)) {
				done <- errors.New("a pull is of two pushes")
				return
			}
		}
		done <- nil
	}()
	m := view(t, a, "k", Access{}, 0, -1)
	for i := byte(2); i <= 20; i++ {
		for at := range m {
			m[at] = i
		}
		must(t, a.Push("k"))
	}
	must(t, <-done)
}

// Nothing that fails changes what is here, and nothing is lost afterwards.
func TestSession_failingStore(t *testing.T) {
	const size = 3*chunkBytes + 8
	cut := errors.New("the call has ended")
	for _, row := range []struct {
		call string
		ops  []string
		do   func(s *Session) error
	}{
		{"Push", []string{"Read", "Write"}, func(s *Session) error { return s.Push("k") }},
		{"PushDirty", []string{"Patch"}, func(s *Session) error { return s.PushDirty("k") }},
		{"PushRange", []string{"Patch"}, func(s *Session) error { return s.PushRange("k", 0, size) }},
		{"PushMask", []string{"Patch"}, func(s *Session) error { return s.PushMask("k", "mask") }},
		{"Merge", []string{"Merge"}, func(s *Session) error { return s.Merge("k", global.Int64, global.Sum) }},
		{"Publish", []string{"Write", "Publish"}, func(s *Session) error { _, err := s.Publish("k"); return err }},
		{"Pull", []string{"Read"}, func(s *Session) error { return s.Pull("k") }},
		{"PullRange", []string{"Read"}, func(s *Session) error { return s.PullRange("k", 5, 2*chunkBytes) }},
		{"View", []string{"Read"}, func(s *Session) error { _, err := s.View("k", Access{}, 0, -1); return err }},
		{"View pull", []string{"Read"}, func(s *Session) error { _, err := s.View("k", Access{Pull: true}, 0, -1); return err }},
		{"View part", []string{"Read"}, func(s *Session) error { _, err := s.View("k", Access{Pull: true}, 0, 8); return err }},
		{"Published", []string{"Published", "ReadPublished"}, func(s *Session) error {
			_, err := s.View("k", Access{Published: true}, 0, -1)
			return err
		}},
		{"ReadAt", []string{"Read"}, func(s *Session) error { _, err := s.ReadAt("k", 0, make([]byte, size)); return err }},
		{"SetAt", []string{"Read"}, func(s *Session) error { return s.SetAt("k", 2*chunkBytes-1, []byte{1, 2}) }},
		{"Delete", []string{"Delete"}, func(s *Session) error { return s.Delete("k") }},
		{"new Size", []string{"Stat"}, func(s *Session) error { _, err := s.Size("new"); return err }},
		{"new View", []string{"Stat", "Read"}, func(s *Session) error { _, err := s.View("new", Access{Create: true}, 0, -1); return err }},
		{"new Pull", []string{"Stat", "Read"}, func(s *Session) error { return s.Pull("new") }},
	} {
		for _, op := range row.ops {
			for _, fault := range []error{global.ErrUnavailable, global.ErrFull, global.ErrConflict, global.ErrFenced, cut} {
				store := &hooked{Store: newStore(t)}
				s := newSession(t, newTier(t, store, Options{}))
				must(t, s.Set("k", pattern(size, 1)))
				_, err := s.Publish("k")
				must(t, err)
				s.tier.forget(s.key("k"))
				put(t, s, "new", pattern(size, 2))
				must(t, s.Set("mask", bytes.Repeat([]byte{1}, size)))

				// One chunk is here and was changed, through a pointer and not; the others are absent.
				m := view(t, s, "k", Access{}, 0, chunkBytes)
				m[3]++
				must(t, s.SetAt("k", 9, []byte{0}))
				must(t, s.FlagDirty("k", 20, 5))
				counted := s.tier.budget.used()
				here := bytes.Clone(m)

				ctx, cancel := context.WithCancelCause(t.Context())
				s.wait = func(wait func(context.Context)) { wait(ctx) }
				store.before = func(ctx context.Context, this string) error {
					if this != op {
						return nil
					}
					if fault == cut {
						cancel(cut)
						<-ctx.Done()
						return context.Cause(ctx)
					}
					return fault
				}
				wantErr(t, row.call+" at "+op, row.do(s), fault)
				store.before, s.wait = nil, direct
				cancel(nil)

				name := row.call + " at " + op
				wantBytes(t, name+": view", m, here)
				if row.call == "Publish" && op == "Publish" {
					continue // the push has succeeded
				}
				if dirty, _ := s.Dirty("k"); !dirty {
					t.Errorf("%s: not dirty any more", name)
				}
				more := s.tier.budget.used() - counted
				if row.call == "Push" && op == "Write" || row.call == "Publish" {
					more -= 3 * chunkBytes // brought before
				}
				if op != "Stat" && (row.call == "new View" || row.call == "new Pull" || op == "ReadPublished") {
					more -= overhead(4 * chunkBytes) // what is known of it
				}
				if more != 0 {
					t.Errorf("%s: %d bytes more counted after the failure", name, more)
				}
				must(t, s.PushDirty("k"))
				want := pattern(size, 1)
				want[3]++
				want[9] = 0
				wantBytes(t, name+": pushed afterwards", globally(t, s, "k"), want)
				wantBytes(t, name+": read afterwards", value(t, s, "k"), want)
				wantBytes(t, name+": other value", value(t, s, "new"), pattern(size, 2))
			}
		}
	}
}
