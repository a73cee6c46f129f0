package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// DefaultPrefix is where records live in etcd when Options.Prefix is empty. The version in it changes only with an incompatible layout.
const DefaultPrefix = "/godwit/v1/"

var errClosed = cloud.Errorf(cloud.KindUnavailable, "store is closed")

// Options say which etcd to use and which tables to serve.
type Options struct {
	// DataDir holds the embedded etcd's files. Used when Endpoints is empty.
	DataDir string
	// Endpoints are the client URLs of an external etcd cluster. Empty means: run one inside this process.
	Endpoints []string
	// TLS is for external endpoints; see ClientTLS. Nil means plain text, fit for loopback and tests only.
	TLS *tls.Config
	// Username and Password authenticate to an external cluster that uses them instead of client certificates.
	Username, Password string
	// Prefix is prepended to every key; it must begin and end with a slash. Empty means DefaultPrefix.
	Prefix string
	// Tables are the tables the store serves and replicates.
	Tables []AnyTable
	// LeadershipTTL is how long a leader that fell silent keeps others waiting. Zero means 5 s.
	LeadershipTTL time.Duration
	// Logger receives the store's and the embedded etcd's log. Nil means slog.Default.
	Logger *slog.Logger
}

// leadershipTTLDefault: a second keepalive after a lost one, an election of etcd's and a garbage-collection pause fit in it; a standby takes over before
// a person has noticed.
const leadershipTTLDefault = 5 * time.Second

// Store is godwit's one source of truth: etcd for writes, a replica in memory for reads. It is safe for concurrent use.
type Store struct {
	client  *clientv3.Client
	layout  layout
	logger  *slog.Logger
	options Options
	feed    *feeder
	server  *embedded // nil with external endpoints

	stop      context.CancelFunc // ends the feeder
	closeOnce sync.Once
	closeErr  error
}

// Open starts or connects to etcd and reads every table. It returns when reads are served from memory; ctx bounds the opening only.
func Open(ctx context.Context, o Options) (*Store, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Store{layout: layout{o.Prefix}, logger: o.Logger, options: o}
	if len(o.Endpoints) > 0 {
		s.client, err = dial(o)
	} else {
		s.server, err = startEmbedded(ctx, o.DataDir, o.Logger)
		if err == nil {
			s.client = s.server.client
		}
	}
	if err != nil {
		return nil, err
	}
	if err := s.begin(ctx); err != nil {
		return nil, errors.Join(cloud.E(cloud.KindUnavailable, "open store", "", err), s.closeConnections())
	}
	return s, nil
}

func (o Options) withDefaults() (Options, error) {
	if o.Prefix == "" {
		o.Prefix = DefaultPrefix
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.LeadershipTTL == 0 {
		o.LeadershipTTL = leadershipTTLDefault
	}
	if !strings.HasPrefix(o.Prefix, "/") || !strings.HasSuffix(o.Prefix, "/") {
		return o, cloud.Errorf(cloud.KindInvalid, "store prefix %q must begin and end with a slash", o.Prefix)
	}
	if len(o.Endpoints) == 0 && o.DataDir == "" {
		return o, cloud.Errorf(cloud.KindInvalid, "store needs a data directory or etcd endpoints")
	}
	return o, nil
}

// begin brings the replica up and starts its feeder.
func (s *Store) begin(ctx context.Context) error {
	if s.server != nil {
		if err := s.forgetCandidates(ctx); err != nil {
			return err
		}
	}
	s.feed = newFeeder(s.client, s.layout, s.logger, s.options.Tables)
	rev, err := s.feed.loadRetrying(ctx)
	if err != nil {
		return err
	}
	feedCtx, stop := context.WithCancel(context.Background())
	s.stop = stop
	go s.feed.run(feedCtx, rev)
	return nil
}

// Close ends the replica's feeder, closes all watch channels and stops the embedded etcd. Acknowledged writes are on disk already; Close only
// makes the next start quicker. Calls in progress fail.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.stop()
		<-s.feed.done
		s.closeErr = s.closeConnections()
	})
	return s.closeErr
}

func (s *Store) closeConnections() error {
	err := s.client.Close()
	if errors.Is(err, context.Canceled) {
		err = nil // an in-process client reports its own closing
	}
	if s.server != nil {
		err = errors.Join(err, s.server.close())
	}
	if err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

func (s *Store) current() *snapshot { return s.feed.newest.Load() }

// View returns the newest state of the replica.
func (s *Store) View() View { return View{s.current()} }

// Revision returns the store revision the replica shows now.
func (s *Store) Revision() int64 { return s.current().rev }

// WaitRevision returns when the replica shows rev or later. An API handler that wrote calls it before it answers, so that the client's next
// read sees its own write.
func (s *Store) WaitRevision(ctx context.Context, rev int64) error {
	return s.feed.waitRevision(ctx, rev)
}

// Health is how current and how whole the replica is.
type Health struct {
	Revision     int64     // what reads show
	LastProgress time.Time // when etcd last confirmed that the replica has everything; a healthy store is never older than a few seconds
	Loads        int       // how often everything was read: 1 after Open, more after lost watches
	Undecodable  int       // records met that did not decode and are therefore left out
	LastError    string    // the last failed load since the last good one
	Embedded     bool      // etcd runs in this process
}

// Health returns the replica's state without any I/O.
func (s *Store) Health() Health {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	h := s.feed.health
	h.Revision, h.Embedded = s.Revision(), s.server != nil
	return h
}

// Sync returns when the replica shows everything that was written, by anybody, before the call.
func (s *Store) Sync(ctx context.Context) error {
	resp, err := s.client.Get(ctx, s.layout.prefix)
	if err != nil {
		return classify("sync", err)
	}
	rev := resp.Header.Revision
	if s.Revision() < rev {
		s.feed.askProgress() // the last revisions may concern other users of the cluster: no event would tell
	}
	if err := s.WaitRevision(ctx, rev); err != nil {
		return classify("sync", err)
	}
	return nil
}

// Fetch reads one record from etcd, past the replica: for a reader who cannot know a revision to wait for. An absent record is
// cloud.KindNotFound.
func Fetch[T any, K ~string](ctx context.Context, s *Store, t Table[T], key K) (T, error) {
	tx := newTx(ctx, s, nil)
	return Get(tx, t, key)
}

// Ping asks etcd for a linearizable read: nil means that writes would go through, short of a full disk.
func (s *Store) Ping(ctx context.Context) error {
	if _, err := s.client.Get(ctx, s.layout.prefix); err != nil {
		return cloud.E(cloud.KindUnavailable, "ping store", "", err)
	}
	return nil
}
