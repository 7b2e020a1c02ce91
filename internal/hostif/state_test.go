package hostif_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/engine"
	"github.com/faasm-go/faasm/internal/faaslet"
	"github.com/faasm-go/faasm/internal/hostif"
	"github.com/faasm-go/faasm/internal/state"
	"github.com/faasm-go/faasm/internal/state/global"
	"github.com/faasm-go/faasm/internal/vmem"
)

// newStore is a global tier of the test's own.
func newStore(t testing.TB) global.Store {
	t.Helper()
	s, err := global.OpenEmbedded(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	return s
}

// open is a store that a tier can't close: several share it, as hosts do.
type open struct{ global.Store }

func (open) Close() error { return nil }

// newTier is a host's state.
func newTier(t testing.TB, store global.Store, opts state.Options) *state.Tier {
	t.Helper()
	opts.Store = open{store}
	tier, err := state.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tier.Close(); err != nil {
			t.Errorf("close tier: %v", err)
		}
	})
	return tier
}

// newSession is a use of state without a guest.
func newSession(t testing.TB, tier *state.Tier, tenant string) *state.Session {
	s := tier.Session(tenant, func(wait func(context.Context)) { wait(context.Background()) })
	t.Cleanup(s.Close)
	return s
}

// stored is what the global tier has; nil if nothing.
func stored(t testing.TB, store global.Store, tenant, key string) []byte {
	t.Helper()
	b := make([]byte, 1<<20)
	n, _, err := store.Read(context.Background(), global.Key{Tenant: tenant, Name: key}, 0, b)
	if errors.Is(err, global.ErrNotFound) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

// statePuppet is a puppet of tenant t that uses tier.
func statePuppet(t tester, tier *state.Tier) *puppet {
	p := newPuppet(t, initMemory())
	p.Call, p.Host, p.State = newCall(call.Request{Tenant: "t", Function: "f"}), &fakeHost{}, tier
	return p
}

// isState tells whether a function is of the State group.
func isState(f hostif.Function) bool { return len(f.Names) > 0 && f.Names[0] == "key" }

// The group is whole.
func TestState_isWhole(t *testing.T) {
	n := map[string]int{}
	for _, f := range hostif.Functions {
		if isState(f) {
			n[f.Module]++
		}
		if isState(f) != (strings.Contains(f.Name, "state")) {
			t.Errorf("%s.%s(%v) is half a function of state", f.Module, f.Name, f.Names)
		}
	}
	if n["faasm"] != 24 || n["env"] != 22 {
		t.Errorf("%v functions; want 24 of faasm and 22 of env", n)
	}
}

// On a host without state every function says so, whatever it is given.
func TestState_none(t *testing.T) {
	for i, f := range hostif.Functions {
		if !isState(f) {
			continue
		}
		p := statePuppet(t, nil)
		event, errno := p.call(i, initRows[f.Name].args...)
		if f.Module == "env" {
			if want := f.Name + ": this host keeps no state"; event != engine.Trapped || p.Instance.Trap().Message != want {
				t.Errorf("%s: event %d; want the trap %q", f.Name, event, want)
			}
		} else if event != engine.Finished || hostif.Errno(errno) != hostif.ENOTSUP {
			t.Errorf("%s: event %d, %v; want ENOTSUP", f.Name, event, hostif.Errno(errno))
		}
		p.close()
	}
}

// Where a statePuppet has bad keys.
const (
	noUTF8At = 600
	emptyAt  = 700
	longAt   = 2000 // 1,025 bytes
)

// Bad keys, for every function, and for the mask as well.
func TestState_badKeys(t *testing.T) {
	const max = 0xffffffff
	tier := newTier(t, newStore(t), state.Options{})
	for i, f := range hostif.Functions {
		if !isState(f) {
			continue
		}
		for first, name := range f.Names {
			if name != "key" && name != "mask_key" {
				continue
			}
			try := func(want hostif.Errno, key ...uint64) {
				p := statePuppet(t, tier)
				defer p.close()
				m := p.Instance.Memory()
				copy(m[noUTF8At:], "\xff\xff\xff")
				copy(m[longAt:], bytes.Repeat([]byte("a"), 1025))
				args := slices.Clone(initRows[f.Name].args)
				copy(args[first:], key)
				p.prepare(args)
				before := bytes.Clone(m)
				event, errno := p.call(i, args...)
				switch {
				case f.Module == "faasm":
					if event != engine.Finished || hostif.Errno(errno) != want {
						t.Errorf("%s%v: event %d, %v; want %v", f.Name, args, event, hostif.Errno(errno), want)
					}
				case event != engine.Trapped:
					t.Errorf("%s%v: event %d; want a trap", f.Name, args, event)
				default:
					got, why := p.Instance.Trap().Message, fmt.Sprintf("the key at %#x is outside memory, or not 1 to 1024 bytes of UTF-8 before a NUL", key[0])
					if !strings.HasPrefix(got, f.Name+": ") || !strings.HasSuffix(got, why) {
						t.Errorf("%s%v: trap %q; want the name and %q", f.Name, args, got, why)
					}
				}
				if !bytes.Equal(before, m) {
					t.Errorf("%s%v wrote to memory", f.Name, args)
				}
			}
			if f.Module == "env" {
				for _, at := range []uint64{noUTF8At, emptyAt, longAt, page, max} {
					try(0, at)
				}
				continue
			}
			for _, n := range []uint64{0, 1025, 1 << 31, max} {
				try(hostif.EINVAL, longAt, n)
			}
			try(hostif.EINVAL, max, max)
			try(hostif.EINVAL, noUTF8At, 3)
			for _, at := range []uint64{page - 1, page, 1 << 31, max - 1} {
				try(hostif.EFAULT, at, 2)
			}
		}
	}
}

// Every function of faasm with every kind of bad argument: an errno, and memory stays as
// it is. What answers 0 is at the edge. There is a value "double" of ten bytes, pushed, and
// a list of two elements under the same key; "doubl" and "doub" are no values.
func TestState_errnos(t *testing.T) {
	const (
		EFAULT, EFBIG, EINVAL, ENOENT, ENOMEM = hostif.EFAULT, hostif.EFBIG, hostif.EINVAL, hostif.ENOENT, hostif.ENOMEM

		max   = 1<<32 - 1
		below = 1<<64 - 1 // an i64 of -1
		min64 = 1 << 63
		max64 = 1<<63 - 1
		most  = global.ValueBytesMax
	)
	store := newStore(t)
	tier := newTier(t, store, state.Options{})
	s := newSession(t, tier, "t")
	for _, err := range []error{
		s.Set("double", []byte("0123456789")), s.Push("double"),
		s.Append("double", []byte("ab")), s.Append("double", []byte("cde")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		fn   string
		args []uint64 // after the key
		key  uint64   // length of the key, of "double"
		want hostif.Errno
	}{
		{"state_size", []uint64{page - 7}, 6, EFAULT},
		{"state_size", []uint64{max}, 6, EFAULT},
		{"state_size", []uint64{page - 7}, 5, EFAULT},
		{"state_size", []uint64{freeAt}, 5, ENOENT},
		{"state_size", []uint64{page - argsAtEnd - 8}, 6, 0},

		{"get_state", []uint64{16, 0, freeAt, 1100}, 6, EINVAL},
		{"get_state", []uint64{max, 0, freeAt, 1100}, 6, EINVAL},
		{"get_state", []uint64{9, 10, freeAt, 1100}, 6, EINVAL}, // CREATE and PUBLISHED
		{"get_state", []uint64{0, 0, page - 3, 1100}, 6, EFAULT},
		{"get_state", []uint64{0, 0, freeAt, max}, 6, EFAULT},
		{"get_state", []uint64{1, 100, freeAt, page - 3}, 5, EFAULT}, // and does not create
		{"get_state", []uint64{0, 100, freeAt, 1100}, 5, ENOENT},
		{"get_state", []uint64{2, 100, freeAt, 1100}, 5, ENOENT},
		{"get_state", []uint64{8, 0, freeAt, 1100}, 6, ENOENT}, // nothing is published
		{"get_state", []uint64{0, 0, freeAt, 1100}, 6, ENOMEM}, // these guests can't grow
		{"get_state", []uint64{1, max, freeAt, 1100}, 6, ENOMEM},
		{"get_state_offset", []uint64{0, below, 1, freeAt}, 6, EINVAL},
		{"get_state_offset", []uint64{0, min64, 1, freeAt}, 6, EINVAL},
		{"get_state_offset", []uint64{0, max64, max, freeAt}, 6, EINVAL},
		{"get_state_offset", []uint64{1, max64, 1, freeAt}, 5, EINVAL},
		{"get_state_offset", []uint64{1, most, 1, freeAt}, 5, EINVAL},
		{"get_state_offset", []uint64{0, 11, 0, freeAt}, 6, EINVAL},
		{"get_state_offset", []uint64{0, 10, 1, freeAt}, 6, EINVAL},
		{"get_state_offset", []uint64{0, 0, 11, freeAt}, 6, EINVAL},
		{"get_state_offset", []uint64{0, 0, max, freeAt}, 6, EINVAL},
		{"get_state_offset", []uint64{32, 0, 1, freeAt}, 6, EINVAL},
		{"get_state_offset", []uint64{1, 0, 1, page - 3}, 5, EFAULT},
		{"get_state_offset", []uint64{0, 0, 1, freeAt}, 5, ENOENT},
		{"get_state_offset", []uint64{0, 9, 1, freeAt}, 6, ENOMEM},

		{"set_state", []uint64{page - 1, 2}, 6, EFAULT},
		{"set_state", []uint64{1, max}, 6, EFAULT},
		{"set_state", []uint64{max, max}, 6, EFAULT},
		{"set_state_offset", []uint64{0, page - 1, 2}, 6, EFAULT},
		{"set_state_offset", []uint64{0, 1, max}, 6, EFAULT},
		{"set_state_offset", []uint64{below, 200, 2}, 6, EINVAL},
		{"set_state_offset", []uint64{min64, 200, 0}, 6, EINVAL},
		{"set_state_offset", []uint64{max64, 200, 2}, 6, EINVAL},
		{"set_state_offset", []uint64{9, 200, 2}, 6, EINVAL},
		{"set_state_offset", []uint64{11, 200, 0}, 6, EINVAL},
		{"set_state_offset", []uint64{0, 200, 2}, 5, ENOENT},
		{"set_state_offset", []uint64{8, 300, 2}, 6, 0},
		{"set_state_offset", []uint64{10, page, 0}, 6, 0},
		{"read_state_offset", []uint64{0, page - 1, 2, freeAt}, 6, EFAULT},
		{"read_state_offset", []uint64{0, freeAt, 2, page - 3}, 6, EFAULT},
		{"read_state_offset", []uint64{0, max, max, max}, 6, EFAULT},
		{"read_state_offset", []uint64{below, freeAt, 2, 1200}, 6, EINVAL},
		{"read_state_offset", []uint64{min64, freeAt, 0, 1200}, 6, EINVAL},
		{"read_state_offset", []uint64{max64, freeAt, 2, 1200}, 6, EINVAL},
		{"read_state_offset", []uint64{11, freeAt, 2, 1200}, 6, EINVAL},
		{"read_state_offset", []uint64{0, freeAt, 2, 1200}, 5, ENOENT},
		{"read_state_offset", []uint64{10, freeAt, 2, 1200}, 6, 0},
		{"read_state_offset", []uint64{9, freeAt, 100, 1200}, 6, 0},

		{"push_state", nil, 5, ENOENT},
		{"pull_state", nil, 5, ENOENT},
		{"push_state_offset", []uint64{below, 1}, 6, EINVAL},
		{"push_state_offset", []uint64{0, below}, 6, EINVAL},
		{"push_state_offset", []uint64{max64, max64}, 6, EINVAL},
		{"push_state_offset", []uint64{5, 6}, 6, EINVAL},
		{"push_state_offset", []uint64{0, 1}, 5, ENOENT},
		{"push_state_offset", []uint64{10, 0}, 6, 0},
		{"pull_state_offset", []uint64{below, 1}, 6, EINVAL},
		{"pull_state_offset", []uint64{1, min64}, 6, EINVAL},
		{"pull_state_offset", []uint64{max64, 1}, 6, EINVAL},
		{"pull_state_offset", []uint64{10, 1}, 6, EINVAL},
		{"pull_state_offset", []uint64{0, 1}, 5, ENOENT},
		{"pull_state_offset", []uint64{9, 1}, 6, 0},
		{"push_state_mask", []uint64{nameAt, 5}, 6, ENOENT},
		{"push_state_mask", []uint64{nameAt, 6}, 5, ENOENT},
		{"push_state_merge", []uint64{0, 1}, 6, EINVAL},
		{"push_state_merge", []uint64{5, 1}, 6, EINVAL},
		{"push_state_merge", []uint64{257, 1}, 6, EINVAL}, // 1, if cut to a byte
		{"push_state_merge", []uint64{1, 0}, 6, EINVAL},
		{"push_state_merge", []uint64{1, 4}, 6, EINVAL},
		{"push_state_merge", []uint64{1, 257}, 6, EINVAL},
		{"push_state_merge", []uint64{1, 1}, 6, EINVAL}, // ten bytes are no i32
		{"push_state_merge", []uint64{1, 1}, 5, ENOENT},

		{"append_state", []uint64{page - 1, 2}, 6, EFAULT},
		{"append_state", []uint64{0, max}, 6, EFAULT},
		{"read_appended_state", []uint64{0, 2, page - 1, 2, freeAt}, 6, EFAULT},
		{"read_appended_state", []uint64{0, 2, freeAt, 100, page - 3}, 6, EFAULT},
		{"read_appended_state", []uint64{0, 2, 1, max, 1200}, 6, EFAULT},
		{"read_appended_state", []uint64{max, max, freeAt, 100, 1200}, 6, 0},
		{"read_appended_state", []uint64{0, max, page, 0, 1200}, 5, 0},
		{"clear_appended_state", nil, 5, 0},
		{"delete_state", nil, 5, ENOENT},
		{"publish_state", nil, 5, ENOENT},
		{"flag_state_dirty", []uint64{below, 1}, 6, EINVAL},
		{"flag_state_dirty", []uint64{0, min64}, 6, EINVAL},
		{"flag_state_dirty", []uint64{max64, max64}, 6, EINVAL},
		{"flag_state_dirty", []uint64{10, 1}, 6, EINVAL},
		{"flag_state_dirty", []uint64{0, 1}, 5, ENOENT},
		{"flag_state_dirty", []uint64{10, 0}, 6, 0},

		{"unlock_state", nil, 6, hostif.EPERM},
		{"unlock_state_global", nil, 6, hostif.EPERM},
		{"lock_state_read", nil, 5, 0}, // a lock needs no value
		{"lock_state_write", nil, 5, 0},
		{"lock_state_global_read", []uint64{0}, 5, 0},
		{"lock_state_global_write", []uint64{min64}, 5, 0},
	} {
		p := statePuppet(t, tier)
		args := append([]uint64{nameAt, tt.key}, tt.args...)
		p.prepare(args)
		before := bytes.Clone(p.Instance.Memory())
		event, errno := p.call(indexOf(t, tt.fn), args...)
		if event != engine.Finished || hostif.Errno(errno) != tt.want {
			t.Errorf("%s%v: event %d, %v; want %v", tt.fn, args, event, hostif.Errno(errno), tt.want)
		}
		if tt.want != 0 && !bytes.Equal(before, p.Instance.Memory()) {
			t.Errorf("%s%v wrote to memory", tt.fn, args)
		}
		p.close()
	}
	if _, err := s.Size("doubl"); !errors.Is(err, global.ErrNotFound) {
		t.Errorf("what was refused made a value: %v", err)
	}
}

// argsAtEnd is how much of memory, from its end, holds what puppets need.
const argsAtEnd = page - mallocAt

// Every function of env with bad arguments: a trap that says what is wrong.
func TestUpstreamState_traps(t *testing.T) {
	const (
		max     = 1<<32 - 1
		outside = "are outside memory"
		within  = "the range is not within the value"
		none    = "there is no such value"
	)
	tier := newTier(t, newStore(t), state.Options{})
	s := newSession(t, tier, "t")
	if err := errors.Join(s.Set("double", []byte("0123456789")), s.Push("double")); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		fn   string
		args []uint64
		want string
	}{
		{"__faasm_read_state", []uint64{nameAt, page - 1, 2}, outside},
		{"__faasm_read_state", []uint64{nameAt, freeAt, max}, outside},
		{"__faasm_read_state_ptr", []uint64{nameAt, max}, "a size of -1 bytes"},
		{"__faasm_read_state_ptr", []uint64{nameAt, 11}, within},
		{"__faasm_read_state_ptr", []uint64{nameAt + 1, 0}, none},
		{"__faasm_read_state_ptr", []uint64{nameAt, 10}, "no memory left to map it"}, // these guests can't grow
		{"__faasm_read_state_offset", []uint64{nameAt, 10, 0, page - 1, 2}, outside},
		{"__faasm_read_state_offset", []uint64{nameAt, 10, max, freeAt, 2}, within},
		{"__faasm_read_state_offset", []uint64{nameAt, 10, 1<<31 - 1, freeAt, 2}, within},
		{"__faasm_read_state_offset", []uint64{nameAt, 10, 9, freeAt, 2}, within},
		{"__faasm_read_state_offset", []uint64{nameAt, max, 0, freeAt, 2}, "a size of -1 bytes"},
		{"__faasm_read_state_offset", []uint64{nameAt + 1, 0, 0, freeAt, 2}, none},
		{"__faasm_read_state_offset_ptr", []uint64{nameAt, 10, max, 2}, within},
		{"__faasm_read_state_offset_ptr", []uint64{nameAt, 10, 0, max}, within},
		{"__faasm_read_state_offset_ptr", []uint64{nameAt, 10, 9, 2}, within},
		{"__faasm_read_state_offset_ptr", []uint64{nameAt, max, 0, 2}, "a size of -1 bytes"},
		{"__faasm_read_state_offset_ptr", []uint64{nameAt + 1, 0, 0, 0}, none},
		{"__faasm_write_state", []uint64{nameAt, 1, max}, outside},
		{"__faasm_write_state_offset", []uint64{nameAt, 10, 0, page, 1}, outside},
		{"__faasm_write_state_offset", []uint64{nameAt, 10, max, 200, 1}, within},
		{"__faasm_write_state_offset", []uint64{nameAt, 20, 10, 200, 1}, within},
		{"__faasm_write_state_offset", []uint64{nameAt + 1, 0, 0, 200, 1}, none},
		{"__faasm_write_state_from_file", []uint64{nameAt, nameAt}, `there is no file "double"`},
		{"__faasm_write_state_from_file", []uint64{nameAt, max}, "the path at 0xffffffff is outside memory"},
		{"__faasm_append_state", []uint64{nameAt, page - 1, 2}, outside},
		{"__faasm_read_appended_state", []uint64{nameAt, freeAt, max, 1}, outside},
		{"__faasm_read_appended_state", []uint64{nameAt, freeAt, 10, max}, "-1 elements"},
		{"__faasm_flag_state_dirty", []uint64{nameAt, max}, "a size of -1 bytes"},
		{"__faasm_flag_state_dirty", []uint64{nameAt + 1, 0}, none},
		{"__faasm_flag_state_offset_dirty", []uint64{nameAt, 10, max, 1}, within},
		{"__faasm_flag_state_offset_dirty", []uint64{nameAt, 10, 1, max}, within},
		{"__faasm_flag_state_offset_dirty", []uint64{nameAt, 10, 10, 1}, within},
		{"__faasm_push_state_partial", []uint64{nameAt + 1}, none},
		{"__faasm_push_state_partial_mask", []uint64{nameAt, nameAt + 1}, none},
		{"__faasm_pull_state", []uint64{nameAt + 1, 0}, none},
		{"__faasm_pull_state", []uint64{nameAt, max}, "a size of -1 bytes"},
		{"__faasm_unlock_state_read", []uint64{nameAt}, "the lock is not held by the caller"},
		{"__faasm_unlock_state_write", []uint64{nameAt}, "the lock is not held by the caller"},
		{"__faasm_unlock_state_global", []uint64{nameAt}, "the lock is not held by the caller"},
	} {
		p := statePuppet(t, tier)
		p.prepare(tt.args)
		before := bytes.Clone(p.Instance.Memory())
		event, _ := p.call(indexOf(t, tt.fn), tt.args...)
		if event != engine.Trapped {
			t.Errorf("%s%v: event %d; want a trap", tt.fn, tt.args, event)
		} else if got := p.Instance.Trap().Message; !strings.HasPrefix(got, tt.fn+`: key "`) || !strings.Contains(got, tt.want) {
			t.Errorf("%s%v: trap %q; want %q", tt.fn, tt.args, got, tt.want)
		}
		if !bytes.Equal(before, p.Instance.Memory()) {
			t.Errorf("%s%v wrote to memory", tt.fn, tt.args)
		}
		p.close()
	}
}

// Asking for a lock that one has is no way to wait for oneself.
func TestState_deadlock(t *testing.T) {
	tier := newTier(t, newStore(t), state.Options{})
	for _, scope := range []string{"", "_global"} {
		for _, first := range []string{"read", "write"} {
			for _, second := range []string{"read", "write"} {
				p := statePuppet(t, tier)
				args := []uint64{nameAt, 6, 0}
				name := func(mode string) string { return "lock_state" + scope + "_" + mode }
				if _, errno := p.call(indexOf(t, name(first)), args...); errno != 0 {
					t.Fatalf("%s: %v", name(first), hostif.Errno(errno))
				}
				if _, errno := p.call(indexOf(t, name(second)), args...); hostif.Errno(errno) != hostif.EDEADLK {
					t.Errorf("%s after %s: %v; want EDEADLK", name(second), name(first), hostif.Errno(errno))
				}
				if _, errno := p.call(indexOf(t, "unlock_state"+scope), args...); errno != 0 {
					t.Errorf("unlock_state%s: %v", scope, hostif.Errno(errno))
				}
				p.close()
			}
		}
	}
}

// brokenStore answers all that may take long with an error.
type brokenStore struct {
	global.Store
	err error
}

func (s brokenStore) Stat(context.Context, global.Key) (global.Info, error) {
	return global.Info{}, fmt.Errorf("stat: %w", s.err)
}

// What goes wrong in the global tier or is used up has its number.
func TestState_errnoOfError(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want hostif.Errno
	}{
		{errors.New("unheard of"), hostif.EIO},
		{global.ErrDamaged, hostif.EIO},
		{global.ErrNotFound, hostif.ENOENT},
		{global.ErrUnavailable, hostif.EHOSTUNREACH},
		{global.ErrConflict, hostif.EAGAIN},
		{global.ErrFull, hostif.ENOSPC},
		{global.ErrFenced, hostif.ESTALE},
		{global.ErrLeaseLost, hostif.ESTALE},
		{global.ErrTimeout, hostif.TIMEDOUT},
		{global.ErrInvalid, hostif.EINVAL},
		{state.ErrRange, hostif.EINVAL},
		{state.ErrNoMemory, hostif.ENOMEM},
		{vmem.ErrExhausted, hostif.ENOMEM},
		{state.ErrQuota, hostif.EDQUOT},
		{state.ErrDeadlock, hostif.EDEADLK},
		{state.ErrLocksMax, hostif.ENOLCK},
		{state.ErrNotHeld, hostif.EPERM},
		{context.Canceled, hostif.ECANCELED},
	} {
		p := statePuppet(t, newTier(t, brokenStore{err: tt.err}, state.Options{}))
		if _, errno := p.call(indexOf(t, "state_size"), nameAt, 6, freeAt); hostif.Errno(errno) != tt.want {
			t.Errorf("%v: %v; want %v", tt.err, hostif.Errno(errno), tt.want)
		}
		p.close()
	}
	t.Run("quota", func(t *testing.T) {
		p := statePuppet(t, newTier(t, newStore(t), state.Options{TenantBytesMax: 4}))
		defer p.close()
		if _, errno := p.call(indexOf(t, "append_state"), nameAt, 6, 200, 5); hostif.Errno(errno) != hostif.EDQUOT {
			t.Errorf("%v; want EDQUOT", hostif.Errno(errno))
		}
	})
	t.Run("memory", func(t *testing.T) {
		p := statePuppet(t, newTier(t, newStore(t), state.Options{MemoryMax: 1}))
		defer p.close()
		if _, errno := p.call(indexOf(t, "set_state"), nameAt, 6, 200, 3); hostif.Errno(errno) != hostif.ENOMEM {
			t.Errorf("%v; want ENOMEM", hostif.Errno(errno))
		}
	})
}

