package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/faasm-go/faasm/client"
)

// The exit statuses. A function's own return code is not passed on as one, because it
// could not be told from these; the error line and --json have it.
const (
	statusFailure     = 1   // the host refused, or something here failed
	statusUsage       = 2   // the command line, the environment or the configuration file is wrong
	statusUnreachable = 3   // no host answers, or the connection broke
	statusCallFailed  = 4   // the call ended, and not with return code 0
	statusInterrupted = 130 // SIGINT or SIGTERM, as shells report it
)

// exitError ends the process with a status of its own choice.
type exitError struct {
	status int
	err    error
	detail []string // lines to show below err, indented
	quiet  bool     // somebody else has told of it already
}

func (x *exitError) Error() string { return x.err.Error() }
func (x *exitError) Unwrap() error { return x.err }

// usageError is an error in how cmd was called.
func usageError(cmd *cobra.Command, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &exitError{status: statusUsage, err: fmt.Errorf("%w; see %q", err, cmd.CommandPath()+" --help")}
}

// report prints err, if there is one, and returns the exit status.
func (e *env) report(ctx context.Context, err error) int {
	if err == nil {
		return 0
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return statusInterrupted
	}
	x := e.explain(err)
	if x.quiet {
		return x.status
	}
	var b strings.Builder
	fmt.Fprintf(&b, "faasm: %s\n", printable(x.Error()))
	for _, line := range x.detail {
		fmt.Fprintf(&b, "  %s\n", printable(line))
	}
	io.WriteString(e.stderr, b.String())
	return x.status
}

// explain turns an error of a command into what a user needs: what went wrong, where,
// and what to do.
func (e *env) explain(err error) *exitError {
	if x, ok := errors.AsType[*exitError](err); ok {
		return x
	}
	if p, ok := errors.AsType[*client.Problem](err); ok {
		return e.explainProblem(p)
	}
	host := redactURL(e.host)
	if bad, ok := errors.AsType[*json.SyntaxError](err); ok {
		return &exitError{status: statusFailure, err: fmt.Errorf("what answers at %s is not a Faasm host (%w); check --host", host, bad)}
	}
	u, sent := errors.AsType[*url.Error](err)
	if sent {
		// The request's body may be a local file, and its error is then a local one.
		if pathErr, ok := errors.AsType[*fs.PathError](u.Err); ok {
			return &exitError{status: statusFailure, err: pathErr}
		}
	}
	op, network := errors.AsType[*net.OpError](err)
	_, dns := errors.AsType[*net.DNSError](err)
	switch {
	case network && op.Op == "dial" || dns:
		return &exitError{status: statusUnreachable, err: fmt.Errorf(
			`no host answers at %s (%s); start one with "faasm serve" or set --host`, host, networkReason(err))}
	case sent, network, errors.Is(err, io.ErrUnexpectedEOF):
		return &exitError{status: statusUnreachable, err: fmt.Errorf(
			"the connection to %s broke (%s)", host, networkReason(err))}
	}
	return &exitError{status: statusFailure, err: err}
}

// networkReason says in a few words why a connection failed.
func networkReason(err error) string {
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		return "no such name " + dns.Name
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return "timed out"
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err.Error()
	}
	return err.Error()
}

// explainProblem explains what a host replied.
func (e *env) explainProblem(p *client.Problem) *exitError {
	detail := p.Detail
	if detail == "" {
		detail = p.Title
	}
	x := &exitError{status: statusFailure, detail: callDetail(p)}
	switch p.Code {
	case "":
		x.err = fmt.Errorf("what answers at %s is not a Faasm host (HTTP status %d: %s); check --host",
			redactURL(e.host), p.Status, firstLine(detail))
	case client.CodeTrap, client.CodeReturnCode, client.CodeMemoryLimit, client.CodeDeadline,
		client.CodeCancelled, client.CodeHostLost:
		x.status = statusCallFailed
		x.err = errors.New(callFailure(p, detail))
	case client.CodeNoSuchFunction:
		x.err = fmt.Errorf(`%s; deploy it with "faasm deploy", or see "faasm ls"`, detail)
	case client.CodeNoSuchVersion:
		x.err = fmt.Errorf("%s; see %q", detail, "faasm versions "+p.Function)
	case client.CodeNoPreviousVersion:
		x.err = fmt.Errorf("%s; choose one of %q with --to", detail, "faasm versions "+p.Function)
	case client.CodeNoSuchCall:
		x.err = fmt.Errorf(`%s; see "faasm call list"`, detail)
	case client.CodeNotFinished:
		x.err = fmt.Errorf(`%s; wait for it with "faasm call wait"`, detail)
	case client.CodeNoSuchValue:
		x.err = fmt.Errorf(`%s; see "faasm state ls"`, detail)
	case client.CodeFenced:
		x.err = fmt.Errorf("%s; nothing was changed", detail)
	case client.CodeStateUnavailable:
		x.err = fmt.Errorf("%s; the log of the host at %s has the cause", detail, redactURL(e.host))
	case client.CodeOverloaded, client.CodeDraining:
		again := "later"
		if p.RetryAfter > 0 {
			again = "in " + p.RetryAfter.String()
		}
		x.err = fmt.Errorf("%s; try again %s", detail, again)
	case client.CodeInternal:
		request := ""
		if p.RequestID != "" {
			request = " (request " + p.RequestID + ")"
		}
		x.err = fmt.Errorf("internal error of the host at %s%s: %s", redactURL(e.host), request, detail)
	case client.CodeNotFound, client.CodeMethodNotAllowed:
		x.err = fmt.Errorf("the host at %s does not know this request (%s); see %q for its version",
			redactURL(e.host), detail, "faasm version")
	default:
		x.err = errors.New(detail)
	}
	return x
}

