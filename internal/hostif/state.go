package hostif

import (
	"context"
	"errors"
	"math"
	"time"
	"unicode/utf8"

	"github.com/faasm-go/faasm/internal/state"
	"github.com/faasm-go/faasm/internal/state/global"
	"github.com/faasm-go/faasm/internal/vmem"
)

// The State group of module faasm. Every function takes a key first, 1 to 1,024 bytes of
// UTF-8 in the caller's tenant, and returns an Errno. What they have in common:
//
//	EINVAL        the key's length or encoding; an offset, length, flag or type that makes
//	              no sense, or a range that is not within the value
//	EFAULT        a range outside memory
//	ENOENT        neither tier has the value
//	ENOMEM        the memory of this Faaslet, or that for state of this host, is used up
//	EDQUOT        the tenant may store no more
//	ESTALE        the global lock that the call holds of the key was lost
//	EHOSTUNREACH  the global tier does not answer; a change may have taken effect
//	EAGAIN        the value changes too often; nothing has changed
//	ENOSPC, EIO   the global tier is full, or damaged
//	ENOTSUP       this host keeps no state
//
// The first two are told before anything has happened. docs/STATE.md tells the model.

// shared is what a guest has of state.
type shared struct {
	session *state.Session
	// ctx ends with the call. Nil until something may take long.
	ctx     context.Context
	release func() // what ctx holds

	mapped  map[string]*mapped
	windows int    // of all of mapped
	spare   []span // grown, and of no use so far
}

// session is the guest's use of state, made when it is first asked for. There is none on a
// host without state.
func (g *Guest) session() (*state.Session, bool) {
	if g.shared == nil {
		if g.State == nil {
			return nil, false
		}
		g.shared = &shared{session: g.State.Session(g.Call.Request().Tenant, g.wait)}
	}
	return g.shared.session, true
}

// wait is the session's state.Waiter. The context has no deadline of its own: when the
// call's has passed, the call is cancelled.
func (g *Guest) wait(do func(ctx context.Context)) {
	s := g.shared
	if s.ctx == nil {
		ctx, cancel := context.WithCancel(context.Background())
		stop := g.Call.OnCancel(cancel)
		s.ctx, s.release = ctx, func() { stop(); cancel() }
	}
	g.block(func() { do(s.ctx) })
}

// end lets go of locks and views.
func (s *shared) end() {
	s.session.Close()
	if s.release != nil {
		s.release()
	}
}

// stateErrnos say what a guest is told of an error of package state.
var stateErrnos = []struct {
	err   error
	errno Errno
}{
	{global.ErrNotFound, ENOENT},
	{state.ErrRange, EINVAL},
	{global.ErrInvalid, EINVAL},
	{state.ErrNoMemory, ENOMEM},
	{errNoRoom, ENOMEM},
	{vmem.ErrExhausted, ENOMEM},
	{state.ErrQuota, EDQUOT},
	{state.ErrDeadlock, EDEADLK},
	{state.ErrLocksMax, ENOLCK},
	{state.ErrNotHeld, EPERM},
	{global.ErrTimeout, TIMEDOUT},
	{global.ErrFenced, ESTALE},
	{global.ErrLeaseLost, ESTALE},
	{global.ErrConflict, EAGAIN},
	{global.ErrUnavailable, EHOSTUNREACH},
	{global.ErrFull, ENOSPC},
	{global.ErrDamaged, EIO},
	{context.Canceled, ECANCELED}, // the guest is not there to read it
}

// stateErrno is what a guest is told of err, which may be nil.
func stateErrno(err error) Errno {
	if err == nil {
		return Success
	}
	for _, e := range stateErrnos {
		if errors.Is(err, e.err) {
			return e.errno
		}
	}
	return EIO
}

