package operator

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

func TestStreamBeginsWithWhatIsNowAndGoesOnWithChanges(t *testing.T) {
	w := newWorld(t)
	w.hosts("a", "b")
	s := w.guest("web", "a")
	w.move(1, s, "b", cloud.MigrationCompleted)
	m := w.move(2, s, "b", cloud.MigrationRunning)
	w.put(func(tx *store.Tx) error {
		return store.Put(tx, tables.Progress, m.ID, cloud.MigrationProgress{Migration: m.ID, Server: s.ID, Seq: 1, Stats: cloud.MigrationStats{MemoryRemaining: 7}})
	})

	in := w.listen("", adminToken)
	first := in.until(EventReady)
	if got := names(first); got != "server migration progress ready" {
		t.Fatalf("a stream began with %q: a finished migration is no news", got)
	}
	if got := decode[ServerState](in, first[0]); got.ID != s.ID || got.Name != "web" || got.VMState != cloud.VMActive || got.Host != "a" {
		t.Errorf("server: %+v", got)
	}
	if got := decode[Migration](in, first[1]); got.ID != m.ID || got.ServerName != "web" || got.Status != cloud.MigrationRunning || got.Progress != nil {
		t.Errorf("migration: %+v", got)
	}
	if got := decode[cloud.MigrationProgress](in, first[2]); got.Migration != m.ID || got.Stats.MemoryRemaining != 7 {
		t.Errorf("progress: %+v", got)
	}

	s.Task = cloud.TaskMigrating
	w.saveServer(s)
	if got := decode[ServerState](in, in.until(EventServer)[0]); got.Task != cloud.TaskMigrating {
		t.Errorf("a change of state: %+v", got)
	}
	w.put(func(tx *store.Tx) error {
		return store.Put(tx, tables.Progress, m.ID, cloud.MigrationProgress{Migration: m.ID, Server: s.ID, Seq: 2, Stats: cloud.MigrationStats{MemoryRemaining: 3}})
	})
	if got := decode[cloud.MigrationProgress](in, in.until(EventProgress)[0]); got.Seq != 2 {
		t.Errorf("figures: %+v", got)
	}
	m.Status = cloud.MigrationCompleted
	w.save(m)
	if got := decode[Migration](in, in.until(EventMigration)[0]); got.Status != cloud.MigrationCompleted {
		t.Errorf("the end of a migration: %+v", got)
	}
	w.put(func(tx *store.Tx) error { return store.Delete(tx, tables.Servers, s.ID) })
	if got := decode[Gone](in, in.until(EventServerGone)[0]); got.ID != string(s.ID) {
		t.Errorf("a deleted server: %+v", got)
	}
}

func TestStreamSaysNothingOfChangesThatAreNoState(t *testing.T) {
	w := newWorld(t)
	w.hosts("a")
	s := w.guest("web", "a")
	in := w.listen("", adminToken)
	in.until(EventReady)
	s.Metadata = map[string]string{"colour": "blue"}
	w.saveServer(s)
	s.Name = "web-2"
	w.saveServer(s)
	events := in.until(EventServer)
	if got := decode[ServerState](in, events[0]); got.Name != "web-2" {
		t.Errorf("metadata made an event: %v", events)
	}
}

func TestStreamFiltersByServerAndByMigration(t *testing.T) {
	w := newWorld(t)
	w.hosts("a", "b")
	one, other := w.guest("one", "a"), w.guest("other", "a")
	old := w.move(1, one, "b", cloud.MigrationFailed)
	running := w.move(2, one, "b", cloud.MigrationRunning)
	w.move(3, other, "b", cloud.MigrationRunning)

	byServer := w.listen("?server="+string(one.ID), adminToken)
	events := byServer.until(EventReady)
	if got := names(events); got != "server migration ready" || decode[Migration](byServer, events[1]).ID != running.ID {
		t.Errorf("server filter: %v", events)
	}
	byMigration := w.listen("?migration="+string(old.ID), adminToken)
	events = byMigration.until(EventReady)
	if got := names(events); got != "server migration ready" || decode[Migration](byMigration, events[1]).ID != old.ID {
		t.Errorf("a migration that is named is shown although it is over: %v", events)
	}
	other.Task = cloud.TaskMigrating
	w.saveServer(other)
	one.Task = cloud.TaskMigrating
	w.saveServer(one)
	if got := decode[ServerState](byServer, byServer.until(EventServer)[0]); got.ID != one.ID {
		t.Errorf("another server's event came through: %+v", got)
	}
}

