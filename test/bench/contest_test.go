package main

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// played is a contest of three rounds whose turns say what they are told to.
func played(t *testing.T) *contest {
	t.Helper()
	says := func(first, second float64) func(context.Context) ([]float64, error) {
		return func(context.Context) ([]float64, error) { return []float64{first, second}, nil }
	}
	settled := 0
	c := &contest{
		name: "moves", title: "Moves", settle: func(context.Context) error { settled++; return nil },
		figures: []figure{{name: "time", unit: "s", verb: "%.1f", aim: 1.15, drawn: true}, {name: "speed", unit: "MB/s", verb: "%.0f", more: true, aim: 1.5}},
		contenders: []contestant{
			{name: "godwit", turn: says(2, 300)}, {name: "slow peer", turn: says(4, 100), peer: true}, {name: "fast peer", turn: says(1, 200), peer: true},
			{name: "no peer", turn: says(0.1, 9000)},
		},
	}
	if err := c.measure(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	if settled != 12 {
		t.Errorf("settled %d times before twelve turns", settled)
	}
	return c
}

func TestAContestComparesWithTheBestPeerOfEachFigure(t *testing.T) {
	aims := played(t).aims()
	if len(aims) != 2 {
		t.Fatalf("%d aims, want 2", len(aims))
	}
	if a := aims[0]; a.than != "fast peer" || a.got.median() != 2 || a.met() {
		t.Errorf("time: %+v", a)
	}
	if a := aims[1]; a.than != "fast peer" || a.got.median() != 1.5 || !a.met() {
		t.Errorf("speed: %+v", a)
	}
}

func TestAContestReportsAimsAndEveryContender(t *testing.T) {
	got, err := played(t).report(&bench{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| time | Moves | fast peer | 2.00", "**missed**", "benchmarks/moves.svg", "| slow peer | 4.0 (4.0 to 4.0, n=3) | 0.50 | 100", "| no peer |"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
}

func TestAContestNamesTheContenderThatFailed(t *testing.T) {
	broken := errors.New("no route to host")
	c := &contest{figures: []figure{{name: "time", verb: "%.1f"}}, contenders: []contestant{
		{name: "godwit", turn: func(context.Context) ([]float64, error) { return nil, broken }},
	}}
	if err := c.measure(t.Context(), 1); !errors.Is(err, broken) || !strings.Contains(err.Error(), "godwit") {
		t.Error(err)
	}
	c.contenders[0].turn = func(context.Context) ([]float64, error) { return []float64{1, 2}, nil }
	if err := c.measure(t.Context(), 1); err == nil {
		t.Error("a turn with a figure too many counted")
	}
}
