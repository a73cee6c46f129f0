package main

import (
	"image/color"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// whiskers show the spread of each bar of a series, from the least to the most measured.
type whiskers struct {
	values []sample
	offset vg.Length // of the series' bars from the middle of their group
}

const whiskerWidth = 0.6 * vg.Millimeter / 2

// Plot implements plot.Plotter.
func (w whiskers) Plot(c draw.Canvas, p *plot.Plot) {
	toX, toY := p.Transforms(&c)
	style := draw.LineStyle{Color: color.Gray{0x40}, Width: whiskerWidth}
	for i, v := range w.values {
		if len(v) < 2 {
			continue
		}
		x := toX(float64(i)) + w.offset
		c.StrokeLine2(style, x, toY(v.min()), x, toY(v.max()))
	}
}