// stateHost runs guests that share state.
type stateHost struct {
	t    *testing.T
	rt   *faaslet.Runtime
	tier *state.Tier
	host hostif.Host
}

func newStateHost(t *testing.T, store global.Store) *stateHost {
	return &stateHost{t: t, rt: runtime, tier: newTier(t, store, state.Options{}), host: &fakeHost{}}
}

// build makes a guest of a script.
func (h *stateHost) build(script string) *faaslet.Code {
	h.t.Helper()
	return h.buildLimited(script, 4<<20)
}

func (h *stateHost) buildLimited(script string, memoryMax uint64) *faaslet.Code {
	h.t.Helper()
	wat := scripted(h.t, script)
	bin, err := engine.FromText(wat)
	if err != nil {
		h.t.Fatalf("%v\n%s", err, wat)
	}
	c, err := h.rt.Build(bin, faaslet.Limits{MemoryMax: memoryMax, Timeout: time.Minute})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if err := c.Close(); err != nil {
			h.t.Errorf("close code: %v", err)
		}
	})
	return c
}

// call runs a call in a Faaslet of code, and cleans it.
func (h *stateHost) call(c *faaslet.Code, cl *call.Call) (*call.Result, []string) {
	var trace []string
	w := &faaslet.World{Host: h.host, State: h.tier, Logs: call.NewLogBuffer(call.LogBufferOptions{}), Trace: func(line string) { trace = append(trace, line) }}
	r, remains := c.Run(cl, w)
	if _, err := remains.Clean(); err != nil {
		h.t.Errorf("clean: %v", err)
	}
	return r, trace
}

