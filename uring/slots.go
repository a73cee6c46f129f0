package uring

// slots is the table of requests in flight: a completion's UserData, a token, leads to its owner.
//
// A token is the slot's index and, above it, how often the slot has been used. A cancel that was decided before the request's completion
// was seen, and comes after the slot went to another request, thus finds nobody instead of the wrong one. No token is 0, so that 0 may stand
// for none.
type slots struct {
	all   []slot
	freed []uint32
	inUse int
}

type slot struct {
	owner Completer
	use   uint32
}

const (
	tokenIndexBits = 32
	// bellToken is the UserData of the eventfd read, ignoredToken that of requests whose result nobody wants. Their index is beyond any
	// table's.
	bellToken    = ^uint64(0)
	ignoredToken = ^uint64(1)
)

// take gives c a slot and returns its token.
func (s *slots) take(c Completer) uint64 {
	s.inUse++
	var i uint32
	if n := len(s.freed); n > 0 {
		i = s.freed[n-1]
		s.freed = s.freed[:n-1]
	} else {
		i = uint32(len(s.all))
		s.all = append(s.all, slot{use: 1})
	}
	s.all[i].owner = c
	return s.token(i)
}

// token returns the token of a slot in use.
func (s *slots) token(i uint32) uint64 { return uint64(s.all[i].use)<<tokenIndexBits | uint64(i) }

// owner returns who waits for a token's completions, nil when nobody does.
func (s *slots) owner(token uint64) Completer {
	i := uint32(token)
	if int(i) >= len(s.all) || s.all[i].use != uint32(token>>tokenIndexBits) {
		return nil
	}
	return s.all[i].owner
}

// free ends a token.
func (s *slots) free(token uint64) {
	i := uint32(token)
	s.all[i].owner = nil
	if s.all[i].use++; s.all[i].use == 0 {
		s.all[i].use = 1
	}
	s.freed = append(s.freed, i)
	s.inUse--
}
