// Package pingtrace measures how long a network peer is cut off from a guest: it sends an ICMP echo request every millisecond and looks at
// when the answers come back.
//
// A blackout is the longest time between two consecutive answers (or between the last answer and the end of the trace). It is not the
// number of lost requests: a network that holds packets back and delivers them late loses none and is dark all the same.
//
// The figure must not contain the measuring program's own pauses. So the trace runs in a process of its own (Serve), answers are stamped
// by the kernel when they arrive (SO_TIMESTAMPNS), and requests are sent by a thread with real-time priority where the system allows it.
// What the sender still slept through is reported as SendPause, so that a reader can judge a figure.
package pingtrace
