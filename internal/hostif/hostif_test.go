package hostif_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/engine"
	"github.com/faasm-go/faasm/internal/faaslet"
	"github.com/faasm-go/faasm/internal/hostif"
)

// fakeHost runs chained calls at once: "double" returns its input twice, "fail" returns 3,
// "trap" traps, "slow" ends when the test says so, and there is no other function.
type fakeHost struct {
	slow []*call.Call
}

func (h *fakeHost) Chain(parent *call.Call, function string, entry call.Entry, input []byte) *call.Call {
	c := call.New(&call.Request{ID: call.NewID(), Parent: parent.ID(), Tenant: "t", Function: function, Entry: entry, Input: input}, parent)
	switch function {
	case "double":
		c.Finish(call.Result{Output: append(input, input...)})
	case "fail":
		c.Finish(call.Result{ReturnCode: 3, Output: []byte("why")})
	case "trap":
		c.Finish(call.Result{Outcome: call.Trapped})
	case "main": // chain_func, chain_ptr and chain_this chain the function itself
		c.Finish(call.Result{Output: fmt.Appendf(nil, "%v/%s", entry, input)})
	case "slow":
		h.slow = append(h.slow, c)
	default:
		c.Finish(call.Result{Outcome: call.NoSuchFunction})
	}
	return c
}

func (h *fakeHost) Block(_ *call.Call, _ bool, wait func()) { wait() }

var runtime = func() *faaslet.Runtime {
	rt, err := faaslet.NewRuntime(faaslet.Options{Hosts: hostif.Limits{OutputMax: 1000, HandlesMax: 5}})
	if err != nil {
		panic(err)
	}
	return rt
}()

// outcome is what a guest did.
type outcome struct {
	result call.Result
	trace  []string
	logs   []string
}

