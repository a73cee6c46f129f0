package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/operator"
)

// An Event is one message of the stream; exactly one field is set. See the operator package for what each means.
type Event struct {
	Ready     bool
	Server    *operator.ServerState
	Gone      *operator.Gone // a server that is no more
	Migration *operator.Migration
	Progress  *cloud.MigrationProgress
}

// ErrStop, returned by Watch's callback, ends the watch without an error.
var ErrStop = errors.New("stop watching")

// eventBytesMax bounds one message: a migration with all its phases is a few kilobytes.
const eventBytesMax = 1 << 20

// Stream is an open stream of changes.
type Stream struct {
	body  io.ReadCloser
	lines *bufio.Scanner
}

// Watch opens the stream of changes, of one server or one migration where these are not empty. When it returns, the stream covers whatever
// happens from now on.
func (c *Client) Watch(ctx context.Context, server string, migration cloud.MigrationID) (*Stream, error) {
	query := url.Values{}
	for name, value := range map[string]string{"server": server, "migration": string(migration)} {
		if value != "" {
			query.Set(name, value)
		}
	}
	address := c.operator + "events?" + query.Encode()
	resp, err := c.compute.Request(ctx, http.MethodGet, address, &gophercloud.RequestOpts{ //nolint:bodyclose // the Stream closes it
		OkCodes: []int{http.StatusOK}, KeepResponseBody: true,
	})
	if err != nil {
		return nil, explain(err)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, eventBytesMax)
	return &Stream{body: resp.Body, lines: lines}, nil
}

// Close ends the stream.
func (s *Stream) Close() error { return s.body.Close() }

// Each calls fn for each event until fn returns an error or the stream ends; ErrStop ends it without one.
func (s *Stream) Each(fn func(Event) error) error {
	kind := ""
	for s.lines.Scan() {
		line := s.lines.Text()
		if name, ok := strings.CutPrefix(line, "event: "); ok {
			kind = name
			continue
		}
		data, ok := strings.CutPrefix(line, "data: ")
		if !ok {
			continue
		}
		event, err := parseEvent(kind, data)
		if err != nil {
			return err
		}
		switch err := fn(event); {
		case errors.Is(err, ErrStop):
			return nil
		case err != nil:
			return err
		}
	}
	if err := s.lines.Err(); err != nil {
		return cloud.Errorf(cloud.KindUnavailable, "the stream of events broke off: %w", err)
	}
	return cloud.Errorf(cloud.KindUnavailable, "the server ended the stream of events")
}

func parseEvent(kind, data string) (Event, error) {
	var e Event
	var into any
	switch kind {
	case operator.EventServer:
		into = &e.Server
	case operator.EventServerGone:
		into = &e.Gone
	case operator.EventMigration:
		into = &e.Migration
	case operator.EventProgress:
		into = &e.Progress
	case operator.EventReady:
		e.Ready = true
		return e, nil
	default:
		return e, nil // a newer server speaks of more
	}
	return e, json.Unmarshal([]byte(data), into)
}
