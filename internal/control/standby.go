package control

import "context"

// Leader returns the name of the instance that leads; empty when none does at the moment.
func (c *Control) Leader(ctx context.Context) (string, error) {
	name, _, err := c.options.Store.Leader(ctx, electionName)
	return name, err
}
