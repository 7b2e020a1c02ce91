package call

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// idInShard returns a fresh ID that all come to one shard of a Table, so that its
// bounds are reached with few calls.
func idInShard() ID {
	id := NewID()
	id[len(id)-1] = 0
	return id
}

func mustAdd(t *testing.T, table *Table, req *Request) *Call {
	t.Helper()
	c := New(req, nil)
	if err := table.Add(c); err != nil {
		t.Fatalf("Add: %v", err)
	}
	return c
}

func (t *Table) counts() (live, recent, bytes int) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		live += len(s.live)
		recent += s.entries
		bytes += s.bytes
		s.mu.Unlock()
	}
	return live, recent, bytes
}

func TestTable_Add_refused(t *testing.T) {
	var table Table
	finished := newCall(nil)
	finished.Finish(Result{})
	if err := table.Add(finished); !errors.Is(err, ErrFinished) {
		t.Errorf("Add of a finished call: %v, want ErrFinished", err)
	}
	c := mustAdd(t, &table, &Request{ID: NewID(), Tenant: "a"})
	if err := table.Add(New(&Request{ID: c.ID(), Tenant: "b"}, nil)); !errors.Is(err, ErrExists) {
		t.Errorf("Add of a taken ID: %v, want ErrExists", err)
	}
	if got := table.Live(c.ID()); got != c {
		t.Errorf("Live = %p, want the first call %p", got, c)
	}
	if live, recent, _ := table.counts(); live != 1 || recent != 0 {
		t.Errorf("%d live and %d recent calls, want 1 and 0", live, recent)
	}
}

func TestTable_unknown(t *testing.T) {
	var table Table
	mustAdd(t, &table, &Request{ID: idInShard()}).Finish(Result{})
	for _, id := range []ID{{}, NewID(), idInShard()} {
		if got := table.Live(id); got != nil {
			t.Errorf("Live(%s) = %p", id, got)
		}
		if _, err := table.Get(id); !errors.Is(err, ErrNotFound) {
			t.Errorf("Get(%s): %v, want ErrNotFound", id, err)
		}
		if _, err := table.Output(id); !errors.Is(err, ErrNotFound) {
			t.Errorf("Output(%s): %v, want ErrNotFound", id, err)
		}
	}
}

func TestTable_lifeOfCall(t *testing.T) {
	now := time.Now()
	for _, row := range []struct {
		name          string
		input, output int
		async         bool
		wantRecord    error
		wantOutput    error
	}{
		{"output one byte too large", 3, recentOutputMax + 1, false, nil, ErrOutputDropped},
		{"input one byte too large", recentOutputMax + 1, 3, false, nil, nil},
		{"both too large", recentOutputMax + 1, recentOutputMax + 1, false, nil, ErrOutputDropped},
		{"together too large", recentOutputMax, recentOutputMax, false, nil, nil},
		{"largest output", 0, recentOutputMax, false, nil, nil},
		{"nothing", 0, 0, false, nil, nil},
		{"small", 3, 5, false, nil, nil},
		{"asynchronous", 3, 5, true, ErrNotFound, ErrNotFound},
	} {
		t.Run(row.name, func(t *testing.T) {
			var table Table
			req := &Request{ID: NewID(), Tenant: "t", Function: "f", Accepted: now, Deadline: now.Add(time.Hour),
				Attempt: 1, Input: make([]byte, row.input), Async: row.async}
			c := mustAdd(t, &table, req)

			want := Record{Request: *req, InputBytes: row.input, State: Queued}
			want.Request.Input = nil
			check := func() {
				t.Helper()
				got, err := table.Get(req.ID)
				if err != nil {
					t.Fatalf("Get: %v", err)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("Get (-want +got):\n%s", diff)
				}
			}
			check()
			if _, err := table.Output(req.ID); !errors.Is(err, ErrNotFinished) {
				t.Errorf("Output of a queued call: %v, want ErrNotFinished", err)
			}
			c.MarkRunning(now.Add(time.Second), time.Minute)
			want.State, want.Started, want.Request.Deadline = Running, now.Add(time.Second), now.Add(61*time.Second)
			check()

			r := Result{Outcome: Trapped, Output: bytes.Repeat([]byte{7}, row.output), Failure: &Failure{Message: "m"},
				Started: now.Add(time.Second), Finished: now.Add(2 * time.Second), Version: "v"}
			c.Finish(r)
			want.State, want.Result, want.OutputBytes = Done, r, row.output
			want.Result.Output = nil
			if row.wantRecord == nil {
				check()
			} else if _, err := table.Get(req.ID); !errors.Is(err, row.wantRecord) {
				t.Errorf("Get: %v, want %v", err, row.wantRecord)
			}
			output, err := table.Output(req.ID)
			if !errors.Is(err, row.wantOutput) {
				t.Errorf("Output: %v, want %v", err, row.wantOutput)
			}
			if err == nil && !bytes.Equal(output, r.Output) {
				t.Errorf("Output has %d bytes, want %d", len(output), len(r.Output))
			}
			if table.Live(req.ID) != nil {
				t.Error("a finished call is live")
			}
			if live, _, held := table.counts(); live != 0 || held > 2*recentOutputMax {
				t.Errorf("%d live calls and %d bytes are left", live, held)
			}
		})
	}
}

