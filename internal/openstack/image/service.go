package image

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// Options configure the service.
type Options struct {
	// ImageBytesMax refuses larger uploads; 0 means unlimited.
	ImageBytesMax int64
	// Logger receives what Maintain does and damaged data. Nil means slog.Default.
	Logger *slog.Logger
}

// Service is the image dialect. It is safe for concurrent use.
type Service struct {
	store   *store.Store
	files   *Files
	options Options
}

// New returns the service on a store that has the tables Images and Servers. It does no I/O.
func New(s *store.Store, files *Files, o Options) *Service {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Service{store: s, files: files, options: o}
}

// Mount adds the routes below /image.
func (s *Service) Mount(api *openstack.API) {
	rt := api.Routes(openstack.Glance)
	rt.HandlePublic("GET /{$}", s.versions)
	rt.HandlePublic("GET /versions", s.versions)
	rt.Handle("GET /v2/images", s.list)
	rt.Handle("POST /v2/images", s.create)
	rt.Handle("GET /v2/images/{id}", s.show)
	rt.Handle("PATCH /v2/images/{id}", s.update)
	rt.Handle("DELETE /v2/images/{id}", s.delete)
	rt.Handle("PUT /v2/images/{id}/file", s.upload)
	rt.Handle("GET /v2/images/{id}/file", s.download)
	rt.Handle("POST /v2/images/{id}/actions/deactivate", s.deactivate)
	rt.Handle("POST /v2/images/{id}/actions/reactivate", s.reactivate)
	rt.Handle("PUT /v2/images/{id}/tags/{tag}", s.addTag)
	rt.Handle("DELETE /v2/images/{id}/tags/{tag}", s.removeTag)
	s.mountMembers(rt)
	s.mountInfo(rt)
}

// maintainEvery is how often Maintain looks: how long a crashed upload stays saving, and a last server's image stays on disk.
const maintainEvery = time.Minute

// Maintain puts crashed uploads back to queued and removes data that nobody needs any more, until ctx ends. Any number of servers may run
// it at once.
func (s *Service) Maintain(ctx context.Context) error {
	tick := time.NewTicker(maintainEvery)
	defer tick.Stop()
	for {
		s.maintain(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Service) maintain(ctx context.Context) {
	for _, i := range store.All(s.store, tables.Images) {
		var err error
		switch i.Status {
		case cloud.ImageSaving:
			err = s.recover(ctx, i.ID)
		case cloud.ImageDeleted:
			err = s.reap(ctx, i.ID)
		case cloud.ImageQueued, cloud.ImageActive, cloud.ImageKilled, cloud.ImageDeactivated: // at rest
		}
		if err != nil && ctx.Err() == nil {
			s.options.Logger.Warn("image: upkeep failed, will try again", "image", i.ID, "error", err, "after", maintainEvery)
		}
	}
}

// recover puts an image back to queued whose upload died, and removes what there is of its data.
func (s *Service) recover(ctx context.Context, id cloud.ImageID) error {
	claim, err := s.files.claimAbandoned(id)
	if err != nil || claim == nil {
		return err
	}
	defer claim.discard()
	changed := false
	if _, err := s.store.UpdateVisible(ctx, func(tx *store.Tx) error {
		i, err := store.Get(tx, tables.Images, id)
		changed = err == nil && i.Status == cloud.ImageSaving
		if !changed {
			return err
		}
		i.Status, i.Updated = cloud.ImageQueued, time.Now().UTC()
		return store.Put(tx, tables.Images, id, i)
	}); err != nil || !changed {
		return err
	}
	s.options.Logger.Info("image: an upload was interrupted; the image is queued again", "image", id)
	return s.files.remove(id)
}

// reap removes a deleted image's data and then its record, unless a server was booted from it or it is being uploaded.
func (s *Service) reap(ctx context.Context, id cloud.ImageID) error {
	// Deleted is final, so what is deleted now stays so.
	if i, ok := store.Lookup(s.store, tables.Images, id); !ok || i.Status != cloud.ImageDeleted {
		return nil
	}
	for _, server := range store.All(s.store, tables.Servers) {
		if server.Image == id {
			return nil
		}
	}
	claim, err := s.files.claimAbandoned(id)
	if err != nil || claim == nil {
		return err
	}
	defer claim.discard()
	if err := s.files.remove(id); err != nil {
		return err
	}
	if _, err := s.store.UpdateVisible(ctx, func(tx *store.Tx) error { return store.Delete(tx, tables.Images, id) }); err != nil {
		return fmt.Errorf("remove record of image %s: %w", id, err)
	}
	return nil
}
