package call

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/faasm-go/faasm/internal/boltfile"
)

// logFormat is the version of the file, in the meta bucket under keyFormat.
const logFormat = 1

// The buckets of the file. IDs are 16 bytes, and so sorted by age.
var (
	bucketMeta      = []byte("faasm call log") // keyFormat → logFormat, big-endian uint32
	bucketCalls     = []byte("calls")          // ID → storedRequest
	bucketInputs    = []byte("inputs")         // ID → input, unless empty; until finished
	bucketPending   = []byte("pending")        // ID → storedPending; until finished
	bucketResults   = []byte("results")        // ID → storedResult
	bucketOutputs   = []byte("outputs")        // ID → output, unless empty
	bucketFunctions = []byte("functions")      // functionPrefix, ID → nothing
	bucketFinished  = []byte("finished")       // Unix ms when recorded, big-endian, ID → nothing

	keyFormat = []byte("format")
)

var logFile = boltfile.Kind{
	MetaBucket: bucketMeta, FormatKey: keyFormat, Format: logFormat,
	Buckets: [][]byte{bucketCalls, bucketInputs, bucketPending,
		bucketResults, bucketOutputs, bucketFunctions, bucketFinished},
	ErrLocked: ErrLocked, ErrForeign: ErrForeign, ErrDamaged: ErrDamaged,
}

const (
	// A commit takes all that has queued, up to these bounds, which keep one commit
	// from making a small call wait behind very many large ones.
	commitChangesMax = 4096
	commitBytesMax   = 32 << 20

	// sweepBatch is how many calls one change of a sweep deletes. Those who share the
	// commit wait for it, some milliseconds.
	sweepBatch = 256

	// logNameMax bounds tenant and function names, in bytes, far below what a key of
	// the functions bucket may have.
	logNameMax = 4096

	// logValueMax is the largest input or output, in bytes, that bbolt stores.
	logValueMax = math.MaxInt32 - 1
)

var (
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("the call log is closed")
	// ErrLocked is returned for a file that another process has open.
	ErrLocked = errors.New("another process has the call log open")
	// ErrForeign is returned for a file that is no call log, or of another format.
	ErrForeign = errors.New("not a call log of this host's format")
	// ErrAttemptsSpent is returned for a call that will not run again.
	ErrAttemptsSpent = errors.New("the call has used up its attempts")
)

// LogOptions are how a Log behaves. The zero value is ready for use.
type LogOptions struct {
	Retention   time.Duration // a finished call is kept this long; zero: 24 hours
	AttemptsMax int           // runs a call is given, over crashes of the host; zero: 3
}

// Validate returns an error for values that make no sense.
func (o LogOptions) Validate() error {
	if o.Retention < 0 {
		return fmt.Errorf("call log retention %v is below zero", o.Retention)
	}
	if o.AttemptsMax < 0 || o.AttemptsMax > math.MaxInt32-1 {
		return fmt.Errorf("call log attempts %d are not in [0, %d]", o.AttemptsMax, math.MaxInt32-1)
	}
	return nil
}

// Log is the durable record of asynchronous calls, in one bbolt file: what was
// accepted, what became of it, and so what is still to be done after a crash. What a
// method reported as done survives the death of the process and of the machine.
//
// Changes from any number of goroutines go through one committer, which writes all
// that have queued in one transaction: each waits for one fsync, or for the rest of
// the one before and its own, however many they are. A change is waited for even when
// its context ends meanwhile, for its answer must be known.
//
// A change that fails because of the disk (full, broken) says so, and is not
// acknowledged; it may or may not be found in the log later. The log stays usable.
//
// Records, inputs and outputs carry checksums. bbolt protects only the root of its file
// with one, and panics at damage elsewhere; here that is an error too, ErrDamaged, and
// if it is met in a change, the log takes no more changes. A page that is wiped, cut
// off or overwritten by another is noticed so; links between pages that are changed by
// hand, so that they go in a circle, are not, and can hang bbolt.
//
// The log knows of acceptance and result only. Whether an unfinished call is running
// is known to the Table, so it is Queued here.
type Log struct {
	path string
	opts LogOptions // without zeroes
	db   *bbolt.DB

	changes  chan *change // not buffered: what is sent has been taken by the committer
	closing  chan struct{}
	once     sync.Once
	closed   error // of db.Close; guarded by once
	done     sync.WaitGroup
	poisoned atomic.Pointer[error] // why no more changes are taken, or nil
}

