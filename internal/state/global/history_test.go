package global

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/faasm-go/faasm/internal/state/redistest"
)

// histChunks is how many chunks the value of a history has. Each begins with a tag, which
// Write and Patch set, and a counter, which Write sets to 0 and Merge adds to.
const histChunks = 3

// histState is what the documented model says of a key. It is comparable.
type histState struct {
	exists  bool
	version uint64 // 0 if it is not known
	tags    [histChunks]uint64
	counts  [histChunks]int64
	list    string // the elements, each followed by a space
}

type histInput struct {
	op      string
	tag     uint64
	chunk   int
	version uint64
}

type histOutput struct {
	err     error  // ErrVersion, ErrNotFound or nil
	unknown bool   // it may have taken effect, or not
	version uint64 // of a change or a read
	state   histState
	index   int64
}

// histStep returns what the state may be after an operation with this output: none if
// the model does not allow the output.
func histStep(s histState, in histInput, out histOutput) []histState {
	next := s
	switch in.op {
	case "read":
		if out.err != nil {
			return only(!s.exists, s)
		}
		if !s.exists || s.tags != out.state.tags || s.counts != out.state.counts || s.version != 0 && s.version != out.version {
			return nil
		}
		next.version = out.version
		return []histState{next}
	case "list":
		return only(s.list == out.state.list, s)
	case "append":
		next.list += fmt.Sprint(in.tag) + " "
		if !out.unknown && int64(strings.Count(s.list, " ")) != out.index {
			return nil
		}
	case "clear":
		next.list = ""
	case "delete":
		if out.err != nil {
			return only(!s.exists && s.list == "", s)
		}
		if !out.unknown && !s.exists && s.list == "" {
			return nil
		}
		next = histState{}
	case "write", "cas":
		next.exists, next.version, next.counts = true, out.version, [histChunks]int64{}
		for i := range next.tags {
			next.tags[i] = in.tag
		}
	case "patch":
		next.version, next.tags[in.chunk] = out.version, in.tag
	case "merge":
		next.version = out.version
		next.counts[in.chunk]++
	}
	switch in.op {
	case "cas":
		known := s.exists && s.version != 0 || !s.exists
		holds := s.exists && (s.version == in.version || s.version == 0)
		if out.err != nil {
			return only(!holds || !known, s)
		}
		if !holds && !out.unknown {
			return nil
		}
		if !holds {
			return []histState{s}
		}
	case "patch", "merge":
		if out.err != nil {
			return only(!s.exists, s)
		}
		if !s.exists {
			return only(out.unknown, s)
		}
	}
	if out.unknown {
		return []histState{next, s}
	}
	return []histState{next}
}

func only(ok bool, s histState) []histState {
	if ok {
		return []histState{s}
	}
	return nil
}

var histModel = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{histState{}} },
	Step: func(state, in, out any) []any {
		var next []any
		for _, s := range histStep(state.(histState), in.(histInput), out.(histOutput)) {
			next = append(next, s)
		}
		return next
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v: %+v", in, out) },
}).ToModel()

// history collects operations.
type history struct {
	mu    sync.Mutex
	begun time.Time
	ops   []porcupine.Operation
	open  []int // those whose result is not known
}

func (h *history) now() int64 { return int64(time.Since(h.begun)) }

// settle says that what is not known yet will not take effect any more.
func (h *history) settle() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, i := range h.open {
		h.ops[i].Return = h.now()
	}
	h.open = nil
}

func (h *history) do(client int, in histInput, f func() (histOutput, error)) (known bool) {
	call := h.now()
	out, err := f()
	back := h.now()
	if err != nil {
		switch {
		case errors.Is(err, ErrVersion), errors.Is(err, ErrNotFound):
			out.err = err
		case in.op == "read" || in.op == "list":
			return false // it says nothing
		default:
			out.unknown = true
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: back})
	if out.unknown {
		h.ops[len(h.ops)-1].Return = math.MaxInt64
		h.open = append(h.open, len(h.ops)-1)
	}
	return !out.unknown
}

