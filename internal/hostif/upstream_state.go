package hostif

import (
	"errors"
	"fmt"
	"math"

	"github.com/faasm-go/faasm/internal/state"
	"github.com/faasm-go/faasm/internal/state/global"
)

// The state functions that guests of the original project import from module env, in
// today's dialect and in that of 2020. Keys are strings that end with NUL. They have no way
// to say no, so what can't be done traps, and the message names function, key and cause.
//
// Many take the value's size (total): where neither tier has the value, it is made of that
// many zeroes. It does not change the size of one that is there.

// upstreamState makes a row of i32 parameters, of which the first is the key.
func upstreamState(name string, results int, handler func(g *Guest, s *state.Session, key string, a *Args) (uint64, error), params ...string) Function {
	return upstreamFunction(name, InitRefused, results, func(g *Guest, a *Args) uint64 {
		s, ok := g.session()
		if !ok {
			return g.fault("%s: this host keeps no state", name)
		}
		key, err := g.upKey(a.u32(0))
		if err != nil {
			return g.fault("%s: %v", name, err)
		}
		result, err := handler(g, s, key, a)
		if err != nil {
			return g.fault("%s: key %q: %v", name, key, err)
		}
		return result
	}, append([]string{"key"}, params...)...)
}

// upKey reads a key that ends with NUL.
func (g *Guest) upKey(at uint32) (string, error) {
	b, ok := g.cBytes(at)
	if ok && len(b) > 0 {
		if key, ok := g.shared.key(b); ok {
			return key, nil
		}
	}
	return "", fmt.Errorf("the key at %#x is outside memory, or not 1 to %d bytes of UTF-8 before a NUL", at, nameMax)
}

// upDo is the handler of a function that takes but a key.
func upDo(do func(s *state.Session, key string) error) func(*Guest, *state.Session, string, *Args) (uint64, error) {
	return func(_ *Guest, s *state.Session, key string, _ *Args) (uint64, error) { return 0, do(s, key) }
}

func upLock(mode global.LockMode) func(*state.Session, string) error {
	return func(s *state.Session, key string) error { return s.Lock(key, mode) }
}

var upstreamStateFunctions = []Function{
	upstreamState("__faasm_read_state", 1, upReadState, "buf", "len"),
	upstreamState("__faasm_read_state_ptr", 1, upReadStatePtr, "total"),
	upstreamState("__faasm_read_state_offset", 0, upReadStateOffset, "total", "off", "buf", "len"),
	upstreamState("__faasm_read_state_offset_ptr", 1, upReadStateOffsetPtr, "total", "off", "len"),
	upstreamState("__faasm_write_state", 0, upWriteState, "data", "len"),
	upstreamState("__faasm_write_state_offset", 0, upWriteStateOffset, "total", "off", "data", "len"),
	upstreamState("__faasm_write_state_from_file", 1, upWriteStateFromFile, "path"),
	upstreamState("__faasm_append_state", 0, upAppendState, "data", "len"),
	upstreamState("__faasm_read_appended_state", 0, upReadAppendedState, "buf", "len", "elements"),
	upstreamState("__faasm_clear_appended_state", 0, upDo((*state.Session).ClearList)),
	upstreamState("__faasm_flag_state_dirty", 0, upFlagStateDirty, "total"),
	upstreamState("__faasm_flag_state_offset_dirty", 0, upFlagStateOffsetDirty, "total", "off", "len"),
	upstreamState("__faasm_push_state", 0, upDo(upPushState)),
	upstreamState("__faasm_push_state_partial", 0, upDo((*state.Session).PushDirty)),
	upstreamState("__faasm_push_state_partial_mask", 0, upPushStatePartialMask, "mask_key"),
	upstreamState("__faasm_pull_state", 0, upPullState, "total"),
	upstreamState("__faasm_lock_state_read", 0, upDo(upLock(global.LockRead))),
	upstreamState("__faasm_unlock_state_read", 0, upDo((*state.Session).Unlock)),
	upstreamState("__faasm_lock_state_write", 0, upDo(upLock(global.LockWrite))),
	upstreamState("__faasm_unlock_state_write", 0, upDo((*state.Session).Unlock)),
	upstreamState("__faasm_lock_state_global", 0, upDo(upLockStateGlobal)),
	upstreamState("__faasm_unlock_state_global", 0, upDo((*state.Session).UnlockGlobal)),
}

