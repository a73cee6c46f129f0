// Package lab builds real KVM hosts on one machine: each compute host is a set of namespaces with its own libvirtd and, unless the lab is
// bare, its own godwit agent. Storage nodes, plugged in like compute hosts (.221 and up), each run a volume service.
//
//	root namespaces                 127.0.0.1:PORT  (a listening socket, passed into the controller; no interface, no route)
//	                                      |
//	  +-----------------------------------|------------------- one lab ------------------------------------------------+
//	  |  controller                       v           compute-1                       compute-2                        |
//	  |    godwit server  198.18.N.1                    libvirtd, agent, QEMU...        libvirtd, agent, QEMU...       |
//	  |        | mgmt                                     | mgmt       | data             | mgmt       | data          |
//	  |        |                                          | .11        | .11              | .12        | .12           |
//	  |  ------+------------- bridge mgmt 198.18.N.0/24 --+------------|------------------+            |               |
//	  |  switch                      bridge data 198.19.N.0/24 --------+-------------------------------+               |
//	  +----------------------------------------------------------------------------------------------------------------+
//
// # A node is a process
//
// Every node, the switch and the peers included, is one process made with new pid, mount, net, uts and ipc namespaces (package nodeinit).
// There are no named namespaces and no mounts outside the nodes: when process 1 of a node dies, the kernel ends all its processes and
// drops its mounts and links. "Power off" is therefore SIGKILL, and cleaning up is killing a known list of processes and removing two
// directories.
//
// # A storage node's disk
//
// It is an XFS file system in a sparse file, because XFS shares blocks between a volume and its snapshots whatever the machine's own file system
// does. The mount exists in the node alone. The loop device, of which the machine has but one set, is released by the kernel together with the
// mount; PowerOff and Down wait for that.
//
// # What lies where
//
//	/run/godwit-lab/NAME/lab.json             what the lab is (State); written before anything else is made
//	/run/godwit-lab/NAME/NODE/pid             process 1 of the node and its start time
//	/run/godwit-lab/NAME/NODE/control.sock    its supervisor (package nodeinit)
//	/run/godwit-lab/NAME/NODE/UNIT.log        output of libvirtd, agent, server; init.log for process 1
//	/var/lib/godwit-lab/NAME/godwit           a copy of the binary, so that a rebuild does not change a running lab
//	/var/lib/godwit-lab/NAME/storage-1/disk.xfs  the file system that storage-1 has at /var/lib/godwit/disk
//	/var/lib/godwit-lab/NAME/NODE/run/...     the node's /run: libvirt answers at run/libvirt/libvirt-sock, also from outside
//	/var/lib/godwit-lab/NAME/NODE/...         the node's /etc/libvirt, /var/lib/libvirt, /etc/pki, /var/lib/godwit, ... (see Path)
//
// # Races and crashes
//
// Making and removing labs is serialised by a lock on the directory /run, because labs share the choice of N and the few mount points
// (/etc/pki, /etc/godwit, ...) that a machine may lack; the last lab removes those it made. A process id is
// trusted only with its start time. Down also finds processes by their command line, so it cleans up after an Up that was killed between
// starting a node and writing its pid. A lab made by a test is tethered: its nodes power off by themselves when the test process dies, and
// the next test's Sweep removes the remains.
package lab
