package store

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// The embedded etcd's settings. It has one member and listens nowhere: its only client is this process, by function calls.
const (
	// quotaBytes is where etcd stops accepting writes. 100,000 servers with their history are far below it.
	quotaBytes = 2 << 30
	// historyKept is how long old revisions stay readable. Only a feeder that fell this far behind must read everything again, so it is
	// short: history is memory in etcd's index.
	historyKept = "5m"
	// snapshotEntries and catchUpEntries bound the raft log kept in memory. There is no follower to catch up.
	snapshotEntries = 2000
	catchUpEntries  = 100
	// defragAtStartMB: free space in the file worth a rewrite when the server starts.
	defragAtStartMB = 64
	// operationsMax bounds compares and writes of one transaction. It is etcd's default, so that an external cluster behaves the same.
	operationsMax = 128
	// valueBytesMax bounds one request.
	valueBytesMax = 4 << 20
)

// embedded is an etcd server inside this process and its client.
type embedded struct {
	etcd   *embed.Etcd
	client *clientv3.Client
	lock   *os.File
}

func startEmbedded(ctx context.Context, dir string, logger *slog.Logger) (*embedded, error) {
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	etcd, err := embed.StartEtcd(embeddedConfig(dir, logger))
	if err != nil {
		lock.Close()
		return nil, cloud.E(cloud.KindUnavailable, "start embedded etcd", dir, err)
	}
	e := &embedded{etcd: etcd, lock: lock}
	select {
	case <-etcd.Server.ReadyNotify():
	case <-etcd.Server.StopNotify():
		err = fmt.Errorf("stopped while starting")
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		e.etcd.Close()
		lock.Close()
		return nil, cloud.E(cloud.KindUnavailable, "start embedded etcd", dir, err)
	}
	e.client = v3client.New(etcd.Server)
	return e, nil
}

// lockDir makes the directory and takes an exclusive lock that ends with this process, however it ends. etcd's own lock would wait silently.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, cloud.E(cloud.KindInvalid, "open data directory", dir, err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, cloud.E(cloud.KindInvalid, "open data directory", dir, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, cloud.E(cloud.KindConflict, "open data directory", dir, fmt.Errorf("another process uses it: %w", err))
	}
	return f, nil
}

func embeddedConfig(dir string, logger *slog.Logger) *embed.Config {
	c := embed.NewConfig()
	c.Name = "godwit"
	c.Dir = filepath.Join(dir, "etcd")
	c.ListenPeerUrls, c.ListenClientUrls = nil, nil
	// A member must have a peer address on record; nobody dials this one.
	c.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:1"}}
	c.AdvertiseClientUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:1"}}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapTo(logger))
	c.QuotaBackendBytes = quotaBytes
	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModePeriodic, historyKept
	c.SnapshotCount, c.SnapshotCatchUpEntries = snapshotEntries, catchUpEntries
	c.BootstrapDefragThresholdMegabytes = defragAtStartMB
	c.MaxTxnOps, c.MaxRequestBytes = operationsMax, valueBytesMax
	c.EnableGRPCGateway = false
	c.WarningApplyDuration = time.Second // slow disks are seen in our own timings
	return c
}

func (e *embedded) close() error {
	e.etcd.Close()
	return e.lock.Close()
}
