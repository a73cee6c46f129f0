package kvm

import (
	"context"
	"net"

	libvirt "github.com/digitalocean/go-libvirt"
)

// link is one connection to libvirtd, ready for calls.
type link struct {
	rpc  *libvirt.Libvirt
	sock net.Conn
}

// given hands the client a socket that is already open, so that we can close it when the client cannot (it would first ask a daemon
// that may hang).
type given struct{ net.Conn }

func (g given) Dial() (net.Conn, error) { return g.Conn, nil }

// dial connects and opens QEMU's driver. It gives up when ctx ends.
func dial(ctx context.Context, socket string) (*link, error) {
	var d net.Dialer
	sock, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { sock.Close() })
	rpc := libvirt.NewWithDialer(given{sock})
	err = rpc.ConnectToURI(libvirt.QEMUSystem)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		sock.Close()
		return nil, err
	}
	return &link{rpc: rpc, sock: sock}, nil
}

// close ends the connection and with it every call that waits on it.
func (l *link) close() { l.sock.Close() }

// gone is closed when the connection has ended, for whatever reason.
func (l *link) gone() <-chan struct{} { return l.rpc.Disconnected() }
