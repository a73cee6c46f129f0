package main

import (
	"context"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/godwit-cloud/godwit/internal/client"
	"github.com/godwit-cloud/godwit/internal/cloud"
)

// completeMax bounds what a press of the tab key may wait for. A slower cloud completes nothing; failures are silent, because their text would end
// up in the middle of the command line.
const completeMax = time.Second

// completeServer offers server names for the first argument.
func (a *access) completeServer(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.completed(cmd, func(ctx context.Context, c *client.Client) (out []string, err error) {
		servers, err := c.Servers(ctx, client.ServerQuery{All: true})
		if cloud.Is(err, cloud.KindForbidden) { // an ordinary user sees one project
			servers, err = c.Servers(ctx, client.ServerQuery{})
		}
		for _, s := range servers {
			out = append(out, s.Name+"\t"+s.Status+" on "+orDash(s.Host))
		}
		return out, err
	})
}

// completeHost offers host names for the first argument.
func (a *access) completeHost(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.completed(cmd, func(ctx context.Context, c *client.Client) (out []string, err error) {
		hosts, err := c.Hosts(ctx)
		for _, h := range hosts {
			out = append(out, string(h.Name)+"\t"+h.State)
		}
		return out, err
	})
}

// completeMove offers what `migrate SERVER [HOST]` takes.
func (a *access) completeMove(cmd *cobra.Command, args []string, part string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 1 {
		return a.completeHost(cmd, nil, part)
	}
	return a.completeServer(cmd, args, part)
}

func (a *access) completed(cmd *cobra.Command, list func(context.Context, *client.Client) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	parent := cmd.Context()
	if parent == nil {
		parent = context.Background()
	}
	ctx, cancel := context.WithTimeout(parent, completeMax)
	defer cancel()
	c, err := a.connect(ctx, io.Discard)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names, err := list(ctx, c)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
