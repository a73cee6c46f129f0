package hostapi

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// home is the server that has the host's session, the one that leads, as the agent's other connections must know it.
type home struct {
	mu       sync.Mutex
	address  string           // of the last one that welcomed a session; before that the first to be tried
	cc       *grpc.ClientConn // of the session that stands, nil while none does
	welcomed chan struct{}    // closed and replaced when a session is welcomed
}

func newHome(address string) *home { return &home{address: address, welcomed: make(chan struct{})} }

// now returns the server's address, and a channel that is closed when a session is welcomed, here or elsewhere.
func (h *home) now() (address string, welcomed <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.address, h.welcomed
}

// up reports whether a session stands.
func (h *home) up() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cc != nil
}

func (h *home) enter(address string, cc *grpc.ClientConn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.address, h.cc = address, cc
	close(h.welcomed)
	h.welcomed = make(chan struct{})
}

func (h *home) leave(cc *grpc.ClientConn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cc == cc {
		h.cc = nil
	}
}

// connected waits for a session and returns its connection, which is closed when the session ends. Its error is a gRPC status.
func (h *home) connected(ctx context.Context) (*grpc.ClientConn, error) {
	for {
		h.mu.Lock()
		cc, welcomed := h.cc, h.welcomed
		h.mu.Unlock()
		if cc != nil {
			return cc, nil
		}
		select {
		case <-welcomed:
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
}