// change is one request to the committer.
type change struct {
	// apply makes the change, or returns why it is refused: a matter of this change
	// alone. What goes wrong in writing is kept in the logTx and fails the commit.
	apply func(*logTx) error
	bytes int // about how much it writes
	err   error
	done  chan struct{} // closed once err is final
}

// OpenLog opens the call log at path, or makes it. Its directory must exist. The
// caller closes it.
//
// It returns ErrLocked if another process has it open, ErrForeign for a file that is
// not a call log of this format, and ErrDamaged for one that cannot be read.
func OpenLog(path string, opts LogOptions) (*Log, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	if opts.Retention == 0 {
		opts.Retention = 24 * time.Hour
	}
	if opts.AttemptsMax == 0 {
		opts.AttemptsMax = 3
	}
	l := &Log{path: path, opts: opts, changes: make(chan *change), closing: make(chan struct{})}
	var err error
	if l.db, err = logFile.Open(path, prepareLog); err != nil {
		return nil, fmt.Errorf("open call log %s: %w", path, err)
	}
	l.done.Go(l.commitAll)
	return l, nil
}

// prepareLog checks the format of the file, or makes the buckets in an empty one.
func prepareLog(db *bbolt.DB) error {
	fresh := false
	err := db.View(func(tx *bbolt.Tx) error {
		meta, err := logFile.Meta(tx)
		if err != nil {
			return err
		}
		if meta == nil {
			fresh = true
			return nil
		}
		format := meta.Get(keyFormat)
		if len(format) != 4 {
			return fmt.Errorf("%w: its format is %d bytes long", ErrDamaged, len(format))
		}
		if err := logFile.CheckFormat(format); err != nil {
			return err
		}
		_, err = newLogTx(tx)
		return err
	})
	if err != nil || !fresh {
		return err
	}
	return db.Update(logFile.Create)
}

// Close waits for the commit that is being made, and closes the file. Changes that
// wait for the next commit get ErrClosed.
func (l *Log) Close() error {
	l.once.Do(func() {
		close(l.closing)
		l.done.Wait()
		if err := l.db.Close(); err != nil {
			l.closed = fmt.Errorf("close call log %s: %w", l.path, err)
		}
	})
	return l.closed
}

// logTx is a transaction on the buckets.
type logTx struct {
	calls, inputs, pending, results, outputs, functions, finished *bbolt.Bucket

	changed bool
	err     error // the first error in writing
}

func newLogTx(tx *bbolt.Tx) (*logTx, error) {
	t := new(logTx)
	for _, b := range [...]struct {
		bucket **bbolt.Bucket
		name   []byte
	}{
		{&t.calls, bucketCalls}, {&t.inputs, bucketInputs}, {&t.pending, bucketPending},
		{&t.results, bucketResults}, {&t.outputs, bucketOutputs},
		{&t.functions, bucketFunctions}, {&t.finished, bucketFinished},
	} {
		if *b.bucket = tx.Bucket(b.name); *b.bucket == nil {
			return nil, fmt.Errorf("%w: it has no bucket %q", ErrDamaged, b.name)
		}
	}
	return t, nil
}

func (t *logTx) put(b *bbolt.Bucket, key, value []byte) {
	t.wrote(b.Put(key, value))
}

func (t *logTx) delete(b *bbolt.Bucket, key []byte) {
	t.wrote(b.Delete(key))
}

// wrote takes note of a write in memory, which bbolt refuses only where it meets
// something that cannot be there: sizes were checked before.
func (t *logTx) wrote(err error) {
	t.changed = true
	if err != nil && t.err == nil {
		t.err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
}

// view runs f in a transaction that reads. What f sees of the file is gone after it.
func (l *Log) view(f func(*logTx) error) error {
	err := logFile.Guard(func() error {
		return l.db.View(func(tx *bbolt.Tx) error {
			t, err := newLogTx(tx)
			if err != nil {
				return err
			}
			return f(t)
		})
	})
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		err = ErrClosed
	}
	if err != nil {
		return fmt.Errorf("call log %s: %w", l.path, err)
	}
	return nil
}

