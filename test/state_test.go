package test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/faasm-go/faasm/client"
	"github.com/faasm-go/faasm/internal/state/redistest"
)

// increments is how often TestState_noLostUpdate counts; the promise is about 10,000.
var increments = flag.Int("state-increments", 800, "how many increments TestState_noLostUpdate makes")

// onHosts runs a test with two Faaslets' places: on one host with its own global tier, and on
// two that share a Redis. The state functions are deployed there.
func onHosts(t *testing.T, test func(t *testing.T, a, b *host), functions ...string) {
	t.Run("one host", func(t *testing.T) {
		h := serve(t, t.TempDir())
		h.deploy("", client.DeployOptions{Timeout: time.Minute}, functions...)
		test(t, h, h)
	})
	t.Run("two hosts", func(t *testing.T) {
		url := redistest.New(t).URL()
		a, b := serve(t, t.TempDir(), "--state", url), serve(t, t.TempDir(), "--state", url)
		for _, h := range []*host{a, b} {
			h.deploy("", client.DeployOptions{Timeout: time.Minute}, functions...)
		}
		test(t, a, b)
	})
}

// commands calls a function whose input and output are lines; here "; " parts them.
func (h *host) commands(function, input string) string {
	h.t.Helper()
	out, err := h.invoke("", function, strings.ReplaceAll(input, "; ", "\n"))
	var p *client.Problem
	if errors.As(err, &p) {
		if printed, outErr := h.Output(context.Background(), p.CallID); outErr == nil {
			out = string(printed)
		}
		out += p.Error()
	} else if err != nil {
		out += err.Error()
	}
	return strings.TrimSuffix(strings.ReplaceAll(out, "\n", "; "), "; ")
}

// step is one call: on the first host or the second, with input and output as commands has them.
type step struct {
	on              int
	function, input string
	want            string
}

func walk(t *testing.T, a, b *host, steps []step) {
	t.Helper()
	for _, s := range steps {
		if got := []*host{a, b}[s.on].commands(s.function, s.input); got != s.want {
			t.Errorf("on host %d, %s(%s):\n got %s\nwant %s", s.on, s.function, s.input, got, s.want)
		}
	}
}

