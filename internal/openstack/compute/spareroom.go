package compute

import (
	"strconv"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/spare"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// warnSpare judges what would be left if the largest hosts died after the changes. When servers would find no room, the answer carries a warning (the header
// Warning, code 299), or the request is refused if that is wanted and the changes are what makes it worse. Clients that know nothing of it see nothing.
func (c *call) warnSpare(changes ...spare.Change) error {
	if c.spare.Hosts == 0 {
		return nil
	}
	snap, servers := tables.Snapshot(c.view, c.now()), store.All(c.view, tables.Servers)
	next, then := spare.With(c.spare, &snap, servers, changes)
	after := spare.Judge(c.spare, next, then)
	if !after.Short() {
		return nil
	}
	text := "the cloud has no spare room for the servers of hosts that die"
	if c.admin() { // which hosts there are is not everybody's business
		text += ": " + after.Describe()
	}
	if c.spareRefuse && spare.Worse(spare.Judge(c.spare, &snap, servers), after) {
		return cloud.Errorf(cloud.KindForbidden, "After this request %s.", text)
	}
	c.w.Header().Add("Warning", "299 godwit "+strconv.Quote(text))
	return nil
}

// warnSpareOfBoot is warnSpare for the servers of a plan.
func (c *call) warnSpareOfBoot(plan *bootPlan, count int) error {
	if c.spare.Hosts == 0 {
		return nil
	}
	changes := make([]spare.Change, count)
	for i := range changes {
		changes[i].Server = plan.server(i, count)
	}
	return c.warnSpare(changes...)
}