// change has the committer make a change, and waits for it to be on the disk.
func (l *Log) change(ctx context.Context, bytes int, apply func(*logTx) error) error {
	c := &change{apply: apply, bytes: bytes, done: make(chan struct{})}
	select {
	case l.changes <- c:
		<-c.done
	case <-ctx.Done():
		c.err = context.Cause(ctx)
	case <-l.closing:
		c.err = ErrClosed
	}
	if c.err != nil {
		return fmt.Errorf("call log %s: %w", l.path, c.err)
	}
	return nil
}

// commitAll is the committer's goroutine.
func (l *Log) commitAll() {
	var batch []*change
	for {
		select {
		case c := <-l.changes:
			batch = append(batch[:0], c)
		case <-l.closing:
			return
		}
		// Those who were told of the last commit are about to come back with their
		// next change; a step aside lets them, so that they share this commit.
		runtime.Gosched()
		bytes := batch[0].bytes
	gather:
		for len(batch) < commitChangesMax && bytes < commitBytesMax {
			select {
			case c := <-l.changes:
				batch = append(batch, c)
				bytes += c.bytes
			default:
				break gather
			}
		}
		l.commit(batch)
		clear(batch) // lets go of the inputs
	}
}

// commit makes the changes in one transaction and tells those who wait for them.
func (l *Log) commit(batch []*change) {
	err := l.poison()
	if err == nil {
		panicked := true
		err = logFile.Guard(func() error {
			err := l.transact(batch)
			panicked = false
			return err
		})
		if panicked {
			// What bbolt holds in memory is no longer to be trusted with a change.
			l.poisoned.Store(&err)
		}
	}
	for _, c := range batch {
		if err != nil {
			c.err = fmt.Errorf("commit %d changes: %w", len(batch), err)
		}
		close(c.done)
	}
}

// poison returns why no more changes are taken, or nil.
func (l *Log) poison() error {
	if p := l.poisoned.Load(); p != nil {
		return *p
	}
	return nil
}

// transact makes the changes in one transaction. On an error, or a panic, none of them
// has been made, as far as is known.
func (l *Log) transact(batch []*change) error {
	tx, err := l.db.Begin(true)
	if err != nil {
		return err
	}
	// bbolt's Update would, at a panic, read the free list again, and if that panics
	// too, keep its lock for ever. After Commit this does nothing.
	defer tx.Rollback()
	t, err := newLogTx(tx)
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

// functionPrefix is the key in the functions bucket up to the ID. The lengths make it
// the prefix of no other function's keys.
func functionPrefix(tenant, function string) []byte {
	b := make([]byte, 0, 4+len(tenant)+len(function)+len(ID{}))
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(tenant))), tenant...)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(function))), function...)
}

// parseFunctionKey takes a key of the functions bucket apart.
func parseFunctionKey(key []byte) (prefix []byte, tenant, function string, id ID, err error) {
	rest := key
	name := func() string {
		if len(rest) < 2 || len(rest)-2 < int(binary.BigEndian.Uint16(rest)) {
			rest = nil
			return ""
		}
		n := 2 + int(binary.BigEndian.Uint16(rest))
		s := string(rest[2:n])
		rest = rest[n:]
		return s
	}
	tenant = name()
	function = name()
	if len(rest) != len(id) {
		return nil, "", "", ID{}, fmt.Errorf("%w: functions key %x", ErrDamaged, key)
	}
	copy(id[:], rest)
	return key[:len(key)-len(id)], tenant, function, id, nil
}

