package hostif

import (
	"bytes"
	"fmt"

	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/engine"
)

// The call functions that guests of the original project import from module env, in
// today's dialect and in that of 2020. They have no way to report a bad pointer, so one
// traps, where the original's host would have read or written it.

// upstreamFunction makes a row of i32 parameters.
func upstreamFunction(name string, init InitRule, results int, handler func(*Guest, *Args) uint64, params ...string) Function {
	f := Function{
		HostFunc: engine.HostFunc{Module: "env", Name: name},
		Names:    params,
		Init:     init,
		handler:  handler,
	}
	for range params {
		f.Params = append(f.Params, engine.I32)
	}
	for range results {
		f.Results = append(f.Results, engine.I32)
	}
	return f
}

var upstreamFunctions = []Function{
	upstreamFunction("__faasm_read_input", InitDeterministic, 1, upReadInput, "buf", "len"),
	upstreamFunction("__faasm_write_output", InitRefused, 0, upWriteOutput, "ptr", "len"),
	upstreamFunction("__faasm_chain_name", InitRefused, 1, upChainName, "name", "input", "input_len"),
	upstreamFunction("__faasm_chain_function", InitRefused, 1, upChainName, "name", "input", "input_len"),
	upstreamFunction("__faasm_chain_ptr", InitRefused, 1, upChainPtr, "index", "input", "input_len"),
	upstreamFunction("__faasm_chain_this", InitRefused, 1, upChainThis, "idx", "input", "input_len"),
	upstreamFunction("__faasm_get_idx", InitDeterministic, 1, upGetIdx),
	upstreamFunction("__faasm_await_call", InitRefused, 1, upAwaitCall, "call"),
	upstreamFunction("__faasm_await_call_output", InitRefused, 1, upAwaitCallOutput, "call", "out", "len"),
}

// Dialect2020 are the functions that only guests of 2020 import. A guest that imports one
// of them, or that exports no malloc, passes __faasm_await_call_output a buffer and its
// capacity; any other one passes where the host is to write the address and the length of
// memory that it gets from the guest's malloc. Both have the same name and type.
var Dialect2020 = []string{
	"__faasm_chain_function", "__faasm_chain_this", "__faasm_get_idx",
	"__faasm_lock_state_global", "__faasm_unlock_state_global",
}

// fault makes the host call trap.
func (g *Guest) fault(format string, args ...any) uint64 {
	g.trap = fmt.Sprintf(format, args...)
	return 0
}

// upReadInput copies min(len, size) bytes of the input and returns how many; with len 0 it
// returns the input's size.
func upReadInput(g *Guest, a *Args) uint64 {
	input := g.input()
	if a.u32(1) == 0 {
		return uint64(uint32(len(input)))
	}
	b, ok := g.bytes(a.u32(0), a.u32(1))
	if !ok {
		return g.fault("__faasm_read_input: a buffer of %d bytes at %#x is outside memory", a.u32(1), a.u32(0))
	}
	return uint64(copy(b, input))
}

func upWriteOutput(g *Guest, a *Args) uint64 {
	switch writeCallOutput(g, a) {
	case EFAULT:
		return g.fault("__faasm_write_output: %d bytes at %#x are outside memory", a.u32(1), a.u32(0))
	case EFBIG:
		return g.fault("__faasm_write_output: %d bytes exceed the limit of %d", a.u32(1), g.Limits.OutputMax)
	}
	return 0
}

// cString reads a string that ends with NUL, of at most nameMax bytes.
func (g *Guest) cString(at uint32) (string, bool) {
	b, ok := g.cBytes(at)
	return string(b), ok
}

// cBytes is the guest's memory that has such a string, without the NUL.
func (g *Guest) cBytes(at uint32) ([]byte, bool) {
	m := g.Instance.Memory()
	if uint64(at) >= uint64(len(m)) {
		return nil, false
	}
	m = m[at:]
	m = m[:min(len(m), nameMax+1)]
	n := bytes.IndexByte(m, 0)
	if n < 0 {
		return nil, false
	}
	return m[:n], true
}

