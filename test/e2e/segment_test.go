package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/test/labcloud"
)

// TestAMonitorsWordIsFollowedAndAHostOnMaintenanceIsLeftAlone, by the stock client of Masakari: its host is in a segment, a monitor says that a guest stopped, and it
// is restarted; then the host is on maintenance, QEMU is killed, and nothing is done until a person starts the server.
func TestAMonitorsWordIsFollowedAndAHostOnMaintenanceIsLeftAlone(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), healMax)
	defer cancel()
	node := cloud.Lab.ComputeNodes()[2] // no other test's guests fail there
	segment := made(t, "segment", "create", "rack", "auto", "compute")
	later(t, "openstack", "segment", "delete", segment)
	host := made(t, "segment", "host", "create", node, "COMPUTE", "SSH", segment)
	later(t, "openstack", "segment", "host", "delete", segment, host)
	g := boot(t, guestOptions{name: "watched", host: node})
	before := g.status(t)
	payload := fmt.Sprintf(`{"instance_uuid": %q, "event": "LIFECYCLE", "vir_domain_event": "STOPPED_FAILED"}`, g.id)
	news := field(t, "notification_uuid", "notification", "create", "VM", node, time.Now().UTC().Format("2006-01-02T15:04:05"), payload)
	g.comesBack(ctx, t, before.BootID)
	err := labcloud.Until(ctx, "the notification is finished", func() (bool, error) {
		out, err := cloud.Client(ctx, "openstack", "notification", "show", news, "-f", "json")
		return strings.Contains(out, `"status": "finished"`) && strings.Contains(out, "it was restarted"), err
	})
	if err != nil {
		t.Fatal(err)
	}
	g.story(t, "reported on host "+node+": a monitor reported it")
	stock(t, "openstack", "segment", "host", "update", segment, host, "--on_maintenance", "True")
	killQEMU(ctx, t, node, g.id)
	if _, err := cloud.WaitStatus(ctx, g.id, "SHUTOFF"); err != nil {
		t.Fatal(err)
	}
	g.story(t, "its guest: left, host "+node+" is on maintenance")
	stock(t, "nova", "start", g.id)
	g.reconnect(t)
	g.whole(t)
}

// made creates something with the stock client and returns its id.
func made(t *testing.T, command ...string) string { return field(t, "uuid", command...) }

// field runs a command of the stock client and returns a field of what it shows.
func field(t *testing.T, name string, command ...string) string {
	t.Helper()
	out := map[string]any{}
	if err := json.Unmarshal([]byte(stock(t, append(append([]string{"openstack"}, command...), "-f", "json")...)), &out); err != nil {
		t.Fatal(err)
	}
	value, _ := out[name].(string)
	return value
}
