package main

import (
	"errors"
	"fmt"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Exit codes, for scripts. 1 is any failure without a better code, 2 a wrong command line or configuration.
const (
	exitFailure = 1
	exitUsage   = 2
)

var exitCodes = map[cloud.Kind]int{
	cloud.KindInvalid:         exitUsage,
	cloud.KindUnauthenticated: 3,
	cloud.KindForbidden:       3,
	cloud.KindNotFound:        4,
	cloud.KindConflict:        5,
	cloud.KindNoValidHost:     6,
	cloud.KindQuota:           6,
	cloud.KindExhausted:       6,
	cloud.KindUnavailable:     7,
	cloud.KindCancelled:       8,
}

// usageError marks mistakes on the command line.
type usageError struct{ err error }

func (e usageError) Error() string {
	return e.err.Error() + "\nRun the command with --help to see what it takes."
}
func (e usageError) Unwrap() error { return e.err }

// exitStatus ends the process with a code after everything has been said.
type exitStatus struct{ code int }

func (e *exitStatus) Error() string { return fmt.Sprintf("exit status %d", e.code) }

func exitCode(err error) int {
	var status *exitStatus
	switch {
	case errors.As(err, &status):
		return status.code
	case errors.As(err, &usageError{}):
		return exitUsage
	}
	if code, ok := exitCodes[cloud.KindOf(err)]; ok {
		return code
	}
	return exitFailure
}