// stateFunction makes a row whose first parameters are the key.
func stateFunction(name string, handler func(g *Guest, s *state.Session, key string, a *Args) Errno, params ...string) Function {
	return faasmFunction(name, InitRefused, func(g *Guest, a *Args) Errno {
		s, ok := g.session()
		if !ok {
			return ENOTSUP
		}
		key, errno := g.key(a.u32(0), a.u32(1))
		if errno != Success {
			return errno
		}
		return handler(g, s, key, a)
	}, append([]string{"key", "key_len"}, params...)...)
}

// key reads a key. For one that is mapped it makes no new string.
func (g *Guest) key(at, n uint32) (string, Errno) {
	if n == 0 || n > nameMax {
		return "", EINVAL
	}
	b, ok := g.bytes(at, n)
	if !ok {
		return "", EFAULT
	}
	key, ok := g.shared.key(b)
	if !ok {
		return "", EINVAL
	}
	return key, Success
}

// key makes a key of bytes, unless they are no UTF-8. They may be memory that others write
// to, so it is the copy that is looked at.
func (s *shared) key(b []byte) (string, bool) {
	if m, ok := s.mapped[string(b)]; ok {
		return m.key, true
	}
	key := string(b)
	return key, utf8.ValidString(key)
}

var stateFunctions = []Function{
	stateFunction("state_size", stateSize, "size"),
	stateFunction("get_state", getState, "flags", "size", "addr", "len"),
	stateFunction("get_state_offset", getStateOffset, "flags", "off:I", "len", "addr"),
	stateFunction("set_state", setState, "ptr", "len"),
	stateFunction("set_state_offset", setStateOffset, "off:I", "ptr", "len"),
	stateFunction("read_state_offset", readStateOffset, "off:I", "buf", "len", "n"),
	stateFunction("push_state", pushState),
	stateFunction("pull_state", pullState),
	stateFunction("push_state_offset", pushStateOffset, "off:I", "len:I"),
	stateFunction("pull_state_offset", pullStateOffset, "off:I", "len:I"),
	stateFunction("push_state_mask", pushStateMask, "mask_key", "mask_key_len"),
	stateFunction("push_state_merge", pushStateMerge, "type", "op"),
	stateFunction("append_state", appendState, "ptr", "len"),
	stateFunction("read_appended_state", readAppendedState, "first", "n", "buf", "cap", "size"),
	stateFunction("clear_appended_state", clearAppendedState),
	stateFunction("delete_state", deleteState),
	stateFunction("publish_state", publishState),
	stateFunction("flag_state_dirty", flagStateDirty, "off:I", "len:I"),
	stateFunction("lock_state_read", lockState(global.LockRead)),
	stateFunction("lock_state_write", lockState(global.LockWrite)),
	stateFunction("unlock_state", unlockState),
	stateFunction("lock_state_global_read", lockStateGlobal(global.LockRead), "timeout_ns:I"),
	stateFunction("lock_state_global_write", lockStateGlobal(global.LockWrite), "timeout_ns:I"),
	stateFunction("unlock_state_global", unlockStateGlobal),
}

// stateSize tells a value's size: that of this host's replica, else the global tier's.
//
//	size   u64: bytes
func stateSize(g *Guest, s *state.Session, key string, a *Args) Errno {
	if !g.fits(a.u32(2), 8) {
		return EFAULT
	}
	size, err := s.Size(key)
	if err != nil {
		return stateErrno(err)
	}
	b, _ := g.bytes(a.u32(2), 8)
	le.PutUint64(b, uint64(size))
	return Success
}

// The flags of get_state and get_state_offset.
const (
	stateCreate = 1 << iota
	stateReadOnly
	statePull
	statePublished
	stateFlags = 1<<iota - 1
)

// access says what flags ask for. A published version is not to be made.
func access(flags uint32, size int64) (a state.Access, ok bool) {
	a = state.Access{
		Create: flags&stateCreate != 0, ReadOnly: flags&stateReadOnly != 0,
		Pull: flags&statePull != 0, Published: flags&statePublished != 0,
	}
	if a.Create {
		a.CreateSize = size
	}
	return a, flags&^stateFlags == 0 && !(a.Create && a.Published)
}

