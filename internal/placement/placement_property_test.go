package placement_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/placement"
)

// TestNoSequenceOfBootsMovesAndDeletesBreaksAPromise drives a random fleet the way control does, always taking what Rank allows, and checks after
// every step what operators were promised: no host is promised more than policy allows, and no hard group rule is broken.
func TestNoSequenceOfBootsMovesAndDeletesBreaksAPromise(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		placed := map[cloud.ServerID]placement.Request{}
		moving := map[cloud.ServerID]bool{}
		t.Repeat(map[string]func(*rapid.T){
			"boot": func(t *rapid.T) {
				r := w.drawRequest(t)
				if chosen := w.choose(t, r); chosen != "" {
					w.take(r, chosen, "")
					placed[r.Server] = r
				}
			},
			"move": func(t *rapid.T) {
				id := w.someServer(t, placed)
				if id == "" || moving[id] {
					t.Skip("none to move")
				}
				r := placed[id]
				r.Purpose, r.SourceHost, r.ForcedHost = placement.PurposeMigrate, w.where[id][0], ""
				r.Kind = rapid.SampledFrom([]cloud.MigrationKind{"", cloud.MigrateAuto, cloud.MigrateBlock, cloud.MigrateShared}).Draw(t, "kind")
				if chosen := w.choose(t, r); chosen != "" {
					w.take(r, chosen, "m")
					moving[id] = true
				}
			},
			"finish a move": func(t *rapid.T) {
				id := w.someServer(t, placed)
				if id == "" || !moving[id] {
					t.Skip("none moving")
				}
				loser := rapid.IntRange(0, 1).Draw(t, "loser")
				w.release(id, placed[id].Group, w.where[id][loser])
				placement.Settle(&w.view(w.where[id][0]).Usage, id)
				delete(moving, id)
			},
			"delete": func(t *rapid.T) {
				id := w.someServer(t, placed)
				if id == "" {
					t.Skip("none to delete")
				}
				for _, h := range slices.Clone(w.where[id]) {
					w.release(id, placed[id].Group, h)
				}
				delete(placed, id)
				delete(moving, id)
			},
			"": w.checkPromises,
		})
	})
}

// choose ranks and, when a host fits, confirms it by Recheck, as the claiming transaction does.
func (w *world) choose(t *rapid.T, r placement.Request) cloud.HostName {
	verdicts := placement.Rank(w.policy, w.snap, r)
	w.checkVerdicts(t, r, verdicts)
	if !verdicts[0].Fits {
		return ""
	}
	var group *cloud.ServerGroup
	if r.Group != "" {
		g := w.snap.Groups[r.Group]
		group = &g
	}
	if reasons := placement.Recheck(w.policy, *w.view(verdicts[0].Host), group, r); len(reasons) > 0 {
		t.Fatalf("rank chose %s, recheck on the same records refuses it: %v", verdicts[0].Host, reasons)
	}
	return verdicts[0].Host
}

func (w *world) someServer(t *rapid.T, placed map[cloud.ServerID]placement.Request) cloud.ServerID {
	var ids []cloud.ServerID
	for id := range placed {
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return ""
	}
	slices.Sort(ids)
	return rapid.SampledFrom(ids).Draw(t, "server")
}

// checkVerdicts states what every ranking must satisfy.
func (w *world) checkVerdicts(t *rapid.T, r placement.Request, verdicts []cloud.Verdict) {
	var got, want []cloud.HostName
	for _, v := range verdicts {
		got = append(got, v.Host)
		h := w.view(v.Host)
		if v.Fits == (len(v.Reasons) > 0) {
			t.Fatalf("%s: fits=%v with %d reasons", v.Host, v.Fits, len(v.Reasons))
		}
		if v.Fits && (h.Host.Disabled || h.Host.ForcedDown || !h.Up) {
			t.Fatalf("%s chosen although disabled=%v forced down=%v up=%v", v.Host, h.Host.Disabled, h.Host.ForcedDown, h.Up)
		}
		if v.Fits && (r.ForcedHost != "" && v.Host != r.ForcedHost || v.Host == r.SourceHost || r.Zone != "" && h.Zone != r.Zone) {
			t.Fatalf("%s chosen against the request %+v", v.Host, r)
		}
		if alone := placement.Check(w.policy, w.snap, *h, r); !slices.Equal(alone, v.Reasons) {
			t.Fatalf("%s: check says %v, rank says %v", v.Host, alone, v.Reasons)
		}
	}
	for _, h := range w.snap.Hosts {
		want = append(want, h.Host.Name)
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Fatalf("ranking has hosts %v, snapshot %v", got, want)
	}
	inOrder := slices.IsSortedFunc(verdicts, func(a, b cloud.Verdict) int {
		if a.Fits == b.Fits && a.Score == b.Score {
			return slices.Compare([]cloud.HostName{a.Host}, []cloud.HostName{b.Host})
		}
		if a.Fits && !b.Fits || a.Fits == b.Fits && a.Score > b.Score {
			return -1
		}
		return 1
	})
	if !inOrder {
		t.Fatalf("not in order: %+v", verdicts)
	}
	if again := placement.Rank(w.policy, w.snap, r); !reflect.DeepEqual(again, verdicts) {
		t.Fatal("the same question got another answer")
	}
}

