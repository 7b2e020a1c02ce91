package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/faasm-go/faasm/bench"
)

const root = "../.."

// README.md says what the results give, and no more.
func TestREADME_isWhatTheResultsGive(t *testing.T) {
	r, err := read(filepath.Join(root, "bench", "results"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	want, err := replace(string(text), r.markdown())
	if err != nil {
		t.Fatal(err)
	}
	if string(text) != want {
		t.Error("README.md has other figures than bench/results; run make figures")
	}
}

// Every figure that a table names is one that its bench has, or skips by name.
func TestRows_nameFigures(t *testing.T) {
	r, err := read(filepath.Join(root, "bench", "results"))
	if err != nil {
		t.Fatal(err)
	}
	var cells []string
	for _, row := range rows {
		cells = append(cells, row[0], row[1], row[2])
		if _, err := bench.Find(row[3]); err != nil {
			t.Error(err)
		}
	}
	for _, row := range sandboxes {
		cells = append(cells, row[:]...)
	}
	for _, c := range cells {
		for _, part := range strings.Split(c, "{")[1:] {
			name, _, _ := strings.Cut(part, "}")
			name, _, _ = strings.Cut(name, ":")
			file, figure, _ := strings.Cut(name, ".")
			report := r[file]
			if report == nil {
				t.Errorf("%s: there is no report %s.json", name, file)
				continue
			}
			_, ok := r.value(file, figure)
			for _, s := range report.Skipped {
				ok = ok || s.Name == figure
			}
			if !ok {
				t.Errorf("%s.json has no figure %s", file, figure)
			}
		}
	}
}

func TestNumber(t *testing.T) {
	for _, tt := range []struct {
		v    float64
		unit string
		want string
	}{
		{0.5, "us", "500 ns"}, {2.96, "us", "3.0 µs"}, {405.4, "us", "405 µs"}, {12345, "us", "12.3 ms"}, {1.5e6, "us", "1.5 s"},
		{0.061, "ms", "61 µs"}, {800, "ns", "800 ns"}, {15.94, "KB", "15.9 KB"}, {1300, "KB", "1.3 MB"},
		{38543, "", "38,500"}, {1234567, "", "1,230,000"}, {0.6349, "", "0.63"}, {1.112, "", "1.11"}, {30000, "", "30,000"}, {11, "", "11"}, {999.4, "", "999"},
	} {
		if got := number(tt.v, tt.unit); got != tt.want {
			t.Errorf("number(%v, %q) = %q; want %q", tt.v, tt.unit, got, tt.want)
		}
	}
}