// getState maps a value into the guest's memory, which grows by it. Writes there are seen
// at once by all Faaslets of this host that have it mapped.
//
//	flags   1 CREATE: if neither tier has the value, make it of size bytes of zero
//	        2 READ_ONLY: what is written there stays this Faaslet's
//	        4 PULL: have the present value from the global tier first; what was not
//	        pushed, or written to a mapping of this Faaslet's own, is lost
//	        8 PUBLISHED: the latest published version, as of the first time that this
//	        Faaslet asked, or with PULL as of now; as READ_ONLY. Not with CREATE
//	size    of no meaning without CREATE
//	addr    u32: where; of an empty value an address that is not 0
//	len     u32: the value's size
//
// Asking again gives the same address, unless the value has outgrown what is mapped there.
//
// ENOMEM: it does not fit into this Faaslet's memory, or this Faaslet maps 1,024 parts
// already, or the host has no memory or no mapping left.
func getState(g *Guest, s *state.Session, key string, a *Args) Errno {
	want, ok := access(a.u32(2), int64(a.u32(3)))
	if !ok {
		return EINVAL
	}
	if !g.fits(a.u32(4), 4) || !g.fits(a.u32(5), 4) {
		return EFAULT
	}
	at, size, err := g.window(key, want, 0, -1)
	if err != nil {
		return stateErrno(err)
	}
	g.putU32(a.u32(4), at)
	g.putU32(a.u32(5), uint32(size)) // it fits into memory
	return Success
}

// getStateOffset is getState for part of a value: only the chunks of 64 KiB that cover it
// are pulled and mapped. If it is within what is mapped already, that is where it is.
//
//	flags   as getState's; CREATE makes the value of off+len bytes
//	addr    u32: where the byte at off is
func getStateOffset(g *Guest, s *state.Session, key string, a *Args) Errno {
	off, n := a.i64(3), int64(a.u32(4))
	if !inRange(off, n) {
		return EINVAL
	}
	want, ok := access(a.u32(2), off+n)
	if !ok {
		return EINVAL
	}
	if !g.fits(a.u32(5), 4) {
		return EFAULT
	}
	at, _, err := g.window(key, want, off, n)
	if err != nil {
		return stateErrno(err)
	}
	g.putU32(a.u32(5), at)
	return Success
}

// inRange tells whether any value can have the range.
func inRange(off, n int64) bool {
	return off >= 0 && n >= 0 && off <= global.ValueBytesMax && n <= global.ValueBytesMax-off
}

// setState makes bytes the value on this host, which gets their number as its size. It
// needs no value before.
func setState(g *Guest, s *state.Session, key string, a *Args) Errno {
	b, ok := g.bytes(a.u32(2), a.u32(3))
	if !ok {
		return EFAULT
	}
	return stateErrno(s.Set(key, g.source(key, 0, a.u32(2), b)))
}

// setStateOffset writes within the value on this host.
func setStateOffset(g *Guest, s *state.Session, key string, a *Args) Errno {
	b, ok := g.bytes(a.u32(3), a.u32(4))
	if !ok {
		return EFAULT
	}
	if !inRange(a.i64(2), int64(len(b))) {
		return EINVAL
	}
	return stateErrno(s.SetAt(key, a.i64(2), g.source(key, a.i64(2), a.u32(3), b)))
}

// readStateOffset copies from the value on this host, which is pulled where it is not here.
//
//	n   u32: how many bytes: less than len only at the end of the value
//
// EINVAL: off is beyond the end.
func readStateOffset(g *Guest, s *state.Session, key string, a *Args) Errno {
	b, ok := g.bytes(a.u32(3), a.u32(4))
	if !ok || !g.fits(a.u32(5), 4) {
		return EFAULT
	}
	if !inRange(a.i64(2), 0) {
		return EINVAL
	}
	n, err := s.ReadAt(key, a.i64(2), b)
	if err != nil {
		return stateErrno(err)
	}
	g.putU32(a.u32(5), uint32(n))
	return Success
}