// run runs a guest that must return 0.
func (h *stateHost) run(script string) {
	h.t.Helper()
	h.runAs("t", h.build(script))
}

func (h *stateHost) runAs(tenant string, c *faaslet.Code) {
	h.t.Helper()
	r, trace := h.call(c, newCall(call.Request{Tenant: tenant, Function: "f"}))
	if r.Outcome != call.Returned || r.ReturnCode != 0 {
		h.t.Fatalf("%v, %d: %+v\n%s", r.Outcome, r.ReturnCode, r.Failure, strings.Join(trace, "\n"))
	}
}

// scripted makes a module of a script. Its memory begins with the strings "key" at 0,
// "other" at 8 and "mask" at 16, each with a NUL, and "abcdefgh" at 24; from 64 on it is
// free. A line is one of
//
//	WANT FUNCTION ARG...   calls a function of the State group and demands its result
//	do FUNCTION ARG...     calls one without a result
//	let AT FUNCTION ARG... stores the result at AT
//	put AT BYTE            stores a byte
//	see AT BYTE            demands one
//	same A B               demands that both are equal
//	(...                   text
//
// A number can be "@N", what is stored at N, and a sum of two with "+".
func scripted(t *testing.T, script string) string {
	t.Helper()
	var number func(s string) string
	number = func(s string) string {
		if a, b, ok := strings.Cut(s, "+"); ok {
			return "(i32.add " + number(a) + number(b) + ")"
		}
		if at, ok := strings.CutPrefix(s, "@"); ok {
			return "(i32.load (i32.const " + at + "))"
		}
		if _, err := strconv.ParseInt(s, 0, 64); err != nil {
			t.Fatalf("script: %v", err)
		}
		return "(i32.const " + s + ")"
	}
	var names []string
	find := func(name string) (f *hostif.Function, ok bool) {
		module := "faasm"
		if strings.HasPrefix(name, "__") {
			module = "env"
		}
		if f, ok = hostif.Lookup(module, name); ok && !slices.Contains(names, module+"."+name) {
			names = append(names, module+"."+name)
		}
		return f, ok
	}
	calls := func(words []string) string {
		f, ok := find(words[0])
		if !ok || len(f.Params) != len(words)-1 {
			t.Fatalf("script: %v", words)
		}
		out := "(call $" + words[0]
		for i, w := range words[1:] {
			if f.Params[i] == engine.I64 {
				out += " (i64.const " + w + ")"
			} else {
				out += " " + number(w)
			}
		}
		return out + ")"
	}
	body := ""
	for line := range strings.Lines(script) {
		line, _, _ = strings.Cut(line, ";;")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		switch w := words[1:]; {
		case strings.HasPrefix(words[0], "("):
			body += line
			for _, call := range regexp.MustCompile(`call \$(\w+)`).FindAllStringSubmatch(line, -1) {
				if _, ok := find(call[1]); !ok && call[1] != "is" {
					t.Fatalf("script: %s", line)
				}
			}
		case words[0] == "do":
			body += calls(w)
		case words[0] == "let":
			body += "(i32.store " + number(w[0]) + calls(w[1:]) + ")"
		case words[0] == "put":
			body += "(i32.store8 " + number(w[0]) + number(w[1]) + ")"
		case words[0] == "see":
			body += "(call $is (i32.load8_u " + number(w[0]) + ")" + number(w[1]) + ")"
		case words[0] == "same":
			body += "(call $is " + number(w[0]) + number(w[1]) + ")"
		default:
			body += "(call $is " + calls(w) + number(words[0]) + ")"
		}
		body += "\n"
	}
	return `(module ` + imports(t, names...) + `(memory (export "memory") 1)
	  (data (i32.const 0) "key\00") (data (i32.const 8) "other\00") (data (i32.const 16) "mask\00") (data (i32.const 24) "abcdefgh")
	  (func $is (param $got i32) (param $want i32) (if (i32.ne (local.get $got) (local.get $want)) (then unreachable)))
	  (func (export "faasm_call") (result i32) (local $i i32) (local $j i32)
	` + body + `(i32.const 0)))`
}

