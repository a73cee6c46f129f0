// Package hostapi is the wire between godwit's server and the agent of each compute host: gRPC over mutual TLS, agents dial in.
//
//	 agent of compute-1                                   godwit server (one port)
//	+--------------------+   TLS, ALPN "h2"              +----------------------------+
//	| Agent              | ----------------------------> | Control: Enroll, Session,  |
//	|   Outbox (latest   |   agent is the gRPC client    |          FetchImage        |
//	|   of everything)   |                               |        -> SessionHandler   |
//	|                    |   TLS, ALPN "godwit-host/1"   |                            |
//	|   serves Host      | ----------------------------> | Pool: Host(name)           |
//	|                    | <---- gRPC calls ------------ |   server is the client     |
//	+--------------------+                               +----------------------------+
//
// A volume service (`godwit volumes`) is such an agent too. Its session begins with VolumeFacts, its reversed connection speaks
// "godwit-volumes/1" and serves VolumeHost. What is said of hosts below is true of volume services; the two are kept apart by role, so a
// volume service is never given out as a host, nor the other way round.
//
// # Trust
//
// An Authority (built-in CA) signs the server's certificate and every host's. The server is recognised by the reserved name
// ServerName in its certificate, which no host can obtain; so a host's certificate, though it is fit for TLS servers (libvirt
// and QEMU need that), cannot pose as godwit's server. A host is recognised by its certificate's common name. The first contact
// is guarded both ways by a join token: its secret admits the host, and the CA's fingerprint in it lets the agent verify the
// server before it says the secret. The host's private key never leaves the host.
//
// # Several servers
//
// Of several servers on one store only the one that leads can use hosts, and only its port is open. An agent knows them all. Its session goes from one
// to the next until it is welcomed; that server is its home, to which the reversed connection and image fetches follow. A reversed connection to a former
// home is closed when another welcomes the session.
//
// # One connection per host
//
// A newer reversed connection, and a newer session, replaces the older of the same host: the older is most likely a connection whose
// death the server has not noticed yet. Calls on a replaced connection end with KindUnavailable. For one host, SessionHandler sees
// HostUp, Events, HostDown strictly in turn and never from two sessions at once: the newer session waits until the older has ended.
//
// # Silence
//
// Both ends send heartbeats once a second on the session; whoever hears nothing for the session's time to live ends it, and
// the server then drops the host's reversed connection too, so that calls waiting on a dead host return. Below that, TCP
// keepalive, TCP user timeouts and HTTP/2 pings notice broken paths.
//
// # Level, not edge
//
// What goes up is state, never events: the latest facts, the latest observation of each server, the latest progress of each
// migration. A newer value replaces an unsent older one, so the agent's memory is bounded by what it has, not by how long the
// server was away. After a reconnect come the facts, then every observation, then a heartbeat: a handler that has
// seen the first heartbeat of a session has seen all that the host knows.
//
// # Errors
//
// Kinds of cloud.Error survive the wire in both directions (errors.go). A call that fails because the connection did is
// KindUnavailable: the caller does not know whether the host acted and must ask (Inspect, or the same call again; all are idempotent).
package hostapi
