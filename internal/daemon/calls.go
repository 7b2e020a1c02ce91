package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/faasm-go/faasm/internal/api"
	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/faaslet"
	"github.com/faasm-go/faasm/internal/hostif"
	"github.com/faasm-go/faasm/internal/sched"
)

// Invoke runs a call within its request.
func (h *Host) Invoke(ctx context.Context, inv api.Invocation) (call.ID, *call.Result, func(), error) {
	req, err := h.request(ctx, inv)
	if err != nil {
		return call.ID{}, nil, nil, err
	}
	c := call.New(req, nil)
	if err := h.calls.Add(c); err != nil {
		return call.ID{}, nil, nil, err
	}
	gone := context.AfterFunc(ctx, func() { c.Cancel(call.Cancelled) })
	done := h.sched.Do(c)
	gone()
	return req.ID, c.Result(), done, nil
}

// request makes a request of an invocation that this host can take.
func (h *Host) request(ctx context.Context, inv api.Invocation) (*call.Request, error) {
	if h.draining.Load() {
		return nil, api.Draining(drainRetryAfter)
	}
	if h.functions.lookUp(ctx, inv.Tenant, inv.Function) == nil {
		return nil, api.NoSuchFunction(inv.Tenant, inv.Function)
	}
	now := time.Now()
	req := &call.Request{
		ID: call.NewIDAt(now), Tenant: inv.Tenant, Function: inv.Function, Input: inv.Input,
		Accepted: now, Attempt: 1,
	}
	if inv.Timeout > 0 {
		req.Deadline = req.Accepted.Add(inv.Timeout)
	}
	return req, nil
}

// Submit accepts an asynchronous call: it is on disk before it is acknowledged.
func (h *Host) Submit(ctx context.Context, inv api.Invocation) (call.Record, error) {
	h.wg.Add(1)
	defer h.wg.Done()
	req, err := h.request(ctx, inv)
	if err != nil {
		return call.Record{}, err
	}
	if err := h.sched.Admit(inv.Tenant, inv.Input); err != nil {
		return call.Record{}, api.Overloaded(err.Error(), time.Second)
	}
	req.Async = true
	if err := h.durable.Accept(ctx, req); err != nil {
		return call.Record{}, err
	}
	return h.start(req)
}

// start queues a call that the log has.
func (h *Host) start(req *call.Request) (call.Record, error) {
	c := call.New(req, nil)
	if err := h.calls.Add(c); err != nil {
		return call.Record{}, err
	}
	record := c.Record()
	h.sched.Go(c)
	return record, nil
}

// requeue queues again what the log has and nobody finished.
func (h *Host) requeue() error {
	n := 0
	for req, err := range h.durable.Pending() {
		if err != nil {
			h.log.Error("read pending call", "error", err)
			continue
		}
		h.recovered.Store(req.ID, true)
		req.Attempt++ // counted in the log once it runs; see retry
		if _, err := h.start(req); err != nil {
			return err
		}
		n++
	}
	if n > 0 {
		h.log.Info("asynchronous calls of an earlier run of this host are queued", "calls", n)
	}
	return nil
}

// retry takes note that a call of an earlier life of this host runs again. It returns
// false if the call has been tried too often and is to run no more.
func (h *Host) retry(c *call.Call) bool {
	if _, ok := h.recovered.LoadAndDelete(c.ID()); !ok {
		return true
	}
	_, err := h.durable.Retry(context.Background(), c.ID())
	switch {
	case err == nil:
		return true
	case errors.Is(err, call.ErrAttemptsSpent), errors.Is(err, call.ErrFinished):
		r := call.Result{Outcome: call.HostLost, Finished: time.Now(), Failure: &call.Failure{Message: err.Error()}}
		h.outcomes[r.Outcome].Add(1)
		c.Finish(r)
	default:
		h.fail(c, call.HostLost, err.Error())
	}
	return false
}

// run begins a call that has a place. See sched.Run.
func (h *Host) run(c *call.Call) sched.Task {
	req := c.Request()
	if cause, cancelled := c.Cancelled(); cancelled {
		h.fail(c, cause, "ended while it waited for its turn: "+cause.String())
		return nil
	}
	if req.Async && !h.retry(c) {
		return nil
	}
	v, code, err := h.functions.acquire(req.Tenant, req.Function)
	switch {
	case err != nil:
		h.fail(c, call.Trapped, fmt.Sprintf("load function: %v", err))
		return nil
	case v == nil:
		h.fail(c, call.NoSuchFunction, fmt.Sprintf("tenant %s has no function %q", req.Tenant, req.Function))
		return nil
	}
	return &task{h, c, v, code.Start(c, &h.world)}
}

// A task is a call in its Faaslet.
type task struct {
	host    *Host
	call    *call.Call
	version *version
	faaslet *faaslet.Faaslet
}

func (t *task) Run() *call.Wait {
	if w := t.faaslet.Run(); w != nil {
		return w
	}
	result := t.faaslet.Result()
	result.Version = t.version.record.Version
	if !result.Started.IsZero() {
		result.Usage.Queued = result.Started.Sub(t.call.Request().Accepted)
	}
	t.host.finish(t.call, result)
	return nil
}

func (t *task) Interrupt() { t.faaslet.Interrupt() }