// Two Faaslets of different functions that have a value mapped see each other's writes,
// while both run. One of another tenant has its own.
func TestState_mapped(t *testing.T) {
	h := newStateHost(t, newStore(t))
	ping := h.build(`
		0 get_state 0 3 1 8 64 68
		put @64 1
		(loop $l (br_if $l (i32.ne (i32.load8_u (i32.add (i32.load (i32.const 64)) (i32.const 7))) (i32.const 2))))`)
	pong := h.build(`
		0 get_state_offset 0 3 1 7 1 64   ;; where it makes the same value
		(loop $l (br_if $l (i32.ne (i32.load8_u (i32.sub (i32.load (i32.const 64)) (i32.const 7))) (i32.const 1))))
		put @64 2`)
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.runAs("t", ping)
	}()
	h.runAs("t", pong)
	<-done
	h.runAs("u", h.build(`44 state_size 0 3 64
		0 get_state 0 3 1 8 64 68
		see @64 0`))
	h.run(`0 get_state 0 3 0 0 64 68
		same @68 8
		see @64 1
		see @64+7 2`)
}

// Where a value is mapped.
func TestState_addresses(t *testing.T) {
	t.Run("asked again", func(t *testing.T) {
		h := newStateHost(t, newStore(t))
		h.run(`0 get_state 0 3 1 200000 64 68
			same @68 200000
			put @64+70000 7
			0 get_state 0 3 0 0 72 76
			same @72 @64
			same @76 200000
			0 get_state_offset 0 3 0 70000 10 80
			same @80 @64+70000
			0 get_state_offset 0 3 0 199999 1 80
			same @80 @64+199999
			0 get_state_offset 0 3 5 70000 10 80
			same @80 @64+70000`)
	})
	t.Run("a part first", func(t *testing.T) {
		h := newStateHost(t, newStore(t))
		h.run(`0 get_state_offset 8 5 1 199999 1 64
			(call $is (i32.and (i32.load (i32.const 64)) (i32.const 0xffff)) (i32.const 3391)) ;; 199999 in its chunk
			(call $is (memory.size) (i32.const 2))
			put @64 9
			0 state_size 8 5 72
			same @72 200000
			0 get_state 8 5 0 0 80 84
			(call $is (memory.size) (i32.const 6))
			see @80+199999 9
			put @80+199998 8
			see @64+-1 8
			0 get_state_offset 8 5 0 199998 2 88
			same @88 @64+-1
			0 get_state_offset 8 5 0 65535 2 88
			same @88 @80+65535`)
	})
	t.Run("nothing", func(t *testing.T) {
		h := newStateHost(t, newStore(t))
		h.run(`0 set_state 8 5 0 0
			0 get_state 8 5 0 0 64 68
			same @64 16
			same @68 0
			(call $is (memory.size) (i32.const 1))
			0 set_state 8 5 24 3
			0 get_state 8 5 0 0 64 68
			same @68 3
			see @64 97
			0 get_state_offset 8 5 0 3 0 72
			(call $is (i32.eqz (i32.load (i32.const 72))) (i32.const 0))`)
	})
	t.Run("grown and shrunk", func(t *testing.T) {
		h := newStateHost(t, newStore(t))
		h.run(`0 set_state 8 5 24 8
			0 get_state 8 5 0 0 64 68
			0 set_state 8 5 0 65000
			0 get_state 8 5 0 0 72 76
			same @72 @64
			same @76 65000
			see @64 107 ;; "key"
			0 get_state_offset 0 3 1 0 200000 80
			0 set_state 8 5 @80 200000
			0 get_state 8 5 0 0 72 76
			same @76 200000
			put @72+100 5
			see @64+100 5
			0 set_state 8 5 24 3
			0 get_state 8 5 0 0 72 76
			same @72 @64
			same @76 3
			see @64 97
			see @64+3 0
			0 set_state 8 5 @64+1 2 ;; from itself
			see @64 98
			see @64+1 99
			see @64+2 0
			0 set_state_offset 8 5 0 @64+1 1
			see @64 99`)
	})
	t.Run("made anew", func(t *testing.T) {
		h := newStateHost(t, newStore(t))
		h.run(`0 get_state 8 5 1 8 64 68
			put @64 7
			0 delete_state 8 5
			44 state_size 8 5 72
			see @64 7 ;; what is mapped stays
			put @64+1 8
			0 get_state 8 5 1 16 72 76
			same @72 @64
			same @76 16
			see @64 0
			see @64+1 0`)
	})
}

