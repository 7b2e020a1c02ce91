package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/faasm-go/faasm/client"
	"github.com/faasm-go/faasm/internal/call"
)

// kind is one row of the problem vocabulary: what goes into every reply of its code,
// and the two paragraphs of its page.
type kind struct {
	code    client.Code
	status  int
	title   string
	meaning string
	remedy  string
}

// kinds is the whole vocabulary. A code, once published, keeps its meaning and its
// status.
var kinds = []kind{
	{client.CodeBadRequest, 400, "Bad request",
		"Something in the request's query, headers or body cannot be understood. The detail names it, and what would be accepted.",
		"Correct the request. Sending it again unchanged gives the same reply."},
	{client.CodeBadName, 400, "Bad name",
		"A tenant or function name must be 1 to 63 characters of a-z, 0-9, '.', '_' and '-', and begin and end with a letter or a digit.",
		"Choose a name of that form. Capital letters are not allowed."},
	{client.CodeCrossOrigin, 403, "Cross-origin request",
		"A web page of another site had a browser send this. The host refuses, because it would otherwise do for any page what it does for the person in front of it.",
		"Call the host from a program, or from a page that a proxy serves under the same origin."},
	{client.CodeNotFound, 404, "No such route",
		"This host has nothing at this path.",
		"Compare the path with the document at /openapi.json. Functions are called at POST /f/{tenant}/{function}; the tenant is \"default\" if you never chose one."},
	{client.CodeMethodNotAllowed, 405, "Method not allowed",
		"The path exists, but not with this method.",
		"Use one of the methods in the reply's Allow header."},
	{client.CodeNoSuchFunction, 404, "No such function",
		"The tenant has no function of this name on this host.",
		"Check the spelling and the tenant with \"faasm ls\", or deploy the function with \"faasm deploy FILE.wasm\"."},
	{client.CodeNoSuchVersion, 404, "No such version",
		"The function has no version of this name, or has it no longer: a collection deletes old ones.",
		"List the versions that are kept with \"faasm versions NAME\". If the one you want is gone, deploy its module again."},
	{client.CodeNoPreviousVersion, 409, "No previous version",
		"A rollback that names no version goes back to the one that served before, and no version of this function did, or you are back at the first already.",
		"Name the version to go to (\"faasm rollback NAME --to VERSION\"); \"faasm versions NAME\" lists them."},
	{client.CodeNoSuchCall, 404, "No such call",
		"This host knows no call of this id. A finished call is forgotten after the host's retention time; a synchronous one, whose reply carried everything, much sooner, and a large output of it at once.",
		"Check the id. If you need results later, start the call asynchronously (\"Prefer: respond-async\") and fetch them within the retention time."},
	{client.CodeNotFinished, 409, "The call has not finished",
		"The call has no output yet: it is queued or running.",
		"Wait for it with GET /v1/calls/{id}?wait=30s, then ask again."},
	{client.CodeTooLarge, 413, "Body too large",
		"The body is larger than the host accepts. The detail says how much it accepts.",
		"Send less, pass large data through state or files, or have the host's operator raise the limit."},
	{client.CodeInvalidModule, 422, "Invalid module",
		"The upload is not a WebAssembly module this host can run. The detail says where in the file and why. The version that served before serves on.",
		"Upload a core module (not a component, not the text format) built for wasm32-wasi. Rebuild it if the detail speaks of an unexpected end."},
	{client.CodeUnknownImport, 422, "Unknown import",
		"The module imports something that the host interface does not have. The detail names it. The version that served before serves on.",
		"Link against the host interface this version of Faasm documents, or define the symbol in the module."},
	{client.CodeLimitTooSmall, 422, "Memory limit too small",
		"The module's initial memory is larger than the memory limit it was uploaded with.",
		"Deploy with a larger limit (\"faasm deploy --memory 256MiB\"), or build the module with a smaller initial memory."},
	{client.CodeInitialisationFailed, 422, "Initialisation failed",
		"The module is valid, but its initialisation, which runs once at upload, trapped, exited or took too long. The version that served before serves on.",
		"Look at the detail, the backtrace and the log in this reply."},
	{client.CodeOverloaded, 429, "Overloaded",
		"The host's queue, or the tenant's share of it, is full. The call did not run.",
		"Try again after the time in the Retry-After header, with fewer calls at once."},
	{client.CodeCancelled, 409, "Cancelled",
		"The call was cancelled before it ended: by DELETE /v1/calls/{id}, by the end of the connection that waited for it, or with the call that chained it.",
		"Nothing is wrong with the function. Call it again if you want its result."},
	{client.CodeTrap, 500, "The function trapped",
		"The function did something that WebAssembly forbids, such as reading outside its memory, dividing by zero or reaching an \"unreachable\", or it aborted. Only this call is affected.",
		"Read the backtrace, innermost frame first. Build with names and without stripping to see function names."},
	{client.CodeReturnCode, 500, "The function returned an error",
		"The function ended by itself with a return code other than 0. The member returnCode has it; what the function wrote is at /v1/calls/{id}/output.",
		"Look at the log in this reply; the code's meaning is the function's own."},
	{client.CodeMemoryLimit, 507, "Memory limit reached",
		"The function died after the host refused to grow its memory past its limit.",
		"Deploy it with a larger limit (\"faasm deploy --memory 256MiB\"), or make it need less."},
	{client.CodeDeadline, 504, "Deadline exceeded",
		"The call did not end before its deadline and was stopped: the function's timeout, the request's ?timeout=, or the deadline of the call that chained it.",
		"Deploy the function with a longer timeout, or find out what it waits for in its log."},
	{client.CodeHostLost, 502, "Host lost",
		"The host that ran the call went away before it ended, as often as the host is willing to try.",
		"Call it again if it is safe to run it more than once; parts of it may have run."},
	{client.CodeDraining, 503, "Draining",
		"The host is shutting down. It finishes the calls it has and takes no new ones.",
		"Try another host, or this one after the time in the Retry-After header."},
	{client.CodeBadKey, 400, "Bad key",
		"The key of a state value must be 1 to 1024 bytes of UTF-8. In a path it is percent-encoded; a slash may stand for itself, but a segment of nothing but one or two dots may not, because clients and proxies take it for a step in the path.",
		"Write the slashes next to such dots as %2F, or, if the key is nothing but the dots, these as %2E."},
	{client.CodeNoSuchValue, 404, "No such value",
		"The tenant has no value under this key in the global tier. What a function has set and not pushed is on its host only. Under the key there may be a list.",
		"Check the key and the tenant with \"faasm state ls\"."},
	{client.CodeVersionMismatch, 412, "The value has another version",
		"The request names a version with If-Match or If-None-Match, and the value is not at it, or is there where it must not be, or the other way round. Nothing has changed.",
		"Read the value again, decide anew, and send the change with the ETag of what you read."},
	{client.CodeFenced, 412, "The lock is over",
		"The request's Faasm-Fence is the token of a lock that was let go of, or that was lost and then given to somebody else. Nothing has changed.",
		"Take the lock again, read what is there now, and begin anew."},
	{client.CodeRangeNotSatisfiable, 416, "Range not satisfiable",
		"The Range is not of the form bytes=FIRST-LAST, bytes=FIRST- or bytes=-COUNT, or no byte of the value is in it. The reply's Content-Range has the value's size.",
		"Ask for a range that begins within the value."},
	{client.CodeConflict, 409, "The value changes too often",
		"The value changed each time the host was about to complete the request. Nothing has changed because of it.",
		"Try again, or take the key's lock first."},
	{client.CodeLockTimeout, 423, "The lock was not to be had in time",
		"Somebody else held the lock for as long as the request was willing to wait.",
		"Try again, or wait longer with ?timeout=."},
	{client.CodeQuota, 507, "Quota of state used up",
		"The tenant would store more in the global tier than this host lets it. Nothing has changed.",
		"Delete values (\"faasm state ls\" shows their sizes), or have the host's operator raise the quota."},
	{client.CodeStateFull, 507, "No room for state",
		"The global tier, or the disk of the host through which a value was to go there, is full. Nothing has changed.",
		"Delete values, or have the operator make room."},
	{client.CodeStateDamaged, 500, "The value is damaged",
		"What the global tier has stored under this key cannot be read: it lost a part, or somebody else changed it.",
		"Write the value anew, or delete it. The host's log has the cause."},
	{client.CodeStateUnavailable, 503, "The global tier does not answer",
		"The store of state did not answer in time. A change may have been made all the same, or be made a little later.",
		"Try again after the time in the Retry-After header; before repeating a change, look at the value's version. The host's log has the cause."},
	{client.CodeInternal, 500, "Internal error",
		"The host made a mistake, or something it depends on failed. It is not the function's fault, and the host goes on.",
		"Try again. The host's log has the cause under the requestId of this reply; please report it."},
}

