package flows

import (
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/workflow/workflowtest"
)

// rebuildingOnVolume is a world whose server runs on a volume and is to be rebuilt, with the volume's data or without.
func rebuildingOnVolume(t *testing.T, keep bool) *diskWorld {
	t.Helper()
	w := withStorage(running(t, cloud.IntentRebuild, func(s *cloud.Server) { s.Task, s.Image = cloud.TaskRebuilding, "" }))
	w.give(rootVolume, "/dev/vda", 0)
	w.use()
	w.storage.SetContent(rootVolume, []byte("what was written"))
	w.intent.Reimage = &cloud.Reimage{Image: "other", Format: "raw", Bytes: 1, VirtualBytes: 1, Hash: "h", KeepVolume: keep}
	if !keep {
		w.intent.Reimage.Volume = rootVolume
	}
	w.write(func(tx *store.Tx) error { return store.Put(tx, tables.Intents, w.intent.ID, w.intent) })
	return w
}

func TestRebuildOfAServerOnAVolumeKeepsTheEnginesPromises(t *testing.T) {
	for _, keep := range []bool{false, true} {
		workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
			w := rebuildingOnVolume(t, keep)
			want := map[bool]string{false: "image:other h", true: "what was written"}[keep]
			return workflowtest.Case[cloud.Intent]{Definition: w.flows.Rebuild(), Args: w.intent,
				Done: func() error {
					c := w.settled()
					c.livesOn(w.world, hostA)
					c.has(w, rootVolume, hostA)
					c.must(string(w.storage.Content(rootVolume)) == want, "the volume has %q", w.storage.Content(rootVolume))
					c.must(w.now().Image == "" && (w.volumeNow(rootVolume).SourceImage == "other") != keep, "server of image %q, volume of %q", w.now().Image, w.volumeNow(rootVolume).SourceImage)
					return c.err()
				},
				Clean: func() error {
					c := w.settled()
					c.livesOn(w.world, hostA)
					c.has(w, rootVolume, hostA)
					c.must(string(w.storage.Content(rootVolume)) == "what was written", "the volume has %q", w.storage.Content(rootVolume))
					return c.err()
				}}
		})
	}
}