// What is written to a READ_ONLY mapping is this Faaslet's, and is never pushed.
func TestState_readOnly(t *testing.T) {
	store := newStore(t)
	h := newStateHost(t, store)
	h.run(`0 set_state 0 3 24 8
		0 get_state 0 3 2 0 64 68
		see @64 97
		put @64 120
		0 read_state_offset 0 3 0 80 8 72
		see 80 97
		0 get_state 0 3 0 0 76 68
		see @76 97
		put @76+1 121
		see @64+1 98 ;; of its page, the copy
		0 push_state 0 3
		0 push_state_offset 0 3 0 8
		put @76+2 122
		0 push_state 0 3
		0 get_state 0 3 2 0 88 68
		same @88 @64
		see @64 120
		0 get_state 0 3 6 0 88 68 ;; PULL takes the present value in place of the copy
		same @88 @64
		see @64 97
		see @64+1 121`)
	if got := string(stored(t, store, "t", "key")); got != "ayzdefgh" {
		t.Errorf("pushed %q; want %q", got, "ayzdefgh")
	}
}

// A published version is what it was, for all who map it.
func TestState_published(t *testing.T) {
	store := newStore(t)
	h := newStateHost(t, store)
	h.run(`0 set_state 0 3 24 8
		44 get_state 0 3 8 0 64 68
		0 publish_state 0 3
		0 set_state 0 3 25 7
		0 get_state 0 3 8 0 64 68
		same @68 8
		see @64 97
		put @64 120
		0 publish_state 0 3
		0 get_state 0 3 8 0 72 68
		same @72 @64
		see @64 120
		0 get_state 0 3 12 0 72 68
		same @72 @64
		same @68 7
		see @64 98
		0 get_state 0 3 0 0 72 68
		see @72 98`)
	h.run(`0 get_state 0 3 8 0 64 68
		see @64 98`)
	if got := string(stored(t, store, "t", "key")); got != "bcdefgh" {
		t.Errorf("pushed %q; want %q", got, "bcdefgh")
	}
}

// Two hosts, with replicas of their own.
func TestState_twoHosts(t *testing.T) {
	store := newStore(t)
	a, b := newStateHost(t, store), newStateHost(t, store)
	a.run(`0 set_state 0 3 24 8
		0 push_state 0 3`)
	b.run(`0 get_state 0 3 0 0 64 68
		see @64 97
		put @64 120
		0 push_state_offset 0 3 0 1`)
	a.run(`0 get_state 0 3 0 0 64 68
		see @64 97
		put @64+7 121
		0 push_state_offset 0 3 7 1
		0 pull_state 0 3
		see @64 120
		see @64+7 121`)
	b.run(`0 get_state 0 3 4 0 64 68
		see @64+7 121
		put @64+6 1
		0 pull_state_offset 0 3 7 1
		see @64+6 1
		0 pull_state_offset 0 3 6 1
		see @64+6 103
		put @64+6 2
		0 flag_state_dirty 0 3 7 1
		0 set_state_offset 0 3 1 24 2
		0 push_state 0 3`)
	if got := string(stored(t, store, "t", "key")); got != "xabdef\x02y" {
		t.Errorf("pushed %q", got)
	}
	a.run(`0 get_state 0 3 4 0 64 68
		put @64+2 99
		put @64+3 99
		0 set_state 16 4 72 8 ;; no byte
		0 get_state 16 4 0 0 80 68
		put @80+3 1
		0 push_state_mask 0 3 16 4
		see @80+3 0`)
	if got := string(stored(t, store, "t", "key")); got != "xabcef\x02y" {
		t.Errorf("pushed %q with a mask", got)
	}
}

