package compute

import (
	"maps"
	"net/http"
	"slices"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// createImageBody is the body of the action createImage.
type createImageBody struct {
	Ask struct {
		Name     displayName `json:"name" api:"required"`
		Metadata metadata    `json:"metadata"`
	} `json:"createImage" api:"required"`
}

// createImage asks for an image of a server's root disk, or of its volumes.
func (c *call) createImage(found *cloud.Server, o *openstack.Object) error {
	var body createImageBody
	if err := openstack.Bind(o, &body, c.r.Version); err != nil {
		return err
	}
	if len(body.Ask.Metadata) > 0 {
		if err := c.checkMetadataQuota(len(body.Ask.Metadata)); err != nil {
			return err
		}
	}
	if err := c.allow(found, cloud.OpCreateImage); err != nil {
		return err
	}
	image := cloud.ImageID(newID())
	if found.RootDevice() != nil {
		if err := c.createVolumeImage(found, c.imageOf(found, image, string(body.Ask.Name), body.Ask.Metadata)); err != nil {
			return err
		}
		return c.answerImage(image)
	}
	order := c.newOrder(cloud.IntentCapture, "createImage")
	order.intent.Image = image
	err := c.update(func(tx *store.Tx) error {
		s, err := c.serverIn(tx, found.ID)
		if err != nil {
			return err
		}
		if err := c.allow(&s, cloud.OpCreateImage); err != nil {
			return err
		}
		if err := store.Create(tx, tables.Images, image, c.imageOf(&s, image, string(body.Ask.Name), body.Ask.Metadata)); err != nil {
			return err
		}
		s.Task = cloud.TaskImageSnapshotPending
		return order.place(tx, &s)
	})
	if err != nil {
		return err
	}
	return c.answerImage(image)
}

// imageOf is the record of an image of a server, before it has data: raw, with what Nova writes into its properties.
func (c *call) imageOf(s *cloud.Server, id cloud.ImageID, name string, more map[string]string) cloud.Image {
	now := c.now()
	properties := maps.Clone(s.ImageProperties)
	if properties == nil {
		properties = map[string]string{}
	}
	maps.Copy(properties, map[string]string{
		"instance_uuid": string(s.ID), "user_id": string(c.r.Caller.User), "image_type": "snapshot", "image_location": "snapshot", "image_state": "available",
		"base_image_ref": string(s.OwnersImage()), "owner_id": string(s.Project), "owner_project_id": string(s.Project), "boot_roles": "member",
	})
	maps.Copy(properties, more)
	return cloud.Image{
		ID: id, Name: name, Owner: s.Project, Visibility: "private", DiskFormat: "raw", ContainerFormat: "bare", MinDiskGiB: s.Flavor.RootGiB,
		Status: cloud.ImageQueued, HashAlgo: "sha512", Properties: properties, Created: now, Updated: now,
	}
}

// rebuildBody is the body of the action rebuild.
type rebuildBody struct {
	Rebuild struct {
		Image        imageRef      `json:"imageRef" api:"required"`
		Name         *displayName  `json:"name"`
		AdminPass    *string       `json:"adminPass"`
		Metadata     *metadata     `json:"metadata"`
		DiskConfig   string        `json:"OS-DCF:diskConfig" api:"enum=AUTO|MANUAL"`
		AccessIPv4   *accessIPv4   `json:"accessIPv4"`
		AccessIPv6   *accessIPv6   `json:"accessIPv6"`
		Ephemeral    boolean       `json:"preserve_ephemeral"`
		Personality  []personality `json:"personality" api:"until=2.56"`
		Description  description   `json:"description" api:"since=2.19"`
		KeyName      *displayName  `json:"key_name" api:"since=2.54;null"`
		UserData     *userData     `json:"user_data" api:"since=2.57;null"`
		Certificates *[]string     `json:"trusted_image_certificates" api:"since=2.63;null;len=1..50;unique"`
		Hostname     *guestName    `json:"hostname" api:"since=2.90"`
	} `json:"rebuild" api:"required"`
}

// rebuildServer asks that a server's root disk be made anew from an image.
func (c *call) rebuildServer(found *cloud.Server, o *openstack.Object) error {
	var body rebuildBody
	if err := openstack.Bind(o, &body, c.r.Version); err != nil {
		return err
	}
	ask := &body.Rebuild
	image, err := c.mayRebuild(found, &body)
	if err != nil {
		return err
	}
	key, public, hasKey := "", "", saysOf(o, "rebuild", "key_name")
	if ask.KeyName != nil {
		pair, ok := store.Lookup(c.view, tables.Keypairs, tables.KeypairKey(c.r.Caller.User, string(*ask.KeyName)))
		if !ok {
			return invalid("Invalid key_name provided.")
		}
		key, public = pair.Name, pair.PublicKey
	}
	order := c.newOrder(cloud.IntentRebuild, "rebuild")
	err = c.update(func(tx *store.Tx) error {
		s, err := c.serverIn(tx, found.ID)
		if err != nil {
			return err
		}
		if err := c.allow(&s, cloud.OpRebuild); err != nil {
			return err
		}
		placed := order
		placed.intent.Reimage = &cloud.Reimage{
			Image: image.ID, Format: image.DiskFormat, Bytes: image.SizeBytes, VirtualBytes: image.VirtualBytes, Hash: image.Hash,
			Properties: image.Properties, Stopped: s.VMState == cloud.VMStopped,
		}
		if root := s.RootDevice(); root != nil {
			placed.intent.Reimage.Properties = keptProperties(image.Properties)
			if c.since(93) {
				placed.intent.Reimage.Volume = root.Volume
			} else {
				placed.intent.Reimage.KeepVolume = true
			}
		}
		setIf(&s.Name, ask.Name)
		setIf(&s.Hostname, ask.Hostname)
		setIf(&s.AccessIPv4, ask.AccessIPv4)
		setIf(&s.AccessIPv6, ask.AccessIPv6)
		setIf(&s.UserData, ask.UserData)
		if ask.Metadata != nil {
			s.Metadata = *ask.Metadata
		}
		if ask.Description.set {
			s.Description = ask.Description.text
		}
		if ask.DiskConfig != "" {
			s.DiskConfig = ask.DiskConfig
		}
		if hasKey {
			s.KeyName, s.PublicKey = key, public
		}
		s.Task, s.Fault = cloud.TaskRebuilding, nil
		return placed.place(tx, &s)
	})
	if err != nil {
		return err
	}
	now, err := c.findServer(string(found.ID))
	if err != nil {
		return err
	}
	c.w.Header().Set("Location", c.r.SelfLinks(apiRoot, "/servers/"+string(now.ID))[0].Href)
	return c.reply(http.StatusAccepted, c.oneServer(now, parts{extended: c.since(75), groups: c.since(71)}))
}

// saysOf reports whether the action's object has the property, be it null: then something is to be none afterwards.
func saysOf(o *openstack.Object, action, property string) bool {
	value, _ := o.Get(action)
	inner, ok := value.(*openstack.Object)
	if !ok {
		return false
	}
	_, ok = inner.Get(property)
	return ok
}

// mayRebuild refuses what Nova refuses, in its words, and returns the image.
func (c *call) mayRebuild(s *cloud.Server, body *rebuildBody) (*cloud.Image, error) {
	ask := &body.Rebuild
	if err := ask.Hostname.check(c.minor); err != nil {
		return nil, err
	}
	if err := c.allow(s, cloud.OpRebuild); err != nil {
		return nil, err
	}
	switch {
	case ask.AdminPass != nil:
		return nil, invalid("Setting an administrator password (adminPass) is not supported. Use a keypair or user_data.")
	case len(ask.Personality) > 0:
		return nil, invalid("Personality files are not supported. Use user_data.")
	case ask.Certificates != nil:
		return nil, invalid("Trusted image certificates are not supported.")
	}
	if ask.Metadata != nil {
		if err := c.checkMetadataQuota(len(*ask.Metadata)); err != nil {
			return nil, err
		}
	}
	image, ok := store.Lookup(c.view, tables.Images, cloud.ImageID(ask.Image))
	if !ok || !c.seesImage(image) {
		return nil, invalid("Cannot find image for rebuild")
	}
	if image.Properties[propertyDevices] != "" && image.SizeBytes == 0 {
		return nil, invalid("Image %s is unacceptable: it has no data of its own, only snapshots of volumes.", image.ID)
	}
	if root := s.RootDevice(); root != nil {
		if err := c.mayReimage(root, image); err != nil {
			return nil, err
		}
	} else if err := c.fits(&s.Flavor, image); err != nil {
		return nil, err
	}
	return image, offered(&s.Flavor, image)
}

// shelveServer asks that a server be shut down, kept as an image and taken off its host.
func (c *call) shelveServer(found *cloud.Server, _ *openstack.Object) error {
	if err := c.allow(found, cloud.OpShelve); err != nil {
		return err
	}
	order := c.newOrder(cloud.IntentShelve, "shelve")
	if found.RootDevice() == nil {
		order.intent.Image = cloud.ImageID(newID())
	}
	err := c.update(func(tx *store.Tx) error {
		s, err := c.serverIn(tx, found.ID)
		if err != nil {
			return err
		}
		if err := c.allow(&s, cloud.OpShelve); err != nil {
			return err
		}
		if id := order.intent.Image; id != "" {
			if err := store.Create(tx, tables.Images, id, c.imageOf(&s, id, s.Name+"-shelved", nil)); err != nil {
				return err
			}
		}
		s.Task = cloud.TaskShelving
		return order.place(tx, &s)
	})
	if err != nil {
		return err
	}
	return c.status(http.StatusAccepted)
}

// offloadServer answers the action shelveOffload: shelving takes a server off its host at once, so one that is merely shelved does not stay so.
func (c *call) offloadServer(s *cloud.Server, _ *openstack.Object) error {
	if err := c.allow(s, cloud.OpOffload); err != nil {
		return err
	}
	return c.status(http.StatusAccepted)
}

// unshelveBody is the body of the action unshelve from 2.77 on; what is in it before is ignored, as in Nova.
type unshelveBody struct {
	Ask *struct {
		Zone *displayName `json:"availability_zone" api:"null"`
		Host *hostName    `json:"host" api:"since=2.91"`
	} `json:"unshelve" api:"required;null"`
}

// unshelveServer asks that a shelved server come back.
func (c *call) unshelveServer(found *cloud.Server, o *openstack.Object) error {
	var body unshelveBody
	if c.since(77) {
		if err := openstack.Bind(o, &body, c.r.Version); err != nil {
			return err
		}
	}
	if err := c.allow(found, cloud.OpUnshelve); err != nil {
		return err
	}
	wish := cloud.Shelved{}
	if ask := body.Ask; ask != nil {
		wish.Pinned = saysOf(o, "unshelve", "availability_zone")
		switch {
		case ask.Host != nil && !c.admin():
			return openstack.Forbid("os_compute_api:os-shelve:unshelve_to_host")
		case wish.Pinned && ask.Zone == nil && !c.since(91):
			return invalid("Invalid input for field/attribute availability_zone. Value: None. None is not of type 'string'")
		case ask.Zone != nil:
			wish.Zone = string(*ask.Zone)
			if !slices.Contains(c.openZones(), wish.Zone) {
				return invalid("The requested availability zone is not available")
			}
		}
		if ask.Host != nil {
			wish.AskedHost = cloud.HostName(*ask.Host)
			if _, ok := store.Lookup(c.view, tables.Hosts, wish.AskedHost); !ok {
				return invalid("Compute host %s could not be found.", wish.AskedHost)
			}
			if hosts := (&fleet{view: c.view}); wish.Zone != "" && hosts.zone(wish.AskedHost) != wish.Zone {
				return conflict("Host \"%s\" is not in the availability zone \"%s\".", wish.AskedHost, wish.Zone)
			}
		}
	}
	return c.askUnshelve(found.ID, wish)
}

func (c *call) askUnshelve(id cloud.ServerID, wish cloud.Shelved) error {
	order := c.newOrder(cloud.IntentUnshelve, "unshelve")
	err := c.update(func(tx *store.Tx) error {
		s, err := c.serverIn(tx, id)
		if err != nil {
			return err
		}
		if err := c.allow(&s, cloud.OpUnshelve); err != nil {
			return err
		}
		if s.Shelved == nil {
			return conflict("Cannot 'unshelve' instance %s while it is in vm_state %s", s.ID, s.VMState)
		}
		kept := *s.Shelved
		kept.Zone, kept.Pinned, kept.AskedHost = wish.Zone, wish.Pinned, wish.AskedHost
		s.Shelved = &kept
		if kept.Image != "" {
			image, err := store.Get(tx, tables.Images, kept.Image)
			if err != nil || image.Status != cloud.ImageActive {
				return conflict("Unshelve of instance %s failed: its image %s is not active.", s.ID, kept.Image)
			}
			s.ShownImage = kept.Base
			s.Image, s.ImageFormat, s.ImageBytes, s.ImageVirtualBytes, s.ImageHash = image.ID, image.DiskFormat, image.SizeBytes, image.VirtualBytes, image.Hash
		}
		s.Task = cloud.TaskUnshelving
		return order.place(tx, &s)
	})
	if err != nil {
		return err
	}
	return c.status(http.StatusAccepted)
}
