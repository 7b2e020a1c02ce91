package faaslet

import (
	"testing"
	"time"

	"github.com/faasm-go/faasm/internal/call"
)

// A function whose runs are long has its CPU time measured: what it computes, on whatever
// threads, and neither what it sleeps nor what others take meanwhile.
func TestRun_measuresCPU(t *testing.T) {
	c := build(t, newRuntime(t), `(module
		(import "wasi_snapshot_preview1" "poll_oneoff" (func $sleep (param i32 i32 i32 i32) (result i32)))
		(memory 1) (data (i32.const 24) "\80\96\98") ;; 10 ms, on the monotonic clock
		(data (i32.const 16) "\01")
		(func $compute (local $i i32)
			(loop (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 3000000)))))
		(func (export "faasm_call") (result i32)
			(call $compute)
			(drop (call $sleep (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
			(call $compute)
			(i32.const 0)))`)
	for range 4 {
		runOnce(t, c, request(""))
	}
	f := c.Start(request(""), world())
	w := f.Run()
	if w == nil || w.For != 10*time.Millisecond {
		t.Fatalf("waits for %+v; want 10ms", w)
	}
	rest := make(chan *call.Wait)
	go func() { rest <- f.Run() }()
	if w := <-rest; w != nil {
		t.Fatalf("waits for %+v; want the end", w)
	}
	defer f.Clean()
	r := f.Result()
	if r.Outcome != call.Returned || !f.measured {
		t.Errorf("%v, measured %v", r.Outcome, f.measured)
	}
	if r.Usage.CPU <= 0 || r.Usage.CPU > r.Usage.Wall {
		t.Errorf("%v of CPU in %v", r.Usage.CPU, r.Usage.Wall)
	}
	half := f.cpu
	f.hold()
	f.Rest(func() { time.Sleep(20 * time.Millisecond) })
	f.release()
	if more := f.cpu - half; more <= 0 || more > 10*time.Millisecond {
		t.Errorf("%v of CPU while it rested for 20ms", more)
	}
}
