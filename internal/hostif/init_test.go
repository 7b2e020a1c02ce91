package hostif_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/engine"
	"github.com/faasm-go/faasm/internal/hostif"
)

var le = binary.LittleEndian

// Where the memory that these tests begin with has its things.
const (
	nameAt   = 0 // "double\0"
	iovecsAt = 100
	timerAt  = 400 // a subscription to the monotonic clock, an hour from now
	stdinAt  = 448 // one to stdin, just behind
	freeAt   = 1000
)

func initMemory() []byte {
	m := make([]byte, page)
	copy(m[nameAt:], "double\x00")
	for i, v := range []uint32{200, 3, 300, 2} {
		le.PutUint32(m[iovecsAt+4*i:], v)
	}
	copy(m[200:], "abc")
	copy(m[300:], "de")
	subscription(m[timerAt:], 7, 1, uint64(time.Hour), 0)
	m[stdinAt] = 8   // userdata
	m[stdinAt+8] = 1 // fd_read, of descriptor 0
	return m
}

// subscription writes one to a clock.
func subscription(b []byte, userdata uint64, clock uint32, timeout uint64, flags uint16) {
	le.PutUint64(b, userdata)
	b[8] = 0
	le.PutUint32(b[16:], clock)
	le.PutUint64(b[24:], timeout)
	le.PutUint16(b[40:], flags)
}

