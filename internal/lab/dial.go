package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// dialIn connects from within the network namespace ns. A socket stays in the namespace it was made in, so only the making needs a
// thread there. The thread cannot be trusted to come back and is given up with its goroutine.
func dialIn(ctx context.Context, ns *os.File, network, addr string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	made := make(chan result, 1) // the goroutine must not wait for a caller
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			made <- result{err: fmt.Errorf("enter network namespace: %w", err)}
			return
		}
		// A literal address is dialled by this goroutine itself; a name would be resolved by others, outside. FallbackDelay < 0 keeps
		// the dialler from starting goroutines.
		d := net.Dialer{FallbackDelay: -1, Resolver: &net.Resolver{PreferGo: true}}
		conn, err := d.DialContext(ctx, network, addr)
		made <- result{conn, err}
	}()
	r := <-made
	return r.conn, r.err
}
