package call

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
)

const (
	// tableShards is a power of two. Two cores contend rarely on sixteen locks.
	tableShards = 16

	// recentCalls is how many finished calls a Table remembers, over all shards. One
	// takes some 550 bytes, besides what recentBytesMax counts.
	recentCalls = 8192

	// recentOutputMax is the largest output, in bytes, that is kept with a finished
	// call.
	recentOutputMax = 64 << 10

	// recentBytesMax bounds the bytes of inputs, outputs and failures that a Table
	// keeps, over all shards. Beyond it the oldest calls go before their time. A
	// failure is kept whole: who writes it bounds it.
	recentBytesMax = 32 << 20
)

// Bounds of Filter.Limit.
const (
	ListLimitDefault = 100
	ListLimitMax     = 1000
)

var (
	// ErrExists is returned for a call whose ID is taken.
	ErrExists = errors.New("the call exists already")
	// ErrNotFound is returned for a call that is not known, or not any more.
	ErrNotFound = errors.New("no such call")
	// ErrFinished is returned for a change to a call that has its result.
	ErrFinished = errors.New("the call has finished")
	// ErrNotFinished is returned for the output of a call that has none yet.
	ErrNotFinished = errors.New("the call has not finished")
	// ErrOutputDropped is returned for an output that was too large to be kept.
	ErrOutputDropped = errors.New("the output was too large to be kept after the reply")
)

// Filter chooses calls. The zero Filter is the ListLimitDefault newest of all.
type Filter struct {
	Tenant   string // empty: any
	Function string // empty: any
	State    State  // zero: any
	Before   ID     // only older ones, to go on from the last of a list; zero: all
	Limit    int    // zero or less: ListLimitDefault; never more than ListLimitMax
}

func (f *Filter) limit() int {
	if f.Limit <= 0 {
		return ListLimitDefault
	}
	return min(f.Limit, ListLimitMax)
}

func (f *Filter) matches(req *Request, s State) bool {
	return (f.Tenant == "" || f.Tenant == req.Tenant) &&
		(f.Function == "" || f.Function == req.Function) &&
		(f.State == 0 || f.State == s) &&
		(f.Before.IsZero() || bytes.Compare(req.ID[:], f.Before[:]) < 0)
}

// Table is the calls of this process by ID: the live ones, and a bounded number of
// synchronous ones that finished lately, so that a client can ask about a call after
// the reply. Asynchronous calls that finished are the Log's.
//
// It is in the path of every call, so it is sharded by the random end of the ID, and a
// call that finishes goes as it is, by a pointer, from a map into a ring. (Copying what
// is remembered into the ring, so as to let go of the rest, made two cores slower than
// one: 400 bytes of the other core's cache, each time.) The zero Table is ready for use.
type Table struct {
	shards [tableShards]tableShard
}

type tableShard struct {
	mu   sync.Mutex
	live map[ID]*Call

	// The finished calls are a ring, grown as it fills; entry i has the ID ids[i].
	// Finding one is a scan of ids: a map would cost every call two operations more,
	// to make faster what hardly any call needs.
	ids     []ID
	recent  []recentCall
	oldest  int // index of the oldest entry
	entries int
	bytes   int // sum of held over the entries

	_ [40]byte // the next shard's lock is on another cache line
}

// recentCall is an entry of the ring.
type recentCall struct {
	call        *Call // finished; without its input or output where they were too large
	inputBytes  int   // of the call as it was
	outputBytes int
	held        int // bytes of input, output and failure that the entry keeps
}

func (t *Table) shard(id ID) *tableShard { return &t.shards[id[len(id)-1]%tableShards] }

