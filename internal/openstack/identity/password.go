package identity

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// OWASP's argon2id parameters of equal strength trade memory for passes; of them this one keeps the server small: 7 MiB, 5 passes, 1 lane.
// The memory is garbage after each log-in, so it counts several times over.
const (
	hashMemoryKiB = 7 << 10
	hashPasses    = 5
	hashLanes     = 1
	hashSaltBytes = 16
	hashBytes     = 32
)

const (
	// hashesAtOnce bounds the memory (14 MiB) and CPUs that log-ins may take.
	hashesAtOnce = 2
	// hashesWaiting bounds the queue: at some 25 ms a hash, 64 waiting is a second; later ones are told to come again.
	hashesWaiting = 64
	// passwordBytesMax is Keystone's bound.
	passwordBytesMax = 4096
)

// hashGate bounds how many hashes are computed at once and how many wait.
type hashGate struct {
	slots   chan struct{} // capacity hashesAtOnce
	waiting atomic.Int32
	// dummy is a hash nobody knows the password of, for users that do not exist; made at the first need.
	dummy func() string
}

func newHashGate() *hashGate {
	g := &hashGate{slots: make(chan struct{}, hashesAtOnce)}
	g.dummy = sync.OnceValue(func() string {
		return format(make([]byte, hashSaltBytes), make([]byte, hashBytes))
	})
	return g
}

func (g *hashGate) enter(ctx context.Context) error {
	if g.waiting.Add(1) > hashesWaiting {
		g.waiting.Add(-1)
		return cloud.Errorf(cloud.KindUnavailable, "too many log-ins at once")
	}
	defer g.waiting.Add(-1)
	select {
	case g.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// hash returns the password's hash in the standard text form.
func (g *hashGate) hash(ctx context.Context, password string) (string, error) {
	if len(password) > passwordBytesMax {
		return "", cloud.Errorf(cloud.KindInvalid, "a password is at most %d bytes long, this one has %d", passwordBytesMax, len(password))
	}
	if err := g.enter(ctx); err != nil {
		return "", err
	}
	defer func() { <-g.slots }()
	return hashPassword(password), nil
}

func hashPassword(password string) string {
	salt := make([]byte, hashSaltBytes)
	_, _ = rand.Read(salt) // never fails: crypto/rand ends the process instead
	return format(salt, argon2.IDKey([]byte(password), salt, hashPasses, hashMemoryKiB, hashLanes, hashBytes))
}

func format(salt, sum []byte) string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, hashMemoryKiB, hashPasses, hashLanes,
		b64.EncodeToString(salt), b64.EncodeToString(sum))
}

// matches reports whether the password has this hash. With an empty hash it takes as long and says no.
func (g *hashGate) matches(ctx context.Context, password, hash string) (bool, error) {
	known := hash != "" && len(password) <= passwordBytesMax // no longer one was ever accepted
	if !known {
		hash, password = g.dummy(), ""
	}
	if err := g.enter(ctx); err != nil {
		return false, err
	}
	defer func() { <-g.slots }()
	same, err := checkPassword(password, hash)
	return same && known, err
}

func checkPassword(password, hash string) (bool, error) {
	parts := strings.Split(hash, "$") // "", argon2id, v=, m=,t=,p=, salt, sum
	var version, memory, passes, lanes int
	if len(parts) != 6 || parts[1] != "argon2id" {
		return false, fmt.Errorf("password hash of an unknown kind")
	}
	_, errV := fmt.Sscanf(parts[2], "v=%d", &version)
	_, errP := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &memory, &passes, &lanes)
	salt, errS := base64.RawStdEncoding.DecodeString(parts[4])
	sum, errH := base64.RawStdEncoding.DecodeString(parts[5])
	if errV != nil || errP != nil || errS != nil || errH != nil || version != argon2.Version || !saneCost(memory, passes, lanes) || len(sum) == 0 {
		return false, fmt.Errorf("password hash is damaged")
	}
	got := argon2.IDKey([]byte(password), salt, uint32(passes), uint32(memory), uint8(lanes), uint32(len(sum)))
	return subtle.ConstantTimeCompare(got, sum) == 1, nil
}

// saneCost bounds what a stored hash may make us spend.
func saneCost(memoryKiB, passes, lanes int) bool {
	return memoryKiB > 0 && memoryKiB <= 256<<10 && passes > 0 && passes <= 32 && lanes > 0 && lanes <= 16
}

const (
	// failuresFree is how many wrong passwords in a row cost nothing but their hash: a person mistypes.
	failuresFree = 5
	// lockMin doubles with each further failure up to lockMax: guessing at two a minute is hopeless, and a victim of somebody else's
	// guessing from the same address waits half a minute at most.
	lockMin = time.Second
	lockMax = 30 * time.Second
	// failuresForgotten is when a count starts anew.
	failuresForgotten = 10 * time.Minute
	// throttleMax bounds the memory: beyond it the stalest count is forgotten, which gives a guesser with many names a few more guesses each.
	throttleMax = 4096
)

// throttle counts failures per key (user and client address) and says who must wait. It reads no clock.
type throttle struct {
	mu     sync.Mutex
	counts map[string]failures
}

type failures struct {
	n    int
	last time.Time
}

func newThrottle() *throttle { return &throttle{counts: map[string]failures{}} }

// lockedFor returns how long n failures lock, from the last one on.
func lockedFor(n int) time.Duration {
	if n < failuresFree {
		return 0
	}
	if doublings := n - failuresFree; doublings < 16 {
		return min(lockMin<<doublings, lockMax)
	}
	return lockMax
}

// locked reports whether the key must wait.
func (t *throttle) locked(key string, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.counts[key]
	return now.Sub(f.last) < lockedFor(f.n)
}

// failed counts one more failure.
func (t *throttle) failed(key string, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.counts[key]
	if now.Sub(f.last) > failuresForgotten {
		f.n = 0
	}
	if _, known := t.counts[key]; !known && len(t.counts) >= throttleMax {
		t.forgetLocked(now)
	}
	t.counts[key] = failures{f.n + 1, now}
}

// forgetLocked drops what has lapsed, and if nothing has, the stalest.
func (t *throttle) forgetLocked(now time.Time) {
	stalest, at := "", now
	for key, f := range t.counts {
		if now.Sub(f.last) > failuresForgotten {
			delete(t.counts, key)
		} else if !f.last.After(at) {
			stalest, at = key, f.last
		}
	}
	if len(t.counts) >= throttleMax {
		delete(t.counts, stalest)
	}
}

// succeeded forgets the key's failures.
func (t *throttle) succeeded(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.counts, key)
}