// upBytes is g.bytes with an error that says what is wrong.
func (g *Guest) upBytes(at, n uint32) ([]byte, error) {
	b, ok := g.bytes(at, n)
	if !ok {
		return nil, fmt.Errorf("%d bytes at %#x are outside memory", n, at)
	}
	return b, nil
}

// upRange checks an offset and a length. Whether they are within the value is told later.
func upRange(off, n int32) error {
	if off < 0 || n < 0 {
		return fmt.Errorf("%d bytes at offset %d: %w", n, off, state.ErrRange)
	}
	return nil
}

// upAccess makes the value, of total zeroes, if neither tier has it. A total of 0 makes none.
func upAccess(total int32) (state.Access, error) {
	if total < 0 {
		return state.Access{}, fmt.Errorf("a size of %d bytes: %w", total, global.ErrInvalid)
	}
	return state.Access{Create: total > 0, CreateSize: int64(total)}, nil
}

// upOrMake does what needs a value, which it makes if neither tier has it; see upAccess.
func upOrMake(s *state.Session, key string, total int32, do func() error) error {
	access, err := upAccess(total)
	if err != nil {
		return err
	}
	err = do()
	if !access.Create || !errors.Is(err, global.ErrNotFound) {
		return err
	}
	if err := upMake(s, key, access); err != nil {
		return err
	}
	return do()
}

func upMake(s *state.Session, key string, access state.Access) error {
	_, err := s.View(key, access, 0, 0)
	return err
}

