package store

import (
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

func TestVerifyFindsAScribbledSharedValue(t *testing.T) {
	t.Parallel()
	s := open(t)
	ctx := testContext(t)
	update(t, s, func(tx *Tx) error { return Put(tx, guests, "a", guest{ID: "a", Tags: map[string]string{"k": "v"}}) })
	if err := s.Verify(ctx); err != nil {
		t.Fatal(err)
	}
	shared, _ := Lookup(s, guests, "a")
	shared.Tags["k"] = "scribbled"
	if err := s.Verify(ctx); err == nil {
		t.Error("not found")
	}
}

func TestUndecodableRecordIsLeftOutCountedAndAnErrorToTransactions(t *testing.T) {
	t.Parallel()
	s := open(t)
	ctx := testContext(t)
	for _, key := range []string{"bad", "good"} {
		update(t, s, func(tx *Tx) error { return Put(tx, plain, key, guest{ID: key}) })
	}
	if _, err := s.client.Put(ctx, s.layout.record(plain.def, "bad"), "{"); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	if _, ok := Lookup(s, plain, "bad"); ok || Count(s, plain) != 1 || s.Health().Undecodable != 1 {
		t.Errorf("%d records shown, health %+v", Count(s, plain), s.Health())
	}
	_, err := s.Update(ctx, func(tx *Tx) error {
		_, err := Get(tx, plain, "bad")
		return err
	})
	if !cloud.Is(err, cloud.KindInternal) {
		t.Errorf("get: %v", err)
	}
	// Overwriting it heals it.
	update(t, s, func(tx *Tx) error { return Put(tx, plain, "bad", guest{ID: "healed"}) })
	if g, ok := Lookup(s, plain, "bad"); !ok || g.ID != "healed" {
		t.Errorf("after overwriting: %+v", g)
	}
}
