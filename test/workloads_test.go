package test

import (
	"bytes"
	"errors"
	"image/png"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/faasm-go/faasm/client"
	"github.com/faasm-go/faasm/workloads"
)

// Every workload does on a host what workloads/README.md says.
func TestWorkloads_outputs(t *testing.T) {
	golden, err := os.ReadFile("../workloads/wordcount/alice.top20.txt")
	if err != nil {
		t.Fatal(err)
	}
	h := serve(t, t.TempDir())
	var names []string
	for _, n := range workloads.Names() {
		// Those of state are in state_test.go: what they do depends on each other.
		if !strings.HasPrefix(n, "hostile_") && !strings.HasPrefix(n, "state_") {
			names = append(names, n)
		}
	}
	h.deploy("", client.DeployOptions{Timeout: time.Minute}, names...)
	covered := map[string]bool{}
	is := regexp.QuoteMeta
	for _, tt := range []struct{ name, input, want string }{ // want is a pattern for the whole output
		{"noop", "", ""},
		{"noop_cmd", "", ""},
		{"echo", "\x00 any \xff bytes", is("\x00 any \xff bytes")},
		{"echo", strings.Repeat("long ", 1<<20), is(strings.Repeat("long ", 1<<20))},
		{"hello", "Ada", "hello, Ada\n"},
		{"hello", "", "hello, world\n"},
		{"args", "", "argc 1\narg 0 args\n"},
		{"cxx_hello", "b\na\n", "hello from a constructor\na\nb\n"},
		{"wordcount", string(workloads.Text()), is(string(golden))},
		{"pi", "1000000 7", `3\.141216\n?`},
		{"info", "", `(?s).*function info\n.*`},
		{"race", "", "timed out, winner 1 returned 42, cancelled 2\n?"},
		{"counter", "", "1"},
		{"counter", "", "1"},
		{"init_once", "", "constructors 1 inits 1 checksum 2534703104"},
		{"counter_init", "", "101"},
		{"counter_init", "", "101"},
		{"image1", "10", ""},
		{"image32", "1", ""},
		{"luck", "", "init [0-9a-f]{32}\ncall [0-9a-f]{32}\nrealtime 1[0-9]{18}\nmonotonic [0-9]{1,12}\n"},
		{"lisp", "(display \"nth: \") (nth-prime 1000)", "nth: \n7919\n"},
		{"lisp", "(define (fib n) (if (< n 2) n (+ (fib (- n 1)) (fib (- n 2))))) (fib 20)", "6765\n"},
		{"chain_deep", "100", "5050"},
		{"fanout", "500 noop", "500"},
		{"memtouch", "5000000", "624993160"}, // 19,920 times 31,375, and 0 to 79
		{"random", "", "[0-9a-f]{32}"},
		{"clock", "", "realtime 1[0-9]{18}\nmonotonic [0-9]{1,11}\n"},
		{"upstream_today", "12", "144"},
		{"upstream_2020", "5", "85"},
	} {
		covered[tt.name] = true
		got, err := h.invoke("", tt.name, tt.input)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		// As Latin-1, so that patterns can speak of any byte.
		if !regexp.MustCompile("^(?:" + latin1(tt.want) + ")$").MatchString(latin1(got)) {
			t.Errorf("%s(%.40q) says %.200q; want %.200q", tt.name, tt.input, got, tt.want)
		}
	}
	picture, err := h.invoke("", "mandelbrot", "320 200")
	if err != nil {
		t.Fatal(err)
	}
	covered["mandelbrot"] = true
	img, err := png.Decode(bytes.NewReader([]byte(picture)))
	if err != nil {
		t.Fatalf("mandelbrot is no PNG: %v", err)
	}
	if b := img.Bounds(); b.Dx() != 320 || b.Dy() != 200 {
		t.Errorf("mandelbrot is %d by %d", b.Dx(), b.Dy())
	}
	for _, n := range names {
		if !covered[n] {
			t.Errorf("workload %s is tried by nothing", n)
		}
	}
}

func latin1(s string) string {
	r := make([]rune, len(s))
	for i := range len(s) {
		r[i] = rune(s[i])
	}
	return string(r)
}

// Each guest that misbehaves ends in its own way, which its author is told.
func TestWorkloads_hostileEndings(t *testing.T) {
	h := serve(t, t.TempDir())
	h.deploy("", client.DeployOptions{Timeout: 400 * time.Millisecond}, hostileSet()...)
	h.deploy("", client.DeployOptions{}, "noop")
	endings := map[string]struct {
		code   client.Code // empty: it returns 0
		detail string      // contained in the problem's, or the output
		frame  string      // innermost
	}{
		"hostile_spin_mem":        {client.CodeDeadline, "stopped after 400ms", "faasm_call"},
		"hostile_spin_nomem":      {client.CodeDeadline, "stopped after 400ms", "spin"},
		"hostile_fill":            {client.CodeDeadline, "stopped after 400ms", "fill"},
		"hostile_recurse_flat":    {client.CodeDeadline, "stopped after 400ms", "tree"},
		"hostile_recurse_endless": {client.CodeTrap, "call stack exhausted", "down"},
		"hostile_recurse_stack":   {client.CodeTrap, "out of bounds memory access", "down"},
		"hostile_trap":            {client.CodeTrap, "unreachable", "trap_inner"},
		"hostile_divzero":         {client.CodeTrap, "integer divide by zero", ""},
		"hostile_oob":             {client.CodeTrap, "out of bounds memory access", ""},
		"hostile_exit3":           {client.CodeReturnCode, "hostile_exit3 returned 3", ""},
		"hostile_exhaust":         {"", "66060288", ""},
		"hostile_exhaust_die":     {client.CodeMemoryLimit, "memory limit of 65536 KiB reached", "abort"},
		"hostile_print_forever":   {client.CodeDeadline, "stopped after", ""},
		"hostile_table_grow":      {client.CodeDeadline, "stopped after 400ms", ""},
		"hostile_chain_bomb":      {client.CodeDeadline, "", ""},
		"hostile_chain_forever":   {client.CodeDeadline, "stopped after 400ms", ""},
		"hostile_bad_pointers":    {"", "ok", ""},
	}
	for _, name := range hostileSet() {
		want, ok := endings[name]
		if !ok {
			t.Errorf("nobody says how %s ends", name)
			continue
		}
		input := ""
		if name == "hostile_bad_pointers" {
			input = "some input"
		}
		got, err := h.invoke("", name, input)
		if want.code == "" {
			if err != nil || !strings.Contains(got, want.detail) {
				t.Errorf("%s: %q, %v; want %q", name, got, err, want.detail)
			}
			continue
		}
		var p *client.Problem
		if !errors.As(err, &p) || p.Code != want.code || !strings.Contains(p.Detail, want.detail) {
			t.Errorf("%s: %q, %v; want %s with %q", name, got, err, want.code, want.detail)
			continue
		}
		if want.frame != "" && (len(p.Backtrace) == 0 || p.Backtrace[0].FuncName != want.frame) {
			t.Errorf("%s: backtrace %+v; want %s innermost", name, p.Backtrace, want.frame)
		}
	}
}
