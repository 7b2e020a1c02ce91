package hostif_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/engine"
	"github.com/faasm-go/faasm/internal/hostif"
	"github.com/faasm-go/faasm/internal/state"
)

// Whatever a guest passes, in a call or while it is initialised: a function of faasm or
// WASI answers with an errno that it knows; one of env may trap instead; neither changes
// memory when it says no; nothing is written past the end of memory; and the output keeps
// its bound.
func TestArguments(t *testing.T) { rapid.Check(t, checkArguments(argumentsTier(t))) }

// FuzzArguments searches for what TestArguments promises not to be there. What it finds
// interesting is long, so give it -fuzzminimizetime 10x.
func FuzzArguments(f *testing.F) {
	for seed := range byte(4) {
		b := make([]byte, 8<<10) // enough draws for sixteen calls
		rand.NewChaCha8([32]byte{seed}).Read(b)
		f.Add(b)
	}
	f.Fuzz(rapid.MakeFuzz(checkArguments(argumentsTier(f))))
}

// argumentsTier has little memory, for the sizes that are drawn are any.
func argumentsTier(t testing.TB) *state.Tier {
	return newTier(t, newStore(t), state.Options{MemoryMax: 64 << 20})
}

func checkArguments(tier *state.Tier) func(*rapid.T) {
	tenants := 0
	return func(t *rapid.T) {
		tenants++
		checkArgumentsOf(t, fmt.Sprint("tenant-", tenants), tier)
	}
}

func checkArgumentsOf(t *rapid.T, tenant string, tier *state.Tier) {
	memory := initMemory()
	for range rapid.IntRange(0, 8).Draw(t, "pokes") {
		thing := rapid.SampledFrom([]int{nameAt, iovecsAt, timerAt, stdinAt, freeAt, mallocAt}).Draw(t, "thing")
		le.PutUint32(memory[thing+4*rapid.IntRange(0, 10).Draw(t, "word"):], uint32(number.Draw(t, "value")))
	}
	p := newPuppet(t, memory)
	defer p.close()
	logs := call.NewLogBuffer(call.LogBufferOptions{})
	p.Call, p.State = newCall(call.Request{Tenant: tenant, Function: "f", Input: rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "input")}), tier
	p.Name, p.Log = "f", logs.Writer(p.Call.Request())
	p.MallocsOutput = rapid.Bool().Draw(t, "the host mallocs")
	host := &briskHost{}
	var trace []string
	p.Trace = func(line string) { trace = append(trace, line) }
	if rapid.Bool().Draw(t, "initialised") {
		p.Init = &hostif.Initialisation{Random: rand.NewChaCha8([32]byte{})}
		p.Instance.LogicalClock()
	} else {
		p.Host = host
		for n := range uint64(3) { // of which the second doesn't end by itself
			p.call(indexOf(t, "__faasm_chain_name"), nameAt, 200, n)
		}
	}
	for range rapid.IntRange(1, 16).Draw(t, "calls") {
		index := rapid.SampledFrom(tried).Draw(t, "function")
		f := &hostif.Functions[index]
		args := make([]uint64, len(f.Params))
		copy(args, initRows[f.Name].args)
		for i := range args {
			if rapid.IntRange(0, 2).Draw(t, "alter") == 0 {
				args[i] = number.Draw(t, "argument")
			}
		}
		p.prepare(args)
		before := bytes.Clone(p.Instance.Memory())
		host.patient = strings.Contains(f.Name, "state")
		event, result := p.call(index, args...)
		errno := hostif.Errno(result)
		refused := p.Init != nil && f.Init == hostif.InitRefused
		call := fmt.Sprintf("%s.%s%v", f.Module, f.Name, args)
		if p.Instance.Size() != page {
			t.Fatalf("%s: memory has %d bytes", call, p.Instance.Size())
		}
		saidNo := event == engine.Trapped
		switch {
		case event == engine.HostCall:
			if _, cancelled := p.Call.Cancelled(); !cancelled && f.Name != "proc_exit" {
				t.Fatalf("%s: the guest was dropped", call)
			}
			return
		case f.Module == "env":
			if refused && !saidNo {
				t.Fatalf("%s was served during initialisation", call)
			}
		case event != engine.Finished || uint32(errno) != result || strings.HasPrefix(errno.String(), "errno"):
			t.Fatalf("%s: event %d, %v, %d", call, event, errno, result)
		case refused != (p.Init != nil && errno == hostif.ENOTSUP):
			t.Fatalf("%s: %v during initialisation", call, errno)
		default:
			saidNo = errno != hostif.Success
		}
		if saidNo && !bytes.Equal(before, p.Instance.Memory()) {
			t.Fatalf("%s said no, and wrote to memory\n%s", call, strings.Join(trace, "\n"))
		}
		if len(p.Output()) > p.Limits.OutputMax {
			t.Fatalf("%s: %d bytes of output", call, len(p.Output()))
		}
		if event == engine.Trapped {
			if !strings.Contains(p.Instance.Trap().Message, " ") {
				t.Fatalf("%s: trap %q", call, p.Instance.Trap().Message)
			}
			return
		}
	}
}

