package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/faasm-go/faasm/internal/linux"
)

// The benches that need nothing installed run, and print the figures that docs/BENCH.md
// describes, no more and no less.
func TestBenches_figures(t *testing.T) {
	doc, err := os.ReadFile("../docs/BENCH.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"fresh", "churn", "density", "chain"} {
		b, err := Find(name)
		if err != nil {
			t.Fatal(err)
		}
		report, err := b.Measure(context.Background(), Run{Quick: true}, "test", "none")
		if err != nil {
			t.Fatal(err)
		}
		var text, table bytes.Buffer
		if err := report.WriteJSON(&text); err != nil {
			t.Fatal(err)
		}
		if err := report.WriteTable(&table); err != nil {
			t.Fatal(err)
		}
		var again Report
		if err := json.Unmarshal(text.Bytes(), &again); err != nil || again.Bench != name || len(again.Figures) != len(report.Figures) {
			t.Errorf("%s: JSON does not read back: %v\n%s", name, err, &text)
		}
		if diff := cmp.Diff(report.Curves, again.Curves); diff != "" {
			t.Errorf("%s: the curves do not read back (-want +got):\n%s", name, diff)
		}
		for _, s := range report.Skipped {
			t.Logf("%s: %s: %s", name, s.Name, s.Why)
			if !documented(string(doc), s.Name) {
				t.Errorf("%s: figure %s, which is skipped, is not in docs/BENCH.md", name, s.Name)
			}
		}
		for _, c := range report.Curves {
			if !documented(string(doc), c.Name) {
				t.Errorf("%s: curve %s is not in docs/BENCH.md", name, c.Name)
			}
			x := 0.0
			for _, p := range c.Points {
				if p["x"] <= x || len(p) < 2 {
					t.Errorf("%s: curve %s has the point %v after x %v", name, c.Name, p, x)
				}
				x = p["x"]
				for measure, v := range p {
					if v <= 0 || measure != "x" && !documented(string(doc), measure) {
						t.Errorf("%s: curve %s: %s is %v, or not in docs/BENCH.md", name, c.Name, measure, v)
					}
				}
			}
			if len(c.Points) < 3 {
				t.Errorf("%s: curve %s has %d points", name, c.Name, len(c.Points))
			}
		}
		for _, f := range report.Figures {
			if !documented(string(doc), f.Name) {
				t.Errorf("%s: figure %s is not in docs/BENCH.md", name, f.Name)
			}
			// A share can be none, and a part less than what reading the clock was found to cost.
			if f.Value <= 0 && f.Unit != "percent" && f.Unit != "ns" {
				t.Errorf("%s: %s is %v", name, f.Name, f.Value)
			}
			if !strings.Contains(table.String(), f.Name) {
				t.Errorf("%s: the table lacks %s", name, f.Name)
			}
		}
	}
}

// documented tells whether the document names a figure, or its stem with `_p99` beside.
func documented(doc, figure string) bool {
	if strings.Contains(doc, "`"+figure+"`") {
		return true
	}
	stem, ok := strings.CutSuffix(figure, "_p99")
	return ok && strings.Contains(doc, "`"+stem+"_p50`, `_p99`")
}

func TestFind_unknown(t *testing.T) {
	if _, err := Find("speed"); err == nil || !strings.Contains(err.Error(), "there are fresh, churn, density, call, chain") {
		t.Errorf("Find: %v", err)
	}
}

func TestSamples_quantile(t *testing.T) {
	if got := (samples{}).quantile(0.5, 1); got != 0 {
		t.Errorf("of none: %v", got)
	}
	s := samples{5, 1, 4, 2, 3}
	for _, tt := range []struct{ p, want float64 }{{0, 1}, {0.5, 3}, {0.99, 5}, {1, 5}} {
		if got := s.quantile(tt.p, 1); got != tt.want {
			t.Errorf("quantile %v of %v: %v; want %v", tt.p, s, got, tt.want)
		}
	}
	if got := geomean([]float64{2, 8}); got < 3.999 || got > 4.001 {
		t.Errorf("geometric mean of 2 and 8: %v", got)
	}
}

func TestHighest(t *testing.T) {
	for _, limit := range []float64{0, churnLeast - 1, 7000, 149_999, 150_001, 400_000} {
		got, err := highest(func(rate float64) (bool, error) { return rate <= limit, nil })
		if err != nil {
			t.Fatal(err)
		}
		if limit < churnLeast && got != 0 || limit >= churnLeast && (got > limit || got < limit/1.02) {
			t.Errorf("the highest rate, of those up to %v: %v", limit, got)
		}
	}
	fault := errors.New("fault")
	if _, err := highest(func(float64) (bool, error) { return false, fault }); err != fault {
		t.Errorf("an error of a run: %v", err)
	}
}

func TestWindow_sustained(t *testing.T) {
	starts := make(samples, 100)
	if w := (window{starts: starts}); !w.sustained() {
		t.Error("100 starts in no time are not in time")
	}
	starts[0] = 2 * initMax
	if w := (window{starts: starts}); w.sustained() {
		t.Error("99 of 100 starts are in time, and one that is late is the 99th percentile")
	}
	if w := (window{starts: make(samples, 1000), late: true}); w.sustained() {
		t.Error("a window that was given up counts")
	}
}

// The limit on mappings is the machine's, and is given back as it was.
func TestNeedMaps_restores(t *testing.T) {
	have, err := linux.MaxMapCount()
	if err != nil {
		t.Fatal(err)
	}
	restore, err := needMaps(have, &Run{})
	if err != nil {
		t.Skip(err) // not root
	}
	if now, err := linux.MaxMapCount(); err != nil || now < 3*have {
		t.Errorf("room for %d Faaslets: vm.max_map_count is %d, %v", have, now, err)
	}
	restore()
	if now, err := linux.MaxMapCount(); err != nil || now != have {
		t.Errorf("afterwards: vm.max_map_count is %d, %v; it was %d", now, err, have)
	}
}
