// Package godwit is the root of a control plane for virtual machines on KVM hosts: it moves them while they run, brings them
// back when a host dies and keeps the fleet packed or balanced. There is no code here; start at docs/architecture.md. The tests
// of this directory keep the architecture.
package godwit
