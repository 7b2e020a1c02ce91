package call

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
	"pgregory.net/rapid"
)

// pageSize is bbolt's.
var pageSize = os.Getpagesize()

func openLog(t testing.TB, path string, opts LogOptions) *Log {
	t.Helper()
	l, err := OpenLog(path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func newLog(t testing.TB) *Log {
	t.Helper()
	return openLog(t, filepath.Join(t.TempDir(), "calls.db"), LogOptions{})
}

// newRequest returns a request whose input can be told from that of another.
func newRequest(tenant, function string) *Request {
	req := &Request{
		ID: NewID(), Parent: NewID(), Tenant: tenant, Function: function,
		Entry:    Entry{Table: true, Index: math.MaxUint32},
		Accepted: time.Now().Round(0).UTC(), Deadline: time.Now().Add(time.Hour).Round(0).UTC(),
		Attempt: 1, Async: true,
	}
	req.Input = []byte("input of " + req.ID.String())
	return req
}

func fullResult() Result {
	return Result{
		Outcome: Trapped, ReturnCode: math.MinInt32, Output: []byte{0, 1, 2},
		Failure: &Failure{Message: "integer divide by zero", Backtrace: []Frame{
			{FuncIndex: 7, FuncName: "div", Offset: math.MaxUint64}, {FuncIndex: math.MaxUint32},
		}},
		Usage:   Usage{Queued: 1, Start: 2, Wall: 3, CPU: 4, MemoryPeak: 5, HostCalls: 6, PagesDirty: math.MaxUint64},
		Started: time.Now().Round(0).UTC(), Finished: time.Now().Round(0).UTC(), Version: "abc",
	}
}

func accept(t testing.TB, l *Log, reqs ...*Request) {
	t.Helper()
	for _, req := range reqs {
		if err := l.Accept(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
}

func finish(t testing.TB, l *Log, id ID, r Result) {
	t.Helper()
	if err := l.Finish(t.Context(), id, &r); err != nil {
		t.Fatal(err)
	}
}

func pending(t testing.TB, l *Log) []*Request {
	t.Helper()
	var reqs []*Request
	for req, err := range l.Pending() {
		if err != nil {
			t.Fatal(err)
		}
		reqs = append(reqs, req)
	}
	return reqs
}

// commits is how many transactions the file has seen.
func (l *Log) commits() (n int) {
	l.db.View(func(tx *bbolt.Tx) error {
		n = tx.ID()
		return nil
	})
	return n
}

// entries is how many keys each bucket of the file has.
func (l *Log) entries(t testing.TB) map[string]int {
	t.Helper()
	n := make(map[string]int)
	err := l.db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			n[string(name)] = b.Stats().KeyN
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	delete(n, string(bucketMeta))
	return n
}

// damage puts a value into the file behind the log's back.
func (l *Log) damage(t testing.TB, bucket, key, value []byte) {
	t.Helper()
	err := l.db.Update(func(tx *bbolt.Tx) error {
		if value == nil {
			return tx.Bucket(bucket).Delete(key)
		}
		return tx.Bucket(bucket).Put(key, value)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestOpenLog_refused(t *testing.T) {
	bolt := func(fill func(tx *bbolt.Tx) error) func(string) error {
		return func(path string) error {
			db, err := bbolt.Open(path, 0o600, nil)
			if err != nil {
				return err
			}
			return errors.Join(db.Update(fill), db.Close())
		}
	}
	withFormat := func(format []byte) func(string) error {
		return bolt(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucket(bucketMeta)
			if err != nil {
				return err
			}
			return b.Put(keyFormat, format)
		})
	}
	text := func(n int) func(string) error {
		return func(path string) error {
			return os.WriteFile(path, bytes.Repeat([]byte("not a log\n"), n), 0o600)
		}
	}
	for _, row := range []struct {
		name string
		make func(path string) error
		want error
		says string
	}{
		{"short text", text(1), ErrForeign, ""},
		{"long text", text(10_000), ErrForeign, ""},
		{"another program's", bolt(func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucket([]byte("users"))
			return err
		}), ErrForeign, "something else"},
		{"newer", withFormat([]byte{0, 0, 0, 2}), ErrForeign, "format 2, and this is 1"},
		{"format of wrong length", withFormat([]byte{1}), ErrDamaged, ""},
		{"no buckets", withFormat([]byte{0, 0, 0, 1}), ErrDamaged, `"calls"`},
		{"cut short", func(path string) error {
			l, err := OpenLog(path, LogOptions{})
			if err != nil {
				return err
			}
			req := newRequest("t", "f")
			req.Input = make([]byte, 1<<20)
			err = l.Accept(context.Background(), req)
			return errors.Join(err, l.Close(), os.Truncate(path, 16<<10))
		}, ErrDamaged, ""},
		{"free list wiped", func(path string) error {
			l, err := OpenLog(path, LogOptions{})
			if err != nil {
				return err
			}
			err = errors.Join(l.Accept(context.Background(), newRequest("t", "f")), l.Close())
			file, err2 := os.ReadFile(path)
			if err = errors.Join(err, err2); err != nil {
				return err
			}
			for _, meta := range [][]byte{file, file[pageSize:]} {
				// The page's header, magic to flags, and the root bucket come before.
				page := pageSize * int(binary.NativeEndian.Uint64(meta[16+16+16:]))
				clear(file[page : page+pageSize])
			}
			return os.WriteFile(path, file, 0o600)
		}, ErrDamaged, ""},
		{"a directory", func(path string) error { return os.Mkdir(path, 0o700) }, syscall.EISDIR, ""},
		{"below a file", func(path string) error { return os.WriteFile(filepath.Dir(path)+"/x", nil, 0o600) }, nil, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "calls.db")
			if err := row.make(path); err != nil {
				t.Fatal(err)
			}
			if row.want == nil {
				path, row.want = filepath.Dir(path)+"/x/calls.db", syscall.ENOTDIR
			}
			before, _ := os.ReadFile(path)
			for range 2 { // the second finds no lock left by the first
				l, err := OpenLog(path, LogOptions{})
				if err == nil {
					l.Close()
				}
				if !errors.Is(err, row.want) || !strings.Contains(err.Error(), row.says) || !strings.Contains(err.Error(), path) {
					t.Errorf("OpenLog: %v, want %v, with the path and %q", err, row.want, row.says)
				}
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
				t.Error("a file that was refused was changed")
			}
		})
	}
}

func TestOpenLog_badOptions(t *testing.T) {
	for _, o := range []LogOptions{{Retention: -1}, {AttemptsMax: -1}, {AttemptsMax: math.MaxInt32}} {
		path := filepath.Join(t.TempDir(), "calls.db")
		if l, err := OpenLog(path, o); err == nil {
			l.Close()
			t.Errorf("OpenLog took %+v", o)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%+v: the file was made", o)
		}
	}
}

func TestOpenLog_locked(t *testing.T) {
	l := newLog(t)
	_, err := OpenLog(l.path, LogOptions{})
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), l.path) {
		t.Errorf("OpenLog of an open log: %v, want ErrLocked with the path", err)
	}
	accept(t, l, newRequest("t", "f"))
}

func TestOpenLog_emptyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "calls.db")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	accept(t, openLog(t, path, LogOptions{}), newRequest("t", "f"))
}

