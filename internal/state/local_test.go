package state

import (
	"bytes"
	"math"
	"strings"
	"testing"

	"github.com/faasm-go/faasm/internal/state/global"
)

func TestSession_badNames(t *testing.T) {
	store := newStore(t)
	tier := newTier(t, store, Options{})
	good := newSession(t, tier)
	must(t, good.Set("k", []byte("value")))
	for what, row := range map[string]struct{ tenant, name string }{
		"no name":          {"tenant", ""},
		"long name":        {"tenant", strings.Repeat("n", global.NameBytesMax+1)},
		"no UTF-8":         {"tenant", "\xff"},
		"cut UTF-8":        {"tenant", "\xc3"},
		"surrogate":        {"tenant", "\xed\xa0\x80"},
		"no tenant":        {"", "k"},
		"long tenant":      {strings.Repeat("t", global.TenantBytesMax+1), "k"},
		"tenant not UTF-8": {"\xff", "k"},
	} {
		s := tier.Session(row.tenant, direct)
		n := row.name
		for call, f := range map[string]func() error{
			"View":      func() error { _, err := s.View(n, Access{Create: true, CreateSize: 1}, 0, -1); return err },
			"Published": func() error { _, err := s.View(n, Access{Published: true}, 0, -1); return err },
			"Size":      func() error { _, err := s.Size(n); return err },
			"Set":       func() error { return s.Set(n, []byte("x")) },
			"SetAt":     func() error { return s.SetAt(n, 0, nil) },
			"ReadAt":    func() error { _, err := s.ReadAt(n, 0, nil); return err },
			"Push":      func() error { return s.Push(n) },
			"PushRange": func() error { return s.PushRange(n, 0, 0) },
			"PushDirty": func() error { return s.PushDirty(n) },
			"PushMask":  func() error { return s.PushMask(n, "k") },
			"mask":      func() error { return s.PushMask("k", n) },
			"Merge":     func() error { return s.Merge(n, global.Int32, global.Sum) },
			"Dirty":     func() error { _, err := s.Dirty(n); return err },
			"Pull":      func() error { return s.Pull(n) },
			"PullRange": func() error { return s.PullRange(n, 0, 0) },
			"Publish":   func() error { _, err := s.Publish(n); return err },
			"Delete":    func() error { return s.Delete(n) },
			"FlagDirty": func() error { return s.FlagDirty(n, 0, 0) },
		} {
			wantErr(t, call+" with "+what, f(), global.ErrInvalid)
		}
		s.Close()
	}
	if n := tier.Stats().Replicas; n != 1 {
		t.Errorf("%d replicas, want 1", n)
	}
}

// Keys are structured: no two meet, whatever their parts are.
func TestSession_keysDoNotMeet(t *testing.T) {
	store := newStore(t)
	tier := newTier(t, store, Options{})
	keys := []struct{ tenant, name string }{
		{"a", "b/c"}, {"a/b", "c"}, {"a", "b"}, {"ab", "c"}, {"a", "bc"}, {"a\x00b", "c"}, {"a", "\x00b\x00c"},
		{"a", "B"}, {"a", "é"}, {"a", "e\u0301"}, {"a", "b "}, {"a", " b"}, {"a:b", "c"}, {"a", ":b:c"},
		{"a", "{b}"}, {"{a}", "b"}, {"a", strings.Repeat("n", 1024)}, {"a", strings.Repeat("n", 1023)},
	}
	sessions := make([]*Session, len(keys))
	for i, k := range keys {
		sessions[i] = tier.Session(k.tenant, direct)
		defer sessions[i].Close()
		must(t, sessions[i].Set(k.name, pattern(100, uint64(i))))
		must(t, sessions[i].Push(k.name))
		view(t, sessions[i], k.name, Access{}, 0, -1)[0] = byte(i)
	}
	other := newTier(t, store, Options{})
	for i, k := range keys {
		want := pattern(100, uint64(i))
		s := newSession(t, other)
		s.tenant = k.tenant
		wantBytes(t, k.tenant+"|"+k.name+" elsewhere", value(t, s, k.name), want)
		want[0] = byte(i)
		wantBytes(t, k.tenant+"|"+k.name, value(t, sessions[i], k.name), want)
	}
}

