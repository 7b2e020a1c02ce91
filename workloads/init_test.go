package workloads

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/faaslet"
	"github.com/faasm-go/faasm/internal/proto"
)

// The limits of a function whose author names none.
var limits = faaslet.Limits{MemoryMax: 64 << 20, Timeout: time.Minute}

func newRuntime(t *testing.T) *faaslet.Runtime {
	t.Helper()
	rt, err := faaslet.NewRuntime(faaslet.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rt.Close(); err != nil {
			t.Errorf("close runtime: %v", err)
		}
	})
	return rt
}

// initialise compiles a workload and makes its Proto-Faaslet, which is nil if that failed.
func initialise(t *testing.T, rt *faaslet.Runtime, name string, timeout time.Duration) (*faaslet.Code, *proto.File, call.Result) {
	t.Helper()
	code, err := rt.Compile(Wasm(name), limits)
	if err != nil {
		t.Fatalf("compile %s: %v", name, err)
	}
	t.Cleanup(func() {
		if err := code.Close(); err != nil {
			t.Errorf("close %s: %v", name, err)
		}
	})
	p, r, err := code.Initialise(call.New(&call.Request{ID: call.NewID(), Tenant: "t", Function: name}, nil), timeout, nil)
	if err != nil {
		t.Fatalf("initialise %s: %v", name, err)
	}
	if p != nil {
		t.Cleanup(func() { p.Close() })
	}
	return code, p, r
}

// ready is a workload to be called.
func ready(t *testing.T, name string) *faaslet.Code {
	t.Helper()
	code, p, r := initialise(t, newRuntime(t), name, time.Minute)
	if p == nil {
		t.Fatalf("initialise %s: %v: %+v", name, r.Outcome, r.Failure)
	}
	if err := code.StartFrom(p); err != nil {
		t.Fatal(err)
	}
	return code
}

// invoke makes one call, and tells also what it printed and how many pages it wrote.
func invoke(t *testing.T, code *faaslet.Code, input string) (r call.Result, printed string, dirty int) {
	t.Helper()
	w := &faaslet.World{Logs: call.NewLogBuffer(call.LogBufferOptions{})}
	cl := call.New(&call.Request{ID: call.NewID(), Tenant: "t", Function: "f", Input: []byte(input)}, nil)
	result, remains := code.Run(cl, w)
	dirty, err := remains.Clean()
	if err != nil {
		t.Fatalf("clean: %v", err)
	}
	for _, l := range w.Logs.Call(cl.ID()) {
		printed += l.Text + "\n"
	}
	return *result, printed, dirty
}

// Each way in which initialisation can go wrong ends as it should, and is told to the author.
func TestInitialisation_endings(t *testing.T) {
	for _, tt := range []struct {
		name    string
		outcome call.Outcome
		message string // contained in the failure's; empty: it succeeds
		frame   string // innermost
		printed string // a pattern
		output  string // of a call
	}{
		{name: "hostile_init_trap", outcome: call.Trapped, message: "unreachable", frame: "fill_table"},
		{name: "hostile_init_spin", outcome: call.DeadlineExceeded, message: "stopped after", frame: "faasm_init"},
		{name: "hostile_init_nonzero", outcome: call.Trapped, message: "faasm_init returned 3", printed: "no table to fill\n"},
		{name: "hostile_init_exit", outcome: call.Trapped, message: "exited with 4"},
		{name: "hostile_init_grow", output: "66125824"},
		{name: "hostile_init_print", printed: `(?s)(x+\n)+.*\d+ more bytes were printed.*`, output: "ok"},
		{name: "counter_init", output: "101"},
		{name: "init_once", output: "constructors 1 inits 1 checksum 2534703104"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			timeout := time.Minute
			if tt.outcome == call.DeadlineExceeded {
				timeout = 200 * time.Millisecond
			}
			code, p, r := initialise(t, newRuntime(t), tt.name, timeout)
			if !regexp.MustCompile("^(?:" + tt.printed + ")$").Match(r.Output) {
				t.Errorf("printed %.300q; want %q", r.Output, tt.printed)
			}
			if tt.message != "" {
				if p != nil || r.Outcome != tt.outcome || r.Failure == nil || !strings.Contains(r.Failure.Message, tt.message) {
					t.Fatalf("got %v, %v: %+v; want %v with %q", p, r.Outcome, r.Failure, tt.outcome, tt.message)
				}
				if tt.frame != "" && (len(r.Failure.Backtrace) == 0 || r.Failure.Backtrace[0].FuncName != tt.frame) {
					t.Errorf("backtrace %+v; want %s innermost", r.Failure.Backtrace, tt.frame)
				}
				return
			}
			if p == nil {
				t.Fatalf("%v: %+v", r.Outcome, r.Failure)
			}
			if err := code.StartFrom(p); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if r, _, _ := invoke(t, code, ""); string(r.Output) != tt.output || r.Outcome != call.Returned || r.ReturnCode != 0 {
					t.Errorf("a call says %q, %v, %d: %+v; want %q", r.Output, r.Outcome, r.ReturnCode, r.Failure, tt.output)
				}
			}
		})
	}
}

// A call of an image writes as many of its pages as it is told, and no others.
func TestImage_pagesWritten(t *testing.T) {
	for _, tt := range []struct {
		name, percent string
		written       int
	}{
		{"image1", "", 0}, {"image1", "0", 0}, {"image1", "0.4", 1}, {"image1", "10", 25}, {"image1", "100\n", 256},
		{"image32", "1", 81}, {"image32", "10", 819}, {"image32", "100", 8192},
	} {
		code := ready(t, tt.name)
		r, _, dirty := invoke(t, code, tt.percent)
		// The stack is a page or two.
		if r.Outcome != call.Returned || r.ReturnCode != 0 || dirty < tt.written || dirty > tt.written+2 {
			t.Errorf("%s(%q) wrote %d pages, %v, %d; want %d", tt.name, tt.percent, dirty, r.Outcome, r.ReturnCode, tt.written)
		}
	}
	code := ready(t, "image1")
	for _, percent := range []string{"-1", "101", "100.5", "ten", "1 1", strings.Repeat("1", 100)} {
		if r, _, _ := invoke(t, code, percent); r.Outcome != call.Returned || r.ReturnCode != 28 {
			t.Errorf("image1(%q): %v, %d; want EINVAL, 28", percent, r.Outcome, r.ReturnCode)
		}
	}
}

// Two Faaslets of one Proto-Faaslet share what was drawn when it was made, and nothing else.
func TestLuck_isFresh(t *testing.T) {
	code := ready(t, "luck")
	form := regexp.MustCompile(`^init ([0-9a-f]{32})\ncall ([0-9a-f]{32})\nrealtime (1[0-9]{18})\nmonotonic ([0-9]+)\n$`)
	draw := func() []string {
		r, _, _ := invoke(t, code, "")
		m := form.FindStringSubmatch(string(r.Output))
		if m == nil {
			t.Fatalf("output %q; want %s", r.Output, form)
		}
		return m
	}
	a, b := draw(), draw()
	if a[1] != b[1] {
		t.Errorf("what initialisation drew is %s and then %s", a[1], b[1])
	}
	if a[2] == b[2] || a[1] == a[2] || a[3] == b[3] {
		t.Errorf("two calls share a number that should be fresh:\n%s\n%s", a[0], b[0])
	}
}
