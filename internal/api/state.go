package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/faasm-go/faasm/client"
	"github.com/faasm-go/faasm/internal/linux"
	"github.com/faasm-go/faasm/internal/state"
	"github.com/faasm-go/faasm/internal/state/global"
)

const (
	// valueHeadBytes is read of a value before its size is known.
	valueHeadBytes = 64 << 10

	// valuePieceBytes is how much of a value is read, and in memory, at a time. A value
	// of so many bytes is of one version in any case.
	valuePieceBytes = 4 << 20

	// changesMax is how often a request is begun anew because the value changed before
	// it could be answered.
	changesMax = 10

	// stateRetryAfter is when to try again after the global tier did not answer.
	stateRetryAfter = time.Second

	listStateDefault = 1000
	listStateMax     = 10_000
)

// errValueChanged is why a reply was cut off in whose middle the value was replaced.
var errValueChanged = errors.New("the value changed while it was read")

// stateErrors are the errors of state that a client may cause, or must know of.
var stateErrors = []struct {
	err    error
	code   client.Code
	detail string // empty: the error's own words
}{
	{global.ErrNotFound, client.CodeNoSuchValue, ""},
	{global.ErrVersion, client.CodeVersionMismatch, ""},
	{global.ErrFenced, client.CodeFenced, ""},
	{global.ErrConflict, client.CodeConflict, ""},
	{global.ErrTimeout, client.CodeLockTimeout, ""},
	{global.ErrInvalid, client.CodeBadRequest, ""},
	{state.ErrQuota, client.CodeQuota, ""},
	{global.ErrFull, client.CodeStateFull, "the global tier has no room for it"},
	{global.ErrDamaged, client.CodeStateDamaged, "what is stored under the key can't be read"},
	{global.ErrUnavailable, client.CodeStateUnavailable, "the global tier does not answer"},
	{global.ErrClosed, client.CodeDraining, "the host is shutting down"},
}

// stateProblem makes a problem of an error of state. What the words of a store would tell
// of it is for the log, and is there once in a while.
func (h *Handler) stateProblem(err error) error {
	for _, s := range stateErrors {
		if !errors.Is(err, s.err) {
			continue
		}
		if s.detail == "" {
			return NewProblem(s.code, err.Error())
		}
		p := NewProblem(s.code, s.detail)
		switch s.err {
		case global.ErrUnavailable:
			p.RetryAfter = stateRetryAfter
		case global.ErrClosed:
			return p
		}
		const every = 10 // seconds
		now, last := time.Now().Unix(), h.stateLogged.Load()
		if now-last >= every && h.stateLogged.CompareAndSwap(last, now) {
			h.log.Error("global tier of state", "error", err)
		}
		return p
	}
	return err
}

func noSuchValue(key global.Key) *client.Problem {
	p := NewProblem(client.CodeNoSuchValue, fmt.Sprintf("tenant %s has no value %s", quote(key.Tenant), quote(key.Name)))
	p.Tenant = key.Tenant
	return p
}

func mismatch(version uint64) *client.Problem {
	if version == 0 {
		return NewProblem(client.CodeVersionMismatch, "there is no such value")
	}
	return NewProblem(client.CodeVersionMismatch, fmt.Sprintf("the value is at version %d", version))
}

func (h *Handler) handleListState(w http.ResponseWriter, r *http.Request) error {
	tenant, err := pathTenant(r)
	if err != nil {
		return err
	}
	q, err := parseQuery(r, "prefix", "after", "limit")
	if err != nil {
		return err
	}
	prefix, err := q.text("prefix")
	if err != nil {
		return err
	}
	after, err := q.text("after")
	if err != nil {
		return err
	}
	limit, err := q.number("limit", listStateDefault, 1, listStateMax)
	if err != nil {
		return err
	}
	entries, err := h.host.State().List(r.Context(), tenant, prefix, after, limit)
	if err != nil {
		return h.stateProblem(err)
	}
	usage, err := h.host.State().Usage(r.Context(), tenant)
	if err != nil {
		return h.stateProblem(err)
	}
	list := client.StateList{
		Values: make([]client.StateEntry, len(entries)),
		Usage:  client.StateUsage{Keys: usage.Keys, Bytes: usage.Bytes, QuotaBytes: h.opts.StateQuotaBytes},
	}
	for i, e := range entries {
		v := client.StateEntry{Name: e.Name, Version: client.StateVersion(e.Info.Version), Size: e.Info.Size, ListElements: e.ListLen, ListBytes: e.ListBytes}
		for _, p := range e.Published {
			v.Published = append(v.Published, client.StateVersion(p))
		}
		list.Values[i] = v
	}
	if len(entries) == limit {
		list.Next = entries[limit-1].Name
	}
	return writeJSON(w, http.StatusOK, list)
}

