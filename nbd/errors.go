package nbd

import (
	"errors"
	"fmt"
	"syscall"
)

// Error is an error as the protocol numbers it. A Device may return one to choose what the client sees.
type Error uint32

// The protocol's errors.
const (
	NotPermitted Error = 1
	IOError      Error = 5
	NoMemory     Error = 12
	Invalid      Error = 22
	NoSpace      Error = 28
	TooLarge     Error = 75
	NotSupported Error = 95
	Shutdown     Error = 108
)

var errorTexts = map[Error]string{
	NotPermitted: "operation not permitted", IOError: "input/output error", NoMemory: "cannot allocate memory", Invalid: "invalid argument",
	NoSpace: "no space left on device", TooLarge: "value too large", NotSupported: "operation not supported", Shutdown: "server is shutting down",
}

// Error returns the error's text.
func (e Error) Error() string {
	if text, ok := errorTexts[e]; ok {
		return text
	}
	return fmt.Sprintf("error %d", uint32(e))
}

// ErrProtocol means that the peer broke the framing of the protocol, so that nothing it sends can be trusted to mean anything.
var ErrProtocol = errors.New("nbd: protocol violation")

// ErrDisconnected means that the connection ended.
var ErrDisconnected = errors.New("nbd: disconnected")

func violation(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}

// errnos map the system's errors to the protocol's; what is missing is an input/output error.
var errnos = map[syscall.Errno]Error{
	syscall.EPERM: NotPermitted, syscall.EACCES: NotPermitted, syscall.EROFS: NotPermitted, syscall.ENOMEM: NoMemory, syscall.EINVAL: Invalid,
	syscall.ENOSPC: NoSpace, syscall.EDQUOT: NoSpace, syscall.EFBIG: NoSpace, syscall.EOVERFLOW: TooLarge, syscall.EOPNOTSUPP: NotSupported,
	syscall.ESHUTDOWN: Shutdown,
}

// code returns the number that err has on the wire.
func code(err error) Error {
	var e Error
	if errors.As(err, &e) {
		return e
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		if e, ok := errnos[errno]; ok {
			return e
		}
	}
	return IOError
}