// Offsets and lengths at every edge are refused, and change nothing.
func TestSession_badRanges(t *testing.T) {
	const size = chunkBytes + 10
	for _, where := range []string{"here", "elsewhere"} {
		s, other := onTwoHosts(t)
		want := pattern(size, 1)
		must(t, other.Set("k", want))
		must(t, other.Push("k"))
		if where == "here" {
			must(t, s.Pull("k"))
		}
		for _, r := range []struct{ off, n int64 }{
			{-1, 1}, {-1, 0}, {math.MinInt64, math.MinInt64}, {math.MinInt64, 0}, {math.MaxInt64, 1}, {math.MaxInt64, math.MaxInt64},
			{1, math.MaxInt64}, {0, math.MaxInt64}, {math.MaxInt64, 0}, {0, size + 1}, {size, 1}, {size + 1, 0}, {chunkBytes, 11},
			{2 * chunkBytes, 0}, {1 << 40, 1 << 40},
		} {
			calls := map[string]func() error{
				"View":      func() error { _, err := s.View("k", Access{}, r.off, r.n); return err },
				"View pull": func() error { _, err := s.View("k", Access{Pull: true}, r.off, r.n); return err },
				"read-only": func() error { _, err := s.View("k", Access{ReadOnly: true}, r.off, r.n); return err },
				"PushRange": func() error {
					must(t, s.Pull("k"))
					return s.PushRange("k", r.off, r.n)
				},
				"PullRange": func() error { return s.PullRange("k", r.off, r.n) },
				"FlagDirty": func() error { return s.FlagDirty("k", r.off, r.n) },
			}
			if r.n >= 0 && r.n <= size+1 {
				calls["SetAt"] = func() error { return s.SetAt("k", r.off, make([]byte, r.n)) }
			}
			if r.off < 0 || r.off > size {
				calls["ReadAt"] = func() error { _, err := s.ReadAt("k", r.off, make([]byte, 10)); return err }
				calls["View to the end"] = func() error { _, err := s.View("k", Access{}, r.off, -1); return err }
			}
			for call, f := range calls {
				if err := f(); r.n < 0 && strings.HasPrefix(call, "View") && r.off >= 0 {
					continue // to the end
				} else {
					wantErr(t, call, err, ErrRange)
				}
			}
		}
		if dirty, err := s.Dirty("k"); err != nil || dirty {
			t.Errorf("dirty %t, %v after refused calls", dirty, err)
		}
		wantBytes(t, "value", value(t, s, "k"), want)
	}
}

func TestSession_edges(t *testing.T) {
	s, other := onTwoHosts(t)
	want := pattern(chunkBytes, 1)
	must(t, s.Set("k", want))
	must(t, s.SetAt("k", chunkBytes, nil))
	must(t, s.PushRange("k", chunkBytes, 0))
	must(t, s.FlagDirty("k", chunkBytes, 0))
	must(t, s.FlagDirty("k", 0, 0))
	if n, err := s.ReadAt("k", chunkBytes, make([]byte, 5)); n != 0 || err != nil {
		t.Errorf("read at the end: %d, %v", n, err)
	}
	b := make([]byte, 5)
	if n, err := s.ReadAt("k", chunkBytes-3, b); n != 3 || err != nil || !bytes.Equal(b[:3], want[chunkBytes-3:]) {
		t.Errorf("read over the end: %d, %v, % x", n, err, b)
	}
	for what, off := range map[string]int64{"start": 0, "middle": 5, "end": chunkBytes} {
		v, err := s.View("k", Access{}, off, 0)
		if err != nil || v.Len != chunkBytes || v.Offset != 0 {
			t.Errorf("view of nothing at the %s: %+v, %v; want the chunk", what, v, err)
		}
	}
	// A value of no bytes is a value.
	must(t, s.Set("empty", nil))
	v, err := s.View("empty", Access{}, 0, -1)
	if err != nil || v.Len != 0 || v.Size != 0 || v.Memory == nil {
		t.Errorf("view of an empty value: %+v, %v", v, err)
	}
	must(t, s.Push("empty"))
	must(t, other.Pull("empty"))
	must(t, other.PullRange("empty", 0, 0))
	if n, err := other.Size("empty"); n != 0 || err != nil {
		t.Errorf("size of an empty value: %d, %v", n, err)
	}
}