// run runs a module in the text format, whose imports and body are given.
func run(t *testing.T, wat, input string) outcome {
	t.Helper()
	bin, err := engine.FromText(wat)
	if err != nil {
		t.Fatalf("%v\n%s", err, wat)
	}
	c, err := runtime.Build(bin, faaslet.Limits{MemoryMax: 1 << 20, Timeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var o outcome
	logs := call.NewLogBuffer(call.LogBufferOptions{})
	w := &faaslet.World{Host: &fakeHost{}, Logs: logs, Trace: func(line string) { o.trace = append(o.trace, line) }}
	cl := call.New(&call.Request{ID: call.NewID(), Tenant: "t", Function: "main", Input: []byte(input), Attempt: 2}, nil)
	result, remains := c.Run(cl, w)
	o.result = *result
	if _, err := remains.Clean(); err != nil {
		t.Fatal(err)
	}
	for _, l := range logs.Call(cl.ID()) {
		o.logs = append(o.logs, l.Stream.String()+": "+l.Text)
	}
	return o
}

// imports declares host functions under their own names.
func imports(t *testing.T, names ...string) string {
	t.Helper()
	var b strings.Builder
	types := map[engine.ValType]string{engine.I32: " i32", engine.I64: " i64"}
	for _, n := range names {
		module, name, _ := strings.Cut(n, ".")
		f, ok := hostif.Lookup(module, name)
		if !ok {
			t.Fatalf("there is no %s", n)
		}
		fmt.Fprintf(&b, "(import %q %q (func $%s", module, name, name)
		if len(f.Params) > 0 {
			b.WriteString(" (param")
			for _, p := range f.Params {
				b.WriteString(types[p])
			}
			b.WriteString(")")
		}
		if len(f.Results) > 0 {
			b.WriteString(" (result i32)")
		}
		b.WriteString("))\n")
	}
	return b.String()
}

// one runs a guest of one page that makes a single host call, and returns what that
// answered. Memory begins with the string "double", at 16 "fail", at 32 bytes 0xff that
// are no UTF-8; at 100 are two iovecs, {200, 3} and {300, 2}.
func one(t *testing.T, fn string, args ...int64) (int32, outcome) {
	t.Helper()
	module, name, _ := strings.Cut(fn, ".")
	f, ok := hostif.Lookup(module, name)
	if !ok {
		t.Fatalf("there is no %s", fn)
	}
	body := "(call $" + name
	for i, a := range args {
		if f.Params[i] == engine.I64 {
			body += fmt.Sprintf(" (i64.const %d)", a)
		} else {
			body += fmt.Sprintf(" (i32.const %d)", int32(uint32(a)))
		}
	}
	body += ")"
	if len(f.Results) == 0 {
		body += " (i32.const 0)"
	}
	o := run(t, `(module `+imports(t, fn)+` (memory 1) (table 2 funcref) (elem (i32.const 1) $f)
	  (data (i32.const 0) "double\00") (data (i32.const 16) "fail\00") (data (i32.const 32) "\ff\ff\ff\00")
	  (data (i32.const 100) "\c8\00\00\00\03\00\00\00\2c\01\00\00\02\00\00\00") (data (i32.const 200) "abc") (data (i32.const 300) "de")
	  (func $f (result i32) (i32.const 0))
	  (func (export "faasm_call") (result i32) `+body+`))`, "input")
	return o.result.ReturnCode, o
}

// Every function with every kind of bad argument: an errno and never a trap.
func TestFaasm_errnos(t *testing.T) {
	const EAGAIN, EBADF, EFAULT, EFBIG, EINVAL = int32(hostif.EAGAIN), int32(hostif.EBADF), int32(hostif.EFAULT), int32(hostif.EFBIG), int32(hostif.EINVAL)
	max := int64(0xffffffff)
	for _, tt := range []struct {
		fn   string
		args []int64
		want int32
	}{
		{"faasm.read_call_input", []int64{page - 4, 5, 0}, EFAULT},
		{"faasm.read_call_input", []int64{max, 1, 0}, EFAULT},
		{"faasm.read_call_input", []int64{1, max, 0}, EFAULT},
		{"faasm.read_call_input", []int64{0, 5, page - 3}, EFAULT},
		{"faasm.read_call_input", []int64{0, 5, max}, EFAULT},
		{"faasm.read_call_input", []int64{page, 0, 400}, 0},
		{"faasm.read_call_input", []int64{400, 5, page - 4}, 0},

		{"faasm.write_call_output", []int64{page - 2, 3}, EFAULT},
		{"faasm.write_call_output", []int64{max, max}, EFAULT},
		{"faasm.write_call_output", []int64{0, 1001}, EFBIG},
		{"faasm.write_call_output", []int64{0, 1000}, 0},
		{"faasm.write_call_output", []int64{page, 0}, 0},
		{"faasm.append_call_output", []int64{page - 2, 3}, EFAULT},
		{"faasm.append_call_output", []int64{0, 1001}, EFBIG},

		{"faasm.chain_call", []int64{0, 0, 0, 0, 400}, EINVAL},
		{"faasm.chain_call", []int64{0, 1025, 0, 0, 400}, EINVAL},
		{"faasm.chain_call", []int64{0, max, 0, 0, 400}, EINVAL},
		{"faasm.chain_call", []int64{32, 3, 0, 0, 400}, EINVAL},
		{"faasm.chain_call", []int64{page - 1, 2, 0, 0, 400}, EFAULT},
		{"faasm.chain_call", []int64{max, 1, 0, 0, 400}, EFAULT},
		{"faasm.chain_call", []int64{0, 6, page - 1, 2, 400}, EFAULT},
		{"faasm.chain_call", []int64{0, 6, 1, max, 400}, EFAULT},
		{"faasm.chain_call", []int64{0, 6, 0, 0, page - 3}, EFAULT},
		{"faasm.chain_call", []int64{0, 6, 0, 0, 400}, 0},
		{"faasm.chain_func", []int64{0, 0, 0, 400}, EINVAL},
		{"faasm.chain_func", []int64{2, 0, 0, 400}, EINVAL},
		{"faasm.chain_func", []int64{max, 0, 0, 400}, EINVAL},
		{"faasm.chain_func", []int64{1, page, 1, 400}, EFAULT},
		{"faasm.chain_func", []int64{1, 0, 0, max}, EFAULT},
		{"faasm.chain_func", []int64{1, 0, 0, 400}, 0},

		{"faasm.await_call", []int64{0, 400}, EBADF},
		{"faasm.await_call", []int64{1, 400}, EBADF},
		{"faasm.await_call", []int64{max, 400}, EBADF},
		{"faasm.await_any", []int64{400, 0, -1, 500, 504}, EINVAL},
		{"faasm.await_any", []int64{400, max, -1, 500, 504}, EINVAL},
		{"faasm.await_any", []int64{400, 6, -1, 500, 504}, EINVAL},
		{"faasm.await_any", []int64{page - 4, 2, -1, 500, 504}, EFAULT},
		{"faasm.await_any", []int64{400, 1, -1, page - 3, 504}, EFAULT},
		{"faasm.await_any", []int64{400, 1, -1, 500, page - 7}, EFAULT},
		{"faasm.await_any", []int64{400, 1, -1, 500, 504}, EBADF},
		{"faasm.get_call_output", []int64{1, 400, 10, 500}, EBADF},
		{"faasm.cancel_call", []int64{0}, EBADF},
		{"faasm.cancel_call", []int64{max}, EBADF},
		{"faasm.call_info", []int64{6, 400, 100, 500}, EINVAL},
		{"faasm.call_info", []int64{max, 400, 100, 500}, EINVAL},
		{"faasm.call_info", []int64{0, page - 1, 2, 500}, EFAULT},
		{"faasm.call_info", []int64{0, 400, 32, page}, EFAULT},
		{"faasm.call_info", []int64{3, 400, 0, 500}, 0},

		{"wasi_snapshot_preview1.args_get", []int64{page - 3, 0}, EFAULT},
		{"wasi_snapshot_preview1.args_get", []int64{0, page - 4}, EFAULT},
		{"wasi_snapshot_preview1.args_sizes_get", []int64{0, page - 3}, EFAULT},
		{"wasi_snapshot_preview1.environ_sizes_get", []int64{max, 0}, EFAULT},
		{"wasi_snapshot_preview1.environ_get", []int64{max, max}, EFAULT}, // though there is no variable
		{"wasi_snapshot_preview1.clock_time_get", []int64{0, 0, page - 7}, EFAULT},
		{"wasi_snapshot_preview1.clock_time_get", []int64{1, 0, max}, EFAULT},
		{"wasi_snapshot_preview1.clock_time_get", []int64{4, 0, 0}, EINVAL},
		{"wasi_snapshot_preview1.clock_time_get", []int64{0, 0, page - 8}, 0},
		{"wasi_snapshot_preview1.clock_res_get", []int64{0, page - 7}, EFAULT},
		{"wasi_snapshot_preview1.clock_res_get", []int64{9, 0}, EINVAL},
		{"wasi_snapshot_preview1.random_get", []int64{page - 1, 2}, EFAULT},
		{"wasi_snapshot_preview1.random_get", []int64{1, max}, EFAULT},
		{"wasi_snapshot_preview1.random_get", []int64{0, page}, 0},
		{"wasi_snapshot_preview1.fd_read", []int64{0, 100, 1025, 500}, EINVAL},
		{"wasi_snapshot_preview1.fd_read", []int64{0, page - 4, 1, 500}, EFAULT},
		{"wasi_snapshot_preview1.fd_read", []int64{0, 100, 2, page - 3}, EFAULT},
		{"wasi_snapshot_preview1.fd_read", []int64{1, 100, 2, 500}, EBADF},
		{"wasi_snapshot_preview1.fd_read", []int64{3, 100, 2, 500}, EBADF},
		{"wasi_snapshot_preview1.fd_write", []int64{0, 100, 2, 500}, EBADF},
		{"wasi_snapshot_preview1.fd_write", []int64{max, 100, 2, 500}, EBADF},
		{"wasi_snapshot_preview1.fd_write", []int64{1, 32, 1, 500}, EFAULT}, // no bytes, at 0xffffff
		{"wasi_snapshot_preview1.fd_write", []int64{1, max, max, 500}, EINVAL},
		{"wasi_snapshot_preview1.fd_write", []int64{1, 100, 2, max}, EFAULT},
		{"wasi_snapshot_preview1.fd_close", []int64{3}, EBADF},
		{"wasi_snapshot_preview1.fd_seek", []int64{1, 0, 0, 500}, int32(hostif.ESPIPE)},
		{"wasi_snapshot_preview1.fd_seek", []int64{5, 0, 0, 500}, EBADF},
		{"wasi_snapshot_preview1.fd_fdstat_get", []int64{1, page - 23}, EFAULT},
		{"wasi_snapshot_preview1.fd_fdstat_get", []int64{7, 0}, EBADF},
		{"wasi_snapshot_preview1.fd_prestat_get", []int64{3, 0}, EBADF},
		{"wasi_snapshot_preview1.fd_prestat_dir_name", []int64{3, 0, 10}, EBADF},
		{"wasi_snapshot_preview1.poll_oneoff", []int64{0, 0, 0, 500}, EINVAL},
		{"wasi_snapshot_preview1.poll_oneoff", []int64{0, 0, max, 500}, EINVAL},
		{"wasi_snapshot_preview1.poll_oneoff", []int64{page - 47, 0, 1, 500}, EFAULT},
		{"wasi_snapshot_preview1.poll_oneoff", []int64{1000, page - 31, 1, 500}, EFAULT},
		{"wasi_snapshot_preview1.poll_oneoff", []int64{92, 1000, 1, 500}, EINVAL}, // its kind, at 100, is 0xc8
		{"wasi_snapshot_preview1.proc_raise", []int64{9}, int32(hostif.ENOTSUP)},
		{"wasi_snapshot_preview1.sock_accept", []int64{1, 0, 0}, int32(hostif.ENOTSUP)},
		{"wasi_snapshot_preview1.path_open", []int64{3, 0, 0, 4, 0, 0, 0, 0, 400}, int32(hostif.ENOSYS)},
		{"wasi_snapshot_preview1.fd_readdir", []int64{3, 0, 100, 0, 400}, int32(hostif.ENOSYS)},
	} {
		got, o := one(t, tt.fn, tt.args...)
		if o.result.Outcome != call.Returned || got != tt.want {
			t.Errorf("%s%v: %v, %v (%+v); want %v", tt.fn, tt.args, o.result.Outcome, hostif.Errno(got), o.result.Failure, hostif.Errno(tt.want))
		}
	}
}

// Upstream's functions have no way to report a bad pointer: they trap, and say why.
func TestUpstream_badPointersTrap(t *testing.T) {
	max := int64(0xffffffff)
	for _, tt := range []struct {
		fn      string
		args    []int64
		message string
	}{
		{"env.__faasm_read_input", []int64{page - 1, 2}, "__faasm_read_input: a buffer of 2 bytes at 0xffff is outside memory"},
		{"env.__faasm_write_output", []int64{max, max}, "4294967295 bytes at 0xffffffff are outside memory"},
		{"env.__faasm_write_output", []int64{0, 1001}, "1001 bytes exceed the limit of 1000"},
		{"env.__faasm_chain_name", []int64{page, 0, 0}, "chain: the name at 0x10000 is outside memory"},
		{"env.__faasm_chain_name", []int64{0, page - 1, 2}, "chain double: an input of 2 bytes at 0xffff is outside memory"},
		{"env.__faasm_chain_ptr", []int64{0, 0, 0}, "there is no function of type () -> i32 at table index 0"},
		{"env.__faasm_chain_ptr", []int64{max, 0, 0}, "there is no function of type () -> i32 at table index 4294967295"},
		{"env.__faasm_chain_this", []int64{7, max, 1}, "an input of 1 bytes at 0xffffffff is outside memory"},
		{"env.__faasm_await_call", []int64{0}, "this call has chained no call 0"},
		{"env.__faasm_await_call", []int64{1}, "this call has chained no call 1"},
		{"env.__faasm_await_call_output", []int64{max, 0, 0}, "this call has chained no call 4294967295"},
	} {
		_, o := one(t, tt.fn, tt.args...)
		if o.result.Outcome != call.Trapped || !strings.Contains(o.result.Failure.Message, tt.message) {
			t.Errorf("%s%v: %v %+v; want a trap that says %q", tt.fn, tt.args, o.result.Outcome, o.result.Failure, tt.message)
		}
	}
}

// A guest that chains too much, or waits for too many, is told so.
func TestChain_handleLimit(t *testing.T) {
	o := run(t, `(module `+imports(t, "faasm.chain_call")+` (memory 1) (data (i32.const 0) "fail")
	  (func (export "faasm_call") (result i32) (local $n i32)
	    (loop $l (local.set $n (i32.add (local.get $n) (i32.const 1)))
	      (br_if $l (i32.eqz (call $chain_call (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 100)))))
	    (local.get $n)))`, "")
	if o.result.ReturnCode != 6 || o.trace[len(o.trace)-1] != "<== EMFILE" {
		t.Errorf("the call numbered %d was refused with %q; want the 6th, EMFILE", o.result.ReturnCode, o.trace[len(o.trace)-1])
	}
}

// The whole of the Calls group in use, told by its trace.
func TestCalls_trace(t *testing.T) {
	o := run(t, `(module `+imports(t, "faasm.read_call_input", "faasm.write_call_output", "faasm.append_call_output", "faasm.chain_call", "faasm.chain_func",
		"faasm.await_call", "faasm.await_any", "faasm.get_call_output", "faasm.cancel_call", "faasm.call_info")+`
	  (memory 1) (table 2 funcref) (elem (i32.const 1) $f) (func $f (result i32) (i32.const 0))
	  (data (i32.const 0) "double") (data (i32.const 16) "fail") (data (i32.const 32) "absent") (data (i32.const 48) "slow")
	  (func $check (param $got i32) (param $want i32) (if (i32.ne (local.get $got) (local.get $want)) (then unreachable)))
	  (func (export "faasm_call") (result i32)
	    (call $check (call $read_call_input (i32.const 200) (i32.const 3) (i32.const 100)) (i32.const 0))
	    (call $check (i32.load (i32.const 100)) (i32.const 5))
	    (call $check (i32.load8_u (i32.const 203)) (i32.const 0))
	    (call $check (call $chain_call (i32.const 0) (i32.const 6) (i32.const 200) (i32.const 3) (i32.const 104)) (i32.const 0))
	    (call $check (call $chain_call (i32.const 16) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 108)) (i32.const 0))
	    (call $check (call $chain_call (i32.const 32) (i32.const 6) (i32.const 0) (i32.const 0) (i32.const 112)) (i32.const 0))
	    (call $check (call $chain_func (i32.const 1) (i32.const 200) (i32.const 2) (i32.const 116)) (i32.const 0))
	    (call $check (call $chain_call (i32.const 48) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 120)) (i32.const 0))
	    (call $check (i32.load (i32.const 116)) (i32.const 4))
	    ;; double: returned 0, "ininin"
	    (call $check (call $await_call (i32.load (i32.const 104)) (i32.const 128)) (i32.const 0))
	    (call $check (i32.load (i32.const 128)) (i32.const 0))
	    (call $check (call $get_call_output (i32.const 1) (i32.const 300) (i32.const 100) (i32.const 136)) (i32.const 0))
	    (call $check (i32.load (i32.const 136)) (i32.const 6))
	    ;; fail: returned 3
	    (call $check (call $await_call (i32.const 2) (i32.const 128)) (i32.const 0))
	    (call $check (i32.load (i32.const 132)) (i32.const 3))
	    ;; absent: kind 5
	    (call $check (call $await_call (i32.const 3) (i32.const 128)) (i32.const 0))
	    (call $check (i32.load (i32.const 128)) (i32.const 5))
	    ;; slow: has no output yet, and does not end in a millisecond
	    (call $check (call $get_call_output (i32.const 5) (i32.const 300) (i32.const 100) (i32.const 136)) (i32.const 6))
	    (call $check (call $await_any (i32.const 120) (i32.const 1) (i64.const 1000000) (i32.const 140) (i32.const 128)) (i32.const 73))
	    (call $check (call $await_any (i32.const 120) (i32.const 1) (i64.const 0) (i32.const 140) (i32.const 128)) (i32.const 73))
	    (call $check (call $cancel_call (i32.const 5)) (i32.const 0))
	    ;; of slow, named three times, and double, double has ended
	    (i32.store (i32.const 150) (i32.const 5)) (i32.store (i32.const 154) (i32.const 5)) (i32.store (i32.const 158) (i32.const 5)) (i32.store (i32.const 162) (i32.const 1))
	    (call $check (call $await_any (i32.const 150) (i32.const 4) (i64.const -1) (i32.const 140) (i32.const 128)) (i32.const 0))
	    (call $check (i32.load (i32.const 140)) (i32.const 3))
	    ;; of slow and fail, fail has ended
	    (i32.store (i32.const 124) (i32.const 2))
	    (call $check (call $await_any (i32.const 120) (i32.const 2) (i64.const -1) (i32.const 140) (i32.const 128)) (i32.const 0))
	    (call $check (i32.load (i32.const 140)) (i32.const 1))
	    (call $check (call $call_info (i32.const 2) (i32.const 400) (i32.const 100) (i32.const 136)) (i32.const 0))
	    (call $check (call $call_info (i32.const 5) (i32.const 500) (i32.const 4) (i32.const 136)) (i32.const 0))
	    (call $check (i32.load (i32.const 500)) (i32.const 2))
	    (call $check (call $get_call_output (i32.const 4) (i32.const 310) (i32.const 100) (i32.const 136)) (i32.const 0))
	    (call $check (call $write_call_output (i32.const 300) (i32.const 6)) (i32.const 0))
	    (call $check (call $append_call_output (i32.const 400) (i32.const 4)) (i32.const 0))
	    (call $check (call $append_call_output (i32.const 310) (i32.load (i32.const 136))) (i32.const 0))
	    (i32.const 0)))`, "input")
	if o.result.Outcome != call.Returned || string(o.result.Output) != "inpinpmain{true 1}/in" {
		t.Fatalf("%v %+v, output %q\n%s", o.result.Outcome, o.result.Failure, o.result.Output, strings.Join(o.trace, "\n"))
	}
	want := []string{
		"==> faasm.read_call_input(buf=200,cap=3,size=100)", "<== ok",
		"==> faasm.chain_call(name=0,name_len=6,input=200,input_len=3,call=104)", "<== ok",
		"==> faasm.chain_call(name=16,name_len=4,input=0,input_len=0,call=108)", "<== ok",
		"==> faasm.chain_call(name=32,name_len=6,input=0,input_len=0,call=112)", "<== ok",
		"==> faasm.chain_func(func=1,input=200,input_len=2,call=116)", "<== ok",
		"==> faasm.chain_call(name=48,name_len=4,input=0,input_len=0,call=120)", "<== ok",
		"==> faasm.await_call(call=1,status=128)", "<== ok",
		"==> faasm.get_call_output(call=1,buf=300,cap=100,size=136)", "<== ok",
		"==> faasm.await_call(call=2,status=128)", "<== ok",
		"==> faasm.await_call(call=3,status=128)", "<== ok",
		"==> faasm.get_call_output(call=5,buf=300,cap=100,size=136)", "<== EAGAIN",
		"==> faasm.await_any(calls=120,n=1,timeout_ns=1000000,index=140,status=128)", "<== ETIMEDOUT",
		"==> faasm.await_any(calls=120,n=1,timeout_ns=0,index=140,status=128)", "<== ETIMEDOUT",
		"==> faasm.cancel_call(call=5)", "<== ok",
		"==> faasm.await_any(calls=150,n=4,timeout_ns=-1,index=140,status=128)", "<== ok",
		"==> faasm.await_any(calls=120,n=2,timeout_ns=-1,index=140,status=128)", "<== ok",
		"==> faasm.call_info(what=2,buf=400,cap=100,size=136)", "<== ok",
		"==> faasm.call_info(what=5,buf=500,cap=4,size=136)", "<== ok",
		"==> faasm.get_call_output(call=4,buf=310,cap=100,size=136)", "<== ok",
		"==> faasm.write_call_output(ptr=300,len=6)", "<== ok",
		"==> faasm.append_call_output(ptr=400,len=4)", "<== ok",
		"==> faasm.append_call_output(ptr=310,len=11)", "<== ok",
	}
	if diff := cmp.Diff(want, o.trace); diff != "" {
		t.Errorf("trace (-want +got):\n%s", diff)
	}
}

// stdin is the input, stdout the output; once output is written otherwise, stdout is log.
func TestStdio(t *testing.T) {
	const module = `(memory 1) (data (i32.const 100) "\c8\00\00\00\03\00\00\00\2c\01\00\00\02\00\00\00") (data (i32.const 200) "abc") (data (i32.const 300) "d\n")`
	t.Run("stdout is the output", func(t *testing.T) {
		o := run(t, `(module `+imports(t, "wasi_snapshot_preview1.fd_write", "wasi_snapshot_preview1.fd_read")+module+`
		  (func (export "_start")
		    (drop (call $fd_read (i32.const 0) (i32.const 100) (i32.const 2) (i32.const 0)))
		    (drop (call $fd_write (i32.const 1) (i32.const 100) (i32.const 2) (i32.const 0)))
		    (drop (call $fd_write (i32.const 2) (i32.const 100) (i32.const 2) (i32.const 0)))
		    (drop (call $fd_read (i32.const 0) (i32.const 100) (i32.const 2) (i32.const 4)))
		    (drop (call $fd_write (i32.const 1) (i32.const 100) (i32.const 1) (i32.const 8)))))`, "12345\n6")
		if got, want := string(o.result.Output), "12345\n63"; got != want {
			t.Errorf("output %q; want %q", got, want)
		}
		if diff := cmp.Diff([]string{"stderr: 12345"}, o.logs); diff != "" {
			t.Errorf("log (-want +got):\n%s", diff)
		}
	})
	t.Run("stdout is log", func(t *testing.T) {
		o := run(t, `(module `+imports(t, "wasi_snapshot_preview1.fd_write", "faasm.write_call_output")+module+`
		  (func (export "_start")
		    (drop (call $fd_write (i32.const 1) (i32.const 100) (i32.const 2) (i32.const 0)))
		    (drop (call $write_call_output (i32.const 200) (i32.const 2)))
		    (drop (call $fd_write (i32.const 1) (i32.const 100) (i32.const 2) (i32.const 0)))))`, "")
		if got, want := string(o.result.Output), "ab"; got != want {
			t.Errorf("output %q; want %q", got, want)
		}
		if diff := cmp.Diff([]string{"stdout: abcd", "stdout: abcd"}, o.logs); diff != "" {
			t.Errorf("log (-want +got):\n%s", diff)
		}
	})
	t.Run("closed", func(t *testing.T) {
		o := run(t, `(module `+imports(t, "wasi_snapshot_preview1.fd_write", "wasi_snapshot_preview1.fd_close")+module+`
		  (func (export "faasm_call") (result i32)
		    (drop (call $fd_close (i32.const 1)))
		    (call $fd_write (i32.const 1) (i32.const 100) (i32.const 2) (i32.const 0))))`, "")
		if o.result.ReturnCode != int32(hostif.EBADF) {
			t.Errorf("write after close: %v", hostif.Errno(o.result.ReturnCode))
		}
	})
	t.Run("more than the output limit", func(t *testing.T) {
		o := run(t, `(module `+imports(t, "wasi_snapshot_preview1.fd_write")+module+`
		  (func (export "faasm_call") (result i32) (local $e i32)
		    (loop $l (br_if $l (i32.eqz (local.tee $e (call $fd_write (i32.const 1) (i32.const 100) (i32.const 2) (i32.const 0))))))
		    (local.get $e)))`, "")
		if o.result.ReturnCode != int32(hostif.EFBIG) || len(o.result.Output) != 1000 {
			t.Errorf("%v after %d bytes; want EFBIG after 1000", hostif.Errno(o.result.ReturnCode), len(o.result.Output))
		}
	})
}

// The two dialects of __faasm_await_call_output, told apart as Dialect2020 says.
func TestUpstream_awaitCallOutput(t *testing.T) {
	t.Run("today: the host gets memory from the guest's malloc", func(t *testing.T) {
		o := run(t, `(module `+imports(t, "env.__faasm_chain_name", "env.__faasm_await_call_output", "env.__faasm_write_output", "faasm.call_info")+`
		  (memory 1) (data (i32.const 0) "fail\00")
		  ;; a malloc that itself calls the host
		  (func (export "malloc") (param $n i32) (result i32)
		    (drop (call $call_info (i32.const 2) (i32.const 400) (i32.const 100) (i32.const 136)))
		    (i32.add (i32.const 1000) (local.get $n)))
		  (func (export "faasm_call") (result i32) (local $code i32)
		    (local.set $code (call $__faasm_await_call_output (call $__faasm_chain_name (i32.const 0) (i32.const 0) (i32.const 0)) (i32.const 16) (i32.const 20)))
		    (call $__faasm_write_output (i32.load (i32.const 16)) (i32.load (i32.const 20)))
		    (if (i32.ne (i32.load (i32.const 16)) (i32.const 1003)) (then unreachable))
		    (local.get $code)))`, "")
		if o.result.ReturnCode != 3 || string(o.result.Output) != "why" {
			t.Errorf("got %d, %q (%+v); want 3, \"why\"\n%s", o.result.ReturnCode, o.result.Output, o.result.Failure, strings.Join(o.trace, "\n"))
		}
	})
	t.Run("2020: the host writes to a buffer", func(t *testing.T) {
		o := run(t, `(module `+imports(t, "env.__faasm_chain_function", "env.__faasm_await_call_output", "env.__faasm_write_output")+`
		  (memory 1) (data (i32.const 0) "fail\00")
		  (func (export "malloc") (param $n i32) (result i32) unreachable)
		  (func (export "faasm_call") (result i32) (local $code i32)
		    (local.set $code (call $__faasm_await_call_output (call $__faasm_chain_function (i32.const 0) (i32.const 0) (i32.const 0)) (i32.const 16) (i32.const 2)))
		    (call $__faasm_write_output (i32.const 16) (i32.const 3))
		    (local.get $code)))`, "")
		if o.result.ReturnCode != 3 || string(o.result.Output) != "wh\x00" {
			t.Errorf("got %d, %q (%+v); want 3, \"wh\\x00\"", o.result.ReturnCode, o.result.Output, o.result.Failure)
		}
	})
	for _, tt := range []struct{ name, malloc, outcome, message string }{
		{"malloc traps", `(func (export "malloc") (param i32) (result i32) unreachable)`, "trapped", "unreachable"},
		{"malloc returns 0", `(func (export "malloc") (param i32) (result i32) (i32.const 0))`, "trapped", "malloc has no room for 3 bytes"},
		{"malloc returns what is no memory", `(func (export "malloc") (param i32) (result i32) (i32.const -2))`, "trapped", "malloc has no room for 3 bytes"},
		{"malloc of another type", `(func (export "malloc") (param i64) (result i32) (i32.const 0))`, "trapped", "malloc is not a function (i32) -> i32"},
		{"malloc exits", `(func (export "malloc") (param i32) (result i32) (call $proc_exit (i32.const 44)) (i32.const 0))`, "returned", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := run(t, `(module `+imports(t, "env.__faasm_chain_name", "env.__faasm_await_call_output", "wasi_snapshot_preview1.proc_exit")+`
			  (memory 1) (data (i32.const 0) "fail\00") `+tt.malloc+`
			  (func (export "faasm_call") (result i32)
			    (call $__faasm_await_call_output (call $__faasm_chain_name (i32.const 0) (i32.const 0) (i32.const 0)) (i32.const 16) (i32.const 20))))`, "")
			if o.result.Outcome.String() != tt.outcome {
				t.Fatalf("%v %+v; want %s", o.result.Outcome, o.result.Failure, tt.outcome)
			}
			if tt.outcome == "returned" && o.result.ReturnCode != 44 {
				t.Errorf("return code %d; want 44", o.result.ReturnCode)
			}
			if o.result.Failure != nil && !strings.Contains(o.result.Failure.Message, tt.message) {
				t.Errorf("message %q; want %q", o.result.Failure.Message, tt.message)
			}
		})
	}
}

// What upstream's functions return when all is well.
func TestUpstream_answers(t *testing.T) {
	for _, tt := range []struct {
		fn   string
		args []int64
		want int32
	}{
		{"env.__faasm_read_input", []int64{0, 0}, 5},
		{"env.__faasm_read_input", []int64{0, 3}, 3},
		{"env.__faasm_read_input", []int64{0, 100}, 5},
		{"env.__faasm_chain_name", []int64{0, 0, 0}, 1},
		{"env.__faasm_chain_function", []int64{16, 0, 0}, 1},
		{"env.__faasm_chain_ptr", []int64{1, 0, 0}, 1},
		{"env.__faasm_chain_this", []int64{9, 0, 0}, 1},
		{"env.__faasm_get_idx", nil, 0},
	} {
		if got, o := one(t, tt.fn, tt.args...); got != tt.want || o.result.Outcome != call.Returned {
			t.Errorf("%s%v: %d, %v; want %d", tt.fn, tt.args, got, o.result.Outcome, tt.want)
		}
	}
}

// All 46 functions of preview 1 link.
func TestWASI_isWhole(t *testing.T) {
	n := 0
	for _, f := range hostif.Functions {
		if f.Module == "wasi_snapshot_preview1" {
			n++
			if len(f.Names) != len(f.Params) {
				t.Errorf("%s has %d parameters and %d names", f.Name, len(f.Params), len(f.Names))
			}
		}
	}
	if n != 46 {
		t.Errorf("%d functions; preview 1 has 46", n)
	}
}

// Two Faaslets never get the same random bytes, and the monotonic clock begins with the
// call.
func TestWASI_randomAndClock(t *testing.T) {
	wat := `(module ` + imports(t, "wasi_snapshot_preview1.random_get", "wasi_snapshot_preview1.clock_time_get", "faasm.write_call_output") + `
	  (memory 1) (func (export "faasm_call") (result i32)
	    (drop (call $random_get (i32.const 0) (i32.const 32)))
	    (drop (call $clock_time_get (i32.const 1) (i64.const 0) (i32.const 40)))
	    (drop (call $write_call_output (i32.const 0) (i32.const 32)))
	    (i64.gt_u (i64.load (i32.const 40)) (i64.const 20000000000))))`
	seen := map[string]bool{}
	for range 20 {
		o := run(t, wat, "")
		if o.result.ReturnCode != 0 {
			t.Error("the monotonic clock of a fresh call is past 20 s")
		}
		if seen[string(o.result.Output)] {
			t.Errorf("random bytes %x came twice", o.result.Output)
		}
		seen[string(o.result.Output)] = true
	}
}