// What two hosts have added up is all there.
func TestState_merge(t *testing.T) {
	store := newStore(t)
	a, b := newStateHost(t, store), newStateHost(t, store)
	add := `0 get_state 8 5 1 16 64 68
		(i32.store (i32.load (i32.const 64)) (i32.add (i32.load (i32.load (i32.const 64))) (i32.const 1000)))
		0 push_state_merge 8 5 1 1
		0 push_state_merge 8 5 1 1 ;; of nothing new
		same @68 16`
	a.run(add)
	b.run(add)
	a.run(add)
	b.run(`0 pull_state 8 5
		0 get_state 8 5 0 0 64 68
		(call $is (i32.load (i32.load (i32.const 64))) (i32.const 3000))
		(i32.store offset=4 (i32.load (i32.const 64)) (i32.const -5))
		0 push_state_merge 8 5 1 3 ;; max
		(i32.store offset=8 (i32.load (i32.const 64)) (i32.const -6))
		0 push_state_merge 8 5 1 2 ;; min`)
	got := stored(t, store, "t", "other")
	want := make([]byte, 16)
	le.PutUint32(want, 3000)
	le.PutUint32(want[8:], 1<<32-6)
	if !bytes.Equal(got, want) {
		t.Errorf("merged %v; want %v", got, want)
	}
}

// The list of a key.
func TestState_list(t *testing.T) {
	h := newStateHost(t, newStore(t))
	h.run(`0 read_appended_state 0 3 0 10 64 100 60
		same @60 0
		0 append_state 0 3 24 2
		0 append_state 0 3 24 0
		0 append_state 0 3 26 3
		44 state_size 0 3 64
		0 read_appended_state 0 3 0 -1 0 0 60 ;; how much there is
		same @60 17
		0 read_appended_state 0 3 0 2 0 0 60
		same @60 10
		0 read_appended_state 0 3 1 5 0 0 60
		same @60 11
		0 read_appended_state 0 3 0 3 64 17 60
		same @60 17
		same @64 2
		see 68 97
		same @70 0
		same @74 3
		see 78 99
		see 80 101
		0 read_appended_state 0 3 2 1 100 5 60 ;; as far as it fits
		same @60 7
		same @100 3
		see 104 99
		see 105 0
		0 clear_appended_state 0 3
		0 read_appended_state 0 3 0 10 64 100 60
		same @60 0`)
}

// A guest that maps until its limit is told so, and goes on.
func TestState_memoryLimit(t *testing.T) {
	h := newStateHost(t, newStore(t))
	h.runAs("t", h.buildLimited(`
		0 get_state_offset 0 3 1 10000000 1 64
		(local.set $i (i32.const 152)) ;; the chunks before, one by one, backwards
		(block $full (loop $l
		  (br_if $full (local.tee $j (call $get_state_offset (i32.const 0) (i32.const 3) (i32.const 0) (i64.extend_i32_u (i32.mul (i32.sub (local.get $i) (i32.const 1)) (i32.const 65536))) (i32.const 1) (i32.const 68))))
		  (i32.store8 (i32.load (i32.const 68)) (local.get $i))
		  (local.set $i (i32.sub (local.get $i) (i32.const 1)))
		  (br_if $l (local.get $i))))
		(call $is (local.get $j) (i32.const 48)) ;; ENOMEM
		(call $is (memory.size) (i32.const 16)) ;; all there is
		48 get_state 0 3 0 0 64 68
		48 get_state 0 3 2 0 64 68
		48 get_state 8 5 1 1 64 68
		(call $is (memory.grow (i32.const 1)) (i32.const -1))
		0 get_state_offset 0 3 0 9961470 1 68 ;; the last of those that fitted, but one
		0 set_state 8 5 24 8
		0 read_state_offset 8 5 0 80 8 72
		same @72 8`, 1<<20))
}

// A Faaslet has 1,024 windows at most, so that one does not take the mappings of all.
func TestState_windowsMax(t *testing.T) {
	h := newStateHost(t, newStore(t))
	h.runAs("t", h.buildLimited(`
		0 get_state_offset 0 3 1 70000000 1 64
		(local.set $i (i32.const 1068))
		(block $full (loop $l
		  (br_if $full (local.tee $j (call $get_state_offset (i32.const 0) (i32.const 3) (i32.const 0) (i64.extend_i32_u (i32.mul (i32.sub (local.get $i) (i32.const 1)) (i32.const 65536))) (i32.const 1) (i32.const 68))))
		  (local.set $i (i32.sub (local.get $i) (i32.const 1)))
		  (br $l)))
		(call $is (local.get $j) (i32.const 48))
		(call $is (local.get $i) (i32.const 45)) ;; 1,023 after the first
		0 get_state_offset 0 3 0 69992448 1 68
		0 set_state 8 5 24 8`, 128<<20))
}

// A host without mappings says so, and memory that was grown in vain is used later.
func TestState_mappingsExhausted(t *testing.T) {
	h := newStateHost(t, newStore(t))
	var err error
	h.rt, err = faaslet.NewRuntime(faaslet.Options{Arena: vmem.ArenaOptions{MappingsMax: 40}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.rt.Close(); err != nil {
			t.Errorf("close runtime: %v", err)
		}
	})
	c := h.build(`
		0 get_state_offset 0 3 1 3000000 1 64
		(local.set $i (i32.const 45))
		(block $full (loop $l
		  (br_if $full (local.tee $j (call $get_state_offset (i32.const 0) (i32.const 3) (i32.const 0) (i64.extend_i32_u (i32.mul (i32.sub (local.get $i) (i32.const 1)) (i32.const 65536))) (i32.const 1) (i32.const 68))))
		  (local.set $i (i32.sub (local.get $i) (i32.const 1)))
		  (br $l)))
		(call $is (local.get $j) (i32.const 48))
		(i32.store (i32.const 72) (memory.size))
		48 get_state_offset 0 3 0 0 1 68
		(call $is (memory.size) (i32.load (i32.const 72)))
		48 get_state_offset 0 3 0 0 100000 68
		(call $is (memory.size) (i32.add (i32.load (i32.const 72)) (i32.const 2)))
		48 get_state_offset 0 3 0 0 1 68
		(call $is (memory.size) (i32.add (i32.load (i32.const 72)) (i32.const 2)))
		0 get_state_offset 0 3 0 2949120 1 68`)
	for range 3 { // cleaning gives all mappings back
		h.runAs("t", c)
	}
}

// The next Faaslet of a region finds nothing of what was mapped.
func TestState_cleaned(t *testing.T) {
	h := newStateHost(t, newStore(t))
	// The first call, for which the list is empty, maps and writes; the second grows its
	// memory by as much and looks.
	c := h.build(`
		0 read_appended_state 0 3 0 1 0 0 64
		(if (i32.eqz (i32.load (i32.const 64))) (then
		  (call $is (call $append_state (i32.const 0) (i32.const 3) (i32.const 24) (i32.const 1)) (i32.const 0))
		  (call $is (call $get_state (i32.const 0) (i32.const 3) (i32.const 1) (i32.const 131072) (i32.const 68) (i32.const 72)) (i32.const 0))
		  (memory.fill (i32.load (i32.const 68)) (i32.const 0xaa) (i32.const 131072))
		  (call $is (call $get_state (i32.const 0) (i32.const 3) (i32.const 2) (i32.const 0) (i32.const 68) (i32.const 72)) (i32.const 0))
		  (memory.fill (i32.load (i32.const 68)) (i32.const 0xbb) (i32.const 131072))
		  (return (i32.const 0))))
		(call $is (memory.grow (i32.const 4)) (i32.const 1))
		(local.set $i (i32.const 65536))
		(loop $l
		  (call $is (i32.load (local.get $i)) (i32.const 0))
		  (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 4))) (i32.const 327680))))
		(memory.fill (i32.const 65536) (i32.const 0xcc) (i32.const 262144))`)
	h.runAs("t", c)
	h.runAs("t", c)
	h.run(`0 read_state_offset 0 3 131070 64 2 72
		see 64 0xaa
		see 65 0xaa`)
}

