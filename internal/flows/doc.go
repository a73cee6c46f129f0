// Package flows is what godwit does to servers: one table of steps for each kind of intent. The tables are carried out by package workflow,
// under the leader; they read and write records through a store that is fenced by the leadership, and they call hosts.
//
//	intent boot     choose-host -> await-volumes -> open-volumes -> prepare -> start       => ACTIVE
//	intent migrate  choose-target -> open-volumes-target -> prepare-target -> copy | switch -> adopt-target -> promote-volumes-target -> release-source -> close-volumes
//	intent cold-move       choose-target -> stop-source -> close-volumes-source -> open-volumes-target -> export-source -> prepare-target | switch -> start-target -> end-export-source => VERIFY_RESIZE
//	intent confirm-resize  begin | discard-source -> keep-target                    => ACTIVE or SHUTOFF
//	intent revert-resize   begin -> stop-target -> close-volumes-target -> open-volumes-source | switch -> prepare-source -> start-source -> discard-target => as before
//	intent rebuild         begin -> stop | discard -> reimage-volume -> change -> open-volumes -> prepare -> start => ACTIVE or SHUTOFF
//	intent create-image    begin -> upload                                          => as before, and an active image
//	intent shelve          begin -> stop -> upload | offload -> close-volumes       => SHELVED_OFFLOADED
//	intent unshelve        choose-host -> open-volumes -> prepare -> start          => ACTIVE
//	intent delete   sever -> discard -> close-volumes -> bury                              => gone
//	intent attach   begin -> open -> plug                                                  => the volume in-use
//	intent detach   begin -> unplug -> close                                               => the volume available
//	intent stop     begin -> stop                                                          => SHUTOFF
//	intent start    begin -> open-volumes -> start                                         => ACTIVE
//	intent reboot   begin -> open-volumes -> reboot                                        => ACTIVE
//
// and of volumes, keyed by volume:
//
//	intent volume-create    choose-backend -> create                                         => available, or reserved for whom it was made
//	intent volume-delete    close -> delete-snapshots -> delete                              => gone
//	intent volume-extend    extend -> tell-guests                                            => as before, larger
//	intent volume-upload    freeze -> upload -> thaw                                         => as before, and an active image
//	intent volume-retype    choose-backend -> move -> limits                                 => as before, of another type
//	intent volume-revert    revert                                                           => available
//	intent volume-reimage   reimage                                                          => available, with an image's data
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
// # Volumes of servers
//
// A volume is reached through an attachment, which belongs to one host. The service is asked before the host: open, then plug; unplug, then close. So a guest
// never holds a disk that its service does not know, and a service at most knows one that no guest holds, which the next attachment cuts off. While a server
// moves it has two attachments of each volume. The target's stands by: its first write, or the promotion after the switch, makes it the writer, and the service
// refuses the source from that moment on; if the move fails before, closing it changes nothing for the source. A volume service that is away never holds up
// the end of a move or of a deletion.
//
// # Who writes what
//
// Flows write a server's state, host and generation, its ports' bindings, claims, group places, a migration's status and target, and decisions.
// The last write of each run (the finish hook) settles the server's state, the action and the migration, and removes the intent, all in one
// transaction: whoever sees the intent gone sees the result. A Recorder, fed by the engine's hooks, adds each step to the instance action's
// events and to the migration's phases; it is for people, and nothing depends on it.
package flows
