package main

import (
	"context"
	"fmt"
	"time"

	"github.com/godwit-cloud/godwit/internal/client"
	"github.com/godwit-cloud/godwit/internal/lab"
)

const (
	// introduceMax bounds the wait for the lab's hosts to be known to its server, which they are a moment after its daemons answer.
	introduceMax = 30 * time.Second
	// introducePeriod paces it.
	introducePeriod = 100 * time.Millisecond
)

// introduceBMCs tells a lab's server how each compute host's BMC is reached, so that a host that is dead is fenced by IPMI without anybody's doing.
func introduceBMCs(ctx context.Context, l *lab.Lab) error {
	environ, err := client.Openrc(l.Path(lab.Controller, openrcInLab))
	if err != nil {
		return err
	}
	c, err := client.Connect(ctx, client.Credentials{Environ: environ})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, introduceMax)
	defer cancel()
	if err := awaitHosts(ctx, c, len(l.ComputeNodes())); err != nil {
		return err
	}
	password := lab.BMCPassword
	for _, node := range l.ComputeNodes() {
		if _, err := c.SetBMC(ctx, node, client.BMCSettings{Protocol: "ipmi", Address: l.BMCAddr(node).String(), User: lab.BMCUser, Password: &password}); err != nil {
			return fmt.Errorf("BMC of %s: %w", node, err)
		}
	}
	return nil
}

// awaitHosts waits until the server knows n hosts.
func awaitHosts(ctx context.Context, c *client.Client, n int) error {
	tick := time.NewTicker(introducePeriod)
	defer tick.Stop()
	for {
		hosts, err := c.Hosts(ctx)
		if err != nil || len(hosts) >= n {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d hosts are known to the server: %w", len(hosts), n, context.Cause(ctx))
		}
	}
}
