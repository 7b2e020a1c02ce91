// Command figures writes what bench/results hold to where people read it: the tables of
// README.md, and the curves in docs.
//
//	go run ./bench/figures     (or make figures)
//
// It measures nothing: "make bench" does, and leaves its reports in bench/results.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/faasm-go/faasm/bench"
)

func main() {
	if err := run("."); err != nil {
		fmt.Fprintln(os.Stderr, "figures:", err)
		os.Exit(1)
	}
}

// run writes README.md and the curves of the project at root.
func run(root string) error {
	r, err := read(filepath.Join(root, "bench", "results"))
	if err != nil {
		return err
	}
	path := filepath.Join(root, "README.md")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	next, err := replace(string(text), r.markdown())
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := os.WriteFile(path, []byte(next), 0o644); err != nil {
		return err
	}
	return errors.Join(
		r.drawChurn(filepath.Join(root, "docs", "churn.svg")),
		r.drawDensity(filepath.Join(root, "docs", "density.svg")),
	)
}

// results are the reports of the last run of each bench, by the names of their files.
type results map[string]*bench.Report

func read(dir string) (results, error) {
	r := results{}
	paths, err := fs.Glob(os.DirFS(dir), "*.json")
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		text, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil {
			return nil, err
		}
		report := new(bench.Report)
		if err := json.Unmarshal(text, report); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		r[path[:len(path)-len(".json")]] = report
	}
	return r, nil
}

// value is a figure, if it was measured.
func (r results) value(file, name string) (float64, bool) {
	if report := r[file]; report != nil {
		for _, f := range report.Figures {
			if f.Name == name {
				return f.Value, true
			}
		}
	}
	return 0, false
}

func (r results) curve(file, name string) []bench.Point {
	if report := r[file]; report != nil {
		for _, c := range report.Curves {
			if c.Name == name {
				return c.Points
			}
		}
	}
	return nil
}
