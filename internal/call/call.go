// Package call holds what a call is: its request, its life, its result, and the
// durable log that remembers asynchronous calls across a crash.
//
// It does not decide where or when a call runs (sched does) nor run it (faaslet
// does). It imports no package of this project but boltfile, so that every layer can
// speak of calls.
//
// A live call is a Call, found by its ID in the Table; what becomes of an asynchronous
// one is also in the Log; what any of them prints is in the LogBuffer. Lock order: a
// shard of a Table, then a Call. No lock is held while a function given to OnCancel or
// OnDone runs.
package call

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// ID names a call for ever, on every host. The first six bytes are the Unix time in
// milliseconds, big-endian, so that IDs sort by age; the other ten are random.
type ID [16]byte

// NewID returns a fresh ID.
func NewID() ID { return NewIDAt(time.Now()) }

// NewIDAt is NewID for who knows the time.
func NewIDAt(now time.Time) ID {
	var id ID
	rand.Read(id[:]) // crypto/rand.Read never fails since Go 1.24
	ms := uint64(now.UnixMilli())
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	return id
}

// ErrBadID is returned by ParseID.
var ErrBadID = errors.New("a call id is 32 hexadecimal digits")

// ParseID reads the form that String writes.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 32 {
		return id, fmt.Errorf("%q: %w", s, ErrBadID)
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return id, fmt.Errorf("%q: %w", s, ErrBadID)
	}
	return id, nil
}

// String is 32 hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// IsZero tells whether id names no call (the parent of an outermost call).
func (id ID) IsZero() bool { return id == ID{} }

// Outcome is how a call ended. The numbers are part of the host interface (the kind
// that await_call reports), and never change.
type Outcome uint32

const (
	Returned         Outcome = 0 // the function returned or exited; see ReturnCode
	Trapped          Outcome = 1
	DeadlineExceeded Outcome = 2
	Cancelled        Outcome = 3
	MemoryLimit      Outcome = 4 // died after its memory was refused growth
	NoSuchFunction   Outcome = 5
	HostLost         Outcome = 6
	Refused          Outcome = 7 // the host was overloaded; the call never ran
	outcomeCount             = 8
)

var outcomeNames = [outcomeCount]string{
	"returned", "trapped", "deadline", "cancelled", "memory-limit",
	"no-such-function", "host-lost", "refused",
}

// String is the name used in JSON and on the command line.
func (o Outcome) String() string {
	if o < outcomeCount {
		return outcomeNames[o]
	}
	return fmt.Sprintf("outcome(%d)", uint32(o))
}

// ParseOutcome reads the form that String writes.
func ParseOutcome(s string) (Outcome, error) {
	for i, name := range outcomeNames {
		if name == s {
			return Outcome(i), nil
		}
	}
	return 0, fmt.Errorf("unknown outcome %q", s)
}

// MarshalText writes the outcome's name.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText reads the outcome's name.
func (o *Outcome) UnmarshalText(b []byte) error {
	v, err := ParseOutcome(string(b))
	*o = v
	return err
}

// Entry says where in the module a call begins.
type Entry struct {
	// Table is true for a call of a function by its index in the module's table
	// (chain_func); else the module's own entry point is called.
	Table bool
	Index uint32 // index into table 0 if Table; else upstream's "idx" of 2020
}

// Request is what is asked for. It is immutable once the call is submitted.
type Request struct {
	ID       ID
	Parent   ID // zero for an outermost call
	Tenant   string
	Function string
	Entry    Entry
	Input    []byte
	Accepted time.Time
	Deadline time.Time // zero: the function's own timeout, counted from the start of its run
	Attempt  int       // 1 for the first run; higher after a crash of the host
	Async    bool      // durable: recorded before it was acknowledged
}

// Usage is what a call cost.
type Usage struct {
	Queued     time.Duration // from acceptance to the start of its run
	Start      time.Duration // making the fresh Faaslet: region, instance, entry point
	Wall       time.Duration // from the start of its run to its end, waiting included
	CPU        time.Duration // thread time spent in guest code and in its host calls' C part
	MemoryPeak uint64        // bytes of linear memory at the end (linear memory never shrinks)
	HostCalls  uint64
	PagesDirty uint64 // 4 KiB pages written; 0 where not measured
}

// Frame is one frame of a trap's backtrace, innermost first.
type Frame struct {
	FuncIndex uint32 `json:"funcIndex"`
	FuncName  string `json:"funcName,omitempty"`
	Offset    uint64 `json:"offset"` // byte offset in the function
}

// Failure tells why a call did not return. It is written for the function's author.
type Failure struct {
	Message   string  `json:"message"`
	Backtrace []Frame `json:"backtrace,omitempty"`
}

// Result is how a call ended, written once.
type Result struct {
	Outcome    Outcome
	ReturnCode int32 // of Returned
	Output     []byte
	Failure    *Failure // nil for Returned
	Usage      Usage
	Started    time.Time // zero if it never ran
	Finished   time.Time
	Version    string // the function version that ran; empty if none did
}
