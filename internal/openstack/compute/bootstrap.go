package compute

import (
	"context"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// defaultFlavors are the sizes clouds have shipped with since Nova's first years; tools and people expect them.
var defaultFlavors = []cloud.Flavor{
	{ID: "1", Name: "m1.tiny", VCPUs: 1, RAMMiB: 512, RootGiB: 1},
	{ID: "2", Name: "m1.small", VCPUs: 1, RAMMiB: 2048, RootGiB: 20},
	{ID: "3", Name: "m1.medium", VCPUs: 2, RAMMiB: 4096, RootGiB: 40},
	{ID: "4", Name: "m1.large", VCPUs: 4, RAMMiB: 8192, RootGiB: 80},
	{ID: "5", Name: "m1.xlarge", VCPUs: 8, RAMMiB: 16384, RootGiB: 160},
}

// Bootstrap gives a store without any flavor the usual ones. It is idempotent, and flavors that an operator removed stay removed as long as one
// is left.
func Bootstrap(ctx context.Context, s *store.Store, now time.Time) error {
	_, err := s.UpdateVisible(ctx, func(tx *store.Tx) error {
		have, err := store.PeekList(tx, tables.Flavors, cloud.FlavorID(""))
		if err != nil || len(have) > 0 {
			return err
		}
		for _, f := range defaultFlavors {
			f.RxTxFactor, f.Public, f.Created = 1, true, now
			if err := store.Create(tx, tables.Flavors, f.ID, f); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}
