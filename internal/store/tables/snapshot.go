package tables

import (
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
)

// Snapshot gathers what deciders may know from one view. The values are shared with the store: nobody may change them.
func Snapshot(v store.View, now time.Time) cloud.Snapshot {
	snap := cloud.Snapshot{Revision: v.Revision(), Now: now, Groups: map[cloud.GroupID]cloud.ServerGroup{}}
	for _, a := range store.All(v, Aggregates) {
		snap.Aggregates = append(snap.Aggregates, *a)
	}
	for _, g := range store.All(v, ServerGroups) {
		snap.Groups[g.ID] = *g
	}
	zones := zonesOf(snap.Aggregates)
	for _, h := range store.All(v, Hosts) { // in key order, which is name order
		view := cloud.HostView{Host: *h, Zone: zoneOf(h, zones)}
		if r, ok := store.Lookup(v, HostReports, h.Name); ok {
			view.Report = *r
		}
		if u, ok := store.Lookup(v, Usages, h.Name); ok {
			view.Usage = *u
		}
		view.Up = Connected(v, h.Name) && !h.ForcedDown && takes(store.Lookup(v, HostPowers, h.Name))
		inSegment(v, &view)
		snap.Hosts = append(snap.Hosts, view)
	}
	return snap
}

// zonesOf returns the availability zone that aggregates give to hosts.
func zonesOf(aggregates []cloud.Aggregate) map[cloud.HostName]string {
	zones := map[cloud.HostName]string{}
	for _, a := range aggregates {
		if zone := a.Metadata[cloud.MetaZone]; zone != "" {
			for _, h := range a.Hosts {
				zones[h] = zone
			}
		}
	}
	return zones
}

func zoneOf(h *cloud.Host, zones map[cloud.HostName]string) string {
	switch {
	case zones[h.Name] != "":
		return zones[h.Name]
	case h.Zone != "":
		return h.Zone
	}
	return cloud.DefaultZone
}

// HostViewIn is Snapshot's view of one host as a transaction sees it, so that a claim commits only if nothing it was judged by has changed. The
// report is left out of the commit's conditions: it changes every few seconds, and its figures are physical sizes that claims do not touch.
func HostViewIn(tx *store.Tx, s store.Reader, name cloud.HostName) (cloud.HostView, error) {
	host, err := store.Get(tx, Hosts, name)
	if err != nil {
		return cloud.HostView{}, err
	}
	view := cloud.HostView{Host: host}
	usage, err := store.Get(tx, Usages, name)
	if err != nil && !cloud.Is(err, cloud.KindNotFound) {
		return cloud.HostView{}, err
	}
	view.Usage = usage
	session, err := store.Peek(tx, HostSessions, name)
	if err != nil {
		return cloud.HostView{}, err
	}
	power, err := store.Peek(tx, HostPowers, name)
	if err != nil {
		return cloud.HostView{}, err
	}
	verdict, err := store.Peek(tx, HostVerdicts, name)
	if err != nil {
		return cloud.HostView{}, err
	}
	view.Up = session != nil && !host.ForcedDown && !dead(verdict) && takes(power, power != nil)
	if r, ok := store.Lookup(s, HostReports, name); ok {
		view.Report = *r
	}
	view.Zone = zoneOf(&host, zonesOf(aggregatesOf(s, name)))
	member, err := store.Peek(tx, SegmentHosts, name)
	if member != nil {
		view.Segment, view.Reserved = member.Segment, member.Reserved
	}
	return view, err
}

// inSegment notes what segment the host is in.
func inSegment(v store.Reader, view *cloud.HostView) {
	member, ok := store.Lookup(v, SegmentHosts, view.Host.Name)
	if !ok {
		return
	}
	view.Segment, view.Reserved = member.Segment, member.Reserved
	if segment, ok := store.Lookup(v, Segments, member.Segment); ok {
		view.RecoveryMethod = segment.RecoveryMethod
	}
}

// Zone returns the availability zone of a host, cloud.DefaultZone for one that is unknown.
func Zone(r store.Reader, name cloud.HostName) string {
	host, ok := store.Lookup(r, Hosts, name)
	if !ok {
		return cloud.DefaultZone
	}
	return zoneOf(host, zonesOf(aggregatesOf(r, name)))
}

func aggregatesOf(r store.Reader, name cloud.HostName) []cloud.Aggregate {
	var out []cloud.Aggregate
	for _, a := range store.By(r, Aggregates, ByHost, name) {
		out = append(out, *a)
	}
	return out
}

// takes reports whether a host's power, if there is a record of it, lets servers come: a host that falls asleep is connected for a moment more.
func takes(p *cloud.HostPower, known bool) bool { return !known || p.Takes() }

// Connected reports whether a host's agent is connected, by its session and by the leader's verdict, which knows of a power cut seconds before the session ends.
func Connected(r store.Reader, name cloud.HostName) bool {
	_, session := store.Lookup(r, HostSessions, name)
	verdict, _ := store.Lookup(r, HostVerdicts, name)
	return session && !dead(verdict)
}

// dead reports whether the verdict is that of package liveness: the words there are part of the record's meaning.
func dead(v *cloud.HostVerdict) bool { return v != nil && v.Verdict == "dead" }
