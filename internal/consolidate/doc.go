// Package consolidate decides which servers of a fleet should move so that hosts are neither overloaded nor idle, and which hosts may
// sleep. It is a pure decider: a Fleet goes in, Moves come out; nothing is read, nothing is started, chance comes as an argument.
//
//	Fleet --Observe--> the detectors' memories            once per step
//	      --Plan-----> Moves, in the order decided        once per round
//	      --Place----> the host of a guest about to boot
//
// # Planners
//
// Paper is the algorithm of Beloglazov and Buyya's paper of 2012, as their simulator has it; Neat is that of OpenStack Neat, which the
// same authors built from it; Static moves nothing; Godwit is ours. The first two are put together from parts that are named as there:
//
//	overload   THR MAD IQR LR LRR (paper), loess OTFT OTFTM MHOD (Neat and the thesis)      Detector
//	underload  last_n_average, threshold, always (Neat)                                     Underload
//	selection  MMT RS MC MU (paper), MMT with maximal CPU (Neat)                            Selector
//	placement  PABFD (paper), BFD (Neat)                                                    PowerAware, BestFit
//
// Parse makes a planner from its name, such as "lr-mmt-1.2" or "godwit".
//
// # Two kinds of trying
//
// The paper's planner asks its detector about hosts as they would be, so it tries guests on a Bench, which keeps sums of histories.
// Ours asks other questions, of expected load and its spread, and has its own bench (packing). On both, memory of a leaving guest stays
// held on its host: it is free only when the move is over, and a plan whose moves all start at once must fit all the same.
//
// # Ownership
//
// A Fleet belongs to its caller and is not changed, but for the Memory of its hosts, which Observe advances. Planners hold parameters
// only and may be used by many goroutines at once.
package consolidate
