package compute

import (
	"slices"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

var aggregateRoutes = []route{
	{pattern: "GET /os-aggregates", handle: (*call).listAggregates},
	{pattern: "POST /os-aggregates", handle: (*call).createAggregate},
	{pattern: "GET /os-aggregates/{id}", handle: (*call).showAggregate},
	{pattern: "PUT /os-aggregates/{id}", handle: (*call).updateAggregate},
	{pattern: "DELETE /os-aggregates/{id}", handle: (*call).deleteAggregate},
	{pattern: "POST /os-aggregates/{id}/action", handle: (*call).aggregateAction},
	{pattern: "POST /os-aggregates/{id}/images", from: 81, handle: adminRefusal("compute:aggregates:images", unsupported)},
}

func (c *call) aggregateView(a *cloud.Aggregate) object {
	metadata := a.Metadata
	if metadata == nil {
		metadata = map[string]string{}
	}
	hosts := a.Hosts
	if hosts == nil {
		hosts = []cloud.HostName{}
	}
	out := object{
		"id": a.Number, "name": a.Name, "availability_zone": textOrNull(a.Metadata[cloud.MetaZone]), "hosts": hosts, "metadata": metadata,
		"created_at": openstack.TimeMicros(a.Created), "updated_at": openstack.OptionalTime(a.Updated, openstack.TimeMicros),
		"deleted": false, "deleted_at": nil,
	}
	if c.since(41) {
		out["uuid"] = a.ID
	}
	return out
}

func (c *call) listAggregates() error {
	if err := c.mayAdmin("os-aggregates:index"); err != nil {
		return err
	}
	all := store.All(c.view, tables.Aggregates)
	slices.SortFunc(all, func(a, b *cloud.Aggregate) int { return a.Number - b.Number })
	out := make([]object, len(all))
	for i, a := range all {
		out[i] = c.aggregateView(a)
	}
	return c.ok(object{"aggregates": out})
}

// findAggregate resolves the number in the path, after the caller's right was checked.
func (c *call) findAggregate(rule string) (*cloud.Aggregate, error) {
	if err := c.mayAdmin("os-aggregates:" + rule); err != nil {
		return nil, err
	}
	id := c.path("id")
	if !decimal.MatchString(id) {
		return nil, invalid("Invalid input received: id must be an integer")
	}
	a, ok := store.One(c.view, tables.Aggregates, tables.ByNumber, id)
	if !ok {
		return nil, notFound("Aggregate %s could not be found.", id)
	}
	return a, nil
}

func (c *call) showAggregate() error {
	a, err := c.findAggregate("show")
	if err != nil {
		return err
	}
	return c.ok(object{"aggregate": c.aggregateView(a)})
}

// aggregateBody is the body of POST and PUT.
type aggregateBody struct {
	Aggregate struct {
		Name *displayName `json:"name"`
		Zone *zoneName    `json:"availability_zone" api:"null"`
	} `json:"aggregate" api:"required"`
}

// aggregateBody reads the body, and what is in it as it was sent.
func (c *call) aggregateBody() (body aggregateBody, inner any, err error) {
	o, err := c.r.Object(c.w)
	if err != nil {
		return body, nil, err
	}
	if err := openstack.Bind(o, &body, c.r.Version); err != nil {
		return body, nil, err
	}
	inner, _ = o.Get("aggregate")
	return body, inner, nil
}

func (c *call) createAggregate() error {
	if err := c.mayAdmin("os-aggregates:create"); err != nil {
		return err
	}
	body, inner, err := c.aggregateBody()
	if err != nil {
		return err
	}
	if body.Aggregate.Name == nil {
		return &openstack.InputError{Path: []string{"aggregate"}, Value: inner, Reason: "'name' is a required property"}
	}
	a := cloud.Aggregate{ID: cloud.AggregateID(newID()), Name: strings.TrimSpace(string(*body.Aggregate.Name)), Metadata: map[string]string{}, Created: c.now()}
	if body.Aggregate.Zone != nil {
		a.Metadata[cloud.MetaZone] = string(*body.Aggregate.Zone)
	}
	err = c.update(func(tx *store.Tx) error {
		if err := freeAggregateName(tx, a.Name, a.ID); err != nil {
			return err
		}
		number, err := tables.Next(tx, tables.CountAggregates)
		if err != nil {
			return err
		}
		a.Number = number
		return store.Create(tx, tables.Aggregates, a.ID, a)
	})
	if err != nil {
		return err
	}
	out := c.aggregateView(&a)
	delete(out, "hosts")
	delete(out, "metadata")
	return c.ok(object{"aggregate": out})
}

// freeAggregateName refuses a name that another aggregate has.
func freeAggregateName(tx *store.Tx, name string, id cloud.AggregateID) error {
	other, err := store.GetBy(tx, tables.Aggregates, tables.ByName, name)
	switch {
	case cloud.Is(err, cloud.KindNotFound):
		return nil
	case err != nil:
		return err
	case other.ID != id:
		return conflict("Aggregate %s already exists.", name)
	}
	return nil
}

// changeAggregate changes an aggregate and answers with it.
func (c *call) changeAggregate(found *cloud.Aggregate, change func(tx *store.Tx, a *cloud.Aggregate) error) error {
	now := c.now()
	err := c.update(func(tx *store.Tx) error {
		a, err := store.Get(tx, tables.Aggregates, found.ID)
		if cloud.Is(err, cloud.KindNotFound) {
			return notFound("Aggregate %d could not be found.", found.Number)
		}
		if err != nil {
			return err
		}
		if err := change(tx, &a); err != nil {
			return err
		}
		a.Updated = now
		return store.Put(tx, tables.Aggregates, a.ID, a)
	})
	if err != nil {
		return err
	}
	a, ok := store.Lookup(c.view, tables.Aggregates, found.ID)
	if !ok {
		return notFound("Aggregate %d could not be found.", found.Number)
	}
	return c.ok(object{"aggregate": c.aggregateView(a)})
}

func (c *call) updateAggregate() error {
	if err := c.mayAdmin("os-aggregates:update"); err != nil {
		return err
	}
	body, inner, err := c.aggregateBody()
	if err != nil {
		return err
	}
	_, zoneGiven := inner.(*openstack.Object).Get("availability_zone")
	if body.Aggregate.Name == nil && !zoneGiven {
		return inside(openstack.Refuse(inner, "is not valid under any of the given schemas"), "aggregate", inner)
	}
	found, err := c.findAggregate("update")
	if err != nil {
		return err
	}
	return c.changeAggregate(found, func(tx *store.Tx, a *cloud.Aggregate) error {
		if body.Aggregate.Name != nil {
			a.Name = strings.TrimSpace(string(*body.Aggregate.Name))
			if err := freeAggregateName(tx, a.Name, a.ID); err != nil {
				return err
			}
		}
		if !zoneGiven {
			return nil
		}
		zone := ""
		setIf(&zone, body.Aggregate.Zone)
		return c.setAggregateMetadata(tx, a, metadataOrNull{cloud.MetaZone: &zone}, "Cannot update aggregate %d. Reason: %s.")
	})
}

// setAggregateMetadata changes metadata and guards the zone: a host is in one zone, and does not change it under a server.
func (c *call) setAggregateMetadata(tx *store.Tx, a *cloud.Aggregate, changes metadataOrNull, refusal string) error {
	if zone, given := changes[cloud.MetaZone]; given {
		if reason, err := c.zoneTrouble(tx, a, zone); err != nil || reason != "" {
			if err == nil {
				err = invalid(refusal, a.Number, reason)
			}
			return err
		}
	}
	metadata := map[string]string{}
	for name, value := range a.Metadata {
		metadata[name] = value
	}
	for name, value := range changes {
		if value == nil {
			delete(metadata, name)
		} else {
			metadata[name] = *value
		}
	}
	a.Metadata = metadata
	return nil
}

// zoneTrouble says why an aggregate cannot take a zone; nil removes it.
func (c *call) zoneTrouble(tx *store.Tx, a *cloud.Aggregate, zone *string) (string, error) {
	wanted := ""
	setIf(&wanted, zone)
	if zone == nil || wanted == "" {
		return textf("Aggregate %s does not support empty named availability zone", a.Name), nil
	}
	others, err := otherZones(tx, a, a.Hosts, wanted)
	switch {
	case err != nil:
		return "", err
	case len(others) > 0:
		return textf("One or more hosts already in availability zone(s) %s", quoteAll(others)), nil
	case a.Metadata[cloud.MetaZone] == wanted:
		return "", nil
	}
	for _, h := range a.Hosts {
		if len(store.By(c.view, tables.Servers, tables.ByHost, h)) > 0 {
			return "One or more hosts contain instances in this zone", nil
		}
	}
	return "", nil
}

// otherZones returns the zones, other than the wanted one, that aggregates other than a give to any of the hosts.
func otherZones(tx *store.Tx, a *cloud.Aggregate, hosts []cloud.HostName, wanted string) ([]string, error) {
	all, err := store.List(tx, tables.Aggregates, cloud.AggregateID(""))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, other := range all {
		zone := other.Metadata[cloud.MetaZone]
		shares := slices.ContainsFunc(other.Hosts, func(h cloud.HostName) bool { return slices.Contains(hosts, h) })
		if other.ID != a.ID && zone != "" && zone != wanted && shares {
			out = append(out, zone)
		}
	}
	return out, nil
}

func (c *call) deleteAggregate() error {
	found, err := c.findAggregate("delete")
	if err != nil {
		return err
	}
	err = c.update(func(tx *store.Tx) error {
		a, err := store.Get(tx, tables.Aggregates, found.ID)
		if cloud.Is(err, cloud.KindNotFound) {
			return notFound("Aggregate %d could not be found.", found.Number)
		}
		if err == nil && len(a.Hosts) > 0 {
			return invalid("Cannot remove host from aggregate %d. Reason: Host aggregate is not empty.", a.Number)
		}
		if err != nil {
			return err
		}
		return store.Delete(tx, tables.Aggregates, found.ID)
	})
	if err != nil {
		return err
	}
	return c.status(200)
}

// aggregateActionBody is the body of the aggregate actions, of which one is given.
type aggregateActionBody struct {
	AddHost     *aggregateHost `json:"add_host"`
	RemoveHost  *aggregateHost `json:"remove_host"`
	SetMetadata *struct {
		Metadata metadataOrNull `json:"metadata" api:"required"`
	} `json:"set_metadata"`
}

type aggregateHost struct {
	Host hostName `json:"host" api:"required"`
}

func (c *call) aggregateAction() error {
	o, name, err := c.actionBody()
	if err != nil {
		return err
	}
	if name != "add_host" && name != "remove_host" && name != "set_metadata" {
		return invalid("There is no such action: %s", name)
	}
	var body aggregateActionBody
	if err := openstack.Bind(o, &body, c.r.Version); err != nil {
		return err
	}
	found, err := c.findAggregate(name)
	if err != nil {
		return err
	}
	switch {
	case body.AddHost != nil:
		return c.addAggregateHost(found, cloud.HostName(body.AddHost.Host))
	case body.RemoveHost != nil:
		return c.removeAggregateHost(found, cloud.HostName(body.RemoveHost.Host))
	}
	return c.changeAggregate(found, func(tx *store.Tx, a *cloud.Aggregate) error {
		return c.setAggregateMetadata(tx, a, body.SetMetadata.Metadata, "Cannot update metadata of aggregate %d. Reason: %s.")
	})
}

func (c *call) addAggregateHost(found *cloud.Aggregate, host cloud.HostName) error {
	return c.changeAggregate(found, func(tx *store.Tx, a *cloud.Aggregate) error {
		if _, err := store.Get(tx, tables.Hosts, host); err != nil {
			if cloud.Is(err, cloud.KindNotFound) {
				err = notFound("Compute host %s could not be found.", host)
			}
			return err
		}
		if slices.Contains(a.Hosts, host) {
			return conflict("Aggregate %d already has host %s.", a.Number, host)
		}
		if zone := a.Metadata[cloud.MetaZone]; zone != "" {
			others, err := otherZones(tx, a, []cloud.HostName{host}, zone)
			if err != nil {
				return err
			}
			if len(others) > 0 {
				return conflict("Cannot add host to aggregate %d. Reason: One or more hosts already in availability zone(s) %s.", a.Number, quoteAll(others))
			}
		}
		a.Hosts = append(slices.Clone(a.Hosts), host)
		return nil
	})
}

func (c *call) removeAggregateHost(found *cloud.Aggregate, host cloud.HostName) error {
	return c.changeAggregate(found, func(_ *store.Tx, a *cloud.Aggregate) error {
		if !slices.Contains(a.Hosts, host) {
			return notFound("Cannot remove host %s in aggregate %d", host, a.Number)
		}
		a.Hosts = slices.DeleteFunc(slices.Clone(a.Hosts), func(h cloud.HostName) bool { return h == host })
		return nil
	})
}
