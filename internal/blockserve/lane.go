package blockserve

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/godwit-cloud/godwit/nbd"
	"github.com/godwit-cloud/godwit/uring"
)

const (
	// laneEntries is the size of a lane's submission queue: what a full queue of two busy guests asks in one round.
	laneEntries = 512
	// laneBuffers of laneBufferBytes each are what a lane receives into. Payloads larger than a buffer go straight to their place.
	laneBuffers     = 256
	laneBufferBytes = 16 << 10
	// sendBufferBytes is asked of the kernel for each socket: an answer that does not fit goes out in pieces, with a wake-up for each.
	sendBufferBytes = 1 << 20
	// laneSpin is how long a lane looks for the next request before it sleeps: what a sleep and its wake-up cost.
	laneSpin = 32 * time.Microsecond
	// crowdFor is for how many requests a lane does not spin after more than crowdMin were under way at once: those that come while it sleeps
	// are then carried out together, which costs less than to look for each.
	crowdFor = 256
	// crowdMin is how many at once are no crowd yet. With 4 the lane that looks answers twice as many as the one that sleeps, for the same
	// processor time each; with 8 as many, for an eighth more.
	crowdMin = 4
	// laneNap is for how long a lane lets requests gather once everybody of a crowd is answered: three or four come meanwhile from a client that has many under
	// way, and such a client waits for none of them. Twice as long is cheaper still with 64 under way, and makes a client with 16 wait.
	laneNap = 16 * time.Microsecond
	// queuedBytesMax is how much may wait to be sent to a client before it gets to ask no more.
	queuedBytesMax = 1 << 20
	// fileSlots is how many files a lane registers; further ones are named by their descriptors.
	fileSlots = 1024
)

// lane is a loop with its connections. See the package comment for who may touch what.
type lane struct {
	server *Server
	stack  *uring.Stack
	loop   *uring.Loop
	links  *uring.Server
	meter  *meter
	conns  atomic.Int64 // placed here and not ended; any goroutine

	underWay int  // tasks that run
	crowd    int  // requests for which the lane does not spin yet
	naps     bool // the last task would have gained by a nap before it; see laneNap

	memory arena
	files  map[int32]*fileSlot // by descriptor
	spare  []int32             // registered numbers that are free
	// sessions are the connections, to be finished when the service ends; gates those of their gates that have a lease.
	sessions map[finisher]struct{}
	ending   bool // who comes now is too late
	gates    sync.WaitGroup

	plain      []byte    // where TLS is opened into, for the moment of a call
	records    []*record // emptied
	gatherings [][]byte  // emptied
}

// finisher is a connection that can be asked to end when what is under way is done.
type finisher interface{ finish() }

// fileSlot is a registered file.
type fileSlot struct {
	number int32
	users  int
}

func (s *Server) newLane() (*lane, error) {
	stack, err := uring.NewStack(uring.StackOptions{Buffers: laneBuffers, BufferBytes: laneBufferBytes, Ring: uring.Options{Entries: laneEntries, QuietWaits: true, Spin: laneSpin}})
	if err != nil {
		return nil, err
	}
	l := &lane{server: s, stack: stack, loop: stack.Loop(), meter: &meter{}, files: map[int32]*fileSlot{}, sessions: map[finisher]struct{}{}}
	l.register()
	l.links, err = stack.ServeAdopted(nil, uring.ServerOptions{SendBufferBytes: sendBufferBytes, QueuedBytesMax: queuedBytesMax})
	if err != nil {
		return nil, errors.Join(err, stack.Close())
	}
	return l, nil
}

// register makes empty places for files. A kernel that gives none (its limit is that of descriptors) costs a little speed, no more.
func (l *lane) register() {
	places := make([]int32, fileSlots)
	for i := range places {
		places[i] = -1
	}
	if err := l.loop.RegisterFiles(places); err != nil {
		l.server.log.Info("files are not registered with the ring", "error", err)
		return
	}
	for i := range places {
		l.spare = append(l.spare, int32(len(places)-1-i))
	}
}

// post implements place. A loop that is closing has no connections left whose code could be missed.
func (l *lane) post(f func()) { _ = l.loop.Post(f) }

// after implements place.
func (l *lane) after(d time.Duration, f func()) { l.loop.After(d, f) }

// start implements place.
func (l *lane) start(t *task) { t.run() }

// began counts a task that runs.
func (l *lane) began() {
	l.underWay++
	switch {
	case l.underWay > crowdMin:
		l.crowd = crowdFor
	case l.crowd > 0:
		l.crowd--
	}
	l.look()
}

// ended counts a task that has run. Reads of the page cache are done at once, and what they cost is mostly receiving, answering and waking up, which a nap
// has done for several together. Writes fill the receive buffers meanwhile, and a disk does nothing while its requests gather.
func (l *lane) ended(t *task) {
	l.underWay--
	l.naps = t.request.Command == nbd.CmdRead && t.gate.storage.align <= 1
	l.look()
}

// look has the lane spin for what clients ask next, but not for what the disk answers: that takes longer, and where the kernel's workers do it
// (buffered writes of some file systems), they may wait for this very processor.
func (l *lane) look() {
	spin, nap := laneSpin, time.Duration(0)
	if l.underWay > 0 || l.crowd > 0 {
		spin = 0
	}
	if l.underWay == 0 && l.crowd > 0 && l.naps {
		nap = laneNap
	}
	l.loop.Spin(spin)
	l.loop.Nap(nap)
}

// enter implements place: it registers the file, once for all connections to it.
func (l *lane) enter(g *gate) {
	l.gates.Add(1)
	slot := l.files[g.fd]
	if slot == nil {
		if len(l.spare) == 0 || g.fd < 0 {
			return
		}
		number := l.spare[len(l.spare)-1]
		if err := l.loop.SetFile(int(number), g.fd); err != nil {
			l.server.log.Info("a file is not registered with the ring", "export", g.export, "error", err)
			return
		}
		l.spare = l.spare[:len(l.spare)-1]
		slot = &fileSlot{number: number}
		l.files[g.fd] = slot
	}
	slot.users++
	g.fd, g.fixed = slot.number, true
}

// leave implements place. The descriptor is still open, so its number cannot have gone to another file.
func (l *lane) leave(g *gate) {
	defer l.gates.Done()
	defer g.lease.Close()
	if !g.fixed {
		return
	}
	fd := int32(g.lease.File().FD())
	slot := l.files[fd]
	if slot.users--; slot.users > 0 {
		return
	}
	delete(l.files, fd)
	if err := l.loop.SetFile(int(slot.number), -1); err != nil {
		// The place keeps the old file open and is not used again.
		l.server.log.Warn("a file stays registered with the ring", "export", g.export, "error", err)
		return
	}
	l.spare = append(l.spare, slot.number)
}

// Find implements nbd.Exports.
func (l *lane) Find(name string, peer nbd.Peer) (nbd.Device, error) {
	g, err := l.server.newGate(name, l, l.meter, peer)
	if err != nil {
		return nil, err
	}
	return g, nil
}

// List implements nbd.Exports.
func (l *lane) List(peer nbd.Peer) []nbd.Listing { return l.server.list(peer) }

// finish asks all connections to end.
func (l *lane) finish() {
	l.post(func() {
		l.ending = true
		for s := range l.sessions {
			s.finish()
		}
	})
}

// close breaks the connections off and, when the last request is done, ends the loop.
func (l *lane) close() error {
	err := l.links.Close()
	l.gates.Wait()
	return errors.Join(err, l.stack.Close())
}
