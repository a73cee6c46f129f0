package attachments_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/godwit-cloud/godwit/internal/attachments"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

var at = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func open(t *testing.T, volumes ...cloud.Volume) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{DataDir: t.TempDir(), Tables: tables.All()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	for _, v := range volumes {
		do(t, s, func(tx *store.Tx) error { return store.Put(tx, tables.Volumes, v.ID, v) })
	}
	return s
}

func try(s *store.Store, fn func(tx *store.Tx) error) error {
	_, err := s.UpdateVisible(context.Background(), fn)
	return err
}

func do(t *testing.T, s *store.Store, fn func(tx *store.Tx) error) {
	t.Helper()
	if err := try(s, fn); err != nil {
		t.Fatal(err)
	}
}

func reserve(s *store.Store, id cloud.AttachmentID, volume cloud.VolumeID, server cloud.ServerID) error {
	return try(s, func(tx *store.Tx) error {
		_, err := attachments.Reserve(tx, attachments.Reservation{ID: id, Volume: volume, Server: server, Now: at})
		return err
	})
}

func wantVolume(t *testing.T, s *store.Store, id cloud.VolumeID, status cloud.VolumeStatus, n int) {
	t.Helper()
	v, ok := store.Lookup(s, tables.Volumes, id)
	if !ok {
		t.Fatalf("volume %s is gone", id)
	}
	if v.Status != status || len(v.AttachmentIDs) != n {
		t.Errorf("volume %s is %s with attachments %v, want %s with %d", id, v.Status, v.AttachmentIDs, status, n)
	}
}

func TestAnAttachmentTakesItsVolumeAlong(t *testing.T) {
	s := open(t, cloud.Volume{ID: "v", Status: cloud.VolumeAvailable})
	if err := reserve(s, "a", "v", "s1"); err != nil {
		t.Fatal(err)
	}
	wantVolume(t, s, "v", cloud.VolumeReserved, 1)
	for _, step := range []struct {
		do   func(tx *store.Tx) error
		want cloud.VolumeStatus
		n    int
	}{
		{func(tx *store.Tx) error {
			return attachments.Connect(tx, "a", attachments.Link{Host: "h", Device: "/dev/vdb", Epoch: 1}, at)
		}, cloud.VolumeAttaching, 1},
		{func(tx *store.Tx) error { return attachments.Complete(tx, "a", at) }, cloud.VolumeInUse, 1},
		{func(tx *store.Tx) error { return attachments.BeginDetach(tx, "a", at) }, cloud.VolumeDetaching, 1},
		{func(tx *store.Tx) error { return attachments.RollBackDetach(tx, "a", at) }, cloud.VolumeInUse, 1},
		{func(tx *store.Tx) error { return attachments.Release(tx, "a", at) }, cloud.VolumeAvailable, 0},
		{func(tx *store.Tx) error { return attachments.Release(tx, "a", at) }, cloud.VolumeAvailable, 0},
	} {
		do(t, s, step.do)
		wantVolume(t, s, "v", step.want, step.n)
	}
}

func TestAVolumeGoesToOneServerUnlessItIsShared(t *testing.T) {
	s := open(t, cloud.Volume{ID: "one", Status: cloud.VolumeAvailable}, cloud.Volume{ID: "many", Status: cloud.VolumeAvailable, Multiattach: true})
	for _, id := range []cloud.VolumeID{"one", "many"} {
		if err := reserve(s, cloud.AttachmentID(id+"-1"), id, "s1"); err != nil {
			t.Fatal(err)
		}
	}
	if err := reserve(s, "one-2", "one", "s2"); !cloud.Is(err, cloud.KindInvalid) {
		t.Errorf("a second server got the volume: %v", err)
	}
	if err := reserve(s, "many-2", "many", "s2"); err != nil {
		t.Errorf("a shared volume was refused to a second server: %v", err)
	}
	if err := reserve(s, "many-3", "many", "s1"); !cloud.Is(err, cloud.KindInvalid) {
		t.Errorf("a shared volume went to the same server twice: %v", err)
	}
	do(t, s, func(tx *store.Tx) error { return attachments.Complete(tx, "many-1", at) })
	do(t, s, func(tx *store.Tx) error { return attachments.Release(tx, "many-2", at) })
	wantVolume(t, s, "many", cloud.VolumeInUse, 1)
}