// pushState makes the value on this host the global tier's, as a whole.
func pushState(_ *Guest, s *state.Session, key string, _ *Args) Errno {
	return stateErrno(s.Push(key))
}

// pullState makes the global tier's value that of this host, as of one moment. What was
// written here and not pushed is lost.
func pullState(_ *Guest, s *state.Session, key string, _ *Args) Errno {
	return stateErrno(s.Pull(key))
}

// pushStateOffset pushes what was changed in a range on this host, and no other byte.
func pushStateOffset(_ *Guest, s *state.Session, key string, a *Args) Errno {
	if !inRange(a.i64(2), a.i64(3)) {
		return EINVAL
	}
	return stateErrno(s.PushRange(key, a.i64(2), a.i64(3)))
}

// pullStateOffset pulls a range. What was written in it and not pushed is lost.
func pullStateOffset(_ *Guest, s *state.Session, key string, a *Args) Errno {
	if !inRange(a.i64(2), a.i64(3)) {
		return EINVAL
	}
	return stateErrno(s.PullRange(key, a.i64(2), a.i64(3)))
}

// pushStateMask pushes the bytes whose byte in another value, the mask, is not zero, and
// makes that all zeroes here.
func pushStateMask(g *Guest, s *state.Session, key string, a *Args) Errno {
	mask, errno := g.key(a.u32(2), a.u32(3))
	if errno != Success {
		return errno
	}
	return stateErrno(s.PushMask(key, mask))
}

// pushStateMerge combines what was changed here with the global tier's value, element by
// element, so that hosts that do so at the same time lose nothing of each other's. The
// value here stays as it is.
//
//	type   1 i32, 2 i64, 3 f32, 4 f64: what the value consists of
//	op     1 sum: adds what was added here since the last push, merge or pull
//	       2 min, 3 max: of the elements that were changed here
func pushStateMerge(_ *Guest, s *state.Session, key string, a *Args) Errno {
	element, op := a.u32(2), a.u32(3)
	if element < uint32(global.Int32) || element > uint32(global.Float64) || op < uint32(global.Sum) || op > uint32(global.Max) {
		return EINVAL
	}
	return stateErrno(s.Merge(key, global.Element(element), global.Op(op)))
}

// appendState adds an element at the end of the key's list in the global tier. The list is
// no part of the value, and needs none.
//
// EFBIG: more than 16 MiB.
func appendState(g *Guest, s *state.Session, key string, a *Args) Errno {
	b, ok := g.bytes(a.u32(2), a.u32(3))
	if !ok {
		return EFAULT
	}
	if len(b) > global.ElementBytesMax {
		return EFBIG
	}
	// A copy: the guest's memory can be others' as well, who write while this is stored.
	return stateErrno(s.Append(key, append([]byte(nil), b...)))
}

// readAppendedState copies elements of the key's list, each after its length, a u32.
//
//	first, n   which: n from the index first on, as far as there are. A list that is not
//	           there has none
//	buf, cap   where to, and at most how many bytes
//	size       u32: how many bytes they are with their lengths, whether they fitted or not
//
// EFBIG: the size exceeds 32 bits.
func readAppendedState(g *Guest, s *state.Session, key string, a *Args) Errno {
	first, n, sizeAt := int64(a.u32(2)), int64(a.u32(3)), a.u32(6)
	out, ok := g.bytes(a.u32(4), a.u32(5))
	if !ok || !g.fits(sizeAt, 4) {
		return EFAULT
	}
	var size int64
	count, bytes, err := s.StatList(key)
	if first == 0 && n >= count && len(out) == 0 {
		size = bytes + 4*count // without reading what there is no room for
	} else if err == nil {
		put := func(b []byte) {
			out = out[copy(out, b):]
			size += int64(len(b))
		}
		err = readElements(s, key, first, n, func(element []byte) bool {
			put(le.AppendUint32(nil, uint32(len(element))))
			put(element)
			return size <= math.MaxUint32
		})
	}
	if err != nil {
		return stateErrno(err)
	}
	if size > math.MaxUint32 {
		return EFBIG
	}
	g.putU32(sizeAt, uint32(size))
	return Success
}

