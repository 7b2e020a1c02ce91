package hostif

import (
	"math"
	"time"
	"unicode/utf8"

	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/engine"
)

// The Calls group of module faasm. Every function returns an Errno.

const nameMax = 1024 // bytes of a function's name or a key

// faasmFunction makes a row. A parameter is an i32, or an i64 if its name ends with ":I".
func faasmFunction(name string, init InitRule, handler func(*Guest, *Args) Errno, params ...string) Function {
	f := Function{
		HostFunc: engine.HostFunc{Module: "faasm", Name: name, Results: []engine.ValType{engine.I32}},
		Init:     init,
		handler:  func(g *Guest, a *Args) uint64 { return uint64(handler(g, a)) },
	}
	for _, p := range params {
		t := engine.I32
		if n := len(p) - len(":I"); n > 0 && p[n:] == ":I" {
			p, t = p[:n], engine.I64
		}
		f.Params, f.Names = append(f.Params, t), append(f.Names, p)
	}
	return f
}

var callFunctions = []Function{
	faasmFunction("read_call_input", InitDeterministic, readCallInput, "buf", "cap", "size"),
	faasmFunction("write_call_output", InitRefused, writeCallOutput, "ptr", "len"),
	faasmFunction("append_call_output", InitRefused, appendCallOutput, "ptr", "len"),
	faasmFunction("chain_call", InitRefused, chainCall, "name", "name_len", "input", "input_len", "call"),
	faasmFunction("chain_func", InitRefused, chainFunc, "func", "input", "input_len", "call"),
	faasmFunction("await_call", InitRefused, awaitCall, "call", "status"),
	faasmFunction("await_any", InitRefused, awaitAny, "calls", "n", "timeout_ns:I", "index", "status"),
	faasmFunction("get_call_output", InitRefused, getCallOutput, "call", "buf", "cap", "size"),
	faasmFunction("cancel_call", InitRefused, cancelCall, "call"),
	faasmFunction("call_info", InitRefused, callInfo, "what", "buf", "cap", "size"),
}

// readCallInput copies the call's input.
//
//	buf, cap   where to, and at most how many bytes
//	size       u32: the input's full size
//
// EFAULT: buf or size is outside memory; nothing is written then.
func readCallInput(g *Guest, a *Args) Errno {
	return g.readInto(g.input(), a.u32(0), a.u32(1), a.u32(2))
}

// writeCallOutput replaces the output. From now on stdout is log.
//
// EFAULT: the bytes are outside memory. EFBIG: they exceed the output limit. The output
// is unchanged then.
func writeCallOutput(g *Guest, a *Args) Errno {
	b, ok := g.bytes(a.u32(0), a.u32(1))
	if !ok {
		return EFAULT
	}
	return g.setOutput(g.output[:0], b)
}

// appendCallOutput adds to the output; errors as writeCallOutput's.
func appendCallOutput(g *Guest, a *Args) Errno {
	b, ok := g.bytes(a.u32(0), a.u32(1))
	if !ok {
		return EFAULT
	}
	return g.setOutput(g.output, b)
}

func (g *Guest) setOutput(before, b []byte) Errno {
	if len(before)+len(b) > g.Limits.OutputMax {
		return EFBIG
	}
	if !g.explicit {
		g.explicit = true
		g.flushStdout()
	}
	g.output = append(before, b...)
	return Success
}

// name reads a function's name.
func (g *Guest) name(at, n uint32) (string, Errno) {
	if n == 0 || n > nameMax {
		return "", EINVAL
	}
	b, ok := g.bytes(at, n)
	if !ok {
		return "", EFAULT
	}
	// Another Faaslet may change what both have mapped: the copy is checked.
	name := string(b)
	if !utf8.ValidString(name) {
		return "", EINVAL
	}
	return name, Success
}

// chainCall submits a call of another function of the same tenant, and returns at once.
// Whether there is such a function is told by await_call.
//
//	name, name_len    1 to 1,024 bytes of UTF-8
//	input, input_len  are copied
//	call              u32: the call's handle
//
// EINVAL: the name's length or encoding. EFAULT: a range outside memory. EMFILE: this
// Faaslet has chained as many calls as it may. Nothing is submitted then.
func chainCall(g *Guest, a *Args) Errno {
	name, errno := g.name(a.u32(0), a.u32(1))
	if errno != Success {
		return errno
	}
	return g.chainTo(name, call.Entry{}, a.u32(2), a.u32(3), a.u32(4))
}

func (g *Guest) chainTo(name string, entry call.Entry, input, inputLen, handleAt uint32) Errno {
	in, ok := g.bytes(input, inputLen)
	if !ok || !g.fits(handleAt, 4) {
		return EFAULT
	}
	h, errno := g.chain(name, entry, append([]byte(nil), in...))
	if errno == Success {
		g.putU32(handleAt, h)
	}
	return errno
}

