package global

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"unicode/utf8"
)

const (
	// ChunkBytes is the least that Patch and Merge are atomic in, from multiples of it on:
	// a store may keep values in larger chunks.
	ChunkBytes = 64 << 10

	// ValueBytesMax is how large a value may be, in bytes: 1 TiB.
	ValueBytesMax = 1 << 40

	// ElementBytesMax is how large an element of an append list may be, in bytes.
	ElementBytesMax = 16 << 20

	// TenantBytesMax and NameBytesMax bound the parts of a key, in bytes.
	TenantBytesMax = 255
	NameBytesMax   = 1024

	// PublishedKept is how many published versions of a key are kept.
	PublishedKept = 2
)

var (
	// ErrNotFound is returned where there is no value, or no such published version.
	ErrNotFound = errors.New("there is no such value")
	// ErrVersion is returned where a condition on the version does not hold.
	ErrVersion = errors.New("the value is not at the version that was named")
	// ErrFenced is returned for a change that names the token of a lease that is over:
	// unlocked, or run out and the lock given to another.
	ErrFenced = errors.New("the lease that the change relies on is over")
	// ErrTimeout is returned by Lock when its context's deadline comes first.
	ErrTimeout = errors.New("the lock was not to be had in time")
	// ErrLeaseLost is returned by Unlock for a lease that had run out.
	ErrLeaseLost = errors.New("the lease has run out")
	// ErrConflict is returned when a value changed so often that an operation on it could
	// not be completed in a number of attempts. Nothing is changed.
	ErrConflict = errors.New("the value changes too often")
	// ErrUnavailable is returned when the store does not answer, or not in time. A change
	// may or may not have taken effect, or take effect a little later.
	ErrUnavailable = errors.New("the global tier does not answer")
	// ErrFull is returned when the store has no room. Nothing is changed.
	ErrFull = errors.New("the global tier is full")
	// ErrDamaged is returned for what is stored and cannot be read.
	ErrDamaged = errors.New("the global tier is damaged")
	// ErrInvalid is returned for arguments that make no sense. Nothing is changed.
	ErrInvalid = errors.New("invalid argument")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("the global tier is closed")
)

// Key names a value. Both parts are UTF-8, and neither is empty.
type Key struct {
	Tenant string // at most TenantBytesMax
	Name   string // at most NameBytesMax; any bytes that are UTF-8
}

func (k Key) String() string { return fmt.Sprintf("%q of tenant %q", k.Name, k.Tenant) }

// Validate returns ErrInvalid for what is no key.
func (k Key) Validate() error {
	if err := validateTenant(k.Tenant); err != nil {
		return err
	}
	if len(k.Name) == 0 || len(k.Name) > NameBytesMax || !utf8.ValidString(k.Name) {
		return fmt.Errorf("%w: name of %d bytes is not UTF-8 of 1 to %d", ErrInvalid, len(k.Name), NameBytesMax)
	}
	return nil
}

func validateTenant(tenant string) error {
	if len(tenant) == 0 || len(tenant) > TenantBytesMax || !utf8.ValidString(tenant) {
		return fmt.Errorf("%w: tenant of %d bytes is not UTF-8 of 1 to %d", ErrInvalid, len(tenant), TenantBytesMax)
	}
	return nil
}

// Info describes a value, or a published version of one.
type Info struct {
	Version    uint64 // never 0
	Size       int64  // in bytes
	ChunkBytes int64  // what Patch and Merge are atomic in
}

// Entry is a key in a listing. It has a value, a list, or both.
type Entry struct {
	Name      string
	Info      Info  // zero if it has no value
	ListLen   int64 // elements
	ListBytes int64
	Published []uint64 // versions, oldest first
}

// Usage is what a tenant has stored. Bytes counts the size of each value, of each of its
// published versions, and of the elements of lists: an upper bound of what is stored,
// for a published version shares with its value what has not changed since.
type Usage struct {
	Bytes int64
	Keys  int64
}

