package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/linux"
	"github.com/faasm-go/faasm/internal/vmem"
)

// chainLoop chains the function "noop" and awaits it, again and again. It puts the time of
// each into memory, from its start, and returns them as its output.
const chainLoop = `(module
  (import "faasm" "chain_call" (func $chain (param i32 i32 i32 i32 i32) (result i32)))
  (import "faasm" "await_call" (func $await (param i32 i32) (result i32)))
  (import "faasm" "write_call_output" (func $output (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
  (memory 4)
  (data (i32.const 0) "noop")
  (func (export "faasm_call") (result i32) (local $i i32) (local $start i64)
    (local.set $i (i32.const 1024))
    (loop $again
      (drop (call $clock (i32.const 1) (i64.const 0) (i32.const 32)))
      (local.set $start (i64.load (i32.const 32)))
      (if (call $chain (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 8)) (then unreachable))
      (if (call $await (i32.load (i32.const 8)) (i32.const 16)) (then unreachable))
      (if (i32.load (i32.const 16)) (then unreachable))
      (drop (call $clock (i32.const 1) (i64.const 0) (i32.const 32)))
      (i64.store (local.get $i) (i64.sub (i64.load (i32.const 32)) (local.get $start)))
      (local.set $i (i32.add (local.get $i) (i32.const 8)))
      (br_if $again (i32.lt_u (local.get $i) (i32.const 81024))))
    (call $output (i32.const 1024) (i32.const 80000))))`

// chainLoopRounds is how often chainLoop chains.
const chainLoopRounds = 10_000

// awaiter chains the function "hold" and awaits it.
const awaiter = `(module
  (import "faasm" "chain_call" (func $chain (param i32 i32 i32 i32 i32) (result i32)))
  (import "faasm" "await_call" (func $await (param i32 i32) (result i32)))
  (memory 1)
  (data (i32.const 0) "hold")
  (func (export "faasm_call") (result i32)
    (if (call $chain (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 8)) (then unreachable))
    (call $await (i32.load (i32.const 8)) (i32.const 16))))`

func chain(ctx context.Context, r *Run) error {
	if err := chainLatency(r); err != nil {
		return err
	}
	if err := fanOut(r); err != nil {
		return err
	}
	return blocked(ctx, r, 20_000)
}

func chainLatency(r *Run) error {
	l, err := newLocalWith(defaultLimits, "noop")
	if err != nil {
		return err
	}
	defer l.close()
	if err := l.addText("loop", chainLoop, defaultLimits); err != nil {
		return err
	}
	var times samples
	for i := -1; i < r.pick(20, 5); i++ {
		res, done, err := l.invoke("bench", "loop", nil)
		if err != nil {
			return err
		}
		for k := 0; i >= 0 && k < chainLoopRounds; k++ {
			times = append(times, time.Duration(binary.LittleEndian.Uint64(res.Output[8*k:])))
		}
		done()
	}
	r.addLatency("chain_await", "us", times)
	return nil
}

// fanOut times one call that chains 1,000 no-ops and awaits them all.
func fanOut(r *Run) error {
	l, err := newLocalWith(defaultLimits, "noop", "fanout")
	if err != nil {
		return err
	}
	defer l.close()
	var times samples
	for i := -3; i < r.pick(50, 15); i++ {
		start := time.Now()
		res, done, err := l.invoke("bench", "fanout", []byte("1000 noop"))
		if err != nil {
			return err
		}
		if got := strings.TrimSpace(string(res.Output)); got != "1000" {
			done()
			return fmt.Errorf("fan-out of 1000: %s calls returned", got)
		}
		if i >= 0 {
			times = append(times, time.Since(start))
		}
		done()
	}
	r.Add("fanout_1000", "ms", times.quantile(0.5, time.Millisecond))
	return nil
}

// holding is a host whose function "hold" returns when release is closed, without a
// Faaslet or a place: so that those who await it can be counted alone.
type holding struct {
	*local
	mu   sync.Mutex
	held []*call.Call
}

func (h *holding) Chain(parent *call.Call, function string, entry call.Entry, input []byte) *call.Call {
	if function != "hold" {
		return h.local.Chain(parent, function, entry, input)
	}
	c := call.New(&call.Request{ID: call.NewID(), Parent: parent.ID(), Tenant: parent.Request().Tenant, Function: function}, parent)
	h.mu.Lock()
	h.held = append(h.held, c)
	h.mu.Unlock()
	return c
}

// blocked counts the threads with n Faaslets blocked in await_call, and what each takes.
func blocked(ctx context.Context, r *Run, n int) error {
	restore, err := needMaps(n, r)
	if err != nil {
		r.Skip("blocked", err.Error())
		r.Skip("blocked_threads", err.Error())
		r.Skip("blocked_pss", err.Error())
		return nil
	}
	defer restore()
	b, err := newBlockedFaaslets(vmem.FastLayout, n, awaiter)
	if err != nil {
		return err
	}
	defer b.close()

	const warm = 1000 // PSS is taken as a slope, so that what is there anyway does not count
	if err := b.raise(ctx, warm); err != nil {
		return err
	}
	before, err := linux.PSS()
	if err != nil {
		return err
	}
	if err := b.raise(ctx, n); err != nil {
		return err
	}
	after, err := linux.PSS()
	if err != nil {
		return err
	}
	threads, err := linux.Threads()
	if err != nil {
		return err
	}
	r.Add("blocked", "count", float64(n))
	r.Add("blocked_threads", "count", float64(threads))
	r.Add("blocked_pss", "KB", float64(after-before)/float64(n-warm)/1000)
	return nil
}
