package kvm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

const (
	// quickCallsMax keeps the shared connection one below libvirtd's default of five requests per client, so that the subscription calls of the
	// client itself never stall.
	quickCallsMax = 4
	// The pause between attempts to reach a libvirtd that is down doubles from redialMin to redialMax: short enough that a restart is
	// seen at once, long enough that a daemon that is gone costs nothing.
	redialMin = 50 * time.Millisecond
	redialMax = time.Second
	// subscribeTimeout bounds dialling and subscribing; a libvirtd that takes longer hangs and is dialled anew.
	subscribeTimeout = 30 * time.Second
)

// Conn is a lasting connection to the libvirtd of this host. All methods may be called at any time from any goroutine; while libvirtd is
// away they wait for its return until their context ends.
type Conn struct {
	socket string
	log    *slog.Logger
	mail   *mailbox
	slots  chan struct{} // capacity quickCallsMax: one token per quick call in flight

	stop context.CancelFunc
	done chan struct{} // closed when supervise has returned

	mu      sync.Mutex
	current *link         // nil while libvirtd is away; guarded by mu
	changed chan struct{} // closed and replaced whenever current changes; guarded by mu
}

// Connect dials libvirtd's unix socket and returns once the event stream stands. While libvirtd is not there it keeps trying until ctx ends. The
// caller must Close the connection.
func Connect(ctx context.Context, socketPath string, log *slog.Logger) (*Conn, error) {
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	c := &Conn{
		socket: socketPath, log: log, mail: newMailbox(), slots: make(chan struct{}, quickCallsMax),
		stop: stop, done: make(chan struct{}), changed: make(chan struct{}),
	}
	go c.supervise(life)
	if _, err := c.session(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("libvirt at %s: %w", socketPath, err)
	}
	return c, nil
}

// Close ends the connection and waits for its goroutines. Migrations in progress go on.
func (c *Conn) Close() {
	c.stop()
	<-c.done
}

// supervise keeps one session after another until ctx ends.
func (c *Conn) supervise(ctx context.Context) {
	defer close(c.done)
	pause := redialMin
	for ctx.Err() == nil {
		began := time.Now()
		err := c.serve(ctx)
		if ctx.Err() != nil {
			return
		}
		c.bury()
		if time.Since(began) > redialMax {
			pause = redialMin
		}
		c.log.Debug("libvirt session ended", "error", err, "redial_after", pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, redialMax)
	}
}

// bury uses libvirtd's absence to take from it what it could not live with when it is back.
func (c *Conn) bury() {
	buried, err := buryUnborn(filepath.Join(filepath.Dir(c.socket), "qemu")) // libvirtd keeps its notes beside its socket
	if err != nil {
		c.log.Error("libvirtd's notes of domains it was starting", "error", err)
	}
	if len(buried) > 0 {
		c.log.Warn("libvirtd died while it started domains: they are forgotten", "notes", buried)
	}
}

// serve is one session: dial, subscribe, publish the link, and wait for its end.
func (c *Conn) serve(ctx context.Context) error {
	setup, cancel := context.WithTimeout(ctx, subscribeTimeout)
	defer cancel()
	l, err := dial(setup, c.socket)
	if err != nil {
		return err
	}
	defer l.close()
	stop := context.AfterFunc(setup, l.close)
	streams, err := c.subscribe(ctx, l)
	if err == nil && !stop() {
		err = setup.Err()
	}
	if err != nil {
		l.close()
		streams.wait()
		return fmt.Errorf("subscribe: %w", err)
	}
	c.mail.resync()
	c.publish(l)
	c.log.Info("libvirt connected", "socket", c.socket)
	select {
	case <-ctx.Done():
		err = ctx.Err()
	case <-l.gone():
		err = errors.New("connection lost")
		c.log.Warn("libvirt connection lost", "socket", c.socket)
	}
	c.publish(nil)
	l.close()
	streams.wait()
	return err
}

// publish makes l the link that quick calls use and wakes who waits for one.
func (c *Conn) publish(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current = l
	close(c.changed)
	c.changed = make(chan struct{})
}

// session returns the shared link, waiting for one until ctx ends.
func (c *Conn) session(ctx context.Context) (*link, error) {
	for {
		c.mu.Lock()
		l, changed := c.current, c.changed
		c.mu.Unlock()
		if l != nil {
			return l, nil
		}
		select {
		case <-changed:
		case <-c.done:
			return nil, cloud.Errorf(cloud.KindUnavailable, "connection closed")
		case <-ctx.Done():
			return nil, cloud.Errorf(cloud.KindUnavailable, "libvirtd is away: %w", ctx.Err())
		}
	}
}

// Connected reports whether libvirtd answers now.
func (c *Conn) Connected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current != nil
}

// quick runs f on the shared link. When ctx ends first, the call is left to finish by itself; it keeps its slot until then.
func (c *Conn) quick(ctx context.Context, op string, id cloud.ServerID, f func(*libvirt.Libvirt) error) error {
	l, err := c.session(ctx)
	if err != nil {
		return wrap(op, id, err)
	}
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return wrap(op, id, ctx.Err())
	}
	result := make(chan error, 1) // capacity 1: the call may outlive its caller
	go func() {
		defer func() { <-c.slots }()
		result <- f(l.rpc)
	}()
	select {
	case err = <-result:
	case <-ctx.Done():
		err = ctx.Err()
	}
	return wrap(op, id, err)
}

// slow runs f on a connection of its own, which is closed when ctx ends. libvirtd then goes on with what it has begun.
func (c *Conn) slow(ctx context.Context, op string, id cloud.ServerID, f func(*libvirt.Libvirt) error) error {
	if _, err := c.session(ctx); err != nil { // waits for libvirtd to be there
		return wrap(op, id, err)
	}
	l, err := dial(ctx, c.socket)
	if err != nil {
		return wrap(op, id, err)
	}
	stop := context.AfterFunc(ctx, l.close)
	defer stop()
	defer l.close()
	err = f(l.rpc)
	if ctx.Err() != nil && err != nil {
		err = ctx.Err()
	}
	return wrap(op, id, err)
}
