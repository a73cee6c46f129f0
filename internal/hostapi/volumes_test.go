package hostapi_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostapitest"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

// VolumesUp and its siblings make an ear hear volume services too.

func (e *ear) VolumesUp(_ context.Context, name cloud.HostName, facts *hostpb.VolumeFacts) error {
	e.mu.Lock()
	err := e.refuse
	e.refuse = nil
	e.mu.Unlock()
	if err != nil {
		return err
	}
	e.say("volumes up %s %d", name, facts.GetSeq())
	return nil
}

func (e *ear) VolumesEvent(_ context.Context, name cloud.HostName, event *hostpb.HostEvent) error {
	switch x := event.GetEvent().(type) {
	case *hostpb.HostEvent_VolumeFacts:
		e.say("volumes %s says %d", name, x.VolumeFacts.GetSeq())
	case *hostpb.HostEvent_Heartbeat:
		e.say("volumes %s beats %d", name, x.Heartbeat.GetSeq())
	}
	return nil
}

func (e *ear) VolumesDown(name cloud.HostName) { e.say("volumes down %s", name) }

func startVolumes(t *testing.T, name cloud.HostName) (*hostapitest.Wire, *ear, *hostapitest.FakeVolumeHost, *hostapi.Agent, func()) {
	t.Helper()
	e := newEar()
	w := hostapitest.StartWire(t, hostapitest.WireOptions{Sessions: e, Volumes: e})
	fake := hostapitest.NewFleet().AddVolumes(name)
	agent, stop := w.StartFakeVolumes(t, fake)
	return w, e, fake, agent, stop
}

func TestAVolumeServiceEnrolsReportsAndIsCalled(t *testing.T) {
	w, e, fake, agent, stop := startVolumes(t, "storage-1")
	e.wait(t, "volumes up storage-1 1", 1)
	e.wait(t, "volumes storage-1 beats 1", 1)
	agent.Outbox().PutVolumeFacts(fake.CurrentFacts())
	e.wait(t, "volumes storage-1 says 2", 1)
	client, err := w.Server.Pool().WaitVolumes(limit(t), "storage-1")
	if err != nil {
		t.Fatal(err)
	}
	s, err := client.CreateVolume(limit(t), &hostpb.CreateVolumeRequest{Call: &hostpb.VolumeCall{VolumeId: "v1", Generation: 1, RunId: "r"}, Backend: "main", Bytes: 1 << 20})
	if err != nil || s.GetBytes() != 1<<20 {
		t.Errorf("created %v, %v", s, err)
	}
	stream, err := client.ReadVolume(limit(t), &hostpb.ReadVolumeRequest{VolumeId: "none"})
	if err == nil {
		_, err = stream.Recv()
	}
	if !cloud.Is(err, cloud.KindNotFound) {
		t.Errorf("a stream's error lost its kind: %v", err)
	}
	stop()
	e.wait(t, "volumes down storage-1", 1)
	if _, err := client.InspectVolume(limit(t), &hostpb.InspectVolumeRequest{VolumeId: "v1"}); !cloud.Is(err, cloud.KindUnavailable) {
		t.Errorf("a call on an ended connection: %v", err)
	}
}

func TestAVolumeServiceIsNoHost(t *testing.T) {
	w, e, _, _, _ := startVolumes(t, "storage-1")
	e.wait(t, "volumes storage-1 beats 1", 1)
	pool := w.Server.Pool()
	if _, err := pool.WaitVolumes(limit(t), "storage-1"); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Host("storage-1"); !cloud.Is(err, cloud.KindUnavailable) {
		t.Errorf("a volume service was given out as a host: %v", err)
	}
	if hosts := pool.Hosts(); len(hosts) != 0 {
		t.Errorf("hosts are %v", hosts)
	}
}

func TestAServerWithoutVolumesRefusesVolumeServices(t *testing.T) {
	e := newEar()
	w := hostapitest.StartWire(t, hostapitest.WireOptions{Sessions: e})
	w.StartFakeVolumes(t, hostapitest.NewFleet().AddVolumes("storage-1"))
	w.StartFake(t, hostapitest.NewFleet("compute-1").Host("compute-1"))
	e.wait(t, "compute-1 beats 2", 1) // time enough for the other
	for _, line := range e.all() {
		if line == "up storage-1" {
			t.Error("the volume service was taken for a host")
		}
	}
}

func TestPeersKnowEachOtherByTheirCertificates(t *testing.T) {
	w := hostapitest.StartWire(t, hostapitest.WireOptions{})
	storage, _ := w.StartFakeVolumes(t, hostapitest.NewFleet().AddVolumes("storage-1"))
	compute, _ := w.StartFake(t, hostapitest.NewFleet("compute-1").Host("compute-1"))
	client, err := tls.LoadX509KeyPair(compute.Files().Cert, compute.Files().Key)
	if err != nil {
		t.Fatal(err)
	}
	roots := storage.PeerTLS().ClientCAs
	for name, c := range map[string]struct {
		config *tls.Config
		want   cloud.HostName // empty: refused
	}{
		"host of the cloud": {&tls.Config{RootCAs: roots, ServerName: "storage-1", Certificates: []tls.Certificate{client}}, "compute-1"},
		"nobody":            {&tls.Config{RootCAs: roots, ServerName: "storage-1"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := net.Pipe()
			defer a.Close()
			defer b.Close()
			go io.Copy(io.Discard, tls.Client(a, c.config)) // ends with the pipe
			server := tls.Server(b, storage.PeerTLS())
			err := server.HandshakeContext(limit(t))
			if (err == nil) != (c.want != "") {
				t.Fatalf("handshake: %v", err)
			}
			if err != nil {
				return
			}
			if got, err := hostapi.PeerHost(server.ConnectionState()); got != c.want || err != nil {
				t.Errorf("the peer is %q, %v; want %q", got, err, c.want)
			}
		})
	}
}
