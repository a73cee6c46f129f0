package pingtrace

import (
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const ms = int64(time.Millisecond)

var spec = Spec{Target: netip.MustParseAddr("192.0.2.1"), Interval: time.Millisecond}

// steady makes n requests a millisecond apart, each answered after rtt.
func steady(n int, rtt int64) []sample {
	out := make([]sample, n)
	for i := range out {
		sent := 1 + int64(i)*ms
		out[i] = sample{sent: sent, received: sent + rtt}
	}
	return out
}

func TestBlackoutIsTheLongestTimeBetweenAnswers(t *testing.T) {
	s := steady(1000, ms/2)
	for i := 400; i < 450; i++ {
		s[i].received = 0
	}
	rep := analyse(spec, s, 1+1000*ms)
	if rep.Blackout != 51*time.Millisecond || rep.Lost != 50 || rep.Received != 950 {
		t.Errorf("50 requests lost in a row: %+v", rep)
	}
	if want := time.Unix(0, s[399].received); !rep.BlackoutFrom.Equal(want) {
		t.Errorf("blackout from %v, want %v", rep.BlackoutFrom, want)
	}
}

func TestHeldBackAnswersAreABlackoutWithoutLoss(t *testing.T) {
	s := steady(1000, ms/2)
	for i := 400; i < 450; i++ {
		s[i].received = s[450].received // all at once, late
	}
	rep := analyse(spec, s, 1+1000*ms)
	if rep.Blackout != 51*time.Millisecond || rep.Lost != 0 {
		t.Errorf("50 answers held back: %+v", rep)
	}
}

func TestSilenceUntilTheEndCounts(t *testing.T) {
	s := steady(1000, ms/2)
	for i := 700; i < 1000; i++ {
		s[i].received = 0
	}
	rep := analyse(spec, s, 1+1000*ms)
	if rep.Blackout < 300*time.Millisecond {
		t.Errorf("300 ms of silence at the end: %+v", rep)
	}
	if rep.Lost >= 300 {
		t.Errorf("the last moments' requests are called lost: %+v", rep)
	}
	for i := range s {
		s[i].received = 0
	}
	if rep := analyse(spec, s, 1+1000*ms); rep.Blackout != time.Second || rep.Received != 0 {
		t.Errorf("no answer at all: %+v", rep)
	}
}

func TestBlackoutNeverExceedsTheTraceNorHidesAGap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 200).Draw(t, "requests")
		s := steady(n, rapid.Int64Range(0, 20*ms).Draw(t, "rtt"))
		for i := range s {
			if rapid.Bool().Draw(t, "lost") {
				s[i].received = 0
			}
		}
		end := s[n-1].sent + 30*ms
		rep := analyse(spec, s, end)
		if rep.Blackout <= 0 || rep.Blackout > time.Duration(end-s[0].sent) {
			t.Fatalf("blackout %v of a trace of %v", rep.Blackout, time.Duration(end-s[0].sent))
		}
		run := 0
		for _, x := range s {
			if run++; x.received != 0 {
				run = 0
			}
			if run > 0 && rep.Received > 0 && x.sent > s[0].received && s[0].received != 0 && rep.Blackout < time.Duration(run-1)*time.Millisecond {
				t.Fatalf("%d requests in a row lost, blackout only %v", run, rep.Blackout)
			}
		}
	})
}

func TestChecksumOfAPacketWithItsChecksumIsZero(t *testing.T) {
	tr := &trace{id: 0x1234}
	p := make([]byte, packetBytes)
	for n := range uint64(70000) {
		tr.request(p, n)
		if got := checksum(p); got != 0 {
			t.Fatalf("request %d: checksum over all is %#x", n, got)
		}
	}
}
