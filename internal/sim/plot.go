package sim

import (
	"cmp"
	"fmt"
	"html"
	"io"
	"math"
	"slices"
	"strings"
)

// A Plot is a picture of results as SVG: lines over x, or points, with a legend. Plots say one thing each.
type Plot struct {
	Title, XLabel, YLabel string
	Lines                 []Line
	// Points draws marks instead of lines.
	Points bool
	// Mark is a horizontal line with a label, such as a bound; NaN for none.
	Mark      float64
	MarkLabel string
}

// Line is one series of a plot.
type Line struct {
	Name string
	X, Y []float64
}

// The size of a plot and of the room around its axes, in pixels.
const (
	plotWidth, plotHeight           = 860, 420
	marginLeft, marginRight         = 70, 190
	marginTop, marginBottom         = 40, 50
	tickCount                       = 5
	innerWidth                      = plotWidth - marginLeft - marginRight
	innerHeight                     = plotHeight - marginTop - marginBottom
	pointRadius, legendStep, margin = 4, 18, 1.05
)

// colours are told apart by people who see few of them, too (Okabe and Ito's set).
var colours = []string{"#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999"}

// WriteSVG draws the plot.
func (p Plot) WriteSVG(w io.Writer) error {
	xMin, xMax, yMax := p.ranges()
	x := func(v float64) float64 { return marginLeft + (v-xMin)/(xMax-xMin)*innerWidth }
	y := func(v float64) float64 { return marginTop + innerHeight - v/yMax*innerHeight }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(&b, `<text x="%d" y="22" font-size="15">%s</text>`+"\n", marginLeft, html.EscapeString(p.Title))
	for i := range tickCount + 1 {
		share := float64(i) / tickCount
		vx, vy := xMin+share*(xMax-xMin), share*yMax
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#ddd"/>`, marginLeft, marginLeft+innerWidth, y(vy), y(vy))
		fmt.Fprintf(&b, `<text x="%d" y="%.1f" text-anchor="end">%s</text>`, marginLeft-6, y(vy)+4, tick(vy))
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", x(vx), marginTop+innerHeight+18, tick(vx))
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">%s</text>`, marginLeft+innerWidth/2, plotHeight-12, html.EscapeString(p.XLabel))
	fmt.Fprintf(&b, `<text transform="translate(16 %d) rotate(-90)" text-anchor="middle">%s</text>`+"\n", marginTop+innerHeight/2, html.EscapeString(p.YLabel))
	if p.MarkLabel != "" && !math.IsNaN(p.Mark) {
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#555" stroke-dasharray="6 4"/>`, marginLeft, marginLeft+innerWidth, y(p.Mark), y(p.Mark))
		fmt.Fprintf(&b, `<text x="%d" y="%.1f" fill="#555">%s</text>`+"\n", marginLeft+4, y(p.Mark)-4, html.EscapeString(p.MarkLabel))
	}
	for i, l := range p.Lines {
		colour := colours[i%len(colours)]
		p.drawLine(&b, l, colour, x, y)
		at := marginTop + 10 + i*legendStep
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="12" height="12" fill="%s"/>`, plotWidth-marginRight+14, at-10, colour)
		fmt.Fprintf(&b, `<text x="%d" y="%d">%s</text>`+"\n", plotWidth-marginRight+32, at, html.EscapeString(l.Name))
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func (p Plot) drawLine(b *strings.Builder, l Line, colour string, x, y func(float64) float64) {
	if p.Points {
		for i := range l.X {
			fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="%d" fill="%s" fill-opacity="0.8"/>`, x(l.X[i]), y(l.Y[i]), pointRadius, colour)
		}
		return
	}
	fmt.Fprintf(b, `<polyline fill="none" stroke="%s" stroke-width="1.6" points="`, colour)
	for i := range l.X {
		fmt.Fprintf(b, "%.1f,%.1f ", x(l.X[i]), y(l.Y[i]))
	}
	b.WriteString(`"/>` + "\n")
}