// chainFunc is chainCall for a function of this module, given by its index in table 0,
// of type () -> i32. It runs in a fresh Faaslet of the same version, whose memory is the
// module's, not the caller's.
//
// EINVAL: there is no function of that type at the index.
func chainFunc(g *Guest, a *Args) Errno {
	index := a.u32(0)
	if g.Table == "" || !g.Instance.TableHasEntry(g.Table, index) {
		return EINVAL
	}
	entry := call.Entry{Table: true, Index: index}
	return g.chainTo(g.Call.Request().Function, entry, a.u32(1), a.u32(2), a.u32(3))
}

// putStatus writes {kind u32, return_code i32}.
func (g *Guest) putStatus(at uint32, r *call.Result) Errno {
	b, ok := g.bytes(at, 8)
	if !ok {
		return EFAULT
	}
	le.PutUint32(b, uint32(r.Outcome))
	le.PutUint32(b[4:], uint32(r.ReturnCode))
	return Success
}

// awaitCall blocks until a call has finished.
//
//	status   {kind u32, return_code i32}; the kinds are call.Outcome's
//
// EBADF: no such handle. EFAULT: status is outside memory. It does not block then.
func awaitCall(g *Guest, a *Args) Errno {
	child, ok := g.handle(a.u32(0))
	if !ok {
		return EBADF
	}
	at := a.u32(1)
	if !g.fits(at, 8) {
		return EFAULT
	}
	return await(g, child, func(r *call.Result) Errno { return g.putStatus(at, r) })
}

// awaitAny blocks until one of n calls has finished.
//
//	calls, n     n handles, u32 each
//	timeout_ns   0 does not block; negative waits for ever
//	index        u32: which of them; the first in the array, if several have
//	status       as await_call's
//
// EINVAL: n is 0, or more than the calls that a Faaslet may chain. EBADF: one is no handle. EFAULT. ETIMEDOUT.
func awaitAny(g *Guest, a *Args) Errno {
	at, n, timeout, indexAt, statusAt := a.u32(0), a.u32(1), a.i64(2), a.u32(3), a.u32(4)
	if n == 0 || uint64(n) > uint64(g.Limits.HandlesMax) {
		return EINVAL
	}
	b, ok := g.bytes(at, 4*n)
	if !ok || !g.fits(indexAt, 4) || !g.fits(statusAt, 8) {
		return EFAULT
	}
	var calls []*call.Call
	for i := range n {
		c, ok := g.handle(le.Uint32(b[4*i:]))
		if !ok {
			return EBADF
		}
		if r := c.Result(); r != nil {
			g.putU32(indexAt, i)
			return g.putStatus(statusAt, r)
		}
		calls = append(calls, c)
	}
	if timeout == 0 {
		return TIMEDOUT
	}
	w := &call.Wait{Calls: calls, For: time.Duration(max(timeout, 0))}
	return suspend(g, w, func() Errno {
		for i, c := range calls {
			if r := c.Result(); r != nil {
				g.putU32(indexAt, uint32(i))
				return g.putStatus(statusAt, r)
			}
		}
		return TIMEDOUT
	})
}

// getCallOutput copies the output of a call that has finished; as read_call_input.
//
// EBADF: no such handle. EAGAIN: it has not finished.
func getCallOutput(g *Guest, a *Args) Errno {
	child, ok := g.handle(a.u32(0))
	if !ok {
		return EBADF
	}
	r := child.Result()
	if r == nil {
		return EAGAIN
	}
	return g.readInto(r.Output, a.u32(1), a.u32(2), a.u32(3))
}

// cancelCall cancels a call and its descendants. One that has finished is left as it is.
//
// EBADF: no such handle.
func cancelCall(g *Guest, a *Args) Errno {
	child, ok := g.handle(a.u32(0))
	if !ok {
		return EBADF
	}
	child.Cancel(call.Cancelled)
	return Success
}

// What call_info can tell.
const (
	infoID = iota
	infoTenant
	infoFunction
	infoParent
	infoDeadlineLeft
	infoAttempt
)

// callInfo tells about the call itself.
//
//	what   0 id, 32 hexadecimal digits; 1 tenant; 2 function; 3 parent's id, empty for an
//	       outermost call; 4 time left in nanoseconds, u64, all ones if there is no
//	       deadline; 5 attempt, u32, from 1
//
// EINVAL: another what.
func callInfo(g *Guest, a *Args) Errno {
	r := g.Call.Request()
	var data []byte
	switch a.u32(0) {
	case infoID:
		data = []byte(r.ID.String())
	case infoTenant:
		data = []byte(r.Tenant)
	case infoFunction:
		data = []byte(r.Function)
	case infoParent:
		if !r.Parent.IsZero() {
			data = []byte(r.Parent.String())
		}
	case infoDeadlineLeft:
		left := uint64(math.MaxUint64)
		if d := g.Call.Deadline(); !d.IsZero() {
			left = uint64(max(0, time.Until(d)))
		}
		data = le.AppendUint64(nil, left)
	case infoAttempt:
		data = le.AppendUint32(nil, uint32(r.Attempt))
	default:
		return EINVAL
	}
	return g.readInto(data, a.u32(1), a.u32(2), a.u32(3))
}
