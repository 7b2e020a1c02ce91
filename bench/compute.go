package bench

import (
	"context"
	"fmt"
	"math"
	"os"
	"os/exec"
	"slices"
	"time"

	"github.com/faasm-go/faasm/bench/compute"
	"github.com/faasm-go/faasm/internal/faaslet"
	"github.com/faasm-go/faasm/internal/sched"
)

// A side runs kernels in one way.
type side struct {
	name string
	run  func(ctx context.Context, kernel string, size compute.Size) (compute.Result, error)
}

// kernelTimeout bounds one run of a kernel, with its data made, on a slow machine.
const kernelTimeout = 10 * time.Minute

// guestSide runs kernels as a function.
func guestSide(name string, opts faaslet.Options) (side, func() error, error) {
	l, err := newLocal(opts, sched.Options{})
	if err != nil {
		return side{}, nil, err
	}
	if err := l.add("kernels", compute.Wasm, faaslet.Limits{MemoryMax: 1 << 30, Timeout: kernelTimeout}); err != nil {
		return side{}, nil, err
	}
	run := func(_ context.Context, kernel string, size compute.Size) (compute.Result, error) {
		r, done, err := l.invoke("bench", "kernels", compute.Request(kernel, size, 1))
		if err != nil {
			return compute.Result{}, err
		}
		defer done()
		return compute.ParseResult(r.Output)
	}
	return side{name, run}, l.close, nil
}

// computeBench runs every kernel as native code, as a Faaslet, and as guests without gates
// and with Wasmtime's epochs, in turn, and compares their results.
func computeBench(ctx context.Context, r *Run) error {
	cc, err := exec.LookPath("clang-19")
	if err != nil {
		r.Skip("geomean_over_native", "clang-19 is not installed (apt-get install clang-19)")
		return nil
	}
	dir, err := os.MkdirTemp("", "faasm-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	exe, err := compute.BuildNative(ctx, dir, cc)
	if err != nil {
		return err
	}
	sides := []side{{"native", func(ctx context.Context, kernel string, size compute.Size) (compute.Result, error) {
		return compute.RunNative(ctx, exe, kernel, size, 1)
	}}}
	for _, g := range []struct {
		name string
		opts faaslet.Options
	}{{"faaslet", faaslet.Options{}}, {"plain", faaslet.Options{NoGates: true}}, {"epochs", faaslet.Options{NoGates: true, Epochs: true}}} {
		s, closeSide, err := guestSide(g.name, g.opts)
		if err != nil {
			return err
		}
		defer closeSide()
		sides = append(sides, s)
	}

	size, rounds := compute.Medium, 5
	if r.Quick {
		size, rounds = compute.Quick, 5
	}
	var overNative, epochsOverNative, gates []float64
	for _, kernel := range compute.Kernels() {
		best, err := runKernel(ctx, sides, kernel, size, rounds)
		if err != nil {
			return err
		}
		r.Add(kernel+"_over_native", "ratio", best["faaslet"]/best["native"])
		overNative = append(overNative, best["faaslet"]/best["native"])
		epochsOverNative = append(epochsOverNative, best["epochs"]/best["native"])
		gates = append(gates, best["faaslet"]/best["plain"])
		r.logf("compute: %-16s native %7.2f ms, faaslet %.2f, without gates %.2f, with epochs %.2f", kernel,
			best["native"]*1e3, best["faaslet"]/best["native"], best["plain"]/best["native"], best["epochs"]/best["native"])
	}
	r.Add("geomean_over_native", "ratio", geomean(overNative))
	r.Add("geomean_with_epochs", "ratio", geomean(epochsOverNative))
	r.Add("gate_cost", "ratio", geomean(gates))
	r.Add("worst_over_native", "ratio", slices.Max(overNative))
	return nil
}

// runKernel returns each side's median time in seconds, after a round that warms up.
func runKernel(ctx context.Context, sides []side, kernel string, size compute.Size, rounds int) (map[string]float64, error) {
	times := map[string][]float64{}
	var checksum uint64
	for round := -1; round < rounds; round++ {
		for i, s := range sides {
			res, err := s.run(ctx, kernel, size)
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", kernel, s.name, err)
			}
			if round < 0 && i == 0 {
				checksum = res.Checksum
			}
			if res.Checksum != checksum {
				return nil, fmt.Errorf("%s: %s has the result %016x, native code %016x", kernel, s.name, res.Checksum, checksum)
			}
			if round >= 0 {
				times[s.name] = append(times[s.name], res.Elapsed[0].Seconds())
			}
		}
	}
	out := map[string]float64{}
	for name, t := range times {
		out[name] = median(t)
	}
	return out, nil
}

func geomean(v []float64) float64 {
	sum := 0.0
	for _, x := range v {
		sum += math.Log(x)
	}
	return math.Exp(sum / float64(len(v)))
}
