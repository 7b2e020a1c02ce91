package api

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/faasm-go/faasm/client"
)

const (
	// bodyStepBytes is how much is allocated on the word of a Content-Length alone.
	// The rest follows when so much has arrived, out of what Options allows for all
	// bodies together.
	bodyStepBytes = 1 << 20

	// slowestBytesPerSecond is the least rate at which a client must send or take a
	// body, after graceTimeout.
	slowestBytesPerSecond = 64 << 10
	graceTimeout          = 30 * time.Second

	// lengthUnknownBytes is what a body of unknown length is given time for.
	lengthUnknownBytes = 64 << 20
)

// errSlowClient is why a reply was cut off whose client did not take it.
var errSlowClient = errors.New("the client takes the reply too slowly")

func bodyDeadline(length int64) time.Time {
	if length < 0 {
		length = lengthUnknownBytes
	}
	return time.Now().Add(graceTimeout + time.Duration(min(length, 1<<40)/slowestBytesPerSecond)*time.Second)
}

// setReadDeadline bounds the time in which the request's body must come. net/http lifts
// it at the body's end, when it begins to watch whether the client goes away.
func setReadDeadline(w http.ResponseWriter, length int64) {
	http.NewResponseController(w).SetReadDeadline(bodyDeadline(length))
}

// writeSlow writes a body that may be too large for the socket's buffers, bounded in
// time. An error means that the reply must be cut off.
func writeSlow(w http.ResponseWriter, body []byte) error {
	rc := http.NewResponseController(w)
	rc.SetWriteDeadline(bodyDeadline(int64(len(body))))
	_, err := w.Write(body)
	if err == nil {
		err = rc.Flush()
	}
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("%w: %w", errSlowClient, err)
	}
	rc.SetWriteDeadline(time.Time{})
	return nil
}

// body is a request's body in memory, and the share of the memory for bodies that it
// holds until release.
type body struct {
	h     *Handler
	bytes []byte
	held  int64
}

// release gives back the share. The bytes may be somebody else's by then.
func (b *body) release() {
	if b.held != 0 {
		b.h.bodies.Add(-b.held)
		b.held = 0
	}
}

// bodyRetryAfter is when to try again after a refusal for want of memory.
const bodyRetryAfter = time.Second

// grow gives b room for capacity bytes, or refuses as overloaded. Small bodies are
// bounded by the number of connections.
func (b *body) grow(capacity int64) error {
	if capacity > bodyStepBytes {
		more := capacity - b.held
		if b.h.bodies.Add(more) > b.h.opts.BodyBytesInFlightMax {
			b.h.bodies.Add(-more)
			return Overloaded(fmt.Sprintf("bodies of requests take more than %d bytes of memory", b.h.opts.BodyBytesInFlightMax), bodyRetryAfter)
		}
		b.held += more
	}
	bytes := make([]byte, len(b.bytes), capacity)
	copy(bytes, b.bytes)
	b.bytes = bytes
	return nil
}

// readBody reads r's body, of at most bytesMax bytes; what names it in errors. The
// caller releases b, also after an error.
func (h *Handler) readBody(w http.ResponseWriter, r *http.Request, what string, bytesMax int64) (b body, err error) {
	b.h = h
	length := r.ContentLength
	if length == 0 {
		return b, nil
	}
	if length > bytesMax {
		return b, tooLarge(what, bytesMax)
	}
	// With a length the room is exact in the end; without one, a byte more than is
	// allowed tells that there is too much.
	capacityMax := length
	if length < 0 {
		capacityMax = bytesMax + 1
	}
	capacity := min(capacityMax, bodyStepBytes)
	if length < 0 {
		capacity = min(capacityMax, 16<<10)
	}
	if err := b.grow(capacity); err != nil {
		return b, err
	}
	from := http.MaxBytesReader(unwrap(w), r.Body, bytesMax)
	for int64(len(b.bytes)) != length {
		if len(b.bytes) == cap(b.bytes) {
			capacity = length
			if length < 0 {
				capacity = min(2*int64(cap(b.bytes)), capacityMax)
			}
			if err := b.grow(capacity); err != nil {
				abandonBody(w, r)
				return b, err
			}
		}
		n, err := from.Read(b.bytes[len(b.bytes):cap(b.bytes)])
		b.bytes = b.bytes[:len(b.bytes)+n]
		if err == io.EOF {
			break
		}
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return b, tooLarge(what, bytesMax)
		}
		if err != nil {
			return b, bodyProblem(what, len(b.bytes), err)
		}
	}
	if length > 0 && int64(len(b.bytes)) != length {
		return b, bodyProblem(what, len(b.bytes), io.ErrUnexpectedEOF)
	}
	return b, nil
}

// unwrap returns the writer of net/http, which knows what to do with a connection on
// which a body was refused: it closes one direction first, because a client that still
// sends would lose the reply in a reset. It does that of itself, but not for a client
// that asked for consent (Expect) and got it.
func unwrap(w http.ResponseWriter) http.ResponseWriter {
	if rec, ok := w.(*recorder); ok {
		return rec.ResponseWriter
	}
	return w
}

// abandonBody makes net/http treat a body that is refused half way as one that passed
// a limit. It takes one more byte of it, which has come or comes soon.
func abandonBody(w http.ResponseWriter, r *http.Request) {
	http.MaxBytesReader(unwrap(w), r.Body, 0).Read(make([]byte, 1))
}

func bodyProblem(what string, got int, err error) *client.Problem {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return badRequest("the %s came too slowly: %d bytes before the time was up", what, got)
	}
	return badRequest("the %s broke off after %d bytes: %v", what, got, err)
}