// initRows has for each function a call that does its work if it may. All of WASI that is
// not here is pending, and refused.
var initRows = map[string]struct {
	args []uint64
	want hostif.Errno // during initialisation, unless it is refused then
}{
	"read_call_input":    {args: []uint64{freeAt, 100, 1200}},
	"write_call_output":  {args: []uint64{200, 3}},
	"append_call_output": {args: []uint64{200, 3}},
	"chain_call":         {args: []uint64{nameAt, 6, 200, 3, freeAt}},
	"chain_func":         {args: []uint64{1, 200, 3, freeAt}},
	"await_call":         {args: []uint64{1, freeAt}},
	"await_any":          {args: []uint64{freeAt, 1, 0, 1100, 1200}},
	"get_call_output":    {args: []uint64{1, freeAt, 100, 1200}},
	"cancel_call":        {args: []uint64{1}},
	"call_info":          {args: []uint64{2, freeAt, 100, 1200}},

	"state_size":              {args: []uint64{nameAt, 6, freeAt}},
	"get_state":               {args: []uint64{nameAt, 6, 1, 100, freeAt, 1100}},
	"get_state_offset":        {args: []uint64{nameAt, 6, 1, 10, 20, freeAt}},
	"set_state":               {args: []uint64{nameAt, 6, 200, 3}},
	"set_state_offset":        {args: []uint64{nameAt, 6, 1, 200, 2}},
	"read_state_offset":       {args: []uint64{nameAt, 6, 1, freeAt, 100, 1200}},
	"push_state":              {args: []uint64{nameAt, 6}},
	"pull_state":              {args: []uint64{nameAt, 6}},
	"push_state_offset":       {args: []uint64{nameAt, 6, 1, 2}},
	"pull_state_offset":       {args: []uint64{nameAt, 6, 1, 2}},
	"push_state_mask":         {args: []uint64{nameAt, 6, nameAt, 5}},
	"push_state_merge":        {args: []uint64{nameAt, 6, 1, 1}},
	"append_state":            {args: []uint64{nameAt, 6, 200, 3}},
	"read_appended_state":     {args: []uint64{nameAt, 6, 0, 3, freeAt, 100, 1200}},
	"clear_appended_state":    {args: []uint64{nameAt, 6}},
	"delete_state":            {args: []uint64{nameAt, 6}},
	"publish_state":           {args: []uint64{nameAt, 6}},
	"flag_state_dirty":        {args: []uint64{nameAt, 6, 0, 3}},
	"lock_state_read":         {args: []uint64{nameAt, 6}},
	"lock_state_write":        {args: []uint64{nameAt, 6}},
	"unlock_state":            {args: []uint64{nameAt, 6}},
	"lock_state_global_read":  {args: []uint64{nameAt, 6, 0}},
	"lock_state_global_write": {args: []uint64{nameAt, 6, 0}},
	"unlock_state_global":     {args: []uint64{nameAt, 6}},

	"args_get":            {args: []uint64{freeAt, 1100}},
	"args_sizes_get":      {args: []uint64{freeAt, 1004}},
	"environ_get":         {args: []uint64{freeAt, 1100}},
	"environ_sizes_get":   {args: []uint64{freeAt, 1004}},
	"clock_res_get":       {args: []uint64{1, freeAt}},
	"clock_time_get":      {args: []uint64{0, 0, freeAt}},
	"fd_close":            {args: []uint64{1}},
	"fd_fdstat_get":       {args: []uint64{1, freeAt}},
	"fd_prestat_get":      {args: []uint64{3, freeAt}, want: hostif.EBADF},
	"fd_prestat_dir_name": {args: []uint64{3, freeAt, 10}, want: hostif.EBADF},
	"fd_read":             {args: []uint64{0, iovecsAt, 2, freeAt}},
	"fd_seek":             {args: []uint64{1, 0, 0, freeAt}, want: hostif.ESPIPE},
	"fd_write":            {args: []uint64{1, iovecsAt, 2, freeAt}},
	"poll_oneoff":         {args: []uint64{timerAt, freeAt, 1, 1100}},
	"proc_exit":           {args: []uint64{7}},
	"proc_raise":          {args: []uint64{9}},
	"random_get":          {args: []uint64{freeAt, 32}},
	"sched_yield":         {},
	"sock_accept":         {args: []uint64{3, 0, freeAt}},

	"__faasm_read_input":        {args: []uint64{freeAt, 100}},
	"__faasm_write_output":      {args: []uint64{200, 3}},
	"__faasm_chain_name":        {args: []uint64{nameAt, 200, 3}},
	"__faasm_chain_function":    {args: []uint64{nameAt, 200, 3}},
	"__faasm_chain_ptr":         {args: []uint64{1, 200, 3}},
	"__faasm_chain_this":        {args: []uint64{1, 200, 3}},
	"__faasm_get_idx":           {},
	"__faasm_await_call":        {args: []uint64{1}},
	"__faasm_await_call_output": {args: []uint64{1, freeAt, 100}},

	"__faasm_read_state":              {args: []uint64{nameAt, freeAt, 100}},
	"__faasm_read_state_ptr":          {args: []uint64{nameAt, 10}},
	"__faasm_read_state_offset":       {args: []uint64{nameAt, 10, 1, freeAt, 2}},
	"__faasm_read_state_offset_ptr":   {args: []uint64{nameAt, 10, 1, 2}},
	"__faasm_write_state":             {args: []uint64{nameAt, 200, 3}},
	"__faasm_write_state_offset":      {args: []uint64{nameAt, 10, 1, 200, 2}},
	"__faasm_write_state_from_file":   {args: []uint64{nameAt, nameAt}},
	"__faasm_append_state":            {args: []uint64{nameAt, 200, 3}},
	"__faasm_read_appended_state":     {args: []uint64{nameAt, freeAt, 100, 2}},
	"__faasm_clear_appended_state":    {args: []uint64{nameAt}},
	"__faasm_flag_state_dirty":        {args: []uint64{nameAt, 10}},
	"__faasm_flag_state_offset_dirty": {args: []uint64{nameAt, 10, 1, 2}},
	"__faasm_push_state":              {args: []uint64{nameAt}},
	"__faasm_push_state_partial":      {args: []uint64{nameAt}},
	"__faasm_push_state_partial_mask": {args: []uint64{nameAt, nameAt + 1}},
	"__faasm_pull_state":              {args: []uint64{nameAt, 10}},
	"__faasm_lock_state_read":         {args: []uint64{nameAt}},
	"__faasm_unlock_state_read":       {args: []uint64{nameAt}},
	"__faasm_lock_state_write":        {args: []uint64{nameAt}},
	"__faasm_unlock_state_write":      {args: []uint64{nameAt}},
	"__faasm_lock_state_global":       {args: []uint64{nameAt}},
	"__faasm_unlock_state_global":     {args: []uint64{nameAt}},
}