// callFailure says how a call failed, and what to do if that is known.
func callFailure(p *client.Problem, detail string) string {
	what, advice := ": "+detail, ""
	switch p.Code {
	case client.CodeTrap:
		what = " trapped: " + detail
	case client.CodeReturnCode:
		if p.ReturnCode != nil {
			what = fmt.Sprintf(" returned %d", *p.ReturnCode)
		}
		if p.CallID != "" {
			advice = fmt.Sprintf("; its output: %q", "faasm call output "+p.CallID)
		}
	case client.CodeMemoryLimit:
		advice = "; deploy it with a higher --memory"
	case client.CodeDeadline:
		advice = "; if it needs longer, deploy it with a higher --timeout"
	}
	if p.CallID != "" {
		what += " (call " + p.CallID + ")"
	}
	if p.Function == "" {
		return "call" + what + advice
	}
	return "function " + p.Function + what + advice
}

// outcomeCodes has the problem that each outcome of a call is.
var outcomeCodes = map[string]client.Code{
	client.OutcomeReturned:       client.CodeReturnCode,
	client.OutcomeTrapped:        client.CodeTrap,
	client.OutcomeDeadline:       client.CodeDeadline,
	client.OutcomeCancelled:      client.CodeCancelled,
	client.OutcomeMemoryLimit:    client.CodeMemoryLimit,
	client.OutcomeNoSuchFunction: client.CodeNoSuchFunction,
	client.OutcomeHostLost:       client.CodeHostLost,
	client.OutcomeRefused:        client.CodeOverloaded,
}

// callError is the error of a call that is done, or nil if it returned 0. Its status
// is always statusCallFailed.
func (e *env) callError(info *client.CallInfo) error {
	if info.Outcome == client.OutcomeReturned && (info.ReturnCode == nil || *info.ReturnCode == 0) {
		return nil
	}
	code, ok := outcomeCodes[info.Outcome]
	if !ok {
		return &exitError{status: statusCallFailed, err: fmt.Errorf("call %s of %s ended as %q, which this program does not know",
			info.ID, info.Function, info.Outcome)}
	}
	p := &client.Problem{Code: code, Title: info.Outcome, CallID: info.ID, Tenant: info.Tenant, Function: info.Function, ReturnCode: info.ReturnCode}
	if info.Failure != nil {
		p.Detail, p.Backtrace = info.Failure.Message, info.Failure.Backtrace
	}
	x := e.explainProblem(p)
	x.status = statusCallFailed
	return x
}

// callDetail is the lines below a failed call: where it was, innermost frame first,
// and what it last printed.
func callDetail(p *client.Problem) []string {
	var lines []string
	for _, f := range p.Backtrace {
		lines = append(lines, "at "+frameText(f))
	}
	for line := range strings.Lines(p.Log) {
		lines = append(lines, "| "+strings.TrimRight(line, "\r\n"))
	}
	return lines
}

// frameText shows a frame of a backtrace.
func frameText(f client.Frame) string {
	if f.FuncName == "" {
		return fmt.Sprintf("func[%d] +0x%x", f.FuncIndex, f.Offset)
	}
	return fmt.Sprintf("%s +0x%x (func[%d])", f.FuncName, f.Offset, f.FuncIndex)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return strings.TrimSpace(line)
}

// redactURL returns s without a password in it.
func redactURL(s string) string {
	if u, err := url.Parse(s); err == nil && u.User != nil {
		return u.Redacted()
	}
	return s
}
