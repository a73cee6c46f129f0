package optimize

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/planbook"
	"github.com/godwit-cloud/godwit/internal/store"
)

// dialect is how Watcher speaks: faults as {"error_message": "{...}"} with a document in the text.
var dialect = &openstack.Dialect{
	Service:  "infra-optim",
	Versions: openstack.VersionRange{Min: openstack.Microversion{Major: 1, Minor: 0}, Max: openstack.Microversion{Major: 1, Minor: 4}},
	Shape: func(f openstack.Fault) any {
		text, err := json.Marshal(map[string]any{"faultcode": "Client", "faultstring": f.Message, "debuginfo": nil})
		if err != nil {
			panic(err) // strings always encode
		}
		return map[string]string{"error_message": string(text)}
	},
	Denied:   func(rule string) string { return (&openstack.PolicyError{Rule: rule}).Error() },
	Invalid:  (*openstack.InputError).Error,
	NotFound: "The requested resource was not found.",
}

// Service is the API. It holds no state and is safe for concurrent use.
type Service struct {
	store *store.Store
	now   func() time.Time
}

// New returns the service; mount it with openstack.API.Mount.
func New(s *store.Store) *Service {
	return &Service{store: s, now: func() time.Time { return time.Now().UTC() }}
}

type object = map[string]any

// Mount implements openstack.Service.
func (s *Service) Mount(api *openstack.API) {
	rt := api.Routes(dialect)
	rt.HandlePublic("GET /{$}", s.versions)
	for pattern, handler := range map[string]func(*call) error{
		"GET /v1/goals": (*call).listGoals, "GET /v1/goals/{id}": (*call).showGoal,
		"GET /v1/strategies": (*call).listStrategies, "GET /v1/strategies/{id}": (*call).showStrategy,
		"GET /v1/audit_templates": (*call).listTemplates, "POST /v1/audit_templates": (*call).createTemplate,
		"GET /v1/audit_templates/{id}": (*call).showTemplate, "DELETE /v1/audit_templates/{id}": (*call).deleteTemplate,
		"GET /v1/audits": (*call).listAudits, "POST /v1/audits": (*call).createAudit, "GET /v1/audits/{id}": (*call).showAudit,
		"PATCH /v1/audits/{id}": (*call).patchAudit, "DELETE /v1/audits/{id}": (*call).deleteAudit,
		"GET /v1/action_plans": (*call).listPlans, "GET /v1/action_plans/{id}": (*call).showPlan, "POST /v1/action_plans/{id}/start": (*call).startPlan,
		"PATCH /v1/action_plans/{id}": (*call).patchPlan, "DELETE /v1/action_plans/{id}": (*call).deletePlan,
		"GET /v1/actions": (*call).listActions, "GET /v1/actions/{id}": (*call).showAction,
	} {
		serve := func(w http.ResponseWriter, r *openstack.Request) error {
			if err := r.Caller.RequireAdmin("infra-optim:" + strings.ToLower(strings.Fields(pattern)[0])); err != nil {
				return err
			}
			return handler(&call{Service: s, w: w, r: r, view: s.store.View()})
		}
		rt.Handle(pattern, serve)
	}
}

// versions answers at the root, without a token.
func (s *Service) versions(w http.ResponseWriter, r *openstack.Request) error {
	v := object{"id": "v1", "status": "CURRENT", "min_version": "1.0", "max_version": "1.4", "links": []object{{"rel": "self", "href": r.PublicURL("/infra-optim/v1/")}}}
	return openstack.WriteJSON(w, http.StatusOK, object{"name": "OpenStack Watcher API", "versions": []object{v}, "default_version": v})
}

type call struct {
	*Service
	w    http.ResponseWriter
	r    *openstack.Request
	view store.View
}

// id is the route's identifier: a UUID or a name. "detail" lists.
func (c *call) id() string { return c.r.PathValue("id") }

func (c *call) ok(body any) error { return openstack.WriteJSON(c.w, http.StatusOK, body) }

func (c *call) update(fn func(tx *store.Tx) error) error {
	if _, err := c.store.UpdateVisible(c.r.Context(), fn); err != nil {
		return err
	}
	c.view = c.store.View()
	return nil
}

func missing(kind, id string) error {
	return cloud.Errorf(cloud.KindNotFound, "%s %s could not be found", kind, id)
}

func stamp(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format("2006-01-02T15:04:05+00:00")
}

// goal is one of Watcher's goals that godwit has.
type goal struct {
	goal          cloud.OptimizeGoal
	name, display string
	strategies    []string // the first is the default
}

