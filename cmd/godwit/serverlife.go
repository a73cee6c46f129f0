package main

import (
	"fmt"
	"io"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/operator"
)

// failuresShown is how many of a server's failures are printed unless all are asked for.
const failuresShown = 3

// printServerLife shows what befell a server; nothing when nothing did.
func printServerLife(w io.Writer, l operator.ServerLife) error {
	if l.Healing != nil {
		if _, err := fmt.Fprintf(w, "\nits guest: %s\n", healingText(l.Healing)); err != nil {
			return err
		}
	}
	for _, f := range l.Failures {
		if err := printFailure(w, f); err != nil {
			return err
		}
	}
	for _, r := range l.Recoveries {
		if _, err := fmt.Fprintf(w, "\n%s  host %s was dead: %s\n", r.Began.Local().Format(time.DateTime), r.Host, recoveryText(r)); err != nil {
			return err
		}
	}
	return nil
}

// healingText is where the last failure stands, with the attempts that are counted.
func healingText(h *cloud.Healing) string {
	restarts, moves := 0, 0
	for _, t := range h.Tries {
		if t.Elsewhere {
			moves++
		} else {
			restarts++
		}
	}
	text := fmt.Sprintf("%s, %s (restarts: %d, starts elsewhere: %d)", h.Status, h.Reason, restarts, moves)
	if !h.Next.IsZero() {
		text += ", at " + h.Next.Local().Format(time.TimeOnly)
	}
	return text
}

func printFailure(w io.Writer, f operator.ServerFailure) error {
	if _, err := fmt.Fprintf(w, "\n%s  %s on host %s: %s\n", f.At.Local().Format(time.DateTime), f.Failure, f.Host, f.Detail); err != nil {
		return err
	}
	for _, s := range f.Steps {
		if _, err := fmt.Fprintf(w, "  %s  %s\n", s.At.Local().Format(time.TimeOnly), s.Message); err != nil {
			return err
		}
	}
	return nil
}

func recoveryText(r operator.ServerRecovery) string {
	text := string(r.Outcome)
	if r.Target != "" {
		text += " on " + string(r.Target)
	}
	if !r.Ended.IsZero() {
		text += " after " + r.Ended.Sub(r.Began).Round(100*time.Millisecond).String()
	}
	if r.Reason != "" {
		text += " (" + r.Reason + ")"
	}
	return text
}