// Add enters a live call. Its Finish takes it out again.
//
// It returns ErrExists if a live call has that ID, and ErrFinished if c has finished.
func (t *Table) Add(c *Call) error {
	s := t.shard(c.req.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.live[c.req.ID]; ok {
		return fmt.Errorf("add call %s: %w", c.req.ID, ErrExists)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.State() == Done {
		return fmt.Errorf("add call %s: %w", c.req.ID, ErrFinished)
	}
	if c.table != nil {
		panic(fmt.Sprintf("BUG: call %s added to two tables", c.req.ID))
	}
	c.table = t
	if s.live == nil {
		s.live = make(map[ID]*Call)
	}
	s.live[c.req.ID] = c
	return nil
}

// retire takes a finished call out of the live ones and remembers it, unless the Log
// does.
func (t *Table) retire(c *Call) {
	s := t.shard(c.req.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.live, c.req.ID)
	if c.req.Async {
		return
	}
	s.rememberLocked(c)
}

// rememberLocked puts the finished call c into the ring, in the place of the oldest
// entries where there is no room.
func (s *tableShard) rememberLocked(c *Call) {
	const entriesMax, bytesMax = recentCalls / tableShards, recentBytesMax / tableShards

	// The input is of no use any more, but small ones are cheaper to keep than to
	// part with. It is the capacity that is kept from being collected.
	e := recentCall{call: c, inputBytes: len(c.req.Input), outputBytes: len(c.result.Output)}
	input, output := cap(c.req.Input), cap(c.result.Output)
	if input+output > recentOutputMax {
		input = 0
		if output > recentOutputMax {
			output = 0
		}
		e.call = c.trimmed(output != 0)
	}
	e.held = input + output + c.result.Failure.size()
	for s.entries > 0 && (s.entries == entriesMax || s.bytes+e.held > bytesMax) {
		s.dropOldestLocked()
	}
	if s.entries == len(s.recent) && len(s.recent) < entriesMax {
		s.growLocked(entriesMax)
	}
	i := (s.oldest + s.entries) % len(s.recent)
	s.ids[i], s.recent[i] = c.req.ID, e
	s.entries++
	s.bytes += e.held
}

// dropOldestLocked forgets the oldest entry.
func (s *tableShard) dropOldestLocked() {
	s.bytes -= s.recent[s.oldest].held
	s.ids[s.oldest], s.recent[s.oldest] = ID{}, recentCall{}
	s.oldest = (s.oldest + 1) % len(s.recent)
	s.entries--
}

// growLocked doubles the full ring, up to entriesMax entries.
func (s *tableShard) growLocked(entriesMax int) {
	n := min(max(16, 2*len(s.recent)), entriesMax)
	ids, recent := make([]ID, n), make([]recentCall, n)
	k := copy(ids, s.ids[s.oldest:])
	copy(ids[k:], s.ids[:s.oldest])
	k = copy(recent, s.recent[s.oldest:])
	copy(recent[k:], s.recent[:s.oldest])
	s.ids, s.recent, s.oldest = ids, recent, 0
}

// trimmed returns a copy of the finished call c that keeps no input, and no output
// unless withOutput.
func (c *Call) trimmed(withOutput bool) *Call {
	req := *c.req
	req.Input = nil
	t := &Call{req: &req, result: c.result}
	if !withOutput {
		t.result.Output = nil
	}
	c.mu.Lock()
	t.started, t.deadline = c.started, c.deadline
	c.mu.Unlock()
	t.cancelled.Store(c.cancelled.Load())
	t.state.Store(uint32(Done))
	return t
}

// record returns what is known of the entry's call.
func (e *recentCall) record() Record {
	r := e.call.Record()
	r.InputBytes, r.OutputBytes = e.inputBytes, e.outputBytes
	return r
}

// size is about how many bytes f keeps from being collected.
func (f *Failure) size() int {
	if f == nil {
		return 0
	}
	n := len(f.Message)
	for i := range f.Backtrace {
		n += 32 + len(f.Backtrace[i].FuncName)
	}
	return n
}

// findLocked returns the entry of id, or nil.
func (s *tableShard) findLocked(id ID) *recentCall {
	if id.IsZero() {
		return nil // what free entries hold
	}
	if i := slices.Index(s.ids, id); i >= 0 {
		return &s.recent[i]
	}
	return nil
}

// Live returns the handle of a call that has not finished, or is finishing this very
// moment; else nil.
func (t *Table) Live(id ID) *Call {
	s := t.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live[id]
}

// Get returns what is known of a call, live or remembered, or ErrNotFound.
func (t *Table) Get(id ID) (Record, error) {
	s := t.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.live[id]; c != nil {
		return c.Record(), nil
	}
	if e := s.findLocked(id); e != nil {
		return e.record(), nil
	}
	return Record{}, fmt.Errorf("call %s: %w", id, ErrNotFound)
}

// Output returns the output of a call that finished. It must not be changed.
//
// It returns ErrNotFinished for a live call, ErrOutputDropped if the output was too
// large to be kept, and ErrNotFound for a call that is not remembered.
func (t *Table) Output(id ID) ([]byte, error) {
	s := t.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.live[id]; c != nil {
		if r := c.Result(); r != nil {
			return r.Output, nil // on its way out of the live ones
		}
		return nil, fmt.Errorf("output of call %s: %w", id, ErrNotFinished)
	}
	e := s.findLocked(id)
	if e == nil {
		return nil, fmt.Errorf("output of call %s: %w", id, ErrNotFound)
	}
	output := e.call.result.Output
	if len(output) != e.outputBytes {
		return nil, fmt.Errorf("output of call %s (%d bytes): %w", id, e.outputBytes, ErrOutputDropped)
	}
	return output, nil
}

// Recent returns the live and the remembered calls that f chooses, newest first. It
// looks at each of them, one shard after another, so it is no picture of one moment.
func (t *Table) Recent(f Filter) []Record {
	var found []ID
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for id, c := range s.live {
			if f.matches(c.req, c.State()) {
				found = append(found, id)
			}
		}
		for j := range s.entries {
			c := s.recent[(s.oldest+j)%len(s.recent)].call
			if f.matches(c.req, Done) {
				found = append(found, c.req.ID)
			}
		}
		s.mu.Unlock()
	}
	slices.SortFunc(found, func(a, b ID) int { return bytes.Compare(b[:], a[:]) })

	var records []Record
	for _, id := range found {
		if len(records) == f.limit() {
			break
		}
		r, err := t.Get(id)
		if err != nil || !f.matches(&r.Request, r.State) {
			continue // gone, or gone on, meanwhile
		}
		records = append(records, r)
	}
	return records
}

// EachLive calls f with every live call, holding no lock while f runs. Calls that
// come or go meanwhile may be missed.
func (t *Table) EachLive(f func(*Call)) {
	var calls []*Call
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		calls = calls[:0]
		for _, c := range s.live {
			calls = append(calls, c)
		}
		s.mu.Unlock()
		for _, c := range calls {
			f(c)
		}
	}
}