// A scene is all that a guest could learn from, and that a snapshot must not show.
type scene struct {
	request call.Request
	name    string
	env     []string
}

var scenes = [2]scene{
	{call.Request{Tenant: "red", Function: "red-function", Input: []byte("red input"), Entry: call.Entry{Index: 77}, Attempt: 1}, "red-name", []string{"SECRET=red"}},
	{call.Request{Tenant: "green", Function: "green-f", Input: []byte("green"), Entry: call.Entry{Index: 78}, Attempt: 2, Deadline: time.Now().Add(time.Hour)}, "green-n", nil},
}

// seen is what came of one call of a host function.
type seen struct {
	event   engine.Event
	result  uint32
	exit    int32
	trap    string
	memory  []byte
	printed string
	blocked bool
}

func (s seen) equal(o seen) bool {
	return s.event == o.event && s.result == o.result && s.exit == o.exit && s.trap == o.trap && s.printed == o.printed && bytes.Equal(s.memory, o.memory)
}

func (s seen) String() string {
	return fmt.Sprintf("event %d, %v, exit %d, trap %q, printed %q, memory %x", s.event, hostif.Errno(s.result), s.exit, s.trap, s.printed, s.memory[freeAt:freeAt+64])
}

// blockingHost ends each wait at once, and notes that there was one. It can't chain.
type blockingHost struct {
	hostif.Host
	blocked bool
}

func (h *blockingHost) Block(c *call.Call, _ bool, _ func()) { h.blocked = true }

// observe has a puppet call one function, as it is initialised with the seed, or in a call
// if that is 0.
func observe(t *testing.T, index int, s scene, seed byte) seen {
	t.Helper()
	p := newPuppet(t, initMemory())
	defer p.close()
	p.Call, p.Name, p.Env = newCall(s.request), s.name, s.env
	host := &blockingHost{}
	if seed != 0 {
		p.Init = &hostif.Initialisation{Random: rand.NewChaCha8([32]byte{seed})}
		p.Instance.LogicalClock()
	} else {
		p.Host = host
	}
	var o seen
	o.event, o.result = p.call(index, initRows[hostif.Functions[index].Name].args...)
	o.exit, o.blocked = p.ExitCode, host.blocked
	o.memory = bytes.Clone(p.Instance.Memory())
	if o.event == engine.Trapped {
		o.trap = p.Instance.Trap().Message
	}
	if p.Init != nil {
		o.printed = string(p.Init.Output())
	}
	return o
}

// Every function keeps its rule: what is refused is refused before it touches anything,
// for there is no Host; what is deterministic tells nothing of caller, host and time, which
// it does tell in a call; what is allowed tells nothing of them ever.
func TestInit_rules(t *testing.T) {
	for i, f := range hostif.Functions {
		t.Run(f.Module+"."+f.Name, func(t *testing.T) {
			row, ok := initRows[f.Name]
			got := observe(t, i, scenes[0], 1)
			if f.Init == hostif.InitRefused {
				if f.Fast != engine.NotFast {
					t.Error("a function served in C can't be refused")
				}
				want := seen{result: uint32(hostif.ENOTSUP), memory: got.memory}
				if f.Module == "env" {
					want = seen{event: engine.Trapped, trap: "env." + f.Name + " is not available during initialisation", memory: got.memory}
					got.result = 0
				}
				if !got.equal(want) {
					t.Errorf("got %v; want %v", got, want)
				}
				if !bytes.Equal(got.memory[:argsAt], initMemory()[:argsAt]) {
					t.Error("it wrote to memory")
				}
				return
			}
			if !ok {
				t.Fatal("it has no row in initRows")
			}
			if f.Name != "proc_exit" && (got.event != engine.Finished || got.result != uint32(row.want)) {
				t.Errorf("got %v; want %v", got, row.want)
			}
			if other := observe(t, i, scenes[1], 1); !got.equal(other) {
				t.Errorf("two initialisations, with one seed, tell the guest\n%v\n%v", got, other)
			}
			seeded, random := observe(t, i, scenes[0], 2), f.Name == "random_get"
			if got.equal(seeded) == random {
				t.Errorf("with one seed and another:\n%v\n%v", got, seeded)
			}
			red, green := observe(t, i, scenes[0], 0), observe(t, i, scenes[1], 0)
			tells := !red.equal(green) || red.blocked
			if tells != (f.Init == hostif.InitDeterministic) {
				t.Errorf("its rule is %d, and two calls tell the guest\n%v\n%v", f.Init, red, green)
			}
		})
	}
}

