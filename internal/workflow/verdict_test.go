package workflow

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

func TestVerdictOfAFailedAttempt(t *testing.T) {
	var (
		passing = cloud.Errorf(cloud.KindUnavailable, "host is away")
		user    = cloud.Errorf(cloud.KindNoValidHost, "no room")
		final   = fmt.Errorf("in context: %w", Abort(errors.New("never")))
	)
	for _, c := range []struct {
		name string
		s    situation
		want verdict
	}{
		{"passing error, attempts left", situation{phase: Doing, err: passing, attempts: 1, limit: 3}, again},
		{"passing error, attempts used up", situation{phase: Doing, err: passing, attempts: 3, limit: 3}, turn},
		{"unclassified error is passing", situation{phase: Doing, err: errors.New("?"), attempts: 1, limit: 3}, again},
		{"user's fault", situation{phase: Doing, err: user, attempts: 1, limit: 3}, turn},
		{"user's fault marked to be retried", situation{phase: Doing, err: Retry(user), attempts: 1, limit: 3}, again},
		{"abort", situation{phase: Doing, err: final, attempts: 1, limit: 3}, turn},
		{"cancelled", situation{phase: Doing, err: passing, attempts: 1, limit: 3, cancelled: true}, turn},
		{"user's fault in the point of no return", situation{phase: Doing, err: user, attempts: 9, limit: 3, marked: true}, again},
		{"abort in the point of no return", situation{phase: Doing, err: final, attempts: 1, limit: 3, marked: true}, turn},
		{"abort behind it", situation{phase: Doing, err: final, attempts: 9, limit: 3, passed: true}, again},
		{"bound behind it", situation{phase: Doing, err: passing, attempts: forwardAttemptsMax, limit: 3, passed: true}, giveUp},
		{"abort in an undo", situation{phase: Undoing, err: final, attempts: 1, limit: 3}, again},
		{"cancelled in an undo", situation{phase: Undoing, err: passing, attempts: 5, limit: 3, cancelled: true}, again},
		{"bound in an undo", situation{phase: Undoing, err: passing, attempts: forwardAttemptsMax, limit: 3}, giveUp},
	} {
		if got := judge(c.s); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestBackoffStaysBetweenHalfAndWholeAndWithinItsBounds(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for failures := 1; failures < 100; failures++ {
		whole := 10 * time.Second
		if failures <= 7 {
			whole = min(whole, 100*time.Millisecond<<(failures-1))
		}
		for range 50 {
			if d := backoff(failures, 100*time.Millisecond, 10*time.Second, rnd); d < whole/2 || d > whole {
				t.Fatalf("after %d failures: %s, want %s to %s", failures, d, whole/2, whole)
			}
		}
	}
}