// TestOpenLog_format1 reads a file that was written when format 1 was new. It is
// written again by -call.rewrite, for a new format only, under a new name.
func TestOpenLog_format1(t *testing.T) {
	const archive = "testdata/format1.db.gz"
	at := time.Date(2026, 3, 4, 5, 6, 7, 8, time.UTC)
	done := &Request{
		ID: ID{1, 15: 0xff}, Parent: ID{9}, Tenant: "t", Function: "done", Entry: Entry{Table: true, Index: 3},
		Input: []byte("in"), Accepted: at, Deadline: at.Add(time.Minute), Attempt: 1, Async: true,
	}
	queued := &Request{ID: ID{2}, Tenant: "t", Function: "queued", Input: []byte("still to do"), Accepted: at, Attempt: 2, Async: true}
	result := fullResult()
	result.Started, result.Finished = at, at.Add(time.Second)
	path := filepath.Join(t.TempDir(), "calls.db")
	if *rewrite {
		l := openLog(t, path, LogOptions{})
		accept(t, l, done, queued)
		finish(t, l, done.ID, result)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		file, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var zipped bytes.Buffer
		w := gzip.NewWriter(&zipped)
		w.Write(file)
		if err := errors.Join(w.Close(), os.MkdirAll("testdata", 0o755), os.WriteFile(archive, zipped.Bytes(), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	file, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}

	l := openLog(t, path, LogOptions{})
	if diff := cmp.Diff([]*Request{queued}, pending(t, l)); diff != "" {
		t.Errorf("pending (-want +got):\n%s", diff)
	}
	want := []Record{
		{Request: *queued, InputBytes: len(queued.Input), State: Queued},
		{Request: *done, InputBytes: len(done.Input), State: Done, Started: at, Result: result, OutputBytes: len(result.Output)},
	}
	want[0].Request.Input, want[1].Request.Input, want[1].Result.Output = nil, nil, nil
	list, err := l.List(Filter{Tenant: "t"})
	if diff := cmp.Diff(want, list); diff != "" || err != nil {
		t.Errorf("List: %v (-want +got):\n%s", err, diff)
	}
	if output, err := l.Output(done.ID); err != nil || !bytes.Equal(output, result.Output) {
		t.Errorf("Output: %v, %v, want %v", output, err, result.Output)
	}
}

func TestLog_Accept_refused(t *testing.T) {
	l := newLog(t)
	req := newRequest("t", "f")
	accept(t, l, req)
	before := l.entries(t)
	same := newRequest("other", "other")
	same.ID = req.ID
	for _, row := range []struct {
		name string
		req  *Request
		want error
	}{
		{"no id", &Request{}, nil},
		{"long tenant", newRequest(strings.Repeat("t", logNameMax+1), "f"), nil},
		{"long function", newRequest("t", strings.Repeat("f", logNameMax+1)), nil},
		{"taken id", same, ErrExists},
		{"twice", req, ErrExists},
	} {
		err := l.Accept(t.Context(), row.req)
		if err == nil || (row.want != nil && !errors.Is(err, row.want)) {
			t.Errorf("%s: %v, want %v", row.name, err, row.want)
		}
	}
	if diff := cmp.Diff(before, l.entries(t)); diff != "" {
		t.Errorf("what was refused changed the log (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]*Request{req}, pending(t, l)); diff != "" {
		t.Errorf("pending (-want +got):\n%s", diff)
	}
}

func TestLog_lifeOfCall(t *testing.T) {
	longest := newRequest(strings.Repeat("t", logNameMax), strings.Repeat("f", logNameMax))
	bare := &Request{ID: NewID(), Attempt: 1}
	full := newRequest("t", "f")
	large := newRequest("t", "g")
	large.Input = bytes.Repeat([]byte("large "), 50_000)
	for _, row := range []struct {
		name   string
		req    *Request
		result Result
	}{
		{"longest names", longest, fullResult()},
		{"bare", bare, Result{}},
		{"failure without a word", full, Result{Outcome: HostLost, Failure: &Failure{}}},
		{"large", large, Result{Output: large.Input}},
	} {
		t.Run(row.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "calls.db")
			l := openLog(t, path, LogOptions{})
			reopen := func() {
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
				l = openLog(t, path, LogOptions{})
			}
			want := Record{Request: *row.req, InputBytes: len(row.req.Input), State: Queued}
			want.Request.Input = nil
			check := func() {
				t.Helper()
				got, err := l.Get(row.req.ID)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("Get (-want +got):\n%s", diff)
				}
				list, err := l.List(Filter{Tenant: row.req.Tenant, Function: row.req.Function, State: want.State})
				if diff := cmp.Diff([]Record{want}, list); diff != "" || err != nil {
					t.Errorf("List: %v (-want +got):\n%s", err, diff)
				}
			}

			accept(t, l, row.req)
			check()
			reopen()
			check()
			if diff := cmp.Diff([]*Request{row.req}, pending(t, l)); diff != "" {
				t.Errorf("pending (-want +got):\n%s", diff)
			}
			if _, err := l.Output(row.req.ID); !errors.Is(err, ErrNotFinished) {
				t.Errorf("Output before the end: %v, want ErrNotFinished", err)
			}

			finish(t, l, row.req.ID, row.result)
			want.State, want.Result, want.Started, want.OutputBytes = Done, row.result, row.result.Started, len(row.result.Output)
			want.Result.Output = nil
			check()
			reopen()
			check()
			output, err := l.Output(row.req.ID)
			if err != nil || !bytes.Equal(output, row.result.Output) {
				t.Errorf("Output: %d bytes, %v, want %d", len(output), err, len(row.result.Output))
			}
			if got := pending(t, l); len(got) != 0 {
				t.Errorf("a finished call is pending: %+v", got)
			}
			if n := l.entries(t)["inputs"]; n != 0 {
				t.Error("the input of a finished call is kept")
			}
		})
	}
}

