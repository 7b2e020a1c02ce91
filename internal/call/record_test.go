package call

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// unexported lets cmp look into the stored records.
var unexported = cmp.AllowUnexported(storedRequest{}, storedPending{}, storedResult{})

// decodeAny decodes b as a record of the given kind and encodes it again.
func decodeAny(kind byte, id ID, b []byte) (record any, encoded []byte, err error) {
	switch kind % 3 {
	case 0:
		s, err := decodeRequest(id, b)
		return s, s.encode(), err
	case 1:
		s, err := decodePending(id, b)
		return s, s.encode(id), err
	default:
		s, err := decodeResult(id, b)
		return s, s.encode(id), err
	}
}

func someRecords() (id ID, encoded [3][]byte) {
	req := newRequest("tenant", "function")
	r := storedRequest{request: *req, inputBytes: 12, inputSum: 34}
	p := storedPending{attempt: 2, tenant: req.Tenant, function: req.Function}
	s := storedResult{result: fullResult(), attempt: 3, outputBytes: 56, outputSum: 78}
	return req.ID, [3][]byte{r.encode(), p.encode(req.ID), s.encode(req.ID)}
}

func TestDecode_anyBitMatters(t *testing.T) {
	id, records := someRecords()
	for kind, b := range records {
		for i := range b {
			for bit := range 8 {
				bad := bytes.Clone(b)
				bad[i] ^= 1 << bit
				if _, _, err := decodeAny(byte(kind), id, bad); !errors.Is(err, ErrDamaged) {
					t.Errorf("record %d with bit %d of byte %d flipped: %v, want ErrDamaged", kind, bit, i, err)
				}
			}
			if _, _, err := decodeAny(byte(kind), id, b[:i]); !errors.Is(err, ErrDamaged) {
				t.Errorf("record %d cut to %d bytes: %v, want ErrDamaged", kind, i, err)
			}
		}
		if _, _, err := decodeAny(byte(kind), NewID(), b); !errors.Is(err, ErrDamaged) {
			t.Errorf("record %d under another call's key: %v, want ErrDamaged", kind, err)
		}
		for other := range records {
			if _, _, err := decodeAny(byte(other), id, b); (err == nil) != (other == kind) {
				t.Errorf("record %d read as %d: %v", kind, other, err)
			}
		}
	}
}

// What the checksum does not catch, such as a record of a later version.
func TestDecode_message(t *testing.T) {
	id := ID{15: 1}
	parent := strings.Repeat("00", 16)
	for _, row := range []struct {
		kind byte
		body string // hexadecimal, without the checksum
		want string
	}{
		{0, "02", "version at byte 0: 2 is not 1"},
		{0, "01", "flags at byte 1: 1 bytes do not fit in the 0 left"},
		{0, "0104", "flags at byte 2: unknown ones in 0x4"},
		{0, "0100" + parent[2:], "parent at byte 2: 16 bytes do not fit in the 15 left"},
		{0, "0100" + parent + "ffffffffffffffffff01", "tenant at byte 18: 18446744073709551615 is above 28"},
		{0, "0100" + parent + "0541", "tenant at byte 19: 5 bytes do not fit in the 1 left"},
		{0, "0100" + parent + "0000" + "8080808010", "entry index at byte 20: 4294967296 is above 4294967295"},
		{0, "0100" + parent + "000000" + "00" + "8094ebdc03", "accepted at byte 22: 1000000000 is above 999999999"},
		{1, "01" + "ffffffffffffffffffff01", "attempt at byte 1: no varint"},
		{1, "01" + "00" + "00" + "00" + "00", "end at byte 4: 1 bytes are left over"},
		{2, "01" + "08", "outcome at byte 1: 8 is above 7"},
		{2, "01" + "00" + "ffffffff1f", "return code at byte 2: -4294967296 is not in [-2147483648, 2147483647]"},
		{2, "01" + "00" + "00" + "02", "failure at byte 4: 2 is neither 0 nor 1"},
		{2, "01" + "01" + "00" + "01" + "00" + "ffffffff0f" + "000000", "frame count at byte 5: 4294967295 is above 2"},
	} {
		body, err := hex.DecodeString(row.body)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = decodeAny(row.kind, id, seal(id, body))
		if !errors.Is(err, ErrDamaged) || !strings.HasSuffix(err.Error(), row.want) || !strings.Contains(err.Error(), id.String()) {
			t.Errorf("record %d %s: %v, want the call's ID and %q", row.kind, row.body, err, row.want)
		}
	}
}