func (w *world) checkPromises(t *rapid.T) {
	for i := range w.snap.Hosts {
		h := &w.snap.Hosts[i]
		total, limit := h.Usage.Total(), w.policy.Capacity(h.Report)
		if total.VCPUs > limit.VCPUs || total.RAMMiB > limit.RAMMiB || total.DiskGiB > limit.DiskGiB {
			t.Fatalf("%s is promised %+v of %+v", h.Host.Name, total, limit)
		}
	}
	for _, g := range w.snap.Groups {
		on := map[cloud.HostName]int{}
		for _, hosts := range g.Placed {
			for _, h := range hosts {
				on[h]++
			}
		}
		switch g.Policy {
		case cloud.PolicyAffinity:
			if len(g.Placed) > 1 && len(on) > 1 {
				t.Fatalf("affinity group is on several hosts: %v", g.Placed)
			}
		case cloud.PolicyAntiAffinity:
			for h, n := range on {
				if n > max(1, g.MaxPerHost) {
					t.Fatalf("%d members of the anti-affinity group on %s, at most %d", n, h, max(1, g.MaxPerHost))
				}
			}
		case cloud.PolicySoftAffinity, cloud.PolicySoftAntiAffinity:
		}
		for id, hosts := range g.Placed {
			if !slices.Equal(hosts, w.where[id]) {
				t.Fatalf("group says %s is on %v, usage on %v", id, hosts, w.where[id])
			}
		}
	}
}

func TestClaimAndReleaseLeaveSharedRecordsUntouched(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		usage := cloud.Usage{Host: "h", Claims: map[string]cloud.Claim{"other": {Server: "other", Resources: cloud.Resources{VCPUs: 1}}}}
		group := cloud.ServerGroup{Placed: map[cloud.ServerID][]cloud.HostName{"other": {"h"}, "s": {"g"}}}
		sharedUsage, sharedGroup := usage, group
		claim := cloud.Claim{Server: "s", Migration: "m", Resources: cloud.Resources{VCPUs: rapid.IntRange(1, 9).Draw(t, "vcpus")}}
		placement.Claim(&usage, &group, claim)
		placement.Claim(&usage, &group, claim)
		if len(sharedUsage.Claims) != 1 || len(sharedGroup.Placed["s"]) != 1 {
			t.Fatalf("claiming wrote into shared maps: %v %v", sharedUsage.Claims, sharedGroup.Placed)
		}
		if usage.Claims["s"] != claim || !slices.Equal(group.Placed["s"], []cloud.HostName{"g", "h"}) {
			t.Fatalf("claim is not there once: %v %v", usage.Claims, group.Placed)
		}
		if !placement.Settle(&usage, "s") || usage.Claims["s"].Migration != "" || placement.Settle(&usage, "s") {
			t.Fatalf("settling: %v", usage.Claims)
		}
		if !placement.Release(&usage, &group, "s") || placement.Release(&usage, &group, "s") {
			t.Fatal("the first release changes something, the second nothing")
		}
		if !reflect.DeepEqual(usage, sharedUsage) || !reflect.DeepEqual(group, sharedGroup) {
			t.Fatalf("release did not undo claim: %v %v", usage, group)
		}
	})
}

func TestVersionsAreOrderedTotally(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		version := rapid.StringMatching(`[0-9]{0,3}(\.[0-9]{1,3}){0,2}(-[a-z]+)?`)
		a, b, c := version.Draw(t, "a"), version.Draw(t, "b"), version.Draw(t, "c")
		if placement.CompareVersions(a, b) != -placement.CompareVersions(b, a) || placement.CompareVersions(a, a) != 0 {
			t.Fatalf("%q and %q are not ordered", a, b)
		}
		if placement.CompareVersions(a, b) <= 0 && placement.CompareVersions(b, c) <= 0 && placement.CompareVersions(a, c) > 0 {
			t.Fatalf("%q <= %q <= %q but not the first to the last", a, b, c)
		}
	})
}

func FuzzCompareVersions(f *testing.F) {
	f.Add("7.2.0", "10.0.2")
	f.Add("", "99999999999999999999999")
	f.Fuzz(func(t *testing.T, a, b string) {
		if placement.CompareVersions(a, b) != -placement.CompareVersions(b, a) {
			t.Errorf("%q and %q are not ordered", a, b)
		}
	})
}

func FuzzTextualOperatorsAreComplementary(f *testing.F) {
	f.Add("ssd", "ssd")
	f.Add("4", "<or> 3")
	f.Fuzz(func(t *testing.T, value, arg string) {
		if len(strings.Fields(arg)) == 0 {
			return
		}
		if placement.MatchSpec(value, "s== "+arg) == placement.MatchSpec(value, "s!= "+arg) {
			t.Errorf("%q is equal and unequal to %q", value, arg)
		}
		if placement.MatchSpec(value, "s< "+arg) == placement.MatchSpec(value, "s>= "+arg) {
			t.Errorf("%q is below and not below %q", value, arg)
		}
	})
}
