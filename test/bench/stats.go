package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// sample is a series of measurements of one thing in one unit.
type sample []float64

// quantile returns the q-quantile by the nearest-rank method (R type 1), q in 0..1.
func (s sample) quantile(q float64) float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	i := int(q * float64(len(sorted)))
	return sorted[min(i, len(sorted)-1)]
}

// median is the middle value, or the mean of the two middle ones.
func (s sample) median() float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	mid := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[mid]
	}
	return (sorted[mid-1] + sorted[mid]) / 2
}

// last is the newest value, 0 when there is none.
func (s sample) last() float64 {
	if len(s) == 0 {
		return 0
	}
	return s[len(s)-1]
}

func (s sample) min() float64 { return s.quantile(0) }
func (s sample) max() float64 { return s.quantile(1) }

// spread prints "median (min to max, n)" with the given verb.
func (s sample) spread(verb string) string {
	f := func(v float64) string { return fmt.Sprintf(verb, v) }
	return fmt.Sprintf("%s (%s to %s, n=%d)", f(s.median()), f(s.min()), f(s.max()), len(s))
}

func seconds(d time.Duration) float64 { return d.Seconds() }
func millis(d time.Duration) float64  { return float64(d) / float64(time.Millisecond) }

// ratios divides pairwise; the pairs were measured next to each other, so a drift of the machine cancels out.
func ratios(a, b sample) sample {
	var out sample
	for i := range min(len(a), len(b)) {
		if b[i] > 0 {
			out = append(out, a[i]/b[i])
		}
	}
	return out
}

// table is a Markdown table.
type table struct {
	head []string
	rows [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// String renders the table with a line for each row.
func (t *table) String() string {
	var b strings.Builder
	line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	line(t.head)
	b.WriteString(strings.Repeat("|---", len(t.head)) + "|\n")
	for _, row := range t.rows {
		line(row)
	}
	return b.String()
}
