package main

import (
	"context"
	"net/http"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/openstack"
)

// consoles is compute.ConsoleReader on the pool of connected hosts. Only the instance that leads has any (decision 9).
type consoles struct {
	pool   *hostapi.Pool
	name   string                                // of this instance
	leader func(context.Context) (string, error) // name of the one that leads, empty when none does
}

// consoleMax bounds reading a console: a request waits on it.
const consoleMax = 10 * time.Second

// ReadConsole implements compute.ConsoleReader.
func (c consoles) ReadConsole(ctx context.Context, host cloud.HostName, server cloud.ServerID, lines int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, consoleMax)
	defer cancel()
	client, err := c.pool.Host(host)
	if err != nil {
		return nil, c.elsewhere(ctx, err)
	}
	reply, err := client.Console(ctx, &hostpb.ConsoleRequest{ServerId: string(server), Lines: int64(lines)})
	return reply.GetData(), err
}

// elsewhere says why a host is not connected here: err when this instance leads, else who does.
func (c consoles) elsewhere(ctx context.Context, err error) error {
	leader, askErr := c.leader(ctx)
	switch {
	case askErr != nil || leader == c.name:
		return err
	case leader == "":
		return openstack.Fail(http.StatusServiceUnavailable, "No server leads at the moment, please try again.")
	}
	return openstack.Fail(http.StatusServiceUnavailable, "This server stands by: hosts are connected to server %s, which leads.", leader)
}