// Accept records a call that is to be run, and returns once it is on the disk. From
// then on it is Pending until it is finished.
//
// It returns ErrExists, and changes nothing, if the log has a call of that ID.
func (l *Log) Accept(ctx context.Context, req *Request) error {
	switch {
	case req.ID.IsZero():
		return errors.New("accept a call without an id")
	case len(req.Tenant) > logNameMax || len(req.Function) > logNameMax:
		return fmt.Errorf("accept call %s: its tenant's or function's name is longer than %d bytes", req.ID, logNameMax)
	case len(req.Input) > logValueMax:
		return fmt.Errorf("accept call %s: its input of %d bytes is larger than %d", req.ID, len(req.Input), logValueMax)
	}
	// All that can be done before the committer does it is done here.
	r := storedRequest{request: *req, inputBytes: uint64(len(req.Input)), inputSum: checksum(req.ID, req.Input)}
	p := storedPending{attempt: uint64(max(req.Attempt, 1)), tenant: req.Tenant, function: req.Function}
	encoded, pending := r.encode(), p.encode(req.ID)
	index := append(functionPrefix(req.Tenant, req.Function), req.ID[:]...)
	return l.change(ctx, 512+len(req.Input), func(t *logTx) error {
		if t.calls.Get(req.ID[:]) != nil {
			return fmt.Errorf("accept call %s: %w", req.ID, ErrExists)
		}
		t.put(t.calls, req.ID[:], encoded)
		t.put(t.pending, req.ID[:], pending)
		t.put(t.functions, index, nil)
		if len(req.Input) > 0 {
			t.put(t.inputs, req.ID[:], req.Input)
		}
		return nil
	})
}

// Finish records how a call ended, and returns once that is on the disk. The first
// result stays: later ones get ErrFinished, and change nothing. It returns ErrNotFound
// for a call that is not in the log.
func (l *Log) Finish(ctx context.Context, id ID, r *Result) error {
	if len(r.Output) > logValueMax {
		return fmt.Errorf("finish call %s: its output of %d bytes is larger than %d", id, len(r.Output), logValueMax)
	}
	return l.change(ctx, 512+len(r.Output), func(t *logTx) error {
		p, err := t.unfinished(id)
		if err != nil && !errors.Is(err, ErrDamaged) {
			return fmt.Errorf("finish call %s: %w", id, err)
		}
		// With a damaged entry, only the number of the attempt is lost.
		t.finish(id, r, p.attempt)
		return nil
	})
}

// unfinished returns what the pending bucket has for id, or ErrFinished, ErrNotFound
// or ErrDamaged.
func (t *logTx) unfinished(id ID) (storedPending, error) {
	b := t.pending.Get(id[:])
	switch {
	case b != nil:
		return decodePending(id, b)
	case t.calls.Get(id[:]) != nil:
		return storedPending{}, ErrFinished
	}
	return storedPending{}, ErrNotFound
}

// finish records the result of an unfinished call.
func (t *logTx) finish(id ID, r *Result, attempt uint64) {
	s := storedResult{result: *r, attempt: attempt, outputBytes: uint64(len(r.Output)), outputSum: checksum(id, r.Output)}
	t.put(t.results, id[:], s.encode(id))
	if len(r.Output) > 0 {
		t.put(t.outputs, id[:], r.Output)
	}
	// The age that counts for retention is that of the record, for the time in r may
	// be another host's.
	t.put(t.finished, append(binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixMilli())), id[:]...), nil)
	t.delete(t.pending, id[:])
	t.delete(t.inputs, id[:])
}