// Bad pointers are told, not followed, also where there is nothing to copy.
func TestInit_badPointers(t *testing.T) {
	const max = 0xffffffff
	for _, tt := range []struct {
		fn   string
		args []uint64
		want hostif.Errno
	}{
		{"read_call_input", []uint64{page - 4, 5, 0}, hostif.EFAULT},
		{"read_call_input", []uint64{max, 1, 0}, hostif.EFAULT},
		{"read_call_input", []uint64{0, 5, page - 3}, hostif.EFAULT},
		{"random_get", []uint64{page - 1, 2}, hostif.EFAULT},
		{"random_get", []uint64{1, max}, hostif.EFAULT},
		{"args_get", []uint64{freeAt, page - 8}, hostif.EFAULT}, // "function" has nine bytes
		{"args_get", []uint64{page - 3, freeAt}, hostif.EFAULT},
		{"args_sizes_get", []uint64{freeAt, page - 3}, hostif.EFAULT},
		{"environ_get", []uint64{max, freeAt}, hostif.EFAULT},
		{"environ_sizes_get", []uint64{max, freeAt}, hostif.EFAULT},
		{"clock_time_get", []uint64{0, 0, page - 7}, hostif.EFAULT},
		{"clock_time_get", []uint64{4, 0, freeAt}, hostif.EINVAL},
		{"fd_read", []uint64{0, page - 4, 1, freeAt}, hostif.EFAULT},
		{"fd_read", []uint64{0, iovecsAt, 2, max}, hostif.EFAULT},
		{"fd_write", []uint64{1, max, 1, freeAt}, hostif.EFAULT},
		{"fd_write", []uint64{2, iovecsAt, 2, page - 3}, hostif.EFAULT},
		{"poll_oneoff", []uint64{page - 47, freeAt, 1, 1100}, hostif.EFAULT},
		{"poll_oneoff", []uint64{timerAt, page - 31, 1, 1100}, hostif.EFAULT},
		{"chain_call", []uint64{max, max, max, max, max}, hostif.ENOTSUP},
		{"await_any", []uint64{max, max, max, max, max}, hostif.ENOTSUP},
	} {
		p := newPuppet(t, initMemory())
		p.Call = newCall(call.Request{})
		p.Init = &hostif.Initialisation{Random: rand.NewChaCha8([32]byte{})}
		p.Instance.LogicalClock()
		p.prepare(tt.args)
		before := bytes.Clone(p.Instance.Memory())
		e, got := p.call(indexOf(t, tt.fn), tt.args...)
		if e != engine.Finished || hostif.Errno(got) != tt.want {
			t.Errorf("%s%v: event %d, %v; want %v", tt.fn, tt.args, e, hostif.Errno(got), tt.want)
		}
		if !bytes.Equal(before, p.Instance.Memory()) {
			t.Errorf("%s%v wrote to memory", tt.fn, tt.args)
		}
		if out := p.Init.Output(); len(out) != 0 {
			t.Errorf("%s%v printed %q", tt.fn, tt.args, out)
		}
		p.close()
	}
}

