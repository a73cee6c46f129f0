package main

import (
	"fmt"
	"image/color"
	"os"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// barChart is a figure of bars in groups: medians, with a whisker from the least to the most measured.
type barChart struct {
	title, unit string
	groups      []string
	series      []barSeries
}

type barSeries struct {
	name   string
	values []sample // one for each group
}

// palette is told apart with colour blindness too (Okabe and Ito); ours comes first.
var palette = []color.Color{
	color.RGBA{0xd5, 0x5e, 0x00, 0xff}, color.RGBA{0xf0, 0xb0, 0x70, 0xff}, color.RGBA{0x00, 0x72, 0xb2, 0xff}, color.RGBA{0x56, 0xb4, 0xe9, 0xff},
	color.RGBA{0x00, 0x9e, 0x73, 0xff}, color.RGBA{0xcc, 0x79, 0xa7, 0xff}, color.RGBA{0xf0, 0xe4, 0x42, 0xff}, color.RGBA{0x99, 0x99, 0x99, 0xff}, color.RGBA{0x40, 0x40, 0x40, 0xff},
}

// Measures of a figure.
const (
	chartHeight  = 9 * vg.Centimeter
	chartWidth   = 22 * vg.Centimeter
	groupFilled  = 0.8 // share of a group's width that bars take up
	chartMargins = 2.2 * vg.Centimeter
	roomySeries  = 5 // so many lines of the legend leave room enough; each further one makes the figure higher
	legendLine   = 0.5 * vg.Centimeter
)

// draw writes a chart beside the report; without a report nothing is drawn.
func (b *bench) draw(name string, c barChart) error {
	if b.out == "" || len(c.groups) == 0 {
		return nil
	}
	dir := filepath.Join(filepath.Dir(b.out), "benchmarks")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := c.save(filepath.Join(dir, name)); err != nil {
		return fmt.Errorf("plot %s: %w", name, err)
	}
	return nil
}

func (c barChart) save(path string) error {
	p := plot.New()
	for _, f := range []*font.Font{&p.Title.TextStyle.Font, &p.X.Tick.Label.Font, &p.Y.Tick.Label.Font, &p.Y.Label.TextStyle.Font, &p.Legend.TextStyle.Font} {
		f.Variant = "Sans"
	}
	p.Title.Text, p.Y.Label.Text = c.title, c.unit
	p.Legend.Top, p.Legend.Left = true, true
	p.Y.Min = 0
	p.Add(plotter.NewGrid())
	width := (chartWidth - chartMargins) / vg.Length(len(c.groups)) * groupFilled / vg.Length(len(c.series))
	top := 0.0
	for i, s := range c.series {
		values := make(plotter.Values, len(s.values))
		for j, v := range s.values {
			values[j] = v.median()
			top = max(top, v.max())
		}
		bars, err := plotter.NewBarChart(values, width)
		if err != nil {
			return err
		}
		bars.Color, bars.LineStyle.Width = palette[i%len(palette)], 0
		bars.Offset = width * (vg.Length(i) - vg.Length(len(c.series)-1)/2)
		p.Add(bars, whiskers{s.values, bars.Offset})
		p.Legend.Add(s.name, bars)
	}
	const legendRoom = 0.06 // of the height, for each line of the legend
	p.Y.Max = top * (1 + legendRoom*float64(len(c.series)))
	p.NominalX(c.groups...)
	p.X.Min, p.X.Max = -0.5, float64(len(c.groups))-0.5 // room for all of the first and the last group
	return p.Save(chartWidth, chartHeight+vg.Length(max(0, len(c.series)-roomySeries))*legendLine, path)
}