// Condition says when a change may be made. The zero value is always. A change that is
// refused has changed nothing.
type Condition struct {
	// IfVersion is the version that the value must have, or 0; ErrVersion otherwise.
	IfVersion uint64
	// IfAbsent says that there must be no value; ErrVersion otherwise. Only for Write.
	IfAbsent bool
	// Fence is the token of a lease of the key's lock, or 0; ErrFenced if it has been
	// unlocked or a later token was given out.
	Fence uint64
}

// A Lender is a source of Write that is in memory already. What it lends is sent from where
// it is: to copy 1 MiB takes as long as to send it.
type Lender interface {
	io.ReaderAt

	// Lend appends to pieces those that make up [off, off+n), which is within the source,
	// and returns a mark for Kept. The pieces stay readable until Write returns, but
	// others may change them at any time.
	Lend(pieces [][]byte, off, n int64) (_ [][]byte, mark uint64)

	// Kept tells whether all that was lent at that mark is as it was when it was lent, and
	// so what ReadAt returns. Once it is not it never will be.
	Kept(mark uint64) bool
}

// Range is bytes to put at an offset of a value.
type Range struct {
	Offset int64
	Data   []byte
}

// Swept is what Sweep deleted.
type Swept struct {
	Chunks  int64
	Writers int64 // registrations that had run out
}

// Moved counts the bytes of values and list elements that went to the store and came
// from it, without keys, commands or other overhead. They only grow.
type Moved struct {
	Sent     uint64
	Received uint64
}

