package operator

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/godwit-cloud/godwit/internal/openstack"
)

// streamsMax bounds the open event streams of one server: each costs a goroutine, three feeds and at worst one pending change per record.
const streamsMax = 256

// pace is how streams wait.
type pace struct {
	// keepAlive is how long a stream may be silent: proxies commonly close a connection after a minute.
	keepAlive time.Duration
	// write is how long a client may let a write wait before it is taken for gone. It may read slowly, but not for ever.
	write time.Duration
}

var defaultPace = pace{keepAlive: 15 * time.Second, write: 20 * time.Second}

// streams counts the open event streams and ends them.
type streams struct {
	ended context.Context // is over when streams must end
	end   context.CancelFunc
	all   sync.WaitGroup

	mu   sync.Mutex
	open int // guarded by mu, as is adding to all after end
}

func newStreams() *streams {
	ctx, cancel := context.WithCancel(context.Background())
	return &streams{ended: ctx, end: cancel}
}

// enter admits one stream; it must call leave when it has ended.
func (s *streams) enter() (leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended.Err() != nil:
		return nil, openstack.Fail(http.StatusServiceUnavailable, "the server is shutting down; try again at once, another may answer")
	case s.open == streamsMax:
		return nil, &openstack.StatusError{Code: http.StatusServiceUnavailable, Header: http.Header{"Retry-After": {"10"}},
			Text: "too many event streams are open"}
	}
	s.open++
	s.all.Add(1)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.open--
		s.all.Done()
	}, nil
}

// stop ends all streams, admits no more, and returns when the last has left.
func (s *streams) stop() {
	s.mu.Lock()
	s.end()
	s.mu.Unlock()
	s.all.Wait()
}
