package control

import (
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// A BMC that answers late must not turn a host off that has returned meanwhile: the attempt ends when the host is heard.
func TestAnAttemptToFenceEndsWhenTheHostIsHeard(t *testing.T) {
	w := newWorld(t, "h1")
	silent, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	w.write(func(tx *store.Tx) error {
		return store.Put(tx, tables.BMCs, "h1", cloud.BMC{Host: "h1", Protocol: "ipmi", Address: silent.LocalAddr().String(), User: "u", Password: "p"})
	})
	l := &leader{}
	l.Store, l.log = w.store, slog.New(slog.DiscardHandler)
	b := newBMCs(l)
	b.begin(t.Context(), "h1")
	if err := silent.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := silent.ReadFromUDP(make([]byte, 1500)); err != nil {
		t.Fatalf("the BMC was not asked: %v", err)
	}
	b.forget("h1")
	b.work.Wait() // an attempt that is not ended goes on for twenty seconds and says so in the BMC's record
	if known := b.known(w.store.View(), "h1"); known.Off || known.Error != "" {
		t.Errorf("known of the host that is heard: %+v", known)
	}
	if held, _ := store.Lookup(w.store, tables.BMCs, cloud.HostName("h1")); held.Error != "" {
		t.Errorf("the attempt went on to its end: %s", held.Error)
	}
}