// What Done promises: the call is among the recent ones by then.
func TestTable_retiredBeforeDone(t *testing.T) {
	var table Table
	c := mustAdd(t, &table, &Request{ID: NewID()})
	c.OnDone(func() {
		if table.Live(c.ID()) != nil {
			t.Error("the call is done and live")
		}
		if r, err := table.Get(c.ID()); err != nil || r.State != Done {
			t.Errorf("the call is done, and Get returns state %s, %v", r.State, err)
		}
	})
	c.Finish(Result{})
}

func TestTable_forgetsOldest(t *testing.T) {
	const perShard = recentCalls / tableShards
	var table Table
	var ids []ID
	for i := range perShard + 100 {
		c := mustAdd(t, &table, &Request{ID: idInShard(), Attempt: i})
		c.Finish(Result{Output: []byte{byte(i)}})
		ids = append(ids, c.ID())
		if _, recent, held := table.counts(); recent != min(i+1, perShard) || held < recent || held > 16*recent {
			t.Fatalf("after %d calls %d are remembered, with %d bytes", i+1, recent, held)
		}
	}
	for i, id := range ids {
		r, err := table.Get(id)
		if forgotten := i < 100; forgotten != errors.Is(err, ErrNotFound) {
			t.Fatalf("call %d of %d: %v", i, len(ids), err)
		}
		if err == nil && r.Request.Attempt != i {
			t.Fatalf("call %d is found as call %d", i, r.Request.Attempt)
		}
	}
}

func TestTable_boundsBytes(t *testing.T) {
	const bytesMax = recentBytesMax / tableShards
	for _, row := range []struct {
		name   string
		result Result
	}{
		{"failures", Result{Failure: &Failure{Message: string(make([]byte, 50_000))}}},
		{"function names", Result{Failure: &Failure{Backtrace: []Frame{{FuncName: string(make([]byte, 50_000))}}}}},
		{"outputs", Result{Output: make([]byte, 50_000)}},
		{"slices of large buffers", Result{Output: make([]byte, 1, 50_000)}},
	} {
		t.Run(row.name, func(t *testing.T) {
			var table Table
			var last ID
			for range 2 * bytesMax / 50_000 {
				c := mustAdd(t, &table, &Request{ID: idInShard()})
				last = c.ID()
				c.Finish(row.result)
			}
			_, recent, held := table.counts()
			if held > bytesMax || held < 50_000*recent {
				t.Errorf("%d calls are remembered with %d bytes, want at most %d", recent, held, bytesMax)
			}
			if want := bytesMax/50_000 - 1; recent < want {
				t.Errorf("%d calls are remembered, want at least %d", recent, want)
			}
			if _, err := table.Get(last); err != nil {
				t.Errorf("the last call is forgotten: %v", err)
			}
		})
	}
}

