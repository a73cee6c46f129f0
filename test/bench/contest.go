package main

import (
	"context"
	"fmt"
	"log"
	"strings"
)

// contest compares contenders in a few figures: the frame for sections that need nothing of their own.
type contest struct {
	name       string   // of the plot's file, without its ending
	title      string   // of the plot
	figures    []figure // what a turn yields, in this order
	contenders []contestant
	// settle, if not nil, makes turns alike: it is called before each and not measured.
	settle func(ctx context.Context) error

	results [][]sample // by contender, then by figure
}

// contestant is one way of doing what is compared. The first of a contest is godwit's.
type contestant struct {
	name string
	turn func(ctx context.Context) ([]float64, error)
	// peer marks those that the aims compare with: with the best of them.
	peer bool
}

// figure is something that a turn yields.
type figure struct {
	name, unit string
	verb       string // for printing one, such as %.2f
	more       bool   // more is better
	// aim bounds the ratio of godwit's to the best peer's: from above, or from below if more is better. 0: there is no aim.
	aim float64
	// drawn figures are the groups of the plot; they should have one unit.
	drawn bool
}

// measure lets everyone have a turn in each round.
func (c *contest) measure(ctx context.Context, rounds int) error {
	c.results = make([][]sample, len(c.contenders))
	var turns []func() error
	for i, who := range c.contenders {
		c.results[i] = make([]sample, len(c.figures))
		turns = append(turns, func() error {
			if c.settle != nil {
				if err := c.settle(ctx); err != nil {
					return err
				}
			}
			got, err := who.turn(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", who.name, err)
			}
			if len(got) != len(c.figures) {
				return fmt.Errorf("%s: %d figures, want %d", who.name, len(got), len(c.figures))
			}
			for j, v := range got {
				c.results[i][j] = append(c.results[i][j], v)
			}
			log.Printf("  %s: "+c.figures[0].verb+" %s", who.name, got[0], c.figures[0].unit)
			return nil
		})
	}
	return interleave(rounds, turns)
}

// best is the peer with the best median of a figure, -1 if there is none.
func (c *contest) best(figure int) int {
	best := -1
	for i, who := range c.contenders {
		if !who.peer {
			continue
		}
		if best < 0 || c.results[i][figure].median() > c.results[best][figure].median() == c.figures[figure].more {
			best = i
		}
	}
	return best
}

// aims are those of the figures, of godwit's to the best peer's.
func (c *contest) aims() []aim {
	var out []aim
	for j, f := range c.figures {
		if best := c.best(j); f.aim != 0 && best >= 0 {
			out = append(out, aim{f.name, c.title, c.contenders[best].name, ratios(c.results[0][j], c.results[best][j]), f.aim, f.more})
		}
	}
	return out
}

// report draws the plot and returns aims, plot and table.
func (c *contest) report(b *bench) (string, error) {
	chart := barChart{title: c.title}
	for _, f := range c.figures {
		if f.drawn {
			chart.groups = append(chart.groups, f.name)
			chart.unit = f.unit + map[bool]string{true: " (more is better)", false: " (less is better)"}[f.more]
		}
	}
	for i, who := range c.contenders {
		s := barSeries{name: who.name}
		for j, f := range c.figures {
			if f.drawn {
				s.values = append(s.values, c.results[i][j])
			}
		}
		chart.series = append(chart.series, s)
	}
	if err := b.draw(c.name+".svg", chart); err != nil {
		return "", err
	}
	var text strings.Builder
	if aims := c.aims(); len(aims) > 0 {
		text.WriteString(aimsTable(aims) + "\n")
	}
	if len(chart.groups) > 0 {
		fmt.Fprintf(&text, "![%s](benchmarks/%s.svg)\n\n", c.title, c.name)
	}
	return text.String() + c.table(), nil
}

// table has a line for each contender; next to every figure that has an aim or is drawn stands godwit's ratio to it.
func (c *contest) table() string {
	t := table{head: []string{""}}
	for _, f := range c.figures {
		t.head = append(t.head, f.name+", "+f.unit)
		if f.aim != 0 || f.drawn {
			t.head = append(t.head, "godwit/it")
		}
	}
	for i, who := range c.contenders {
		cells := []string{who.name}
		for j, f := range c.figures {
			cells = append(cells, c.results[i][j].spread(f.verb))
			if f.aim != 0 || f.drawn {
				cells = append(cells, fmt.Sprintf("%.2f", ratios(c.results[0][j], c.results[i][j]).median()))
			}
		}
		t.add(cells...)
	}
	return t.String()
}
