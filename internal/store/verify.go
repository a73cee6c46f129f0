package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Verify compares every record of the replica with etcd and returns what differs, nil when nothing does. It reads everything: a tool for tests
// and for operators in doubt. A difference means a bug, most likely that somebody changed a value that is shared.
func (s *Store) Verify(ctx context.Context) error {
	if err := s.Sync(ctx); err != nil {
		return err
	}
	v := s.View()
	var errs []error
	for _, d := range s.feed.defs {
		if err := s.verifyTable(ctx, v, d); err != nil {
			errs = append(errs, fmt.Errorf("table %s: %w", d.name, err))
		}
	}
	return errors.Join(errs...)
}

func (s *Store) verifyTable(ctx context.Context, v View, d *definition) error {
	prefix := s.layout.record(d, "")
	resp, err := s.client.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(v.Revision()))
	if err != nil {
		return classify("verify", err)
	}
	shown := v.snap.rows(d)
	var errs []error
	for _, kv := range resp.Kvs {
		key := strings.TrimPrefix(string(kv.Key), prefix)
		stored, err := newEntry(d, key, kv)
		if err == nil {
			err = sameEntry(stored, shown.get(key))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("record %s: %w", key, err))
		}
	}
	if n := shown.byKey.Len(); n != len(resp.Kvs) {
		errs = append(errs, fmt.Errorf("replica has %d records, etcd %d", n, len(resp.Kvs)))
	}
	return errors.Join(errs...)
}

// sameEntry compares by encoding both, since what was stored may spell the same value differently.
func sameEntry(stored, shown *entry) error {
	if shown == nil {
		return errors.New("missing in the replica")
	}
	want, err := json.Marshal(stored.value)
	if err != nil {
		return err
	}
	got, err := json.Marshal(shown.value)
	if err != nil {
		return err
	}
	if shown.mod != stored.mod || !bytes.Equal(want, got) {
		return fmt.Errorf("replica has %s of revision %d, etcd %s of revision %d", got, shown.mod, want, stored.mod)
	}
	return nil
}
