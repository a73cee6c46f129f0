package main

import (
	"context"
	"io"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi"
)

func (s *server) images() hostapi.Images { return noImages{} }

type noImages struct{}

func (noImages) Open(_ context.Context, id cloud.ImageID, _ int64) (io.ReadCloser, error) {
	return nil, cloud.Errorf(cloud.KindNotFound, "image %s does not exist", id)
}
