package api

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/faasm-go/faasm/client"
	"github.com/faasm-go/faasm/internal/call"
)

func (h *Handler) handleGetCalls(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r, "tenant", "function", "state", "limit")
	if err != nil {
		return err
	}
	var filter call.Filter
	if filter.Tenant, err = q.name("tenant"); err != nil {
		return err
	}
	if filter.Function, err = q.name("function"); err != nil {
		return err
	}
	if state, ok := q["state"]; ok {
		if filter.State, err = call.ParseState(state); err != nil {
			return badRequest("state=%s is not one of queued, running, done", quote(state))
		}
	}
	if filter.Limit, err = q.number("limit", call.ListLimitDefault, 1, call.ListLimitMax); err != nil {
		return err
	}
	records, err := h.host.Calls(r.Context(), filter)
	if err != nil {
		return err
	}
	list := client.CallList{Calls: make([]client.CallInfo, len(records))}
	for i := range records {
		list.Calls[i] = wireCall(&records[i])
	}
	return writeJSON(w, http.StatusOK, list)
}

func (h *Handler) handleGetCall(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	q, err := parseQuery(r, "wait")
	if err != nil {
		return err
	}
	wait, err := q.duration("wait", 0, maxWait)
	if err != nil {
		return err
	}
	var rec call.Record
	if wait == 0 {
		rec, err = h.host.Call(r.Context(), id)
	} else {
		ctx, cancel := context.WithTimeout(r.Context(), wait)
		defer cancel()
		defer context.AfterFunc(h.streams, cancel)()
		rec, err = h.host.Wait(ctx, id)
	}
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, wireCall(&rec))
}

func (h *Handler) handleDeleteCall(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	if _, err := parseQuery(r); err != nil {
		return err
	}
	rec, err := h.host.Cancel(r.Context(), id)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, wireCall(&rec))
}

func (h *Handler) handleGetOutput(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	if _, err := parseQuery(r); err != nil {
		return err
	}
	output, err := h.host.Output(r.Context(), id)
	if err != nil {
		return err
	}
	header := w.Header()
	header["Content-Type"] = outputType(output)
	header["X-Content-Type-Options"] = nosniff
	header["Content-Length"] = []string{strconv.Itoa(len(output))}
	return writeOutput(w, output)
}

// oneLine keeps a line one line, so that a guest cannot write another call's.
var oneLine = strings.NewReplacer("\n", `\n`, "\r", `\r`)

// appendLogLine appends l as clients see it.
func appendLogLine(b []byte, l *call.Line) []byte {
	b = l.Time.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z07:00")
	b = append(b, ' ')
	b = append(b, l.Call.String()[24:]...) // the random end: the beginning is the time
	b = append(b, ' ')
	b = append(b, l.Stream.String()...)
	b = append(b, ' ')
	b = append(b, strings.ToValidUTF8(oneLine.Replace(l.Text), "\uFFFD")...)
	return append(b, '\n')
}

func writeLog(w http.ResponseWriter, lines []call.Line) error {
	var text []byte
	for i := range lines {
		text = appendLogLine(text, &lines[i])
	}
	header := w.Header()
	header["Content-Type"] = textType
	header["X-Content-Type-Options"] = nosniff
	header["Cache-Control"] = noStore
	header["Content-Length"] = []string{strconv.Itoa(len(text))}
	return writeOutput(w, text)
}

func (h *Handler) handleGetCallLogs(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	if _, err := parseQuery(r); err != nil {
		return err
	}
	lines, err := h.host.CallLogs(r.Context(), id)
	if err != nil {
		return err
	}
	return writeLog(w, lines)
}

func (h *Handler) handleGetFunctionLogs(w http.ResponseWriter, r *http.Request) error {
	tenant, function, err := pathNames(r)
	if err != nil {
		return err
	}
	q, err := parseQuery(r, "follow", "tail")
	if err != nil {
		return err
	}
	tail, err := q.number("tail", tailDefault, 0, tailMax)
	if err != nil {
		return err
	}
	follow, err := q.flag("follow")
	if err != nil {
		return err
	}
	if !follow || r.Method == http.MethodHead {
		lines, err := h.host.FunctionLogs(r.Context(), tenant, function, tail)
		if err != nil {
			return err
		}
		return writeLog(w, lines)
	}
	return h.followLogs(w, r, tenant, function, tail)
}

const (
	// followTimeout is how long a client may leave a line untaken.
	followTimeout = 30 * time.Second

	// followersMax bounds the logs that are followed at once: what waits for each
	// takes memory of the host.
	followersMax = 256

	// followRetryAfter is when to try again beyond followersMax.
	followRetryAfter = 10 * time.Second
)

func (h *Handler) followLogs(w http.ResponseWriter, r *http.Request, tenant, function string, tail int) error {
	defer h.followers.Add(-1)
	if h.followers.Add(1) > followersMax {
		return Overloaded(fmt.Sprintf("%d logs are followed already", followersMax), followRetryAfter)
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(h.streams, cancel)()
	lines, err := h.host.FollowLogs(ctx, tenant, function, tail)
	if err != nil {
		return err
	}

	header := w.Header()
	header["Content-Type"] = textType
	header["X-Content-Type-Options"] = nosniff
	header["Cache-Control"] = noStore
	header["X-Accel-Buffering"] = []string{"no"} // nginx and its kin would hold lines back
	rc := http.NewResponseController(w)
	var text []byte
	send := func() error {
		rc.SetWriteDeadline(time.Now().Add(followTimeout))
		if _, err := w.Write(text); err != nil {
			return fmt.Errorf("%w: %w", errSlowClient, err)
		}
		if err := rc.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return fmt.Errorf("%w: %w", errSlowClient, err)
		}
		return nil
	}
	w.WriteHeader(http.StatusOK)
	if err := send(); err != nil {
		return err
	}
	for line := range lines {
		text = appendLogLine(text[:0], &line)
		if err := send(); err != nil {
			return err
		}
	}
	// What net/http writes after this handler is the end of the chunks.
	rc.SetWriteDeadline(time.Time{})
	return nil
}

