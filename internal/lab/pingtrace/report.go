package pingtrace

import (
	"net/netip"
	"slices"
	"time"
)

// Spec says what to trace.
type Spec struct {
	Target   netip.Addr    `json:"target"`
	Interval time.Duration `json:"interval"`
}

// Report is the outcome of a trace. Durations are nanoseconds in JSON.
type Report struct {
	Spec
	Sent     int `json:"sent"`
	Received int `json:"received"`
	// Lost requests were never answered. Those of the trace's last moments are not counted: their answers may have been on the way.
	Lost int `json:"lost"`
	// Blackout is the longest time without an answer and BlackoutFrom when it began.
	Blackout     time.Duration `json:"blackout"`
	BlackoutFrom time.Time     `json:"blackout_from,omitzero"`
	// Gaps are the longest times between answers, longest first, at most gapsMax.
	Gaps []Gap `json:"gaps,omitempty"`
	// MedianRTT and MaxRTT are over all answers.
	MedianRTT time.Duration `json:"median_rtt"`
	MaxRTT    time.Duration `json:"max_rtt"`
	// SendPause is the longest time between two requests: an upper bound of the trace's own error.
	SendPause time.Duration `json:"send_pause"`
}

// Gap is a time without answers.
type Gap struct {
	From   time.Time     `json:"from"`
	Length time.Duration `json:"length"`
}

const (
	gapsMax = 5
	// lateGrace is how long before the end of a trace an unanswered request is not yet called lost.
	lateGrace = 100 * time.Millisecond
)

// sample is one request. Times are nanoseconds since 1970; received is 0 while there is no answer.
type sample struct{ sent, received int64 }

// analyse turns samples, in the order sent, into a report. end is when the trace ended.
func analyse(spec Spec, samples []sample, end int64) Report {
	rep := Report{Spec: spec, Sent: len(samples)}
	var arrivals, rtts []int64
	for i, s := range samples {
		if i > 0 {
			rep.SendPause = max(rep.SendPause, time.Duration(s.sent-samples[i-1].sent))
		}
		switch {
		case s.received != 0:
			arrivals = append(arrivals, s.received)
			rtts = append(rtts, max(0, s.received-s.sent))
		case end-s.sent > int64(lateGrace):
			rep.Lost++
		}
	}
	rep.Received = len(arrivals)
	if len(arrivals) == 0 {
		if len(samples) > 0 {
			rep.Blackout, rep.BlackoutFrom = time.Duration(end-samples[0].sent), time.Unix(0, samples[0].sent)
		}
		return rep
	}
	slices.Sort(arrivals)
	slices.Sort(rtts)
	rep.MedianRTT, rep.MaxRTT = time.Duration(rtts[len(rtts)/2]), time.Duration(rtts[len(rtts)-1])
	rep.Gaps = longestGaps(append(arrivals, max(end, arrivals[len(arrivals)-1])))
	rep.Blackout, rep.BlackoutFrom = rep.Gaps[0].Length, rep.Gaps[0].From
	return rep
}

// longestGaps wants at least two sorted times.
func longestGaps(times []int64) []Gap {
	gaps := make([]Gap, 0, len(times)-1)
	for i := 1; i < len(times); i++ {
		gaps = append(gaps, Gap{From: time.Unix(0, times[i-1]), Length: time.Duration(times[i] - times[i-1])})
	}
	slices.SortStableFunc(gaps, func(a, b Gap) int { return int(b.Length - a.Length) })
	return gaps[:min(len(gaps), gapsMax)]
}