// concurrently runs f(i) for i below n and returns when all have returned.
func concurrently(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

var stateObjects = []string{
	"state_vector", "state_async_vector", "state_matrix", "state_sparse", "state_dictionary", "state_list",
	"state_counter", "state_lock", "state_ops",
}

// What one Faaslet pushes, another sees after it has pulled, on its host and on another.
func TestState_objectsAreShared(t *testing.T) {
	onHosts(t, func(t *testing.T, a, b *host) {
		for object, steps := range map[string][]step{
			"vector": {
				{1, "state_vector", "open v; get 0", "error 44; error 68"},
				{0, "state_vector", "create v 10; set 3 1.5; add 3 -4; get 10; push", "ok; ok; ok; error 68; ok"},
				{1, "state_vector", "open v; size; get 3; set 4 8; push_range 4 1; push_range 4 7", "ok; 10; -2.5; ok; ok; error 68"},
				{0, "state_vector", "open v; pull; get 4; sum", "ok; ok; 8; 5.5"},
				{1, "state_vector", "create v 9; create v 10; get 3", "error 9; ok; -2.5"},
				// Each adds to what the other has merged; min and max know only what was changed.
				{0, "state_vector", "open v; add 0 2; merge sum", "ok; ok; ok"},
				{1, "state_vector", "open v; add 0 3; merge sum; pull; get 0; get 3", "ok; ok; ok; ok; 5; -2.5"},
				{0, "state_vector", "open v; pull; set 3 -9; merge min; set 3 7; merge max; pull; get 3; get 4", "ok; ok; ok; ok; ok; ok; ok; 7; 8"},
				// What is published stays; what a reader writes is its own.
				{0, "state_vector", "open v; publish; set 0 100; push", "ok; ok; ok; ok"},
				{1, "state_vector", "published v; get 0; set 0 1; get 0; push", "ok; 5; ok; 1; error 69"},
				{1, "state_vector", "published v; get 0; open v; pull; get 0", "ok; 5; ok; ok; 100"},
				{1, "state_vector", "read_only v; set 0 1; get 0; open v; get 0", "ok; ok; 1; ok; 100"},
			},
			"async vector": {
				{0, "state_async_vector", "create w 200000; push; set 0 1; push", "ok; ok; ok; ok"},
				// Neighbours, each of whom has not seen the other.
				{1, "state_async_vector", "open w; get 0", "ok; 1"},
				{0, "state_async_vector", "open w; set 1 2; set 199999 4; push", "ok; ok; ok; ok"},
				{1, "state_async_vector", "open w; set 2 8; set 100000 16; push; pull; sum", "ok; ok; ok; ok; ok; 31"},
				{0, "state_async_vector", "open w; pull; sum; get 100000; get 200000", "ok; ok; 31; 16; error 68"},
			},
			"matrix": {
				{1, "state_matrix", "open m; create m 1000000 1000000; create m 18446744073709551615 2; shape", "error 44; error 61; error 61; 0 0"},
				{0, "state_matrix", "create m 1000 1000; push; fill 10 2 1.5; push_columns 10 2", "ok; ok; ok; ok"},
				{1, "state_matrix", "open m; shape; sum 9 4; fill 11 1 2; push_columns 11 1; sum 999 2; get 1000 0", "ok; 1000 1000; 3000; ok; ok; error 68; error 68"},
				{0, "state_matrix", "open m; pull 10 2; sum 0 1000; set 999 999 -1; get 999 999; create m 999 1000", "ok; ok; 3500; ok; -1; error 9"},
			},
			"sparse matrix": {
				{1, "state_sparse", "open s", "error 44"},
				{0, "state_sparse", "store s 50000; open s; push", "ok; ok; ok"},
				{1, "state_sparse", "open s; shape; column 0; column 7; column 49999; column 50000; squares 10 5", "ok; 50000 50000 149998; 0 2 1 -1; 6 -1 7 2 8 -1; 49998 -1 49999 2; error 68; 104398"},
				{0, "state_sparse", "store s 3; open s; push", "ok; ok; ok"},
				{1, "state_sparse", "open s; pull; shape; squares 0 3", "ok; ok; 3 3 7; 54"},
			},
			"dictionary": {
				{1, "state_dictionary", "open d; size; get a", "ok; 0; error 44"},
				{0, "state_dictionary", "open d; lock; put a 1; put bb two; put a 3; erase c; push; unlock", "ok; ok; ok; ok; ok; error 44; ok; ok"},
				{1, "state_dictionary", "open d; lock; pull; each; erase a; put cc x; push; unlock", "ok; ok; ok; bb two a 3; ok; ok; ok; ok"},
				{0, "state_dictionary", "open d; pull; each; size; get bb", "ok; ok; bb two cc x; 2; two"},
				{0, "state_dictionary", "open d; erase bb; erase cc; push; open d; size", "ok; ok; ok; ok; ok; 0"},
			},
			"list": {
				{0, "state_list", "open l; size; read 0 5; append 5; append -7", "ok; 0; ok; ok; ok"},
				{1, "state_list", "open l; size; append 9; read 1 5; read 3 1; read 0 1000000000", "ok; 2; ok; -7 9; ok; error 48"},
				{0, "state_list", "open l; read 0 9; clear; size", "ok; 5 -7 9; ok; 0"},
			},
			"counter": {
				{0, "state_counter", "open c; value; increment 1 3; add 10 2", "ok; 0; 1 2 3; ok"},
				{1, "state_counter", "open c; value; increment -1 2; add 1 1", "ok; 23; 22 21; ok"},
				{0, "state_counter", "open c; value", "ok; 22"},
			},
			"lock": {
				{0, "state_lock", "local k write; unlock; unlock; global k read 1000; count global n 5", "ok; ok; ok; ok; ok"},
				{1, "state_lock", "count global n 5; count local other 3", "ok; ok"},
				{0, "state_ops", "get n p 0; add n 0 0", "0 8 ADDRESS; 0 10"},
			},
		} {
			t.Run(object, func(t *testing.T) {
				for i, s := range steps {
					if strings.Contains(s.want, "ADDRESS") {
						got := addresses.ReplaceAllString([]*host{a, b}[s.on].commands(s.function, s.input), "$1 ADDRESS")
						if got != s.want {
							t.Errorf("%s(%s): got %s; want %s", s.function, s.input, got, s.want)
						}
						continue
					}
					walk(t, a, b, steps[i:i+1])
				}
			})
		}
	}, stateObjects...)
}

// addresses are those that "get" of state_ops prints.
var addresses = regexp.MustCompile(`(\b0 [0-9]+) [0-9]{5,}`)

// On one host nothing needs to be pushed: Faaslets of two functions have the same memory.
func TestState_oneHostSharesMemory(t *testing.T) {
	h := serve(t, t.TempDir())
	h.deploy("", client.DeployOptions{Timeout: time.Minute}, append(stateObjects, "state_share_writer", "state_share_reader")...)
	walk(t, h, h, []step{
		{0, "state_share_writer", "1000000", "1000000 numbers are shared"},
		{0, "state_share_reader", "", "1000000 numbers, their sum is 2089046907115616"},
		{0, "state_vector", "create v 5; set 1 2", "ok; ok"},
		{0, "state_async_vector", "open v; get 1; set 1 3", "ok; 2; ok"},
		{0, "state_vector", "open v; get 1", "ok; 3"},
		{0, "state_matrix", "create m 3 3; set 1 1 4", "ok; ok"},
		{0, "state_matrix", "open m; sum 0 3", "ok; 4"},
		{0, "state_sparse", "store s 4", "ok"},
		{0, "state_sparse", "open s; column 0", "ok; 0 2 1 -1"},
		{0, "state_dictionary", "open d; put a 1; store", "ok; ok; ok"},
		{0, "state_dictionary", "open d; get a", "ok; 1"},
	})
	// Two at once: one waits in its own memory for what the other writes to it.
	var waited string
	concurrently(2, func(i int) {
		if i == 0 {
			waited = h.commands("state_ops", "get ping c 16; wait ping 0 %01 50000; poke ping 8 %02; peek ping 0 1")
		} else if got := h.commands("state_ops", "get ping c 16; poke ping 0 %01; wait ping 8 %02 50000"); !strings.HasSuffix(got, "; 0; 0") {
			t.Errorf("one says %s", got)
		}
	})
	if !strings.HasSuffix(waited, "; 0; 0; 0 %01") {
		t.Errorf("the other says %s", waited)
	}
}

// A range of columns takes its own part of memory and of the global tier, and no more.
func TestState_columnsTakeTheirPart(t *testing.T) {
	onHosts(t, func(t *testing.T, a, b *host) {
		walk(t, a, b, []step{
			{0, "state_matrix", "create m 1000 5000; push", "ok; ok"},
			{0, "state_sparse", "store s 50000; open s; push", "ok; ok; ok"},
		})
		memory := func(function, input string) int {
			t.Helper()
			lines := strings.Split(b.commands(function, input+"; memory"), "; ")
			n, err := strconv.Atoi(lines[len(lines)-1])
			if err != nil {
				t.Fatalf("%s(%s): %q", function, input, lines)
			}
			return n
		}
		for _, tt := range []struct {
			function, open, some string
			chunks               int // that the range can lie in
		}{
			{"state_matrix", "open m", "sum 100 20", 4}, // 160,000 of 40 MB
			{"state_sparse", "open s", "column 100", 2}, // of 1.8 MB
		} {
			before := memory(tt.function, tt.open)
			after := memory(tt.function, tt.open+"; "+tt.some+"; "+tt.some)
			// malloc may take a little as well.
			if grown, most := after-before, (tt.chunks+1)<<16; grown <= 0 || grown > most {
				t.Errorf("%s: %s took %d bytes of memory; want at most %d", tt.function, tt.some, grown, most)
			}
		}
	}, "state_matrix", "state_sparse")
}

// Whatever somebody puts under an object's key, the object reports it, and never traps.
func TestState_hostileContent(t *testing.T) {
	h := serve(t, t.TempDir())
	h.deploy("", client.DeployOptions{Timeout: time.Minute}, stateObjects...)
	u32 := func(n uint32) string {
		return fmt.Sprintf("%%%02x%%%02x%%%02x%%%02x", byte(n), byte(n>>8), byte(n>>16), byte(n>>24))
	}
	u64 := func(n uint64) string { return u32(uint32(n)) + u32(uint32(n>>32)) }
	header := func(magic string, element uint32, rows, columns, entries uint64) string {
		return magic + u32(element) + u64(rows) + u64(columns) + u64(entries) + strings.Repeat(u64(0), 4)
	}
	const double = 1<<24 | 8
	const max = 1<<64 - 1
	one := strings.Repeat("x", 8)

	for _, tt := range []struct{ name, writes, function, input, want string }{
		{"vector of broken elements", "set k 123456789", "state_vector", "open k; size; sum", "error 9; 0; 0"},
		{"vector that becomes broken", "set k 12345678", "state_vector", "open k; size", "ok; 1"},
		{"async vector of broken elements", "set k 1234567", "state_async_vector", "open k; size; set 0 1; push", "error 9; 0; error 68; error 9"},
		{"counter of 9 bytes", "set k 123456789", "state_counter", "open k; increment 1 1; add 1 1; value", "error 9; error 9; error 9; error 9"},
		{"counter of none", "set k -", "state_counter", "open k", "error 9"},
		{"list of other elements", "append k 12345678; append k 1234", "state_list", "open k; size; read 0 9; read 0 1; read 1 1", "ok; error 9; error 9; 4050765991979987505; error 9"},
		{"list of elements that add up", "append k 1234; append k 123456789abc", "state_list", "open k; size; read 0 2", "ok; 2; error 9"},

		{"matrix of nothing", "set k -", "state_matrix", "open k; shape; sum 0 1", "error 9; 0 0; error 9"},
		{"matrix of text", "set_fill k 1000 120", "state_matrix", "open k", "error 9"},
		{"matrix without magic", "set k " + header("FMTY", double, 1, 1, 1) + one, "state_matrix", "open k", "error 9"},
		{"matrix of others", "set k " + header("FMTX", 3<<24|8, 1, 1, 1) + one, "state_matrix", "open k", "error 9"},
		{"matrix larger than it is", "set k " + header("FMTX", double, 2, 1, 2) + one, "state_matrix", "open k", "error 9"},
		{"matrix whose size wraps", "set k " + header("FMTX", double, 1<<63, 2, 0), "state_matrix", "open k", "error 9"},
		{"matrix whose bytes wrap", "set k " + header("FMTX", double, 1<<61, 1, 0), "state_matrix", "open k", "error 9"},
		{"matrix of 2^64 rows", "set k " + header("FMTX", double, max, max, max), "state_matrix", "open k", "error 9"},
		{"matrix of rows without columns", "set k " + header("FMTX", double, max, 0, 0), "state_matrix", "open k; sum 0 0", "error 9; error 9"},
		{"matrix that is one", "set k " + header("FMTX", double, 1, 1, 1) + one, "state_matrix", "open k; shape; get 0 1; sum 0 18446744073709551615; sum 18446744073709551615 2", "ok; 1 1; error 68; error 68; error 68"},

		{"sparse of text", "set_fill k/columns 1000 120; set k/rows -; set k/values -", "state_sparse", "open k; column 0", "error 9; error 9"},
		{"sparse without columns", "set k/rows -; set k/values -", "state_sparse", "open k", "error 44"},
		{"sparse of 2^64 columns", "set k/columns " + header("FSPM", double, 1, max, 0) + "; set k/rows -; set k/values -", "state_sparse", "open k", "error 9"},
		{"sparse of 2^61 columns", "set k/columns " + header("FSPM", double, 1, 1<<61-1, 0) + "; set k/rows -; set k/values -", "state_sparse", "open k", "error 9"},
		{"sparse of 2^62 entries", "set k/columns " + header("FSPM", double, 1, 1, 1<<62) + u64(0) + u64(1<<62) + "; set k/rows -; set k/values -", "state_sparse", "open k", "error 9"},
		{"sparse with values missing", "set k/columns " + header("FSPM", double, 9, 1, 1) + u64(0) + u64(1) + "; set k/rows 1234; set k/values -", "state_sparse", "open k", "error 9"},
		{"sparse whose offsets fall", "set k/columns " + header("FSPM", double, 9, 2, 1) + u64(1) + u64(0) + u64(1) + "; set k/rows " + u32(0) + "; set k/values " + one, "state_sparse", "open k; column 0; squares 0 2; column 1", "ok; error 9; error 9; 0 NUMBER"},
		{"sparse with offsets beyond", "set k/columns " + header("FSPM", double, 9, 1, 1) + u64(0) + u64(max) + "; set k/rows " + u32(0) + "; set k/values " + one, "state_sparse", "open k; column 0", "ok; error 9"},
		{"sparse with offsets between", "set k/columns " + header("FSPM", double, 9, 2, 1) + u64(0) + u64(1<<40) + u64(1) + "; set k/rows " + u32(0) + "; set k/values " + one, "state_sparse", "open k; column 0; squares 0 2", "ok; error 9; error 9"},
		{"sparse with a row beyond", "set k/columns " + header("FSPM", double, 9, 1, 1) + u64(0) + u64(1) + "; set k/rows " + u32(9) + "; set k/values " + one, "state_sparse", "open k; column 0; squares 0 1", "ok; error 9; error 9"},
		{"sparse with rows past memory", "set k/columns " + header("FSPM", double, 1<<62, 1, 1) + u64(0) + u64(1) + "; set k/rows " + u32(9) + "; set k/values " + one, "state_sparse", "open k; squares 0 1", "ok; error 61"},

		{"dictionary of nothing", "set k -", "state_dictionary", "open k; size; each", "error 9; 0; ok"},
		{"dictionary of text", "set_fill k 1000 120", "state_dictionary", "open k", "error 9"},
		{"dictionary that is one", "set k FDIC" + u32(1) + u64(10) + u32(1) + u32(1) + "ab", "state_dictionary", "open k; each", "ok; a b"},
		{"dictionary of too few", "set k FDIC" + u32(2) + u64(10) + u32(1) + u32(1) + "ab", "state_dictionary", "open k", "error 9"},
		{"dictionary with a long name", "set k FDIC" + u32(1) + u64(10) + u32(3) + u32(0) + "ab", "state_dictionary", "open k", "error 9"},
		{"dictionary whose name wraps", "set k FDIC" + u32(1) + u64(10) + u32(1<<32-1) + u32(3) + "ab", "state_dictionary", "open k", "error 9"},
		{"dictionary whose data wraps", "set k FDIC" + u32(1) + u64(10) + u32(1) + u32(1<<32-1) + "ab", "state_dictionary", "open k", "error 9"},
		{"dictionary longer than it is", "set k FDIC" + u32(1) + u64(11) + u32(1) + u32(1) + "ab", "state_dictionary", "open k", "error 9"},
		{"dictionary of half an entry", "set k FDIC" + u32(1) + u64(4) + u32(1), "state_dictionary", "open k", "error 9"},
		{"dictionary of one name twice", "set k FDIC" + u32(2) + u64(20) + u32(1) + u32(1) + "ab" + u32(1) + u32(1) + "ac", "state_dictionary", "open k; get a; put a d; each; size", "ok; b; ok; a d; 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			key := strings.ReplaceAll(tt.name, " ", "_")
			named := func(s string) string {
				s = regexp.MustCompile(`(set|set_fill|append) k`).ReplaceAllString(s, "$1 "+key)
				return regexp.MustCompile(`open k\b`).ReplaceAllString(s, "open "+key)
			}
			for _, errno := range strings.Split(h.commands("state_ops", named(tt.writes)), "; ") {
				if errno != "0" {
					t.Fatalf("the content could not be written: %s", errno)
				}
			}
			got := h.commands(tt.function, named(tt.input))
			if head, ok := strings.CutSuffix(tt.want, "NUMBER"); ok {
				if !strings.HasPrefix(got, head) {
					t.Errorf("got %s; want %s and a number", got, head)
				}
			} else if got != tt.want {
				t.Errorf("got %s; want %s", got, tt.want)
			}
		})
	}
}

