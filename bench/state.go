package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/faasm-go/faasm/internal/api"
	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/daemon"
	"github.com/faasm-go/faasm/internal/engine"
	"github.com/faasm-go/faasm/internal/faaslet"
	"github.com/faasm-go/faasm/internal/sched"
	"github.com/faasm-go/faasm/internal/state"
	"github.com/faasm-go/faasm/internal/state/global"
	"github.com/faasm-go/faasm/internal/vmem"
)

// stateBench tells what shared state costs: on one host, between two over Redis, and beside
// what functions do without it.
func stateBench(ctx context.Context, r *Run) error {
	dir, err := os.MkdirTemp("", "faasm-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	store, err := global.OpenEmbedded(dir + "/state.db")
	if err != nil {
		return err
	}
	l, err := newLocalState(store)
	if err != nil {
		return err
	}
	defer l.close()
	for _, measure := range []func(*Run, *local) error{mapState, copyState, passOnHost} {
		if err := measure(r, l); err != nil {
			return err
		}
	}
	if err := lockHandOver(r, l, "lock_local", "lock_state_write", "unlock_state"); err != nil {
		return err
	}
	if err := lockHandOver(r, l, "lock_global_embedded", "lock_state_global_write", "unlock_state_global"); err != nil {
		return err
	}
	if err := passOverHTTP(ctx, r); err != nil {
		return err
	}
	return overRedis(ctx, r, dir)
}

// newLocalState makes a host with state in a store, which it owns.
func newLocalState(store global.Store) (*local, error) {
	l, err := newLocal(faaslet.Options{}, sched.Options{})
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	l.world.State, err = state.New(state.Options{Store: store, Arena: l.runtime.Arena()})
	if err != nil {
		return nil, errors.Join(err, l.close(), store.Close())
	}
	return l, nil
}

const (
	kib = 1 << 10
	mib = 1 << 20
)

// stateLimits let a function hold the largest value that is passed, and a copy.
var stateLimits = faaslet.Limits{MemoryMax: 512 * mib, Timeout: time.Minute}

// stateImports are what the functions below are made of. Each begins with a memory in whose
// first bytes there are: 0 a key, 64 an address, 72 a length, 80 a clock's reading, 88 a
// call's handle, 96 its status; 128 a function's name; from 1,024 on what it tells.
const stateImports = `(module
  (import "faasm" "get_state" (func $get (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "faasm" "set_state" (func $set (param i32 i32 i32 i32) (result i32)))
  (import "faasm" "push_state" (func $push (param i32 i32) (result i32)))
  (import "faasm" "push_state_offset" (func $push_offset (param i32 i32 i64 i64) (result i32)))
  (import "faasm" "pull_state" (func $pull (param i32 i32) (result i32)))
  (import "faasm" "lock_state_write" (func $lock_state_write (param i32 i32) (result i32)))
  (import "faasm" "unlock_state" (func $unlock_state (param i32 i32) (result i32)))
  (import "faasm" "lock_state_global_write" (func $lock_state_global_write_ (param i32 i32 i64) (result i32)))
  (import "faasm" "unlock_state_global" (func $unlock_state_global (param i32 i32) (result i32)))
  (import "faasm" "chain_call" (func $chain (param i32 i32 i32 i32 i32) (result i32)))
  (import "faasm" "await_call" (func $await (param i32 i32) (result i32)))
  (import "faasm" "read_call_input" (func $input (param i32 i32 i32) (result i32)))
  (import "faasm" "write_call_output" (func $output (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
  (memory %d)
  (data (i32.const 0) "%s")
  (data (i32.const 128) "%s")
  (func $lock_state_global_write (param i32 i32) (result i32)
    (call $lock_state_global_write_ (local.get 0) (local.get 1) (i64.const -1)))
  (func $clock (result i64)
    (drop (call $clock_time_get (i32.const 0) (i64.const 0) (i32.const 80)))
    (i64.load (i32.const 80)))
  (func $get_state (param $flags i32) (param $size i32) (result i32)
    (if (call $get (i32.const 0) (i32.const 4) (local.get $flags) (local.get $size) (i32.const 64) (i32.const 72)) (then unreachable))
    (i32.load (i32.const 64)))
  (func $touch (param $at i32) (param $n i32) (result i32) (local $end i32) (local $sum i32)
    (local.set $end (i32.add (local.get $at) (local.get $n)))
    (loop $again
      (local.set $sum (i32.add (local.get $sum) (i32.load8_u (local.get $at))))
      (local.set $at (i32.add (local.get $at) (i32.const 4096)))
      (br_if $again (i32.lt_u (local.get $at) (local.get $end))))
    (local.get $sum))
  (func $run (param $input i32) (param $n i32)
    (if (call $chain (i32.const 128) (i32.const 4) (local.get $input) (local.get $n) (i32.const 88)) (then unreachable))
    (if (call $await (i32.load (i32.const 88)) (i32.const 96)) (then unreachable))
    (if (i32.load (i32.const 96)) (then unreachable)))
  `

// addState adds a function of stateImports and a body. key and callee are of four letters.
func (l *local) addState(name string, pages int, key, callee, body string, args ...any) error {
	return l.addText(name, fmt.Sprintf(stateImports, pages, key, callee)+fmt.Sprintf(body, args...)+")", stateLimits)
}

// timesOf is the output of a function that tells nanoseconds, eight bytes each.
func (l *local) timesOf(function string) (samples, error) {
	res, done, err := l.invoke("bench", function, nil)
	if err != nil {
		return nil, err
	}
	defer done()
	var times samples
	for b := res.Output; len(b) >= 8; b = b[8:] {
		times = append(times, time.Duration(binary.LittleEndian.Uint64(b)))
	}
	return times, nil
}

// repeat gathers the times of n runs of a function, after two to warm up.
func (l *local) repeat(function string, n int) (samples, error) {
	var all samples
	for i := -2; i < n; i++ {
		times, err := l.timesOf(function)
		if err != nil {
			return nil, err
		}
		if i >= 0 {
			all = append(all, times...)
		}
	}
	return all, nil
}

const (
	// makeState makes a value and writes to each of its pages.
	makeState = `(func (export "faasm_call") (result i32)
    (memory.fill (call $get_state (i32.const 1) (i32.const %d)) (i32.const 1) (i32.const %[1]d))
    (i32.const 0))`
	// getMapped asks for a mapped value again and again.
	getMapped = `(func (export "faasm_call") (result i32) (local $i i32) (local $start i64)
    (drop (call $get_state (i32.const 0) (i32.const 0)))
    (local.set $i (i32.const 1024))
    (loop $again
      (local.set $start (call $clock))
      (drop (call $get_state (i32.const 0) (i32.const 0)))
      (i64.store (local.get $i) (i64.sub (call $clock) (local.get $start)))
      (local.set $i (i32.add (local.get $i) (i32.const 8)))
      (br_if $again (i32.lt_u (local.get $i) (i32.const 81024))))
    (drop (call $output (i32.const 1024) (i32.const 80000)))
    (i32.const 0))`
	// mapOnce maps a value that this host has, reads each page, writes each page.
	mapOnce = `(func (export "faasm_call") (result i32) (local $start i64) (local $at i32)
    (local.set $start (call $clock))
    (local.set $at (call $get_state (i32.const 0) (i32.const 0)))
    (i64.store (i32.const 1024) (i64.sub (call $clock) (local.get $start)))
    (drop (call $touch (local.get $at) (i32.load (i32.const 72))))
    (i64.store (i32.const 1032) (i64.sub (call $clock) (local.get $start)))
    (drop (call $output (i32.const 1024) (i32.const 16)))
    (i32.const 0))`
)

// mapState times get_state: of what is mapped, and of what this host has and the Faaslet
// has not mapped yet.
func mapState(r *Run, l *local) error {
	values := []struct {
		key, figure string
		size        int
	}{{"k064", "map_64kib", 64 * kib}, {"m016", "map_16mib", 16 * mib}}
	for _, v := range values {
		err := errors.Join(
			l.addState("make "+v.key, 2, v.key, "none", makeState, v.size),
			l.addState("map "+v.key, 2, v.key, "none", mapOnce),
			l.addState("get "+v.key, 2, v.key, "none", getMapped))
		if err != nil {
			return err
		}
		if _, err := l.timesOf("make " + v.key); err != nil {
			return err
		}
	}
	times, err := l.repeat("get m016", r.pick(20, 5))
	if err != nil {
		return err
	}
	r.addLatency("get_mapped", "us", times)
	for _, v := range values {
		times, err := l.repeat("map "+v.key, r.pick(400, 100))
		if err != nil {
			return err
		}
		var maps, touches samples
		for i := 0; i < len(times); i += 2 {
			maps, touches = append(maps, times[i]), append(touches, times[i+1])
		}
		r.Add(v.figure+"_p50", "us", maps.quantile(0.5, time.Microsecond))
		r.Add(v.figure+"_touched_p50", "us", touches.quantile(0.5, time.Microsecond))
	}
	return nil
}

const (
	copyBytes  = 16 * mib
	copyRounds = 8
	// copyLoop copies a value to the guest's own memory and back, once to have all pages
	// there and then copyRounds times. It tells the time of all reads and of all writes.
	copyLoop = `(func (export "faasm_call") (result i32) (local $at i32) (local $i i32) (local $start i64) (local $mid i64)
    (local.set $at (call $get_state (i32.const 0) (i32.const 0)))
    (memory.copy (i32.const 131072) (local.get $at) (i32.const %d))
    (memory.copy (local.get $at) (i32.const 131072) (i32.const %[1]d))
    (loop $again
      (local.set $start (call $clock))
      (memory.copy (i32.const 131072) (local.get $at) (i32.const %[1]d))
      (local.set $mid (call $clock))
      (memory.copy (local.get $at) (i32.const 131072) (i32.const %[1]d))
      (i64.store (i32.const 1032) (i64.add (i64.load (i32.const 1032)) (i64.sub (call $clock) (local.get $mid))))
      (i64.store (i32.const 1024) (i64.add (i64.load (i32.const 1024)) (i64.sub (local.get $mid) (local.get $start))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $i) (i32.const %d))))
    (drop (call $output (i32.const 1024) (i32.const 16)))
    (i32.const 0))`
)

// copyState compares the speed at which a guest reads and writes a mapped value with that
// of native code which has mapped the same.
func copyState(r *Run, l *local) error {
	if err := l.addState("copy", 2+copyBytes/vmem.WasmPageSize, "m016", "none", copyLoop, copyBytes, copyRounds); err != nil {
		return err
	}
	s := l.world.State.Session("bench", now)
	defer s.Close()
	view, err := s.View("m016", state.Access{}, 0, -1)
	if err != nil {
		return err
	}
	shared, own := view.Memory.Bytes()[view.Offset:][:copyBytes], make([]byte, copyBytes)
	var reads, writes []float64
	for i := -1; i < r.pick(15, 5); i++ {
		var read, write time.Duration
		for range copyRounds {
			start := time.Now()
			copy(own, shared)
			middle := time.Now()
			copy(shared, own)
			read, write = read+middle.Sub(start), write+time.Since(middle)
		}
		guest, err := l.timesOf("copy")
		if err != nil {
			return err
		}
		if i >= 0 {
			reads = append(reads, float64(read)/float64(guest[0]))
			writes = append(writes, float64(write)/float64(guest[1]))
		}
	}
	r.Add("guest_read_over_memcpy", "ratio", median(reads))
	r.Add("guest_write_over_memcpy", "ratio", median(writes))
	r.Add("guest_copy_over_memcpy", "ratio", min(median(reads), median(writes)))
	return nil
}

// passed are the sizes that are passed from one function to another.
var passed = []struct {
	name string
	size int
}{{"1kib", kib}, {"1mib", mib}, {"64mib", 64 * mib}}

const (
	// passShared: the data is in a value that is mapped, and the callee maps it.
	passShared = `(func (export "faasm_call") (result i32) (local $at i32) (local $start i64)
    (local.set $at (call $get_state (i32.const 1) (i32.const %d)))
    (memory.fill (local.get $at) (i32.const 1) (i32.const %[1]d))
    (local.set $start (call $clock))
    (call $run (i32.const 0) (i32.const 0))
    (i64.store (i32.const 1024) (i64.sub (call $clock) (local.get $start)))
    (drop (call $output (i32.const 1024) (i32.const 8)))
    (i32.const 0))`
	takeShared = `(func (export "faasm_call") (result i32)
    (drop (call $touch (call $get_state (i32.const %d) (i32.const 0)) (i32.load (i32.const 72))))
    (i32.const 0))`
	// passChain: the data is in the caller's memory, and the callee's input.
	passChain = `(func (export "faasm_call") (result i32) (local $start i64)
    (memory.fill (i32.const 131072) (i32.const 1) (i32.const %d))
    (local.set $start (call $clock))
    (call $run (i32.const 131072) (i32.const %[1]d))
    (i64.store (i32.const 1024) (i64.sub (call $clock) (local.get $start)))
    (drop (call $output (i32.const 1024) (i32.const 8)))
    (i32.const 0))`
	takeInput = `(func (export "faasm_call") (result i32)
    (if (call $input (i32.const 131072) (i32.const %d) (i32.const 64)) (then unreachable))
    (drop (call $touch (i32.const 131072) (i32.load (i32.const 64))))
    (i32.const 0))`
	// passGlobal puts the data into the global tier; a function of another host takes it
	// from there with takeShared.
	passGlobal = `(func (export "faasm_call") (result i32) (local $start i64)
    (memory.fill (i32.const 131072) (i32.const 1) (i32.const %d))
    (local.set $start (call $clock))
    (if (call $set (i32.const 0) (i32.const 4) (i32.const 131072) (i32.const %[1]d)) (then unreachable))
    (if (call $push (i32.const 0) (i32.const 4)) (then unreachable))
    (i64.store (i32.const 1024) (i64.sub (call $clock) (local.get $start)))
    (drop (call $output (i32.const 1024) (i32.const 8)))
    (i32.const 0))`
)

// Flags of get_state.
const flagPull = 4

// pagesFor is a memory with room for size bytes from 131,072 on.
func pagesFor(size int) int { return 3 + size/vmem.WasmPageSize }

// passOnHost times how long data takes from one function to another on the same host: until
// the caller knows that the callee has seen all of it.
func passOnHost(r *Run, l *local) error {
	for i, p := range passed {
		key := fmt.Sprintf("pas%d", i)
		taker, inputs := fmt.Sprintf("tak%d", i), fmt.Sprintf("inp%d", i)
		err := errors.Join(
			l.addState("shared "+p.name, 2, key, taker, passShared, p.size),
			l.addState(taker, 2, key, "none", takeShared, 0),
			l.addState("chain "+p.name, pagesFor(p.size), key, inputs, passChain, p.size),
			l.addState(inputs, pagesFor(p.size), key, "none", takeInput, p.size))
		if err != nil {
			return err
		}
		for _, way := range []string{"shared", "chain"} {
			times, err := l.repeat(way+" "+p.name, rounds(r, p.size))
			if err != nil {
				return err
			}
			r.Add("pass_"+p.name+"_"+way, "us", times.quantile(0.5, time.Microsecond))
		}
		r.logf("state: passed %s on a host", p.name)
	}
	return nil
}

// rounds is how often something of a size is measured.
func rounds(r *Run, size int) int {
	if size > 4*mib {
		return r.pick(20, 5)
	}
	return r.pick(400, 60)
}

// passOverHTTP times a call over HTTP whose input is the data, from its first byte to the
// end of the reply.
func passOverHTTP(ctx context.Context, r *Run) error {
	e, err := daemon.NewEmbedded(daemon.Options{})
	if err != nil {
		return err
	}
	defer e.Close()
	for _, p := range passed {
		text := fmt.Sprintf(stateImports, pagesFor(p.size), "none", "none") + fmt.Sprintf(takeInput, p.size) + ")"
		bin, err := engine.FromText(text)
		if err != nil {
			return err
		}
		name := "take" + p.name
		if _, _, err := e.Host.Deploy(ctx, api.Upload{Tenant: "bench", Function: name, Wasm: bin, MemoryBytes: stateLimits.MemoryMax}); err != nil {
			return fmt.Errorf("deploy %s: %w", name, err)
		}
		body := strings.Repeat("\x01", p.size)
		var times samples
		for i := -2; i < rounds(r, p.size); i++ {
			start := time.Now()
			resp, err := http.Post(e.URL()+"/f/bench/"+name, "application/octet-stream", strings.NewReader(body))
			if err != nil {
				return err
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("POST %s: %s", name, resp.Status)
			}
			if i >= 0 {
				times = append(times, time.Since(start))
			}
		}
		r.Add("pass_"+p.name+"_http", "us", times.quantile(0.5, time.Microsecond))
	}
	return nil
}

const (
	handOvers = 8000
	// handOver takes and gives back a lock, again and again, and notes how long ago the other
	// gave it back. The value has when that was, then who it was, 1 or 2, and from byte 20 on
	// which of them are there: they begin together.
	handOver = `(func (export "faasm_call") (result i32) (local $at i32) (local $to i32) (local $n i32) (local $me i32) (local $now i64)
    (drop (call $input (i32.const 104) (i32.const 4) (i32.const 64)))
    (local.set $me (i32.load (i32.const 104)))
    (local.set $at (call $get_state (i32.const 1) (i32.const 32)))
    (local.set $to (i32.const 1024))
    (i32.store offset=16 (i32.add (local.get $at) (i32.mul (local.get $me) (i32.const 4))) (i32.const 1))
    (loop $both
      (br_if $both (i32.eqz (i32.and (i32.load offset=20 (local.get $at)) (i32.load offset=24 (local.get $at))))))
    (loop $again
      (if (call $%s (i32.const 0) (i32.const 4)) (then unreachable))
      (local.set $now (call $clock))
      (if (i32.and (i32.ne (i32.load offset=8 (local.get $at)) (local.get $me)) (i32.ne (i32.load offset=8 (local.get $at)) (i32.const 0)))
        (then
          (i64.store (local.get $to) (i64.sub (local.get $now) (i64.load (local.get $at))))
          (local.set $to (i32.add (local.get $to) (i32.const 8)))))
      (i32.store offset=8 (local.get $at) (local.get $me))
      (i64.store (local.get $at) (call $clock))
      (if (call $%s (i32.const 0) (i32.const 4)) (then unreachable))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $n) (i32.const %d))))
    (drop (call $output (i32.const 1024) (i32.sub (local.get $to) (i32.const 1024))))
    (i32.const 0))`
)

// lockHandOver times from the moment that one Faaslet is about to let go of a lock until
// another, which waits for it, has it.
func lockHandOver(r *Run, l *local, figure, lock, unlock string) error {
	n := r.pick(handOvers, handOvers/4)
	key := "l" + figure[len(figure)-3:]
	if err := l.addState(figure, 2, key, "none", handOver, lock, unlock, n); err != nil {
		return err
	}
	var calls [2]*call.Call
	for i := range calls {
		calls[i] = l.call("bench", figure, binary.LittleEndian.AppendUint32(nil, uint32(i+1)))
		l.sched.Go(calls[i])
	}
	var times samples
	for _, c := range calls {
		<-c.Done()
		res := c.Result()
		if res.Outcome != call.Returned || res.ReturnCode != 0 {
			return fmt.Errorf("%s ended as %v: %+v", figure, res.Outcome, res.Failure)
		}
		for b := res.Output; len(b) >= 8; b = b[8:] {
			times = append(times, time.Duration(binary.LittleEndian.Uint64(b)))
		}
	}
	if len(times) == 0 {
		return fmt.Errorf("%s: the lock was never handed over", figure)
	}
	r.addLatency(figure, "us", times)
	return nil
}

// startRedis starts a Redis of the bench's own. It returns "", with the reason, where there
// is none.
func startRedis(ctx context.Context, dir string) (addr, why string, stop func(), err error) {
	server, err := exec.LookPath("redis-server")
	if err != nil {
		return "", "there is no redis-server", nil, nil
	}
	if _, err := exec.LookPath("redis-benchmark"); err != nil {
		return "", "there is no redis-benchmark", nil, nil
	}
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", nil, err
	}
	addr = port.Addr().String()
	port.Close()
	_, number, _ := strings.Cut(addr, ":")
	cmd := exec.CommandContext(ctx, server, "--bind", "127.0.0.1", "--port", number, "--dir", dir, "--save", "", "--appendonly", "no")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a service of its own to the kernel's scheduler
	if err := cmd.Start(); err != nil {
		return "", "", nil, err
	}
	stop = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
			return addr, "", stop, nil
		}
		if time.Now().After(deadline) {
			stop()
			return "", "", nil, fmt.Errorf("redis-server does not listen on %s", addr)
		}
	}
}

