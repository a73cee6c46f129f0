// Package optimize turns a live fleet into the question that package consolidate answers, and its answer into a plan with figures: which servers
// would move and what that gains and costs, which would not and why, which hosts would sleep or wake.
//
//	snapshot, servers, telemetry --build--> consolidate.Fleet --Planner--> moves --judge--> wakes, moves, sleeps; refusals
//	                                        (the simulator's code)          |
//	          server's automation level, moved lately, placement's rules, cost by dirty rate, net benefit, failover capacity
//
// It is a pure decider: no I/O, no clock, no goroutine. The same planners run in `godwit simulate`; only what they look at is made here.
//
// # Why a plan does not thrash
//
// A server that moved within Settings.Window is pinned, so none moves twice in a window whatever the load does. Moves off a host that is emptied
// are made all or none, and only when what the host's sleep saves over Settings.Horizon is Settings.GainFactor times what moving and one cycle of
// sleep cost. A host that woke stays awake for AwakeMin. Planners have their own gap between what they fill a host to and what makes them relieve it.
//
// # What keeps hosts awake
//
// Failover: without the Failover largest awake hosts, the others must hold all servers' claims. Reserve: what is asked for, and what its trend says
// will be asked for by the time a host that is woken now is there, must fit into the awake hosts with a share to spare. A host that was never seen
// to wake, that failed to, or that holds a server which cannot move, does not sleep.
package optimize
