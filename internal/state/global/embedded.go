package global

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/faasm-go/faasm/internal/boltfile"
)

// embeddedFormat is the version of the file, in the meta bucket under metaFormat.
const embeddedFormat = 1

// The buckets of the file. Numbers are big-endian.
var (
	bucketMeta    = []byte("faasm state")
	bucketKeys    = []byte("keys")    // keyOf → record
	bucketChunks  = []byte("chunks")  // generation, index, epoch → bytes, CRC
	bucketGarbage = []byte("garbage") // generation, number → keyOf: it has chunks that nobody needs
	bucketUsage   = []byte("usage")   // tenant → bytes, keys

	metaFormat = []byte("format")
	metaClock  = []byte("clock") // greater than every number given out so far
)

var embeddedFile = boltfile.Kind{
	MetaBucket: bucketMeta, FormatKey: metaFormat, Format: embeddedFormat,
	Buckets:         [][]byte{bucketKeys, bucketChunks, bucketGarbage, bucketUsage},
	InitialMapBytes: mapBytes,
	ErrLocked:       ErrLocked, ErrForeign: ErrForeign, ErrDamaged: ErrDamaged,
}

const (
	// A commit takes all that has queued, up to these bounds, which keep one commit
	// from making a small change wait behind very many large ones.
	commitChangesMax = 4096
	commitBytesMax   = 32 << 20

	// writeBatch is how many chunks one change of a long Write, Patch or Merge has. They
	// are in memory until it is committed.
	writeBatch = 128

	// collectBatch is how many chunks one change of the collector deletes. Those who
	// share the commit wait for it.
	collectBatch = 256

	// clockBlock is how many numbers one opening of the file may give out. The file says
	// where the next opening begins, so that a number needs no write of its own.
	clockBlock = 1 << 40

	// mapBytes is how much of the file is mapped from the beginning. While the mapping
	// grows, which needs all reads to end first, nothing can be committed.
	mapBytes = 16 << 30
)

var (
	// ErrLocked is returned for a file that another process has open.
	ErrLocked = errors.New("another process has the state file open")
	// ErrForeign is returned for a file that is no state file, or of another format.
	ErrForeign = errors.New("not a state file of this host's format")
)

// Embedded is the global tier in one bbolt file, for one host.
//
// Changes from any number of goroutines go through one committer, which makes all that
// have queued in one transaction: each waits for one fsync, or for the rest of the one
// before and its own. A change is waited for even when its context ends meanwhile, so
// that its buffers can be used again and its answer is known.
//
// A change that fails because of the disk (full, broken) says so, with ErrFull where
// that is the reason; it may or may not be found later. Chunks and records carry
// checksums. What bbolt panics at is ErrDamaged here, and if that is met in a change, the
// store takes no more changes.
//
// Leases live in this process: they do not run out while it runs, and end with it.
type Embedded struct {
	traffic
	path string
	db   *bbolt.DB

	clock    uint64 // the last number given out; the committer's, after open
	clockEnd uint64 // the last that may be

	changes  chan *change // not buffered: what is sent has been taken by the committer
	closing  chan struct{}
	once     sync.Once
	closed   error // of db.Close; guarded by once
	done     sync.WaitGroup
	poisoned atomic.Pointer[error] // why no more changes are taken, or nil

	garbage chan struct{} // of one: there is something for the collector

	// writing has the generations that a Write is storing chunks under; collecting is
	// held while the collector goes through its work, for Sweep to wait for it.
	writing    sync.Map // uint64 → nothing
	collecting sync.Mutex

	locks lockTable
}

// change is one request to the committer.
type change struct {
	// apply makes the change, or returns why it is refused, and then has changed nothing:
	// a matter of this change alone. What goes wrong in writing is kept in the
	// embeddedTx and fails the commit.
	apply func(*embeddedTx) error
	bytes int // about how much it writes
	err   error
	done  chan struct{} // closed once err is final
}

var _ Store = (*Embedded)(nil)

// OpenEmbedded opens the state file at path, or makes it. Its directory must exist. The
// caller closes it.
//
// It returns ErrLocked if another process has it open, ErrForeign for a file that is
// not a state file of this format, and ErrDamaged for one that cannot be read.
func OpenEmbedded(path string) (*Embedded, error) {
	e := &Embedded{
		path: path, changes: make(chan *change), closing: make(chan struct{}), garbage: make(chan struct{}, 1),
	}
	var err error
	if e.db, err = embeddedFile.Open(path, e.prepare); err != nil {
		return nil, fmt.Errorf("open state %s: %w", path, err)
	}
	e.done.Go(e.commitAll)
	e.done.Go(e.collectAll)
	e.noteGarbage() // what the last process left
	return e, nil
}

// prepare checks the format of the file, or makes the buckets in an empty one, and takes
// a block of the clock.
func (e *Embedded) prepare(db *bbolt.DB) error {
	fresh := false
	err := db.View(func(tx *bbolt.Tx) error {
		meta, err := embeddedFile.Meta(tx)
		if err != nil {
			return err
		}
		if meta == nil {
			fresh = true
			return nil
		}
		format, clock := meta.Get(metaFormat), meta.Get(metaClock)
		if len(format) != 4 || len(clock) != 8 {
			return fmt.Errorf("%w: its format is %d bytes long, its clock %d", ErrDamaged, len(format), len(clock))
		}
		if err := embeddedFile.CheckFormat(format); err != nil {
			return err
		}
		e.clock = binary.BigEndian.Uint64(clock)
		_, err = newEmbeddedTx(tx)
		return err
	})
	if err != nil {
		return err
	}
	e.clockEnd = e.clock + clockBlock
	return db.Update(func(tx *bbolt.Tx) error {
		if fresh {
			if err := embeddedFile.Create(tx); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketMeta).Put(metaClock, binary.BigEndian.AppendUint64(nil, e.clockEnd))
	})
}

