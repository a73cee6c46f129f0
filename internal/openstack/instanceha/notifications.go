package instanceha

import (
	"cmp"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

var notificationRoutes = []route{
	{pattern: "GET /notifications", rule: "os_masakari_api:notifications:index", handle: (*call).listNotifications},
	{pattern: "POST /notifications", rule: "os_masakari_api:notifications:create", handle: (*call).createNotification},
	{pattern: "GET /notifications/{notification}", rule: "os_masakari_api:notifications:detail", handle: (*call).showNotification},
	{pattern: "GET /notifications/{notification}/vmoves", from: 3, rule: "os_masakari_api:vmoves:index", handle: (*call).listMoves},
	{pattern: "GET /notifications/{notification}/vmoves/{move}", from: 3, rule: "os_masakari_api:vmoves:detail", handle: (*call).showMove},
}

// duplicateWithin is Masakari's duplicate_notification_detection_interval: the same news again is refused.
const duplicateWithin = 180 * time.Second

func (c *call) notificationView(n *cloud.Notification, detail bool) object {
	out := object{"id": n.Number, "notification_uuid": n.ID, "type": n.Type, "status": n.Status, "generated_time": timeText(n.Generated), "payload": n.Payload,
		"source_host_uuid": orNull(string(n.SourceHost)), "created_at": timeText(n.Created), "updated_at": timeText(n.Updated)}
	if detail && c.minor >= 1 {
		out["recovery_workflow_details"] = workflowDetails(n)
	}
	return out
}

// workflowNames are how the one task of a notification is called.
var workflowNames = map[string]string{cloud.NotifyHost: "HostRecovery", cloud.NotifyVM: "InstanceRecovery", cloud.NotifyProcess: "ProcessRecovery"}

var workflowStates = map[cloud.NotificationStatus]string{
	cloud.NotificationNew: "PENDING", cloud.NotificationRunning: "RUNNING", cloud.NotificationError: "FAILURE", cloud.NotificationFailed: "FAILURE",
	cloud.NotificationIgnored: "IGNORE", cloud.NotificationFinished: "SUCCESS",
}

func workflowDetails(n *cloud.Notification) []object {
	if len(n.Details) == 0 {
		return []object{}
	}
	lines := []object{}
	for _, d := range n.Details {
		lines = append(lines, object{"timestamp": d.At.UTC().Format("2006-01-02 15:04:05.000000"), "message": d.Message, "progress": d.Progress})
	}
	return []object{{"name": workflowNames[n.Type], "state": workflowStates[n.Status], "progress": n.Details[len(n.Details)-1].Progress, "progress_details": lines}}
}

var notificationListing = listing[*cloud.Notification]{
	id:   func(n *cloud.Notification) string { return string(n.ID) },
	made: func(n *cloud.Notification) (time.Time, int) { return n.Created, n.Number }, changed: func(n *cloud.Notification) time.Time { return n.Updated },
	keys: map[string]func(a, b *cloud.Notification) int{
		"generated_time": func(a, b *cloud.Notification) int { return a.Generated.Compare(b.Generated) },
		"type":           func(a, b *cloud.Notification) int { return cmp.Compare(a.Type, b.Type) },
		"status":         func(a, b *cloud.Notification) int { return cmp.Compare(a.Status, b.Status) },
	},
}

func (c *call) listNotifications() error {
	var since time.Time
	q := c.r.URL.Query()
	if text := cmp.Or(q.Get("generated-since"), q.Get("generated_since")); text != "" {
		var err error
		if since, err = parseTime(text); err != nil {
			return invalid("Invalid generated-since value")
		}
	}
	found, err := page(c, store.All(c.view, tables.Notifications), notificationListing, func(n *cloud.Notification) bool {
		return c.passes("type", n.Type) && c.passes("status", string(n.Status)) && c.passes("source_host_uuid", string(n.SourceHost)) && !n.Generated.Before(since)
	})
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, object{"notifications": views(found, func(n *cloud.Notification) object { return c.notificationView(n, false) })})
}

