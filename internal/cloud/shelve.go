package cloud

// Shelved is what is remembered of a server while it is shelved.
type Shelved struct {
	Image     ImageID  `json:"image,omitempty"`      // what its root disk was; empty when it boots from a volume
	Base      ImageID  `json:"base,omitempty"`       // the image that it was booted from, which it shows again afterwards
	Zone      string   `json:"zone,omitempty"`       // unshelve: where it is to come back (2.77)
	AskedHost HostName `json:"asked_host,omitempty"` // unshelve: on which host (2.91)
	Pinned    bool     `json:"pinned,omitempty"`     // unshelve: Zone replaces the zone asked for at creation, even by none
}

// Reimage is what a rebuild makes of a server.
type Reimage struct {
	Image        ImageID           `json:"image"`
	Format       string            `json:"format"`
	Bytes        int64             `json:"bytes"`
	VirtualBytes int64             `json:"virtual_bytes"`
	Hash         string            `json:"hash"`
	Properties   map[string]string `json:"properties,omitempty"`
	Volume       VolumeID          `json:"volume,omitempty"`      // the root disk, which gets the image's data
	KeepVolume   bool              `json:"keep_volume,omitempty"` // the root disk is a volume and keeps its data: the server is only made anew
	Stopped      bool              `json:"stopped"`               // it was stopped, and is afterwards
}
