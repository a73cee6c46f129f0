package hostpki

import _ "embed"

// dhParams is the group ffdhe3072 of RFC 7919. A QEMU that finds no dh-params.pem beside its certificates makes a group of its own each time it
// becomes a TLS server, that is in every migration to this host and before anything is copied: a search for a 2048-bit safe prime that took from
// 0.1 to 2 s of a core where it was measured, thrown away afterwards, since TLS 1.3 agrees on keys by elliptic curves. Public, and equal everywhere.
//
//go:embed ffdhe3072.pem
var dhParams []byte
