package tables

import (
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
)

// Orders in which images are found.
const (
	ByOwner      = "owner"
	ByVisibility = "visibility"
)

// Images holds images, by id; their data is in the image store. Written by the edge.
var Images = store.NewTable("images",
	store.Index(ByOwner, func(i *cloud.Image) []string { return one(i.Owner) }),
	store.Index(ByVisibility, func(i *cloud.Image) []string { return one(i.Visibility) }),
	store.Index(ByName, func(i *cloud.Image) []string { return one(i.Name) }),
	store.Index(ByCreated, func(i *cloud.Image) []string { return []string{SortTime(i.Created)} }),
)
