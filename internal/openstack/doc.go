// Package openstack is what godwit's OpenStack dialects share: routing with request ids, tokens and policy, microversions, strict
// JSON bodies, paging and links, fault shapes, the access log and metrics. It knows no dialect's nouns.
//
//	client --> API.ServeHTTP --first path element--> Routes of one dialect --pattern--> Handler
//	             request id, recovery,                 token -> Caller,                   returns an error,
//	             access log, metrics                   microversion                       never writes a fault itself
//
// # How a dialect uses it
//
// A dialect is a value of Dialect (Nova, Cinder, Keystone, Glance and Neutron are given here) and a set of routes mounted by a Service:
//
//	func (s *Service) Mount(api *openstack.API) {
//		rt := api.Routes(openstack.Nova)                     // serves below /compute
//		rt.HandlePublic("GET /{$}", s.versions)              // no token, no microversion
//		rt.Handle("GET /v2.1/servers/{id}", s.showServer)    // r.Caller and r.Version are set
//	}
//
//	func (s *Service) showServer(w http.ResponseWriter, r *openstack.Request) error {
//		if err := r.Caller.Require(openstack.RoleReader, "os_compute_api:servers:show"); err != nil {
//			return err                                   // 403 in the dialect's words
//		}
//		server, ok := store.Lookup(s.store, tables.Servers, r.PathValue("id"))
//		if !ok || !r.Caller.Sees(server.Project) {
//			return cloud.Errorf(cloud.KindNotFound, "Instance %s could not be found.", r.PathValue("id"))
//		}
//		return openstack.WriteJSON(w, http.StatusOK, view(server))
//	}
//
// A handler either writes one answer and returns nil, or writes nothing and returns an error. The error's cloud.Kind gives the status
// (Dialect.Status, one exhaustive table with the dialect's few exceptions) and the dialect's fault writer gives the shape. The text
// of an error of any kind but internal and unavailable is shown to the client, so it is written for the client in the words of the service that
// is spoken. Where no kind fits, Fail gives a status outright. Internal errors are logged with their text and shown without it.
//
// # Bodies
//
// Request.Decode reads at most the route's bound, refuses duplicate properties and deep nesting, and binds the tree to a struct by its
// json and api tags; see Bind for the tags. Violations read as Nova's jsonschema messages do. A property that came with a
// microversion says so (`api:"since=2.19"`) and is an unknown property before it: honoured or refused, never half.
//
// # Who may
//
// Caller holds the effective roles of the token's scope: admin implies member implies reader. Routes.Handle guarantees that
// r.Caller is set; deciding what the caller may do is the handler's first statement. What a caller may not see is not found, not forbidden.
//
// # Concurrency
//
// The package starts no goroutine. An API is built once, then only read. Handlers run concurrently, each with its own Request.
package openstack
