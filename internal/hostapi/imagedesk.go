package hostapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

const (
	// nearStreamsMax bounds the images that are sent at a time to hosts that could read them from each other: what a disk and a network card serve well.
	nearStreamsMax = 8
	// nearStreamsPerImage bounds those of one image: two, so that one slow host does not hold up all the others, who read from whoever is ready first.
	nearStreamsPerImage = 2
	// nearWaitMax is how long a request waits for its turn before it is told to ask again, well below the agent's patience for a first answer.
	nearWaitMax = 2 * time.Second
	// arriveMax is how long a host that has been sent an image counts as one that is being sent it: it checks the hash, and its facts, which say that it has
	// the image, take a second or two.
	arriveMax = 5 * time.Second
	// nearLookEvery is how often a request that waits looks who has the image by now.
	nearLookEvery = 100 * time.Millisecond
)

// An imageDesk decides who reads an image from here and who from another host, so that a hundred hosts that need one image at once cost the server a few
// streams: the first ones are served, the others wait until one of those has it.
type imageDesk struct {
	limit *rate.Limiter // nil: none

	mu       sync.Mutex
	streams  int                           // to hosts that could read elsewhere; guarded by mu
	perImage map[cloud.ImageID]int         // of those; guarded by mu
	arrived  map[cloud.ImageID][]time.Time // when one was sent whole, lately; guarded by mu
	freed    chan struct{}                 // closed, and replaced, when one ends; guarded by mu
}

func newImageDesk(bytesPerSecond int64) *imageDesk {
	d := &imageDesk{perImage: map[cloud.ImageID]int{}, arrived: map[cloud.ImageID][]time.Time{}, freed: make(chan struct{})}
	if bytesPerSecond > 0 {
		d.limit = rate.NewLimiter(rate.Limit(bytesPerSecond), imageChunkBytes)
	}
	return d
}

// take takes a stream if one is free; otherwise it returns what is closed when that may have changed. Images that were sent a
// moment ago count too: soon the hosts that got them say so, and those who wait are sent there.
func (d *imageDesk) take(id cloud.ImageID, now time.Time) (ok bool, freed <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.arrived[id] = slices.DeleteFunc(d.arrived[id], func(at time.Time) bool { return now.Sub(at) > arriveMax })
	if len(d.arrived[id]) == 0 {
		delete(d.arrived, id)
	}
	if d.streams >= nearStreamsMax || d.perImage[id]+len(d.arrived[id]) >= nearStreamsPerImage {
		return false, d.freed
	}
	d.streams++
	d.perImage[id]++
	return true, nil
}

// give gives a stream back; whole says that the host got all of it.
func (d *imageDesk) give(id cloud.ImageID, whole bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if whole {
		d.arrived[id] = append(d.arrived[id], time.Now())
	}
	d.streams--
	if d.perImage[id]--; d.perImage[id] == 0 {
		delete(d.perImage, id)
	}
	close(d.freed)
	d.freed = make(chan struct{})
}

// FetchImage implements Control.
func (s *Server) FetchImage(req *hostpb.FetchImageRequest, stream grpc.ServerStreamingServer[hostpb.ImageChunk]) error {
	host, err := hostCaller(stream.Context())
	if err != nil {
		return err
	}
	id := cloud.ImageID(req.GetImageId())
	if req.GetNear() {
		elsewhere, err := s.directImage(stream.Context(), req, host)
		if err != nil {
			return err
		}
		if elsewhere != nil {
			return stream.Send(elsewhere)
		}
		err = s.sendImage(id, req.GetOffset(), stream)
		s.images.give(id, err == nil)
		return err
	}
	return s.sendImage(id, req.GetOffset(), stream)
}

// directImage says where the host gets the image; nil: from here, where a stream has been taken for it.
func (s *Server) directImage(ctx context.Context, req *hostpb.FetchImageRequest, host cloud.HostName) (*hostpb.ImageChunk, error) {
	id := cloud.ImageID(req.GetImageId())
	late := time.NewTimer(nearWaitMax)
	defer late.Stop()
	look := time.NewTicker(nearLookEvery)
	defer look.Stop()
	for {
		if peers := s.imagePeers(id, host, req.GetTried()); len(peers) > 0 {
			return &hostpb.ImageChunk{Peers: peers}, nil
		}
		ok, freed := s.images.take(id, time.Now())
		if ok {
			return nil, nil
		}
		select {
		case <-freed:
		case <-look.C:
		case <-late.C:
			return &hostpb.ImageChunk{Busy: true}, nil
		case <-ctx.Done():
			return nil, cloud.E(cloud.KindCancelled, "fetch", "image "+string(id), context.Cause(ctx))
		}
	}
}

func (s *Server) imagePeers(id cloud.ImageID, to cloud.HostName, tried []string) []*hostpb.DiskSource {
	if s.opts.ImagePeers == nil {
		return nil
	}
	return slices.DeleteFunc(s.opts.ImagePeers(id, to), func(p *hostpb.DiskSource) bool { return slices.Contains(tried, p.GetHost()) })
}

// sendImage streams the data from the offset to the end.
func (s *Server) sendImage(id cloud.ImageID, offset int64, stream grpc.ServerStreamingServer[hostpb.ImageChunk]) error {
	data, err := s.opts.Images.Open(stream.Context(), id, offset)
	if err != nil {
		return err
	}
	defer data.Close()
	for {
		// A fresh buffer each time: gRPC may still look at a message after Send has returned.
		buf := make([]byte, imageChunkBytes)
		n, err := io.ReadFull(data, buf)
		if n > 0 {
			if s.images.limit != nil {
				if lerr := s.images.limit.WaitN(stream.Context(), n); lerr != nil {
					return cloud.E(cloud.KindCancelled, "fetch", "image "+string(id), lerr)
				}
			}
			if serr := stream.Send(&hostpb.ImageChunk{Data: buf[:n]}); serr != nil {
				return serr
			}
		}
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return fmt.Errorf("image %s: read: %w", id, err)
		}
	}
}
