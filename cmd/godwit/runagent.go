package main

import (
	"context"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/config"
)

func runAgent(context.Context, config.Config) error {
	return cloud.Errorf(cloud.KindUnsupported, "this build has no agent")
}
