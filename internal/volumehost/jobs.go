package volumehost

import (
	"context"
	"errors"
	"sync"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// jobs are the pieces of work that outlive their callers. Calls with the same key join one job.
type jobs struct {
	life context.Context
	end  context.CancelCauseFunc

	mu      sync.Mutex
	running map[string]*job
	closed  bool
	group   sync.WaitGroup
}

// job is one piece of work. Its result is there when done is closed.
type job struct {
	done   chan struct{}
	result any
	err    error
}

var errEnding = cloud.Errorf(cloud.KindUnavailable, "the volume service is ending")

func (j *jobs) start(ctx context.Context) {
	j.running = map[string]*job{}
	j.life, j.end = context.WithCancelCause(context.WithoutCancel(ctx))
}

// stop ends all jobs and waits for them.
func (j *jobs) stop() {
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	j.end(errEnding)
	j.group.Wait()
}

// run has work done under the key, or joins the job that does it, and returns its result. When ctx ends first the work goes on.
func run[T any](ctx context.Context, j *jobs, key string, work func(context.Context) (T, error)) (T, error) {
	var none T
	at, err := j.join(key, func(ctx context.Context) (any, error) { return work(ctx) })
	if err != nil {
		return none, err
	}
	select {
	case <-at.done:
	case <-ctx.Done():
		return none, cloud.E(cloud.KindCancelled, "wait", key, ctx.Err())
	}
	if at.err != nil {
		return none, at.err
	}
	return at.result.(T), nil
}

func (j *jobs) join(key string, work func(context.Context) (any, error)) (*job, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil, errEnding
	}
	if at := j.running[key]; at != nil {
		return at, nil
	}
	at := &job{done: make(chan struct{})}
	j.running[key] = at
	j.group.Go(func() {
		at.result, at.err = work(j.life)
		if at.err != nil && errors.Is(context.Cause(j.life), errEnding) {
			at.err = cloud.E(cloud.KindUnavailable, "", "", errors.Join(errEnding, at.err))
		}
		j.mu.Lock()
		delete(j.running, key)
		j.mu.Unlock()
		close(at.done)
	})
	return at, nil
}
