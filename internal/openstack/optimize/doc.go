// Package optimize is the infra-optim API, OpenStack Watcher's: goals, strategies, audit templates, audits, action plans and actions, as far as
// `openstack optimize` of python3-watcherclient needs them to go from an audit over a plan to its start.
//
//	goals       server_consolidation (cloud.GoalConsolidate), workload_balancing (cloud.GoalBalance)
//	strategies  godwit, neat and the policies of the 2012 paper for the first; balance for the second
//	audit       a record that the leader answers with an action plan; ONESHOT or CONTINUOUS, started at once with auto_trigger
//	plan        RECOMMENDED until it is started; then the leader carries it out
//
// It is an edge: it reads views and writes records by the rules of package planbook. Only administrators have it, as in Watcher.
//
// What is refused: parameters and scopes (strategies have their parameters in the server's configuration), cron intervals, data models and webhooks.
package optimize