var kindByCode = func() map[client.Code]*kind {
	m := make(map[client.Code]*kind, len(kinds))
	for i := range kinds {
		m[kinds[i].code] = &kinds[i]
	}
	return m
}()

// page is the text of GET /problems/<code>.
func (k *kind) page() string {
	return fmt.Sprintf("%s (%s, HTTP status %d)\n\n%s\n\nWhat to do: %s\n", k.title, k.code, k.status, k.meaning, k.remedy)
}

// Details quote what the client sent; more of a quotation than this helps nobody.
const quoteBytesMax = 80

func quote(s string) string {
	if len(s) > quoteBytesMax {
		return fmt.Sprintf("%q... (%d bytes)", s[:quoteBytesMax], len(s))
	}
	return fmt.Sprintf("%q", s)
}

// NewProblem returns a problem of a code of the vocabulary. The detail is written for
// the client: what is wrong with which operand.
func NewProblem(code client.Code, detail string) *client.Problem {
	k := kindByCode[code]
	if k == nil {
		panic("BUG: problem code " + string(code) + " is not in the vocabulary")
	}
	return &client.Problem{Type: "/problems/" + string(code), Title: k.title, Status: k.status, Detail: detail, Code: code}
}

// NoSuchFunction is the problem of a function that is not deployed.
func NoSuchFunction(tenant, function string) *client.Problem {
	p := NewProblem(client.CodeNoSuchFunction, fmt.Sprintf("tenant %s has no function %s", quote(tenant), quote(function)))
	p.Tenant, p.Function = tenant, function
	return p
}

