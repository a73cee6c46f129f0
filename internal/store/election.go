package store

import (
	"context"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// ErrDeposed is in the chain of errors met by transactions that require a leadership which is over.
var ErrDeposed = errors.New("no longer the leader")

// A Leadership is the proof of having been elected. It may be over at any time without the holder knowing; Lost tells soon, and Tx.Require
// makes sure.
type Leadership struct {
	name     string
	key      string
	revision int64
	session  *concurrency.Session
	election *concurrency.Election
}

// Campaign waits until this process leads the election, or ctx ends. id is what others see as the leader.
func (s *Store) Campaign(ctx context.Context, name, id string) (*Leadership, error) {
	session, err := concurrency.NewSession(s.client, concurrency.WithTTL(int(seconds(s.options.LeadershipTTL))))
	if err != nil {
		return nil, classify("campaign", err)
	}
	election := concurrency.NewElection(session, s.layout.election(name))
	campaign, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { // a candidate whose session died would wait for ever
		select {
		case <-session.Done():
			cancel(fmt.Errorf("session of candidate %s: %w", id, ErrLeaseLost))
		case <-campaign.Done():
		}
	}()
	if err := election.Campaign(campaign, id); err != nil {
		err = errors.Join(context.Cause(campaign), err)
		session.Orphan()
		return nil, errors.Join(classify("campaign", err), s.withdraw(session))
	}
	return &Leadership{name: name, key: election.Key(), revision: election.Rev(), session: session, election: election}, nil
}

// withdraw removes a candidate that gave up. A failure leaves it to the lease to expire, which delays the next leader by one time to live.
func (s *Store) withdraw(session *concurrency.Session) error {
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	if _, err := s.client.Revoke(ctx, session.Lease()); err != nil && s.client.Ctx().Err() == nil {
		return classify("withdraw", err)
	}
	return nil
}

// Leader returns the id of the present leader of the election; ok is false when there is none.
func (s *Store) Leader(ctx context.Context, name string) (id string, ok bool, err error) {
	resp, err := s.client.Get(ctx, s.layout.election(name)+"/", clientv3.WithFirstCreate()...)
	if err != nil {
		return "", false, classify("read leader", err)
	}
	if len(resp.Kvs) == 0 {
		return "", false, nil
	}
	return string(resp.Kvs[0].Value), true, nil
}

// Name returns the name of the election.
func (l *Leadership) Name() string { return l.name }

// Revision is the fencing token: every later leader of the same election has a greater one.
func (l *Leadership) Revision() int64 { return l.revision }

// Lost is closed when the leadership can no longer be kept alive. The leader must stop acting; a successor may exist from then on.
func (l *Leadership) Lost() <-chan struct{} { return l.session.Done() }

// Resign ends the leadership so that the next candidate takes over at once.
func (l *Leadership) Resign(ctx context.Context) error {
	err := l.election.Resign(ctx)
	l.session.Orphan()
	if _, revokeErr := l.session.Client().Revoke(ctx, l.session.Lease()); revokeErr != nil {
		err = errors.Join(err, revokeErr)
	}
	if err != nil {
		return cloud.E(cloud.KindUnavailable, "resign", l.name, err)
	}
	return nil
}

// forgetCandidates removes all candidates. Only for the embedded etcd before it is used: its lock on the data directory proves that every
// candidate was a process which no longer runs, so nobody need wait for their leases to expire.
func (s *Store) forgetCandidates(ctx context.Context) error {
	_, err := s.client.Delete(ctx, s.layout.prefix+electionDir, clientv3.WithPrefix())
	return err
}
