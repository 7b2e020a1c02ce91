package call

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"time"
)

// ErrDamaged is returned for bytes in a Log that it cannot have written.
var ErrDamaged = errors.New("the call log is damaged")

// recordVersion begins every record. A record of another version is refused: the
// format of the file as a whole (logFormat) changes with it.
const recordVersion = 1

// Flags of a request.
const (
	flagTable = 1 << iota
	flagAsync
	flagsKnown = 1<<iota - 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum covers the call's ID besides the bytes, so that a record under another
// call's key is damage too.
func checksum(id ID, b []byte) uint32 {
	return crc32.Update(crc32.Checksum(id[:], castagnoli), castagnoli, b)
}

// storedRequest is what the calls bucket holds: written once, when the call is
// accepted. The attempt changes, and is in the pending or the results bucket.
type storedRequest struct {
	request    Request // Input and Attempt are not stored here
	inputBytes uint64
	inputSum   uint32
}

// storedPending is what the pending bucket holds. The names spare a listing of
// unfinished calls from reading their requests.
type storedPending struct {
	attempt  uint64
	tenant   string
	function string
}

// storedResult is what the results bucket holds.
type storedResult struct {
	result      Result // Output is not stored here
	attempt     uint64
	outputBytes uint64
	outputSum   uint32
}

// All records are: version byte, fields, CRC-32C of the call's ID and all before. The
// integers of a field are varints, signed ones in zigzag; strings have their length
// before them; a time is its Unix seconds and nanoseconds, so that the zero time and
// years far away survive.

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendTime(b []byte, t time.Time) []byte {
	return binary.AppendUvarint(binary.AppendVarint(b, t.Unix()), uint64(t.Nanosecond()))
}

func seal(id ID, b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, checksum(id, b))
}

func (s *storedRequest) encode() []byte {
	r := &s.request
	b := append(make([]byte, 0, 96+len(r.Tenant)+len(r.Function)), recordVersion)
	flags := byte(0)
	if r.Entry.Table {
		flags |= flagTable
	}
	if r.Async {
		flags |= flagAsync
	}
	b = append(b, flags)
	b = append(b, r.Parent[:]...)
	b = appendString(b, r.Tenant)
	b = appendString(b, r.Function)
	b = binary.AppendUvarint(b, uint64(r.Entry.Index))
	b = appendTime(b, r.Accepted)
	b = appendTime(b, r.Deadline)
	b = binary.AppendUvarint(b, s.inputBytes)
	b = binary.AppendUvarint(b, uint64(s.inputSum))
	return seal(r.ID, b)
}

func decodeRequest(id ID, b []byte) (storedRequest, error) {
	d := open(id, b)
	var s storedRequest
	r := &s.request
	r.ID = id
	flags := d.byte("flags")
	if flags&^flagsKnown != 0 {
		d.fail("flags", "unknown ones in %#x", flags)
	}
	r.Entry.Table, r.Async = flags&flagTable != 0, flags&flagAsync != 0
	copy(r.Parent[:], d.take("parent", len(r.Parent)))
	r.Tenant = d.string("tenant")
	r.Function = d.string("function")
	r.Entry.Index = uint32(d.uvarint("entry index", math.MaxUint32))
	r.Accepted = d.time("accepted")
	r.Deadline = d.time("deadline")
	s.inputBytes = d.uvarint("input length", math.MaxInt64)
	s.inputSum = uint32(d.uvarint("input checksum", math.MaxUint32))
	if err := d.close(); err != nil {
		return storedRequest{}, fmt.Errorf("decode request of call %s: %w", id, err)
	}
	return s, nil
}

func (s *storedPending) encode(id ID) []byte {
	b := append(make([]byte, 0, 16+len(s.tenant)+len(s.function)), recordVersion)
	b = binary.AppendUvarint(b, s.attempt)
	b = appendString(b, s.tenant)
	b = appendString(b, s.function)
	return seal(id, b)
}

func decodePending(id ID, b []byte) (storedPending, error) {
	d := open(id, b)
	s := storedPending{
		attempt:  d.uvarint("attempt", math.MaxInt32),
		tenant:   d.string("tenant"),
		function: d.string("function"),
	}
	if err := d.close(); err != nil {
		return storedPending{}, fmt.Errorf("decode pending entry of call %s: %w", id, err)
	}
	return s, nil
}

func (s *storedResult) encode(id ID) []byte {
	r := &s.result
	b := append(make([]byte, 0, 160), recordVersion)
	b = binary.AppendUvarint(b, uint64(r.Outcome))
	b = binary.AppendVarint(b, int64(r.ReturnCode))
	if r.Failure == nil {
		b = append(b, 0)
	} else {
		b = append(b, 1)
		b = appendString(b, r.Failure.Message)
		b = binary.AppendUvarint(b, uint64(len(r.Failure.Backtrace)))
		for _, f := range r.Failure.Backtrace {
			b = binary.AppendUvarint(b, uint64(f.FuncIndex))
			b = appendString(b, f.FuncName)
			b = binary.AppendUvarint(b, f.Offset)
		}
	}
	u := &r.Usage
	for _, v := range [...]time.Duration{u.Queued, u.Start, u.Wall, u.CPU} {
		b = binary.AppendVarint(b, int64(v))
	}
	for _, v := range [...]uint64{u.MemoryPeak, u.HostCalls, u.PagesDirty} {
		b = binary.AppendUvarint(b, v)
	}
	b = appendTime(b, r.Started)
	b = appendTime(b, r.Finished)
	b = appendString(b, r.Version)
	b = binary.AppendUvarint(b, s.attempt)
	b = binary.AppendUvarint(b, s.outputBytes)
	b = binary.AppendUvarint(b, uint64(s.outputSum))
	return seal(id, b)
}

