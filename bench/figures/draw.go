package main

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"os"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/faasm-go/faasm/bench"
)

const (
	width  = 17 * vg.Centimeter
	height = 9.5 * vg.Centimeter
)

var (
	blue  = color.RGBA{R: 0x1f, G: 0x5f, B: 0xa8, A: 0xff}
	red   = color.RGBA{R: 0xc2, G: 0x3b, B: 0x22, A: 0xff}
	green = color.RGBA{R: 0x2a, G: 0x85, B: 0x3f, A: 0xff}
	grey  = color.RGBA{R: 0x70, G: 0x70, B: 0x70, A: 0xff}
)

// sans is laid out with the widths of Liberation Sans, which are those of Arial.
var sans = font.Font{Typeface: "Liberation", Variant: "Sans"}

func newPlot(title, x, y string) *plot.Plot {
	plot.DefaultFont, plotter.DefaultFont = sans, sans
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Title.Padding = 3 * vg.Millimeter
	p.Title.TextStyle.Font.Size, p.Legend.TextStyle.Font.Size = 12, 9
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Label.TextStyle.Font.Size, a.Tick.Label.Font.Size, a.Label.Padding = 10, 9, vg.Millimeter
		a.Tick.Marker = thousandTicks{}
	}
	p.X.Padding, p.Y.Padding = 0, 0
	p.BackgroundColor = color.White
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.XOffs, p.Legend.YOffs, p.Legend.Padding = 3*vg.Millimeter, -2*vg.Millimeter, vg.Millimeter/2
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = color.Gray{0xe4}, color.Gray{0xe4}
	p.Add(grid)
	return p
}

// line adds one measure of a curve, each value times scale.
func line(p *plot.Plot, label string, points []bench.Point, measure string, xScale, scale float64, c color.Color, dashed bool) error {
	var xy plotter.XYs
	for _, pt := range points {
		if v, ok := pt[measure]; ok {
			xy = append(xy, plotter.XY{X: pt["x"] * xScale, Y: v * scale})
		}
	}
	if len(xy) == 0 {
		return nil
	}
	l, err := plotter.NewLine(xy)
	if err != nil {
		return err
	}
	l.Color, l.Width = c, vg.Points(1.6)
	if dashed {
		l.Dashes = []vg.Length{vg.Points(5), vg.Points(3)}
	}
	p.Add(l)
	p.Legend.Add(label, l)
	if !dashed {
		s, err := plotter.NewScatter(xy)
		if err != nil {
			return err
		}
		s.Color, s.Shape, s.Radius = c, draw.CircleGlyph{}, vg.Points(2)
		p.Add(s)
	}
	return nil
}

