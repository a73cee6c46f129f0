package cloud

import (
	"errors"
	"fmt"
)

// Kind classes an error by what the one who meets it should do next. The edge maps kinds to HTTP with one exhaustive table.
type Kind uint8

// The kinds. Append only: the order is not stored, but dashboards count by it.
const (
	// KindInternal is any error nobody classified: the user sees "internal error", the log sees the text.
	KindInternal Kind = iota
	// KindInvalid means the caller's input is wrong; the text says what to do. Never retried.
	KindInvalid
	// KindUnauthenticated means no or a bad credential was presented.
	KindUnauthenticated
	// KindForbidden means the caller is known but may not do this.
	KindForbidden
	// KindNotFound means the subject does not exist for this caller.
	KindNotFound
	// KindConflict means the subject's state forbids the operation now.
	KindConflict
	// KindTooLarge means the request body exceeds its bound.
	KindTooLarge
	// KindQuota means the project's quota would be exceeded.
	KindQuota
	// KindNoValidHost means placement refused every host; the error's reasons are in the text and under `godwit why`.
	KindNoValidHost
	// KindUnavailable means a dependency (host, store) cannot be reached now; retrying may help.
	KindUnavailable
	// KindStale means the caller acted on an older generation than the subject has; it must re-read and decide anew.
	KindStale
	// KindUnsupported means the operation or version is not offered.
	KindUnsupported
	// KindCancelled means somebody asked for the work to stop.
	KindCancelled
	// KindExhausted means a host lacks room (memory, disk, addresses) for what was asked.
	KindExhausted

	kindCount
)

var kindNames = [kindCount]string{
	KindInternal: "internal", KindInvalid: "invalid", KindUnauthenticated: "unauthenticated", KindForbidden: "forbidden",
	KindNotFound: "not found", KindConflict: "conflict", KindTooLarge: "too large", KindQuota: "quota exceeded",
	KindNoValidHost: "no valid host", KindUnavailable: "unavailable", KindStale: "stale", KindUnsupported: "unsupported",
	KindCancelled: "cancelled", KindExhausted: "exhausted",
}

// Kinds returns every kind, for tables that must be exhaustive.
func Kinds() []Kind {
	out := make([]Kind, kindCount)
	for i := range out {
		out[i] = Kind(i)
	}
	return out
}

// String returns the kind's lower-case English name.
func (k Kind) String() string {
	if k < kindCount {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Retryable reports whether the same call may succeed later without anybody changing it.
func (k Kind) Retryable() bool { return k == KindUnavailable || k == KindInternal }

// Error is the one error type that crosses package borders. Its text reads "op: subject: cause".
type Error struct {
	Kind    Kind
	Op      string // what was being done, e.g. "prepare target"; may be empty
	Subject string // what it was done to, e.g. "server 7f3c"; may be empty
	Err     error  // the cause; may be nil
}

// Error returns "op: subject: cause", leaving out what is empty.
func (e *Error) Error() string {
	s := ""
	for _, part := range []string{e.Op, e.Subject} {
		if part != "" {
			s += part + ": "
		}
	}
	if e.Err == nil {
		return s + e.Kind.String()
	}
	return s + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// E wraps err (nil allowed) with a kind, an operation and a subject.
func E(kind Kind, op, subject string, err error) error {
	return &Error{Kind: kind, Op: op, Subject: subject, Err: err}
}

// Errorf makes an error of the given kind whose text is the formatted message alone; %w wraps as in fmt.Errorf.
func Errorf(kind Kind, format string, args ...any) error {
	return &Error{Kind: kind, Err: fmt.Errorf(format, args...)}
}

// KindOf returns the kind of the outermost Error in err's chain, KindInternal when there is none. KindOf(nil) panics: ask only about errors.
func KindOf(err error) Kind {
	if err == nil {
		panic("cloud.KindOf(nil)")
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return KindInternal
}

// Is reports whether err is non-nil and of the given kind.
func Is(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }
