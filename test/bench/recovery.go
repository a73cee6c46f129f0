package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
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
	// recoverTurnMax bounds one power cut with all that follows; one that takes longer has failed.
	recoverTurnMax = 2 * time.Minute
	// recoverCrowd is how many guests are on the host whose loss shows what each further one takes, and recoverCrowdShare how many rounds less there are of it.
	recoverCrowd, recoverCrowdShare = 4, 3
)

// peersHost has the tester's peer, so it never loses its power; it takes no guests either, which go to and fro between the other two.
const peersHost, firstLost = "compute-3", "compute-1"

// A way is one kind of guest whose host dies again and again. It is never booted anew: each power cut moves it to the host that the next one hits.
type way struct {
	key, title string
	aim        time.Duration // for the first guest
	guests     int
	volumes    bool // they are on volumes; else their disks are made anew, which takes the BMC's word
	share      int  // one in so many rounds
}

var ways = []way{
	{"storage", "storage: the volume refuses the old copy", recoverStorageAim, 1, true, 1},
	{"ipmi", "IPMI: the BMC says that the host is off; the disk is made anew", recoverPowerAim, 1, false, 1},
	{"crowd", fmt.Sprintf("storage, first of %d guests", recoverCrowd), recoverStorageAim, recoverCrowd, true, recoverCrowdShare},
}

// drilled is what came of a way's rounds.
type drilled struct {
	first, further []time.Duration // cut to first guest elsewhere; what each further guest took more
	cuts, torn     int             // power cuts; disk logs that lost an acknowledged record
	checked        int             // disk logs that were read
	failed         error           // ended the way early
}

// measureRecovery cuts hosts' power again and again and times when their guests run elsewhere.
func measureRecovery(ctx context.Context, b *bench) (string, error) {
	s, err := b.labWith(ctx, "bmc", func(o *labcloud.Options) { o.BMC = true })
	if err != nil {
		return "", err
	}
	service := []string{"openstack", "compute", "service", "set", "--disable", peersHost, "nova-compute"}
	if _, err := s.Client(ctx, service...); err != nil {
		return "", err
	}
	defer func() {
		service[4] = "--enable"
		if _, err := s.Client(context.WithoutCancel(ctx), service...); err != nil {
			log.Print(err)
		}
	}()
	before, err := s.recoveries(ctx)
	if err != nil {
		return "", err
	}
	results := make([]drilled, len(ways))
	cuts := 0
	for i, w := range ways {
		results[i] = s.drill(ctx, w, max(1, b.rounds/w.share))
		cuts += results[i].cuts
	}
	after, err := s.recoveries(ctx)
	if err != nil {
		return "", err
	}
	return recoveryReport(results, after-before-cuts), ctx.Err()
}

// recoveryReport says what was found, and which aims were missed.
func recoveryReport(results []drilled, alarms int) string {
	var out, failures strings.Builder
	out.WriteString("A compute host of the lab loses its power; nobody does anything. Time from the cut until a guest's CPUs run on another host (its record says so).\n\n")
	out.WriteString("| fence | cuts | median | worst | aim | met |\n|---|---|---|---|---|---|\n")
	torn, checked := 0, 0
	var further []time.Duration
	for i, r := range results {
		w := ways[i]
		torn, checked, further = torn+r.torn, checked+r.checked, append(further, r.further...)
		if r.failed != nil {
			fmt.Fprintf(&failures, "\n**Failed** after %d cuts (%s): %v\n", r.cuts, w.key, r.failed)
		}
		if len(r.first) == 0 {
			continue
		}
		slices.Sort(r.first)
		worst := r.first[len(r.first)-1]
		met := "yes"
		if worst > w.aim || r.failed != nil {
			met = "**no**"
		}
		fmt.Fprintf(&out, "| %s | %d | %.2f s | %.2f s | %.0f s | %s |\n", w.title, r.cuts, r.first[len(r.first)/2].Seconds(), worst.Seconds(), w.aim.Seconds(), met)
	}
	if slices.Sort(further); len(further) > 0 {
		fmt.Fprintf(&out, "\nEach further guest of the same host took %.2f s more (median; worst %.2f s), %d at a time.\n", further[len(further)/2].Seconds(), further[len(further)-1].Seconds(), recoverCrowd)
	}
	fmt.Fprintf(&out, "\nDisk logs on volumes that lost an acknowledged record: %d of %d. Hosts recovered that had not lost their power: %d.\n%s", torn, checked, alarms, failures.String())
	return out.String()
}

