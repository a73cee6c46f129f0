// Package telemetry remembers what hosts and servers used: the leader's memory of the samples that agents stream.
//
//	agent --sample every few seconds--> Book.Add --> one ring of steps for each host and server, the means of the newest step
//	                                        Book.Readings(now) --> what deciders look at
//
// Samples are folded into steps (five minutes by default, the step of the consolidation policies), each with the mean of what was used in it. A
// ring keeps the last StepsKept of them; nothing is written to the store. A new leader begins with an empty book and knows enough again after two
// steps; deciders are told how many steps they look at.
//
// A server's history is its own: it goes on when the server moves, since both hosts' samples carry the server's id. What was not heard of for a
// while is forgotten, so memory is bounded by the fleet: about 1 KiB for each server.
//
// A Book is safe for concurrent use. Readings are copies and belong to the caller. Time is an argument.
package telemetry