func TestLastEventIDGetsWhatIsNowOnceMore(t *testing.T) {
	w := newWorld(t)
	w.hosts("a")
	w.guest("web", "a")
	first := w.listen("", adminToken).until(EventReady)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.server.URL+"/godwit/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Auth-Token", adminToken)
	req.Header.Set("Last-Event-ID", first[len(first)-1].id)
	resp, err := w.server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	again := newEventStream(t, resp.Body).until(EventReady)
	if names(again) != "server ready" || again[0] != first[0] {
		t.Errorf("first %v, again %v", first, again)
	}
}

func TestSlowReaderNeverBlocksTheStoreAndSeesTheLastState(t *testing.T) {
	w := newWorld(t)
	w.hosts("a", "b")
	m := w.move(1, w.guest("web", "a"), "b", cloud.MigrationRunning)
	conn := w.slowClient("/godwit/v1/events?migration=" + string(m.ID))

	// Far more than sockets buffer, while nobody reads. Each update returns when the store's readers can see it.
	const updates, size = 40, 32 << 10
	for i := range updates {
		m.Error = fmt.Sprint(i) + strings.Repeat(".", size)
		w.save(m)
	}
	in := newEventStream(t, conn.body(t))
	last := fmt.Sprint(updates - 1)
	seen := 0
	for {
		e, ok := in.next()
		if !ok {
			t.Fatalf("the stream ended after %d events", seen)
		}
		if e.name != EventMigration {
			continue
		}
		seen++
		if strings.HasPrefix(decode[Migration](in, e).Error, last+".") {
			break
		}
	}
	if seen > updates/2 {
		t.Errorf("%d of %d states were sent: nothing was merged while the client was away", seen, updates)
	}
}

func TestClientThatDoesNotReadIsDropped(t *testing.T) {
	w := newWorld(t)
	w.service.pace.write = 50 * time.Millisecond
	w.hosts("a", "b")
	m := w.move(1, w.guest("web", "a"), "b", cloud.MigrationRunning)
	w.slowClient("/godwit/v1/events?migration=" + string(m.ID))
	began := time.Now()
	for i := 0; w.service.streams.count() > 0; i++ {
		if i >= 200 && time.Since(began) > time.Minute { // six megabytes, and all the time that a busy machine may need
			t.Fatal("a client that took nothing is still being served")
		}
		m.Error = fmt.Sprint(i) + strings.Repeat(".", 32<<10)
		w.save(m)
	}
}

// count returns the number of open streams.
func (s *streams) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

// slowConn is a client with small buffers that has sent its request and read nothing but the first events.
type slowConn struct {
	net.Conn
	reader *bufio.Reader
}

func (w *world) slowClient(path string) *slowConn {
	w.Helper()
	d := net.Dialer{}
	conn, err := d.DialContext(w.Context(), "tcp", w.server.Listener.Addr().String())
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { conn.Close() })
	if err := conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		w.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nX-Auth-Token: %s\r\n\r\n", path, adminToken); err != nil {
		w.Fatal(err)
	}
	c := &slowConn{conn, bufio.NewReader(conn)}
	if _, err := c.reader.Peek(1); err != nil { // it is being served
		w.Fatal(err)
	}
	return c
}

// body reads the answer's header and returns its body.
func (c *slowConn) body(t *testing.T) io.ReadCloser {
	t.Helper()
	resp, err := http.ReadResponse(c.reader, nil) //nolint:bodyclose // closing would read a stream that has no end
	if err != nil {
		t.Fatal(err)
	}
	return struct {
		io.Reader
		io.Closer
	}{resp.Body, c.Conn}
}

