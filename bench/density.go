package bench

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/daemon"
	"github.com/faasm-go/faasm/internal/faaslet"
	"github.com/faasm-go/faasm/internal/linux"
	"github.com/faasm-go/faasm/internal/sched"
	"github.com/faasm-go/faasm/internal/vmem"
)

// densityPoints is at how many counts the memory is read.
const densityPoints = 10

// DensityLeast is the least Run.Count: below it a Faaslet's part is lost in the noise.
const DensityLeast = 1000

// sleeper sleeps for an hour, and that is all it does: it writes nothing, as the no-op of
// the paper's Table 3.
const sleeper = `(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory 1)
  (data (i32.const 16) "\01") ;; the monotonic clock
  (data (i32.const 24) "\00\a0\b8\30\46\03") ;; 3,600,000,000,000 ns
  (func (export "faasm_call") (result i32) (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128))))`

// density tells what each of many live Faaslets takes, all of which are blocked in a host
// call.
func density(ctx context.Context, r *Run) error {
	if r.Profile == "" {
		r.Profile = daemon.ProfileFast
	}
	r.report.Profile = r.Profile
	layout, count := vmem.FastLayout, 30_000
	if r.Profile == daemon.ProfileDense {
		layout, count = vmem.DenseLayout, 100_000
	}
	count = r.pick(count, 3000)
	if r.Count != 0 {
		count = r.Count
	}
	restore, err := needMaps(count, r)
	if err != nil {
		for _, name := range []string{"live", "pss_per_faaslet", "rss_per_faaslet"} {
			r.Skip(name, err.Error())
		}
		return nil
	}
	defer restore()
	b, err := newBlockedFaaslets(layout, count, sleeper)
	if err != nil {
		return err
	}
	defer b.close()
	curve := Curve{Name: "density", X: "Faaslets", Y: "MB"}
	type reading struct{ count, pss, rss float64 }
	var first, last reading
	for i := range densityPoints {
		if err := b.raise(ctx, count*(i+1)/densityPoints); err != nil {
			return err
		}
		// What calls left behind as garbage is not the Faaslets', and how much of it lies
		// about is a matter of when Go last collected.
		debug.FreeOSMemory()
		pss, rss, err := footprint("self")
		if err != nil {
			return err
		}
		last = reading{float64(len(b.calls)), pss, rss}
		if i == 0 {
			first = last
		}
		curve.Points = append(curve.Points, Point{"x": last.count, "pss": pss / 1e6, "rss": rss / 1e6})
		r.logf("density: %d Faaslets, %.0f MB", len(b.calls), pss/1e6)
	}
	r.Add("live", "count", last.count)
	r.Add("pss_per_faaslet", "KB", (last.pss-first.pss)/(last.count-first.count)/1000)
	r.Add("rss_per_faaslet", "KB", (last.rss-first.rss)/(last.count-first.count)/1000)
	r.AddCurve(curve)
	return nil
}

// blockedFaaslets is a host on which Faaslets of a function come alive and stay, blocked in
// a host call.
type blockedFaaslets struct {
	local *local
	calls []*call.Call
}

func newBlockedFaaslets(layout vmem.Layout, most int, guest string) (*blockedFaaslets, error) {
	l, err := newLocal(faaslet.Options{Layout: layout}, sched.Options{LiveMax: most + 10, TenantLive: most + 10})
	if err != nil {
		return nil, err
	}
	if err := l.addText("blocked", guest, faaslet.Limits{MemoryMax: 64 << 20, Timeout: time.Hour}); err != nil {
		return nil, err
	}
	l.world.Host = &holding{local: l}
	return &blockedFaaslets{local: l}, nil
}

// raise brings Faaslets alive until there are count, and waits until all of them block.
func (b *blockedFaaslets) raise(ctx context.Context, count int) error {
	was := len(b.calls)
	for len(b.calls) < count {
		c := b.local.call("bench", "blocked", nil)
		b.local.sched.Go(c)
		b.calls = append(b.calls, c)
	}
	for {
		st := b.local.sched.Stats()
		if st.Live-st.Running >= count {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, c := range b.calls[was:] {
			if r := c.Result(); r != nil {
				return fmt.Errorf("a Faaslet of %d ended as %v: %+v", count, r.Outcome, r.Failure)
			}
		}
		time.Sleep(time.Millisecond)
	}
}

// close has all Faaslets end.
func (b *blockedFaaslets) close() error {
	for _, c := range b.calls {
		c.Cancel(call.Cancelled)
	}
	return b.local.close()
}

// needMaps makes sure that the kernel lets this process have the mappings of n Faaslets.
// restore puts the machine's limit back.
func needMaps(n int, r *Run) (restore func(), err error) {
	need := 3*n + 4000
	have, err := linux.MaxMapCount()
	if err != nil {
		return nil, err
	}
	if have >= need {
		return func() {}, nil
	}
	if err := linux.SetMaxMapCount(need); err != nil {
		return nil, fmt.Errorf("vm.max_map_count is %d; %d Faaslets need %d (sysctl vm.max_map_count=%d)", have, n, need, need)
	}
	r.logf("raised vm.max_map_count from %d to %d", have, need)
	return func() {
		if err := linux.SetMaxMapCount(have); err != nil {
			r.logf("vm.max_map_count stays at %d, it was %d: %v", need, have, err)
		}
	}, nil
}