func (h *Handler) handleGetState(w http.ResponseWriter, r *http.Request) error {
	key, err := pathKey(r)
	if err != nil {
		return err
	}
	if _, err := parseQuery(r); err != nil {
		return err
	}
	v := valueRequest{h: h, key: key, w: w, r: r}
	if v.conditions, err = readConditions(r.Header); err != nil {
		return err
	}
	if r.Method == http.MethodGet {
		if v.ranges, err = parseRange(r.Header["Range"]); err != nil {
			return h.rangeProblem(r.Context(), w, key, err)
		}
	}
	defer v.buffer.release()
	for range changesMax {
		if err := v.answer(); !errors.Is(err, errValueChanged) || v.begun {
			return err
		}
	}
	return NewProblem(client.CodeConflict, "the value changed each time it was about to be sent")
}

// rangeProblem completes the problem of a range that can't be understood.
func (h *Handler) rangeProblem(ctx context.Context, w http.ResponseWriter, key global.Key, err error) error {
	info, statErr := h.host.State().Stat(ctx, key)
	if statErr != nil {
		return h.missing(key, statErr)
	}
	w.Header()["Content-Range"] = []string{"bytes */" + strconv.FormatInt(info.Size, 10)}
	return err
}

// missing is stateProblem, with better words for what is most common.
func (h *Handler) missing(key global.Key, err error) error {
	if errors.Is(err, global.ErrNotFound) {
		return noSuchValue(key)
	}
	return h.stateProblem(err)
}

// valueRequest is a GET or HEAD of a value.
type valueRequest struct {
	h          *Handler
	key        global.Key
	w          http.ResponseWriter
	r          *http.Request
	conditions conditions
	ranges     *byteRange // nil: all
	buffer     body       // for values that do not fit into their head
	begun      bool       // the reply
}

