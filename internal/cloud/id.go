package cloud

// The typed identifiers. All but HostName are UUIDs in canonical form or, where the dialect wants it, 32 hexadecimal digits.
type (
	// ServerID identifies a server (a virtual machine).
	ServerID string
	// HostName is a compute host's unique name; it is what OpenStack shows as host and hypervisor_hostname.
	HostName string
	// FlavorID identifies a flavor as clients name it ("1", "m1.small" or a UUID).
	FlavorID string
	// ImageID identifies an image.
	ImageID string
	// NetworkID identifies a virtual network.
	NetworkID string
	// SubnetID identifies a subnet of a network.
	SubnetID string
	// PortID identifies a port, the attachment point of one NIC.
	PortID string
	// SecurityGroupID identifies a security group.
	SecurityGroupID string
	// MigrationID is a migration's UUID; Migration.Number is the integer Nova's older microversions show.
	MigrationID string
	// IntentID identifies an intent and, later, the run of the flow that carries it out.
	IntentID string
	// AggregateID is a host aggregate's UUID; Aggregate.Number is the integer Nova shows.
	AggregateID string
	// GroupID identifies a server group.
	GroupID string
	// ProjectID identifies a project (tenant).
	ProjectID string
	// UserID identifies a user.
	UserID string
	// DomainID identifies a Keystone domain.
	DomainID string
	// RoleID identifies a role.
	RoleID string
	// VolumeID identifies a volume.
	VolumeID string
	// SnapshotID identifies a volume snapshot.
	SnapshotID string
	// VolumeTypeID identifies a volume type.
	VolumeTypeID string
	// AttachmentID identifies an attachment of a volume to a server.
	AttachmentID string
)