// overRedis measures what goes between two hosts.
func overRedis(ctx context.Context, r *Run, dir string) error {
	addr, why, stop, err := startRedis(ctx, dir)
	if err != nil {
		return err
	}
	if addr == "" {
		for _, p := range passed {
			r.Skip("pass_"+p.name+"_redis", why)
		}
		for _, name := range []string{"pull_over_redis", "push_over_redis", "lock_global", "push_16mib_full", "push_16mib_partial"} {
			r.Skip(name, why)
		}
		return nil
	}
	defer stop()
	var hosts [2]*local
	for i := range hosts {
		store, err := global.OpenRedis(ctx, "redis://"+addr, global.RedisOptions{})
		if err != nil {
			return err
		}
		if hosts[i], err = newLocalState(store); err != nil {
			return err
		}
		defer hosts[i].close()
	}
	if err := passOverRedis(r, hosts[0], hosts[1]); err != nil {
		return err
	}
	if err := lockHandOver(r, hosts[0], "lock_global", "lock_state_global_write", "unlock_state_global"); err != nil {
		return err
	}
	if err := partialPush(r, hosts[0].world.State); err != nil {
		return err
	}
	for _, c := range []struct {
		suffix  string
		size    int
		callers int
	}{{"", mib, 8}, {"_64kib", 64 * kib, 8}, {"_1caller", mib, 1}, {"_16mib", 16 * mib, 2}} {
		if err := besideRedis(ctx, r, hosts[0].world.State, addr, c.suffix, c.size, c.callers); err != nil {
			return err
		}
	}
	return nil
}