// upReadState copies the value to a buffer, of which it zeroes what the value does not
// fill, and returns the value's size: 0 if neither tier has it. With len 0 that is all.
func upReadState(g *Guest, s *state.Session, key string, a *Args) (uint64, error) {
	b, err := g.upBytes(a.u32(1), a.u32(2))
	if err != nil {
		return 0, err
	}
	size, err := s.Size(key)
	if errors.Is(err, global.ErrNotFound) {
		clear(b)
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if size > math.MaxUint32 {
		return 0, fmt.Errorf("its size of %d bytes exceeds 32 bits", size)
	}
	n := 0
	if len(b) > 0 {
		if n, err = s.ReadAt(key, 0, b); err != nil {
			return 0, err
		}
	}
	clear(b[n:])
	return uint64(size), nil
}

// upReadStatePtr maps the value's first total bytes.
func upReadStatePtr(g *Guest, s *state.Session, key string, a *Args) (uint64, error) {
	access, err := upAccess(a.i32(1))
	if err != nil {
		return 0, err
	}
	at, _, err := g.window(key, access, 0, int64(a.i32(1)))
	return uint64(at), err
}

// upReadStateOffsetPtr maps part of the value.
func upReadStateOffsetPtr(g *Guest, s *state.Session, key string, a *Args) (uint64, error) {
	access, err := upAccess(a.i32(1))
	if err == nil {
		err = upRange(a.i32(2), a.i32(3))
	}
	if err != nil {
		return 0, err
	}
	at, _, err := g.window(key, access, int64(a.i32(2)), int64(a.i32(3)))
	return uint64(at), err
}

// upReadStateOffset copies part of the value. All of it must be within the value.
func upReadStateOffset(g *Guest, s *state.Session, key string, a *Args) (uint64, error) {
	b, err := g.upBytes(a.u32(3), a.u32(4))
	if err != nil {
		return 0, err
	}
	off, n := a.i32(2), a.i32(4)
	if err := upRange(off, n); err != nil {
		return 0, err
	}
	return 0, upOrMake(s, key, a.i32(1), func() error {
		size, err := s.Size(key)
		if err != nil {
			return err
		}
		if int64(off)+int64(n) > size {
			return fmt.Errorf("%d bytes at offset %d: %w", n, off, state.ErrRange)
		}
		_, err = s.ReadAt(key, int64(off), b)
		return err
	})
}

// upWriteState makes bytes the value on this host.
func upWriteState(g *Guest, s *state.Session, key string, a *Args) (uint64, error) {
	b, err := g.upBytes(a.u32(1), a.u32(2))
	if err != nil {
		return 0, err
	}
	return 0, s.Set(key, g.source(key, 0, a.u32(1), b))
}

// upWriteStateOffset writes within the value on this host.
func upWriteStateOffset(g *Guest, s *state.Session, key string, a *Args) (uint64, error) {
	b, err := g.upBytes(a.u32(3), a.u32(4))
	if err != nil {
		return 0, err
	}
	if err := upRange(a.i32(2), a.i32(4)); err != nil {
		return 0, err
	}
	off := int64(a.i32(2))
	b = g.source(key, off, a.u32(3), b)
	return 0, upOrMake(s, key, a.i32(1), func() error { return s.SetAt(key, off, b) })
}

// upWriteStateFromFile would make a file the value. There is none: a tenant has no files
// yet. A result would be taken for a length, so it traps.
func upWriteStateFromFile(g *Guest, _ *state.Session, _ string, a *Args) (uint64, error) {
	path, ok := g.cString(a.u32(1))
	if !ok {
		return 0, fmt.Errorf("the path at %#x is outside memory or longer than %d bytes", a.u32(1), nameMax)
	}
	return 0, fmt.Errorf("there is no file %q", path)
}

// upAppendState adds an element at the end of the key's list in the global tier.
func upAppendState(g *Guest, s *state.Session, key string, a *Args) (uint64, error) {
	b, err := g.upBytes(a.u32(1), a.u32(2))
	if err != nil {
		return 0, err
	}
	if len(b) > global.ElementBytesMax {
		return 0, fmt.Errorf("an element of %d bytes: %w", len(b), global.ErrInvalid)
	}
	return 0, s.Append(key, append([]byte(nil), b...)) // a copy, as in appendState
}

// upReadAppendedState copies the first elements of the key's list, one behind the other,
// as far as there are and the buffer reaches. The rest of the buffer stays as it is.
func upReadAppendedState(g *Guest, s *state.Session, key string, a *Args) (uint64, error) {
	b, err := g.upBytes(a.u32(1), a.u32(2))
	if err != nil {
		return 0, err
	}
	n := a.i32(3)
	if n < 0 {
		return 0, fmt.Errorf("%d elements: %w", n, global.ErrInvalid)
	}
	return 0, readElements(s, key, 0, int64(n), func(element []byte) bool {
		b = b[copy(b, element):]
		return len(b) > 0
	})
}

// upFlagStateDirty says that the value was written through a pointer.
func upFlagStateDirty(_ *Guest, s *state.Session, key string, a *Args) (uint64, error) {
	return 0, upOrMake(s, key, a.i32(1), func() error {
		size, err := s.Size(key)
		if err != nil {
			return err
		}
		return s.FlagDirty(key, 0, size)
	})
}

// upFlagStateOffsetDirty says that part of the value was.
func upFlagStateOffsetDirty(_ *Guest, s *state.Session, key string, a *Args) (uint64, error) {
	off, n := a.i32(2), a.i32(3)
	if err := upRange(off, n); err != nil {
		return 0, err
	}
	return 0, upOrMake(s, key, a.i32(1), func() error { return s.FlagDirty(key, int64(off), int64(n)) })
}

// upPushState pushes the whole value, if anything of it was changed here.
func upPushState(s *state.Session, key string) error {
	dirty, err := s.Dirty(key)
	if err != nil || !dirty {
		return err
	}
	return s.Push(key)
}

// upPushStatePartialMask pushes the bytes whose byte in the mask is not zero.
func upPushStatePartialMask(g *Guest, s *state.Session, key string, a *Args) (uint64, error) {
	mask, err := g.upKey(a.u32(1))
	if err != nil {
		return 0, fmt.Errorf("mask: %w", err)
	}
	return 0, s.PushMask(key, mask)
}

// upPullState makes the global tier's value that of this host, if it has one.
func upPullState(_ *Guest, s *state.Session, key string, a *Args) (uint64, error) {
	access, err := upAccess(a.i32(1))
	if err != nil {
		return 0, err
	}
	err = s.Pull(key)
	if access.Create && errors.Is(err, global.ErrNotFound) {
		err = upMake(s, key, access)
	}
	return 0, err
}

// upLockStateGlobal waits for the key's lock among all hosts, to write, for as long as the
// call may take.
func upLockStateGlobal(s *state.Session, key string) error {
	return s.LockGlobal(key, global.LockWrite, -1)
}
