package api

import (
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/faasm-go/faasm/client"
	"github.com/faasm-go/faasm/internal/call"
)

// handlePostInvoke runs a call: within the request, or with "Prefer: respond-async"
// after it. What is here is paid by every call.
func (h *Handler) handlePostInvoke(w http.ResponseWriter, r *http.Request) error {
	inv := Invocation{}
	var err error
	if inv.Tenant, inv.Function, err = pathNames(r); err != nil {
		return err
	}
	if r.URL.RawQuery != "" {
		q, err := parseQuery(r, "timeout")
		if err != nil {
			return err
		}
		if inv.Timeout, err = q.duration("timeout", minTimeout, maxTimeout); err != nil {
			return err
		}
	}
	input, err := h.readBody(w, r, "input", h.opts.InputBytesMax)
	defer input.release()
	if err != nil {
		return err
	}
	inv.Input = input.bytes
	if prefer := r.Header["Prefer"]; prefer != nil && prefersAsync(prefer) {
		return h.submit(w, r, inv)
	}

	id, res, done, err := h.host.Invoke(r.Context(), inv)
	if err != nil {
		return err
	}
	if res.Outcome == call.Returned && res.ReturnCode == 0 {
		header := w.Header()
		if c := connOf(r); c != nil {
			c.lines = appendResult(c.lines[:0], id, res)
			c.written = done
		} else {
			defer done()
			setResult(header, id, res)
		}
		header["Content-Type"] = outputType(res.Output)
		header["X-Content-Type-Options"] = nosniff
		if len(res.Output) > countedBytesMax {
			header["Content-Length"] = []string{strconv.Itoa(len(res.Output))}
		}
		return writeOutput(w, res.Output)
	}
	defer done()
	var log string
	if !id.IsZero() {
		// Without its log the problem is still the problem, so an error is passed over.
		lines, _ := h.host.CallLogs(r.Context(), id)
		log = printed(lines)
	}
	setResult(w.Header(), id, res)
	return resultProblem(id, &inv, res, log)
}

func (h *Handler) submit(w http.ResponseWriter, r *http.Request, inv Invocation) error {
	rec, err := h.host.Submit(r.Context(), inv)
	if err != nil {
		return err
	}
	id := rec.Request.ID.String()
	w.Header()["Faasm-Call-Id"] = []string{id}
	w.Header()["Location"] = []string{"/v1/calls/" + id}
	w.Header()["Preference-Applied"] = []string{"respond-async"}
	return writeJSON(w, http.StatusAccepted, wireCall(&rec))
}

// prefersAsync tells whether a Prefer header (RFC 7240) has respond-async.
func prefersAsync(values []string) bool {
	for _, v := range values {
		for preference := range strings.SplitSeq(v, ",") {
			token, _, _ := strings.Cut(preference, ";")
			if strings.EqualFold(strings.TrimSpace(token), "respond-async") {
				return true
			}
		}
	}
	return false
}

// directBytesMax is the largest output that is written without a time limit: it fits
// the buffers between here and the client, or nearly.
const directBytesMax = 64 << 10

func writeOutput(w http.ResponseWriter, output []byte) error {
	if len(output) <= directBytesMax {
		w.Write(output) // an error here is the client's going, and nobody is left to tell
		return nil
	}
	return writeSlow(w, output)
}

var (
	octetType = []string{"application/octet-stream"}
	pngType   = []string{"image/png"}
	jpegType  = []string{"image/jpeg"}
	gifType   = []string{"image/gif"}
)

// sniffBytes is how much of an output decides its type.
const sniffBytes = 512

// outputType says what an output looks like. Only types that a browser shows without
// running anything are told; the client is also told not to guess for itself. Text is
// valid UTF-8 without control characters, in its first sniffBytes.
// (http.DetectContentType takes Latin-1 for UTF-8 and costs five times as much.)
func outputType(output []byte) []string {
	head := output[:min(len(output), sniffBytes)]
	switch {
	case len(head) == 0:
		return octetType
	case head[0] == 0x89 && strings.HasPrefix(string(head), "\x89PNG\r\n\x1a\n"):
		return pngType
	case head[0] == 0xff && strings.HasPrefix(string(head), "\xff\xd8\xff"):
		return jpegType
	case head[0] == 'G' && (strings.HasPrefix(string(head), "GIF87a") || strings.HasPrefix(string(head), "GIF89a")):
		return gifType
	}
	for i := 0; i < len(head); {
		c := head[i]
		if c < utf8.RuneSelf {
			if c < ' ' && c != '\n' && c != '\t' && c != '\r' && c != '\f' && c != 0x1b || c == 0x7f {
				return octetType
			}
			i++
			continue
		}
		r, n := utf8.DecodeRune(head[i:])
		if r == utf8.RuneError && n == 1 {
			if len(head) < len(output) && !utf8.FullRune(head[i:]) {
				break // a character that goes on after the head
			}
			return octetType
		}
		i += n
	}
	return textType
}

