// Package nodeinit is process 1 of a lab node: what systemd is on a real host.
//
//	lab up (root namespaces)                     a node (its own pid, mount, net, uts, ipc namespaces)
//	  re-exec: BINARY lab init SPEC  ------------>  pid 1: Run(SPEC)
//	                                                  private mounts, /proc, /sys, host name
//	  control socket  <-- one JSON line each way -->  supervisor (one goroutine owns all unit state)
//	                                                    |-- libvirtd      restarted when it dies
//	                                                    |-- godwit agent
//	                                                    '-- (orphans: QEMU daemonised by libvirtd, reaped here)
//
// Ownership. The supervisor goroutine is the only one that reads or writes unit state and the only one that starts a process. Control
// connections, SIGCHLD, the inotify watch and timers all reach it as events. Because a child can only be started by the same goroutine
// that reaps, a child that dies at once can never be reaped before it is known.
//
// Power. Killing process 1 makes the kernel kill everything in the pid namespace, so "power off" needs no cooperation from this package. With
// Spec.Tethered the node also powers itself off when the process that made it goes away: that process holds the write end of a pipe.
//
// Sockets. A listener handed to the node (Spec.Listeners) stays open here and is passed to the unit on each start by systemd's
// socket-activation protocol. Clients of a killed server wait in the backlog instead of being refused.
package nodeinit