// signalHost tells when a call blocks.
type signalHost struct {
	fakeHost
	blocks chan *call.Call
}

func (h *signalHost) Block(c *call.Call, _ bool, wait func()) {
	h.blocks <- c
	wait()
}

// A call that is cancelled while it waits for a lock ends, and a lock ends with its
// Faaslet, however that ends.
func TestState_locksOfTheDead(t *testing.T) {
	for _, tt := range []struct{ name, lock, end string }{
		{"local, cancelled", "lock_state_write 0 3", "(loop $l (i32.store (i32.const 72) (i32.const 1)) (br $l))"},
		{"local, trapped", "lock_state_read 0 3", "(unreachable)"},
		{"local, returned", "lock_state_write 0 3", "(return (i32.const 0))"},
		{"global, cancelled", "lock_state_global_write 0 3 -1", "(loop $l (i32.store (i32.const 72) (i32.const 1)) (br $l))"},
		{"global, trapped", "lock_state_global_read 0 3 -1", "(unreachable)"},
		{"global, returned", "lock_state_global_write 0 3 30000000000", "(return (i32.const 0))"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newStateHost(t, newStore(t))
			blocks := make(chan *call.Call, 100)
			h.host = &signalHost{blocks: blocks}
			// The holder maps the value, to be told when it may end.
			holder := h.build(`0 ` + tt.lock + `
				0 get_state 8 5 1 8 64 68
				put @64 1
				(loop $l (br_if $l (i32.ne (i32.load8_u offset=1 (i32.load (i32.const 64))) (i32.const 1))))
				` + tt.end)
			waiter := h.build(`0 get_state 8 5 1 8 64 68
				(loop $l (br_if $l (i32.ne (i32.load8_u (i32.load (i32.const 64))) (i32.const 1))))
				put 72 2
				put @64+2 1
				0 ` + strings.Replace(tt.lock, "read", "write", 1))
			release := h.build(`0 get_state 8 5 1 8 64 68
				put @64+1 1`)

			holding, waiting := newCall(call.Request{Tenant: "t", Function: "f"}), newCall(call.Request{Tenant: "t", Function: "f"})
			held, waited := make(chan *call.Result, 1), make(chan *call.Result, 1)
			go func() { r, _ := h.call(holder, holding); held <- r }()
			go func() { r, _ := h.call(waiter, waiting); waited <- r }()
			// The waiter blocks once more than for the value, when it wants the lock.
			s := newSession(t, h.tier, "t")
			b := []byte{0, 0, 0}
			for b[2] != 1 {
				if _, err := s.ReadAt("other", 0, b); err != nil && !errors.Is(err, global.ErrNotFound) {
					t.Fatal(err)
				}
			}
			for c := range blocks {
				if c == waiting && len(waited) == 0 && b[2] == 1 {
					break
				}
			}
			waiting.Cancel(call.Cancelled)
			if r := <-waited; r.Outcome != call.Cancelled {
				t.Errorf("the waiter: %v %+v; want cancelled", r.Outcome, r.Failure)
			}
			h.runAs("t", release)
			if strings.Contains(tt.name, "cancelled") {
				holding.Cancel(call.Cancelled)
			}
			r := <-held
			if !strings.HasSuffix(tt.name, r.Outcome.String()) {
				t.Errorf("the holder: %v %+v", r.Outcome, r.Failure)
			}
			h.runAs("t", h.build(`0 `+strings.Replace(tt.lock, "read", "write", 1)))
		})
	}
}

// The deadline of a call ends its wait for a lock.
func TestState_lockDeadline(t *testing.T) {
	h := newStateHost(t, newStore(t))
	s := newSession(t, h.tier, "t")
	if err := errors.Join(s.Lock("key", global.LockRead), s.LockGlobal("key", global.LockRead, 0)); err != nil {
		t.Fatal(err)
	}
	for _, script := range []string{
		`0 lock_state_write 0 3`,
		`0 lock_state_global_write 0 3 -1`,
		`do __faasm_lock_state_write 0`,
		`do __faasm_lock_state_global 0`,
	} {
		cl := newCall(call.Request{Tenant: "t", Function: "f", Deadline: time.Now().Add(30 * time.Millisecond)})
		if r, trace := h.call(h.build(script), cl); r.Outcome != call.DeadlineExceeded {
			t.Errorf("%s: %v %+v\n%s", script, r.Outcome, r.Failure, strings.Join(trace, "\n"))
		}
	}
	h.run(`73 lock_state_global_write 0 3 0
		73 lock_state_global_write 0 3 1000000
		0 lock_state_global_read 0 3 0
		0 lock_state_read 0 3
		0 unlock_state 0 3
		0 unlock_state_global 0 3
		0 lock_state_write 8 5
		0 lock_state_global_write 8 5 0`)
}