// client does random operations until ctx ends, or until the result of one is not known:
// each of those multiplies what a history may mean.
func (h *history) client(ctx context.Context, id int, s Store, key Key, random *rand.Rand, tag func() uint64) {
	var seen uint64 // the version of the last read
	for known := true; known && ctx.Err() == nil; {
		opCtx := context.Background() // an operation is not cut short by the end of the round
		in := histInput{tag: tag(), chunk: random.IntN(histChunks)}
		change := func(op string, f func() (Info, error)) {
			in.op = op
			known = h.do(id, in, func() (histOutput, error) {
				info, err := f()
				return histOutput{version: info.Version}, err
			})
		}
		value := func() *bytes.Reader {
			b := make([]byte, histChunks*ChunkBytes)
			for i := range histChunks {
				binary.LittleEndian.PutUint64(b[i*ChunkBytes:], in.tag)
			}
			return bytes.NewReader(b)
		}
		switch op := random.IntN(100); {
		case op < 15:
			change("write", func() (Info, error) { return s.Write(opCtx, key, histChunks*ChunkBytes, value(), Condition{}) })
		case op < 20:
			in.version = seen
			if seen == 0 {
				break
			}
			change("cas", func() (Info, error) {
				return s.Write(opCtx, key, histChunks*ChunkBytes, value(), Condition{IfVersion: seen})
			})
		case op < 40:
			change("patch", func() (Info, error) {
				return s.Patch(opCtx, key, []Range{{int64(in.chunk) * ChunkBytes, binary.LittleEndian.AppendUint64(nil, in.tag)}}, Condition{})
			})
		case op < 55:
			change("merge", func() (Info, error) {
				return s.Merge(opCtx, key, int64(in.chunk)*ChunkBytes+8, Int64, Sum, binary.LittleEndian.AppendUint64(nil, 1), Condition{})
			})
		case op < 57:
			change("delete", func() (Info, error) { return Info{}, s.Delete(opCtx, key, Condition{}) })
		case op < 67:
			in.op = "append"
			known = h.do(id, in, func() (histOutput, error) {
				n, err := s.Append(opCtx, key, []byte(fmt.Sprint(in.tag)))
				return histOutput{index: n}, err
			})
		case op < 69:
			change("clear", func() (Info, error) { return Info{}, s.ClearList(opCtx, key) })
		case op < 75:
			in.op = "list"
			known = h.do(id, in, func() (out histOutput, err error) {
				elements, err := s.ReadList(opCtx, key, 0, 1000, 1<<20)
				for _, e := range elements {
					out.state.list += string(e) + " "
				}
				return out, err
			})
		default:
			in.op = "read"
			known = h.do(id, in, func() (out histOutput, err error) {
				b := make([]byte, histChunks*ChunkBytes)
				_, info, err := s.Read(opCtx, key, 0, b)
				out.version = info.Version
				if err == nil {
					seen = info.Version
				}
				for i := range histChunks {
					out.state.tags[i] = binary.LittleEndian.Uint64(b[i*ChunkBytes:])
					out.state.counts[i] = int64(binary.LittleEndian.Uint64(b[i*ChunkBytes+8:]))
				}
				return out, err
			})
		}
	}
}