// ranges returns what the axes span; y starts at 0.
func (p Plot) ranges() (xMin, xMax, yMax float64) {
	xMin, xMax = math.Inf(1), math.Inf(-1)
	for _, l := range p.Lines {
		for i := range l.X {
			xMin, xMax, yMax = min(xMin, l.X[i]), max(xMax, l.X[i]), max(yMax, l.Y[i])
		}
	}
	if p.MarkLabel != "" && !math.IsNaN(p.Mark) {
		yMax = max(yMax, p.Mark)
	}
	if !(xMax > xMin) {
		xMin, xMax = 0, max(1, 2*max(xMax, 0))
	}
	if yMax <= 0 {
		yMax = 1
	}
	return xMin, xMax, yMax * margin
}

func tick(v float64) string {
	switch {
	case v == 0:
		return "0"
	case math.Abs(v) >= 100:
		return fmt.Sprintf("%.0f", v)
	case math.Abs(v) >= 1:
		return fmt.Sprintf("%.2g", v)
	}
	return fmt.Sprintf("%.2g", v)
}

// NamedPlot is a plot and the file it belongs in.
type NamedPlot struct {
	File string
	Plot Plot
}

// Plots makes the pictures of results: for each rules, energy against violations of all policies and days; and for each day, how many
// hosts were awake.
func Plots(results []Result) []NamedPlot {
	var plots []NamedPlot
	for _, group := range groupBy(results, func(r *Result) string { return r.Rules }) {
		plots = append(plots, NamedPlot{"tradeoff-" + group[0].Rules + ".svg", tradeOff(group)})
		for _, day := range groupBy(group, func(r *Result) string { return r.Day }) {
			plots = append(plots, NamedPlot{"hosts-" + day[0].Rules + "-" + day[0].Day + ".svg", awakeHosts(day)})
		}
	}
	return plots
}

func tradeOff(results []Result) Plot {
	p := Plot{
		Title: "Energy and its price, " + results[0].Rules + " rules: one point per day", Points: true,
		XLabel: "share of active host time with less CPU than asked for (SLATAH, %)", YLabel: "energy over the bound of what was served",
		Mark: 1, MarkLabel: "bound",
	}
	for _, group := range groupBy(results, func(r *Result) string { return r.Policy }) {
		if p := group[0].Policy; p == "npa" || p == "dvfs" {
			continue // off the scale of all others
		}
		l := Line{Name: group[0].Policy}
		for _, r := range group {
			l.X, l.Y = append(l.X, 100*r.SLATAH), append(l.Y, r.TimesServed)
		}
		p.Lines = append(p.Lines, l)
	}
	return p
}

func awakeHosts(results []Result) Plot {
	p := Plot{Title: "Hosts awake on " + results[0].Day + ", " + results[0].Rules + " rules", XLabel: "hour", YLabel: "hosts", Mark: math.NaN()}
	for _, r := range results {
		l := Line{Name: r.Policy}
		for i, at := range r.Series {
			if i > 0 || len(r.Series) == 1 { // the first moment is right after boot and dwarfs all others
				l.X, l.Y = append(l.X, at.Seconds/3600), append(l.Y, float64(at.Awake))
			}
		}
		p.Lines = append(p.Lines, l)
	}
	return p
}

// groupBy splits results by a key, groups and members in order of first appearance.
func groupBy(results []Result, key func(*Result) string) [][]Result {
	at := map[string]int{}
	var groups [][]Result
	for i := range results {
		k := key(&results[i])
		g, ok := at[k]
		if !ok {
			g = len(groups)
			at[k] = g
			groups = append(groups, nil)
		}
		groups[g] = append(groups[g], results[i])
	}
	return groups
}

// SortResults orders results by rules as AllRules lists them, then by day, then as they were.
func SortResults(results []Result) {
	place := map[string]int{}
	for i, r := range AllRules() {
		place[r.Name] = i
	}
	slices.SortStableFunc(results, func(a, b Result) int {
		return cmp.Or(cmp.Compare(place[a.Rules], place[b.Rules]), cmp.Compare(a.Day, b.Day))
	})
}
