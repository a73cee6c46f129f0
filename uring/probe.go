package uring

import (
	"fmt"
	"unsafe"
)

// Support is the set of operations that the running kernel knows.
type Support struct{ ops [256]bool }

// Has reports whether the kernel knows every one of the operations.
func (s *Support) Has(ops ...Opcode) bool {
	for _, op := range ops {
		if !s.ops[op] {
			return false
		}
	}
	return true
}

// Probe asks the kernel which operations it knows.
func (r *Ring) Probe() (*Support, error) {
	var p probe
	if _, err := r.kernel.register(r.fd, registerProbe, unsafe.Pointer(&p), uint32(len(p.Ops))); err != nil {
		return nil, fmt.Errorf("ring: probe: %w", err)
	}
	s := &Support{}
	for _, o := range p.Ops[:p.OpsLen] {
		s.ops[o.Op] = o.Flags&opSupported != 0
	}
	return s, nil
}

// Probe asks the kernel which operations it knows.
func (l *Loop) Probe() (*Support, error) {
	type answer struct {
		support *Support
		err     error
	}
	result := make(chan answer, 1)
	if err := l.Post(func() {
		support, err := l.ring.Probe()
		result <- answer{support, err}
	}); err != nil {
		return nil, err
	}
	a := <-result
	return a.support, a.err
}
