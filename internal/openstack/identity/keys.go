package identity

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

const (
	// keyLife is how long a key signs. A leaked key is worth a day and one token lifetime.
	keyLife = 24 * time.Hour
	// keySettle is how old a key must be to sign while an older one exists, so that every server's replica can verify what it signs.
	keySettle = 30 * time.Second
)

// keyring reads the signing keys from the store and keeps them parsed.
type keyring struct {
	store  *store.Store
	parsed sync.Map // id -> *ecdsa.PrivateKey; bounded by rotation: retired keys are dropped from it
}

// public returns the key that verifies, if it (still) exists.
func (k *keyring) public(id string) (*ecdsa.PublicKey, bool) {
	record, ok := store.Lookup(k.store, tables.SigningKeys, id)
	if !ok {
		return nil, false
	}
	key, err := k.parse(record)
	if err != nil {
		return nil, false
	}
	return &key.PublicKey, true
}

// exists reports whether the key is still in use.
func (k *keyring) exists(id string) bool {
	_, ok := store.Lookup(k.store, tables.SigningKeys, id)
	return ok
}

// signing returns the key to sign with at the time now, making the first one if there is none.
func (k *keyring) signing(ctx context.Context, now time.Time) (string, *ecdsa.PrivateKey, error) {
	record := choose(store.All(k.store, tables.SigningKeys), now)
	if record == nil {
		fresh, err := newKey(now)
		if err != nil {
			return "", nil, err
		}
		if err := k.add(ctx, fresh); err != nil {
			return "", nil, err
		}
		record = fresh
	}
	key, err := k.parse(record)
	return record.ID, key, err
}

// choose returns the newest settled key, else the oldest, else nil.
func choose(keys []*cloud.SigningKey, now time.Time) *cloud.SigningKey {
	if len(keys) == 0 {
		return nil
	}
	sorted := byAge(keys)
	best := sorted[0]
	for _, key := range sorted {
		if now.Sub(key.Created) >= keySettle {
			best = key
		}
	}
	return best
}

// byAge returns the keys oldest first.
func byAge(keys []*cloud.SigningKey) []*cloud.SigningKey {
	return slices.SortedFunc(slices.Values(keys), func(a, b *cloud.SigningKey) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
}

// retired returns the ids of keys that can have signed no token that is still good: their successor has been signing for longer than a token lives.
func retired(keys []*cloud.SigningKey, now time.Time, lifetime time.Duration) []string {
	sorted := byAge(keys)
	var out []string
	for i := range len(sorted) - 1 {
		if now.Sub(sorted[i+1].Created) > lifetime+2*keySettle {
			out = append(out, sorted[i].ID)
		}
	}
	return out
}

// rotate makes a new key when the newest is keyLife old, and removes retired ones.
func (k *keyring) rotate(ctx context.Context, now time.Time, lifetime time.Duration) error {
	keys := byAge(store.All(k.store, tables.SigningKeys))
	if len(keys) == 0 || now.Sub(keys[len(keys)-1].Created) >= keyLife {
		fresh, err := newKey(now)
		if err != nil {
			return err
		}
		if err := k.add(ctx, fresh); err != nil {
			return fmt.Errorf("rotate signing key: %w", err)
		}
	}
	gone := retired(keys, now, lifetime)
	if err := deleteAll(ctx, k.store, tables.SigningKeys, gone); err != nil {
		return fmt.Errorf("remove retired signing keys: %w", err)
	}
	k.parsed.Range(func(id, _ any) bool {
		if !k.exists(id.(string)) {
			k.parsed.Delete(id)
		}
		return true
	})
	return nil
}

func (k *keyring) add(ctx context.Context, key *cloud.SigningKey) error {
	_, err := k.store.UpdateVisible(ctx, func(tx *store.Tx) error {
		return store.Create(tx, tables.SigningKeys, key.ID, *key)
	})
	return err
}

func (k *keyring) parse(record *cloud.SigningKey) (*ecdsa.PrivateKey, error) {
	if key, ok := k.parsed.Load(record.ID); ok {
		return key.(*ecdsa.PrivateKey), nil
	}
	v, err := x509.ParsePKCS8PrivateKey(record.Private)
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", record.ID, err)
	}
	key, ok := v.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("signing key %s: not an ECDSA key", record.ID)
	}
	k.parsed.Store(record.ID, key)
	return key, nil
}

func newKey(now time.Time) (*cloud.SigningKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make signing key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make signing key: %w", err)
	}
	return &cloud.SigningKey{ID: newID(), Private: der, Created: now.UTC()}, nil
}
