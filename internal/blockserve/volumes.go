package blockserve

import (
	"errors"
	"fmt"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/volume"
	"github.com/godwit-cloud/godwit/nbd"
)

// Lease is a connection's right to use an attachment, from Admit to Close. *volume.Lease is one, and says what the methods promise.
type Lease interface {
	Begin() volume.Verdict
	EndAt(off, length int64)
	Ended(off, length int64, fills bool, err error)
	Await(done func(error))
	Err() error
	Refusal() error
	SyncFailed(err error)
	SyncErr() error
	Attachment() volume.Attachment
	File() volume.File
	Align() int
	Size() int64
	Limiter() *volume.Limiter
	Close()
}

// Volumes finds what is exported. Its methods must not block.
type Volumes interface {
	// Admit lets a connection use an export. Of visit, Volume and Attachment are for Admit to fill in. cloud.KindForbidden: the export is another
	// host's; any other error: there is no such export.
	Admit(export string, visit volume.Visit) (Lease, error)
	// List returns the exports that a host may be told of.
	List(host cloud.HostName) []nbd.Listing
}

// ExportName returns the name by which an attachment's clients ask for it.
func ExportName(id cloud.VolumeID, attachment cloud.AttachmentID) string {
	return string(id) + "/" + string(attachment)
}

// Stores exports the open attachments of stores, by ExportName. They are not listed: a name is known to whom it was given.
func Stores(stores ...*volume.Store) Volumes { return storeExports(stores) }

type storeExports []*volume.Store

// Admit implements Volumes.
func (s storeExports) Admit(export string, visit volume.Visit) (Lease, error) {
	id, attachment, ok := strings.Cut(export, "/")
	if !ok {
		return nil, fmt.Errorf("no export is called %q", export)
	}
	visit.Volume, visit.Attachment = cloud.VolumeID(id), cloud.AttachmentID(attachment)
	var errs []error
	for _, store := range s {
		lease, err := store.Admit(visit)
		if err == nil {
			return lease, nil
		}
		if !cloud.Is(err, cloud.KindNotFound) {
			return nil, err
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// List implements Volumes.
func (storeExports) List(cloud.HostName) []nbd.Listing { return nil }