// Retry takes note, durably, that an unfinished call is about to run again after the
// host crashed, and returns its request with the number of the new attempt. When all
// the attempts it is given are used up, Retry finishes the call with HostLost and
// returns ErrAttemptsSpent: a call that brings the host down must not do so for ever.
//
// It is best called when the call leaves the queue, not when it is put back into it:
// a call that only waited while others brought the host down then keeps its attempts.
//
// It returns ErrFinished, ErrNotFound, or ErrDamaged if the call cannot be read; it
// may still be finished then.
func (l *Log) Retry(ctx context.Context, id ID) (*Request, error) {
	var req *Request
	err := l.change(ctx, 512, func(t *logTx) error {
		p, err := t.unfinished(id)
		if err != nil {
			return err
		}
		if p.attempt >= uint64(l.opts.AttemptsMax) {
			t.finish(id, &Result{
				Outcome:  HostLost,
				Failure:  &Failure{Message: fmt.Sprintf("the host crashed %d times while this call ran", p.attempt)},
				Finished: time.Now(),
			}, p.attempt)
			return ErrAttemptsSpent
		}
		p.attempt++
		if req, err = t.request(id, p.attempt); err != nil {
			return err
		}
		t.put(t.pending, id[:], p.encode(id))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("retry call %s: %w", id, err)
	}
	return req, nil
}

// request reads the whole request of an unfinished call.
func (t *logTx) request(id ID, attempt uint64) (*Request, error) {
	b := t.calls.Get(id[:])
	if b == nil {
		return nil, fmt.Errorf("%w: call %s is pending without a request", ErrDamaged, id)
	}
	s, err := decodeRequest(id, b)
	if err != nil {
		return nil, err
	}
	input := t.inputs.Get(id[:])
	if uint64(len(input)) != s.inputBytes || checksum(id, input) != s.inputSum {
		return nil, fmt.Errorf("%w: the input of call %s is not the one accepted", ErrDamaged, id)
	}
	req := s.request
	req.Attempt = int(attempt)
	req.Input = bytes.Clone(input)
	return &req, nil
}

// Pending returns the calls that were accepted and have no result, oldest first, each
// with the attempt it has come to. It is for the start of a host, which queues them
// again; calls accepted after Pending began are not in it. No transaction is open
// while the loop's body runs, which may change the log.
//
// A call that cannot be read comes as an error that tells its ID, and the others
// follow. They do not where the file itself can be read no further.
func (l *Log) Pending() iter.Seq2[*Request, error] {
	return func(yield func(*Request, error) bool) {
		var last []byte
		err := l.view(func(t *logTx) error {
			last, _ = t.pending.Cursor().Last()
			last = bytes.Clone(last)
			return nil
		})
		if err != nil {
			yield(nil, err)
			return
		}
		for key := []byte{}; bytes.Compare(key, last) < 0; {
			var req *Request
			stuck := true
			err := l.view(func(t *logTx) error {
				c := t.pending.Cursor()
				k, v := c.Seek(key)
				if bytes.Equal(k, key) {
					k, v = c.Next()
				}
				if k == nil || bytes.Compare(k, last) > 0 {
					key, stuck = last, false
					return nil
				}
				if bytes.Compare(k, key) <= 0 { // going on could go in a circle
					return fmt.Errorf("%w: pending key %x follows %x", ErrDamaged, k, key)
				}
				key, stuck = bytes.Clone(k), false
				id, err := idOf(k)
				if err != nil {
					return err
				}
				p, err := decodePending(id, v)
				if err != nil {
					return err
				}
				req, err = t.request(id, p.attempt)
				return err
			})
			if err != nil || req != nil {
				if !yield(req, err) || stuck {
					return
				}
			}
		}
	}
}

func idOf(key []byte) (ID, error) {
	if len(key) != len(ID{}) {
		return ID{}, fmt.Errorf("%w: key %x is no call id", ErrDamaged, key)
	}
	return ID(key), nil
}

// record reads what is known of a call, but for its input and output.
func (t *logTx) record(id ID) (Record, error) {
	b := t.calls.Get(id[:])
	if b == nil {
		return Record{}, fmt.Errorf("call %s: %w", id, ErrNotFound)
	}
	req, err := decodeRequest(id, b)
	if err != nil {
		return Record{}, err
	}
	r := Record{Request: req.request, InputBytes: int(req.inputBytes), State: Queued}
	if b := t.pending.Get(id[:]); b != nil {
		p, err := decodePending(id, b)
		if err != nil {
			return Record{}, err
		}
		r.Request.Attempt = int(p.attempt)
		return r, nil
	}
	b = t.results.Get(id[:])
	if b == nil {
		return Record{}, fmt.Errorf("%w: call %s is neither pending nor finished", ErrDamaged, id)
	}
	s, err := decodeResult(id, b)
	if err != nil {
		return Record{}, err
	}
	r.State = Done
	r.Request.Attempt = int(s.attempt)
	r.Result = s.result
	r.Started = s.result.Started
	r.OutputBytes = int(s.outputBytes)
	return r, nil
}

// Get returns what is known of a call, or ErrNotFound.
func (l *Log) Get(id ID) (Record, error) {
	var r Record
	err := l.view(func(t *logTx) (err error) {
		r, err = t.record(id)
		return err
	})
	return r, err
}

// Output returns the output of a finished call, or ErrNotFinished or ErrNotFound.
func (l *Log) Output(id ID) ([]byte, error) {
	var output []byte
	err := l.view(func(t *logTx) error {
		if t.pending.Get(id[:]) != nil {
			return fmt.Errorf("output of call %s: %w", id, ErrNotFinished)
		}
		b := t.results.Get(id[:])
		if b == nil {
			return fmt.Errorf("output of call %s: %w", id, ErrNotFound)
		}
		s, err := decodeResult(id, b)
		if err != nil {
			return err
		}
		b = t.outputs.Get(id[:])
		if uint64(len(b)) != s.outputBytes || checksum(id, b) != s.outputSum {
			return fmt.Errorf("%w: the output of call %s is not the one recorded", ErrDamaged, id)
		}
		output = bytes.Clone(b)
		return nil
	})
	return output, err
}

// List returns the calls that f chooses, newest first. It reads no more of the log
// than it returns, but for unfinished calls it passes over, and needs no index but
// the function's: a tenant's calls are merged from those of its functions.
//
// Calls that cannot be read are left out; the first of them is told by an error,
// beside the others.
func (l *Log) List(f Filter) ([]Record, error) {
	var records []Record
	var damage error
	err := l.view(func(t *logTx) error {
		for id, err := range t.newest(f) {
			var r Record
			if err == nil {
				r, err = t.record(id)
			}
			switch {
			case errors.Is(err, ErrNotFound):
				continue // its request was damaged when it was swept, so its index is still there
			case err != nil:
				if damage == nil {
					damage = err
				}
				continue
			case !f.matches(&r.Request, r.State):
				continue
			}
			records = append(records, r)
			if len(records) == f.limit() {
				break
			}
		}
		return nil
	})
	if err == nil && damage != nil {
		err = fmt.Errorf("call log %s: %w", l.path, damage)
	}
	return records, err
}

// highID is above every key that ends in an ID.
var highID = bytes.Repeat([]byte{0xff}, len(ID{})+1)

// descent is a walk through the keys of a bucket that are a prefix and an ID, from the
// newest ID down.
type descent struct {
	cursor *bbolt.Cursor
	prefix []byte
	key    []byte // nil at the end
	value  []byte
}

// descend begins a walk below the ID before, or at the newest if that is zero.
func descend(b *bbolt.Bucket, prefix []byte, before ID) *descent {
	d := &descent{cursor: b.Cursor(), prefix: prefix}
	bound := highID
	if !before.IsZero() {
		bound = before[:]
	}
	if k, _ := d.cursor.Seek(slices.Concat(prefix, bound)); k == nil {
		d.set(d.cursor.Last())
	} else {
		d.next()
	}
	return d
}

func (d *descent) next() { d.set(d.cursor.Prev()) }

func (d *descent) set(key, value []byte) {
	if !bytes.HasPrefix(key, d.prefix) {
		key = nil
	}
	d.key, d.value = key, value
}

// newest returns the IDs of the calls that f may choose, newest first. Errors are
// about single entries.
func (t *logTx) newest(f Filter) iter.Seq2[ID, error] {
	switch {
	case f.State == Running:
		return func(func(ID, error) bool) {}
	case f.State == Queued:
		return t.newestPending(f)
	}
	return func(yield func(ID, error) bool) {
		walks, err := t.walks(f)
		if err != nil && !yield(ID{}, err) {
			return
		}
		for {
			// Functions are few; a heap would earn nothing.
			var d *descent
			for _, w := range walks {
				if w.key != nil && (d == nil || bytes.Compare(w.key[len(w.prefix):], d.key[len(d.prefix):]) > 0) {
					d = w
				}
			}
			if d == nil {
				return
			}
			id, err := idOf(d.key[len(d.prefix):])
			if (f.State == 0 || t.pending.Get(id[:]) == nil) && !yield(id, err) {
				return
			}
			d.next()
		}
	}
}

// newestPending is newest for unfinished calls.
func (t *logTx) newestPending(f Filter) iter.Seq2[ID, error] {
	return func(yield func(ID, error) bool) {
		for d := descend(t.pending, nil, f.Before); d.key != nil; d.next() {
			id, err := idOf(d.key)
			var p storedPending
			if err == nil {
				p, err = decodePending(id, d.value)
			}
			if err == nil && !f.matches(&Request{ID: id, Tenant: p.tenant, Function: p.function}, Queued) {
				continue
			}
			if !yield(id, err) {
				return
			}
		}
	}
}

// walks returns one walk for every function that f may choose, or one through all
// calls. With an error, about an entry of the index, come the others.
func (t *logTx) walks(f Filter) (walks []*descent, damage error) {
	if f.Tenant == "" && f.Function == "" {
		return []*descent{descend(t.calls, nil, f.Before)}, nil
	}
	c := t.functions.Cursor()
	var from []byte
	if f.Tenant != "" {
		from = functionPrefix(f.Tenant, "")
		from = from[:len(from)-2] // without the length of the function's name
	}
	var last []byte
	for k, _ := c.Seek(from); k != nil && bytes.HasPrefix(k, from); {
		if bytes.Compare(k, last) <= 0 { // going on could go in a circle
			return walks, fmt.Errorf("%w: functions key %x follows %x", ErrDamaged, k, last)
		}
		last = k
		prefix, tenant, function, _, err := parseFunctionKey(k)
		if err != nil {
			damage = err
			k, _ = c.Next()
			continue
		}
		if (f.Tenant == "" || f.Tenant == tenant) && (f.Function == "" || f.Function == function) {
			walks = append(walks, descend(t.functions, prefix, f.Before))
		}
		k, _ = c.Seek(slices.Concat(prefix, highID)) // the next function
	}
	return walks, damage
}

// Sweep deletes the calls that finished longer than the retention before now, and
// returns how many. It deletes a bounded number at a time, so that the changes of
// others go on between; on an error, those deleted so far stay deleted.
func (l *Log) Sweep(ctx context.Context, now time.Time) (int, error) {
	cutoff := now.Add(-l.opts.Retention).UnixMilli()
	total := 0
	var first []byte // key of the last batch
	for {
		n := 0
		err := l.change(ctx, sweepBatch*64, func(t *logTx) error {
			var keys [][]byte
			c := t.finished.Cursor()
			for k, _ := c.First(); k != nil && len(keys) < sweepBatch; k, _ = c.Next() {
				if len(k) == 8+len(ID{}) && int64(binary.BigEndian.Uint64(k)) >= cutoff {
					break
				}
				keys = append(keys, bytes.Clone(k))
			}
			if len(keys) > 0 {
				if bytes.Equal(keys[0], first) {
					return fmt.Errorf("%w: finished key %x cannot be deleted", ErrDamaged, first)
				}
				first = keys[0]
			}
			for _, k := range keys {
				t.delete(t.finished, k)
				if len(k) == 8+len(ID{}) {
					t.forget(ID(k[8:]))
				}
			}
			n = len(keys)
			return nil
		})
		if err != nil {
			return total, fmt.Errorf("sweep: %w", err)
		}
		total += n
		if n < sweepBatch {
			return total, nil
		}
	}
}

// forget deletes a finished call.
func (t *logTx) forget(id ID) {
	if b := t.calls.Get(id[:]); b != nil {
		// If the request is damaged, its index entry is not found, and stays; List
		// passes over it.
		if s, err := decodeRequest(id, b); err == nil {
			t.delete(t.functions, append(functionPrefix(s.request.Tenant, s.request.Function), id[:]...))
		}
	}
	for _, b := range [...]*bbolt.Bucket{t.calls, t.inputs, t.results, t.outputs} {
		t.delete(b, id[:])
	}
}
