// Package bench measures a host against what others do, for `faasm bench`. What it prints
// is described in docs/BENCH.md: a table for people, one JSON object for programs.
//
// What is compared is measured in the same run, in turn, after a warm-up: the machine is
// noisy, and only ratios hold. Nothing of a host's isolation is switched off here.
package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/faasm-go/faasm/internal/linux"
)

// A Report is what one bench found.
type Report struct {
	Bench   string    `json:"bench"`
	Version string    `json:"version"`
	Commit  string    `json:"commit"`
	Host    HostFacts `json:"host"`
	Profile string    `json:"profile,omitempty"` // of the density bench
	Figures []Figure  `json:"figures"`
	Skipped []Skip    `json:"skipped,omitempty"`
	Curves  []Curve   `json:"curves,omitempty"`
}

// HostFacts say what was measured on.
type HostFacts struct {
	CPU         string `json:"cpu"`
	Cores       int    `json:"cores"`
	MemoryBytes uint64 `json:"memory_bytes"`
	Kernel      string `json:"kernel"`
}

// A Figure is one number. Its name never changes its meaning.
type Figure struct {
	Name  string  `json:"name"`
	Unit  string  `json:"unit"`
	Value float64 `json:"value"`
}

// A Skip is a figure that could not be measured here.
type Skip struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// A Curve is what becomes of some measures while something else is raised.
type Curve struct {
	Name   string  `json:"name"`
	X      string  `json:"x"` // unit of x
	Y      string  `json:"y"` // unit of all that is measured
	Points []Point `json:"points"`
}

// A Point of a curve has "x", and beside it each measure by its name.
type Point map[string]float64

// Run is one run of a bench.
type Run struct {
	Quick   bool      // fewer samples; ends within 20 seconds on two cores
	Profile string    // of the density bench: ProfileFast (also if empty) or ProfileDense
	Count   int       // of the density bench: how many Faaslets; 0 for its own choice
	Log     io.Writer // progress, a line each
	report  *Report
}

// Add notes a figure.
func (r *Run) Add(name, unit string, value float64) {
	r.report.Figures = append(r.report.Figures, Figure{name, unit, value})
}

// Skip notes a figure that can't be had here.
func (r *Run) Skip(name, why string) {
	r.report.Skipped = append(r.report.Skipped, Skip{name, why})
}

// AddCurve notes a curve.
func (r *Run) AddCurve(c Curve) { r.report.Curves = append(r.report.Curves, c) }

func (r *Run) logf(format string, args ...any) {
	if r.Log != nil {
		fmt.Fprintf(r.Log, format+"\n", args...)
	}
}

// pick is n, or the smaller quick in a quick run.
func (r *Run) pick(n, quick int) int {
	if r.Quick {
		return quick
	}
	return n
}

// A Bench measures one thing.
type Bench struct {
	Name  string
	About string
	run   func(context.Context, *Run) error
}

// Benches are all there are.
var Benches = []Bench{
	{"fresh", "fresh Faaslets by the size of their image, beside fork+exec and containers", fresh},
	{"churn", "how many fresh starts a second, each in time, on one core and on two", churn},
	{"density", "what a live Faaslet takes of memory, and how many there can be", density},
	{"call", "a warm no-op over HTTP, beside a bare net/http handler", callBench},
	{"chain", "chain and await on one host; 20,000 blocked Faaslets", chain},
	{"state", "shared values: mapping, speed, passing data, pull and push beside Redis, locks", stateBench},
	{"interrupt", "from a deadline to the stop of each kind of runaway guest; a neighbour's latency", interrupt},
	{"compute", "numeric kernels over native code; what the gates cost", computeBench},
}

// Find returns the bench of that name.
func Find(name string) (Bench, error) {
	var names []string
	for _, b := range Benches {
		if b.Name == name {
			return b, nil
		}
		names = append(names, b.Name)
	}
	return Bench{}, fmt.Errorf("no bench %q; there are %s", name, strings.Join(names, ", "))
}

// Measure runs the bench.
func (b Bench) Measure(ctx context.Context, r Run, version, commit string) (*Report, error) {
	report := &Report{Bench: b.Name, Version: version, Commit: commit, Host: facts(), Figures: []Figure{}}
	r.report = report
	if err := b.run(ctx, &r); err != nil {
		return nil, fmt.Errorf("bench %s: %w", b.Name, err)
	}
	return report, nil
}

// WriteJSON writes the report as one JSON object.
func (r *Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	return enc.Encode(r)
}

// WriteTable writes the report for people.
func (r *Report) WriteTable(w io.Writer) error {
	fmt.Fprintf(w, "%s on %s, %d cores, kernel %s\n", r.Bench, r.Host.CPU, r.Host.Cores, r.Host.Kernel)
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	for _, f := range r.Figures {
		fmt.Fprintf(t, "  %s\t%s\t%s\t\n", f.Name, number(f.Value), f.Unit)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, s := range r.Skipped {
		fmt.Fprintf(w, "  %s: not measured: %s\n", s.Name, s.Why)
	}
	return nil
}

// number keeps about three significant digits.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

func facts() HostFacts {
	f := HostFacts{CPU: runtime.GOARCH, Cores: runtime.NumCPU(), Kernel: linux.KernelRelease()}
	if total, err := linux.MemTotal(); err == nil {
		f.MemoryBytes = total
	}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
				f.CPU = strings.TrimSpace(v)
				break
			}
		}
	}
	return f
}

// samples are durations to take quantiles of.
type samples []time.Duration

// quantile is the p-quantile, for p from 0 to 1, in the unit given.
func (s samples) quantile(p float64, unit time.Duration) float64 {
	if len(s) == 0 {
		return 0
	}
	slices.Sort(s)
	i := min(int(p*float64(len(s))), len(s)-1)
	return float64(s[i]) / float64(unit)
}

// median of a few numbers.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}

// addLatency adds name_p50 and name_p99.
func (r *Run) addLatency(name, unit string, s samples) {
	per := map[string]time.Duration{"us": time.Microsecond, "ms": time.Millisecond, "ns": 1}[unit]
	r.Add(name+"_p50", unit, s.quantile(0.50, per))
	r.Add(name+"_p99", unit, s.quantile(0.99, per))
}
