// Package operator is the operator API: what godwit knows and OpenStack has no word for. It serves /godwit/v1 to administrators.
//
//	GET  migrations, migrations/{id}      moves with their phases, totals and, while they run, figures
//	GET  servers/{id}/decisions           why a server went where it went
//	POST servers/{id}/migrate-plan        what a live migration would do: verdicts, kind, expected bytes, time and downtime
//	GET  hosts, hosts/{name}              a host's record, report, session and claims in one row
//	GET  events                           changes of servers and migrations as they happen (server-sent events)
//	GET  version                          what runs here
//
// It is part of the edge: it reads views of the store and decides nothing. Moves are asked for through the compute API, which writes the intent;
// the plan runs the same pure placement on a snapshot that the flow will run later, so it can only be outdated, never of another opinion.
//
// # Events
//
// An event stream is one goroutine, the request's own. It owns three feeds of the store (servers, migrations, progress), each of which holds at most
// one pending change per record and merges what is not taken yet. So a slow client costs a bounded amount of memory, sees fewer intermediate states,
// always sees the last one, and never makes the store wait.
//
//	store feeder --offer--> pending per record --Take--> stream goroutine --write, flush, deadline--> client
//
// Each event carries the whole record, so a client that keeps the newest of each has the truth. Events of one record come in order; events of
// different records may come in another order than they happened, which is harmless for the same reason.
//
// A stream begins with what is now, then "ready", then changes. The id of an event is the store's revision. A client that comes back with
// Last-Event-ID gets what is now once more, instead of a replay: a record that changed ten times meanwhile is sent once. What it may have missed is only
// that a record is gone; a client that cares asks again for the record it waits for (the filter "migration" always shows it, finished or not).
//
// A stream ends when its client leaves or stops reading, when the client's token expires, when [Service.Run] is told to stop, or when the store closes.
package operator