// A Store is the global tier. It is safe for concurrent use.
//
// Every method returns ErrInvalid for arguments outside the bounds named in this
// package, ErrUnavailable where the store does not answer in time, ErrDamaged for what
// cannot be read, ErrClosed after Close, and the cause of its context if that ends first;
// errors are wrapped with the operation and the key. Unless a method says otherwise, an
// error other than ErrUnavailable and the end of the context means that nothing has
// changed. A caller's buffers are not used after the method has returned, whatever it
// returned.
type Store interface {
	// Stat describes the value. ErrNotFound if there is none.
	Stat(ctx context.Context, key Key) (Info, error)

	// Read fills dst with the value's bytes from off, which is not negative, and returns
	// how many there were: fewer than len(dst) only at the end of the value, and then
	// without an error. All are of the version that it returns. An empty dst is a Stat.
	//
	// ErrNotFound if there is no value. ErrConflict if the value was replaced faster
	// than it could be read. After an error the content of dst is undefined.
	Read(ctx context.Context, key Key, off int64, dst []byte) (int, Info, error)

	// Write makes the size bytes of src the value, at once for every reader, and
	// durable as the package says. It reads src in pieces, more than one at a time, and
	// a piece of a Lender again if it has changed. A nil src stands for zeroes, which take
	// no room.
	//
	// ErrVersion, ErrFenced: see Condition. An error of src is returned.
	Write(ctx context.Context, key Key, size int64, src io.ReaderAt, c Condition) (Info, error)

	// Patch puts the ranges into the value, where they overlap the later over the
	// earlier, and leaves the other bytes alone. A range that ends beyond the value
	// makes it longer, with zeroes in between. It is atomic for each chunk, and as a
	// whole if c.IfVersion is set. Without any range it is a Stat.
	//
	// ErrNotFound if there is no value. After another error than those of the condition,
	// some chunks may have been patched.
	Patch(ctx context.Context, key Key, ranges []Range, c Condition) (Info, error)

	// Merge combines the elements of operand, little-endian, with those of the value from
	// off: each becomes op(itself, operand's). Offset and length are multiples of the
	// element's size, and within the value. Sums of integers wrap around. It is atomic
	// for each chunk, and as a whole if c.IfVersion is set.
	//
	// ErrNotFound if there is no value, ErrInvalid if the range is not within it. After
	// another error than those of the condition, some chunks may have been merged.
	Merge(ctx context.Context, key Key, off int64, e Element, op Op, operand []byte, c Condition) (Info, error)

	// Delete forgets the value, its published versions and the list. ErrNotFound if there
	// is neither value nor list. A condition on the version is one on the value.
	Delete(ctx context.Context, key Key, c Condition) error

	// List returns the tenant's keys that begin with prefix and come after the name
	// after, in order of their bytes, at most limit, which is 1 to 10,000.
	List(ctx context.Context, tenant, prefix, after string, limit int) ([]Entry, error)

	// Usage returns what the tenant has stored. It changes in one step with what it counts.
	Usage(ctx context.Context, tenant string) (Usage, error)

	// Append adds an element at the end of the key's list, made if need be, and returns
	// its index, counted from 0 since the list was last cleared.
	Append(ctx context.Context, key Key, element []byte) (int64, error)

	// ReadList returns up to n elements from the index first, as of one moment: as many
	// as have bytesMax bytes together, but at least one if there is one. A list that is
	// not there has no elements.
	ReadList(ctx context.Context, key Key, first int64, n int, bytesMax int64) ([][]byte, error)

	// StatList returns how many elements the list has, and how many bytes they have.
	StatList(ctx context.Context, key Key) (n, bytes int64, err error)

	// ClearList forgets the list. It is no error if there is none.
	ClearList(ctx context.Context, key Key) error

	// Publish makes the value's present version a published one, and returns it. If it
	// already is, nothing changes. Of more than PublishedKept the oldest is forgotten.
	// ErrNotFound if there is no value.
	Publish(ctx context.Context, key Key, c Condition) (Info, error)

	// Published describes the latest published version. ErrNotFound if there is none.
	Published(ctx context.Context, key Key) (Info, error)

	// ReadPublished is Read for a published version, or for the latest if version is 0.
	ReadPublished(ctx context.Context, key Key, version uint64, off int64, dst []byte) (int, Info, error)

	// Unpublish forgets a published version. ErrNotFound if there is none.
	Unpublish(ctx context.Context, key Key, version uint64) error

	// Lock waits for the key's lock and returns the lease. It needs no value. Any number
	// may hold it to Read, or one to Write; who waits is served in the order of arrival,
	// so nobody starves. The holder is renewed until Unlock or Close.
	//
	// ErrTimeout if the deadline of ctx comes first, whatever the reason; the lock is
	// then not held, or will be let go of by itself.
	Lock(ctx context.Context, key Key, mode LockMode) (*Lease, error)

	// Sweep deletes chunks that no manifest names, of writers that crashed. It goes
	// through all that is stored, so run it rarely, from any host.
	Sweep(ctx context.Context) (Swept, error)

	// Moved returns how much this Store has moved since it was opened.
	Moved() Moved

	// Close gives up the leases, waits for what runs in the background, and lets go of
	// the store. Operations that still run get ErrClosed or ErrUnavailable.
	Close() error
}

// traffic is what is behind Moved.
type traffic struct {
	sent, received atomic.Uint64
}

func (t *traffic) Moved() Moved {
	return Moved{Sent: t.sent.Load(), Received: t.received.Load()}
}

const listLimitMax = 10_000

// validateRange checks an offset and a length, whose sum it keeps from wrapping.
func validateRange(off, n int64) error {
	if off < 0 || off > ValueBytesMax || n > ValueBytesMax-off {
		return fmt.Errorf("%w: range of %d bytes at %d is not within 0 and %d", ErrInvalid, n, off, int64(ValueBytesMax))
	}
	return nil
}

// validateRead checks what Read is given. An offset beyond every value is no mistake.
func validateRead(key Key, off int64) error {
	if err := key.Validate(); err != nil {
		return err
	}
	if off < 0 {
		return fmt.Errorf("%w: offset %d is negative", ErrInvalid, off)
	}
	return nil
}