// elementsBytes bounds how much of a list is in the host's memory for a guest at a time,
// but for single elements.
const elementsBytes = 1 << 20

// readElements gives each the elements of the key's list, n from the index first on, as
// far as there are, until it returns false.
func readElements(s *state.Session, key string, first, n int64, each func([]byte) bool) error {
	for n > 0 {
		elements, err := s.ReadList(key, first, int(n), elementsBytes)
		if err != nil || len(elements) == 0 {
			return err
		}
		for _, e := range elements {
			if !each(e) {
				return nil
			}
		}
		first, n = first+int64(len(elements)), n-int64(len(elements))
	}
	return nil
}

// clearAppendedState forgets the key's list. It is no error if there is none.
func clearAppendedState(_ *Guest, s *state.Session, key string, _ *Args) Errno {
	return stateErrno(s.ClearList(key))
}

// deleteState forgets the value in both tiers, its published versions and its list. Who
// has it mapped keeps what is mapped, which belongs to no value any more.
func deleteState(_ *Guest, s *state.Session, key string, _ *Args) Errno {
	return stateErrno(s.Delete(key))
}

// publishState pushes what was changed here and makes the value, as it is then, an
// immutable version that get_state finds with PUBLISHED. The latest two are kept.
func publishState(_ *Guest, s *state.Session, key string, _ *Args) Errno {
	_, err := s.Publish(key)
	return stateErrno(err)
}

// flagStateDirty says that a range was written through a pointer. The host finds such
// writes by itself; what is flagged is pushed even if it is as it was.
func flagStateDirty(_ *Guest, s *state.Session, key string, a *Args) Errno {
	if !inRange(a.i64(2), a.i64(3)) {
		return EINVAL
	}
	return stateErrno(s.FlagDirty(key, a.i64(2), a.i64(3)))
}

// lockState waits for the key's lock on this host: any number of Faaslets may have it to
// read, or one to write. It is let go of by unlock_state, or when the Faaslet ends. It
// needs no value, and keeps nobody from the value who does not ask for the lock.
//
// EDEADLK: this Faaslet has it. ENOLCK: it has 1,024 others.
func lockState(mode global.LockMode) func(*Guest, *state.Session, string, *Args) Errno {
	return func(_ *Guest, s *state.Session, key string, _ *Args) Errno {
		return stateErrno(s.Lock(key, mode))
	}
}

// unlockState lets go of the key's lock on this host. EPERM: this Faaslet does not have it.
func unlockState(_ *Guest, s *state.Session, key string, _ *Args) Errno {
	return stateErrno(s.Unlock(key))
}

// lockStateGlobal waits for the key's lock among all hosts. While this Faaslet has it,
// what it pushes, merges, publishes or deletes of the key is refused with ESTALE should the
// lock have been lost. It pulls and pushes nothing by itself.
//
//	timeout_ns   how long at most; 0: only if it is free; negative: as long as the call may
//
// ETIMEDOUT: it was not to be had in time. EDEADLK, ENOLCK: as lockState.
func lockStateGlobal(mode global.LockMode) func(*Guest, *state.Session, string, *Args) Errno {
	return func(_ *Guest, s *state.Session, key string, a *Args) Errno {
		return stateErrno(s.LockGlobal(key, mode, time.Duration(a.i64(2))))
	}
}

// unlockStateGlobal lets go of the key's lock among all hosts. EPERM: this Faaslet does not
// have it. ESTALE: it had been lost; what was changed since it was got may have been done
// beside others.
func unlockStateGlobal(_ *Guest, s *state.Session, key string, _ *Args) Errno {
	return stateErrno(s.UnlockGlobal(key))
}
