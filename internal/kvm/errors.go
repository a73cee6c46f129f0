package kvm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// kinds says what libvirt's error numbers ask of the one who meets them; any other number is internal.
var kinds = map[libvirt.ErrorNumber]cloud.Kind{
	libvirt.ErrNoDomain:             cloud.KindNotFound,
	libvirt.ErrOperationInvalid:     cloud.KindConflict, // the domain's state forbids it
	libvirt.ErrDomExist:             cloud.KindConflict,
	libvirt.ErrResourceBusy:         cloud.KindConflict,
	libvirt.ErrOperationTimeout:     cloud.KindUnavailable, // another job holds the domain
	libvirt.ErrAgentUnresponsive:    cloud.KindUnavailable,
	libvirt.ErrOperationAborted:     cloud.KindCancelled,
	libvirt.ErrOperationUnsupported: cloud.KindUnsupported,
	libvirt.ErrArgumentUnsupported:  cloud.KindUnsupported,
	libvirt.ErrConfigUnsupported:    cloud.KindUnsupported,
	libvirt.ErrNoSupport:            cloud.KindUnsupported,
	libvirt.ErrCPUIncompatible:      cloud.KindUnsupported,
	libvirt.ErrXMLError:             cloud.KindInvalid,
	libvirt.ErrXMLDetail:            cloud.KindInvalid,
	libvirt.ErrInvalidArg:           cloud.KindInvalid,
	libvirt.ErrNoMemory:             cloud.KindExhausted,
}

// wrap classifies what a call returned. Its text reads "libvirt: OP: server ID: cause".
func wrap(op string, id cloud.ServerID, err error) error {
	if err == nil {
		return nil
	}
	subject := ""
	if id != "" {
		subject = fmt.Sprintf("server %s", id)
	}
	return cloud.E(kindOf(err), "libvirt: "+op, subject, err)
}

func kindOf(err error) cloud.Kind {
	var le libvirt.Error
	var known *cloud.Error
	var netErr *net.OpError
	switch {
	case errors.As(err, &known):
		return known.Kind
	case errors.As(err, &le):
		return kinds[libvirt.ErrorNumber(le.Code)]
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return cloud.KindCancelled
	case errors.Is(err, libvirt.ErrUnsupported):
		return cloud.KindUnsupported
	case errors.Is(err, libvirt.ErrInterrupted), errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.EPIPE),
		errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed), errors.As(err, &netErr):
		return cloud.KindUnavailable // the daemon went away: what the call did is unknown
	}
	return cloud.KindInternal
}

// hasCode reports whether err is libvirt's error of that number.
func hasCode(err error, code libvirt.ErrorNumber) bool {
	var le libvirt.Error
	return errors.As(err, &le) && libvirt.ErrorNumber(le.Code) == code
}
