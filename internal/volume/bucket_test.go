package volume

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// drive makes requests of n bytes as fast as the limiter lets it until the clock passes end, and returns how many it made.
func drive(l *Limiter, now *time.Duration, end time.Duration, n int64) int64 {
	var made int64
	for *now < end {
		if wait := l.Ask(*now, n); wait > 0 {
			*now += wait
			continue
		}
		made++
	}
	return made
}

func TestALimiterGivesItsRateAndNoMoreThanItsBurstBeyond(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limits := Limits{IOPS: rapid.Int64Range(1, 100_000).Draw(t, "iops"), BytesPerSecond: rapid.Int64Range(1<<10, 1<<32).Draw(t, "bytes/s")}
		n := rapid.Int64Range(1, 4<<20).Draw(t, "request")
		var l Limiter
		l.Set(limits)
		now := time.Duration(rapid.Int64Range(0, int64(100*time.Hour)).Draw(t, "start"))
		const span = 2 * time.Second
		start := now
		made := drive(&l, &now, start+span, n)
		rate := min(float64(limits.IOPS), float64(limits.BytesPerSecond)/float64(n))
		const rounding = 1e-4 // of costs, to nanoseconds
		most := rate*(span+burst).Seconds()*(1+rounding) + 1
		least := rate*span.Seconds()*(1-rounding) - 1
		if float64(made) > most || float64(made) < least {
			t.Fatalf("%d requests in %v, want %.1f to %.1f", made, span, least, most)
		}
	})
}

func TestARequestLargerThanTheBurstPassesAndIsPaidForAfterwards(t *testing.T) {
	var l Limiter
	l.Set(Limits{BytesPerSecond: 1 << 20})
	if wait := l.Ask(0, 4<<20); wait != 0 {
		t.Fatalf("the first request waits %v", wait)
	}
	if wait := l.Ask(0, 1); wait != 4*time.Second-burst {
		t.Fatalf("the next waits %v", wait)
	}
	if wait := l.Ask(4*time.Second-burst, 1); wait != 0 {
		t.Fatalf("and then %v more", wait)
	}
}

func TestWhatIsNotLimitedNeverWaits(t *testing.T) {
	var l Limiter
	for range 1000 {
		if l.Ask(0, 1<<40) != 0 {
			t.Fatal("waited")
		}
	}
	l.Set(Limits{IOPS: 1})
	l.Ask(0, 1)
	if l.Ask(0, 1) == 0 {
		t.Fatal("a limit that was set later does not hold")
	}
	l.Set(Limits{})
	if l.Ask(0, 1) != 0 {
		t.Fatal("a limit that was lifted still holds")
	}
}

func BenchmarkAsk(b *testing.B) {
	for name, limits := range map[string]Limits{"unlimited": {}, "limited": {IOPS: 1 << 40, BytesPerSecond: 1 << 60}} {
		b.Run(name, func(b *testing.B) {
			var l Limiter
			l.Set(limits)
			for i := range b.N {
				l.Ask(time.Duration(i), 4096)
			}
		})
	}
}
