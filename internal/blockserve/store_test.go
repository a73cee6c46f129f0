package blockserve

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/volume"
	"github.com/godwit-cloud/godwit/nbd"
)

// kept is a volume of a real store with its server.
type kept struct {
	*world
	store *volume.Store
	id    cloud.VolumeID
	next  int64 // generation
}

func (k *kept) call() volume.Call {
	k.next++
	return volume.Call{Volume: k.id, Generation: k.next}
}

func (k *kept) open(attachment cloud.AttachmentID, handover bool) string {
	k.Helper()
	_, err := k.store.OpenAttachment(k.Context(), k.call(), volume.Request{Attachment: attachment, Host: hostOfTest, Handover: handover})
	must(k, err)
	return ExportName(k.id, attachment)
}

// keep makes a volume in a store in dir, and its server with o.
func keep(t testing.TB, dir string, direct bool, o Options) *kept {
	t.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	how := volume.DirectOff
	if direct {
		how = volume.DirectOn
	}
	store, err := volume.Open(t.Context(), volume.Options{Dir: dir, Name: "test", Kind: "file", Direct: how, Log: o.Log})
	must(t, err)
	t.Cleanup(func() { must(t, store.Close(context.WithoutCancel(t.Context()))) })
	k := &kept{world: &world{TB: t, engine: o.Engine}, store: store, id: "11111111-1111-1111-1111-111111111111"}
	_, err = store.Create(t.Context(), k.call(), volume.Spec{Bytes: 16 << 20})
	must(t, err)
	k.server, err = New(Stores(store), o)
	must(t, err)
	t.Cleanup(func() { must(t, k.server.Close()) })
	return k
}

func eachKept(t *testing.T, f func(t *testing.T, k *kept)) {
	for _, e := range engines {
		t.Run(string(e), func(t *testing.T) { f(t, keep(t, t.TempDir(), false, Options{Engine: e})) })
	}
}

// The story of a live migration, with the store that will be used.
func TestAVolumePassesFromOneHostToAnother(t *testing.T) {
	eachKept(t, func(t *testing.T, k *kept) {
		l := k.listen("unix", nil)
		source := k.dial(l, nbd.ClientOptions{Export: k.open("aaaaaaaa-0000-0000-0000-000000000001", false)})
		block := make([]byte, 4096)
		_, err := source.WriteAt(block, 0)
		must(t, err)
		target := k.dial(l, nbd.ClientOptions{Export: k.open("aaaaaaaa-0000-0000-0000-000000000002", true)})
		_, err = target.ReadAt(block, 0)
		must(t, err)
		_, err = source.WriteAt(block, 4096)
		must(t, err)
		_, err = target.WriteAt(block, 8192)
		must(t, err)
		if _, err := source.WriteAt(block, 0); !errors.Is(err, nbd.Shutdown) && !errors.Is(err, nbd.ErrDisconnected) {
			t.Errorf("the source writes after the target did: %v", err)
		}
		ends(t, source)
		for i := range int64(64) {
			_, err = target.WriteAt(block, i*4096)
			must(t, err)
		}
	})
}

func TestALiveVolumeGrowsAndIsLimited(t *testing.T) {
	eachKept(t, func(t *testing.T, k *kept) {
		export := k.open("aaaaaaaa-0000-0000-0000-000000000001", false)
		c := k.dial(k.listen("unix", nil), nbd.ClientOptions{Export: export})
		_, err := k.store.Extend(t.Context(), k.call(), 32<<20)
		must(t, err)
		_, err = c.WriteAt(make([]byte, 1<<20), 31<<20)
		must(t, err)
		_, err = k.store.SetLimits(t.Context(), k.call(), volume.Limits{IOPS: 1000, BytesPerSecond: 8 << 20})
		must(t, err)
		_, err = c.WriteAt(make([]byte, 8<<20), 0)
		must(t, err)
		_, err = c.WriteAt(make([]byte, 4096), 0)
		must(t, err)
		if delayed(k.server) == 0 {
			t.Error("the limits of a live volume hold nobody")
		}
	})
}

func TestOnlyOpenAttachmentsAreExported(t *testing.T) {
	eachKept(t, func(t *testing.T, k *kept) {
		export := k.open("aaaaaaaa-0000-0000-0000-000000000001", false)
		l := k.listen("unix", nil)
		for _, name := range []string{"", "nothing", string(k.id), export + "x", "22222222-1111-1111-1111-111111111111/a"} {
			if c, err := nbd.Dial(t.Context(), "unix", l.Addr().String(), nbd.ClientOptions{Export: name}); err == nil {
				c.Close()
				t.Errorf("%q is exported", name)
			}
		}
		c := k.dial(l, nbd.ClientOptions{Export: export})
		must(t, c.Flush())
		_, err := k.store.CloseAttachment(t.Context(), k.call(), "aaaaaaaa-0000-0000-0000-000000000001")
		must(t, err)
		ends(t, c)
		if c, err := nbd.Dial(t.Context(), "unix", l.Addr().String(), nbd.ClientOptions{Export: export}); err == nil {
			c.Close()
			t.Error("a closed attachment is exported")
		}
	})
}