func TestDecode_roundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		id := ID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(rt, "id"))
		when := func(name string) time.Time {
			if rapid.Bool().Draw(rt, name+" is set") {
				return time.Unix(rapid.Int64Range(math.MinInt32*100, math.MaxInt32*100).Draw(rt, name),
					rapid.Int64Range(0, 999_999_999).Draw(rt, name+" ns")).UTC()
			}
			return time.Time{}
		}
		text := func(name string) string { return string(rapid.SliceOf(rapid.Byte()).Draw(rt, name)) }
		draw64 := func(name string) uint64 { return rapid.Uint64().Draw(rt, name) }
		drawDuration := func(name string) time.Duration { return time.Duration(rapid.Int64().Draw(rt, name)) }

		request := storedRequest{
			request: Request{
				ID: id, Parent: ID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(rt, "parent")),
				Tenant: text("tenant"), Function: text("function"),
				Entry:    Entry{Table: rapid.Bool().Draw(rt, "table"), Index: rapid.Uint32().Draw(rt, "index")},
				Accepted: when("accepted"), Deadline: when("deadline"), Async: rapid.Bool().Draw(rt, "async"),
			},
			inputBytes: draw64("input") >> 1, inputSum: rapid.Uint32().Draw(rt, "input sum"),
		}
		pending := storedPending{attempt: draw64("attempt") >> 33, tenant: text("tenant"), function: text("function")}
		result := storedResult{
			result: Result{
				Outcome: Outcome(rapid.IntRange(0, outcomeCount-1).Draw(rt, "outcome")), ReturnCode: rapid.Int32().Draw(rt, "code"),
				Usage: Usage{
					Queued: drawDuration("queued"), Start: drawDuration("start"), Wall: drawDuration("wall"), CPU: drawDuration("cpu"),
					MemoryPeak: draw64("memory"), HostCalls: draw64("host calls"), PagesDirty: draw64("pages"),
				},
				Started: when("started"), Finished: when("finished"), Version: text("version"),
			},
			attempt: draw64("attempt") >> 33, outputBytes: draw64("output") >> 1, outputSum: rapid.Uint32().Draw(rt, "output sum"),
		}
		if rapid.Bool().Draw(rt, "fails") {
			result.result.Failure = &Failure{Message: text("message")}
			for range rapid.IntRange(0, 5).Draw(rt, "frames") {
				result.result.Failure.Backtrace = append(result.result.Failure.Backtrace, Frame{
					FuncIndex: rapid.Uint32().Draw(rt, "function index"), FuncName: text("function name"), Offset: draw64("offset"),
				})
			}
		}
		for kind, row := range []struct {
			want any
			b    []byte
		}{{request, request.encode()}, {pending, pending.encode(id)}, {result, result.encode(id)}} {
			got, _, err := decodeAny(byte(kind), id, row.b)
			if err != nil {
				rt.Fatal(err)
			}
			if diff := cmp.Diff(row.want, got, unexported); diff != "" {
				rt.Fatalf("record %d (-want +got):\n%s", kind, diff)
			}
		}
	})
}

// FuzzDecode decodes arbitrary bytes, as they are and with a checksum that fits. What
// is accepted survives being written again.
func FuzzDecode(f *testing.F) {
	id, records := someRecords()
	for kind, b := range records {
		f.Add(byte(kind), b[:len(b)-4])
		f.Add(byte(kind), b)
	}
	f.Add(byte(0), []byte{})
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		decodeAny(kind, id, b)
		first, encoded, err := decodeAny(kind, id, seal(id, b))
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("decode: %v, want ErrDamaged", err)
			}
			return
		}
		second, _, err := decodeAny(kind, id, encoded)
		if err != nil {
			t.Fatalf("decode what was encoded: %v", err)
		}
		if diff := cmp.Diff(first, second, unexported); diff != "" {
			t.Errorf("after writing again (-first +second):\n%s", diff)
		}
	})
}