// NoSuchVersion is the problem of a version that the function does not have.
func NoSuchVersion(tenant, function, version string) *client.Problem {
	p := NewProblem(client.CodeNoSuchVersion, fmt.Sprintf("function %s has no version %s", quote(function), quote(version)))
	p.Tenant, p.Function = tenant, function
	return p
}

// NoPreviousVersion is the problem of a function that has nothing to go back to.
func NoPreviousVersion(tenant, function string) *client.Problem {
	p := NewProblem(client.CodeNoPreviousVersion, fmt.Sprintf("no version of function %s served before this one", quote(function)))
	p.Tenant, p.Function = tenant, function
	return p
}

// NoSuchCall is the problem of an id that names no call, or none any more.
func NoSuchCall(id call.ID) *client.Problem {
	p := NewProblem(client.CodeNoSuchCall, fmt.Sprintf("no call %s is known", id))
	p.CallID = id.String()
	return p
}

// InitialisationFailed is the problem of an upload whose initialisation ended badly.
// The log is what the initialisation printed.
func InitialisationFailed(failure call.Failure, log string) *client.Problem {
	p := NewProblem(client.CodeInitialisationFailed, failure.Message)
	p.Backtrace = wireFrames(failure.Backtrace)
	p.Log = lastLines(log, problemLogBytesMax)
	return p
}

// Overloaded is the problem of a call that found no room; detail says of what.
func Overloaded(detail string, retryAfter time.Duration) *client.Problem {
	p := NewProblem(client.CodeOverloaded, detail)
	p.RetryAfter = retryAfter
	return p
}

// Draining is the problem of every new call on a host that shuts down.
func Draining(retryAfter time.Duration) *client.Problem {
	p := NewProblem(client.CodeDraining, "the host is shutting down")
	p.RetryAfter = retryAfter
	return p
}

func badRequest(format string, args ...any) *client.Problem {
	return NewProblem(client.CodeBadRequest, fmt.Sprintf(format, args...))
}

func badName(what, name string) *client.Problem {
	return NewProblem(client.CodeBadName, fmt.Sprintf("%s name %s is not 1 to %d of a-z, 0-9, '.', '_' and '-' with a letter or digit at both ends",
		what, quote(name), client.NameBytesMax))
}

