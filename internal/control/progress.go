package control

import (
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/flows"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// putProgress writes a migration's figures unless newer ones are there or the migration is over: its flow removes them with its last write, and
// a late message must not bring them back.
func putProgress(tx *store.Tx, id cloud.MigrationID, u *hostpb.MigrationUpdate, anew bool, now time.Time) error {
	m, err := store.Peek(tx, tables.Migrations, id)
	if err != nil || m == nil || m.Status.Final() {
		return err
	}
	held, err := store.Peek(tx, tables.Progress, id)
	if err != nil || !anew && held != nil && held.Seq >= u.GetSeq() {
		return err
	}
	return store.Put(tx, tables.Progress, id, cloud.MigrationProgress{
		Migration: id, Server: m.Server, Stats: flows.Stats(u.GetStats()), Seq: u.GetSeq(), PostCopy: u.GetPostCopy(), At: now,
	})
}