// countedBytesMax is the size up to which net/http counts a body itself, for less than
// a header costs.
const countedBytesMax = 2 << 10

// appendResult appends header lines that tell how the call ended and what it cost; a
// call that never ran cost nothing.
func appendResult(b []byte, id call.ID, res *call.Result) []byte {
	b = append(b, "Faasm-Call-Id: "...)
	b = hex.AppendEncode(b, id[:])
	b = append(b, "\r\nFaasm-Outcome: "...)
	b = append(b, res.Outcome.String()...)
	if res.Outcome == call.Returned {
		b = append(b, "\r\nFaasm-Return-Code: "...)
		b = strconv.AppendInt(b, int64(res.ReturnCode), 10)
	}
	if res.Outcome == call.Returned || !res.Started.IsZero() {
		u := &res.Usage
		b = append(b, "\r\nFaasm-Wall-Us: "...)
		b = strconv.AppendInt(b, ceilMicros(u.Wall), 10)
		b = append(b, "\r\nFaasm-Cpu-Us: "...)
		b = strconv.AppendInt(b, ceilMicros(u.CPU), 10)
		b = append(b, "\r\nFaasm-Start-Us: "...)
		b = appendMicros(b, u.Start)
		b = append(b, "\r\nFaasm-Queued-Us: "...)
		b = strconv.AppendInt(b, ceilMicros(u.Queued), 10)
		b = append(b, "\r\nFaasm-Memory-Bytes: "...)
		b = strconv.AppendUint(b, u.MemoryPeak, 10)
	}
	return append(b, "\r\n"...)
}

// setResult puts the lines of appendResult into a header: for problems, whose handler
// does not write the reply itself, and for connections that take no lines.
func setResult(header http.Header, id call.ID, res *call.Result) {
	for line := range strings.Lines(string(appendResult(nil, id, res))) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\r\n"), ": ")
		header[key] = []string{value}
	}
}

// ceilMicros is d in microseconds, rounded up.
func ceilMicros(d time.Duration) int64 {
	d = max(d, 0)
	us := int64(d / time.Microsecond)
	if d%time.Microsecond != 0 {
		us++
	}
	return us
}

// appendMicros appends d in microseconds with three decimals.
func appendMicros(b []byte, d time.Duration) []byte {
	d = max(d, 0)
	b = strconv.AppendInt(b, int64(d/time.Microsecond), 10)
	ns := int(d % time.Microsecond)
	return append(b, '.', byte('0'+ns/100), byte('0'+ns/10%10), byte('0'+ns%10))
}

// printed is what lines say, without the host's own and without times and ids.
func printed(lines []call.Line) string {
	var s strings.Builder
	for i := range lines {
		if lines[i].Stream != call.System {
			s.WriteString(lines[i].Text)
			s.WriteByte('\n')
		}
	}
	return s.String()
}

func wireFrames(frames []call.Frame) []client.Frame {
	if len(frames) == 0 {
		return nil
	}
	out := make([]client.Frame, len(frames))
	for i, f := range frames {
		out[i] = client.Frame(f)
	}
	return out
}

// wireCall is r as it goes over the wire.
func wireCall(r *call.Record) client.CallInfo {
	info := client.CallInfo{
		ID:       r.Request.ID.String(),
		Tenant:   r.Request.Tenant,
		Function: r.Request.Function,
		State:    client.State(r.State.String()),
		Async:    r.Request.Async,
		Attempt:  r.Request.Attempt,
		Accepted: r.Request.Accepted.UTC(),
	}
	if !r.Request.Parent.IsZero() {
		info.Parent = r.Request.Parent.String()
	}
	if !r.Started.IsZero() {
		info.Started = r.Started.UTC()
	}
	if r.State != call.Done {
		return info
	}
	res := &r.Result
	info.Version = res.Version
	info.Outcome = res.Outcome.String()
	info.Finished = res.Finished.UTC()
	if res.Outcome == call.Returned {
		code := res.ReturnCode
		info.ReturnCode = &code
	}
	if res.Failure != nil {
		info.Failure = &client.Failure{Message: res.Failure.Message, Backtrace: wireFrames(res.Failure.Backtrace)}
	}
	if !r.Started.IsZero() {
		info.Usage = &client.Usage{
			QueuedUs:    ceilMicros(res.Usage.Queued),
			StartUs:     float64(max(res.Usage.Start, 0)) / 1e3,
			WallUs:      ceilMicros(res.Usage.Wall),
			CPUUs:       ceilMicros(res.Usage.CPU),
			MemoryBytes: res.Usage.MemoryPeak,
			HostCalls:   res.Usage.HostCalls,
		}
	}
	size := int64(r.OutputBytes)
	info.OutputBytes = &size
	return info
}
