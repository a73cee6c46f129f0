// Command bench measures godwit beside its named peers, in one run on one machine, and writes docs/benchmarks.md and its plots.
//
// Contenders take turns (A B B A ...), so that a drift of the machine hits both alike; every figure is a median with its spread; what
// godwit loses is written down like what it wins. Each section says the command that made it, and can be made again by itself: the others
// stay as they are in the document. What people found out about a section's figures is in notes/, and goes with it.
//
// # To add a section
//
// Write measureX(ctx, b) (markdown, error) in a file of its own and add a line to sections (main.go): key, title, function; the order there is
// the order in the document. Where contenders are to be compared in a few figures, fill in a contest (contest.go): a name and a turn for each of
// them, the first being godwit's; contest.measure interleaves b.rounds of them, and its report has the aims, the plot and the table with its
// ratios. What a turn needs is there: b.lab for a cloud of network namespaces (b.labWith for another shape of it, such as one with shared storage;
// only one is up at a time), newRawGuest and moves for a guest that virsh moves beside one that godwit moves, b.build for a program of ours,
// newScratch for a file system, launch and pinned for processes, sample and aimsTable for figures that do not fit a contest. Notes are written to
// notes/KEY.md. A section by itself: go run ./test/bench -only KEY -rounds 3.
//
// # How long it takes
//
// Two minutes a round for nbd (with -span 200ms a fifth less), 25 s for copy, 15 s for echo, 10 s each for the migrations, after half a minute to a minute to
// set a section up.
package main