func (t *task) Clean() {
	if _, err := t.faaslet.Clean(); err != nil {
		req := t.call.Request()
		t.host.log.Error("clean region", "tenant", req.Tenant, "function", req.Function, "error", err)
	}
	t.host.functions.release(t.version)
}

// fail ends a call that never ran.
func (h *Host) fail(c *call.Call, outcome call.Outcome, why string) {
	h.finish(c, &call.Result{Outcome: outcome, Finished: time.Now(), Failure: &call.Failure{Message: why}})
}

// finish ends a call: in the log first, if it has it, so that no result is seen that a
// crash could take back.
func (h *Host) finish(c *call.Call, r *call.Result) {
	if c.Request().Async {
		if r.Outcome == call.HostLost && h.draining.Load() {
			c.Finish(*r) // stays pending in the log, and runs again on the next start
			return
		}
		h.remember(c, r)
	}
	h.outcomes[r.Outcome].Add(1)
	c.Finish(*r)
}

func (h *Host) remember(c *call.Call, r *call.Result) {
	if err := h.durable.Finish(context.Background(), c.ID(), r); err != nil && !errors.Is(err, call.ErrFinished) {
		h.log.Error("record result", "call", c.ID(), "error", err)
	}
}

// Chain submits a child call; see hostif.Host.
func (h *Host) Chain(parent *call.Call, function string, entry call.Entry, input []byte) *call.Call {
	now := time.Now()
	c := call.New(&call.Request{
		ID: call.NewIDAt(now), Parent: parent.ID(), Tenant: parent.Request().Tenant, Function: function,
		Entry: entry, Input: input, Accepted: now, Attempt: 1,
	}, parent)
	if err := h.calls.Add(c); err != nil {
		panic(fmt.Sprintf("BUG: a fresh call is known already: %v", err))
	}
	h.sched.Go(c)
	return c
}

// Block is the scheduler's; see hostif.Host.
func (h *Host) Block(c *call.Call, children bool, wait func()) { h.sched.Block(c, children, wait) }

// Call returns what is known of a call.
func (h *Host) Call(_ context.Context, id call.ID) (call.Record, error) {
	if r, err := h.calls.Get(id); err == nil && (r.State != call.Done || !r.Request.Async) {
		return r, nil
	}
	return h.durable.Get(id)
}

// Wait is Call once the call or ctx is done.
func (h *Host) Wait(ctx context.Context, id call.ID) (call.Record, error) {
	if c := h.calls.Live(id); c != nil {
		select {
		case <-c.Done():
		case <-ctx.Done():
		}
	}
	return h.Call(ctx, id)
}

// Calls lists calls, newest first: those of this process and those of the log.
func (h *Host) Calls(_ context.Context, filter call.Filter) ([]call.Record, error) {
	recent := h.calls.Recent(filter)
	logged, err := h.durable.List(filter)
	if err != nil {
		return nil, err
	}
	return merge(filter, recent, logged), nil
}

// merge joins two lists, newest first, of which the first knows better what both know.
func merge(filter call.Filter, recent, logged []call.Record) []call.Record {
	known := map[call.ID]bool{}
	for _, r := range recent {
		known[r.Request.ID] = true
	}
	for _, r := range logged {
		if !known[r.Request.ID] {
			recent = append(recent, r)
		}
	}
	slices.SortFunc(recent, func(a, b call.Record) int { return bytes.Compare(b.Request.ID[:], a.Request.ID[:]) })
	limit := filter.Limit
	if limit <= 0 {
		limit = call.ListLimitDefault
	}
	return recent[:min(len(recent), limit)]
}

// Output returns a finished call's output.
func (h *Host) Output(_ context.Context, id call.ID) ([]byte, error) {
	if out, err := h.calls.Output(id); err == nil || errors.Is(err, call.ErrNotFinished) {
		return out, err
	}
	return h.durable.Output(id)
}

// Cancel cancels a call and its descendants.
func (h *Host) Cancel(ctx context.Context, id call.ID) (call.Record, error) {
	if c := h.calls.Live(id); c != nil {
		c.Cancel(call.Cancelled)
	}
	return h.Call(ctx, id)
}

var _ hostif.Host = (*Host)(nil)

// CallLogs returns what a call printed.
func (h *Host) CallLogs(ctx context.Context, id call.ID) ([]call.Line, error) {
	lines := h.logs.Call(id)
	if len(lines) == 0 {
		if _, err := h.Call(ctx, id); err != nil {
			return nil, err
		}
	}
	return lines, nil
}

// FunctionLogs returns what a function's calls printed last.
func (h *Host) FunctionLogs(_ context.Context, tenant, function string, tail int) ([]call.Line, error) {
	if h.functions.find(tenant, function) == nil {
		return nil, api.NoSuchFunction(tenant, function)
	}
	return h.logs.Tail(tenant, function, tail), nil
}

// FollowLogs returns what a function's calls printed last, and then each new line, until
// ctx is done.
func (h *Host) FollowLogs(ctx context.Context, tenant, function string, tail int) (iter.Seq[call.Line], error) {
	if h.functions.find(tenant, function) == nil {
		return nil, api.NoSuchFunction(tenant, function)
	}
	return h.logs.Follow(ctx, tenant, function, tail), nil
}