// passOverRedis: one host sets and pushes, the other pulls and sees.
func passOverRedis(r *Run, from, to *local) error {
	for i, p := range passed {
		key := fmt.Sprintf("red%d", i)
		err := errors.Join(
			from.addState("put", pagesFor(p.size), key, "none", passGlobal, p.size),
			to.addState("take", 2, key, "none", takeShared, flagPull))
		if err != nil {
			return err
		}
		var times samples
		for k := -2; k < rounds(r, p.size); k++ {
			put, err := from.timesOf("put")
			if err != nil {
				return err
			}
			start := time.Now()
			if _, err := to.timesOf("take"); err != nil {
				return err
			}
			if k >= 0 {
				times = append(times, put[0]+time.Since(start))
			}
		}
		r.Add("pass_"+p.name+"_redis", "us", times.quantile(0.5, time.Microsecond))
	}
	return nil
}

// now is a state.Waiter for callers that are no Faaslets.
func now(wait func(context.Context)) { wait(context.Background()) }

// partialPush compares a push of a whole value with one of what was changed, a byte of each
// hundredth page, in time and in bytes that go to the store.
func partialPush(r *Run, t *state.Tier) error {
	const name, size = "partial", 16 * mib
	s := t.Session("bench", now)
	defer s.Close()
	view, err := s.View(name, state.Access{Create: true, CreateSize: size}, 0, -1)
	if err != nil {
		return err
	}
	memory := view.Memory.Bytes()[view.Offset:]
	for _, way := range []struct {
		figure string
		push   func(string) error
	}{{"full", s.Push}, {"partial", s.PushDirty}} {
		var times samples
		var sent uint64
		n := r.pick(20, 5)
		for i := -1; i < n; i++ {
			for at := 0; at < size; at += 100 * vmem.PageSize {
				memory[at]++
			}
			before, start := t.Stats().Moved.Sent, time.Now()
			if err := way.push(name); err != nil {
				return err
			}
			if i >= 0 {
				times = append(times, time.Since(start))
				sent += t.Stats().Moved.Sent - before
			}
		}
		r.Add("push_16mib_"+way.figure, "us", times.quantile(0.5, time.Microsecond))
		r.Add("wire_16mib_"+way.figure, "B", float64(sent)/float64(n))
	}
	return nil
}

