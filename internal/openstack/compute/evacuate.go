package compute

import (
	"net/http"

	"github.com/godwit-cloud/godwit/internal/attachments"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// evacuateBody is the body of the action evacuate.
type evacuateBody struct {
	Ask struct {
		Host      *hostName `json:"host"`
		Shared    boolean   `json:"onSharedStorage" api:"required;until=2.13"`
		AdminPass *string   `json:"adminPass"`
		Force     boolean   `json:"force" api:"since=2.29;until=2.67"`
	} `json:"evacuate" api:"required"`
}

// An evacuation is the action as it was asked for.
type evacuation struct {
	target  cloud.HostName // empty: placement chooses
	force   bool           // the target is not judged by placement's policy
	rebuild bool           // a root disk that only the dead host has is made anew from its image
	stopped bool           // the server is left stopped
}

func (c *call) readEvacuation(o *openstack.Object) (evacuation, error) {
	var body evacuateBody
	if err := openstack.Bind(o, &body, c.r.Version); err != nil {
		return evacuation{}, err
	}
	ask := &body.Ask
	if ask.AdminPass != nil {
		return evacuation{}, invalid("Setting an administrator password (adminPass) is not supported. Use a keypair or user_data.")
	}
	// Until 2.13 callers say whether the disk survives; from 2.14 on it is found out, and a disk that does not is made anew.
	e := evacuation{force: bool(ask.Force), rebuild: c.since(14) || !bool(ask.Shared), stopped: c.since(95)}
	if ask.Host != nil {
		e.target = cloud.HostName(*ask.Host)
	}
	if e.force && e.target == "" {
		return e, invalid("Can't force to a non-provided destination")
	}
	e.force = e.force || e.target != "" && !c.since(29) // until 2.28 a named host was always taken at the caller's word
	return e, nil
}

// evacuate asks that a server whose host is down be started elsewhere.
func (c *call) evacuate(found *cloud.Server, o *openstack.Object) error {
	e, err := c.readEvacuation(o)
	if err != nil {
		return err
	}
	if err := c.allow(found, cloud.OpEvacuate); err != nil {
		return err
	}
	if err := c.mayEvacuate(found, e); err != nil {
		return err
	}
	order := c.newOrder(cloud.IntentEvacuate, "evacuate")
	order.intent.Rebuild, order.intent.Stopped = e.rebuild, e.stopped
	migration := cloud.Migration{
		ID: cloud.MigrationID(newID()), Server: found.ID, Project: c.r.Caller.Project, User: c.r.Caller.User, Type: cloud.TypeEvacuation, Asked: cloud.MigrateAuto,
		AskedTarget: e.target, Force: e.force, Status: cloud.MigrationQueued, Intent: order.intent.ID, Created: order.intent.Created, Updated: order.intent.Created,
	}
	order.intent.Migration = migration.ID
	err = c.update(func(tx *store.Tx) error {
		s, err := c.serverIn(tx, found.ID)
		if err != nil {
			return err
		}
		if err := c.allow(&s, cloud.OpEvacuate); err != nil {
			return err
		}
		number, err := tables.Next(tx, tables.CountMigrations)
		if err != nil {
			return err
		}
		record := migration
		record.Number, record.Source = number, s.Host
		if err := store.Create(tx, tables.Migrations, record.ID, record); err != nil {
			return err
		}
		s.Task = cloud.TaskRebuilding
		return order.place(tx, &s)
	})
	if err != nil {
		return err
	}
	return c.status(http.StatusOK)
}

// mayEvacuate refuses what Nova refuses, in its order and words.
func (c *call) mayEvacuate(s *cloud.Server, e evacuation) error {
	if s.Host == "" {
		return conflict("Instance %s is not ready", s.ID)
	}
	if e.target != "" {
		if _, ok := store.Lookup(c.view, tables.Hosts, e.target); !ok {
			return notFound("Compute host %s not found.", e.target)
		}
	}
	if e.target == s.Host {
		return invalid("The target host can't be the same one.")
	}
	snap := tables.Snapshot(c.view, c.now())
	source, ok := hostView(&snap, s.Host)
	if ok && source.Up {
		return invalid("Compute service of %s is still in use.", s.Host)
	}
	if s.RootDevice() == nil && !e.rebuild && !sharedElsewhere(&snap, &source) {
		return invalid("Invalid state of instance files on shared storage: the root disk of %s is on host %s alone. With onSharedStorage=False it is made anew from its image.", s.ID, s.Host)
	}
	if _, fenced := store.Lookup(c.view, tables.BMCs, s.Host); ok && !source.Host.ForcedDown && !fenced && !attachments.Guarded(c.view, s) {
		return conflict("%s", cloud.NotKnownToBeOff(s.Host).Error()) // Nova would start it and hope
	}
	return nil
}

// sharedElsewhere reports whether another host has the directory of the source's servers.
func sharedElsewhere(snap *cloud.Snapshot, source *cloud.HostView) bool {
	for i := range snap.Hosts {
		if h := &snap.Hosts[i]; h.Host.Name != source.Host.Name && placement.ResolvedKind(source.Report, h.Report) == cloud.MigrateShared {
			return true
		}
	}
	return false
}