// runHistory has clients on several hosts work on one key, in rounds; between tells what
// happens to the store in the middle of each, and returns when it is well again. At the
// end of each the history must be one that the model allows.
func runHistory(t *testing.T, open hosts, between func(round int)) {
	deadline := time.Now().Add(*long)
	stores := []Store{open(t), open(t)}
	var tags struct {
		sync.Mutex
		n uint64
	}
	tag := func() uint64 {
		tags.Lock()
		defer tags.Unlock()
		tags.n++
		return tags.n
	}
	total, unknown := 0, 0
	for round := 0; round < 6 || time.Now().Before(deadline); round++ {
		// A history of its own for each round keeps the check quick; crashes carry over
		// because a round has two halves, and the crash is between them.
		key := Key{"t", fmt.Sprint("history ", round)}
		h := &history{begun: time.Now()}
		half := func(part uint64, meanwhile func()) {
			ctx, cancel := context.WithCancel(t.Context())
			var g sync.WaitGroup
			for id := range 5 {
				random := rand.New(rand.NewPCG(*seed+uint64(round)<<8+part, uint64(id)))
				g.Go(func() { h.client(ctx, id, stores[id%2], key, random, tag) })
			}
			meanwhile()
			cancel()
			g.Wait()
		}
		half(0, func() {
			time.Sleep(40 * time.Millisecond) // how much is in a history
			between(round)
		})
		h.settle()
		half(1, func() { time.Sleep(20 * time.Millisecond) })
		result, _ := porcupine.CheckOperationsVerbose(histModel, h.ops, time.Minute)
		if result != porcupine.Ok {
			t.Fatalf("seed %d, round %d: the history of %d operations is %s: the model does not allow it", *seed, round, len(h.ops), result)
		}
		total += len(h.ops)
		for _, op := range h.ops {
			if op.Output.(histOutput).unknown {
				unknown++
			}
		}
	}
	t.Logf("seed %d: %d operations, of %d the result is not known", *seed, total, unknown)
	if total < 100 {
		t.Errorf("%d operations: the test shows nothing", total)
	}
}

func TestHistory(t *testing.T) {
	drivers(t, func(t *testing.T, open hosts) { runHistory(t, open, func(int) {}) })
}

// Redis is killed in the middle of each round, and started again with what it had synced.
func TestHistory_killRedis(t *testing.T) {
	s := redistest.New(t, "--appendonly", "yes", "--appendfsync", "always")
	runHistory(t, redisHosts(s.URL(), RedisOptions{Timeout: 2 * time.Second}), func(round int) {
		s.Signal(syscall.SIGKILL)
		s.Kill()
		if err := s.Start(); err != nil {
			t.Fatal(err)
		}
		ready(t, s)
	})
}

// ready waits until a server that was started again answers.
func ready(t testing.TB, s *redistest.Server) {
	t.Helper()
	c := rawClient(t, s)
	for deadline := time.Now().Add(20 * time.Second); ; {
		err := c.Do(context.Background(), c.B().Ping().Build()).Error()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// The model refuses what it should: without that, the tests above show nothing.
func TestHistory_modelRefuses(t *testing.T) {
	value := func(tag uint64) (s histState) {
		for i := range s.tags {
			s.tags[i] = tag
		}
		return s
	}
	mixed := value(1)
	mixed.tags[1] = 2
	op := func(call, back int64, in histInput, out histOutput) porcupine.Operation {
		return porcupine.Operation{Input: in, Output: out, Call: call, Return: back}
	}
	written := op(0, 1, histInput{op: "write", tag: 1}, histOutput{version: 5})
	for name, ops := range map[string][]porcupine.Operation{
		"a mixture":          {written, op(2, 9, histInput{op: "write", tag: 2}, histOutput{version: 6}), op(3, 4, histInput{op: "read"}, histOutput{version: 5, state: mixed})},
		"a lost write":       {written, op(2, 3, histInput{op: "read"}, histOutput{err: ErrNotFound})},
		"another version":    {written, op(2, 3, histInput{op: "read"}, histOutput{version: 4, state: value(1)})},
		"a lost patch":       {written, op(2, 3, histInput{op: "patch", tag: 2}, histOutput{version: 6}), op(4, 5, histInput{op: "read"}, histOutput{version: 6, state: value(1)})},
		"a lost merge":       {written, op(2, 3, histInput{op: "merge"}, histOutput{version: 6}), op(4, 5, histInput{op: "read"}, histOutput{version: 6, state: value(1)})},
		"a CAS that failed":  {written, op(2, 3, histInput{op: "cas", tag: 2, version: 4}, histOutput{version: 6})},
		"an element twice":   {op(0, 1, histInput{op: "append", tag: 1}, histOutput{}), op(2, 3, histInput{op: "list"}, histOutput{state: histState{list: "1 1 "}})},
		"an index too large": {op(0, 1, histInput{op: "append", tag: 1}, histOutput{index: 1})},
	} {
		if porcupine.CheckOperations(histModel, ops) {
			t.Errorf("the model allows %s", name)
		}
	}
}