// What upstream's functions do when all is well; docs/ABI.md, module env.
func TestUpstreamState(t *testing.T) {
	for _, tt := range []struct {
		name   string
		script string
		stored string // of "key" afterwards
	}{
		{"read_state, write_state", `
			0 __faasm_read_state 0 0 0
			put 64 1
			put 71 1
			0 __faasm_read_state 0 64 8 ;; and zeroes
			see 64 0
			see 71 0
			do __faasm_write_state 0 24 3
			3 __faasm_read_state 0 0 0
			put 71 1
			3 __faasm_read_state 0 64 8
			see 64 97
			see 66 99
			see 71 0
			3 __faasm_read_state 0 80 2
			see 81 98
			see 82 0`, ""},
		{"read_state_ptr", `
			let 64 __faasm_read_state_ptr 0 100000
			see @64+99999 0
			put @64+99999 7
			let 68 __faasm_read_state_ptr 0 100000
			same @68 @64
			let 68 __faasm_read_state_ptr 0 10
			same @68 @64
			100000 __faasm_read_state 0 0 0
			do __faasm_write_state 8 24 3
			let 68 __faasm_read_state_ptr 8 3
			see @68 97`, ""},
		{"read_state_offset, read_state_offset_ptr, write_state_offset", `
			do __faasm_read_state_offset 0 7 5 64 2
			7 __faasm_read_state 0 0 0
			do __faasm_write_state_offset 0 7 2 24 3
			do __faasm_read_state_offset 0 7 1 64 6
			see 64 0
			see 65 97
			see 67 99
			let 72 __faasm_read_state_offset_ptr 0 7 2 3
			see @72 97
			put @72 120
			do __faasm_read_state_offset 0 7 2 64 1
			see 64 120
			do __faasm_write_state_offset 8 100000 99997 24 3
			let 72 __faasm_read_state_offset_ptr 8 100000 99998 2
			see @72 98
			let 76 __faasm_read_state_offset_ptr 16 200000 70000 5 ;; made here
			see @76 0
			200000 __faasm_read_state 16 0 0`, ""},
		{"push_state", `
			do __faasm_write_state 0 24 8
			do __faasm_push_state 0
			do __faasm_push_state 0`, "abcdefgh"},
		{"push_state, of what a pointer changed", `
			do __faasm_write_state 0 24 8
			do __faasm_push_state 0
			let 64 __faasm_read_state_ptr 0 8
			put @64 120
			do __faasm_push_state 0`, "xbcdefgh"},
		{"push_state_partial", `
			do __faasm_write_state 0 24 8
			do __faasm_push_state 0
			do __faasm_write_state_offset 0 8 4 24 1
			do __faasm_push_state_partial 0`, "abcdafgh"},
		{"push_state_partial_mask", `
			do __faasm_write_state 0 24 8
			do __faasm_push_state 0
			do __faasm_write_state 0 25 8
			let 64 __faasm_read_state_ptr 16 8
			put @64+1 255
			do __faasm_push_state_partial_mask 0 16
			see @64+1 0`, "accdefgh"},
		{"flag_state_dirty", `
			do __faasm_write_state 0 24 8
			do __faasm_push_state 0
			let 64 __faasm_read_state_ptr 0 8
			put @64+1 120
			do __faasm_flag_state_dirty 0 8
			do __faasm_push_state 0
			do __faasm_flag_state_dirty 8 8
			8 __faasm_read_state 8 0 0`, "axcdefgh"},
		{"flag_state_offset_dirty", `
			do __faasm_write_state 0 24 8
			do __faasm_push_state 0
			let 64 __faasm_read_state_offset_ptr 0 8 2 1
			put @64 120
			do __faasm_flag_state_offset_dirty 0 8 2 1
			do __faasm_push_state_partial 0
			do __faasm_flag_state_offset_dirty 8 8 2 1`, "abxdefgh"},
		{"pull_state", `
			do __faasm_write_state 0 24 8
			do __faasm_push_state 0
			do __faasm_write_state 0 25 7
			do __faasm_pull_state 0 8
			let 64 __faasm_read_state_ptr 0 8
			see @64 97
			do __faasm_pull_state 8 10 ;; which is nowhere
			10 __faasm_read_state 8 0 0
			do __faasm_write_state 16 24 3 ;; which is only here
			do __faasm_pull_state 16 3`, "abcdefgh"},
		{"append_state, read_appended_state, clear_appended_state", `
			do __faasm_append_state 0 24 2
			do __faasm_append_state 0 26 3
			do __faasm_read_appended_state 0 64 10 1
			see 65 98
			see 66 0
			do __faasm_read_appended_state 0 64 10 5
			see 66 99
			see 68 101
			see 69 0
			do __faasm_read_appended_state 0 80 4 2
			see 83 100
			see 84 0
			do __faasm_clear_appended_state 0
			put 64 1
			do __faasm_read_appended_state 0 64 10 1
			see 64 1`, ""},
		{"locks", `
			do __faasm_lock_state_read 0
			do __faasm_unlock_state_read 0
			do __faasm_lock_state_write 0
			do __faasm_unlock_state_write 0
			do __faasm_lock_state_global 0
			do __faasm_lock_state_write 0
			do __faasm_unlock_state_global 0
			do __faasm_lock_state_global 0`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			store := newStore(t)
			newStateHost(t, store).run(tt.script)
			if got := string(stored(t, store, "t", "key")); got != tt.stored {
				t.Errorf("pushed %q; want %q", got, tt.stored)
			}
		})
	}
}

// Upstream's full push does nothing if nothing was changed here, and so nothing to what
// another host has pushed meanwhile.
func TestUpstreamState_pushOnlyChanges(t *testing.T) {
	store := newStore(t)
	a, b := newStateHost(t, store), newStateHost(t, store)
	a.run(`do __faasm_write_state 0 24 8
		do __faasm_push_state 0`)
	b.run(`do __faasm_write_state 0 25 7
		do __faasm_push_state 0`)
	a.run(`let 64 __faasm_read_state_ptr 0 8
		see @64 97
		do __faasm_push_state 0
		do __faasm_push_state_partial 0
		do __faasm_push_state 8 ;; of which there is nothing here`)
	if got := string(stored(t, store, "t", "key")); got != "bcdefgh" {
		t.Errorf("pushed %q; want the other host's %q", got, "bcdefgh")
	}
}

// A guest of 2020 is known by the global lock as well.
func TestUpstreamState_dialect2020(t *testing.T) {
	for _, name := range []string{"__faasm_lock_state_global", "__faasm_unlock_state_global"} {
		if !slices.Contains(hostif.Dialect2020, name) {
			t.Errorf("%s is not of 2020", name)
		}
	}
}

// Asking for what is mapped makes no garbage, in either dialect.
func TestState_askingAgainAllocatesNothing(t *testing.T) {
	h := newStateHost(t, newStore(t))
	const loops = 10_000
	again := func(n int, call string) *faaslet.Code {
		return h.build(fmt.Sprintf(`
			0 get_state 0 3 1 8 64 68
			(loop $l %s
			  (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const %d))))`, call, n))
	}
	for _, ask := range []string{
		`(drop (call $get_state (i32.const 0) (i32.const 3) (i32.const 1) (i32.const 8) (i32.const 64) (i32.const 68)))`,
		`(drop (call $get_state_offset (i32.const 0) (i32.const 3) (i32.const 0) (i64.const 2) (i32.const 4) (i32.const 64)))`,
		`(drop (call $__faasm_read_state_ptr (i32.const 0) (i32.const 8)))`,
	} {
		count := func(c *faaslet.Code) float64 {
			w := &faaslet.World{Host: h.host, State: h.tier, Logs: call.NewLogBuffer(call.LogBufferOptions{})}
			return testing.AllocsPerRun(3, func() {
				r, remains := c.Run(newCall(call.Request{Tenant: "t", Function: "f"}), w)
				if _, err := remains.Clean(); err != nil || r.Outcome != call.Returned {
					t.Errorf("%v %+v, clean: %v", r.Outcome, r.Failure, err)
				}
			})
		}
		if few, many := count(again(1, ask)), count(again(loops, ask)); many-few > loops/100 {
			t.Errorf("%s: %v allocations in %d calls", ask, many-few, loops)
		}
	}
}

// docs/ABI.md has each function with its parameters and results.
func TestState_documented(t *testing.T) {
	text, err := os.ReadFile("../../docs/ABI.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{} // name → parameters, and results of env
	for _, heading := range []string{"\n## Module `faasm`: state\n", "\n## Module `env`: upstream's state functions\n"} {
		_, section, ok := strings.Cut(string(text), heading)
		if !ok {
			t.Fatalf("docs/ABI.md has no section %q", heading)
		}
		section, _, _ = strings.Cut(section, "\n## ")
		for line := range strings.Lines(section) {
			cells := strings.Split(line, "|")
			if len(cells) != 5 {
				continue
			}
			for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[1], -1) {
				rows[name[1]] = strings.TrimSpace(cells[2])
			}
		}
	}
	for _, f := range hostif.Functions {
		if !isState(f) {
			continue
		}
		row, ok := rows[f.Name]
		delete(rows, f.Name)
		var got []string
		if f.Module == "env" {
			params, result, _ := strings.Cut(strings.TrimPrefix(row, "("), ")")
			if (result == " -> i32") != (len(f.Results) == 1) {
				t.Errorf("%s: results %v; docs/ABI.md says %q", f.Name, f.Results, row)
			}
			if n := len(strings.Split(params, ",")); !ok || n != len(f.Params) {
				t.Errorf("%s%v: docs/ABI.md says %q", f.Name, f.Names, row)
			}
			continue
		}
		for i, name := range f.Names {
			if f.Params[i] == engine.I64 {
				name += " i64"
			}
			got = append(got, name)
		}
		// What is pointed at has no part in the type.
		want := regexp.MustCompile(`\\\*(\w+)( i64)?`).ReplaceAllString(row, "$1")
		if strings.Join(got, ", ") != want {
			t.Errorf("%s(%s): docs/ABI.md says %q", f.Name, strings.Join(got, ", "), row)
		}
	}
	for name := range rows {
		t.Errorf("docs/ABI.md has %s, which is no function", name)
	}
}