// answer sends the value, or the part that is asked for, all of it of one version: it
// returns errValueChanged when that can't be had.
func (v *valueRequest) answer() error {
	ctx, st := v.r.Context(), v.h.host.State()
	var head []byte
	if v.ranges == nil && v.r.Method == http.MethodGet {
		head = make([]byte, valueHeadBytes)
	}
	n, info, err := st.Read(ctx, v.key, 0, head)
	if errors.Is(err, global.ErrNotFound) && v.conditions.match.given {
		return mismatch(0)
	}
	if err != nil {
		return v.h.missing(v.key, err)
	}
	if !v.conditions.matches(info.Version) {
		return mismatch(info.Version)
	}
	header := v.w.Header()
	if !v.conditions.noneMatches(info.Version) {
		header["Etag"] = []string{etag(info.Version)}
		header["Cache-Control"] = noCache
		v.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	status, off, left := http.StatusOK, int64(0), info.Size
	if v.ranges != nil && v.ifRange(info.Version) {
		var ok bool
		if off, left, ok = v.ranges.in(info.Size); !ok {
			header["Content-Range"] = []string{"bytes */" + strconv.FormatInt(info.Size, 10)}
			return NewProblem(client.CodeRangeNotSatisfiable, fmt.Sprintf("no byte of Range %s is in the value, which has %d", quote(v.r.Header["Range"][0]), info.Size))
		}
		status = http.StatusPartialContent
	}
	begin := func() {
		v.begun = true
		header["Etag"] = []string{etag(info.Version)}
		header["Accept-Ranges"] = acceptRanges
		header["Cache-Control"] = noCache
		header["Content-Type"] = octetType
		header["X-Content-Type-Options"] = nosniff
		header["Content-Length"] = []string{strconv.FormatInt(left, 10)}
		if status == http.StatusPartialContent {
			header["Content-Range"] = []string{fmt.Sprintf("bytes %d-%d/%d", off, off+left-1, info.Size)}
		}
		v.w.WriteHeader(status)
	}
	switch {
	case v.r.Method == http.MethodHead, left == 0:
		begin()
		return nil
	case int64(n) == info.Size:
		begin()
		return writeOutput(v.w, head[:n])
	}
	piece, err := v.piece(min(left, valuePieceBytes))
	if err != nil {
		return err
	}
	for left > 0 {
		piece = piece[:min(left, int64(len(piece)))]
		n, now, err := st.Read(ctx, v.key, off, piece)
		switch {
		case errors.Is(err, global.ErrNotFound), err == nil && (now.Version != info.Version || n != len(piece)):
			return errValueChanged
		case err != nil:
			return v.h.stateProblem(err)
		}
		if !v.begun {
			begin()
		}
		if err := writeSlow(v.w, piece); err != nil {
			return err
		}
		off, left = off+int64(n), left-int64(n)
	}
	return nil
}

// piece returns n bytes of memory, out of what is allowed for bodies.
func (v *valueRequest) piece(n int64) ([]byte, error) {
	v.buffer.h = v.h
	if int64(cap(v.buffer.bytes)) < n {
		if err := v.buffer.grow(n); err != nil {
			return nil, err
		}
	}
	return v.buffer.bytes[:n], nil
}

// ifRange tells whether the range is to be obeyed: if not, the client has part of another
// version, and needs the whole.
func (v *valueRequest) ifRange(version uint64) bool {
	fields := v.r.Header["If-Range"]
	return len(fields) == 0 || len(fields) == 1 && fields[0] == etag(version)
}

var (
	noCache      = []string{"no-cache"} // it may be kept, and asked about with If-None-Match
	acceptRanges = []string{"bytes"}
)

// fenceOf reads the header Faasm-Fence.
func fenceOf(r *http.Request) (uint64, error) {
	fields := r.Header["Faasm-Fence"]
	if len(fields) == 0 {
		return 0, nil
	}
	token, err := strconv.ParseUint(fields[0], 10, 64)
	if err != nil || token == 0 || len(fields) > 1 {
		return 0, badRequest("Faasm-Fence: %s is not the token of a lock", quote(fields[0]))
	}
	return token, nil
}

// readChange reads what a request to change a value says of it: which one, on what
// conditions, and under which lock.
func readChange(r *http.Request) (key global.Key, cond conditions, fence uint64, err error) {
	if key, err = pathKey(r); err != nil {
		return key, cond, 0, err
	}
	if _, err = parseQuery(r); err != nil {
		return key, cond, 0, err
	}
	if cond, err = readConditions(r.Header); err != nil {
		return key, cond, 0, err
	}
	fence, err = fenceOf(r)
	return key, cond, fence, err
}

func (h *Handler) handlePutState(w http.ResponseWriter, r *http.Request) error {
	key, cond, fence, err := readChange(r)
	if err != nil {
		return err
	}
	// A part of a value, taken for the whole, would destroy it.
	if r.Header["Content-Range"] != nil {
		return badRequest("the body is the whole value, and can't be a range of it (Content-Range)")
	}
	if cond.given() { // before a large body is sent in vain
		if _, err := h.stateVersion(r.Context(), key, &cond); err != nil {
			return err
		}
	}
	bytesMax, quota := h.opts.SpoolBytesMax, h.opts.StateQuotaBytes
	if quota > 0 {
		bytesMax = min(bytesMax, quota)
	}
	value, err := h.readUpload(w, r, "value", bytesMax)
	defer value.close()
	if bytesMax == quota && errors.Is(err, &client.Problem{Code: client.CodeTooLarge}) {
		return NewProblem(client.CodeQuota, fmt.Sprintf("the value is larger than the %d bytes that the tenant may store", quota))
	}
	if err != nil {
		return err
	}
	for range changesMax {
		was, err := h.stateVersion(r.Context(), key, &cond)
		if err != nil {
			return err
		}
		c := global.Condition{Fence: fence}
		if cond.given() {
			c.IfVersion, c.IfAbsent = was, was == 0
		}
		info, err := h.host.State().Put(r.Context(), key, value.size, value.at, c)
		if errors.Is(err, global.ErrVersion) {
			continue // somebody was faster, and the condition may hold for what is there now
		}
		if err != nil {
			return h.stateProblem(err)
		}
		w.Header()["Etag"] = []string{etag(info.Version)}
		status := http.StatusOK
		if was == 0 {
			status = http.StatusCreated
		}
		return writeJSON(w, status, client.StateInfo{Version: client.StateVersion(info.Version), Size: info.Size})
	}
	return NewProblem(client.CodeConflict, "the value changed each time it was about to be written")
}

// stateVersion returns the value's version, 0 if there is none, or the problem that the
// conditions do not hold for it.
func (h *Handler) stateVersion(ctx context.Context, key global.Key, cond *conditions) (uint64, error) {
	info, err := h.host.State().Stat(ctx, key)
	if err != nil && !errors.Is(err, global.ErrNotFound) {
		return 0, h.stateProblem(err)
	}
	if !cond.matches(info.Version) || !cond.noneMatches(info.Version) {
		return 0, mismatch(info.Version)
	}
	return info.Version, nil
}

func (h *Handler) handleDeleteState(w http.ResponseWriter, r *http.Request) error {
	key, cond, fence, err := readChange(r)
	if err != nil {
		return err
	}
	if cond.noneMatch.given {
		return badRequest("If-None-Match does not go with DELETE; name the version with If-Match")
	}
	for range changesMax {
		c := global.Condition{Fence: fence}
		if cond.given() {
			if c.IfVersion, err = h.stateVersion(r.Context(), key, &cond); err != nil {
				return err
			}
		}
		err := h.host.State().Delete(r.Context(), key, c)
		if errors.Is(err, global.ErrVersion) {
			continue
		}
		if err != nil {
			return h.missing(key, err)
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return NewProblem(client.CodeConflict, "the value changed each time it was about to be deleted")
}

const (
	// lockTimeoutDefault is how long a request waits for a lock that does not say.
	lockTimeoutDefault = 10 * time.Second

	// holdersMax bounds the requests that hold a lock or wait for one.
	holdersMax = 1024

	// lockBeat is the time between two signs of life. A holder that takes none for
	// lockGrace is dead; client.LockSilenceMax is the same in the other direction.
	lockBeat  = 5 * time.Second
	lockGrace = 15 * time.Second

	// unlockTimeout bounds letting go. A lock that could not be let go of runs out.
	unlockTimeout = 5 * time.Second
)

// handlePostLock holds a lock for as long as its client keeps the connection.
func (h *Handler) handlePostLock(w http.ResponseWriter, r *http.Request) error {
	key, err := pathKey(r)
	if err != nil {
		return err
	}
	q, err := parseQuery(r, "mode", "timeout")
	if err != nil {
		return err
	}
	mode := global.LockWrite
	switch text, ok := q["mode"]; {
	case text == "read":
		mode = global.LockRead
	case ok && text != "write":
		return badRequest("mode=%s is neither read nor write", quote(text))
	}
	timeout, err := q.duration("timeout", minTimeout, maxWait)
	if err != nil {
		return err
	}
	if timeout == 0 {
		timeout = lockTimeoutDefault
	}
	// net/http watches the connection only once the body has been read.
	if r.ContentLength != 0 {
		return badRequest("this route takes no body")
	}
	defer h.holders.Add(-1)
	if h.holders.Add(1) > holdersMax {
		return Overloaded(fmt.Sprintf("%d locks are held or waited for through this host already", holdersMax), followRetryAfter)
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	stop := context.AfterFunc(h.streams, cancel)
	lease, err := h.host.State().Lock(ctx, key, mode)
	stop()
	switch {
	case err == nil:
	case h.streams.Err() != nil:
		return Draining(stateRetryAfter)
	case errors.Is(err, global.ErrTimeout):
		return NewProblem(client.CodeLockTimeout, fmt.Sprintf("the lock of %s was not to be had in %s", quote(key.Name), timeout))
	default:
		return h.stateProblem(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), unlockTimeout)
		defer cancel()
		// After an error the lock lasts until its lease has run out, and whoever waits for
		// it gets it then.
		_ = lease.Unlock(ctx)
	}()
	return h.holdLock(w, r, lease)
}

// holdLock returns when the client has gone, the lock is lost, or the host ends.
func (h *Handler) holdLock(w http.ResponseWriter, r *http.Request, lease *global.Lease) error {
	if c := connOf(r); c != nil {
		if tcp, ok := c.Conn.(*net.TCPConn); ok {
			if err := linux.SetUserTimeout(tcp, lockGrace); err != nil {
				return fmt.Errorf("bound the life of a lock's connection: %w", err)
			}
		}
	}
	header := w.Header()
	header["Content-Type"] = eventsType
	header["X-Content-Type-Options"] = nosniff
	header["Cache-Control"] = noStore
	header["X-Accel-Buffering"] = []string{"no"}
	header["Connection"] = []string{"close"} // for the time limit that it has now
	rc := http.NewResponseController(w)
	send := func(line []byte) error {
		rc.SetWriteDeadline(time.Now().Add(lockGrace))
		if _, err := w.Write(append(line, '\n')); err != nil {
			return fmt.Errorf("%w: %w", errSlowClient, err)
		}
		if err := rc.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return fmt.Errorf("%w: %w", errSlowClient, err)
		}
		return nil
	}
	event := func(e client.LockEvent) error {
		line, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("encode reply: %w", err)
		}
		return send(line)
	}
	if err := event(client.LockEvent{Token: lease.Token()}); err != nil {
		return err
	}
	beat := time.NewTicker(lockBeat)
	defer beat.Stop()
	for {
		select {
		case <-r.Context().Done():
			return nil
		case <-h.streams.Done():
			return event(client.LockEvent{Lost: "the host is shutting down"})
		case <-lease.Lost():
			return event(client.LockEvent{Lost: "the host could not renew its lease"})
		case <-beat.C:
			if err := send(nil); err != nil {
				return err
			}
		}
	}
}

var eventsType = []string{"application/x-ndjson"}
