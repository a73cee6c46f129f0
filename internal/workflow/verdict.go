package workflow

import (
	"context"
	"errors"
	"fmt"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// ErrStopping is the cause (context.Cause) with which the contexts of steps end when the engine stops or is deposed. The run is not over: a
// step must leave things as they are, so that the next engine can go on. See Stopping.
var ErrStopping = errors.New("workflow engine is stopping")

// Stopping reports whether ctx ended because the engine stops. A step that sees its context end asks this before it calls off what it started:
// true means leave it running, false means the run was cancelled or the attempt ran out of time.
func Stopping(ctx context.Context) bool { return errors.Is(context.Cause(ctx), ErrStopping) }

// abortError marks an error after which trying again is pointless; retryError one after which it is not.
type (
	abortError struct{ err error }
	retryError struct{ err error }
)

func (e *abortError) Error() string { return e.err.Error() }
func (e *abortError) Unwrap() error { return e.err }
func (e *retryError) Error() string { return e.err.Error() }
func (e *retryError) Unwrap() error { return e.err }

// Abort marks an error as final, whatever its kind: the run unwinds at once. From a step marked PointOfNoReturn it also states that the point
// was not passed.
func Abort(err error) error { return &abortError{err} }

// Retry marks an error as passing, whatever its kind: the step is tried again within its bound.
func Retry(err error) error { return &retryError{err} }

// Without a mark the error's kind decides: cloud.KindUnavailable and KindInternal are retried, all others unwind.
func retryable(err error) bool {
	var (
		abort *abortError
		retry *retryError
	)
	switch {
	case errors.As(err, &abort):
		return false
	case errors.As(err, &retry):
		return true
	}
	return cloud.KindOf(err).Retryable()
}

func aborted(err error) bool {
	var abort *abortError
	return errors.As(err, &abort)
}

// forwardAttemptsMax bounds the attempts where the run can only go on: behind a point of no return, in an undo, in the finish hook. With the
// default back-off it is some three minutes; then a person must look.
const forwardAttemptsMax = 24

// verdict is what follows a failed attempt.
type verdict string

const (
	again  verdict = "again"   // the same once more, after a pause
	turn   verdict = "turn"    // unwind
	giveUp verdict = "give up" // stuck
)

// situation is all that judge may know about a failed attempt.
type situation struct {
	phase     Phase
	err       error
	attempts  int  // failed attempts of this step, this one included
	limit     int  // the step's own bound on attempts
	passed    bool // a step before this one was a point of no return
	marked    bool // this step is one
	cancelled bool // cancellation was accepted
}

// judge decides what follows a failed attempt. It is pure.
func judge(s situation) verdict {
	canTurn := s.phase == Doing && !s.passed && (!s.marked || aborted(s.err))
	switch {
	case canTurn && (s.cancelled || !retryable(s.err) || s.attempts >= s.limit):
		return turn
	case canTurn:
		return again
	case s.attempts >= forwardAttemptsMax:
		return giveUp
	}
	return again
}

// cancelledError is the cause of a run that was cancelled.
func cancelledError(reason string) error {
	return cloud.E(cloud.KindCancelled, "", "", fmt.Errorf("cancelled: %s", reason))
}
