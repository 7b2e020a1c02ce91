package faaslet

import (
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/faasm-go/faasm/internal/call"
)

// forgetful looks whether its memory of 16 Wasm pages and its globals are as they were at
// the start of every call, and returns 1 if they are not. Then it does what its input says: each
// step is a number and an operand, of four bytes each.
const forgetful = `(module
  (import "faasm" "read_call_input" (func $in (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory 16)
  (data (i32.const 500000) "\01\02\03\04\05\06\07\08")
  (global $a (mut i32) (i32.const 3))
  (global $b (mut f64) (f64.const 4))
  (func $sum (result i64) (local $i i32) (local $sum i64)
    (loop $l
      (local.set $sum (i64.add (i64.rotl (local.get $sum) (i64.const 1)) (i64.load (local.get $i))))
      (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 8))) (i32.const 1048576))))
    (local.get $sum))
  (func (export "faasm_call") (result i32) (local $i i32) (local $n i32) (local $x i32)
    (if (i32.ne (global.get $a) (i32.const 3)) (then (return (i32.const 1))))
    (if (f64.ne (global.get $b) (f64.const 4)) (then (return (i32.const 1))))
    (if (i32.ne (memory.size) (i32.const 16)) (then (return (i32.const 1))))
    ;; 68,571 words follow the one that is not zero, and a word of 64 bits turns once in 64 steps
    (if (i64.ne (call $sum) (i64.rotl (i64.const 0x0807060504030201) (i64.const 27))) (then (return (i32.const 1))))
    (drop (call $in (i32.const 1024) (i32.const 4096) (i32.const 8)))
    (local.set $n (i32.add (i32.const 1024) (i32.load (i32.const 8))))
    (local.set $i (i32.const 1024))
    (loop $next
      (if (i32.ge_u (local.get $i) (local.get $n)) (then (return (i32.const 0))))
      (local.set $x (i32.load offset=4 (local.get $i)))
      (block $done (block $trap (block $exits (block $grow (block $wait (block $fill (block $globals (block $random (block $store
        (br_table $store $random $globals $fill $wait $grow $exits $trap (i32.load (local.get $i))))
        ;; store
        (i64.store (local.get $x) (i64.const -1)) (br $done))
        ;; random: the host writes
        (drop (call $random (local.get $x) (i32.const 100))) (br $done))
        ;; globals
        (global.set $a (local.get $x)) (global.set $b (f64.convert_i32_u (local.get $x))) (br $done))
        ;; fill: of many pages
        (memory.fill (local.get $x) (i32.const 0xee) (i32.const 60000)) (br $done))
        ;; wait, and write afterwards
        (i64.store (i32.const 504) (i64.const 0)) (i32.store8 (i32.const 496) (i32.const 0)) (i32.store (i32.const 496) (i32.const 0))
        (i32.store (i32.const 488) (i32.const 0)) (i64.store (i32.const 480) (i64.const 0))
        (i64.store (i32.const 504) (i64.const 1000))
        (drop (call $poll (i32.const 480) (i32.const 560) (i32.const 1) (i32.const 600)))
        (i64.store (local.get $x) (i64.const -2)) (br $done))
        ;; grow, and write there
        (if (i32.ge_s (memory.grow (i32.const 1)) (i32.const 0)) (then (i64.store (i32.const 1048576) (i64.const -3)))) (br $done))
        ;; exit
        (call $exit (i32.const 0)))
        ;; trap
        unreachable)
      (local.set $i (i32.add (local.get $i) (i32.const 8)))
      (br $next))
    (i32.const 0)))`

const (
	opStore = iota
	opRandom
	opGlobals
	opFill
	opWait
	opGrow
	opExit
	opTrap
)

// Whatever a run does, the next finds all as at the start: also when cleaning does not ask
// the kernel what was written, because the run took no page fault, and when the instance is
// that of the run before. The runs of several functions alternate, on several threads.
func TestRun_forgetsAll(t *testing.T) {
	rt := newRuntime(t)
	codes := []*Code{build(t, rt, forgetful), build(t, rt, forgetful), build(t, rt, forgetful)}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var mu sync.Mutex
	quiet, loud := 0, 0
	var g sync.WaitGroup
	for worker := range uint64(3) {
		g.Go(func() {
			rng := rand.New(rand.NewPCG(seed, worker))
			for run := range 3000 {
				// Runs that do the usual come in rows, so that regions settle.
				pages := []uint32{2, 3, 200}
				odd := run%10 == 9
				var input []byte
				for range rng.IntN(4) {
					op, at := uint32(rng.IntN(opGlobals+1)), pages[rng.IntN(len(pages))]*4096+uint32(rng.IntN(4000))
					if odd {
						op, at = uint32(rng.IntN(opTrap+1)), uint32(rng.IntN(1<<20-61000))
					}
					if at < 8192 {
						at += 8192 // not over the input
					}
					input = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(input, op), at)
				}
				c := codes[rng.IntN(len(codes))]
				r, f := c.Run(request(string(input)), world())
				if r.Outcome == call.Returned && r.ReturnCode != 0 {
					t.Errorf("seed %d, run %d of worker %d: something was left", seed, run, worker)
					return
				}
				if r.Outcome != call.Returned && r.Outcome != call.Trapped {
					t.Errorf("seed %d, run %d of worker %d: %v, %+v", seed, run, worker, r.Outcome, r.Failure)
				}
				faulted := f.faulted
				if _, err := f.Clean(); err != nil {
					t.Error(err)
				}
				mu.Lock()
				if faulted {
					loud++
				} else {
					quiet++
				}
				mu.Unlock()
			}
		})
	}
	g.Wait()
	t.Logf("%d runs without faults, %d with", quiet, loud)
	if quiet < 100 || loud < 100 {
		t.Errorf("%d runs without faults, %d with: too few of a kind", quiet, loud)
	}
}
