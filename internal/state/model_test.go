package state

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/faasm-go/faasm/internal/state/global"
	"pgregory.net/rapid"
)

// modelHost is what one host is to have of the value. All of it is present.
type modelHost struct {
	there  bool
	from   origin
	value  []byte
	base   []byte
	forced []bool
}

func (h *modelHost) synced(value []byte) {
	*h = modelHost{there: true, value: slices.Clone(value), base: slices.Clone(value), forced: make([]bool, len(value))}
}

func (h *modelHost) made(from origin, value []byte, forced bool) {
	h.synced(value)
	h.from, h.base = from, make([]byte, len(value))
	for i := range h.forced {
		h.forced[i] = forced
	}
}

func (h *modelHost) dirty(i int) bool { return h.forced[i] || h.value[i] != h.base[i] }

func (h *modelHost) anyDirty() bool {
	if h.from != originGlobal {
		return h.there
	}
	return h.dirtyIn(0, len(h.value))
}

func (h *modelHost) dirtyIn(off, n int) bool {
	for i := off; i < off+n; i++ {
		if h.dirty(i) {
			return true
		}
	}
	return false
}

// pushDirty returns what the global value becomes.
func (h *modelHost) pushDirty(to []byte) ([]byte, error) {
	if h.from == originSet || h.from == originZeros && to == nil {
		to = slices.Clone(h.value)
		h.synced(h.value)
		return to, nil
	}
	h.from = originGlobal
	for i := range h.value {
		if !h.dirty(i) {
			continue
		}
		if to == nil {
			return nil, global.ErrNotFound
		}
		to = append(slices.Clone(to), make([]byte, max(i+1-len(to), 0))...)
		to[i] = h.value[i]
	}
	h.synced(h.value)
	return to, nil
}

func (h *modelHost) pushRange(to []byte, off, n int) ([]byte, error) {
	pushed := h.dirtyIn(off, n)
	if to == nil && (h.from == originZeros || h.from == originSet && pushed) {
		to = make([]byte, len(h.value))
	}
	if h.from == originZeros {
		h.from = originGlobal
	}
	for i := off; i < off+n; i++ {
		if !h.dirty(i) {
			continue
		}
		if to == nil {
			return nil, global.ErrNotFound
		}
		to = append(slices.Clone(to), make([]byte, max(i+1-len(to), 0))...)
		to[i], h.base[i], h.forced[i] = h.value[i], h.value[i], false
	}
	if pushed {
		h.sized(len(to))
	}
	return to, nil
}

// sized is told how large the global value is of which part was pushed or pulled.
func (h *modelHost) sized(size int) {
	if h.from == originSet && size == len(h.value) {
		h.from = originGlobal
	}
}

// mergeSum is Merge with Sum of Int32. Both values are of one size, if there are two.
func (h *modelHost) mergeSum(to []byte) ([]byte, error) {
	// Of what was set, all may have been pushed in parts before the value was deleted.
	if to == nil && (h.from == originZeros || h.from == originSet && (len(h.value) == 0 || h.dirtyIn(0, len(h.value)))) {
		to = slices.Clone(h.value)
		h.synced(h.value)
		return to, nil
	}
	out := slices.Clone(to)
	for i := 0; i < len(h.value); i += 4 {
		if !h.dirty(i) && !h.dirty(i+1) && !h.dirty(i+2) && !h.dirty(i+3) {
			continue
		}
		if to == nil {
			return nil, global.ErrNotFound
		}
		le.PutUint32(out[i:], le.Uint32(to[i:])+le.Uint32(h.value[i:])-le.Uint32(h.base[i:]))
	}
	h.synced(h.value)
	return out, nil
}

