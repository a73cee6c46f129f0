package store

import (
	"context"
	"errors"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// ErrLeaseLost is in the chain of errors met by writes that name a lease which has ended.
var ErrLeaseLost = errors.New("lease lost")

// A Lease bounds the life of records put with PutLease: they vanish when nobody has renewed the lease for its time to live. This process
// renews it until Release, Close of the store, or loss.
type Lease struct {
	id     clientv3.LeaseID
	client *clientv3.Client
	stop   context.CancelFunc
	lost   chan struct{}
}

// Lease grants a lease and keeps it alive until it is released. ttl is rounded up to whole seconds; etcd raises it to at least about 2 s.
func (s *Store) Lease(ctx context.Context, ttl time.Duration) (*Lease, error) {
	grant, err := s.client.Grant(ctx, seconds(ttl))
	if err != nil {
		return nil, classify("grant lease", err)
	}
	alive, stop := context.WithCancel(context.Background())
	beats, err := s.client.KeepAlive(alive, grant.ID)
	if err != nil {
		stop()
		return nil, classify("keep lease", err)
	}
	l := &Lease{id: grant.ID, client: s.client, stop: stop, lost: make(chan struct{})}
	go func() { // ends when the lease does, at the latest with the client
		defer close(l.lost)
		for range beats {
		}
	}()
	return l, nil
}

func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// Lost is closed when the lease is no longer renewed: it expired, was revoked or released, or the store was closed. Records bound to it may
// exist for up to one time to live after that.
func (l *Lease) Lost() <-chan struct{} { return l.lost }

// Release ends the lease and removes its records now.
func (l *Lease) Release(ctx context.Context) error {
	l.stop()
	<-l.lost
	if _, err := l.client.Revoke(ctx, l.id); err != nil {
		return classify("release lease", err)
	}
	return nil
}
