package faaslet

import (
	"testing"
	"time"

	"github.com/faasm-go/faasm/internal/call"
)

// An instruction that is executed in pieces is the author's all the same: its trap, and
// the place where it was stopped, are told in the author's functions.
func TestRun_backtraceOfBulkInstruction(t *testing.T) {
	rt := newRuntime(t)
	for _, tt := range []struct {
		name, wat string
		outcome   call.Outcome
	}{
		{"fill past the end", `(module (memory 256) (func $inner (param i32) (memory.fill (i32.const 1) (i32.const 7) (local.get 0)))
			(func (export "faasm_call") (result i32) (call $inner (i32.const 16777216)) (i32.const 0)))`, call.Trapped},
		{"copy past the end", `(module (memory 256) (func $inner (param i32) (memory.copy (i32.const 0) (i32.const 1) (local.get 0)))
			(func (export "faasm_call") (result i32) (call $inner (i32.const 16777216)) (i32.const 0)))`, call.Trapped},
		{"fills without end", `(module (memory 256) (func $inner (loop $l (memory.fill (i32.const 0) (i32.const 7) (i32.const 16777216)) (br $l)))
			(func (export "faasm_call") (result i32) (call $inner) (i32.const 0)))`, call.DeadlineExceeded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := buildLimited(t, rt, tt.wat, Limits{MemoryMax: 16 << 20, Timeout: 50 * time.Millisecond})
			r := runOnce(t, c, request(""))
			if r.Outcome != tt.outcome {
				t.Fatalf("got %v, %+v; want %v", r.Outcome, r.Failure, tt.outcome)
			}
			if b := r.Failure.Backtrace; len(b) != 2 || b[0].FuncIndex != 0 || b[0].FuncName != "inner" || b[1].FuncIndex != 1 {
				t.Errorf("backtrace %+v; want inner (0), called by 1", b)
			}
		})
	}
}