func (c *call) notification() (*cloud.Notification, error) {
	id := c.r.PathValue("notification")
	n, ok := store.Lookup(c.view, tables.Notifications, cloud.NotificationID(id))
	if !ok {
		return nil, notFound("No notification with id %s.", id)
	}
	return n, nil
}

func (c *call) showNotification() error {
	n, err := c.notification()
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, object{"notification": c.notificationView(n, true)})
}

// timeLayouts are the forms of time that monitors and people write.
var timeLayouts = []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999", "2006-01-02T15:04:05", "2006-01-02 15:04:05.999999", "2006-01-02 15:04:05", "2006-01-02"}

func parseTime(text string) (t time.Time, err error) {
	for _, layout := range timeLayouts {
		if t, err = time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	return t, err
}

func (c *call) createNotification() error {
	var body struct {
		Notification struct {
			Type      string            `json:"type" api:"required;enum=PROCESS|VM|COMPUTE_HOST"`
			Host      string            `json:"hostname" api:"required;len=1..255"`
			Generated string            `json:"generated_time" api:"required;len=1..255"`
			Payload   *openstack.Object `json:"payload" api:"required"`
		} `json:"notification" api:"required"`
	}
	if err := c.r.Decode(c.w, &body); err != nil {
		return err
	}
	ask := &body.Notification
	generated, err := parseTime(ask.Generated)
	if err != nil {
		return invalid("Invalid input for field/attribute generated_time. Value: %s. '%s' is not a 'date-time'", ask.Generated, ask.Generated)
	}
	now := c.now()
	n := cloud.Notification{ID: cloud.NotificationID(newID()), Type: ask.Type, Host: cloud.HostName(ask.Host), Generated: generated, Payload: ask.Payload.Plain(),
		Status: cloud.NotificationNew, Created: now}
	if err := checkPayload(&n, ask.Payload, c.r.Version); err != nil {
		return err
	}
	err = c.update(func(tx *store.Tx) error {
		member, err := store.Peek(tx, tables.SegmentHosts, n.Host)
		switch {
		case err != nil:
			return err
		case member == nil:
			return invalid("Host with name %s could not be found.", n.Host)
		case member.Maintenance:
			return conflict("Notification received from host %s of type '%s' is ignored as the host is already under maintenance.", n.Host, n.Type)
		}
		if segment, err := store.Get(tx, tables.Segments, member.Segment); err == nil && !segment.Enabled {
			return conflict("Failover segment %s is disabled.", segment.ID)
		}
		for _, other := range store.All(c.view, tables.Notifications) {
			if duplicate(other, &n) {
				return conflict("Notification received from host %s of  type '%s' is duplicate.", n.Host, n.Type) // two spaces, as Masakari has them
			}
		}
		number, err := tables.Next(tx, tables.CountNotifications)
		if err != nil {
			return err
		}
		n.Number, n.SourceHost = number, member.ID
		return store.Create(tx, tables.Notifications, n.ID, n)
	})
	if err != nil {
		return err
	}
	return c.reply(http.StatusAccepted, object{"notification": c.notificationView(&n, true)})
}

// duplicate reports whether n is old's news again while that is new or worked on.
func duplicate(old, n *cloud.Notification) bool {
	return old.Type == n.Type && old.Host == n.Host && !old.Status.Final() && n.Generated.Sub(old.Generated).Abs() <= duplicateWithin && reflect.DeepEqual(old.Payload, n.Payload)
}

// checkPayload refuses what Masakari's schemas of payloads refuse, and notes which server a VM's is about.
func checkPayload(n *cloud.Notification, payload *openstack.Object, version openstack.Microversion) error {
	switch n.Type {
	case cloud.NotifyVM:
		var p struct {
			Instance string            `json:"instance_uuid" api:"required;len=36..36"`
			Domain   string            `json:"vir_domain_event" api:"required;len=1..255"`
			Event    string            `json:"event" api:"required;len=1..255"`
			More     map[string]string `api:"extra"`
		}
		if err := openstack.Bind(payload, &p, version); err != nil {
			return err
		}
		if uuid.Validate(p.Instance) != nil {
			return invalid("Invalid input for field/attribute instance_uuid. Value: %s. '%s' is not a 'uuid'", p.Instance, p.Instance)
		}
		n.Server = cloud.ServerID(strings.ToLower(p.Instance))
		return nil
	case cloud.NotifyProcess:
		var p struct {
			Process string            `json:"process_name" api:"required;len=1..4096"`
			Event   string            `json:"event" api:"required;enum=STARTED|STOPPED"`
			More    map[string]string `api:"extra"`
		}
		return openstack.Bind(payload, &p, version)
	}
	var p struct {
		Status  string            `json:"host_status" api:"enum=NORMAL|UNKNOWN|NORMAL_DISABLED|UNKNOWN_DISABLED"`
		Cluster string            `json:"cluster_status" api:"enum=OFFLINE|ONLINE"`
		Event   string            `json:"event" api:"required;enum=STARTED|STOPPED"`
		More    map[string]string `api:"extra"`
	}
	return openstack.Bind(payload, &p, version)
}

// moveStatuses are Masakari's words for what became of a server of a dead host.
var moveStatuses = map[cloud.RecoveryOutcome]string{
	cloud.RecoveryWaiting: "pending", cloud.RecoveryMoving: "ongoing", cloud.RecoveryRecovered: "succeeded", cloud.RecoveryFailed: "failed", cloud.RecoveryLeft: "ignored",
}

// moves lists the moves of a notification about a host; what the cluster recovered has one for each server.
func (c *call) moves() ([]object, error) {
	n, err := c.notification()
	if err != nil {
		return nil, err
	}
	if n.Type != cloud.NotifyHost {
		return nil, invalid("This notification %s without vmoves due to unsupported type.", n.ID)
	}
	out := []object{}
	rec, ok := store.Lookup(c.view, tables.Recoveries, n.Recovery)
	if n.Recovery == "" || !ok {
		return out, nil
	}
	for i := range rec.Servers {
		s := &rec.Servers[i]
		name := ""
		if record, ok := store.Lookup(c.view, tables.Servers, s.Server); ok {
			name = record.Name
		}
		id := cmp.Or(string(s.Migration), uuid.NewSHA1(uuid.NameSpaceOID, []byte(string(rec.ID)+string(s.Server))).String())
		out = append(out, object{"id": i + 1, "uuid": id, "notification_uuid": n.ID, "server_id": s.Server, "server_name": name, "type": "evacuation", "source_host": rec.Host,
			"dest_host": orNull(string(s.Target)), "start_time": timeText(s.Began), "end_time": timeText(s.Ended), "status": moveStatuses[s.Outcome], "message": orNull(s.Reason),
			"created_at": timeText(rec.Began), "updated_at": timeText(rec.Updated)})
	}
	return out, nil
}

func (c *call) listMoves() error {
	moves, err := c.moves()
	if err != nil {
		return err
	}
	moves = slices.DeleteFunc(moves, func(m object) bool {
		return !c.passes("status", m["status"].(string)) || !c.passes("type", m["type"].(string))
	})
	p, err := c.r.Page(openstack.PageMax)
	if err != nil {
		return err
	}
	moves, _, err = openstack.Slice(moves, p, func(m object) string { return m["uuid"].(string) })
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, object{"vmoves": moves})
}

func (c *call) showMove() error {
	moves, err := c.moves()
	if err != nil {
		return err
	}
	for _, m := range moves {
		if m["uuid"] == c.r.PathValue("move") {
			return c.reply(http.StatusOK, object{"vmove": m})
		}
	}
	return notFound("No vm move with id %s.", c.r.PathValue("move"))
}