func TestOnlyOneOfManyReservationsAtOnceWins(t *testing.T) {
	s := open(t, cloud.Volume{ID: "v", Status: cloud.VolumeAvailable})
	const servers = 8
	var won sync.Map
	var wg sync.WaitGroup
	for i := range servers {
		id := cloud.AttachmentID('a' + rune(i))
		wg.Go(func() {
			switch err := reserve(s, id, "v", cloud.ServerID(id)); {
			case err == nil:
				won.Store(id, true)
			case !cloud.Is(err, cloud.KindInvalid):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	n := 0
	won.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Errorf("%d servers were promised the volume", n)
	}
	wantVolume(t, s, "v", cloud.VolumeReserved, 1)
}

func TestWhatCannotBeReservedIsRefused(t *testing.T) {
	reservable := map[cloud.VolumeStatus]bool{cloud.VolumeAvailable: true}
	s := open(t)
	for _, status := range cloud.VolumeStatuses() {
		id := cloud.VolumeID(status)
		do(t, s, func(tx *store.Tx) error {
			return store.Put(tx, tables.Volumes, id, cloud.Volume{ID: id, Status: status})
		})
		err := reserve(s, cloud.AttachmentID("a-"+id), id, "s")
		if reservable[status] != (err == nil) {
			t.Errorf("reserve of a volume that is %s: %v", status, err)
		}
	}
	if err := reserve(s, "x", "nowhere", "s"); !cloud.Is(err, cloud.KindNotFound) {
		t.Errorf("reserve of an unknown volume: %v", err)
	}
}

func TestAVolumeThatIsAvailableInNameOnlyIsNotReserved(t *testing.T) {
	s := open(t, cloud.Volume{ID: "v", Status: cloud.VolumeAvailable})
	if err := reserve(s, "a", "v", "s1"); err != nil {
		t.Fatal(err)
	}
	do(t, s, func(tx *store.Tx) error {
		v, err := store.Get(tx, tables.Volumes, "v")
		v.Status = cloud.VolumeAvailable // by an administrator's reset
		if err != nil {
			return err
		}
		return store.Put(tx, tables.Volumes, v.ID, v)
	})
	if err := reserve(s, "b", "v", "s2"); !cloud.Is(err, cloud.KindInvalid) {
		t.Errorf("a second server got it: %v", err)
	}
}

func TestAVolumeBeingMadeForAServerIsItsAlone(t *testing.T) {
	s := open(t, cloud.Volume{ID: "v", Status: cloud.VolumeCreating, DeleteOnServerOf: "mine"})
	if err := reserve(s, "b", "v", "another"); !cloud.Is(err, cloud.KindInvalid) {
		t.Errorf("another server got it: %v", err)
	}
	if err := reserve(s, "a", "v", "mine"); err != nil {
		t.Fatal(err)
	}
	wantVolume(t, s, "v", cloud.VolumeCreating, 1)
	do(t, s, func(tx *store.Tx) error {
		v, err := store.Get(tx, tables.Volumes, "v")
		if err != nil {
			return err
		}
		if rest, err := attachments.Resting(tx, &v); err != nil || rest != cloud.VolumeReserved {
			t.Errorf("at rest it will be %s (%v), want reserved", rest, err)
		}
		return nil
	})
}

func TestAMoveLeavesTheVolumeInUseThroughout(t *testing.T) {
	s := open(t, cloud.Volume{ID: "v", Status: cloud.VolumeAvailable})
	if err := reserve(s, "old", "v", "s"); err != nil {
		t.Fatal(err)
	}
	move := attachments.Move{ID: "new", From: "old", Host: "h2", Migration: "m", Now: at}
	if err := try(s, func(tx *store.Tx) error { _, err := attachments.ReserveMove(tx, move); return err }); !cloud.Is(err, cloud.KindConflict) {
		t.Errorf("a server moved with a volume it does not have yet: %v", err)
	}
	do(t, s, func(tx *store.Tx) error { return attachments.Complete(tx, "old", at) })
	do(t, s, func(tx *store.Tx) error { _, err := attachments.ReserveMove(tx, move); return err })
	wantVolume(t, s, "v", cloud.VolumeInUse, 2)
	do(t, s, func(tx *store.Tx) error {
		return attachments.Connect(tx, "new", attachments.Link{Host: "h2", Epoch: 2}, at)
	})
	wantVolume(t, s, "v", cloud.VolumeInUse, 2)
	for range 2 { // a repeated switch changes nothing
		do(t, s, func(tx *store.Tx) error { return attachments.CompleteMove(tx, "old", "new", at) })
		wantVolume(t, s, "v", cloud.VolumeInUse, 1)
	}
	a, ok := store.Lookup(s, tables.Attachments, "new")
	if !ok || a.Migration != "" || a.Status != cloud.AttachmentAttached || a.Host != "h2" {
		t.Errorf("the target's attachment is %+v", a)
	}
}

func TestABusyVolumeReturnsToWhatItsAttachmentsSay(t *testing.T) {
	s := open(t, cloud.Volume{ID: "v", Status: cloud.VolumeAvailable})
	if err := reserve(s, "a", "v", "s"); err != nil {
		t.Fatal(err)
	}
	do(t, s, func(tx *store.Tx) error {
		v, err := store.Get(tx, tables.Volumes, "v")
		if err != nil {
			return err
		}
		v.PreviousStatus, v.Status = v.Status, cloud.VolumeExtending
		return store.Put(tx, tables.Volumes, v.ID, v)
	})
	do(t, s, func(tx *store.Tx) error { return attachments.Release(tx, "a", at) })
	v, _ := store.Lookup(s, tables.Volumes, "v")
	if v.Status != cloud.VolumeExtending || v.PreviousStatus != cloud.VolumeAvailable {
		t.Errorf("volume is %s and returns to %s, want extending and available", v.Status, v.PreviousStatus)
	}
}

// Whatever is asked in whatever order, a volume without multiattach has at most one attachment outside of moves, and its list names exactly its
// attachments.
func TestTheBooksAlwaysAgree(t *testing.T) {
	s := open(t)
	round := 0
	rapid.Check(t, func(t *rapid.T) {
		round++
		id := cloud.VolumeID("v" + string(rune('0'+round%10)) + time.Duration(round).String())
		shared := rapid.Bool().Draw(t, "shared")
		if err := try(s, func(tx *store.Tx) error {
			return store.Put(tx, tables.Volumes, id, cloud.Volume{ID: id, Status: cloud.VolumeAvailable, Multiattach: shared})
		}); err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			a := cloud.AttachmentID(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "attachment")) + "-" + cloud.AttachmentID(id)
			_ = try(s, func(tx *store.Tx) error { // refusals are part of the game
				switch rapid.IntRange(0, 5).Draw(t, "op") {
				case 0, 1:
					_, err := attachments.Reserve(tx, attachments.Reservation{ID: a, Volume: id, Server: cloud.ServerID(a), Now: at})
					return err
				case 2:
					return attachments.Connect(tx, a, attachments.Link{Host: "h"}, at)
				case 3:
					return attachments.Complete(tx, a, at)
				case 4:
					return attachments.BeginDetach(tx, a, at)
				}
				return attachments.Release(tx, a, at)
			})
			v, _ := store.Lookup(s, tables.Volumes, id)
			stored := store.By(s, tables.Attachments, tables.ByVolume, id)
			if len(stored) != len(v.AttachmentIDs) || !shared && len(stored) > 1 {
				t.Fatalf("volume lists %v, the table has %d", v.AttachmentIDs, len(stored))
			}
			if (v.Status == cloud.VolumeAvailable) != (len(stored) == 0) {
				t.Fatalf("volume is %s with %d attachments", v.Status, len(stored))
			}
		}
	})
}