// One call after the other on two hosts does what the model says.
func TestSession_model(t *testing.T) {
	store := newStore(t)
	var tiers [2]*Tier
	for i := range tiers {
		tiers[i] = newTier(t, store, Options{})
	}
	sizes := []int{0, 4, 100, chunkBytes - 4, chunkBytes, chunkBytes + 4, 2*chunkBytes + 40}
	name, examples := "", 0
	rapid.Check(t, func(t *rapid.T) {
		examples++
		name = fmt.Sprint("value ", examples)
		var on [2]*Session
		var model [2]modelHost
		var truth []byte // of the global tier
		for i := range on {
			on[i] = tiers[i].Session("tenant", direct)
			defer on[i].Close()
		}
		var mapped [2][]byte
		tag := byte(0)
		fresh := func(n int) []byte {
			tag++
			return bytes.Repeat([]byte{tag}, n)
		}
		for range rapid.IntRange(1, 25).Draw(t, "calls") {
			i := rapid.IntRange(0, 1).Draw(t, "host")
			s, m := on[i], &model[i]
			call := rapid.SampledFrom([]string{"Set", "view", "write", "write", "SetAt", "SetAt", "Pull", "PullRange", "PushDirty", "PushDirty",
				"PushRange", "Push", "Merge", "FlagDirty", "Delete"}).Draw(t, "call")
			if !m.there && call != "Set" && call != "Delete" {
				// All of it comes here first, or is made.
				v, err := s.View(name, Access{ReadOnly: true, Create: true, CreateSize: int64(rapid.SampledFrom(sizes).Draw(t, "size"))}, 0, -1)
				if err != nil {
					t.Fatal(err)
				}
				if truth != nil {
					m.synced(truth)
				} else {
					m.made(originZeros, make([]byte, v.Size), false)
				}
			}
			off, n := 0, 0
			if len(m.value) > 0 {
				edges := []int{0, 3, chunkBytes - 1, chunkBytes, chunkBytes + 1, len(m.value) - 1}
				off = rapid.OneOf(rapid.SampledFrom(edges), rapid.IntRange(0, len(m.value)-1)).Draw(t, "off") % len(m.value)
				n = rapid.OneOf(rapid.IntRange(0, 9), rapid.IntRange(0, len(m.value))).Draw(t, "n")
				n = min(n, len(m.value)-off)
			}
			var got, want error
			switch call {
			case "Set":
				data := fresh(rapid.SampledFrom(sizes).Draw(t, "size"))
				got = s.Set(name, data)
				m.made(originSet, data, true)
			case "view":
				v, err := s.View(name, Access{}, 0, -1)
				if err != nil {
					t.Fatal(err)
				}
				mapped[i] = v.Memory.Bytes()[:v.Len]
			case "write":
				if off+n <= len(mapped[i]) {
					// What is mapped belongs to a value that may have been deleted since.
					if v, err := s.View(name, Access{ReadOnly: true}, 0, -1); err == nil && n > 0 && &v.Memory.Bytes()[0] == &mapped[i][0] {
						copy(m.value[off:off+n], fresh(n))
						copy(mapped[i][off:], m.value[off:off+n])
					}
				}
			case "SetAt":
				data := fresh(n)
				got = s.SetAt(name, int64(off), data)
				copy(m.value[off:], data)
			case "FlagDirty":
				got = s.FlagDirty(name, int64(off), int64(n))
				for at := off; at < off+n; at++ {
					m.forced[at] = true
				}
			case "Pull":
				got = s.Pull(name)
				switch {
				case truth != nil:
					m.synced(truth)
				case len(m.value) == 0 && m.from == originGlobal:
					*m = modelHost{} // nothing of it is here either
					fallthrough
				default:
					want = global.ErrNotFound
				}
			case "PullRange":
				got = s.PullRange(name, int64(off), int64(n))
				switch {
				case n == 0:
				case truth == nil:
					want = global.ErrNotFound
				case off+n > len(truth):
					want = ErrRange
				default:
					copy(m.value[off:off+n], truth[off:])
					copy(m.base[off:off+n], truth[off:])
					clear(m.forced[off : off+n])
					m.sized(len(truth))
				}
			case "PushDirty":
				got = s.PushDirty(name)
				truth, want = m.pushDirty(truth)
			case "PushRange":
				got = s.PushRange(name, int64(off), int64(n))
				if n > 0 {
					truth, want = m.pushRange(truth, off, n)
				}
			case "Push":
				got = s.Push(name)
				truth = slices.Clone(m.value)
				m.synced(m.value)
			case "Merge":
				if truth != nil && len(truth) != len(m.value) {
					continue
				}
				got = s.Merge(name, global.Int32, global.Sum)
				if want = global.ErrInvalid; len(m.value)%4 == 0 {
					truth, want = m.mergeSum(truth)
				}
			case "Delete":
				got = s.Delete(name)
				if truth == nil && !m.there {
					want = global.ErrNotFound
				}
				truth, *m = nil, modelHost{}
			}
			what := fmt.Sprintf("%s of %d bytes at %d on host %d", call, n, off, i)
			if !errors.Is(got, want) || got != nil && want == nil {
				t.Fatalf("%s: %v, want %v", what, got, want)
			}
			for i, m := range model {
				dirty, err := on[i].Dirty(name)
				if err != nil || dirty != m.anyDirty() {
					t.Fatalf("%s: host %d dirty: %t, %v; want %t", what, i, dirty, err, m.anyDirty())
				}
				if !m.there {
					continue
				}
				got := make([]byte, len(m.value)+1)
				if n, err := on[i].ReadAt(name, 0, got); err != nil || !bytes.Equal(got[:n], m.value) {
					t.Fatalf("%s: host %d has %d bytes, %v; want %d: %s", what, i, n, err, len(m.value), difference(got[:n], m.value))
				}
			}
			info, err := store.Stat(t.Context(), on[0].key(name))
			if errors.Is(err, global.ErrNotFound) != (truth == nil) {
				t.Fatalf("%s: global tier: %v, want it %t", what, err, truth != nil)
			}
			have := make([]byte, info.Size)
			if truth != nil {
				if _, _, err := store.Read(t.Context(), on[0].key(name), 0, have); err != nil || !bytes.Equal(have, truth) {
					t.Fatalf("%s: global tier: %d bytes, %v, want %d: %s", what, len(have), err, len(truth), difference(have, truth))
				}
			}
		}
		_ = on[0].Delete(name)
		_ = on[1].Delete(name)
	})
}

func difference(a, b []byte) string {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("byte %d is %#x, want %#x", i, a[i], b[i])
		}
	}
	return "sizes differ"
}