func tooLarge(what string, bytesMax int64) *client.Problem {
	return NewProblem(client.CodeTooLarge, fmt.Sprintf("the %s is larger than %d bytes", what, bytesMax))
}

// domainErrors are the errors of other packages that a client may cause.
var domainErrors = []struct {
	err  error
	code client.Code
}{
	{call.ErrBadID, client.CodeBadRequest},
	{call.ErrNotFound, client.CodeNoSuchCall},
	{call.ErrOutputDropped, client.CodeNoSuchCall},
	{call.ErrNotFinished, client.CodeNotFinished},
	{context.Canceled, client.CodeCancelled},
}

// problemOf makes a problem of what a handler or the host returned. An error that is
// no problem and not in domainErrors is internal: its text may tell of the host what
// is not the client's to know, so it goes to the log and not into the detail.
func problemOf(err error) (p *client.Problem, internal bool) {
	if errors.As(err, &p) {
		filled := *p // the host may share one value among requests
		return &filled, p.Code == client.CodeInternal
	}
	for _, d := range domainErrors {
		if errors.Is(err, d.err) {
			return NewProblem(d.code, err.Error()), false
		}
	}
	return NewProblem(client.CodeInternal, "the host's log has the cause under this reply's requestId"), true
}

// outcomeCodes is indexed by call.Outcome; Returned is CodeReturnCode because a call
// that returned 0 is no problem.
var outcomeCodes = [...]client.Code{
	call.Returned:         client.CodeReturnCode,
	call.Trapped:          client.CodeTrap,
	call.DeadlineExceeded: client.CodeDeadline,
	call.Cancelled:        client.CodeCancelled,
	call.MemoryLimit:      client.CodeMemoryLimit,
	call.NoSuchFunction:   client.CodeNoSuchFunction,
	call.HostLost:         client.CodeHostLost,
	call.Refused:          client.CodeOverloaded,
}

// refusedRetryAfter is for calls that were refused without saying for how long.
const refusedRetryAfter = time.Second

// resultProblem tells how a call failed. log is what it printed.
func resultProblem(id call.ID, inv *Invocation, res *call.Result, log string) *client.Problem {
	code, detail := client.CodeInternal, fmt.Sprintf("the host knows no %s", res.Outcome)
	if int(res.Outcome) < len(outcomeCodes) {
		code, detail = outcomeCodes[res.Outcome], ""
	}
	p := NewProblem(code, detail)
	switch {
	case res.Outcome == call.Returned:
		p.Detail = fmt.Sprintf("%s returned %d", inv.Function, res.ReturnCode)
		p.ReturnCode = &res.ReturnCode
	case res.Outcome == call.NoSuchFunction:
		p = NoSuchFunction(inv.Tenant, inv.Function)
	case res.Failure != nil:
		p.Detail = res.Failure.Message
		p.Backtrace = wireFrames(res.Failure.Backtrace)
	}
	if res.Outcome == call.Refused {
		p.RetryAfter = refusedRetryAfter
	}
	p.Instance = "/v1/calls/" + id.String()
	p.CallID, p.Tenant, p.Function = id.String(), inv.Tenant, inv.Function
	p.Log = lastLines(log, problemLogBytesMax)
	return p
}

// problemLogBytesMax bounds the log in a problem; the whole is at /v1/calls/{id}/logs.
const problemLogBytesMax = 4 << 10

// lastLines returns the end of s in valid UTF-8, at most n bytes, beginning at a line
// if a line begins there.
func lastLines(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	if cut := strings.IndexByte(s[len(s)-n-1:], '\n'); cut >= 0 && cut < n {
		return s[len(s)-n+cut:]
	}
	s = s[len(s)-n:]
	for len(s) > 0 && !utf8.RuneStart(s[0]) {
		s = s[1:]
	}
	return s
}

// retryAfterSeconds is what the header Retry-After says: whole seconds, never none.
func retryAfterSeconds(d time.Duration) int64 {
	return max(1, int64((d+time.Second-1)/time.Second))
}

func (h *Handler) handleGetProblem(w http.ResponseWriter, r *http.Request) error {
	k := kindByCode[client.Code(r.PathValue("code"))]
	if k == nil {
		return NewProblem(client.CodeNotFound, fmt.Sprintf("there is no problem %s", quote(r.PathValue("code"))))
	}
	writeText(w, k.page())
	return nil
}
