package hostapi

import (
	"sync"
	"time"
)

// Contact is when a host last heard from a server, and what it was told to do when that is long ago. It is safe for concurrent use.
type Contact struct {
	mu    sync.Mutex
	last  time.Time     // guarded by mu
	after time.Duration // guarded by mu
}

// Last returns when a server was last heard, by the monotonic clock (zero: never since the agent began), and after which silence the agent is to stop the servers
// that nothing else guards (0: never).
func (c *Contact) Last() (heard time.Time, fenceAfter time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last, c.after
}

func (c *Contact) heard(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = at
}

func (c *Contact) fence(after time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.after = after
}
