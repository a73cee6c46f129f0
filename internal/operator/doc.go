// Package operator is the API for what OpenStack has no word for: why placement decided as it did, what it would decide now, how far along a
// migration is with its dirty rate and estimated end, and a stream of changes so that nobody has to poll.
//
//	GET /godwit/v1/hosts                        every host: up, capacity, claims, servers
//	GET /godwit/v1/servers/{id}/decisions       why the server is where it is, newest first; {id} is an id or a name
//	GET /godwit/v1/servers/{id}/targets         placement's verdicts on moving the server now (?host=, ?block=): a dry run
//	GET /godwit/v1/migrations/{id}              a migration with its phases, figures and estimate
//	GET /godwit/v1/events                       changes as server-sent events (?server= narrows to one server)
//
// It is part of the edge: it reads views, asks the pure deciders, and never calls a host. All of it is for administrators.
//
// # The stream
//
// Server-sent events named server, migration and host; the data of each is the present state of one such thing, as JSON. A stream begins with the
// present state of everything it covers, so a client that connects late or again has missed nothing that still matters. Changes that come
// faster than the client reads are merged per thing: a slow reader sees fewer states, never an old one after a newer one.
package operator
