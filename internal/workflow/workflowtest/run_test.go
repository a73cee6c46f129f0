package workflowtest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/workflow"
	"github.com/godwit-cloud/godwit/internal/workflow/workflowtest"
)

type move struct{ From, To string }

// depot is the world of a toy flow that moves one crate: places hold it, a ledger counts it.
type depot struct {
	reserved map[string]bool
	crates   map[string]int
	ledger   []string
	fault    string // which promise the flow breaks
}

func (d *depot) definition() *workflow.Definition[move] {
	return workflow.Define("move",
		workflow.Step("reserve", d.reserve, d.release),
		workflow.Step("copy", d.copy, d.discard),
		workflow.Step("switch", d.erase, nil, workflow.NoUndo("the source is gone"), workflow.PointOfNoReturn()),
		workflow.Step("tidy", d.release, nil, workflow.NoUndo("idempotent")),
	).Finish(func(_ context.Context, r *workflow.Run[move], o workflow.Outcome) error {
		entry := fmt.Sprint(r.ID, " ", o.Phase)
		if len(d.ledger) == 0 || d.ledger[len(d.ledger)-1] != entry {
			d.ledger = append(d.ledger, entry)
		}
		return nil
	})
}

func (d *depot) reserve(_ context.Context, r *workflow.Run[move]) error {
	if d.reserved[r.Args.To] && d.fault == "do twice" {
		return cloud.Errorf(cloud.KindConflict, "taken")
	}
	d.reserved[r.Args.To] = true
	return nil
}

func (d *depot) release(_ context.Context, r *workflow.Run[move]) error {
	if !d.reserved[r.Args.To] && d.fault == "undo twice" {
		return errors.New("not reserved")
	}
	delete(d.reserved, r.Args.To)
	return nil
}

func (d *depot) copy(_ context.Context, r *workflow.Run[move]) error {
	if d.fault == "crash" {
		d.crates[r.Args.To]++ // counts instead of stating
		return nil
	}
	d.crates[r.Args.To] = 1
	return nil
}

func (d *depot) discard(_ context.Context, r *workflow.Run[move]) error {
	if d.fault != "leftover" {
		delete(d.crates, r.Args.To)
	}
	return nil
}

func (d *depot) erase(_ context.Context, r *workflow.Run[move]) error {
	delete(d.crates, r.Args.From)
	return nil
}

// holds checks that the only crate is at place, nothing is reserved, and the run ended once.
func (d *depot) holds(place string) error {
	if len(d.crates) != 1 || d.crates[place] != 1 || len(d.reserved) != 0 || len(d.ledger) != 1 {
		return fmt.Errorf("crates %v, reserved %v, ledger %q", d.crates, d.reserved, d.ledger)
	}
	return nil
}

func fresh(fault string) func(*testing.T) workflowtest.Case[move] {
	return func(*testing.T) workflowtest.Case[move] {
		d := &depot{reserved: map[string]bool{}, crates: map[string]int{"a": 1}, fault: fault}
		return workflowtest.Case[move]{
			Definition: d.definition(),
			Args:       move{"a", "b"},
			Clean:      func() error { return d.holds("a") },
			Done:       func() error { return d.holds("b") },
		}
	}
}

func TestAFlowThatKeepsItsPromisesPasses(t *testing.T) { workflowtest.Run(t, fresh("")) }

// faultVariable makes TestBrokenFlow break a promise, in a process of its own because it must fail.
const faultVariable = "WORKFLOWTEST_FAULT"

func TestBrokenFlow(t *testing.T) {
	workflowtest.Run(t, fresh(os.Getenv(faultVariable)))
}

func TestEachBrokenPromiseIsFound(t *testing.T) {
	for fault, found := range map[string]string{
		"do twice":   "TestBrokenFlow/each_step_done_twice",
		"undo twice": "TestBrokenFlow/each_undo_done_twice",
		"crash":      "TestBrokenFlow/crash_after_doing_copy",
		"leftover":   "TestBrokenFlow/failure_after_copy",
	} {
		t.Run(fault, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestBrokenFlow$")
			cmd.Env = append(os.Environ(), faultVariable+"="+fault)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL: "+found+" ") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