// What a guest draws is the stream it was given, from its beginning, however it draws.
func TestInit_random(t *testing.T) {
	p := newPuppet(t, nil)
	defer p.close()
	p.Call = newCall(call.Request{})
	seed := [32]byte{1, 2, 3}
	p.Init = &hostif.Initialisation{Random: rand.NewChaCha8(seed)}
	at := uint64(0)
	for _, n := range []uint64{1, 0, 7, 100, 1000} {
		if e, errno := p.call(indexOf(t, "random_get"), at, n); e != engine.Finished || errno != 0 {
			t.Fatalf("draw of %d bytes: event %d, %v", n, e, hostif.Errno(errno))
		}
		at += n
	}
	want := make([]byte, at)
	rand.NewChaCha8(seed).Read(want)
	if got := p.Instance.Memory()[:at]; !bytes.Equal(got, want) {
		t.Errorf("drew %x; want %x", got, want)
	}
}

// What is printed is for the uploader: both streams in order, bounded. Nothing of it is
// output or log of a call.
func TestInit_output(t *testing.T) {
	p := newPuppet(t, initMemory())
	defer p.close()
	p.Call = newCall(call.Request{})
	p.Init = &hostif.Initialisation{}
	write := func(fd, n uint64) {
		t.Helper()
		if e, errno := p.call(indexOf(t, "fd_write"), fd, iovecsAt, n, freeAt); e != engine.Finished || errno != 0 {
			t.Fatalf("event %d, %v", e, hostif.Errno(errno))
		}
	}
	write(1, 1)
	write(2, 2)
	write(1, 1)
	if got, want := string(p.Init.Output()), "abcabcdeabc"; got != want {
		t.Errorf("printed %q; want %q", got, want)
	}

	le.PutUint32(p.Instance.Memory()[iovecsAt+4:], 30_000)
	for range 3 {
		write(2, 1)
	}
	if n := le.Uint32(p.Instance.Memory()[freeAt:]); n != 30_000 {
		t.Errorf("of 30,000 bytes %d were written; want all, for the guest's sake", n)
	}
	got := p.Init.Output()
	if want := fmt.Sprintf("\n[%d more bytes were printed, and are not kept]\n", 11+90_000-64<<10); len(got) != 64<<10+len(want) || !bytes.HasSuffix(got, []byte(want)) {
		t.Errorf("%d bytes that end with %q; want 64 KiB and %q", len(got), got[len(got)-60:], want)
	}
	if !bytes.Equal(got, p.Init.Output()) {
		t.Error("a second Output differs")
	}
	if len(p.Output()) != 0 {
		t.Errorf("output %q of a call", p.Output())
	}
}

