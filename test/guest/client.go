package guest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/godwit-cloud/godwit/test/guest/disklog"
	"github.com/godwit-cloud/godwit/test/guest/wire"
)

// Ports the guest serves.
const (
	EchoPort    = wire.EchoPort
	ControlPort = wire.ControlPort
)

// Status is what a guest says of itself.
type Status = wire.Status

// Client is a connection to a guest's control port. It survives a live migration of the guest. It is for one goroutine at a time.
type Client struct {
	conn net.Conn
	in   *bufio.Reader
}

// Dialer opens a connection; Lab peers and net.Dialer have such a method.
type Dialer func(ctx context.Context, network, addr string) (net.Conn, error)

// redialPeriod is how often Connect tries a guest that does not answer yet.
const redialPeriod = 100 * time.Millisecond

// Connect dials the guest's control port at addr ("10.0.0.5:9999") until it answers or ctx ends.
func Connect(ctx context.Context, dial Dialer, addr string) (*Client, error) {
	tick := time.NewTicker(redialPeriod)
	defer tick.Stop()
	for {
		c, err := connectOnce(ctx, dial, addr)
		if err == nil {
			return c, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("guest %s: %w", addr, errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}

// connectOnce also asks once: user-mode networking accepts connections before the guest is there.
func connectOnce(ctx context.Context, dial Dialer, addr string) (*Client, error) {
	const answerMax = 2 * time.Second
	ctx, cancel := context.WithTimeout(ctx, answerMax)
	defer cancel()
	conn, err := dial(ctx, "tcp4", addr)
	if err != nil {
		return nil, err
	}
	c := &Client{conn: conn, in: bufio.NewReader(conn)}
	if _, err := c.Status(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Status asks what the guest knows of itself.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	return s, c.command(ctx, "status", &s)
}

// Verify has the guest read its whole disk log again and check it.
func (c *Client) Verify(ctx context.Context) (disklog.Report, error) {
	var r disklog.Report
	return r, c.command(ctx, "verify", &r)
}

// Sync has the guest write a log record now and returns its number once it is on the disk.
func (c *Client) Sync(ctx context.Context) (uint64, error) {
	var r struct {
		Last uint64 `json:"last"`
	}
	return r.Last, c.command(ctx, "sync", &r)
}

// Stall is the longest time between two records of the disk log since the guest was last asked, or since it began.
func (c *Client) Stall(ctx context.Context) (time.Duration, error) {
	var r struct {
		MS int64 `json:"stall_ms"`
	}
	err := c.command(ctx, "stall", &r)
	return time.Duration(r.MS) * time.Millisecond, err
}

// Dirty sets how many bytes of memory per second the guest changes; 0 stops it.
func (c *Client) Dirty(ctx context.Context, bytesPerSecond int64) error {
	return c.command(ctx, fmt.Sprintf("dirty %d", bytesPerSecond), nil)
}

// Load keeps the guest's CPU busy for a share of the time, in thousandths of one CPU; 0 stops it.
func (c *Client) Load(ctx context.Context, thousandths int) error {
	return c.command(ctx, fmt.Sprintf("load %d", thousandths), nil)
}

// Panic has the guest's kernel panic.
func (c *Client) Panic(ctx context.Context) error { return c.command(ctx, "panic", nil) }

// ArmWatchdog has the guest start its watchdog device and never feed it: it expires after about two seconds.
func (c *Client) ArmWatchdog(ctx context.Context) error { return c.command(ctx, "watchdog", nil) }

// SilenceAgent has the guest's agent answer no more.
func (c *Client) SilenceAgent(ctx context.Context) error { return c.command(ctx, "silence", nil) }

// PowerOff has the guest shut itself down.
func (c *Client) PowerOff(ctx context.Context) error { return c.command(ctx, "poweroff", nil) }

func (c *Client) command(ctx context.Context, line string, answer any) error {
	stop := context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Now()) })
	defer stop()
	if _, err := io.WriteString(c.conn, line+"\n"); err != nil {
		return fmt.Errorf("guest: %s: %w", line, err)
	}
	raw, err := c.in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("guest: %s: %w", line, err)
	}
	var failure struct {
		Error string `json:"error"`
	}
	if err := json.Unmarshal(raw, &failure); err != nil {
		return fmt.Errorf("guest: %s: %w", line, err)
	}
	if failure.Error != "" {
		return fmt.Errorf("guest: %s: %s", line, failure.Error)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(raw, answer)
}