var goals = []goal{
	{cloud.GoalConsolidate, "server_consolidation", "Server Consolidation",
		[]string{"godwit", "neat", "lr-mmt-1.2", "lrr-mmt-1.2", "mad-mmt-2.5", "iqr-mmt-1.5", "thr-mmt-0.8"}},
	{cloud.GoalBalance, "workload_balancing", "Workload Balancing", []string{"balance"}},
}

// stable makes the same UUID of the same words on every server.
func stable(words ...string) string {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte("godwit/infra-optim/"+strings.Join(words, "/"))).String()
}

func (g goal) uuid() string { return stable("goal", g.name) }

func findGoal(idOrName string) (goal, bool) {
	i := slices.IndexFunc(goals, func(g goal) bool { return g.name == idOrName || g.uuid() == idOrName || string(g.goal) == idOrName })
	if i < 0 {
		return goal{}, false
	}
	return goals[i], true
}

func goalOf(g cloud.OptimizeGoal) goal {
	found, _ := findGoal(string(g))
	return found
}

func (g goal) body() object {
	return object{"uuid": g.uuid(), "name": g.name, "display_name": g.display, "efficacy_specification": []object{}, "created_at": nil, "updated_at": nil, "deleted_at": nil, "links": []object{}}
}

func (c *call) listGoals() error {
	out := []object{}
	for _, g := range goals {
		out = append(out, g.body())
	}
	return c.ok(object{"goals": out})
}

func (c *call) showGoal() error {
	if c.id() == "detail" {
		return c.listGoals()
	}
	g, ok := findGoal(c.id())
	if !ok {
		return missing("Goal", c.id())
	}
	return c.ok(g.body())
}

func strategyUUID(name string) string { return stable("strategy", name) }

func (g goal) strategy(name string) object {
	return object{"uuid": strategyUUID(name), "name": name, "display_name": name, "goal_uuid": g.uuid(), "goal_name": g.name, "parameters_spec": object{},
		"created_at": nil, "updated_at": nil, "deleted_at": nil, "links": []object{}}
}

func (c *call) listStrategies() error {
	wanted := c.r.URL.Query().Get("goal")
	out := []object{}
	for _, g := range goals {
		if wanted != "" && wanted != g.name && wanted != g.uuid() {
			continue
		}
		for _, name := range g.strategies {
			out = append(out, g.strategy(name))
		}
	}
	return c.ok(object{"strategies": out})
}

func (c *call) showStrategy() error {
	if c.id() == "detail" {
		return c.listStrategies()
	}
	for _, g := range goals {
		for _, name := range g.strategies {
			if c.id() == name || c.id() == strategyUUID(name) {
				return c.ok(g.strategy(name))
			}
		}
	}
	return missing("Strategy", c.id())
}

// strategyOf resolves a strategy's id or name; empty means the goal's default.
func strategyOf(g goal, idOrName string) (string, error) {
	if idOrName == "" || idOrName == "auto" {
		return g.strategies[0], nil
	}
	for _, name := range g.strategies {
		if idOrName == name || idOrName == strategyUUID(name) {
			return name, nil
		}
	}
	if g.goal == cloud.GoalConsolidate && planbook.CheckAsk(g.goal, idOrName) == nil {
		return idOrName, nil
	}
	return "", cloud.Errorf(cloud.KindInvalid, "strategy %s: the goal %s has %s", idOrName, g.name, strings.Join(g.strategies, ", "))
}

// newest sorts what was created last to the front.
func newest[T any](list []*T, created func(*T) time.Time) []*T {
	slices.SortStableFunc(list, func(a, b *T) int { return cmp.Compare(created(b).UnixNano(), created(a).UnixNano()) })
	return list
}

// patch is a JSON patch, of which Watcher uses "replace".
type patch struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// patchMax bounds a patch's bytes: it replaces a state.
const patchMax = 16 << 10

// stateAsked returns the state that a patch asks for; nothing else can be changed.
func (c *call) stateAsked() (cloud.OptimizeStatus, error) {
	raw, err := openstack.ReadBody(c.w, c.r.Request, patchMax)
	if err != nil {
		return "", err
	}
	var patches []patch
	if err := json.Unmarshal(raw, &patches); err != nil {
		return "", cloud.Errorf(cloud.KindInvalid, "the body is no JSON patch: %w", err)
	}
	for _, p := range patches {
		if text, ok := p.Value.(string); p.Op == "replace" && p.Path == "/state" && ok && len(patches) == 1 {
			return cloud.OptimizeStatus(text), nil
		}
	}
	return "", cloud.Errorf(cloud.KindInvalid, "only /state can be replaced")
}
