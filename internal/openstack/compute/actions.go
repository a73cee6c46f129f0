package compute

import (
	"net/http"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// A serverActionRule is one action of POST /servers/{id}/action.
type serverActionRule struct {
	rule  string // policy
	admin bool
	run   func(c *call, s *cloud.Server, body *openstack.Object) error
}

// serverActions are the actions on offer, by the body's one property. What Nova has besides is in refusedActions.
var serverActions = map[string]serverActionRule{
	"os-start":            {rule: "servers:start", run: (*call).startServer},
	"os-stop":             {rule: "servers:stop", run: (*call).stopServer},
	"reboot":              {rule: "servers:reboot", run: (*call).rebootServer},
	"os-getConsoleOutput": {rule: "os-console-output", run: (*call).consoleOutput},
	"os-migrateLive":      {rule: "os-migrate-server:migrate_live", admin: true, run: (*call).liveMigrate},
	"evacuate":            {rule: "os-evacuate", admin: true, run: (*call).evacuate},
	"migrate":             {rule: "os-migrate-server:migrate", admin: true, run: (*call).coldMigrate},
	"resize":              {rule: "servers:resize", run: (*call).resizeServer},
	"confirmResize":       {rule: "servers:confirm_resize", run: (*call).confirmResize},
	"revertResize":        {rule: "servers:revert_resize", run: (*call).revertResize},
	"rebuild":             {rule: "servers:rebuild", run: (*call).rebuildServer},
	"createImage":         {rule: "servers:create_image", run: (*call).createImage},
	"shelve":              {rule: "os-shelve:shelve", run: (*call).shelveServer},
	"shelveOffload":       {rule: "os-shelve:shelve_offload", admin: true, run: (*call).offloadServer},
	"unshelve":            {rule: "os-shelve:unshelve", run: (*call).unshelveServer},
	"lock":                {rule: "os-lock-server:lock", run: (*call).lockServer},
	"unlock":              {rule: "os-lock-server:unlock", run: (*call).unlockServer},
	"os-resetState":       {rule: "os-admin-actions:reset_state", admin: true, run: (*call).resetState},
	"forceDelete":         {rule: "os-deferred-delete:force", run: (*call).forceDelete},
	"addSecurityGroup":    {rule: "os-security-groups:add", run: (*call).addSecurityGroup},
	"removeSecurityGroup": {rule: "os-security-groups:remove", run: (*call).removeSecurityGroup},
}

// serverAction finds out which action is asked for and runs it.
func (c *call) serverAction() error {
	o, name, err := c.actionBody()
	if err != nil {
		return err
	}
	if action, ok := serverActions[name]; ok {
		s, err := c.actionServer(action.admin, action.rule)
		if err != nil {
			return err
		}
		return action.run(c, s, o)
	}
	refusal, ok := refusedActions[name]
	switch {
	case !ok:
		return invalid("There is no such action: %s", name)
	case !refusal.known(c.minor):
		return notFound("%s", openstack.Nova.NotFound)
	}
	if _, err := c.actionServer(refusal.admin, "servers:"+name); err != nil {
		return err
	}
	return refusal.refuse()
}

// actionBody reads a body that names an action by its one property.
func (c *call) actionBody() (*openstack.Object, string, error) {
	o, err := c.r.Object(c.w)
	if err != nil {
		return nil, "", err
	}
	if len(o.Names) != 1 {
		return nil, "", invalid("Malformed request body")
	}
	return o, o.Names[0], nil
}

func (c *call) actionServer(admin bool, rule string) (*cloud.Server, error) {
	if admin {
		return c.adminServer(rule, c.path("id"))
	}
	return c.serverFor(member, rule, c.path("id"))
}

// power describes an action that only sets a task and leaves the rest to a flow.
type power struct {
	op     cloud.Operation
	task   cloud.TaskState
	kind   cloud.IntentKind
	action string
	hard   bool
}

func (c *call) startServer(s *cloud.Server, _ *openstack.Object) error {
	return c.ask(s, power{op: cloud.OpStart, task: cloud.TaskPoweringOn, kind: cloud.IntentStart, action: "start"})
}

func (c *call) stopServer(s *cloud.Server, _ *openstack.Object) error {
	return c.ask(s, power{op: cloud.OpStop, task: cloud.TaskPoweringOff, kind: cloud.IntentStop, action: "stop"})
}

// rebootBody is the body of the action reboot.
type rebootBody struct {
	Reboot struct {
		Type string `json:"type" api:"required;enum=HARD|Hard|hard|SOFT|Soft|soft"`
	} `json:"reboot" api:"required"`
}

func (c *call) rebootServer(s *cloud.Server, o *openstack.Object) error {
	var body rebootBody
	if err := openstack.Bind(o, &body, c.r.Version); err != nil {
		return err
	}
	p := power{op: cloud.OpReboot, task: cloud.TaskRebooting, kind: cloud.IntentReboot, action: "reboot"}
	if strings.EqualFold(body.Reboot.Type, "hard") {
		p.op, p.task, p.hard = cloud.OpRebootHard, cloud.TaskRebootingHard, true
	}
	return c.ask(s, p)
}

// ask checks the state, sets the task and places the order.
func (c *call) ask(found *cloud.Server, p power) error {
	order := c.newOrder(p.kind, p.action)
	order.intent.Hard = p.hard
	err := c.update(func(tx *store.Tx) error {
		s, err := c.serverIn(tx, found.ID)
		if err != nil {
			return err
		}
		if err := c.allow(&s, p.op); err != nil {
			return err
		}
		s.Task = p.task
		return order.place(tx, &s)
	})
	if err != nil {
		return err
	}
	return c.status(http.StatusAccepted)
}

// lockBody is the body of the action lock; what is in it before 2.73 is ignored, as in Nova.
type lockBody struct {
	Lock struct {
		Reason string `json:"locked_reason" api:"len=1..255"`
	} `json:"lock" api:"required;null"`
}

func (c *call) lockServer(s *cloud.Server, o *openstack.Object) error {
	var body lockBody
	if c.since(73) {
		if err := openstack.Bind(o, &body, c.r.Version); err != nil {
			return err
		}
	}
	return c.setLock(s, "lock", func(s *cloud.Server) error {
		if s.Locked && s.LockedByAdmin && !c.admin() {
			return nil // an administrator's lock is the stronger one and stays
		}
		s.Locked, s.LockedByAdmin, s.LockedReason = true, c.r.Caller.Project != s.Project && c.admin(), body.Lock.Reason
		return nil
	})
}

func (c *call) unlockServer(s *cloud.Server, _ *openstack.Object) error {
	return c.setLock(s, "unlock", func(s *cloud.Server) error {
		if s.LockedByAdmin && !c.admin() {
			return openstack.Forbid("os_compute_api:os-lock-server:unlock:unlock_override")
		}
		s.Locked, s.LockedByAdmin, s.LockedReason = false, false, ""
		return nil
	})
}

func (c *call) setLock(found *cloud.Server, name string, set func(*cloud.Server) error) error {
	action := c.newAction(name, c.now())
	err := c.changeServer(found.ID, func(tx *store.Tx, s *cloud.Server) error {
		if err := set(s); err != nil {
			return err
		}
		return recordAction(tx, s.ID, action)
	})
	if err != nil {
		return err
	}
	return c.status(http.StatusAccepted)
}

// resetBody is the body of the action os-resetState.
type resetBody struct {
	Reset struct {
		State string `json:"state" api:"required;enum=active|error"`
	} `json:"os-resetState" api:"required"`
}

// resetState lets an administrator overrule what a server is said to be. While work is in progress it is refused: that work will say
// itself what the server is, and nobody needs to guess.
func (c *call) resetState(found *cloud.Server, o *openstack.Object) error {
	var body resetBody
	if err := openstack.Bind(o, &body, c.r.Version); err != nil {
		return err
	}
	action := c.newAction("resetState", c.now())
	err := c.changeServer(found.ID, func(tx *store.Tx, s *cloud.Server) error {
		for _, i := range store.By(c.store, tables.Intents, tables.ByServer, s.ID) {
			still, err := store.Peek(tx, tables.Intents, i.ID)
			if err != nil {
				return err
			}
			if still != nil {
				return conflict("Cannot 'os-resetState' instance %s while it is in task_state %s", s.ID, s.Task)
			}
		}
		s.VMState, s.Task = cloud.VMState(body.Reset.State), cloud.TaskNone
		if s.VMState == cloud.VMActive {
			s.Fault = nil
		}
		return recordAction(tx, s.ID, action)
	})
	if err != nil {
		return err
	}
	return c.status(http.StatusAccepted)
}