// besideRedis compares pushes and pulls of whole values, by so many callers at once, with
// redis-benchmark's SET and GET with as many connections, in turn.
func besideRedis(ctx context.Context, r *Run, t *state.Tier, addr, suffix string, size, callers int) error {
	sessions := make([]*state.Session, callers)
	data := make([]byte, size)
	for i := range sessions {
		sessions[i] = t.Session("bench", now)
		defer sessions[i].Close()
	}
	name := func(i int) string { return fmt.Sprintf("beside%d", i) }
	n := max(callers, r.pick(1024*mib, 256*mib)/size)
	each := func(n int, do func(i int) error) (float64, error) {
		errs := make(chan error, callers)
		start := time.Now()
		for i := range callers {
			go func() {
				var err error
				for k := 0; k < n/callers && err == nil; k++ {
					err = do(i)
				}
				errs <- err
			}()
		}
		var err error
		for range callers {
			err = errors.Join(err, <-errs)
		}
		return float64(n/callers*callers) * float64(size) / time.Since(start).Seconds(), err
	}
	warm := func(do func(i int) error) (float64, error) {
		if _, err := each(max(callers, n/8), do); err != nil {
			return 0, err
		}
		return each(n, do)
	}
	var pushes, pulls []float64
	for range 5 {
		set, get, err := redisBenchmark(ctx, addr, size, callers, n)
		if err != nil {
			return err
		}
		for i := range callers {
			if err := sessions[i].Set(name(i), data); err != nil {
				return err
			}
		}
		runtime.GC()
		push, err := warm(func(i int) error { return sessions[i].Push(name(i)) })
		if err != nil {
			return err
		}
		pull, err := warm(func(i int) error { return sessions[i].Pull(name(i)) })
		if err != nil {
			return err
		}
		pushes, pulls = append(pushes, push/set), append(pulls, pull/get)
		r.logf("state: %d KiB, %d callers, MB/s: SET %.0f, push %.0f; GET %.0f, pull %.0f", size/kib, callers, set/1e6, push/1e6, get/1e6, pull/1e6)
	}
	r.Add("push_over_redis"+suffix, "ratio", median(pushes))
	r.Add("pull_over_redis"+suffix, "ratio", median(pulls))
	return nil
}

// redisBenchmark is how many bytes a second redis-benchmark sets and gets.
func redisBenchmark(ctx context.Context, addr string, size, clients, n int) (set, get float64, err error) {
	host, port, _ := strings.Cut(addr, ":")
	out, err := exec.CommandContext(ctx, "redis-benchmark", "-h", host, "-p", port, "-t", "set,get",
		"-d", strconv.Itoa(size), "-c", strconv.Itoa(clients), "-n", strconv.Itoa(n), "--csv").Output()
	if err != nil {
		return 0, 0, fmt.Errorf("redis-benchmark: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		fields := strings.Split(line, ",")
		if len(fields) < 2 {
			continue
		}
		rate, err := strconv.ParseFloat(strings.Trim(fields[1], `"`), 64)
		if err != nil {
			continue // the heading
		}
		switch strings.Trim(fields[0], `"`) {
		case "SET":
			set = rate * float64(size)
		case "GET":
			get = rate * float64(size)
		}
	}
	if set == 0 || get == 0 {
		return 0, 0, fmt.Errorf("redis-benchmark told no rates: %q", out)
	}
	return set, get, nil
}