// recoveries counts what was ever recovered.
func (s *stage) recoveries(ctx context.Context) (int, error) {
	var all struct {
		Recoveries []labcloud.Recovery `json:"recoveries"`
	}
	err := s.Operator(ctx, http.MethodGet, "recoveries", nil, &all)
	return len(all.Recoveries), err
}

// drill walks a way.
func (s *stage) drill(ctx context.Context, w way, rounds int) (out drilled) {
	var ids []string
	var forgets []func(context.Context) error
	defer func() {
		ctx := context.WithoutCancel(ctx)
		for _, id := range ids {
			out.failed = errors.Join(out.failed, s.Remove(ctx, id))
		}
		for _, forget := range forgets {
			out.failed = errors.Join(out.failed, forget(ctx))
		}
	}()
	for i := range w.guests {
		id, forget, err := s.victim(ctx, w, fmt.Sprintf("%s-%d", w.key, i))
		if err != nil {
			out.failed = err
			return out
		}
		ids, forgets = append(ids, id), append(forgets, forget)
	}
	host := firstLost
	for round := range rounds {
		next, err := s.cut(ctx, w, ids, host, &out)
		if err != nil {
			out.failed = fmt.Errorf("round %d: %w", round+1, err)
			return out
		}
		host = next
		log.Printf("  %s %d: first guest elsewhere after %.2f s", w.key, round+1, out.first[len(out.first)-1].Seconds())
	}
	return out
}

// victim boots one guest. forget removes its volume.
func (s *stage) victim(ctx context.Context, w way, name string) (id string, forget func(context.Context) error, err error) {
	forget = func(context.Context) error { return nil }
	g := s.Guest(name, firstLost, map[string]string{"tick": "100ms", "log": "20ms"})
	if w.volumes {
		if g.Volume, err = s.CreateVolume(ctx, name, s.ImageID, 1); err != nil {
			return "", forget, err
		}
		forget = func(ctx context.Context) error { return s.RemoveVolume(ctx, g.Volume) }
	} else {
		g.Metadata["godwit:recovery_rebuild"] = "on"
	}
	server, err := s.Boot(ctx, g)
	if err != nil {
		return "", forget, errors.Join(err, forget(ctx))
	}
	return server.ID, forget, nil
}

// cut is one power cut of the host that the guests are on. It returns where they are then.
func (s *stage) cut(ctx context.Context, w way, ids []string, host string, out *drilled) (next string, err error) {
	ctx, cancel := context.WithTimeout(ctx, recoverTurnMax)
	defer cancel()
	last := make([]uint64, len(ids))
	for i, id := range ids {
		if last[i], err = s.acknowledged(ctx, id); err != nil {
			return "", err
		}
	}
	out.cuts++
	began := time.Now()
	if err := s.Lab.PowerOff(ctx, host); err != nil {
		return "", err
	}
	var took []time.Duration
	done := map[string]bool{}
	err = labcloud.Until(ctx, "running elsewhere", func() (bool, error) {
		for _, id := range ids {
			now, err := s.Server(ctx, id)
			if err != nil {
				return false, err
			}
			if !done[id] && now.Host != host && now.Status == "ACTIVE" {
				done[id], next = true, now.Host
				took = append(took, time.Since(began))
			}
		}
		return len(done) == len(ids), nil
	})
	if err != nil {
		return "", err
	}
	out.first = append(out.first, took[0])
	if n := len(took) - 1; n > 0 {
		out.further = append(out.further, (took[n]-took[0])/time.Duration(n))
	}
	if w.volumes {
		for i, id := range ids {
			whole, err := s.kept(ctx, id, last[i])
			if err != nil {
				return "", err
			}
			if out.checked++; !whole {
				out.torn++
			}
		}
	}
	return next, s.restoreHost(ctx, host)
}

// acknowledged waits until the guest answers and returns the last record that its disk log has acknowledged.
func (s *stage) acknowledged(ctx context.Context, id string) (uint64, error) {
	server, err := s.Server(ctx, id)
	if err != nil {
		return 0, err
	}
	talk, err := s.Talk(ctx, server)
	if err != nil {
		return 0, err
	}
	defer talk.Close()
	return talk.Sync(ctx)
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
func (s *stage) restoreHost(ctx context.Context, host string) error {
	if err := s.Lab.PowerOn(ctx, host); err != nil {
		return err
	}
	return labcloud.Until(ctx, host+" has returned", func() (bool, error) {
		life, err := s.Life(ctx, host)
		return len(life.Recoveries) > 0 && life.Recoveries[0].Status == "returned", err
	})
}
