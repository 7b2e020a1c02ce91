package faaslet

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/faasm-go/faasm/internal/call"
)

// The compiler leaves out a load whose value it has from an earlier one, if nothing was
// stored and nothing called in between: so no gate may be such a load.
func TestRun_deadlineStopsLoopsBehindGates(t *testing.T) {
	const (
		count = "(local.tee $i (i32.add (local.get $i) (i32.const 1)))"
		ten   = "(loop (br_if 0 (i32.lt_u " + count + " (i32.const 10))))"
		spin  = "(loop $l (br $l))"
		wait  = "(loop $l (br_if $l (i32.eqz (i32.load (i32.const 80)))))"
	)
	straight := strings.Repeat("(local.set $i (i32.xor (local.get $i) (i32.const 77)))", 4000)
	for _, tt := range []struct{ name, code string }{
		{"spin behind a loop", ten + spin},
		{"wait behind a loop", ten + wait},
		{"wait inside a loop", "(loop $a " + wait + "(br $a))"},
		{"behind a branch", "(if (local.get $i) (then" + ten + ") (else" + ten + ten + "))" + wait},
		{"behind straight code", straight + wait},
		{"inside a loop of straight code", "(loop $a " + straight + "(br $a))"},
		{"behind as many loops as a page has bytes", strings.Repeat(ten, 4095) + wait},
		{"behind more", strings.Repeat(ten, 4096) + wait},
		{"behind many more", strings.Repeat(ten, 9000) + wait},
		{"behind many more that are not entered", "(if (local.get $i) (then" + strings.Repeat(ten, 9000) + "(return (i32.const 1))))" + wait},
		{"inside many", strings.Repeat("(loop ", 200) + wait + strings.Repeat("(br 0))", 200)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			wat := fmt.Sprintf(`(module (memory 1) (func (export "faasm_call") (result i32) (local $i i32) %s (i32.const 0)))`, tt.code)
			c := buildLimited(t, newRuntime(t), wat, Limits{MemoryMax: 16 << 20, Timeout: 10 * time.Millisecond})
			if r := runOnce(t, c, request("")); r.Outcome != call.DeadlineExceeded {
				t.Errorf("got %v, %+v; want deadline", r.Outcome, r.Failure)
			}
		})
	}
}