// Every call of the State group with what must be refused, on both kinds of global tier.
func TestState_hostileCalls(t *testing.T) {
	onHosts(t, func(t *testing.T, a, b *host) {
		walk(t, a, b, []step{{0, "state_hostile", "", "ok"}, {1, "state_hostile", "", "ok"}})
		if got := a.commands("state_ops", "size hostile"); got != "44" {
			t.Errorf("afterwards its value is there: %s", got)
		}
	}, "state_hostile", "state_ops")
}

// Tenants have keys of their own.
func TestState_tenantsAreApart(t *testing.T) {
	h := serve(t, t.TempDir())
	run := func(tenant, input string) string {
		t.Helper()
		out, err := h.invoke(tenant, "state_ops", strings.ReplaceAll(input, "; ", "\n"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(out, "\n", "; ")
	}
	for _, tenant := range []string{"one", "two"} {
		h.deploy(tenant, client.DeployOptions{}, "state_ops")
	}
	if got := run("one", "set k mine; push k; append k mine; get k c 4; lock k write; publish k"); !strings.HasPrefix(got, "0; 0; 0; 0 4 ") {
		t.Fatal(got)
	}
	if got, want := run("two", "size k; read k 0 4; pull k; push k; read_list k 0 9; get k - 0; get k v 0; delete k; lock k write; size one/k; size /one/k"), "44; 44; 44; 44; 0; 44; 44; 44; 0; 44; 44; "; got != want {
		t.Errorf("the other tenant: got %s; want %s", got, want)
	}
	if got, want := run("one", "read k 0 4; read_list k 0 9"), "0 mine; 0 mine; "; got != want {
		t.Errorf("afterwards: got %s; want %s", got, want)
	}
}

// Of many Faaslets on two hosts, each increment gets its own number, and none is lost; so too for a
// lock, a pull and a push by hand, and for additions that are merged.
func TestState_noLostUpdate(t *testing.T) {
	const faaslets = 8
	each := *increments / faaslets
	onHosts(t, func(t *testing.T, a, b *host) {
		hosts := []*host{a, b}
		var mu sync.Mutex
		var numbers []int
		concurrently(faaslets, func(i int) {
			h := hosts[i%2]
			got := h.commands("state_counter", fmt.Sprintf("open c; increment 1 %d; add 1 %d", each, each))
			if added := h.commands("state_counter", fmt.Sprintf("open sum; add 2 %d", each)); added != "ok; ok" {
				t.Errorf("add: %s", added)
			}
			if counted := h.commands("state_lock", fmt.Sprintf("count global n %d", each)); counted != "ok" {
				t.Errorf("count: %s", counted)
			}
			mu.Lock()
			defer mu.Unlock()
			lines := strings.Split(got, "; ")
			if len(lines) != 3 || lines[2] != "ok" {
				t.Errorf("increment: %s", got)
				return
			}
			for _, n := range strings.Fields(lines[1]) {
				v, err := strconv.Atoi(n)
				if err != nil {
					t.Errorf("increment: %s", got)
				}
				numbers = append(numbers, v)
			}
		})
		total := faaslets * each
		slices.Sort(numbers)
		if unique := slices.Compact(slices.Clone(numbers)); len(numbers) != total || len(unique) != total {
			t.Errorf("%d increments gave %d numbers, %d of them different", total, len(numbers), len(unique))
		}
		for _, tt := range []struct {
			function, input string
			want            int
		}{
			{"state_counter", "open c; value", 2 * total},
			{"state_counter", "open sum; value", 2 * total},
			{"state_ops", "get n p 0; add n 0 0", total},
		} {
			got := b.commands(tt.function, tt.input)
			if !strings.HasSuffix(got, " "+strconv.Itoa(tt.want)) {
				t.Errorf("%s(%s): got %s; want %d", tt.function, tt.input, got, tt.want)
			}
		}
	}, "state_counter", "state_lock", "state_ops")
}

// Appends, and changes of a dictionary under its lock, of many Faaslets on two hosts are all there.
func TestState_concurrentChangesAllCount(t *testing.T) {
	const faaslets = 6
	onHosts(t, func(t *testing.T, a, b *host) {
		hosts := []*host{a, b}
		concurrently(faaslets, func(i int) {
			h := hosts[i%2]
			if got, want := h.commands("state_list", fmt.Sprintf("open l; append %d; append %d", i, i+100)), "ok; ok; ok"; got != want {
				t.Errorf("append: %s", got)
			}
			if got, want := h.commands("state_dictionary", fmt.Sprintf("open d; lock; pull; put n%d %d; push; unlock", i, i)), "ok; ok; ok; ok; ok; ok"; got != want {
				t.Errorf("put: %s", got)
			}
			if got, want := h.commands("state_async_vector", fmt.Sprintf("create w 6; set %d 1; push", i)), "ok; ok; ok"; got != want {
				t.Errorf("set: %s", got)
			}
			if got, want := h.commands("state_lock", "count local same_host 100"), "ok"; got != want {
				t.Errorf("count: %s", got)
			}
		})
		walk(t, a, b, []step{
			{1, "state_list", "open l; size", fmt.Sprintf("ok; %d", 2*faaslets)},
			{0, "state_dictionary", "open d; pull; size; get n3", fmt.Sprintf("ok; ok; %d; 3", faaslets)},
			{0, "state_async_vector", "open w; pull; sum", fmt.Sprintf("ok; ok; %d", faaslets)},
		})
		counted := 0
		for _, h := range slices.Compact([]*host{a, b}) {
			got := h.commands("state_ops", "get same_host - 0; add same_host 0 0")
			n, err := strconv.Atoi(got[strings.LastIndex(got, " ")+1:])
			if err != nil {
				t.Fatal(got)
			}
			counted += n
		}
		if want := faaslets * 100; counted != want {
			t.Errorf("under local locks %d were counted; want %d", counted, want)
		}
	}, stateObjects...)
}

// A lock is given up when its holder ends, whatever ends it.
func TestState_locksDieWithTheirHolder(t *testing.T) {
	onHosts(t, func(t *testing.T, a, b *host) {
		ctx := context.Background()
		// It holds both locks when its element is in the list.
		info, err := a.Submit(ctx, "", "state_ops", strings.NewReader("lock k write\nlock_global k write -1\nappend held yes\nsleep 50000"), client.InvokeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		a.until("the locks are held", func() bool { return b.commands("state_list", "open held; read 0 1") != "ok; ok" })
		if got := b.commands("state_ops", "lock_global k read 30"); got != "73" {
			t.Errorf("the global lock while it is held: %s; want 73", got)
		}
		if _, err := a.Cancel(ctx, info.ID); err != nil {
			t.Fatal(err)
		}
		walk(t, a, b, []step{
			{0, "state_ops", "lock k write; unlock k", "0; 0"},
			{1, "state_ops", "lock_global k write 30000; unlock_global k", "0; 0"},
		})
	}, "state_ops", "state_list")
}

// Training without locks, in parallel, on real data gets as far as training in order.
func TestState_hogwild(t *testing.T) {
	const rounds, workers = 40, 4
	loss := func(t *testing.T, h *host, input string) float64 {
		t.Helper()
		var loss, accuracy float64
		if _, err := fmt.Sscanf(h.commands("state_sgd", input), "loss %f accuracy %f", &loss, &accuracy); err != nil {
			t.Fatalf("%s: %v", input, err)
		}
		t.Logf("%s: loss %.6f, accuracy %.4f", input, loss, accuracy)
		return loss
	}
	onHosts(t, func(t *testing.T, a, b *host) {
		hosts, merge := []*host{a, b}, ""
		if a != b {
			merge = " merge"
		}
		for round := range rounds {
			concurrently(workers, func(i int) {
				got := hosts[i%2].commands("state_sgd", fmt.Sprintf("train w %d %d %d %d%s", round, round+1, i, workers, merge))
				if got != "" {
					t.Errorf("train: %s", got)
				}
			})
		}
		begin, sequential, parallel := loss(t, a, "sequential 0"), loss(t, a, fmt.Sprintf("sequential %d", rounds)), loss(t, a, "loss w")
		if sequential > begin/5 {
			t.Errorf("the sequential run learnt nothing: loss %f of %f", sequential, begin)
		}
		if parallel > 1.02*sequential {
			t.Errorf("in parallel the loss is %f; want that of the sequential run, %f", parallel, sequential)
		}
	}, "state_sgd")
}
