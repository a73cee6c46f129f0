package compute

import (
	"net/http"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/spare"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// Cold migration and resize are one thing in Nova and here: a server gets another host, another flavor, or both, with its power off, and its owner then
// confirms or reverts.

// migrateBody is the body of the action migrate from 2.56 on; what is in it before is ignored, as in Nova.
type migrateBody struct {
	Migrate *struct {
		Host hostName `json:"host" api:"required"`
	} `json:"migrate" api:"required;null"`
}

// coldMigrate answers the action migrate.
func (c *call) coldMigrate(found *cloud.Server, o *openstack.Object) error {
	var body migrateBody
	if c.since(56) {
		if err := openstack.Bind(o, &body, c.r.Version); err != nil {
			return err
		}
	}
	w := coldWish{op: cloud.OpMigrate, kind: cloud.TypeColdMigration, flavor: found.Flavor}
	if body.Migrate != nil {
		w.target = cloud.HostName(body.Migrate.Host)
	}
	if err := c.mayMoveCold(found, w); err != nil {
		return err
	}
	if w.target != "" {
		if _, ok := store.Lookup(c.view, tables.Hosts, w.target); !ok {
			return invalid("Compute host %s could not be found.", w.target)
		}
		if w.target == found.Host {
			return invalid("Cannot migrate to the host where the server exists.")
		}
	}
	if err := c.warnSpareOf(found, w); err != nil {
		return err
	}
	return c.askColdMove(found.ID, w)
}

// resizeBody is the body of the action resize.
type resizeBody struct {
	Resize struct {
		FlavorRef  flavorRef `json:"flavorRef" api:"required"`
		DiskConfig string    `json:"OS-DCF:diskConfig" api:"enum=AUTO|MANUAL"`
	} `json:"resize" api:"required"`
}

// resizeServer answers the action resize.
func (c *call) resizeServer(found *cloud.Server, o *openstack.Object) error {
	var body resizeBody
	if err := openstack.Bind(o, &body, c.r.Version); err != nil {
		return err
	}
	w := coldWish{op: cloud.OpResize, kind: cloud.TypeResize, sameHost: c.resizeToSameHost, diskConfig: body.Resize.DiskConfig}
	if err := c.mayMoveCold(found, w); err != nil {
		return err
	}
	flavor, err := c.findFlavor(string(body.Resize.FlavorRef))
	switch {
	case err != nil || flavor.Disabled:
		return invalid("Flavor %s could not be found.", body.Resize.FlavorRef)
	case flavor.ID == found.Flavor.ID:
		return invalid("When resizing, instances must change flavor!")
	case found.RootDevice() == nil && found.Flavor.RootGiB != 0 && flavor.RootGiB == 0:
		return invalid("Server disk was unable to be resized because: Resize to zero disk flavor is not allowed.")
	}
	if err := offered(flavor, &cloud.Image{ID: found.Image, Properties: found.ImageProperties}); err != nil {
		return err
	}
	w.flavor = *flavor
	if err := c.warnSpareOf(found, w); err != nil {
		return err
	}
	return c.askColdMove(found.ID, w)
}

// coldWish is a move with the power off as it was asked for.
type coldWish struct {
	op         cloud.Operation
	kind       string // cloud.TypeColdMigration or cloud.TypeResize
	flavor     cloud.Flavor
	target     cloud.HostName // empty: placement chooses
	sameHost   bool
	diskConfig string
}

// mayMoveCold refuses by state, and while the server's host is down: what is on it cannot be had.
func (c *call) mayMoveCold(s *cloud.Server, w coldWish) error {
	if err := c.allow(s, w.op); err != nil {
		return err
	}
	snap := tables.Snapshot(c.view, c.now())
	if source, ok := hostView(&snap, s.Host); !ok || !source.Up {
		return conflict("Service is unavailable at this time.")
	}
	return nil
}

// warnSpareOf is warnSpare for a move with the power off.
func (c *call) warnSpareOf(s *cloud.Server, w coldWish) error {
	grown := *s
	grown.Flavor = w.flavor
	to := w.target
	if to == "" && w.sameHost {
		to = s.Host
	}
	return c.warnSpare(spare.Change{Server: &grown, From: s.Host, To: to})
}

// askColdMove writes the migration, its intent and its action, and charges the project for the greater of both flavors.
func (c *call) askColdMove(id cloud.ServerID, w coldWish) error {
	order := c.newOrder(cloud.IntentColdMove, string(w.op))
	migration := cloud.Migration{
		ID: cloud.MigrationID(newID()), Server: id, Project: c.r.Caller.Project, User: c.r.Caller.User, Type: w.kind, Asked: cloud.MigrateAuto,
		AskedTarget: w.target, SameHost: w.sameHost, NewFlavor: &w.flavor, Status: cloud.MigrationQueued, Intent: order.intent.ID,
		Created: order.intent.Created, Updated: order.intent.Created,
	}
	order.intent.Migration = migration.ID
	err := c.update(func(tx *store.Tx) error {
		s, err := c.serverIn(tx, id)
		if err != nil {
			return err
		}
		if err := c.allow(&s, w.op); err != nil {
			return err
		}
		number, err := tables.Next(tx, tables.CountMigrations)
		if err != nil {
			return err
		}
		record, old := migration, s.Flavor
		record.Number, record.Source, record.OldFlavor = number, s.Host, &old
		if err := store.Create(tx, tables.Migrations, record.ID, record); err != nil {
			return err
		}
		before := s.Charged()
		s.Resize = &cloud.Resize{Migration: record.ID, Source: s.Host, Old: old, New: w.flavor, OldState: s.VMState}
		s.Task = cloud.TaskResizePrep
		if w.diskConfig != "" {
			s.DiskConfig = w.diskConfig
		}
		if err := c.chargeMore(tx, &s, before); err != nil {
			return err
		}
		return order.place(tx, &s)
	})
	if err != nil {
		return err
	}
	return c.status(http.StatusAccepted)
}

// chargeMore takes from the project's quota what the server costs more than before.
func (c *call) chargeMore(tx *store.Tx, s *cloud.Server, before cloud.Resources) error {
	after := s.Charged()
	if after == before {
		return nil
	}
	used, err := store.Get(tx, tables.QuotaUsages, s.Project)
	if err != nil && !cloud.Is(err, cloud.KindNotFound) {
		return err
	}
	quota, more := c.quota(s.Project), cloud.Flavor{VCPUs: after.VCPUs - before.VCPUs, RAMMiB: after.RAMMiB - before.RAMMiB}
	was := used
	used.Project = s.Project
	used.Cores += more.VCPUs
	used.RAMMiB += more.RAMMiB
	if more.VCPUs > 0 && exceeds(used.Cores, quota.Cores) || more.RAMMiB > 0 && exceeds(used.RAMMiB, quota.RAMMiB) {
		return tooMany(quota, was, more, 1, 1)
	}
	return store.Put(tx, tables.QuotaUsages, s.Project, used)
}

func (c *call) confirmResize(s *cloud.Server, _ *openstack.Object) error {
	if err := c.decide(s, decision{cloud.OpConfirm, cloud.IntentConfirm, cloud.TaskResizeConfirming}); err != nil {
		return err
	}
	return c.status(http.StatusNoContent)
}

func (c *call) revertResize(s *cloud.Server, _ *openstack.Object) error {
	if err := c.decide(s, decision{cloud.OpRevert, cloud.IntentRevert, cloud.TaskResizeReverting}); err != nil {
		return err
	}
	return c.status(http.StatusAccepted)
}

// decision is what a server's owner makes of a finished move.
type decision struct {
	op   cloud.Operation
	kind cloud.IntentKind
	task cloud.TaskState
}

func (c *call) decide(found *cloud.Server, d decision) error {
	order := c.newOrder(d.kind, string(d.op))
	return c.update(func(tx *store.Tx) error {
		s, err := c.serverIn(tx, found.ID)
		if err != nil {
			return err
		}
		if err := c.allow(&s, d.op); err != nil {
			return err
		}
		if s.Resize == nil {
			return invalid("Instance has not been resized.")
		}
		m, err := store.Get(tx, tables.Migrations, s.Resize.Migration)
		if err != nil || m.Status != cloud.MigrationFinished {
			return invalid("Instance has not been resized.")
		}
		order.intent.Migration = m.ID
		s.Task = d.task
		return order.place(tx, &s)
	})
}
