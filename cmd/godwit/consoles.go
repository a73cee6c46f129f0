package main

import (
	"context"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

// consoles is compute.ConsoleReader on the pool of connected hosts.
type consoles struct{ pool *hostapi.Pool }

// consoleMax bounds reading a console: a request waits on it.
const consoleMax = 10 * time.Second

// ReadConsole implements compute.ConsoleReader.
func (c consoles) ReadConsole(ctx context.Context, host cloud.HostName, server cloud.ServerID, lines int) ([]byte, error) {
	client, err := c.pool.Host(host)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, consoleMax)
	defer cancel()
	reply, err := client.Console(ctx, &hostpb.ConsoleRequest{ServerId: string(server), Lines: int64(lines)})
	return reply.GetData(), err
}