func TestSession_absent(t *testing.T) {
	s, _ := onTwoHosts(t)
	for call, f := range map[string]func() error{
		"View":      func() error { _, err := s.View("k", Access{}, 0, -1); return err },
		"pull":      func() error { _, err := s.View("k", Access{Pull: true}, 0, -1); return err },
		"Published": func() error { _, err := s.View("k", Access{Published: true}, 0, -1); return err },
		"Size":      func() error { _, err := s.Size("k"); return err },
		"SetAt":     func() error { return s.SetAt("k", 0, []byte("x")) },
		"ReadAt":    func() error { _, err := s.ReadAt("k", 0, nil); return err },
		"Push":      func() error { return s.Push("k") },
		"PushRange": func() error { return s.PushRange("k", 0, 0) },
		"PushDirty": func() error { return s.PushDirty("k") },
		"PushMask":  func() error { return s.PushMask("k", "k") },
		"Merge":     func() error { return s.Merge("k", global.Int32, global.Sum) },
		"Pull":      func() error { return s.Pull("k") },
		"PullRange": func() error { return s.PullRange("k", 0, 0) },
		"Publish":   func() error { _, err := s.Publish("k"); return err },
		"Delete":    func() error { return s.Delete("k") },
		"FlagDirty": func() error { return s.FlagDirty("k", 0, 0) },
	} {
		wantErr(t, call, f(), global.ErrNotFound)
	}
	if dirty, err := s.Dirty("k"); dirty || err != nil {
		t.Errorf("dirty: %t, %v", dirty, err)
	}
	if n := s.tier.Stats().Replicas; n != 0 {
		t.Errorf("%d replicas of nothing", n)
	}
}

func TestSession_View_createSizes(t *testing.T) {
	s, _ := onTwoHosts(t)
	for _, size := range []int64{-1, math.MinInt64, global.ValueBytesMax + 1, math.MaxInt64} {
		_, err := s.View("k", Access{Create: true, CreateSize: size}, 0, -1)
		wantErr(t, "create", err, global.ErrInvalid)
	}
	// A range of a huge value of zeroes takes no more than the range.
	v, err := s.View("huge", Access{Create: true, CreateSize: global.ValueBytesMax}, global.ValueBytesMax-5, 5)
	must(t, err)
	if v.Len != chunkBytes || v.Offset != global.ValueBytesMax-chunkBytes || v.Size != global.ValueBytesMax {
		t.Errorf("view: %+v", v)
	}
	// Overhead is page tables, which are counted for all of it.
	if got, most := s.tier.Stats().MemoryBytes, overhead(global.ValueBytesMax)+2*chunkBytes; got != most {
		t.Errorf("%d bytes counted, want %d", got, most)
	}
	_, err = s.View("k", Access{Create: true, CreateSize: 10}, 0, -1)
	must(t, err)
	if n, err := s.Size("k"); n != 10 || err != nil {
		t.Errorf("size %d, %v", n, err)
	}
	// It is there already: the size does not matter.
	_, err = s.View("k", Access{Create: true, CreateSize: -1}, 0, -1)
	must(t, err)
}

// A value may be set to any size while somebody has it mapped.
func TestSession_Set_whileViewed(t *testing.T) {
	s, other := onTwoHosts(t)
	must(t, s.Set("k", pattern(3*chunkBytes, 1)))
	whole := view(t, s, "k", Access{}, 0, -1)
	for i, size := range []int{3*chunkBytes - 1, chunkBytes + 1, chunkBytes, 10, 0, 1, 2 * chunkBytes, 3 * chunkBytes, 5 * chunkBytes} {
		want := pattern(size, uint64(i))
		must(t, s.Set("k", want))
		n := min(size, len(whole))
		wantBytes(t, "mapped", whole[:n], want[:n])
		if end := chunkCount(int64(size)) * chunkBytes; end < int64(len(whole)) {
			wantBytes(t, "beyond", whole[size:], make([]byte, len(whole)-size))
			whole[end] = 0xcc // nobody's: it is not to be seen in the value
		}
		must(t, s.Push("k"))
		wantBytes(t, "global", globally(t, s, "k"), want)
		must(t, other.Pull("k"))
		wantBytes(t, "other", value(t, other, "k"), want)
		// What is written through the old view is seen as ever.
		if n > 0 {
			whole[n-1]++
			want[n-1]++
			must(t, s.PushDirty("k"))
			wantBytes(t, "dirty", globally(t, s, "k"), want)
		}
	}
}
