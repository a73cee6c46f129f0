package identity

import (
	"strings"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

func TestPasswordsBeyondTheBoundAreRefusedAndNeverMatch(t *testing.T) {
	g := newHashGate()
	long := strings.Repeat("p", passwordBytesMax+1)
	if _, err := g.hash(t.Context(), long); !cloud.Is(err, cloud.KindInvalid) {
		t.Errorf("hash of %d bytes: %v", len(long), err)
	}
	hash, err := g.hash(t.Context(), long[:passwordBytesMax])
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := g.matches(t.Context(), long, hash); ok || err != nil {
		t.Errorf("too long a password matches: %v %v", ok, err)
	}
	if ok, err := g.matches(t.Context(), long[:passwordBytesMax], hash); !ok || err != nil {
		t.Errorf("the longest password does not match itself: %v", err)
	}
}
