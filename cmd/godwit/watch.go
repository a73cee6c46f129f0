package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/godwit-cloud/godwit/internal/client"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/operator"
)

// Following a move survives the loss of its event stream: a server that restarts, a proxy that cuts connections, a token that expires. The move
// itself does not need anybody to watch.
const (
	reconnectPeriod = time.Second
	// reconnectMax bounds the attempts in a row: a server that is not back after two minutes will not be back soon.
	reconnectMax = 120
)

// exitInterrupted is what shells report for a command ended by Ctrl-C.
const exitInterrupted = 130

// A follower reads what becomes of one move.
type follower struct {
	client *client.Client
	server client.Server
	after  int // the move is the server's first migration with a greater number
	show   *meter
	notes  io.Writer
	pause  time.Duration

	last  operator.Migration // zero until the move was seen
	alive bool               // the stream said something since it was opened
}

// follow opens the stream before it asks for the move, so that nothing of it is missed, and reads on to the migration's end.
func (m *move) follow(ctx context.Context, c *client.Client, s client.Server) error {
	f := &follower{client: c, server: s, show: newMeter(m.w, m.access.out.json(), s.Name), notes: m.notes, pause: reconnectPeriod}
	f.show.ramBytes = int64(s.Flavor.RAM) << 20
	stream, err := c.Watch(ctx, s.ID, "")
	if err != nil {
		return err
	}
	if f.after, err = newestNumber(ctx, c, s.ID); err == nil {
		err = c.LiveMigrate(ctx, s.ID, m.host, m.block)
	}
	if err != nil {
		_ = stream.Close()
		return err
	}
	return f.toTheEnd(ctx, stream)
}

// toTheEnd reads the stream, and its successors when it breaks, until the move has ended.
func (f *follower) toTheEnd(ctx context.Context, stream *client.Stream) error {
	lost := 0
	for {
		err := f.read(stream)
		_ = stream.Close()
		f.show.end()
		if err == nil {
			return result(f.last)
		}
		if f.alive {
			lost = 0
		}
		for ; err != nil; lost++ {
			switch {
			case ctx.Err() != nil:
				fmt.Fprintf(f.notes, "godwit: no longer watching. The move goes on; `godwit migrations %s` shows it, `godwit abort %s` stops it.\n",
					f.server.Name, f.server.Name)
				return &exitStatus{exitInterrupted}
			case !cloud.Is(err, cloud.KindUnavailable) || lost == reconnectMax:
				return fmt.Errorf("watching stopped, the move goes on: %w", err)
			case lost == 0:
				fmt.Fprintf(f.notes, "godwit: %v; the move goes on, connecting again\n", err)
			}
			stream, err = f.reopen(ctx)
		}
	}
}

// reopen waits and connects again. What happened meanwhile is in the new stream, which is about the move itself if it is known by now.
func (f *follower) reopen(ctx context.Context) (*client.Stream, error) {
	wait := time.NewTimer(f.pause)
	defer wait.Stop()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-wait.C:
	}
	if f.last.ID == "" {
		m, ok, err := nextMigration(ctx, f.client, f.server.ID, f.after)
		if err != nil {
			return nil, err
		}
		if ok {
			f.last = m
		}
	}
	return f.client.Watch(ctx, f.server.ID, f.last.ID)
}

// read shows events until the move has ended (nil) or the stream has.
func (f *follower) read(stream *client.Stream) error {
	f.alive = false
	return stream.Each(func(e client.Event) error {
		f.alive = true
		switch {
		case e.Migration != nil && e.Migration.Number > f.after && (f.last.ID == "" || f.last.ID == e.Migration.ID):
			f.last = *e.Migration
			f.show.migration(f.last)
			if f.last.Status.Final() {
				return client.ErrStop
			}
		case e.Progress != nil && e.Progress.Migration == f.last.ID:
			f.show.progress(*e.Progress)
		case e.Gone != nil && e.Gone.ID == f.server.ID:
			return cloud.Errorf(cloud.KindNotFound, "server %s was deleted", f.server.Name)
		}
		return nil
	})
}

// result is nil for a completed migration. What became of any other has been shown; its code is what is left to say.
func result(m operator.Migration) error {
	if m.Status == cloud.MigrationCompleted {
		return nil
	}
	if m.Status == cloud.MigrationCancelled {
		return &exitStatus{exitCodes[cloud.KindCancelled]}
	}
	return &exitStatus{exitFailure}
}
