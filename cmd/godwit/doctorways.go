package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/operator"
)

const (
	// checkupOld is the age from which on a checkup says nothing of now: they come once a minute.
	checkupOld = 5 * time.Minute
	// skewWarning is a difference of clocks that people notice in logs, skewProblem one that makes certificates and tokens look expired or not yet good.
	skewWarning = 500 * time.Millisecond
	skewProblem = 30 * time.Second
	// certificateWarning is how long before its end a certificate that was not renewed shows that something is wrong: agents renew at two thirds of its life.
	certificateWarning = 14 * 24 * time.Hour
)

// checked are the hosts that were looked at lately; the others are noted.
func (d *diagnosis) checked(up []operator.Host) []operator.Host {
	return slices.DeleteFunc(slices.Clone(up), func(h operator.Host) bool { return h.Checkup == nil || d.now.Sub(h.Checkup.At) > checkupOld })
}

// clocks compares every host's clock with every other's. Each was compared with the leader's, with a margin.
func (d *diagnosis) clocks(up []operator.Host) {
	all := d.checked(up)
	for _, h := range up {
		if !slices.ContainsFunc(all, func(one operator.Host) bool { return one.Name == h.Name }) {
			d.note(levelWarning, string(h.Name), "its clock, certificates and ways to others were not looked at in the last %s", checkupOld)
		}
	}
	var sure, most time.Duration // the greatest difference that is certain, and that is possible
	pair := ""
	for i := range all {
		for j := range i {
			one, two := all[i].Checkup, all[j].Checkup
			apart, margin := (one.ClockAhead - two.ClockAhead).Abs(), one.ClockMargin+two.ClockMargin
			most = max(most, apart+margin)
			if apart-margin > sure {
				sure, pair = apart-margin, string(two.Host)+", "+string(one.Host)
			}
		}
	}
	switch {
	case len(all) < 2:
	case sure >= skewProblem:
		d.note(levelProblem, pair, "clocks are at least %s apart: certificates and tokens of one look expired, or not yet good, to the other", about(sure))
	case sure >= skewWarning:
		d.note(levelWarning, pair, "clocks are at least %s apart: have them set by NTP or PTP", about(sure))
	default:
		d.note(levelOK, "clocks", "no two are more than %s apart", about(most))
	}
}

func about(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

// certificates judges what libvirt and QEMU read.
func (d *diagnosis) certificates(up []operator.Host) {
	before, earliest := len(d.findings), time.Time{}
	all := d.checked(up)
	for _, h := range all {
		c := h.Checkup
		left := c.CertificateEnd.Sub(d.now)
		switch {
		case c.CertificateError != "":
			d.note(levelProblem, string(h.Name), "libvirt's certificates: %s", c.CertificateError)
		case left < 0:
			d.note(levelProblem, string(h.Name), "libvirt's certificates ended on %s", c.CertificateEnd.Format(time.DateOnly))
		case left < certificateWarning:
			d.note(levelWarning, string(h.Name), "libvirt's certificates end on %s and were not renewed: look at the agent's log", c.CertificateEnd.Format(time.DateOnly))
		}
		if earliest.IsZero() || c.CertificateEnd.Before(earliest) {
			earliest = c.CertificateEnd
		}
	}
	if len(all) > 0 && len(d.findings) == before {
		d.note(levelOK, "certificates", "good on %d hosts, the first until %s", len(all), earliest.Format(time.DateOnly))
	}
}

// ways says which ways from host to host are closed.
func (d *diagnosis) ways(up []operator.Host) {
	before, pairs := len(d.findings), 0
	all := d.checked(up)
	for _, h := range all {
		pairs += len(h.Checkup.Looked)
		closed := map[cloud.HostName][]string{}
		for _, w := range h.Checkup.Closed {
			if slices.ContainsFunc(up, func(other operator.Host) bool { return other.Name == w.To }) {
				closed[w.To] = append(closed[w.To], fmt.Sprintf("%s (%s)", wayNames[w.Way], w.Error))
			}
		}
		for _, other := range up {
			if list := closed[other.Name]; list != nil {
				d.note(levelProblem, string(h.Name)+" to "+string(other.Name), "closed: %s", strings.Join(list, "; "))
			}
		}
	}
	if pairs > 0 && len(d.findings) == before {
		d.note(levelOK, "ways", "%d of %d are open: libvirt with TLS, migration ports, the agents' port", pairs, len(up)*(len(up)-1))
	}
}

// wayNames are what people call ways.
var wayNames = map[string]string{cloud.WayLibvirt: "libvirt with TLS", cloud.WayMigration: "QEMU's migration ports", cloud.WayPeer: "the agent's port for disks and images"}