func TestTable_Recent(t *testing.T) {
	var table Table
	var all []*Call
	for i := range 60 {
		id := NewID()
		binary.BigEndian.PutUint32(id[:], uint32(i)) // ages apart, whatever the clock
		c := mustAdd(t, &table, &Request{
			ID: id, Tenant: []string{"a", "b"}[i%2], Function: []string{"f", "g", "h"}[i%3],
		})
		if i%4 > 0 {
			c.MarkRunning(time.Now(), 0)
		}
		if i%4 > 1 {
			c.Finish(Result{Output: []byte("x")})
		}
		all = append(all, c)
	}
	for _, f := range []Filter{
		{Limit: -1},
		{Limit: 1 << 40},
		{Limit: 7},
		{Tenant: "c"},
		{Tenant: "a", Function: "f", State: Done, Limit: 3},
		{Tenant: "b"},
		{Function: "h"},
		{State: Queued},
		{State: Running},
		{State: Done},
		{Before: all[20].ID()},
		{Before: all[20].ID(), Limit: 5},
		{Before: all[0].ID()},
		{},
	} {
		var want []ID
		for i := len(all) - 1; i >= 0; i-- {
			c := all[i]
			if (f.Tenant == "" || f.Tenant == c.req.Tenant) && (f.Function == "" || f.Function == c.req.Function) &&
				(f.State == 0 || f.State == c.State()) && (f.Before.IsZero() || f.Before.String() > c.ID().String()) &&
				(f.Limit <= 0 || len(want) < f.Limit) {
				want = append(want, c.ID())
			}
		}
		var got []ID
		for _, r := range table.Recent(f) {
			got = append(got, r.Request.ID)
			if (r.State == Done) != (r.OutputBytes == 1) || r.Result.Output != nil {
				t.Errorf("%+v: record %+v", f, r)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("Recent(%+v) (-want +got):\n%s", f, diff)
		}
	}
}

func TestTable_Recent_limit(t *testing.T) {
	var table Table
	for range ListLimitMax + 50 {
		mustAdd(t, &table, &Request{ID: NewID()})
	}
	for limit, want := range map[int]int{0: ListLimitDefault, ListLimitMax + 20: ListLimitMax} {
		if got := len(table.Recent(Filter{Limit: limit})); got != want {
			t.Errorf("limit %d: %d records, want %d", limit, got, want)
		}
	}
}

func TestTable_EachLive(t *testing.T) {
	var table Table
	for i := range 100 {
		c := mustAdd(t, &table, &Request{ID: NewID()})
		if i%2 == 0 {
			c.Finish(Result{})
		}
	}
	n := 0
	table.EachLive(func(c *Call) {
		n++
		c.Finish(Result{Outcome: HostLost}) // takes the shard's lock
	})
	if live, recent, _ := table.counts(); n != 50 || live != 0 || recent != 100 {
		t.Errorf("EachLive saw %d calls; %d are live and %d recent", n, live, recent)
	}
}

func TestTable_hammer(t *testing.T) {
	var table Table
	const workers, rounds = 8, 2000
	var ids [64]atomic.Pointer[ID]
	var g sync.WaitGroup
	for range workers {
		g.Go(func() {
			for range rounds {
				c := New(&Request{ID: NewID(), Async: rand.IntN(8) == 0}, nil)
				id := c.ID()
				ids[rand.IntN(len(ids))].Store(&id)
				if err := table.Add(c); err != nil {
					t.Errorf("Add: %v", err)
				}
				c.MarkRunning(time.Now(), 0)
				c.Finish(Result{Output: make([]byte, rand.IntN(100_000))})
			}
		})
		g.Go(func() {
			for i := range rounds {
				id := ids[rand.IntN(len(ids))].Load()
				if id == nil {
					continue
				}
				if c := table.Live(*id); c != nil {
					c.Cancel(Cancelled)
				}
				r, err := table.Get(*id)
				if err != nil && !errors.Is(err, ErrNotFound) {
					t.Errorf("Get: %v", err)
				}
				if _, err := table.Output(*id); r.State == Done && errors.Is(err, ErrNotFinished) {
					t.Errorf("Output of a call that Get says is done: %v", err)
				}
				if i%100 == 0 {
					table.Recent(Filter{State: Done})
				}
			}
		})
	}
	g.Wait()
	live, recent, held := table.counts()
	if live != 0 || recent > recentCalls || held > recentBytesMax {
		t.Errorf("%d live, %d recent calls, %d bytes", live, recent, held)
	}
}

// BenchmarkTable_AddFinish is what the books cost a warm synchronous call: its handle,
// its entry, the driver's hook, and its place among the recent ones.
func BenchmarkTable_AddFinish(b *testing.B) {
	for _, hooked := range []bool{false, true} {
		name := "bare"
		if hooked {
			name = "hooked"
		}
		b.Run(name, func(b *testing.B) {
			var t Table
			now := time.Now()
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				id := NewID()
				n := binary.BigEndian.Uint64(id[8:])
				for pb.Next() {
					n++
					binary.BigEndian.PutUint64(id[8:], n*0x9e3779b97f4a7c15)
					req := &Request{ID: id, Tenant: "default", Function: "noop", Accepted: now, Attempt: 1}
					c := New(req, nil)
					if err := t.Add(c); err != nil {
						b.Error(err)
					}
					c.MarkRunning(now, time.Second)
					if hooked {
						c.OnCancel(func() {})()
					}
					c.Finish(Result{Started: now, Finished: now})
				}
			})
		})
	}
}