func TestLog_unknown(t *testing.T) {
	l := newLog(t)
	id := NewID()
	_, get := l.Get(id)
	_, output := l.Output(id)
	_, retry := l.Retry(t.Context(), id)
	for name, err := range map[string]error{
		"Get": get, "Output": output, "Retry": retry, "Finish": l.Finish(t.Context(), id, &Result{}),
	} {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", name, err)
		}
	}
	if n := l.entries(t)["results"]; n != 0 {
		t.Error("an unknown call has a result")
	}
}

func TestLog_Finish_firstWins(t *testing.T) {
	l := newLog(t)
	req := newRequest("t", "f")
	accept(t, l, req)
	var g sync.WaitGroup
	var won atomic.Int32
	for i := range int32(20) {
		g.Go(func() {
			err := l.Finish(t.Context(), req.ID, &Result{ReturnCode: i, Output: []byte{byte(i)}})
			switch {
			case err == nil:
				if won.Swap(i+1) != 0 {
					t.Error("two results were taken")
				}
			case !errors.Is(err, ErrFinished):
				t.Errorf("Finish: %v, want ErrFinished", err)
			}
		})
	}
	g.Wait()
	r, err := l.Get(req.ID)
	output, err2 := l.Output(req.ID)
	want := won.Load() - 1
	if err != nil || err2 != nil || r.Result.ReturnCode != want || !bytes.Equal(output, []byte{byte(want)}) {
		t.Errorf("result %+v, output %v, errors %v %v; Finish %d won", r.Result, output, err, err2, want)
	}
}

func TestLog_Retry(t *testing.T) {
	path := filepath.Join(t.TempDir(), "calls.db")
	req, other := newRequest("t", "f"), newRequest("t", "f")
	req.ID[0], other.ID[0] = 1, 2 // ages apart, whatever the clock
	l := openLog(t, path, LogOptions{})
	accept(t, l, req, other)
	for attempt := 2; attempt <= 3; attempt++ {
		got, err := l.Retry(t.Context(), req.ID)
		if err != nil {
			t.Fatal(err)
		}
		want := *req
		want.Attempt = attempt
		if diff := cmp.Diff(&want, got); diff != "" {
			t.Errorf("Retry (-want +got):\n%s", diff)
		}
		l.Close()
		l = openLog(t, path, LogOptions{})
		if diff := cmp.Diff([]*Request{&want, other}, pending(t, l)); diff != "" {
			t.Errorf("pending after attempt %d (-want +got):\n%s", attempt, diff)
		}
	}
	if got, err := l.Retry(t.Context(), req.ID); !errors.Is(err, ErrAttemptsSpent) || got != nil {
		t.Errorf("fourth attempt: %+v, %v, want ErrAttemptsSpent", got, err)
	}
	r, err := l.Get(req.ID)
	if err != nil || r.State != Done || r.Result.Outcome != HostLost || r.Request.Attempt != 3 ||
		r.Result.Failure == nil || r.Result.Failure.Message != "the host crashed 3 times while this call ran" {
		t.Errorf("after the last attempt: %+v, failure %+v, %v", r, r.Result.Failure, err)
	}
	if _, err := l.Retry(t.Context(), req.ID); !errors.Is(err, ErrFinished) {
		t.Errorf("Retry of a finished call: %v, want ErrFinished", err)
	}
	if diff := cmp.Diff([]*Request{other}, pending(t, l)); diff != "" {
		t.Errorf("pending (-want +got):\n%s", diff)
	}
}

func TestLog_Retry_attemptsMax(t *testing.T) {
	l := openLog(t, filepath.Join(t.TempDir(), "calls.db"), LogOptions{AttemptsMax: 1})
	req := newRequest("t", "f")
	accept(t, l, req)
	if _, err := l.Retry(t.Context(), req.ID); !errors.Is(err, ErrAttemptsSpent) {
		t.Errorf("second attempt of one: %v, want ErrAttemptsSpent", err)
	}
}

func TestLog_Pending(t *testing.T) {
	l := newLog(t)
	var want []*Request
	for i := range 300 {
		req := newRequest("t", fmt.Sprint(i))
		binary.BigEndian.PutUint32(req.ID[:], uint32(i*1000)) // ages apart, whatever the clock
		want = append(want, req)
	}
	var g sync.WaitGroup
	for _, i := range rand.Perm(len(want)) {
		g.Go(func() { accept(t, l, want[i]) })
	}
	g.Wait()

	var got []*Request
	for req, err := range l.Pending() {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, req)
		// Changes in the loop: what is accepted now is not for this loop, and what is
		// finished before its turn does not come.
		accept(t, l, newRequest("t", "later"))
		if len(got) == 200 {
			finish(t, l, want[250].ID, Result{})
			finish(t, l, want[299].ID, Result{})
		}
	}
	want = slices.Delete(want[:299], 250, 251)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Pending (-want +got):\n%s", diff)
	}
	for range l.Pending() {
		break
	}
}