// A guest that is initialised has a clock of its own, which begins in 2020 and which a
// sleep moves on at once.
func TestInit_clock(t *testing.T) {
	const realtime, monotonic, absolute = 0, 1, 1
	begin := uint64(time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano())
	const end = math.MaxInt64                                   // of the realtime clock
	hour, moment := uint64(time.Hour), uint64(time.Millisecond) // which no reading adds
	for _, tt := range []struct {
		name    string
		clock   uint32
		timeout uint64
		flags   uint16
		want    uint64 // monotonic time afterwards, but for readings
	}{
		{"longer than there is time", monotonic, math.MaxUint64, 0, end - begin},
		{"longer by one", realtime, 1 << 63, 0, end - begin},
		{"until after the end", realtime, math.MaxUint64, absolute, end - begin},
		{"until what is past", realtime, begin - 1, absolute, 0},
		{"until the beginning", monotonic, 0, absolute, 0},
		{"not at all", realtime, 0, 0, 0},
		{"an hour", monotonic, hour, 0, hour},
		{"an hour of realtime", realtime, hour, 0, hour},
		{"until an hour", monotonic, hour, absolute, hour},
		{"until an hour of realtime", realtime, begin + hour, absolute, hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPuppet(t, initMemory())
			defer p.close()
			p.Call = newCall(call.Request{})
			p.Init = &hostif.Initialisation{}
			p.Instance.LogicalClock()
			read := func(clock uint64) uint64 {
				t.Helper()
				if e, errno := p.call(indexOf(t, "clock_time_get"), clock, 0, freeAt); e != engine.Finished || errno != 0 {
					t.Fatalf("event %d, %v", e, hostif.Errno(errno))
				}
				return le.Uint64(p.Instance.Memory()[freeAt:])
			}
			if now := read(realtime); now < begin || now > begin+moment {
				t.Errorf("it began at %d; want %d", now, begin)
			}
			if a, b := read(monotonic), read(monotonic); a >= b || b > moment {
				t.Errorf("it shows %d and then %d; want it to move on with each reading", a, b)
			}
			m := p.Instance.Memory()
			subscription(m[timerAt:], 7, tt.clock, tt.timeout, tt.flags)
			if e, errno := p.call(indexOf(t, "poll_oneoff"), timerAt, freeAt, 1, 1100); e != engine.Finished || errno != 0 {
				t.Fatalf("event %d, %v", e, hostif.Errno(errno))
			}
			if n, userdata := le.Uint32(m[1100:]), le.Uint64(m[freeAt:]); n != 1 || userdata != 7 {
				t.Errorf("%d events, the first with userdata %d; want 1 with 7", n, userdata)
			}
			if now := read(monotonic); now < tt.want || now-tt.want > moment {
				t.Errorf("afterwards it shows %d; want %d", now, tt.want)
			}
		})
	}
	t.Run("stdin is ready first", func(t *testing.T) {
		p := newPuppet(t, initMemory())
		defer p.close()
		p.Call = newCall(call.Request{})
		p.Init = &hostif.Initialisation{}
		p.Instance.LogicalClock()
		if e, errno := p.call(indexOf(t, "poll_oneoff"), timerAt, freeAt, 2, 1100); e != engine.Finished || errno != 0 {
			t.Fatalf("event %d, %v", e, hostif.Errno(errno))
		}
		m := p.Instance.Memory()
		if n, userdata, now := le.Uint32(m[1100:]), le.Uint64(m[freeAt:]), p.Instance.ClockReading(); n != 1 || userdata != 8 || now > time.Millisecond {
			t.Errorf("%d events, the first with userdata %d, at %v; want 1 with 8, at 0", n, userdata, now)
		}
	})
}

// docs/ABI.md tells the rule of each function.
func TestInit_documented(t *testing.T) {
	text, err := os.ReadFile("../../docs/ABI.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## During initialisation\n")
	if !ok {
		t.Fatal("docs/ABI.md has no such section")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	rules := map[string]hostif.InitRule{"refused": hostif.InitRefused, "allowed": hostif.InitAllowed, "deterministic": hostif.InitDeterministic}
	documented := map[string]hostif.InitRule{}
	for line := range strings.Lines(section) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 {
			continue
		}
		rule, ok := rules[strings.TrimSpace(cells[2])]
		for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[1], -1) {
			if !ok {
				t.Errorf("%s is %q", name[1], cells[2])
			}
			if _, twice := documented[name[1]]; twice {
				t.Errorf("%s is there twice", name[1])
			}
			documented[name[1]] = rule
		}
	}
	for _, f := range hostif.Functions {
		if rule, ok := documented[f.Name]; ok && rule != f.Init || !ok && f.Init != hostif.InitRefused {
			t.Errorf("%s.%s: the rule is %d; docs/ABI.md says %d, %v", f.Module, f.Name, f.Init, rule, ok)
		}
		if _, ok := initRows[f.Name]; !ok && f.Init != hostif.InitRefused {
			t.Errorf("%s.%s has no row in initRows", f.Module, f.Name)
		}
	}
	for name := range documented {
		if !slices.ContainsFunc(hostif.Functions, func(f hostif.Function) bool { return f.Name == name }) {
			t.Errorf("docs/ABI.md tells the rule of %s, which does not exist", name)
		}
	}
	if diff := cmp.Diff(len(initRows), len(documented)); diff != "" {
		t.Errorf("functions with a row in initRows and in docs/ABI.md (-rows +documented):\n%s", diff)
	}
}
