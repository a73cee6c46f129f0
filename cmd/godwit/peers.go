package main

import (
	"log/slog"
	"net"
	"strconv"
	"sync"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/config"
	"github.com/godwit-cloud/godwit/internal/disk"
	"github.com/godwit-cloud/godwit/internal/hostagent"
	"github.com/godwit-cloud/godwit/internal/hostapi"
	"github.com/godwit-cloud/godwit/internal/peerdisk"
)

// servePeers serves other hosts' agents from now until end is called; nil when the configuration turns it off.
func servePeers(c config.Agent, wire *hostapi.Agent, disks *disk.Store, log *slog.Logger) (peers *hostagent.Peers, end func(), err error) {
	if c.PeerPort == 0 {
		return nil, func() {}, nil
	}
	l, err := net.Listen("tcp", net.JoinHostPort(c.MigrationAddress, strconv.Itoa(c.PeerPort)))
	if err != nil {
		return nil, nil, cloud.E(cloud.KindInvalid, "listen for other hosts (agent.peer_port)", "", err)
	}
	server := peerdisk.NewServer(peerdisk.Options{TLS: wire.PeerTLS(), PeerHost: hostapi.PeerHost, Base: disks.BasePath, ImageBandwidth: int64(c.PeerBandwidth), Log: log})
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.Serve(l); err != nil {
			log.Error("other hosts are not served any more", "error", err)
		}
	})
	end = func() {
		if err := server.Close(); err != nil {
			log.Warn("closing the port for other hosts", "error", err)
		}
		serving.Wait()
	}
	return &hostagent.Peers{Server: server, Puller: peerdisk.NewPuller(int64(c.PeerBandwidth)), Port: c.PeerPort, TLS: wire.DialTLS}, end, nil
}
