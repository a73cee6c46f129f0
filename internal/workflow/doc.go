// Package workflow carries out durable runs: tables of named steps, each with a do and an undo, journaled so that a crash at any moment loses
// nothing and doubles nothing that matters. It knows no virtual machines.
//
//	                  every step done                finish hook
//	        Doing ------------------------------> ... ---------> Done
//	          |  \
//	  a step  |   \  behind the point of no return, bound reached
//	  failed, |    `----------------------------------------------> Stuck  (an alarm; an operator's Retry goes on)
//	cancelled |                                                ^
//	          v        every undo done               finish hook |
//	       Undoing ------------------------------> ... ---------> Failed
//	          `--------------------------------------------------'
//	                an undo failed, bound reached
//
// # One rule about effects
//
// The journal is written after each step. Between a step's effect and that write the process may die, and the next engine runs the step again.
// So every do and every undo is idempotent, and an undo also copes with a do that ran in part or never: unwinding begins with the last step
// that may have begun. A step finds out what is already true (on hosts, in the store) instead of assuming that it is first. What it must know
// before its effect, such as the name of the thing it is about to make, it writes ahead with Run.Save. Package workflowtest makes, for any
// definition, the tests that show it keeps this rule.
//
// # What an error means
//
// The error decides what follows. cloud.KindUnavailable and KindInternal are tried again, with a doubling pause, up to the step's RetryMax;
// every other kind is somebody's fault and unwinds at once, with its text kept as the run's cause. Abort and Retry override the kind. A step
// marked PointOfNoReturn changes the rules from its begin on: there is no way back, cancellation is refused, failures are retried with a much
// larger bound. The same bound holds for undos. Who reaches it ends Stuck: visible in the journal, told to the finish hook and the RunEnded
// hook, never silent. A panic counts as Abort.
//
// # Three ways for a step's context to end
//
// Cancelled by Cancel: context.Cause has cloud.KindCancelled; the step calls off what it started, the run unwinds. Out of time (TimeLimit): the
// attempt failed. Engine stopping, because the process ends or its leadership is lost: Stopping(ctx) is true; the step must leave everything as
// it is and return, and the next engine goes on from there. A live migration in progress thus survives a restart of the server.
//
// # Ownership and races
//
// An engine belongs to one leadership and assumes that it alone writes the journal; the journal in package store enforces that with the
// leadership's fencing revision, and a refused write makes the engine abandon the run, not undo it. Each run in progress is one goroutine, which
// alone changes the record; the engine waits for all of them in Stop. Start is idempotent by the run's id, which the caller chooses.
// Runs with the same key go one after another in the order of their start; at most Options.Concurrency runs are in progress.
// Cancel and the begin of the next step are ordered by a lock: an accepted cancellation always unwinds, a begun point of no return always
// refuses.
package workflow