func (g *Guest) upChain(name string, entry call.Entry, input, n uint32) uint64 {
	in, ok := g.bytes(input, n)
	if !ok {
		return g.fault("chain %s: an input of %d bytes at %#x is outside memory", name, n, input)
	}
	h, errno := g.chain(name, entry, append([]byte(nil), in...))
	if errno != Success {
		return g.fault("chain %s: this call has chained %d others, which is the limit", name, g.Limits.HandlesMax)
	}
	return uint64(h)
}

func upChainName(g *Guest, a *Args) uint64 {
	name, ok := g.cString(a.u32(0))
	if !ok {
		return g.fault("chain: the name at %#x is outside memory or longer than %d bytes", a.u32(0), nameMax)
	}
	return g.upChain(name, call.Entry{}, a.u32(1), a.u32(2))
}

func upChainPtr(g *Guest, a *Args) uint64 {
	index := a.u32(0)
	if g.Table == "" || !g.Instance.TableHasEntry(g.Table, index) {
		return g.fault("__faasm_chain_ptr: there is no function of type () -> i32 at table index %d", index)
	}
	return g.upChain(g.Call.Request().Function, call.Entry{Table: true, Index: index}, a.u32(1), a.u32(2))
}

func upChainThis(g *Guest, a *Args) uint64 {
	return g.upChain(g.Call.Request().Function, call.Entry{Index: a.u32(0)}, a.u32(1), a.u32(2))
}

func upGetIdx(g *Guest, _ *Args) uint64 {
	if e := g.Call.Request().Entry; g.Init == nil && !e.Table {
		return uint64(e.Index)
	}
	return 0
}

// upAwait is what a handler returns to wait for a call and go on with its result and its
// code, which is 1 if it failed.
func (g *Guest) upAwait(name string, h uint32, then func(r *call.Result, code uint64) uint64) uint64 {
	child, ok := g.handle(h)
	if !ok {
		return g.fault("%s: this call has chained no call %d", name, h)
	}
	return await(g, child, func(r *call.Result) uint64 {
		if r.Outcome != call.Returned {
			return then(r, 1)
		}
		return then(r, uint64(uint32(r.ReturnCode)))
	})
}

func upAwaitCall(g *Guest, a *Args) uint64 {
	return g.upAwait("__faasm_await_call", a.u32(0), func(_ *call.Result, code uint64) uint64 { return code })
}

// upAwaitCallOutput is upAwaitCall, and hands over the output; see Dialect2020 for how.
func upAwaitCallOutput(g *Guest, a *Args) uint64 {
	out, n := a.u32(1), a.u32(2)
	return g.upAwait("__faasm_await_call_output", a.u32(0), func(r *call.Result, code uint64) uint64 {
		if !g.MallocsOutput {
			b, ok := g.bytes(out, n)
			if !ok {
				return g.fault("__faasm_await_call_output: a buffer of %d bytes at %#x is outside memory", n, out)
			}
			copy(b, r.Output)
			return code
		}
		return g.upHandOver(out, n, r.Output, code)
	})
}

// upHandOver copies output to memory of the guest's malloc, writes its address and length
// to out and n, and returns code.
func (g *Guest) upHandOver(out, n uint32, output []byte, code uint64) uint64 {
	const name = "__faasm_await_call_output"
	if !g.fits(out, 4) || !g.fits(n, 4) {
		return g.fault("%s: %#x or %#x is outside memory", name, out, n)
	}
	var ptr uint32
	if len(output) > 0 {
		var ok bool
		if ptr, ok = g.malloc(uint32(len(output))); !ok {
			return code
		}
		b, ok := g.bytes(ptr, uint32(len(output)))
		if ptr == 0 || !ok {
			return g.fault("%s: the guest's malloc has no room for %d bytes", name, len(output))
		}
		copy(b, output)
	}
	g.putU32(out, ptr)
	g.putU32(n, uint32(len(output)))
	return code
}

// malloc runs the guest's own. It returns false if the guest died in it or was dropped.
func (g *Guest) malloc(n uint32) (uint32, bool) {
	switch g.Driver.Drive(g.Instance.CallGuest("malloc", n)) {
	case engine.GuestDone:
		return uint32(g.Instance.Result()), true
	case engine.NoEntry:
		g.fault("the guest's malloc is not a function (i32) -> i32")
	case engine.Trapped, engine.HostCall:
		g.Died = true
	}
	return 0, false
}
