package labcloud

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Migration is a row of os-migrations.
type Migration struct {
	ID      int    `json:"id"`
	UUID    string `json:"uuid"`
	Server  string `json:"instance_uuid"`
	Status  string `json:"status"`
	Source  string `json:"source_compute"`
	Target  string `json:"dest_compute"`
	Created string `json:"created_at"`
	Updated string `json:"updated_at"`
}

// Final reports whether the migration has ended, well or not.
func (m Migration) Final() bool {
	switch m.Status {
	case "completed", "cancelled", "failed", "error":
		return true
	}
	return false
}

// compute sends one request to the compute API and decodes the answer into out (nil: no answer is expected).
func (c *Cloud) compute(ctx context.Context, method, path string, body, out any) error {
	opts := &gophercloud.RequestOpts{OkCodes: []int{200, 202, 204}}
	if body != nil {
		opts.JSONBody = body
	}
	if out != nil {
		opts.JSONResponse = out
	}
	resp, err := c.Compute.Request(ctx, method, c.Compute.ServiceURL(path), opts)
	if err != nil {
		return err
	}
	if out == nil {
		return resp.Body.Close()
	}
	return nil
}

// LiveMigrate asks for a live migration with block_migration auto; host "" lets placement choose. It returns when the API has answered.
func (c *Cloud) LiveMigrate(ctx context.Context, server, host string) error {
	var target any
	if host != "" {
		target = host
	}
	return c.compute(ctx, http.MethodPost, "servers/"+server+"/action", map[string]any{
		"os-migrateLive": map[string]any{"host": target, "block_migration": "auto"},
	}, nil)
}

// Abort asks for a running migration to stop.
func (c *Cloud) Abort(ctx context.Context, server string, migration int) error {
	return c.compute(ctx, http.MethodDelete, fmt.Sprintf("servers/%s/migrations/%d", server, migration), nil, nil)
}

// Migrations lists a server's migrations, newest first.
func (c *Cloud) Migrations(ctx context.Context, server string) ([]Migration, error) {
	var out struct {
		Migrations []Migration `json:"migrations"`
	}
	err := c.compute(ctx, http.MethodGet, "os-migrations?instance_uuid="+url.QueryEscape(server), nil, &out)
	return out.Migrations, err
}

// Moved is a finished migration with the time the caller waited for it.
type Moved struct {
	Migration
	Took time.Duration // API call to ACTIVE on the target, as a client sees it
}

// Move live-migrates a server and waits until the migration has ended and the server is ACTIVE again. A migration that ended otherwise
// than completed is returned, not an error.
func (c *Cloud) Move(ctx context.Context, server, host string) (Moved, error) {
	before, err := c.Migrations(ctx, server)
	if err != nil {
		return Moved{}, err
	}
	began := time.Now()
	if err := c.LiveMigrate(ctx, server, host); err != nil {
		return Moved{}, err
	}
	m, err := c.WaitMigration(ctx, server, len(before))
	if err != nil {
		return Moved{}, err
	}
	if _, err := c.WaitStatus(ctx, server, "ACTIVE"); err != nil {
		return Moved{}, err
	}
	return Moved{m, time.Since(began)}, nil
}

// WaitMigration waits until the server has more than known migrations and the newest has ended.
func (c *Cloud) WaitMigration(ctx context.Context, server string, known int) (Migration, error) {
	var m Migration
	err := Until(ctx, "migration of "+server+" ended", func() (bool, error) {
		list, err := c.Migrations(ctx, server)
		if err != nil || len(list) <= known {
			return false, err
		}
		m = Newest(list)
		return m.Final(), nil
	})
	return m, err
}

// Newest returns the migration with the greatest id.
func Newest(list []Migration) Migration {
	m := list[0]
	for _, other := range list[1:] {
		if other.ID > m.ID {
			m = other
		}
	}
	return m
}

// Record is godwit's own record of a migration: phases with their durations, and QEMU's totals.
func (c *Cloud) Record(ctx context.Context, migration string) (cloud.Migration, error) {
	var out struct {
		Migration cloud.Migration `json:"migration"`
	}
	err := c.operator(ctx, "migrations/"+migration, &out)
	return out.Migration, err
}

// Figures are the latest figures of a migration that runs; false when there are none.
func (c *Cloud) Figures(ctx context.Context, migration string) (cloud.MigrationStats, bool, error) {
	var out struct {
		Migration struct {
			Progress *cloud.MigrationProgress `json:"progress"`
		} `json:"migration"`
	}
	if err := c.operator(ctx, "migrations/"+migration, &out); err != nil || out.Migration.Progress == nil {
		return cloud.MigrationStats{}, false, err
	}
	return out.Migration.Progress.Stats, true, nil
}

// operator asks the operator API, which speaks of what OpenStack has no word for.
func (c *Cloud) operator(ctx context.Context, path string, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.apiURL+"/godwit/v1/"+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("X-Auth-Token", c.token())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return fmt.Errorf("GET /godwit/v1/%s: %s: %s", path, resp.Status, body)
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// Progress is what the API shows of a running migration, in bytes.
type Progress struct {
	MemoryTotal     int64 `json:"memory_total_bytes"`
	MemoryProcessed int64 `json:"memory_processed_bytes"`
	MemoryRemaining int64 `json:"memory_remaining_bytes"`
	DiskTotal       int64 `json:"disk_total_bytes"`
	DiskProcessed   int64 `json:"disk_processed_bytes"`
	DiskRemaining   int64 `json:"disk_remaining_bytes"`
}

// Progress shows the server's running migration; false when none runs.
func (c *Cloud) Progress(ctx context.Context, server string) (Progress, bool, error) {
	var out struct {
		Migrations []Progress `json:"migrations"`
	}
	err := c.compute(ctx, http.MethodGet, "servers/"+server+"/migrations", nil, &out)
	if err != nil || len(out.Migrations) == 0 {
		return Progress{}, false, err
	}
	return out.Migrations[0], true, nil
}

// Claimed reports whether a host still counts a server's resources as taken.
func (c *Cloud) Claimed(ctx context.Context, host, server string) (bool, error) {
	var out struct {
		Host struct {
			Claims map[string]cloud.Claim `json:"claims"`
		} `json:"host"`
	}
	err := c.operator(ctx, "hosts/"+host, &out)
	_, claimed := out.Host.Claims[cloud.ClaimKey(cloud.ServerID(server))]
	return claimed, err
}