func TestStreamIsKeptAlive(t *testing.T) {
	w := newWorld(t)
	w.service.pace.keepAlive = 5 * time.Millisecond
	in := w.listen("", adminToken)
	in.until(EventReady)
	if e, ok := in.next(); !ok || e.comment != "keep-alive" {
		t.Errorf("got %+v", e)
	}
}

func TestStreamsEndWhenTheServiceStops(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.service.Run(ctx) }()
	in := w.listen("", adminToken)
	in.until(EventReady)
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if e, ok := in.next(); ok {
		t.Errorf("after the end came %+v", e)
	}
	if got := w.refused(http.StatusServiceUnavailable, "GET", "/godwit/v1/events", adminToken, ""); !strings.Contains(got.Error.Message, "shutting down") {
		t.Errorf("a new stream: %+v", got)
	}
}

func TestStreamEndsWithItsToken(t *testing.T) {
	in := newWorld(t).listen("", brief)
	in.until(EventReady)
	if e, ok := in.next(); ok {
		t.Errorf("after the token's end came %+v", e)
	}
}

func TestStreamEndsWhenTheClientLeaves(t *testing.T) {
	w := newWorld(t)
	in := w.listen("", adminToken)
	in.until(EventReady)
	in.body.Close()
	w.service.streams.all.Wait()
	if n := w.service.streams.count(); n != 0 {
		t.Errorf("%d streams are open", n)
	}
}

func TestStreamsAreBounded(t *testing.T) {
	w := newWorld(t)
	var leave []func()
	for range streamsMax {
		l, err := w.service.streams.enter()
		if err != nil {
			t.Fatal(err)
		}
		leave = append(leave, l)
	}
	w.refused(http.StatusServiceUnavailable, "GET", "/godwit/v1/events", adminToken, "")
	for _, l := range leave {
		l()
	}
	w.listen("", adminToken).until(EventReady)
}

func TestStreamOfNothingIsRefused(t *testing.T) {
	w := newWorld(t)
	w.hosts("a", "b")
	s := w.guest("web", "a")
	m := w.move(1, s, "b", cloud.MigrationRunning)
	for query, code := range map[string]int{
		"?server=nobody": 404, "?migration=none": 404, "?migration=" + string(m.ID) + "&server=other": 404, "?servers=x": 400, "?server=a&server=b": 400,
	} {
		w.refused(code, "GET", "/godwit/v1/events"+query, adminToken, "")
	}
}

func TestTheHealingOfAGuestIsToldStepByStepAndKeptForWhoAsksLater(t *testing.T) {
	w := newWorld(t)
	w.hosts("a")
	s, other := w.guest("web", "a"), w.guest("db", "a")
	put := func(id cloud.ServerID, status cloud.HealStatus) {
		w.put(func(tx *store.Tx) error {
			return store.Put(tx, tables.Healings, id, cloud.Healing{Server: id, Host: "a", Failure: cloud.FailureCrashed, Status: status})
		})
	}
	put(s.ID, cloud.HealWaiting)
	put(other.ID, cloud.HealDone)
	in := w.listen("", adminToken)
	if got := names(in.until(EventReady)); got != "server server healing ready" {
		t.Errorf("a stream began with %q: a settled failure is no news", got)
	}
	mine := w.listen("?server="+string(s.ID), adminToken)
	mine.until(EventReady)
	put(other.ID, cloud.HealRestarting)
	put(s.ID, cloud.HealRestarting)
	if got := decode[cloud.Healing](in, in.until(EventHealing)[0]); got.Server != other.ID {
		t.Errorf("the first change: %+v", got)
	}
	if got := decode[cloud.Healing](mine, mine.until(EventHealing)[0]); got.Server != s.ID || got.Status != cloud.HealRestarting {
		t.Errorf("the stream of one server: %+v", got)
	}
}