func validateWrite(key Key, size int64, c Condition) error {
	if err := key.Validate(); err != nil {
		return err
	}
	if c.IfAbsent && c.IfVersion != 0 {
		return fmt.Errorf("%w: condition wants version %d and no value", ErrInvalid, c.IfVersion)
	}
	if size < 0 {
		return fmt.Errorf("%w: size %d is negative", ErrInvalid, size)
	}
	return validateRange(0, size)
}

// validateChange checks a key and a condition of what changes a value that is there.
func validateChange(key Key, c Condition) error {
	if err := key.Validate(); err != nil {
		return err
	}
	if c.IfAbsent {
		return fmt.Errorf("%w: condition wants no value to change", ErrInvalid)
	}
	return nil
}

func validatePatch(key Key, ranges []Range, c Condition) error {
	if err := validateChange(key, c); err != nil {
		return err
	}
	for _, r := range ranges {
		if err := validateRange(r.Offset, int64(len(r.Data))); err != nil {
			return err
		}
	}
	return nil
}

func validateMerge(key Key, off int64, e Element, op Op, operand []byte, c Condition) error {
	if err := validateChange(key, c); err != nil {
		return err
	}
	if e.size() == 0 || op < Sum || op > Max {
		return fmt.Errorf("%w: merge of type %d with operation %d", ErrInvalid, e, op)
	}
	if err := validateRange(off, int64(len(operand))); err != nil {
		return err
	}
	if off%int64(e.size()) != 0 || len(operand)%e.size() != 0 {
		return fmt.Errorf("%w: %d bytes at %d are not whole elements of %d", ErrInvalid, len(operand), off, e.size())
	}
	return nil
}

func validateList(tenant string, limit int) error {
	if err := validateTenant(tenant); err != nil {
		return err
	}
	if limit < 1 || limit > listLimitMax {
		return fmt.Errorf("%w: limit %d is not in 1 to %d", ErrInvalid, limit, listLimitMax)
	}
	return nil
}

func validateAppend(key Key, element []byte) error {
	if err := key.Validate(); err != nil {
		return err
	}
	if len(element) > ElementBytesMax {
		return fmt.Errorf("%w: element of %d bytes is larger than %d", ErrInvalid, len(element), ElementBytesMax)
	}
	return nil
}

func validateReadList(key Key, first int64, n int, bytesMax int64) error {
	if err := key.Validate(); err != nil {
		return err
	}
	if first < 0 || n < 0 || bytesMax < 0 {
		return fmt.Errorf("%w: %d elements from %d of at most %d bytes", ErrInvalid, n, first, bytesMax)
	}
	return nil
}

// piece is part of a range that falls on one chunk.
type piece struct {
	off  int // in the chunk
	data []byte
}

// chunkPatch is what a Patch does to one chunk, in order.
type chunkPatch struct {
	index  int64
	pieces []piece
	end    int // the furthest byte that the pieces reach, in the chunk
}

// splitRanges returns what falls on each chunk, in order of the chunks.
func splitRanges(ranges []Range, chunk int64) []chunkPatch {
	at := make(map[int64]int)
	var out []chunkPatch
	for _, r := range ranges {
		off, data := r.Offset, r.Data
		for len(data) > 0 {
			index, in := off/chunk, off%chunk
			n := min(int64(len(data)), chunk-in)
			i, ok := at[index]
			if !ok {
				i = len(out)
				at[index] = i
				out = append(out, chunkPatch{index: index})
			}
			out[i].pieces = append(out[i].pieces, piece{int(in), data[:n]})
			out[i].end = max(out[i].end, int(in+n))
			off, data = off+n, data[n:]
		}
	}
	slices.SortFunc(out, func(a, b chunkPatch) int { return cmp.Compare(a.index, b.index) })
	return out
}

// chunksOf returns how many chunks a value of size bytes has.
func chunksOf(size, chunk int64) int64 {
	return (size + chunk - 1) / chunk
}
