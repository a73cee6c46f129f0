package network

import (
	"net/http"
	"slices"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/ipam"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

const (
	// tagLenMax is Neutron's bound.
	tagLenMax = 60
	// tagsMax bounds the tags of one resource; they are in every answer about it.
	tagsMax = 50
)

// tagged is how the tags of one kind of resource are reached.
type tagged struct {
	path string
	// see returns the tags as the caller sees the resource in the view.
	see func(c *call) ([]string, error)
	// change applies f to the tags of the resource in the transaction.
	change func(c *call, tx *store.Tx, f func([]string) ([]string, error)) error
}

var taggedKinds = []tagged{
	{"networks", func(c *call) ([]string, error) {
		n, err := c.network(cloud.NetworkID(c.id()))
		if err != nil {
			return nil, err
		}
		return n.Tags, nil
	}, func(c *call, tx *store.Tx, f func([]string) ([]string, error)) error {
		n, err := c.ownNetwork(tx, cloud.NetworkID(c.id()), "update_networks_tags")
		if err != nil {
			return err
		}
		if n.Tags, err = f(n.Tags); err != nil {
			return err
		}
		n.Updated = c.now()
		n.Revision++
		return store.Put(tx, tables.Networks, n.ID, n)
	}},
	{"subnets", func(c *call) ([]string, error) {
		s, ok := store.Lookup(c.view, tables.Subnets, c.id())
		if !ok || !c.seesSubnet(s) {
			return nil, ipam.SubnetNotFound(cloud.SubnetID(c.id()))
		}
		return s.Tags, nil
	}, func(c *call, tx *store.Tx, f func([]string) ([]string, error)) error {
		s, err := c.ownSubnet(tx, cloud.SubnetID(c.id()), "update_subnets_tags")
		if err != nil {
			return err
		}
		if s.Tags, err = f(s.Tags); err != nil {
			return err
		}
		s.Updated = c.now()
		s.Revision++
		return store.Put(tx, tables.Subnets, s.ID, s)
	}},
	{"ports", func(c *call) ([]string, error) {
		p, ok := store.Lookup(c.view, tables.Ports, c.id())
		if !ok || !c.seesPort(p) {
			return nil, ipam.PortNotFound(cloud.PortID(c.id()))
		}
		return p.Tags, nil
	}, func(c *call, tx *store.Tx, f func([]string) ([]string, error)) error {
		p, err := c.ownPort(tx, cloud.PortID(c.id()), "update_ports_tags")
		if err != nil {
			return err
		}
		if p.Tags, err = f(p.Tags); err != nil {
			return err
		}
		p.Updated = c.now()
		p.Revision++
		return store.Put(tx, tables.Ports, p.ID, p)
	}},
	{"security-groups", func(c *call) ([]string, error) {
		g, ok := store.Lookup(c.view, tables.SecurityGroups, c.id())
		if !ok || !c.r.Caller.Sees(g.Project) {
			return nil, ipam.SecurityGroupNotFound(cloud.SecurityGroupID(c.id()))
		}
		return g.Tags, nil
	}, func(c *call, tx *store.Tx, f func([]string) ([]string, error)) error {
		g, err := c.ownGroup(tx, cloud.SecurityGroupID(c.id()))
		if err != nil {
			return err
		}
		if g.Tags, err = f(g.Tags); err != nil {
			return err
		}
		return c.putGroup(tx, &g)
	}},
}

// tagRoutes returns the six routes of each kind that has tags.
func tagRoutes() []route {
	var out []route
	for i := range taggedKinds {
		k := &taggedKinds[i]
		base := "/" + k.path + "/{id}/tags"
		out = append(out,
			route{"GET " + base, openstack.RoleReader, k.list},
			route{"PUT " + base, openstack.RoleMember, k.replace},
			route{"DELETE " + base, openstack.RoleMember, k.clear},
			route{"GET " + base + "/{tag}", openstack.RoleReader, k.has},
			route{"PUT " + base + "/{tag}", openstack.RoleMember, k.add},
			route{"DELETE " + base + "/{tag}", openstack.RoleMember, k.remove},
		)
	}
	return out
}

func (k *tagged) list(c *call) error {
	tags, err := k.see(c)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, "tags", emptyIfNil(tags))
}

func (k *tagged) replace(c *call) error {
	var body struct {
		Tags []string `json:"tags" api:"required;unique"`
	}
	if err := c.r.Decode(c.w, &body); err != nil {
		return err
	}
	if err := k.apply(c, func([]string) ([]string, error) { return body.Tags, nil }); err != nil {
		return err
	}
	return c.reply(http.StatusOK, "tags", body.Tags)
}

func (k *tagged) clear(c *call) error {
	if err := k.apply(c, func([]string) ([]string, error) { return nil, nil }); err != nil {
		return err
	}
	return openstack.NoContent(c.w)
}

func (k *tagged) has(c *call) error {
	tags, err := k.see(c)
	if err != nil {
		return err
	}
	if !slices.Contains(tags, c.r.PathValue("tag")) {
		return tagNotFound(c.r.PathValue("tag"))
	}
	return openstack.NoContent(c.w)
}

func tagNotFound(tag string) error {
	return ipam.Refuse(cloud.KindNotFound, "TagNotFound", "Tag %s could not be found.", tag)
}

func (k *tagged) add(c *call) error {
	tag := c.r.PathValue("tag")
	err := k.apply(c, func(tags []string) ([]string, error) {
		if slices.Contains(tags, tag) {
			return tags, nil
		}
		return append(slices.Clone(tags), tag), nil
	})
	if err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusCreated)
	return nil
}

func (k *tagged) remove(c *call) error {
	tag := c.r.PathValue("tag")
	err := k.apply(c, func(tags []string) ([]string, error) {
		if !slices.Contains(tags, tag) {
			return nil, tagNotFound(tag)
		}
		return slices.DeleteFunc(slices.Clone(tags), func(t string) bool { return t == tag }), nil
	})
	if err != nil {
		return err
	}
	return openstack.NoContent(c.w)
}

// apply changes the tags, and refuses a result that breaks the bounds.
func (k *tagged) apply(c *call, f func([]string) ([]string, error)) error {
	return c.update(func(tx *store.Tx) error {
		return k.change(c, tx, func(tags []string) ([]string, error) {
			out, err := f(tags)
			if err != nil {
				return nil, err
			}
			if len(out) > tagsMax {
				return nil, invalid("a resource has at most %d tags", tagsMax)
			}
			for _, t := range out {
				if t == "" || len(t) > tagLenMax {
					return nil, invalid("'%s' is not a valid tag: 1 to %d characters", t, tagLenMax)
				}
			}
			slices.Sort(out)
			return out, nil
		})
	})
}
