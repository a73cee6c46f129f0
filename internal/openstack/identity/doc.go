// Package identity is godwit's Keystone v3: users, projects, roles and the tokens that every other dialect asks for.
//
//	POST /v3/auth/tokens --password|token|application_credential--> prove --> user --scope--> session --sign--> JWS
//	any request, X-Auth-Token --------------- verify (cached) --> claims --look up--> session --> openstack.Caller
//
// # Tokens
//
// A token is a JWS signed with ES256, with the claims Keystone's own JWS provider uses. It carries who and which scope, no rights: roles,
// enabled flags and revocations are looked up in the replica on each use, so taking a role away works at once and on every
// server. Only the signature check is cached, by the token's SHA-256, in a bounded map; a hit still needs its key to exist, its time not to
// be up, its audit id not to be revoked, and to have been issued after the user's TokensAfter (set by password change and disabling).
//
// Keys live in the store, so all servers sign and verify alike. Maintain makes a new one daily; a key is removed when its
// successor is older than any token the key may have signed. A new key signs only once it is keySettle old, when other
// servers' replicas have it.
//
// # Passwords
//
// Passwords and application credential secrets are hashed with argon2id at 7 MiB each, at most hashesAtOnce at a time and
// hashesWaiting in the queue, so that a flood of log-ins costs neither memory nor all CPUs. An unknown user costs the same hash as a known one.
// Failures are counted per user and client address, and answered without a hash for a growing but bounded time.
//
// # Who writes
//
// This package is the only writer of the identity tables. Every change is one transaction; a handler answers when the replica has it.
// What belongs to a deleted user or project is removed in batches after the owner is disabled and before it goes, so a crash in
// between leaves a disabled owner and the delete can be repeated.
package identity