func TestLog_Sweep(t *testing.T) {
	l := openLog(t, filepath.Join(t.TempDir(), "calls.db"), LogOptions{Retention: time.Hour})
	const finished = 2*sweepBatch + 10
	kept := newRequest("t", "f")
	accept(t, l, kept)
	var g sync.WaitGroup
	for i := range finished {
		g.Go(func() {
			req := newRequest("t", fmt.Sprint(i%3))
			accept(t, l, req)
			finish(t, l, req.ID, fullResult())
		})
	}
	g.Wait()
	now := time.Now()
	for _, row := range []struct {
		now     time.Time
		want    int
		commits int
	}{
		{time.Time{}, 0, 0},
		{now, 0, 0},
		{now.Add(59 * time.Minute), 0, 0},
		{now.Add(61 * time.Minute), finished, 3},
		{now.Add(61 * time.Minute), 0, 0},
	} {
		before := l.commits()
		n, err := l.Sweep(t.Context(), row.now)
		if err != nil || n != row.want {
			t.Errorf("Sweep %v from now: %d, %v, want %d", row.now.Sub(now), n, err, row.want)
		}
		if got := l.commits() - before; got != row.commits {
			t.Errorf("Sweep of %d calls made %d commits, want %d", n, got, row.commits)
		}
	}
	want := map[string]int{"calls": 1, "inputs": 1, "pending": 1, "results": 0, "outputs": 0, "functions": 1, "finished": 0}
	if diff := cmp.Diff(want, l.entries(t)); diff != "" {
		t.Errorf("entries after the sweep (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]*Request{kept}, pending(t, l)); diff != "" {
		t.Errorf("pending (-want +got):\n%s", diff)
	}
}

func TestLog_List_limit(t *testing.T) {
	l := newLog(t)
	var g sync.WaitGroup
	for range ListLimitMax + 5 {
		g.Go(func() { accept(t, l, newRequest("t", "f")) })
	}
	g.Wait()
	for limit, want := range map[int]int{-1: ListLimitDefault, 0: ListLimitDefault, 1: 1, math.MaxInt: ListLimitMax} {
		for _, f := range []Filter{{}, {Tenant: "t"}, {State: Queued}} {
			f.Limit = limit
			if got, err := l.List(f); err != nil || len(got) != want {
				t.Errorf("List(%+v): %d records, %v, want %d", f, len(got), err, want)
			}
		}
	}
	// A client that goes through them all by Before sees each once.
	seen := make(map[ID]bool)
	f := Filter{Tenant: "t", Limit: 300}
	for {
		page, err := l.List(f)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, r := range page {
			if seen[r.Request.ID] {
				t.Fatalf("call %s is listed twice", r.Request.ID)
			}
			seen[r.Request.ID] = true
		}
		f.Before = page[len(page)-1].Request.ID
	}
	if len(seen) != ListLimitMax+5 {
		t.Errorf("%d calls in the pages, want %d", len(seen), ListLimitMax+5)
	}
}

// Names that would run together, or into the next, if the index only joined them.
func TestLog_List_names(t *testing.T) {
	l := newLog(t)
	names := []string{"", "a", "ab", "b", "a\x00", "\xff", "\xff\xff"}
	for _, tenant := range names {
		for _, function := range names {
			accept(t, l, newRequest(tenant, function))
		}
	}
	for _, tenant := range names {
		for _, function := range names {
			f := Filter{Tenant: tenant, Function: function}
			want := 1
			if tenant == "" {
				want *= len(names)
			}
			if function == "" {
				want *= len(names)
			}
			list, err := l.List(f)
			if err != nil || len(list) != want {
				t.Errorf("List(%q, %q): %d records, %v, want %d", tenant, function, len(list), err, want)
			}
			for _, r := range list {
				if !f.matches(&r.Request, r.State) {
					t.Errorf("List(%q, %q) has %q, %q", tenant, function, r.Request.Tenant, r.Request.Function)
				}
			}
		}
	}
}

// gate stops the committer until it is closed.
func (l *Log) gate(t *testing.T) (release func()) {
	held, open, gone := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		if err := l.change(t.Context(), 0, func(*logTx) error {
			close(held)
			<-open
			return nil
		}); err != nil {
			t.Error(err)
		}
	}()
	<-held
	return func() {
		close(open)
		<-gone
	}
}

func TestLog_groupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLog(t)
		before := l.commits()
		release := l.gate(t)
		var g sync.WaitGroup
		for range 100 {
			g.Go(func() { accept(t, l, newRequest("t", "f")) })
		}
		synctest.Wait()
		release()
		g.Wait()
		if got := l.commits() - before; got != 1 {
			t.Errorf("100 calls that came during a commit took %d more, want 1", got)
		}
		if got := len(pending(t, l)); got != 100 {
			t.Errorf("%d of 100 calls are pending", got)
		}
	})
}

func TestLog_groupCommit_isBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLog(t)
		before := l.commits()
		release := l.gate(t)
		var g sync.WaitGroup
		for range 5 {
			g.Go(func() {
				req := newRequest("t", "f")
				req.Input = make([]byte, commitBytesMax/2)
				accept(t, l, req)
			})
		}
		synctest.Wait()
		release()
		g.Wait()
		if got := l.commits() - before; got < 3 {
			t.Errorf("5 inputs of half a commit's bound took %d commits, want 3", got)
		}
	})
}

// One change that is refused takes no other with it.
func TestLog_groupCommit_refusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLog(t)
		taken := newRequest("t", "f")
		accept(t, l, taken)
		release := l.gate(t)
		var g sync.WaitGroup
		for i := range 20 {
			g.Go(func() {
				if i%2 == 0 {
					accept(t, l, newRequest("t", "f"))
				} else if err := l.Accept(t.Context(), taken); !errors.Is(err, ErrExists) {
					t.Errorf("Accept of a taken ID: %v, want ErrExists", err)
				}
			})
		}
		synctest.Wait()
		release()
		g.Wait()
		if got := len(pending(t, l)); got != 11 {
			t.Errorf("%d calls are pending, want 11", got)
		}
	})
}

func TestLog_Accept_contextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLog(t)
		release := l.gate(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("the client left")
		refused := make(chan error)
		go func() { refused <- l.Accept(ctx, newRequest("t", "f")) }()
		synctest.Wait()
		cancel(why)
		if err := <-refused; !errors.Is(err, why) {
			t.Errorf("Accept: %v, want the cause of its context's end", err)
		}
		release()
		if got := len(pending(t, l)); got != 0 {
			t.Error("a call that was given up before it was taken is pending")
		}
	})
}