func decodeResult(id ID, b []byte) (storedResult, error) {
	d := open(id, b)
	var s storedResult
	r := &s.result
	r.Outcome = Outcome(d.uvarint("outcome", outcomeCount-1))
	r.ReturnCode = int32(d.varint("return code", math.MinInt32, math.MaxInt32))
	switch has := d.byte("failure"); has {
	case 0:
	case 1:
		r.Failure = &Failure{Message: d.string("message")}
		// A frame takes three bytes at least, which bounds what a wrong count allocates.
		n := d.uvarint("frame count", uint64(len(d.b)-d.at)/3)
		if n > 0 {
			r.Failure.Backtrace = make([]Frame, n)
		}
		for i := range r.Failure.Backtrace {
			r.Failure.Backtrace[i] = Frame{
				FuncIndex: uint32(d.uvarint("function index", math.MaxUint32)),
				FuncName:  d.string("function name"),
				Offset:    d.uvarint("offset", math.MaxUint64),
			}
		}
	default:
		d.fail("failure", "%d is neither 0 nor 1", has)
	}
	u := &r.Usage
	for _, v := range [...]*time.Duration{&u.Queued, &u.Start, &u.Wall, &u.CPU} {
		*v = time.Duration(d.varint("usage", math.MinInt64, math.MaxInt64))
	}
	for _, v := range [...]*uint64{&u.MemoryPeak, &u.HostCalls, &u.PagesDirty} {
		*v = d.uvarint("usage", math.MaxUint64)
	}
	r.Started = d.time("started")
	r.Finished = d.time("finished")
	r.Version = d.string("version")
	s.attempt = d.uvarint("attempt", math.MaxInt32)
	s.outputBytes = d.uvarint("output length", math.MaxInt64)
	s.outputSum = uint32(d.uvarint("output checksum", math.MaxUint32))
	if err := d.close(); err != nil {
		return storedResult{}, fmt.Errorf("decode result of call %s: %w", id, err)
	}
	return s, nil
}

// decoder reads the fields of one record. The first thing wrong stays in err, and all
// reads after it return zeroes.
type decoder struct {
	b   []byte // without the checksum
	at  int
	err error
}

// open checks what all records have: the checksum, and the version.
func open(id ID, b []byte) *decoder {
	d := &decoder{b: b}
	if len(b) < 1+4 {
		d.fail("record", "%d bytes are too few", len(b))
		return d
	}
	body := len(b) - 4
	if got, want := checksum(id, b[:body]), binary.BigEndian.Uint32(b[body:]); got != want {
		d.fail("record", "its checksum is %08x, not %08x", got, want)
		return d
	}
	d.b = b[:body]
	if v := d.byte("version"); d.err == nil && v != recordVersion {
		d.at = 0
		d.fail("version", "%d is not %d", v, recordVersion)
	}
	return d
}

func (d *decoder) fail(field, format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s at byte %d: %s", ErrDamaged, field, d.at, fmt.Sprintf(format, args...))
	}
}

// close returns the first error, which may be that there are bytes left.
func (d *decoder) close() error {
	if n := len(d.b) - d.at; n != 0 {
		d.fail("end", "%d bytes are left over", n)
	}
	return d.err
}

func (d *decoder) take(field string, n int) []byte {
	if d.err == nil && n > len(d.b)-d.at {
		d.fail(field, "%d bytes do not fit in the %d left", n, len(d.b)-d.at)
	}
	if d.err != nil {
		return nil
	}
	d.at += n
	return d.b[d.at-n : d.at]
}

func (d *decoder) byte(field string) byte {
	if b := d.take(field, 1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uvarint(field string, most uint64) uint64 {
	if d.err != nil {
		return 0
	}
	v, n := binary.Uvarint(d.b[d.at:])
	switch {
	case n <= 0:
		d.fail(field, "no varint")
	case v > most:
		d.fail(field, "%d is above %d", v, most)
	default:
		d.at += n
		return v
	}
	return 0
}

func (d *decoder) varint(field string, least, most int64) int64 {
	if d.err != nil {
		return 0
	}
	v, n := binary.Varint(d.b[d.at:])
	switch {
	case n <= 0:
		d.fail(field, "no varint")
	case v < least || v > most:
		d.fail(field, "%d is not in [%d, %d]", v, least, most)
	default:
		d.at += n
		return v
	}
	return 0
}

func (d *decoder) string(field string) string {
	return string(d.take(field, int(d.uvarint(field, uint64(len(d.b))))))
}

func (d *decoder) time(field string) time.Time {
	s := d.varint(field, math.MinInt64, math.MaxInt64)
	ns := d.uvarint(field, 999_999_999)
	if d.err != nil {
		return time.Time{}
	}
	return time.Unix(s, int64(ns)).UTC()
}
