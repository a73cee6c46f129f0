package compute

import (
	"errors"
	"net/http"
	"slices"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/spare"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// liveMigrateBody is the body of the action os-migrateLive.
type liveMigrateBody struct {
	Ask struct {
		Host       *hostName `json:"host" api:"required;null"`
		Block      blockKind `json:"block_migration" api:"required"`
		Overcommit boolean   `json:"disk_over_commit" api:"required;until=2.24"`
		Force      boolean   `json:"force" api:"since=2.30;until=2.67"`
	} `json:"os-migrateLive" api:"required"`
}

// blockKind is block_migration: a boolean, or from 2.25 on "auto".
type blockKind struct {
	raw  any
	kind cloud.MigrationKind
}

// BindJSON keeps the value too, because "auto" is judged when the microversion is known.
func (b *blockKind) BindJSON(v any) error {
	b.raw = v
	if v == "auto" {
		b.kind = cloud.MigrateAuto
		return nil
	}
	block, err := parseBoolean(v, ", 'auto'")
	b.kind = cloud.MigrateShared
	if block {
		b.kind = cloud.MigrateBlock
	}
	return err
}

// A move is a live migration as it was asked for.
type move struct {
	kind   cloud.MigrationKind
	target cloud.HostName // empty: placement chooses
	force  bool           // the target is not judged by placement's policy
}

// readMove reads the action's body.
func (c *call) readMove(o *openstack.Object) (move, error) {
	var body liveMigrateBody
	if err := openstack.Bind(o, &body, c.r.Version); err != nil {
		return move{}, err
	}
	ask := &body.Ask
	if ask.Block.kind == cloud.MigrateAuto && !c.since(25) {
		_, err := parseBoolean(ask.Block.raw, "")
		return move{}, inside(inside(err, "block_migration", ask.Block.raw), "os-migrateLive", nil)
	}
	m := move{kind: ask.Block.kind, force: bool(ask.Force)}
	if ask.Host != nil {
		m.target = cloud.HostName(*ask.Host)
	}
	if m.force && m.target == "" {
		return m, invalid("Can't force to a non-provided destination")
	}
	// Until 2.29 a named host was always taken at the caller's word.
	m.force = m.force || m.target != "" && !c.since(30)
	return m, nil
}

// liveMigrate asks for a live migration. Up to 2.33 what can be known to fail is refused at once; from 2.34 on only a host that does not
// exist is, and the rest shows as a failed action.
func (c *call) liveMigrate(found *cloud.Server, o *openstack.Object) error {
	m, err := c.readMove(o)
	if err != nil {
		return err
	}
	if err := c.allow(found, cloud.OpLiveMigrate); err != nil {
		return err
	}
	if m.target != "" {
		if _, ok := store.Lookup(c.view, tables.Hosts, m.target); !ok {
			return invalid("Compute host %s could not be found.", m.target)
		}
	}
	err = c.precheck(found, m)
	if err != nil && !c.since(34) {
		return err
	}
	// From 2.34 on the refusal is the flow's to make. It does not judge a forced host, so a force that would harm the guest is not passed on.
	m.force = m.force && err == nil
	if err := c.warnSpare(spare.Change{Server: found, From: found.Host, To: m.target}); err != nil {
		return err
	}
	if err := c.askMove(found.ID, m); err != nil {
		return err
	}
	return c.status(http.StatusAccepted)
}

// askMove writes the migration, its intent and its action.
func (c *call) askMove(id cloud.ServerID, m move) error {
	order := c.newOrder(cloud.IntentMigrate, "live-migration")
	migration := cloud.Migration{
		ID: cloud.MigrationID(newID()), Server: id, Project: c.r.Caller.Project, User: c.r.Caller.User, Type: cloud.TypeLiveMigration, Asked: m.kind,
		AskedTarget: m.target, Force: m.force, Status: cloud.MigrationQueued, Intent: order.intent.ID,
		Created: order.intent.Created, Updated: order.intent.Created,
	}
	order.intent.Migration = migration.ID
	return c.update(func(tx *store.Tx) error {
		s, err := c.serverIn(tx, id)
		if err != nil {
			return err
		}
		if err := c.allow(&s, cloud.OpLiveMigrate); err != nil {
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
		s.Task = cloud.TaskMigrating
		return order.place(tx, &s)
	})
}

// precheck refuses what Nova's conductor refused before 2.34, in its order and words.
func (c *call) precheck(s *cloud.Server, m move) error {
	snap := tables.Snapshot(c.view, c.now())
	if s.Power == cloud.PowerShutdown || s.Power == cloud.PowerCrashed {
		return conflict("Cannot 'os-migrateLive' instance %s while it is in power_state %s", s.ID, map[cloud.PowerState]string{cloud.PowerShutdown: "shutdown", cloud.PowerCrashed: "crashed"}[s.Power])
	}
	source, ok := hostView(&snap, s.Host)
	if !ok || !source.Up {
		return serviceUnavailable(s.Host)
	}
	request := placement.ForMigration(s, &cloud.Migration{AskedTarget: m.target, Asked: m.kind})
	if m.target == "" {
		if err := storageMismatch(&snap, s, nil, m.kind); err != nil {
			return err
		}
		verdicts := placement.Rank(c.policy, &snap, request)
		if len(verdicts) == 0 || !verdicts[0].Fits {
			return placement.NoValidHost(verdicts)
		}
		return nil
	}
	target, _ := hostView(&snap, m.target)
	switch {
	case m.target == s.Host:
		return invalid("Unable to migrate instance (%s) to current host (%s).", s.ID, m.target)
	case !target.Up:
		return serviceUnavailable(m.target)
	}
	if err := storageMismatch(&snap, s, &target, m.kind); err != nil {
		return err
	}
	if err := c.room(&snap, s, target); err != nil {
		return err
	}
	if m.force {
		request.Zone = "" // taken at the caller's word; what would harm the guest is still refused
		target.Host.Disabled = false
	}
	reasons := placement.Check(c.policy, &snap, target, request)
	if len(reasons) == 0 {
		return nil
	}
	if m.force {
		return preCheckError("%s", reasons[0])
	}
	return placement.NoValidHost([]cloud.Verdict{{Host: m.target, Reasons: reasons}})
}

// room refuses a named target without memory or disk, with Nova's sentences.
func (c *call) room(snap *cloud.Snapshot, s *cloud.Server, target cloud.HostView) error {
	capacity, claimed, need := c.policy.Capacity(target.Report), target.Usage.Total(), s.Resources()
	if free := capacity.RAMMiB - claimed.RAMMiB; free < need.RAMMiB {
		return preCheckError("Unable to migrate %s to %s: Lack of memory(host:%d <= instance:%d)", s.ID, target.Host.Name, free, need.RAMMiB)
	}
	shared := false
	if source, ok := hostView(snap, s.Host); ok {
		shared = placement.ResolvedKind(source.Report, target.Report) == cloud.MigrateShared
	}
	if free := capacity.DiskGiB - claimed.DiskGiB; !shared && free < need.DiskGiB {
		return preCheckError("Unable to migrate %s: Disk of instance is too large(available on destination host:%d < need:%d)", s.ID, int64(free)<<30, int64(need.DiskGiB)<<30)
	}
	return nil
}

func preCheckError(format string, args ...any) error {
	return cloud.E(cloud.KindInvalid, "", "", errors.New("Migration pre-check error: "+textf(format, args...)))
}

func serviceUnavailable(host cloud.HostName) error {
	return invalid("Compute service of %s is unavailable at this time.", host)
}

// storageMismatch refuses a kind of migration that the storage of source and target does not allow. Without a target it refuses only what no
// host could allow.
func storageMismatch(snap *cloud.Snapshot, s *cloud.Server, target *cloud.HostView, kind cloud.MigrationKind) error {
	source, _ := hostView(snap, s.Host)
	switch {
	case kind == cloud.MigrateAuto:
		return nil
	case s.RootDevice() != nil && kind == cloud.MigrateBlock: // to Nova, a volume is a disk that both hosts share
		return invalid("%s is not on local storage: Block migration can not be used with shared storage.", source.Host.Name)
	case s.RootDevice() != nil:
		return nil
	}
	candidates := snap.Hosts
	if target != nil {
		candidates = []cloud.HostView{*target}
	}
	possible := slices.ContainsFunc(candidates, func(h cloud.HostView) bool {
		return h.Host.Name != source.Host.Name && placement.ResolvedKind(source.Report, h.Report) == kind
	})
	switch {
	case possible || target == nil && len(candidates) < 2:
		return nil // without any other host, "no valid host" says more
	case kind == cloud.MigrateBlock:
		return invalid("%s is not on local storage: Block migration can not be used with shared storage.", source.Host.Name)
	}
	return invalid("%s is not on shared storage: Shared storage live-migration requires either shared storage or boot-from-volume with no local disks.", source.Host.Name)
}

// hostView finds a host in a snapshot.
func hostView(snap *cloud.Snapshot, name cloud.HostName) (cloud.HostView, bool) {
	i := slices.IndexFunc(snap.Hosts, func(h cloud.HostView) bool { return h.Host.Name == name })
	if i < 0 {
		return cloud.HostView{}, false
	}
	return snap.Hosts[i], true
}