func TestLog_Close(t *testing.T) {
	path := filepath.Join(t.TempDir(), "calls.db")
	l := openLog(t, path, LogOptions{})
	var acknowledged sync.Map
	var g sync.WaitGroup
	begun := make(chan struct{}, 1)
	for range 16 {
		g.Go(func() {
			for {
				req := newRequest("t", "f")
				err := l.Accept(context.Background(), req)
				if err != nil {
					if !errors.Is(err, ErrClosed) {
						t.Errorf("Accept: %v, want ErrClosed", err)
					}
					return
				}
				acknowledged.Store(req.ID, true)
				select {
				case begun <- struct{}{}:
				default:
				}
			}
		})
	}
	<-begun
	for range 2 {
		g.Go(func() {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	g.Wait()

	_, get := l.Get(NewID())
	_, output := l.Output(NewID())
	_, list := l.List(Filter{})
	_, retry := l.Retry(t.Context(), NewID())
	_, sweep := l.Sweep(t.Context(), time.Now())
	for name, err := range map[string]error{
		"Get": get, "Output": output, "List": list, "Retry": retry, "Sweep": sweep,
		"Accept": l.Accept(t.Context(), newRequest("t", "f")),
		"Finish": l.Finish(t.Context(), NewID(), &Result{}),
	} {
		if !errors.Is(err, ErrClosed) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s after Close: %v, want ErrClosed with the path", name, err)
		}
	}
	n := 0
	for _, err := range l.Pending() {
		if n++; !errors.Is(err, ErrClosed) || n > 1 {
			t.Fatalf("Pending after Close: %v, %d times, want ErrClosed once", err, n)
		}
	}

	l = openLog(t, path, LogOptions{})
	acknowledged.Range(func(id, _ any) bool {
		if r, err := l.Get(id.(ID)); err != nil || r.State != Queued {
			t.Errorf("acknowledged call %s: %+v, %v", id, r, err)
		}
		return true
	})
}

// TestLog_model has a log and a map do the same, with a crash's end in between.
func TestLog_model(t *testing.T) {
	type entry struct {
		req    Request
		result *Result
	}
	dir := t.TempDir()
	files := 0
	rapid.Check(t, func(rt *rapid.T) {
		files++
		path := filepath.Join(dir, fmt.Sprint(files))
		opts := LogOptions{AttemptsMax: 2, Retention: time.Hour}
		l, err := OpenLog(path, opts)
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { l.Close() }()
		ctx := context.Background()
		model := make(map[ID]*entry)
		// Few IDs, so that they meet again, also after a sweep.
		ids := rapid.Custom(func(rt *rapid.T) ID { return ID{rapid.Byte().Draw(rt, "age") % 12, 15: 1} })
		names := rapid.SampledFrom([]string{"a", "b", "ab"})
		blobs := rapid.OneOf(rapid.SliceOfN(rapid.Byte(), 0, 20), rapid.Custom(func(rt *rapid.T) []byte {
			return bytes.Repeat([]byte{1}, rapid.IntRange(3000, 20_000).Draw(rt, "size"))
		}))
		newest := func(f Filter) []ID {
			var ids []ID
			for id, e := range model {
				s := Queued
				if e.result != nil {
					s = Done
				}
				if f.matches(&e.req, s) {
					ids = append(ids, id)
				}
			}
			slices.SortFunc(ids, func(a, b ID) int { return bytes.Compare(b[:], a[:]) })
			return ids
		}
		is := func(what string, err, want error) {
			if !errors.Is(err, want) {
				rt.Fatalf("%s: %v, want %v", what, err, want)
			}
		}

		rt.Repeat(map[string]func(*rapid.T){
			"accept": func(rt *rapid.T) {
				req := Request{ID: ids.Draw(rt, "id"), Tenant: names.Draw(rt, "tenant"), Function: names.Draw(rt, "function"),
					Input: blobs.Draw(rt, "input"), Attempt: 1, Async: true}
				err := l.Accept(ctx, &req)
				if model[req.ID] != nil {
					is("Accept", err, ErrExists)
					return
				}
				is("Accept", err, nil)
				model[req.ID] = &entry{req: req}
			},
			"finish": func(rt *rapid.T) {
				id := ids.Draw(rt, "id")
				r := Result{ReturnCode: rapid.Int32().Draw(rt, "code"), Output: blobs.Draw(rt, "output")}
				err := l.Finish(ctx, id, &r)
				switch e := model[id]; {
				case e == nil:
					is("Finish", err, ErrNotFound)
				case e.result != nil:
					is("Finish", err, ErrFinished)
				default:
					is("Finish", err, nil)
					e.result = &r
				}
			},
			"retry": func(rt *rapid.T) {
				id := ids.Draw(rt, "id")
				req, err := l.Retry(ctx, id)
				switch e := model[id]; {
				case e == nil:
					is("Retry", err, ErrNotFound)
				case e.result != nil:
					is("Retry", err, ErrFinished)
				case e.req.Attempt == opts.AttemptsMax:
					is("Retry", err, ErrAttemptsSpent)
					e.result = &Result{Outcome: HostLost}
				default:
					is("Retry", err, nil)
					e.req.Attempt++
					if req.Attempt != e.req.Attempt || !bytes.Equal(req.Input, e.req.Input) {
						rt.Fatalf("Retry returned attempt %d with %d bytes of input, want %d with %d", req.Attempt, len(req.Input), e.req.Attempt, len(e.req.Input))
					}
				}
			},
			"sweep": func(rt *rapid.T) {
				now := time.Now()
				all := rapid.Bool().Draw(rt, "all")
				if all {
					now = now.Add(2 * time.Hour)
				}
				want := 0
				for id, e := range model {
					if all && e.result != nil {
						delete(model, id)
						want++
					}
				}
				n, err := l.Sweep(ctx, now)
				if err != nil || n != want {
					rt.Fatalf("Sweep: %d, %v, want %d", n, err, want)
				}
			},
			"reopen": func(rt *rapid.T) {
				if err := l.Close(); err != nil {
					rt.Fatal(err)
				}
				if l, err = OpenLog(path, opts); err != nil {
					rt.Fatal(err)
				}
			},
			"list": func(rt *rapid.T) {
				any := rapid.SampledFrom([]string{"", "a", "b", "ab", "c"})
				f := Filter{Tenant: any.Draw(rt, "tenant"), Function: any.Draw(rt, "function"),
					State: rapid.SampledFrom([]State{0, Queued, Running, Done}).Draw(rt, "state"),
					Limit: rapid.IntRange(0, 4).Draw(rt, "limit")}
				if rapid.Bool().Draw(rt, "from the middle") {
					f.Before = ids.Draw(rt, "before")
				}
				want := newest(f)
				want = want[:min(len(want), f.limit())]
				list, err := l.List(f)
				if err != nil {
					rt.Fatal(err)
				}
				var got []ID
				for _, r := range list {
					got = append(got, r.Request.ID)
				}
				if !slices.Equal(got, want) {
					rt.Fatalf("List(%+v) = %v, want %v", f, got, want)
				}
			},
			"": func(rt *rapid.T) {
				for i := range byte(12) {
					id := ID{i, 15: 1}
					e := model[id]
					r, err := l.Get(id)
					if e == nil {
						is("Get", err, ErrNotFound)
						continue
					}
					is("Get", err, nil)
					if r.InputBytes != len(e.req.Input) || r.Request.Attempt != e.req.Attempt || (r.State == Done) != (e.result != nil) {
						rt.Fatalf("Get: %+v, want %+v", r, e)
					}
					output, err := l.Output(id)
					if e.result == nil {
						is("Output", err, ErrNotFinished)
						continue
					}
					is("Output", err, nil)
					if !bytes.Equal(output, e.result.Output) || r.OutputBytes != len(output) ||
						r.Result.ReturnCode != e.result.ReturnCode || r.Result.Outcome != e.result.Outcome {
						rt.Fatalf("Get: %+v with output of %d bytes, want %+v", r, len(output), e.result)
					}
				}
				var got []ID
				for req, err := range l.Pending() {
					is("Pending", err, nil)
					got = append([]ID{req.ID}, got...)
				}
				if want := newest(Filter{State: Queued}); !slices.Equal(got, want) {
					rt.Fatalf("Pending = %v, want %v", got, want)
				}
			},
		})
	})
}

// childAccept accepts and finishes calls until it is killed, and tells of each as soon
// as it is acknowledged: "a" and the ID for accepted, "f" for finished, "r" for tried
// again. Only calls with an even last byte are finished, only odd ones tried again.
func childAccept(path string) {
	l, err := OpenLog(path, LogOptions{AttemptsMax: 100})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	tell := func(what string, id ID, err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Stdout.WriteString(what + id.String() + "\n") // one write: whole or not at all
	}
	var g sync.WaitGroup
	for range 16 {
		g.Go(func() {
			for {
				req := newRequest("t", "f")
				tell("a", req.ID, l.Accept(context.Background(), req))
				if req.ID[15]%2 == 0 {
					tell("f", req.ID, l.Finish(context.Background(), req.ID, &Result{Output: []byte("output of " + req.ID.String())}))
				} else {
					_, err := l.Retry(context.Background(), req.ID)
					tell("r", req.ID, err)
				}
			}
		})
	}
	g.Wait()
}

func TestLog_kill9(t *testing.T) {
	path := filepath.Join(t.TempDir(), "calls.db")
	told := make(map[ID]string) // all that was told of a call, over all children
	for round := range 5 {
		cmd := exec.Command(os.Args[0], "-call.child=accept", path)
		cmd.Stderr = os.Stderr
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(stdout)
		for n := rand.IntN(1000); lines.Scan(); n-- {
			if n == 0 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			id, err := ParseID(lines.Text()[1:])
			if err != nil {
				t.Fatal(err)
			}
			told[id] += lines.Text()[:1]
		}
		if err := cmd.Wait(); cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("the child ended by itself: %v", err)
		}

		l, err := OpenLog(path, LogOptions{})
		if err != nil {
			t.Fatal(err)
		}
		isPending := make(map[ID]*Request)
		for _, req := range pending(t, l) {
			isPending[req.ID] = req
		}
		for id, what := range told {
			r, err := l.Get(id)
			if err != nil {
				t.Errorf("round %d: acknowledged call (%s): %v", round, what, err)
				continue
			}
			req := isPending[id]
			switch {
			case what == "af":
				output, err := l.Output(id)
				if r.State != Done || req != nil || err != nil || string(output) != "output of "+id.String() {
					t.Errorf("round %d: finished call %s: %s, pending %v, output %q, %v", round, id, r.State, req != nil, output, err)
				}
			case id[15]%2 == 1:
				// Tried again, for sure or perhaps, but never finished.
				if req == nil || string(req.Input) != "input of "+id.String() || req.Attempt < len(what) || req.Attempt > 2 {
					t.Errorf("round %d: unfinished call %s (%s): %s, pending as %+v", round, id, what, r.State, req)
				}
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d calls were acknowledged by 5 children", len(told))
}

// childFullDisk runs into the end of the disk, which is a limit on the size of its
// files, and goes on when there is room again.
func childFullDisk(path string) {
	must := func(what string, ok bool, err error) {
		if !ok {
			fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
			os.Exit(1)
		}
	}
	limit := func(n uint64) {
		var r syscall.Rlimit
		err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &r)
		must("getrlimit", err == nil, err)
		r.Cur = min(n, r.Max)
		err = syscall.Setrlimit(syscall.RLIMIT_FSIZE, &r)
		must("setrlimit", err == nil, err)
	}
	ctx := context.Background()
	l, err := OpenLog(path, LogOptions{})
	must("open", err == nil, err)
	small := newRequest("t", "before")
	err = l.Accept(ctx, small)
	must("accept a small call", err == nil, err)

	limit(256 << 10)
	for range 3 {
		large := newRequest("t", "refused")
		large.Input = make([]byte, 1<<20)
		err = l.Accept(ctx, large)
		must("accept a large call on a full disk", err != nil && strings.Contains(err.Error(), path) &&
			strings.Contains(err.Error(), syscall.EFBIG.Error()), err) // bbolt does not wrap it
		_, err = l.Get(large.ID)
		must("get a call that was not acknowledged", errors.Is(err, ErrNotFound), err)
	}
	_, err = l.Get(small.ID)
	must("read on a full disk", err == nil, err)
	err = l.Finish(ctx, small.ID, &Result{Output: []byte("x")})
	must("finish a call where it fits", err == nil, err)

	limit(math.MaxUint64)
	large := newRequest("t", "after")
	large.Input = make([]byte, 1<<20)
	err = l.Accept(ctx, large)
	must("accept when there is room again", err == nil, err)
	err = l.Close()
	must("close", err == nil, err)
}

func TestLog_fullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "calls.db")
	if out, err := exec.Command(os.Args[0], "-call.child=full-disk", path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l := openLog(t, path, LogOptions{})
	list, err := l.List(Filter{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range list {
		got = append(got, r.Request.Function+" "+r.State.String())
	}
	if diff := cmp.Diff([]string{"after queued", "before done"}, got); diff != "" {
		t.Errorf("calls in the log (-want +got):\n%s", diff)
	}
}

// Each part of a call's entries is damaged in turn; the other call stays whole.
func TestLog_damagedEntries(t *testing.T) {
	flip := func(b []byte) []byte {
		b = bytes.Clone(b)
		b[len(b)/2] ^= 4
		return b
	}
	for _, row := range []struct {
		bucket         []byte
		finished       bool
		get, output    error
		retry          error // of the unfinished
		pending        bool  // comes as an error
		finishTakesOff bool  // what Finish then makes of it
	}{
		{bucket: bucketCalls, get: ErrDamaged, output: ErrNotFinished, retry: ErrDamaged, pending: true, finishTakesOff: true},
		{bucket: bucketPending, get: ErrDamaged, output: ErrNotFinished, retry: ErrDamaged, pending: true, finishTakesOff: true},
		{bucket: bucketInputs, output: ErrNotFinished, retry: ErrDamaged, pending: true, finishTakesOff: true},
		{bucket: bucketCalls, finished: true, get: ErrDamaged, retry: ErrFinished},
		{bucket: bucketResults, finished: true, get: ErrDamaged, output: ErrDamaged, retry: ErrFinished},
		{bucket: bucketOutputs, finished: true, output: ErrDamaged, retry: ErrFinished},
	} {
		for _, gone := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s finished=%v gone=%v", row.bucket, row.finished, gone), func(t *testing.T) {
				l := newLog(t)
				older, victim, newer := newRequest("t", "f"), newRequest("t", "f"), newRequest("t", "f")
				for i, req := range []*Request{older, victim, newer} {
					req.ID[0] = byte(i)
					accept(t, l, req)
				}
				if row.finished {
					finish(t, l, victim.ID, fullResult())
				}
				var value []byte
				if !gone {
					l.db.View(func(tx *bbolt.Tx) error {
						value = flip(tx.Bucket(row.bucket).Get(victim.ID[:]))
						return nil
					})
				} else if bytes.Equal(row.bucket, bucketCalls) || bytes.Equal(row.bucket, bucketPending) || bytes.Equal(row.bucket, bucketResults) {
					t.Skip("an entry that is gone is no damage to be seen, or another error")
				}
				l.damage(t, row.bucket, victim.ID[:], value)

				_, err := l.Get(victim.ID)
				if !errors.Is(err, row.get) {
					t.Errorf("Get: %v, want %v", err, row.get)
				}
				_, err = l.Output(victim.ID)
				if !errors.Is(err, row.output) {
					t.Errorf("Output: %v, want %v", err, row.output)
				}
				_, err = l.Retry(t.Context(), victim.ID)
				if !errors.Is(err, row.retry) {
					t.Errorf("Retry: %v, want %v", err, row.retry)
				}
				var got []ID
				var failed []error
				for req, err := range l.Pending() {
					if err != nil {
						failed = append(failed, err)
					} else {
						got = append(got, req.ID)
					}
				}
				if !slices.Equal(got, []ID{older.ID, newer.ID}) {
					t.Errorf("Pending has %v, want the whole ones, %v", got, []ID{older.ID, newer.ID})
				}
				if row.pending != (len(failed) == 1 && errors.Is(failed[0], ErrDamaged) && strings.Contains(failed[0].Error(), victim.ID.String())) {
					t.Errorf("Pending has the errors %v", failed)
				}
				list, err := l.List(Filter{Tenant: "t"})
				if !errors.Is(err, row.get) || len(list) < 2 || list[0].Request.ID != newer.ID || list[len(list)-1].Request.ID != older.ID {
					t.Errorf("List: %d records, %v, want %v and the whole ones", len(list), err, row.get)
				}
				if row.finishTakesOff {
					finish(t, l, victim.ID, Result{Outcome: HostLost})
					for _, err := range l.Pending() {
						if err != nil {
							t.Errorf("the damaged call is finished, and Pending has %v", err)
						}
					}
				}
				if _, err := l.Sweep(t.Context(), time.Now().Add(100*time.Hour)); err != nil {
					t.Errorf("Sweep: %v", err)
				}
				if n := l.entries(t)["calls"]; n != 2 {
					t.Errorf("%d calls are left after the sweep, want 2", n)
				}
				if list, err := l.List(Filter{Tenant: "t"}); err != nil || len(list) != 2 {
					t.Errorf("List after the sweep: %d records, %v, want 2", len(list), err)
				}
			})
		}
	}
}

func TestLog_damagedKeys(t *testing.T) {
	l := newLog(t)
	req := newRequest("t", "f")
	accept(t, l, req)
	for _, key := range []string{"\x00", "\x00\x01", "\x00\x01t", "\x00\x01t\x00", "\x00\x01t\x00\x01", "\x00\x01t\x00\x01f",
		"\x00\x01t\x00\x01f short", "\x00\x01t\x00\x01f and then it is too long", "\x00\x01t\xff\xff", "\xff\xff", "\xff"} {
		l.damage(t, bucketFunctions, []byte(key), []byte{})
		l.damage(t, bucketPending, []byte(key), []byte{})
		l.damage(t, bucketFinished, []byte(key), []byte{})
	}
	for _, f := range []Filter{{Tenant: "t"}, {Function: "f"}, {Tenant: "t", Function: "f"}, {State: Queued}} {
		list, err := l.List(f)
		if len(list) != 1 || !errors.Is(err, ErrDamaged) {
			t.Errorf("List(%+v): %d records, %v, want 1 and ErrDamaged", f, len(list), err)
		}
	}
	whole := 0
	for req, err := range l.Pending() {
		if req != nil {
			whole++
		} else if !errors.Is(err, ErrDamaged) {
			t.Errorf("Pending: %v, want ErrDamaged", err)
		}
	}
	if whole != 1 {
		t.Errorf("Pending has %d whole calls, want 1", whole)
	}
	if _, err := l.Sweep(t.Context(), time.Now()); err != nil {
		t.Errorf("Sweep: %v", err)
	}
	if n := l.entries(t)["finished"]; n != 0 {
		t.Errorf("%d damaged keys are left after the sweep", n)
	}
}

// Leaf pages whose first key belongs before those of the page before, and whose last
// cannot be read, sent a listing in a circle.
func TestLog_damagedOrder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "calls.db")
	l := openLog(t, path, LogOptions{})
	var g sync.WaitGroup
	for i := range 600 {
		g.Go(func() { accept(t, l, newRequest("t", fmt.Sprintf("f%03d", i))) })
	}
	g.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// A page is its number, flags (2 is a leaf) and count; then as many elements of 16
	// bytes; the key of each is at an offset from the element.
	damaged := 0
	for page := file; len(page) > 0; page = page[pageSize:] {
		n := int(binary.NativeEndian.Uint16(page[10:]))
		if binary.NativeEndian.Uint16(page[8:]) != 2 || n < 10 {
			continue
		}
		key := func(i int) []byte {
			element := page[16+16*i:]
			return element[binary.NativeEndian.Uint32(element[4:]):]
		}
		if !bytes.HasPrefix(key(0), functionPrefix("t", "f000")[:6]) || key(0)[6] == '0' {
			continue
		}
		damaged++
		key(0)[5] = 'a'   // the function's name
		key(n - 1)[4] = 9 // its length
	}
	if damaged < 2 {
		t.Fatalf("found %d leaf pages to damage", damaged)
	}
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	l = openLog(t, path, LogOptions{})
	if _, err := l.List(Filter{Tenant: "t"}); !errors.Is(err, ErrDamaged) {
		t.Errorf("List: %v, want ErrDamaged", err)
	}
}

