package main

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi"
	"github.com/godwit-cloud/godwit/internal/openstack"
)

func TestAStandbySaysWhoHasTheConsoles(t *testing.T) {
	for _, c := range []struct {
		claim, leader string
		leaderErr     error
		status        int // 0: the host is unavailable
		text          string
	}{
		{"another leads", "b", nil, http.StatusServiceUnavailable, "server b, which leads"},
		{"nobody leads", "", nil, http.StatusServiceUnavailable, "No server leads"},
		{"this one leads and the host is away", "a", nil, 0, "not connected"},
		{"the store does not answer", "", errors.New("no quorum"), 0, "not connected"},
	} {
		who := func(context.Context) (string, error) { return c.leader, c.leaderErr }
		_, err := consoles{&hostapi.Pool{}, "a", who}.ReadConsole(t.Context(), "compute-1", "s", 0)
		var status *openstack.StatusError
		switch {
		case !strings.Contains(err.Error(), c.text):
			t.Errorf("%s: %v", c.claim, err)
		case c.status == 0 && !cloud.Is(err, cloud.KindUnavailable):
			t.Errorf("%s: %v", c.claim, err)
		case c.status != 0 && (!errors.As(err, &status) || status.Code != c.status):
			t.Errorf("%s: %v", c.claim, err)
		}
	}
}
