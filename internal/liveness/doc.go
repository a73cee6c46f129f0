// Package liveness decides which hosts are alive, suspect or dead. It is pure: what was heard, and the time, are arguments; it never acts.
//
//	heartbeats of agents   --+
//	what witnesses found    -+--> Judge --> a Judgement for each host, with its evidence in sentences
//	storage heartbeats      -+            + whom to ask for a probe now
//	the observer's own life -+            + whether the brake is on
//
// # Three verdicts
//
// A host whose agent was heard within Policy.SilenceMax is alive. One that is silent is suspect, and others are asked to look: witnesses,
// which are agents of hosts that are alive, probe it over each network. It is dead only when all of this holds:
//
//   - its silence has lasted Policy.DeadAfter;
//   - enough witnesses have looked since the silence began, lately, and none of them reached it over any network;
//   - its storage heartbeat, where it has one, has stopped as well;
//   - the observer does not doubt itself, and the brake is off.
//
// Anything else that contradicts death (a witness that reaches it and has not looked in vain since, a storage heartbeat that goes on) keeps it suspect for as long as it
// lasts: the management network or the agent is broken then, and guests run. Dead is a verdict about evidence, not a licence to start
// anything: that takes a fenced host (package fence) as well.
//
// # A monitor's word
//
// Somebody who watches hosts by other means may say that one has stopped (Heard.Reported). It is looked at from then on, without waiting for its silence, and when it
// is silent for Policy.SilenceMax it is dead without the rest of the evidence, unless anything contradicts that: a monitor's word stands for what is missing and outweighs
// nothing that was seen. Such a verdict says so (Judgement.Reported): the host is turned off, and nothing starts elsewhere before it is, or before the evidence is whole.
// A host that is heard after it has disproved the word. The brake holds as for any other.
//
// # Doubting oneself
//
// An observer that was asleep (its process was stopped, its machine overloaded, its clock jumped) hears everybody late. Judge is told when it
// looked last; after a gap longer than Policy.StallMax all silences count from the end of the gap. A new leader has heard nobody yet:
// silences count from when it began. Both follow from one rule: a silence lasts from the latest of the last heartbeat, the
// observer's beginning, and the end of its last stall.
//
// An observer that hears less than half of the hosts that it heard before is more likely cut off itself: this is the brake's business.
//
// # The brake
//
// When more than Policy.BrakeShare of the known hosts (and more than Policy.BrakeHosts) are silent, those that died within the last
// Policy.BrakeWindow included, or an entire aggregate of several hosts is, no further host becomes dead: the cause is a switch, a power feed or the
// observer, and restarting a third of the fleet elsewhere would finish what the fault began. The brake does not wear off; people are asked.
// Heartbeats come once a second and not at the same moment, so a host counts for the brake a little before it is suspect: else the first of several
// that fell silent at once would be dead before the last is missed.
// An operator's word goes past it: that a host is down (Heard.ForcedDown), or that its recovery may go on (Heard.Settled).
//
// The shape (heartbeats of several kinds, witnesses, an isolation that is not a failure) is that of vSphere HA and of CloudStack's
// host HA states; the bounds are ours, written at Policy.
package liveness
