package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"slices"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/test/guest"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

// The aims of the section: from a power cut to the first guest running elsewhere.
const (
	recoverStorageAim = 5 * time.Second
	recoverPowerAim   = 10 * time.Second
	recoverTurnMax    = 5 * time.Minute
)

// lostHost loses its power; the tester's peer is on the last host, so it is another one.
const lostHost = "compute-2"

// measureRecovery cuts a host's power again and again and times when its guest runs elsewhere: with the storage's fence alone, and with a guest that needs
// the BMC's word.
func measureRecovery(ctx context.Context, b *bench) (string, error) {
	s, err := b.labWith(ctx, "bmc", func(o *labcloud.Options) { o.BMC = true })
	if err != nil {
		return "", err
	}
	took := map[string][]time.Duration{}
	var lost int
	for round := range b.rounds {
		for _, way := range []string{"storage", "ipmi"} {
			d, whole, err := s.loseHost(ctx, way)
			if err != nil {
				return "", fmt.Errorf("round %d, %s: %w", round, way, err)
			}
			if !whole {
				lost++
			}
			took[way] = append(took[way], d)
			log.Printf("  round %d, %s: running elsewhere after %.2f s", round+1, way, d.Seconds())
		}
	}
	var out strings.Builder
	fmt.Fprintf(&out, "A compute host of the lab loses its power; nobody does anything. Time from the cut until the guest's CPUs run on another host (its record says so), %d rounds.\n\n", b.rounds)
	out.WriteString("| fence | median | worst | aim |\n|---|---|---|---|\n")
	for _, row := range []struct {
		way, title string
		aim        time.Duration
	}{{"storage", "storage: the volume refuses the old copy", recoverStorageAim}, {"ipmi", "IPMI: the BMC says that the host is off; the disk is made anew", recoverPowerAim}} {
		all := slices.Sorted(slices.Values(took[row.way]))
		fmt.Fprintf(&out, "| %s | %.2f s | %.2f s | %.0f s |\n", row.title, all[len(all)/2].Seconds(), all[len(all)-1].Seconds(), row.aim.Seconds())
	}
	fmt.Fprintf(&out, "\nDisk logs of the volume's guest that lost an acknowledged record: %d of %d.\n", lost, b.rounds)
	return out.String(), nil
}

// loseHost is one turn. whole says that no acknowledged record was lost; it is always so of a disk that was made anew.
func (s *stage) loseHost(ctx context.Context, way string) (took time.Duration, whole bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, recoverTurnMax)
	defer cancel()
	orders := map[string]string{"tick": "100ms", "log": "20ms"}
	g := s.Guest("lost", lostHost, orders)
	if way == "storage" {
		if g.Volume, err = s.CreateVolume(ctx, "lost-root", s.ImageID, 1); err != nil {
			return 0, false, err
		}
		defer func() { err = errors.Join(err, s.RemoveVolume(context.WithoutCancel(ctx), g.Volume)) }()
	} else {
		g.Metadata["godwit:recovery_rebuild"] = "on"
	}
	server, err := s.Boot(ctx, g)
	if err != nil {
		return 0, false, err
	}
	defer func() { err = errors.Join(err, s.Remove(context.WithoutCancel(ctx), server.ID)) }()
	talk, err := s.Talk(ctx, server)
	if err != nil {
		return 0, false, err
	}
	last, err := talk.Sync(ctx)
	talk.Close()
	if err != nil {
		return 0, false, err
	}
	cut := time.Now()
	if err := s.Lab.PowerOff(ctx, lostHost); err != nil {
		return 0, false, err
	}
	err = labcloud.Until(ctx, "running elsewhere", func() (bool, error) {
		now, err := s.Server(ctx, server.ID)
		return err == nil && now.Host != lostHost && now.Status == "ACTIVE", err
	})
	took = time.Since(cut)
	if err != nil {
		return took, false, err
	}
	whole = true
	if way == "storage" {
		whole, err = s.kept(ctx, server.ID, last)
	}
	return took, whole, errors.Join(err, s.restoreHost(ctx))
}

// kept reports whether a guest's disk log has every record up to last.
func (s *stage) kept(ctx context.Context, id string, last uint64) (bool, error) {
	server, err := s.Server(ctx, id)
	if err != nil {
		return false, err
	}
	var talk *guest.Client
	if talk, err = s.Talk(ctx, server); err != nil {
		return false, err
	}
	defer talk.Close()
	r, err := talk.Verify(ctx)
	return err == nil && r.OK && r.Last >= last, err
}

// restoreHost turns the host on and waits until it takes guests again.
func (s *stage) restoreHost(ctx context.Context) error {
	if err := s.Lab.PowerOn(ctx, lostHost); err != nil {
		return err
	}
	return labcloud.Until(ctx, lostHost+" has returned", func() (bool, error) {
		life, err := s.Life(ctx, lostHost)
		return len(life.Recoveries) > 0 && life.Recoveries[0].Status == "returned", err
	})
}
