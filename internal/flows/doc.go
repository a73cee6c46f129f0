// Package flows is what godwit does to servers: one table of steps for each kind of intent. The tables are carried out by package workflow,
// under the leader; they read and write records through a store that is fenced by the leadership, and they call hosts.
//
//	intent boot     choose-host -> prepare -> start                                        => ACTIVE
//	intent migrate  choose-target -> prepare-target -> copy | switch -> release-source -> adopt-target
//	intent delete   sever -> discard -> bury                                               => gone
//	intent stop     begin -> stop                                                          => SHUTOFF
//	intent start    begin -> start                                                         => ACTIVE
//	intent reboot   begin -> reboot                                                        => ACTIVE
//
// and of volumes, keyed by volume:
//
//	intent volume-create    choose-backend -> create                                         => available, or reserved for whom it was made
//	intent volume-delete    close -> delete-snapshots -> delete                              => gone
//	intent volume-extend    extend -> tell-guests                                            => as before, larger
//	intent volume-upload    freeze -> upload -> thaw                                         => as before, and an active image
//	intent volume-retype    choose-backend -> move -> limits                                 => as before, of another type
//	intent volume-revert    revert                                                           => available
//	intent snapshot-create  snapshot                                                         => available
//	intent snapshot-delete  delete                                                           => gone
//
// # What keeps a server from running twice
//
// Runs on one server are serialised: the workflow key of every run is the server's id. Each run that will call a host first takes the next
// generation of the server, in a transaction, and remembers it; its host calls carry it, and a host refuses an older one. So whatever a
// deposed leader still has under way, it cannot change anything behind its successor's back.
//
// # What is true after a crash
//
// A step may have had its effect without the journal knowing. Every do and undo therefore looks before it acts: a claim that exists is not
// made twice, a host answers a repeated call with what it has. Only one effect cannot be repeated or taken back, the cut-over of a live
// migration, and only libvirt knows whether it has happened: see truth.go.
//
// # Who writes what
//
// Flows write a server's state, host and generation, its ports' bindings, claims, group places, a migration's status and target, and decisions.
// The last write of each run (the finish hook) settles the server's state, the action and the migration, and removes the intent, all in one
// transaction: whoever sees the intent gone sees the result. A Recorder, fed by the engine's hooks, adds each step to the instance action's
// events and to the migration's phases; it is for people, and nothing depends on it.
package flows
