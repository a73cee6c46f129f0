package uring

import "testing"

func TestProbeKnowsWhatWeUseAndNotWhatDoesNotExist(t *testing.T) {
	r, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s, err := r.Probe()
	if err != nil {
		t.Fatal(err)
	}
	if !s.Has(OpNop, OpRead, OpWrite, OpFsync, OpAccept, OpRecv, OpSend, OpAsyncCancel, OpFallocate, OpSplice) {
		t.Error("an operation that Linux 6.1 has is reported missing")
	}
	if s.Has(OpRead, Opcode(255)) {
		t.Error("operation 255 does not exist")
	}
}