// tried are the functions to try: all of them, and four times those that are not pending.
var tried = func() []int {
	var out []int
	for i, f := range hostif.Functions {
		out = append(out, i)
		if _, ok := initRows[f.Name]; ok && f.Module != "wasi_unstable" {
			out = append(out, i, i, i)
		}
	}
	return out
}()

// number draws an argument that is likely to mean something: a small number, a place at or
// near one of the things in memory, or near an end of memory or of the numbers.
var number = rapid.Custom(func(t *rapid.T) uint64 {
	if rapid.Bool().Draw(t, "small") {
		return uint64(rapid.Int64Range(-1, 6).Draw(t, "number"))
	}
	near := rapid.SampledFrom([]uint64{0, iovecsAt, timerAt, stdinAt, freeAt, argsAt, page, 1 << 31, 1 << 32, 1 << 63}).Draw(t, "near")
	if rapid.Bool().Draw(t, "exact") {
		return near
	}
	return near + uint64(rapid.Int64Range(-50, 50).Draw(t, "offset"))
})

// briskHost ends every wait: half of the calls that are chained have finished at once, and
// the others finish when they are awaited. Whoever blocks for other reasons is cancelled,
// unless the host is patient.
type briskHost struct {
	running []*call.Call
	patient bool
}

func (h *briskHost) Chain(parent *call.Call, function string, entry call.Entry, input []byte) *call.Call {
	c := call.New(&call.Request{ID: call.NewID(), Parent: parent.ID(), Function: function, Entry: entry, Input: input}, parent)
	if len(input)%2 == 0 {
		c.Finish(call.Result{Output: append(input, "output"...)})
	} else {
		h.running = append(h.running, c)
	}
	return c
}

func (h *briskHost) Await(_, child *call.Call) { child.Finish(call.Result{ReturnCode: 3}) }

func (h *briskHost) Block(c *call.Call, children bool, wait func()) {
	if !children && !h.patient {
		c.Cancel(call.Cancelled)
	}
	for _, child := range h.running {
		child.Finish(call.Result{Outcome: call.Trapped})
	}
	wait()
}

// Both dialects of __faasm_await_call_output check where they are to write before they
// wait, and what the guest's malloc returned before it is written to.
func TestUpstream_awaitCallOutputBadPointers(t *testing.T) {
	const max = 0xffffffff
	for _, tt := range []struct {
		name    string
		mallocs bool
		out, n  uint64
		malloc  uint32
		message string
	}{
		{"today, address", true, page - 3, freeAt, freeAt, "is outside memory"},
		{"today, length", true, freeAt, max, freeAt, "is outside memory"},
		{"today, malloc", true, freeAt, 1100, page - 7, "malloc has no room for 8 bytes"},
		{"2020, address", false, max, 1, 0, "a buffer of 1 bytes at 0xffffffff is outside memory"},
		{"2020, length", false, freeAt, page, 0, "is outside memory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPuppet(t, initMemory())
			defer p.close()
			p.Call, p.Host, p.MallocsOutput = newCall(call.Request{}), &briskHost{}, tt.mallocs
			if e, h := p.call(indexOf(t, "__faasm_chain_name"), nameAt, 200, 2); e != engine.Finished || h != 1 {
				t.Fatalf("chain: event %d, handle %d", e, h)
			}
			le.PutUint32(p.Instance.Memory()[mallocAt:], tt.malloc)
			args := []uint64{1, tt.out, tt.n}
			p.prepare(args)
			before := bytes.Clone(p.Instance.Memory())
			if e, _ := p.call(indexOf(t, "__faasm_await_call_output"), args...); e != engine.Trapped {
				t.Fatalf("event %d; want a trap", e)
			}
			if got := p.Instance.Trap().Message; !strings.Contains(got, tt.message) {
				t.Errorf("trap %q; want %q", got, tt.message)
			}
			if !bytes.Equal(before, p.Instance.Memory()) {
				t.Error("it wrote to memory")
			}
		})
	}
}
