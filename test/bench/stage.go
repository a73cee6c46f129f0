package main

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"os"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

// stage is the lab the sections share.
type stage struct {
	*labcloud.Fixture
	shape string
}

// lab brings the lab up when first asked for: three hosts for guests and a node for volumes.
func (b *bench) lab(ctx context.Context) (*stage, error) {
	return b.labWith(ctx, "plain", func(*labcloud.Options) {})
}

// labWith is lab for a section that needs another: shape names what change makes of the options. A lab of another shape is taken down first.
func (b *bench) labWith(ctx context.Context, shape string, change func(*labcloud.Options)) (*stage, error) {
	if b.stage != nil && b.stage.shape == shape {
		return b.stage, nil
	}
	if b.stage != nil {
		old := b.stage
		b.stage = nil
		if err := old.Lab.Down(ctx); err != nil {
			return nil, err
		}
	}
	progress := func(line string) { log.Print("  ", line) }
	if err := lab.Sweep(ctx); err != nil {
		return nil, err
	}
	o := labcloud.Options{Name: fmt.Sprintf("bench-%d", os.Getpid()), Storage: 1, Binary: b.binary, Tethered: true, Progress: progress}
	change(&o)
	c, err := labcloud.Up(ctx, o)
	if err != nil {
		return nil, err
	}
	b.stage = &stage{&labcloud.Fixture{Cloud: c}, shape}
	f, err := labcloud.Furnish(ctx, c, progress)
	if err != nil {
		return nil, err
	}
	b.stage.Fixture = f
	return b.stage, nil
}

func (b *bench) close() {
	if b.built != "" {
		if err := os.RemoveAll(b.built); err != nil {
			log.Print(err)
		}
	}
	if b.stage != nil {
		if err := b.stage.Lab.Down(context.Background()); err != nil {
			log.Print(err)
		}
	}
}

// moved is one measured migration by godwit.
type moved struct {
	took     time.Duration // API call to ACTIVE on the target, as a polling client sees it
	record   cloud.Migration
	blackout time.Duration
	lost     int
}

// move migrates a guest and measures everything about it. traced adds a peer that pings every millisecond, which costs CPU.
func (s *stage) move(ctx context.Context, id, ip, target string, traced bool) (moved, error) {
	var trace *lab.Trace
	if traced {
		var err error
		if trace, err = s.Peer.StartTrace(ctx, netip.MustParseAddr(ip), time.Millisecond); err != nil {
			return moved{}, err
		}
		if err := trace.AwaitReply(ctx); err != nil {
			return moved{}, err
		}
	}
	m, err := s.Move(ctx, id, target)
	if err != nil {
		return moved{}, err
	}
	if m.Status != "completed" {
		return moved{}, fmt.Errorf("migration of %s to %s ended %s", id, target, m.Status)
	}
	out := moved{took: m.Took}
	if trace != nil {
		// The guest must answer again before the trace may end: that is what it measures.
		r, err := trace.Stop()
		if err != nil {
			return moved{}, err
		}
		out.blackout, out.lost = r.Blackout, r.Lost
	}
	out.record, err = s.Record(ctx, m.UUID)
	return out, err
}
