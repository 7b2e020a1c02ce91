package client

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// DefaultTenant is the tenant of whoever names none.
const DefaultTenant = "default"

// NameBytesMax is the length of the longest tenant or function name.
const NameBytesMax = 63

// ValidName tells whether s can name a tenant or a function: 1 to NameBytesMax of
// a-z, 0-9, '.', '_' and '-', with a letter or a digit at both ends.
func ValidName(s string) bool {
	if len(s) == 0 || len(s) > NameBytesMax {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case c == '.' || c == '_' || c == '-':
			if i == 0 || i == len(s)-1 {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// KeyBytesMax is the length of the longest key of a state value.
const KeyBytesMax = 1024

// ValidKey tells whether s can be the key of a state value: 1 to KeyBytesMax bytes of
// UTF-8, whatever characters they are.
func ValidKey(s string) bool {
	return len(s) > 0 && len(s) <= KeyBytesMax && utf8.ValidString(s)
}

// State is where in its life a call is.
type State string

const (
	StateQueued  State = "queued"
	StateRunning State = "running"
	StateDone    State = "done"
)

// Outcomes: how a call ended, as in CallInfo.Outcome and the header Faasm-Outcome.
const (
	OutcomeReturned       = "returned" // the function returned or exited; see the return code
	OutcomeTrapped        = "trapped"
	OutcomeDeadline       = "deadline"
	OutcomeCancelled      = "cancelled"
	OutcomeMemoryLimit    = "memory-limit"
	OutcomeNoSuchFunction = "no-such-function"
	OutcomeHostLost       = "host-lost"
	OutcomeRefused        = "refused" // the host was overloaded; the call never ran
)

// Frame is one frame of a trap's backtrace, innermost first.
type Frame struct {
	FuncIndex uint32 `json:"funcIndex"`
	FuncName  string `json:"funcName,omitempty"`
	Offset    uint64 `json:"offset"` // byte offset in the function
}

// Failure tells why a call did not return.
type Failure struct {
	Message   string  `json:"message"`
	Backtrace []Frame `json:"backtrace,omitempty"`
}

// Usage is what a call cost. Times are in microseconds, rounded up; Start, which is
// often less than one of them, keeps three decimals.
type Usage struct {
	QueuedUs    int64   `json:"queuedUs"` // from acceptance to the start of its run
	StartUs     float64 `json:"startUs"`  // making the fresh Faaslet
	WallUs      int64   `json:"wallUs"`   // the run, waiting included
	CPUUs       int64   `json:"cpuUs"`    // thread time of the guest and its host calls
	MemoryBytes uint64  `json:"memoryBytes"`
	HostCalls   uint64  `json:"hostCalls"`
}

// CallInfo is what a host knows of one call.
type CallInfo struct {
	ID          string    `json:"id"`
	Tenant      string    `json:"tenant"`
	Function    string    `json:"function"`
	Version     string    `json:"version,omitempty"` // of the function that ran; empty if none did yet
	State       State     `json:"state"`
	Outcome     string    `json:"outcome,omitempty"`    // only when done
	ReturnCode  *int32    `json:"returnCode,omitempty"` // only of OutcomeReturned
	Failure     *Failure  `json:"failure,omitempty"`
	Parent      string    `json:"parent,omitempty"` // the call that chained this one
	Async       bool      `json:"async"`
	Attempt     int       `json:"attempt"` // 1 for the first run; higher after a crash of the host
	Accepted    time.Time `json:"accepted"`
	Started     time.Time `json:"started,omitzero"`
	Finished    time.Time `json:"finished,omitzero"`
	Usage       *Usage    `json:"usage,omitempty"`
	OutputBytes *int64    `json:"outputBytes,omitempty"` // only when done
}

// Done tells whether the call has ended.
func (c *CallInfo) Done() bool { return c.State == StateDone }

// CallList is the body of GET /v1/calls, newest first.
type CallList struct {
	Calls []CallInfo `json:"calls"`
}

// Duration is a time.Duration that is written as text ("5s") in JSON.
type Duration time.Duration

// String is the form of time.Duration.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText writes the form of time.Duration.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads the form of time.Duration.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// FunctionInfo describes one version of a function: the serving one, where nothing else
// is said.
//
// A version starts from its snapshot: its memory, globals and tables as initialisation
// left them.
type FunctionInfo struct {
	Tenant      string    `json:"tenant"`
	Name        string    `json:"name"`
	Version     string    `json:"version"` // hexadecimal, of the content's hash
	MemoryBytes uint64    `json:"memoryBytes"`
	Timeout     Duration  `json:"timeout"`
	WasmBytes   int64     `json:"wasmBytes"`
	Entry       string    `json:"entry"` // "faasm_call" or "_start"
	Imports     int       `json:"imports"`
	Uploaded    time.Time `json:"uploaded"`
	CompileMs   float64   `json:"compileMs"`

	Initialised   bool    `json:"initialised"`   // false: the module has nothing to initialise
	InitialiseMs  float64 `json:"initialiseMs"`  // 0 unless Initialised
	SnapshotBytes int64   `json:"snapshotBytes"` // memory in the snapshot; pages of zeros are left out
	StoredBytes   int64   `json:"storedBytes"`   // the snapshot in the store, compressed
	StartUs       float64 `json:"startUs"`       // expected of a call, as the host measured it at the deploy; 0: not measured

	// InitLog is what initialisation printed to stdout and stderr, at most its last
	// 64 KiB. Only in the reply to a deploy.
	InitLog string `json:"initLog,omitempty"`
}

// FunctionList is the body of GET /v1/functions, by tenant and name.
type FunctionList struct {
	Functions []FunctionInfo `json:"functions"`
}

// VersionList is the body of GET /v1/functions/{tenant}/{function}/versions.
type VersionList struct {
	Serving  string         `json:"serving"`  // the version that new calls get
	Versions []FunctionInfo `json:"versions"` // newest first; the serving one is among them
}

// WarmInfo tells how warm a function is kept on one host.
type WarmInfo struct {
	Count    int  `json:"count"`    // regions asked for; 0: the function is not kept warm
	Ready    int  `json:"ready"`    // of them, clean and at hand; fewer than Count if the host has no room for more
	Resident bool `json:"resident"` // code and image are loaded
}

// CollectInfo tells what a collection has deleted from the store.
type CollectInfo struct {
	Versions  int   `json:"versions"`
	Modules   int   `json:"modules"`
	Artefacts int   `json:"artefacts"` // of compilations
	Protos    int   `json:"protos"`    // snapshots
	Bytes     int64 `json:"bytes"`     // of all these together
}

// StateVersion is a version of a state value: a greater one for each change, and never one
// that the key had before. Zero is none. In JSON it is text, because not every reader of
// JSON keeps all digits of a large number; as an ETag it is in quotes.
type StateVersion uint64

// String is the version in decimal.
func (v StateVersion) String() string { return strconv.FormatUint(uint64(v), 10) }

// MarshalText writes the version in decimal.
func (v StateVersion) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads the version in decimal.
func (v *StateVersion) UnmarshalText(b []byte) error {
	n, err := strconv.ParseUint(string(b), 10, 64)
	*v = StateVersion(n)
	return err
}

// StateInfo describes a state value.
type StateInfo struct {
	Version StateVersion `json:"version"`
	Size    int64        `json:"size"` // bytes
}

// StateEntry is what is under a key: a value, an append list, or both.
type StateEntry struct {
	Name         string         `json:"name"`
	Version      StateVersion   `json:"version,omitzero"` // zero: there is no value
	Size         int64          `json:"size"`             // bytes of the value
	ListElements int64          `json:"listElements"`
	ListBytes    int64          `json:"listBytes"`
	Published    []StateVersion `json:"published,omitempty"` // kept, oldest first
}

// StateUsage is what a tenant has stored in the global tier of state. Bytes counts each
// value, each of its published versions, and the elements of lists.
type StateUsage struct {
	Keys       int64 `json:"keys"`
	Bytes      int64 `json:"bytes"`
	QuotaBytes int64 `json:"quotaBytes"` // that the tenant may have on this host; 0: as many as there is room for
}

// StateList is the body of GET /v1/state/{tenant}, by the bytes of the names.
type StateList struct {
	Values []StateEntry `json:"values"`
	Next   string       `json:"next,omitempty"` // if there may be more: the name to go on after
	Usage  StateUsage   `json:"usage"`          // of the tenant, whatever was asked for
}

// LockEvent is a line of the reply to POST /v1/locks/{tenant}/{key}. The first has the
// token. A second one tells why the lock was taken away; it is the last.
type LockEvent struct {
	Token uint64 `json:"token,string,omitzero"` // for the header Faasm-Fence
	Lost  string `json:"lost,omitempty"`
}

// HostInfo is a host's basic facts.
type HostInfo struct {
	Version      string    `json:"version"`
	Commit       string    `json:"commit"`
	Cores        int       `json:"cores"`
	Started      time.Time `json:"started"`
	Tenants      int       `json:"tenants"` // that own at least one function
	Functions    int       `json:"functions"`
	CallsQueued  int       `json:"callsQueued"`
	CallsRunning int       `json:"callsRunning"`

	Profile           string `json:"profile"`           // "fast" or "dense", see "faasm serve --profile"
	MemoryBudgetBytes uint64 `json:"memoryBudgetBytes"` // for what stays resident between calls
	ResidentBytes     uint64 `json:"residentBytes"`     // of the budget: code, images and idle regions
	ResidentFunctions int    `json:"residentFunctions"` // whose code and image are loaded
	RegionsIdle       int    `json:"regionsIdle"`       // clean, waiting for a call

	State            string `json:"state"`            // the global tier: "embedded", or a URL without its password
	StateReplicas    int    `json:"stateReplicas"`    // values that are in this host's memory
	StateMemoryBytes uint64 `json:"stateMemoryBytes"` // that they take
	StateMemoryMax   uint64 `json:"stateMemoryMax"`   // bytes that they may take, half of them of one tenant
	StateQuotaBytes  int64  `json:"stateQuotaBytes"`  // of each tenant in the global tier; 0: none
}

// Code names a kind of problem. The numbers of HTTP are too few to tell them apart;
// a program decides by Code.
type Code string

const (
	CodeBadRequest           Code = "bad-request"
	CodeBadName              Code = "bad-name"
	CodeCrossOrigin          Code = "cross-origin"
	CodeNotFound             Code = "not-found"
	CodeMethodNotAllowed     Code = "method-not-allowed"
	CodeNoSuchFunction       Code = "no-such-function"
	CodeNoSuchVersion        Code = "no-such-version"
	CodeNoPreviousVersion    Code = "no-previous-version"
	CodeNoSuchCall           Code = "no-such-call"
	CodeNotFinished          Code = "not-finished"
	CodeTooLarge             Code = "too-large"
	CodeInvalidModule        Code = "invalid-module"
	CodeUnknownImport        Code = "unknown-import"
	CodeLimitTooSmall        Code = "limit-too-small"
	CodeInitialisationFailed Code = "initialisation-failed"
	CodeOverloaded           Code = "overloaded"
	CodeCancelled            Code = "cancelled"
	CodeTrap                 Code = "trap"
	CodeReturnCode           Code = "return-code"
	CodeMemoryLimit          Code = "memory-limit"
	CodeDeadline             Code = "deadline"
	CodeHostLost             Code = "host-lost"
	CodeDraining             Code = "draining"
	CodeBadKey               Code = "bad-key"
	CodeNoSuchValue          Code = "no-such-value"
	CodeVersionMismatch      Code = "version-mismatch"
	CodeFenced               Code = "fenced"
	CodeRangeNotSatisfiable  Code = "range-not-satisfiable"
	CodeConflict             Code = "conflict"
	CodeLockTimeout          Code = "lock-timeout"
	CodeQuota                Code = "quota"
	CodeStateFull            Code = "state-full"
	CodeStateDamaged         Code = "state-damaged"
	CodeStateUnavailable     Code = "state-unavailable"
	CodeInternal             Code = "internal"
)

// Problem is an error reply (RFC 9457, application/problem+json), and the error that
// every method of Client returns for one.
//
// The fields from CallID to Log are there where they apply: most when the problem is of
// a call that ran.
type Problem struct {
	Type     string `json:"type"` // "/problems/<code>", a page on the host
	Title    string `json:"title"`
	Status   int    `json:"status"`
	Detail   string `json:"detail,omitempty"`
	Instance string `json:"instance,omitempty"` // the path of what it is about
	Code     Code   `json:"code"`               // empty if the reply was no problem document (a proxy's, say)

	CallID     string  `json:"callId,omitempty"`
	Tenant     string  `json:"tenant,omitempty"`
	Function   string  `json:"function,omitempty"`
	ReturnCode *int32  `json:"returnCode,omitempty"` // only of CodeReturnCode
	Backtrace  []Frame `json:"backtrace,omitempty"`  // of CodeTrap and CodeInitialisationFailed
	Log        string  `json:"log,omitempty"`        // the last lines the call printed, at most 4 KiB

	RequestID  string        `json:"requestId,omitempty"` // names the request in the host's log
	RetryAfter time.Duration `json:"-"`                   // the header Retry-After; zero if none
	Outcome    string        `json:"-"`                   // the header Faasm-Outcome
	Usage      *Usage        `json:"-"`                   // from the headers; nil if the call never ran
}

// Error is the code and the detail.
func (p *Problem) Error() string {
	what := p.Title
	if p.Detail != "" {
		what = p.Detail
	}
	if p.Code == "" {
		return strings.TrimSpace(fmt.Sprintf("HTTP status %d: %s", p.Status, what))
	}
	return string(p.Code) + ": " + what
}

// Is makes errors.Is(err, &Problem{Code: c}) tell whether err is a problem of code c.
func (p *Problem) Is(target error) bool {
	t, ok := target.(*Problem)
	return ok && t.Code == p.Code && t.Detail == "" && t.Status == 0
}