// save writes a plot on white, with a margin, so that it can be read on any page.
func save(p *plot.Plot, path string) error {
	const margin = 4 * vg.Millimeter
	svg := vgsvg.New(width, height)
	c := draw.New(svg)
	c.FillPolygon(color.White, []vg.Point{{}, {X: width}, {X: width, Y: height}, {Y: height}})
	p.Draw(draw.Crop(c, margin, -margin, margin, -margin))
	var text bytes.Buffer
	if _, err := svg.WriteTo(&text); err != nil {
		return err
	}
	named := bytes.ReplaceAll(text.Bytes(), []byte("font-family:Liberation Sans"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif"))
	return os.WriteFile(path, named, 0o644)
}

// level draws a line across the whole width, with its meaning above or below it.
func level(p *plot.Plot, y, to float64, label string, below bool) error {
	l, err := plotter.NewLine(plotter.XYs{{Y: y}, {X: to, Y: y}})
	if err != nil {
		return err
	}
	l.Color, l.Dashes = grey, []vg.Length{vg.Points(2), vg.Points(2)}
	text, err := plotter.NewLabels(plotter.XYLabels{XYs: plotter.XYs{{Y: y}}, Labels: []string{label}})
	if err != nil {
		return err
	}
	style := &text.TextStyle[0]
	style.Color, style.Font.Size = grey, 9
	text.Offset = vg.Point{X: 3 * vg.Millimeter, Y: vg.Points(2)}
	if below {
		style.YAlign, text.Offset.Y = draw.YTop, -vg.Points(2)
	}
	p.Add(l, text)
	return nil
}

func reach(curves ...[]bench.Point) (x float64) {
	for _, c := range curves {
		for _, pt := range c {
			x = max(x, pt["x"])
		}
	}
	return x
}

// drawChurn draws initialisation latency against the rate of starts.
func (r results) drawChurn(path string) error {
	one, two := r.curve("churn", "churn_1core"), r.curve("churn", "churn_2core")
	if len(one)+len(two) == 0 {
		return nil
	}
	p := newPlot("Fresh starts: from when one is due to its first instruction", "starts a second (thousands)", "latency (µs)")
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, logTicks{}
	p.Y.Min, p.Y.Max = 0.5, 1e5
	most := reach(one, two) / 1000 * 1.03
	p.X.Min, p.X.Max = 0, most
	for _, l := range []struct {
		label, measure string
		points         []bench.Point
		c              color.Color
		dashed         bool
	}{
		{"two cores, p50", "p50", two, blue, false}, {"two cores, p99", "p99", two, blue, true},
		{"one core, p50", "p50", one, red, false}, {"one core, p99", "p99", one, red, true},
	} {
		if err := line(p, l.label, l.points, l.measure, 1e-3, 1, l.c, l.dashed); err != nil {
			return err
		}
	}
	if err := level(p, 1000, most, "1 ms: in time", false); err != nil {
		return err
	}
	if err := level(p, 500, most, "500 µs: the paper, at up to 4,000 a second", true); err != nil {
		return err
	}
	return save(p, path)
}

// drawDensity draws memory against live Faaslets.
func (r results) drawDensity(path string) error {
	fast, dense := r.curve("density", "density"), r.curve("density_dense", "density")
	if len(fast)+len(dense) == 0 {
		return nil
	}
	p := newPlot("Live Faaslets in one process, each blocked in a host call", "Faaslets (thousands)", "PSS (MB)")
	most := reach(fast, dense)
	p.X.Min, p.Y.Min = 0, 0
	p.Legend.Top, p.Legend.Left = false, false
	p.Legend.XOffs, p.Legend.YOffs = -3*vg.Millimeter, 2*vg.Millimeter
	// The fast profile ends sooner, and lies upon the dense one as far as it goes.
	if err := line(p, "dense profile", dense, "pss", 1e-3, 1, green, false); err != nil {
		return err
	}
	if err := line(p, "fast profile", fast, "pss", 1e-3, 1, blue, false); err != nil {
		return err
	}
	top := 0.0
	for _, pt := range append(append([]bench.Point(nil), fast...), dense...) {
		top = max(top, pt["pss"])
	}
	p.Y.Max, p.X.Max = top*1.6, most/1000*1.03
	paper := []bench.Point{{"x": 0, "pss": 0}, {"x": min(most, top*1.6/0.09), "pss": min(most*0.09, top*1.6)}}
	if err := line(p, "the paper: 90 KB each", paper, "pss", 1e-3, 1, grey, true); err != nil {
		return err
	}
	return save(p, path)
}

// thousandTicks are the usual ones, with commas in their names.
type thousandTicks struct{}

func (thousandTicks) Ticks(low, high float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(low, high)
	for i := range ticks {
		if ticks[i].Label != "" {
			ticks[i].Label = label(ticks[i].Value)
		}
	}
	return ticks
}

// logTicks has a tick at each power of ten, and names them by their values.
type logTicks struct{}

func (logTicks) Ticks(low, high float64) (ticks []plot.Tick) {
	for e := math.Floor(math.Log10(low)); math.Pow(10, e) <= high*1.001; e++ {
		v := math.Pow(10, e)
		ticks = append(ticks, plot.Tick{Value: v, Label: label(v)})
		for k := 2.0; k < 10; k++ {
			ticks = append(ticks, plot.Tick{Value: v * k})
		}
	}
	return ticks
}

func label(v float64) string {
	if v >= 1000 {
		return thousands(int64(math.Round(v)))
	}
	return fmt.Sprintf("%g", v)
}