// initLogBytesMax bounds the log in the reply to a deploy.
const initLogBytesMax = 64 << 10

func (h *Handler) handlePutFunction(w http.ResponseWriter, r *http.Request) error {
	up := Upload{}
	var err error
	if up.Tenant, up.Function, err = pathNames(r); err != nil {
		return err
	}
	q, err := parseQuery(r, "memory", "timeout")
	if err != nil {
		return err
	}
	if up.MemoryBytes, err = q.size("memory", memoryMax); err != nil {
		return err
	}
	if up.Timeout, err = q.duration("timeout", minTimeout, maxTimeout); err != nil {
		return err
	}
	module, err := h.readBody(w, r, "module", h.opts.ModuleBytesMax)
	defer module.release()
	if err != nil {
		return err
	}
	if len(module.bytes) == 0 {
		return NewProblem(client.CodeInvalidModule, "the upload is empty; the module is sent as the body")
	}
	up.Wasm = module.bytes
	info, created, err := h.host.Deploy(r.Context(), up)
	if err != nil {
		return err
	}
	info.InitLog = lastLines(info.InitLog, initLogBytesMax)
	status := http.StatusOK
	if created {
		status = http.StatusCreated
		w.Header()["Location"] = []string{"/v1/functions/" + up.Tenant + "/" + up.Function}
	}
	return writeJSON(w, status, info)
}

func (h *Handler) handleGetFunction(w http.ResponseWriter, r *http.Request) error {
	tenant, function, err := pathNames(r)
	if err != nil {
		return err
	}
	if _, err := parseQuery(r); err != nil {
		return err
	}
	info, err := h.host.Function(r.Context(), tenant, function)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, info)
}

func (h *Handler) handleGetFunctions(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r, "tenant")
	if err != nil {
		return err
	}
	tenant, err := q.name("tenant")
	if err != nil {
		return err
	}
	list := client.FunctionList{}
	if list.Functions, err = h.host.Functions(r.Context(), tenant); err != nil {
		return err
	}
	if list.Functions == nil {
		list.Functions = []client.FunctionInfo{} // JSON has [] for none
	}
	return writeJSON(w, http.StatusOK, list)
}

func (h *Handler) handleDeleteFunction(w http.ResponseWriter, r *http.Request) error {
	tenant, function, err := pathNames(r)
	if err != nil {
		return err
	}
	if _, err := parseQuery(r); err != nil {
		return err
	}
	if err := h.host.Remove(r.Context(), tenant, function); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (h *Handler) handleGetVersions(w http.ResponseWriter, r *http.Request) error {
	tenant, function, err := pathNames(r)
	if err != nil {
		return err
	}
	if _, err := parseQuery(r); err != nil {
		return err
	}
	list, err := h.host.Versions(r.Context(), tenant, function)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, list)
}

func (h *Handler) handlePostRollback(w http.ResponseWriter, r *http.Request) error {
	tenant, function, err := pathNames(r)
	if err != nil {
		return err
	}
	q, err := parseQuery(r, "version")
	if err != nil {
		return err
	}
	version, err := q.version("version")
	if err != nil {
		return err
	}
	// A version that is named where nobody looks must not become a rollback to another.
	if r.ContentLength != 0 {
		return badRequest("this route takes no body; name the version in the query (?version=)")
	}
	info, err := h.host.Rollback(r.Context(), tenant, function, version)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, info)
}

func (h *Handler) handlePostWarm(w http.ResponseWriter, r *http.Request) error {
	tenant, function, err := pathNames(r)
	if err != nil {
		return err
	}
	q, err := parseQuery(r, "count")
	if err != nil {
		return err
	}
	if _, ok := q["count"]; !ok {
		return badRequest("the query lacks count, a number from 0 to %d", warmMax)
	}
	count, err := q.number("count", 0, 0, warmMax)
	if err != nil {
		return err
	}
	info, err := h.host.Warm(r.Context(), tenant, function, count)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, info)
}

func (h *Handler) handlePostCollect(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r, "keep")
	if err != nil {
		return err
	}
	keep, err := q.number("keep", 0, 1, keepMax)
	if err != nil {
		return err
	}
	info, err := h.host.Collect(r.Context(), keep)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, info)
}

func (h *Handler) handleGetHost(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, h.host.Info())
}

func (h *Handler) handleGetHealthz(w http.ResponseWriter, _ *http.Request) error {
	writeText(w, "ok\n")
	return nil
}

func (h *Handler) handleGetReadyz(w http.ResponseWriter, _ *http.Request) error {
	if err := h.host.Ready(); err != nil {
		return err
	}
	writeText(w, "ok\n")
	return nil
}

func (h *Handler) handleGetMetrics(w http.ResponseWriter, r *http.Request) error {
	h.scrape.ServeHTTP(w, r)
	return nil
}

// openAPI is the OpenAPI 3.1 document of this interface, written by hand.
//
//go:embed openapi.json
var openAPI []byte

func (h *Handler) handleGetOpenAPI(w http.ResponseWriter, _ *http.Request) error {
	header := w.Header()
	header["Content-Type"] = jsonType
	header["X-Content-Type-Options"] = nosniff
	header["Content-Length"] = []string{strconv.Itoa(len(openAPI))}
	w.Write(openAPI) // as in writeProblem
	return nil
}