// Close implements Store. It waits for the commit that is being made; changes that wait
// for the next get ErrClosed.
func (e *Embedded) Close() error {
	e.once.Do(func() {
		close(e.closing)
		e.locks.close()
		e.done.Wait()
		if err := e.db.Close(); err != nil {
			e.closed = fmt.Errorf("close state %s: %w", e.path, err)
		}
	})
	return e.closed
}

// embeddedTx is a transaction on the buckets.
type embeddedTx struct {
	keys, chunks, garbage, usage *bbolt.Bucket

	changed bool
	err     error // the first error in writing
}

func newEmbeddedTx(tx *bbolt.Tx) (*embeddedTx, error) {
	t := new(embeddedTx)
	for _, b := range [...]struct {
		bucket **bbolt.Bucket
		name   []byte
	}{{&t.keys, bucketKeys}, {&t.chunks, bucketChunks}, {&t.garbage, bucketGarbage}, {&t.usage, bucketUsage}} {
		if *b.bucket = tx.Bucket(b.name); *b.bucket == nil {
			return nil, fmt.Errorf("%w: it has no bucket %q", ErrDamaged, b.name)
		}
	}
	return t, nil
}

func (t *embeddedTx) put(b *bbolt.Bucket, key, value []byte) {
	t.wrote(b.Put(key, value))
}

func (t *embeddedTx) delete(b *bbolt.Bucket, key []byte) {
	t.wrote(b.Delete(key))
}

// wrote takes note of a write in memory, which bbolt refuses only where it meets
// something that cannot be there: sizes were checked before.
func (t *embeddedTx) wrote(err error) {
	t.changed = true
	if err != nil && t.err == nil {
		t.err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
}

// view runs f in a transaction that reads. What f sees of the file is gone after it.
func (e *Embedded) view(ctx context.Context, f func(*embeddedTx) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err := embeddedFile.Guard(func() error {
		return e.db.View(func(tx *bbolt.Tx) error {
			t, err := newEmbeddedTx(tx)
			if err != nil {
				return err
			}
			return f(t)
		})
	})
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		return ErrClosed
	}
	return err
}

// change has the committer make a change, and waits for it to be on the disk.
func (e *Embedded) change(ctx context.Context, bytes int, apply func(*embeddedTx) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	c := &change{apply: apply, bytes: bytes, done: make(chan struct{})}
	select {
	case e.changes <- c:
		<-c.done
		return c.err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-e.closing:
		return ErrClosed
	}
}

// commitAll is the committer's goroutine.
func (e *Embedded) commitAll() {
	var batch []*change
	for {
		select {
		case c := <-e.changes:
			batch = append(batch[:0], c)
		case <-e.closing:
			return
		}
		// Those who were told of the last commit are about to come back with their
		// next change; a step aside lets them, so that they share this commit.
		runtime.Gosched()
		bytes := batch[0].bytes
	gather:
		for len(batch) < commitChangesMax && bytes < commitBytesMax {
			select {
			case c := <-e.changes:
				batch = append(batch, c)
				bytes += c.bytes
			default:
				break gather
			}
		}
		e.commit(batch)
		clear(batch) // lets go of the data
	}
}

// commit makes the changes in one transaction and tells those who wait for them.
func (e *Embedded) commit(batch []*change) {
	err := e.poison()
	if err == nil {
		panicked := true
		err = embeddedFile.Guard(func() error {
			err := e.transact(batch)
			panicked = false
			return err
		})
		if panicked {
			// What bbolt holds in memory is no longer to be trusted with a change.
			e.poisoned.Store(&err)
		}
	}
	for _, c := range batch {
		if err != nil {
			c.err = fmt.Errorf("commit %d changes: %w", len(batch), full(err))
		}
		close(c.done)
	}
}

// full adds ErrFull to an error that says so. bbolt does not wrap all that it is told.
func full(err error) error {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EFBIG, syscall.EDQUOT} {
		if errors.Is(err, errno) || strings.Contains(err.Error(), errno.Error()) {
			return fmt.Errorf("%w: %w", ErrFull, err)
		}
	}
	return err
}

// poison returns why no more changes are taken, or nil.
func (e *Embedded) poison() error {
	if p := e.poisoned.Load(); p != nil {
		return *p
	}
	return nil
}

// transact makes the changes in one transaction. On an error, or a panic, none of them
// has been made, as far as is known.
func (e *Embedded) transact(batch []*change) error {
	tx, err := e.db.Begin(true)
	if err != nil {
		return err
	}
	// bbolt's Update would, at a panic, read the free list again, and if that panics
	// too, keep its lock for ever. After Commit this does nothing.
	defer tx.Rollback()
	t, err := newEmbeddedTx(tx)
	if err != nil {
		return err
	}
	for _, c := range batch {
		c.err = c.apply(t)
		if t.err != nil {
			return t.err
		}
	}
	if !t.changed {
		return nil
	}
	return tx.Commit()
}

// tick gives out the next number: versions, generations, epochs and tokens. Only the
// committer calls it.
func (e *Embedded) tick() uint64 {
	if e.clock++; e.clock >= e.clockEnd {
		panic("BUG: the clock of the state file has run through its block")
	}
	return e.clock
}