// The file is cut short under an open log: reading the rest is a fault, not a page.
func TestLog_cutWhileOpen(t *testing.T) {
	l := newLog(t)
	req := newRequest("t", "f")
	req.Input = make([]byte, 1<<20)
	accept(t, l, req)
	if err := os.Truncate(l.path, 8<<10); err != nil {
		t.Fatal(err)
	}
	_, get := l.Get(req.ID)
	_, list := l.List(Filter{})
	for name, err := range map[string]error{"Get": get, "List": list, "Finish": l.Finish(t.Context(), req.ID, &Result{})} {
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), l.path) {
			t.Errorf("%s: %v, want ErrDamaged with the path", name, err)
		}
	}
	// What was met in a change is the end of changes.
	if err := os.Truncate(l.path, 16<<20); err != nil {
		t.Fatal(err)
	}
	if err := l.Accept(t.Context(), newRequest("t", "f")); !errors.Is(err, ErrDamaged) {
		t.Errorf("Accept after damage: %v, want ErrDamaged", err)
	}
}

// TestLog_damagedPages damages each page of a file in turn, in the ways that disks do.
// Whatever bbolt makes of it, the process lives, and what is said to be whole is.
func TestLog_damagedPages(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "whole")
	l := openLog(t, path, LogOptions{})
	var ids []ID
	want := make(map[ID]*Request)
	for i := range 200 {
		req := newRequest("t", fmt.Sprint(i%5))
		req.ID = ID{byte(i), 15: 1}
		req.Input = req.ID[:]
		if i%50 == 0 {
			req.Input = bytes.Repeat(req.ID[:], 1000)
		}
		ids = append(ids, req.ID)
		want[req.ID] = req
		accept(t, l, req)
		if i%2 == 0 {
			finish(t, l, req.ID, Result{Output: req.Input})
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(*seed, 0))
	ways := []struct {
		name   string
		damage func(page []byte)
	}{
		{"zeroes", func(page []byte) { clear(page) }},
		{"ones", func(page []byte) {
			for i := range page {
				page[i] = 0xff
			}
		}},
		{"misdirected write", func(page []byte) {
			other := random.IntN(len(whole)/pageSize) * pageSize
			copy(page, whole[other:other+pageSize])
		}},
		{"bits in the data", func(page []byte) {
			for range 8 {
				page[pageSize/2+random.IntN(pageSize/2)] ^= 1 << random.IntN(8)
			}
		}},
	}
	opened, told := 0, 0
	for at := 0; at < len(whole); at += pageSize {
		for _, way := range ways {
			bad := bytes.Clone(whole)
			way.damage(bad[at : at+pageSize])
			path := filepath.Join(dir, fmt.Sprintf("%s at %d", way.name, at))
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			l, err := OpenLog(path, LogOptions{})
			if err != nil {
				if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrForeign) {
					t.Errorf("%s: OpenLog: %v", path, err)
				}
				continue
			}
			opened++
			note := func(what string, err error) {
				if err != nil {
					told++
				}
				if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNotFound) &&
					!errors.Is(err, ErrNotFinished) && !errors.Is(err, ErrFinished) {
					t.Errorf("%s: %s: %v", path, what, err)
				}
			}
			for _, id := range ids {
				req := want[id]
				r, err := l.Get(id)
				note("Get", err)
				if err == nil && (r.Request.Function != req.Function || r.InputBytes != len(req.Input)) {
					t.Errorf("%s: Get: %+v, want %+v", path, r, req)
				}
				output, err := l.Output(id)
				note("Output", err)
				if err == nil && !bytes.Equal(output, req.Input) {
					t.Errorf("%s: Output is wrong", path)
				}
			}
			for req, err := range l.Pending() {
				note("Pending", err)
				if err == nil && !bytes.Equal(req.Input, want[req.ID].Input) {
					t.Errorf("%s: the input of %s is wrong", path, req.ID)
				}
			}
			for _, f := range []Filter{{}, {Tenant: "t"}, {State: Queued}, {Function: "3", State: Done}} {
				_, err := l.List(f)
				note("List", err)
			}
			note("Accept", l.Accept(t.Context(), newRequest("t", "new")))
			note("Finish", l.Finish(t.Context(), ids[1], &Result{}))
			_, err = l.Sweep(t.Context(), time.Now().Add(100*time.Hour))
			note("Sweep", err)
			if err := l.Close(); err != nil {
				t.Errorf("%s: %v", path, err)
			}
			os.Remove(path)
		}
	}
	if opened == 0 || told == 0 {
		t.Errorf("%d damaged files could be opened, and %d errors came of them: the test shows nothing", opened, told)
	}
	t.Logf("seed %d: %d pages, %d damaged files opened, %d errors", *seed, len(whole)/pageSize, opened, told)
}

func BenchmarkLog_Accept(b *testing.B) {
	for _, callers := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			l := newLog(b)
			before := l.commits()
			var n atomic.Int64
			b.ResetTimer()
			var g sync.WaitGroup
			for range callers {
				g.Go(func() {
					for n.Add(1) <= int64(b.N) {
						accept(b, l, newRequest("t", "f"))
					}
				})
			}
			g.Wait()
			b.ReportMetric(float64(b.N)/float64(l.commits()-before), "calls/commit")
		})
	}
}
