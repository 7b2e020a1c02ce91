package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// The benches that need nothing installed run, and print the figures that docs/BENCH.md
// describes, no more and no less.
func TestBenches_figures(t *testing.T) {
	doc, err := os.ReadFile("../docs/BENCH.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"fresh", "chain"} {
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
		for _, f := range report.Figures {
			if !documented(string(doc), f.Name) {
				t.Errorf("%s: figure %s is not in docs/BENCH.md", name, f.Name)
			}
			if f.Value <= 0 {
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
	if _, err := Find("speed"); err == nil || !strings.Contains(err.Error(), "there are fresh, call, chain") {
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
