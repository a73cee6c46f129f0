package main

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/config"
	"github.com/godwit-cloud/godwit/internal/control"
	"github.com/godwit-cloud/godwit/internal/flows"
	"github.com/godwit-cloud/godwit/internal/hostapi"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/test/freeport"
)

func openTestStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(context.Background(), store.Options{DataDir: t.TempDir(), Tables: tables.All()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestTrustIsMadeOnceAndTheTokenFileIsPrivate(t *testing.T) {
	s, dir, ctx := openTestStore(t), t.TempDir(), context.Background()
	c := config.Server{DataDir: dir, JoinTokenFile: filepath.Join(dir, "etc", "join-token")}
	first, err := loadTrust(ctx, s, c)
	if err != nil {
		t.Fatal(err)
	}
	again, err := loadTrust(ctx, s, c)
	if err != nil || again.authority.Fingerprint() != first.authority.Fingerprint() || again.token != first.token {
		t.Errorf("a second start has another authority or token: %v", err)
	}
	info, err := os.Stat(c.JoinTokenFile)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("token file: %v, %v", info.Mode(), err)
	}
	stranger, err := hostapi.NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.JoinTokenFile, []byte(hostapi.NewJoinToken(stranger.Fingerprint()).String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadTrust(ctx, s, c); !cloud.Is(err, cloud.KindInvalid) || !strings.Contains(err.Error(), "remove the file") {
		t.Errorf("a token of another authority: %v", err)
	}
}

func TestEveryMigrationSettingReachesControl(t *testing.T) {
	c := config.Default()
	c.Migration = config.Migration{DowntimeMax: 1, Bandwidth: 2, AutoConverge: true, PostCopy: true, ParallelConnections: 3, TimeoutPerGiB: 4,
		TimeoutAction: "force_complete", OutboundMax: 5, InboundMax: 6, ClusterMax: 7}
	got := settingsOf(c)
	if want := (flows.Moves{DowntimeMax: 1, BandwidthBytes: 2, AutoConverge: true, PostCopy: true, ParallelConnections: 3}); got.Moves != want {
		t.Errorf("moves %+v", got.Moves)
	}
	if want := (control.Budget{Outbound: 5, Inbound: 6, Cluster: 7}); got.Budget != want {
		t.Errorf("budget %+v", got.Budget)
	}
	if got.TimeoutPerGiB != 4 || !got.ForceOnTimeout {
		t.Errorf("time limit %v, force %v", got.TimeoutPerGiB, got.ForceOnTimeout)
	}
}

func TestServersOfOneCloudHaveOneJoinToken(t *testing.T) {
	s, dir, ctx := openTestStore(t), t.TempDir(), context.Background()
	load := func(file string) hostapi.JoinToken {
		t.Helper()
		got, err := loadTrust(ctx, s, config.Server{DataDir: dir, JoinTokenFile: filepath.Join(dir, file)})
		if err != nil {
			t.Fatal(err)
		}
		return got.token
	}
	first := load("one")
	if second := load("two"); second != first {
		t.Error("a second server has another token")
	}
	authority, err := loadTrust(ctx, s, config.Server{DataDir: dir, JoinTokenFile: filepath.Join(dir, "one")})
	if err != nil {
		t.Fatal(err)
	}
	rotated := hostapi.NewJoinToken(authority.authority.Fingerprint())
	if err := os.WriteFile(filepath.Join(dir, "one"), []byte(rotated.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if load("one") != rotated || load("three") != rotated {
		t.Error("a token that an operator wrote is not the cloud's")
	}
}

func TestAProvidedAuthorityIsTakenByTheFirstStart(t *testing.T) {
	s, dir := openTestStore(t), t.TempDir()
	pem, err := newAuthorityPEM()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "authority.pem"), pem, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := loadTrust(context.Background(), s, config.Server{DataDir: dir, JoinTokenFile: filepath.Join(dir, "token")})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(pem, got.authority.CertPEM()) {
		t.Error("the server made an authority of its own")
	}
}

func TestPublicURLIsOneThatClientsCanUse(t *testing.T) {
	tests := []struct {
		c    config.Server
		want string
	}{
		{config.Server{APIListen: "127.0.0.1:8774"}, "http://127.0.0.1:8774"},
		{config.Server{APIListen: "0.0.0.0:80"}, "http://127.0.0.1:80"},
		{config.Server{APIListen: ":8774", APICert: "x"}, "https://127.0.0.1:8774"},
		{config.Server{APIListen: "[::]:1"}, "http://127.0.0.1:1"},
		{config.Server{APIListen: "10.0.0.1:1", PublicURL: "https://cloud"}, "https://cloud"},
	}
	for _, tt := range tests {
		if got := publicURL(tt.c); got != tt.want {
			t.Errorf("%+v: got %s, want %s", tt.c, got, tt.want)
		}
	}
}

func TestASocketForAnotherProcessIsNotTaken(t *testing.T) {
	t.Setenv("LISTEN_PID", "1")
	t.Setenv("LISTEN_FDS", "1")
	t.Setenv("LISTEN_FDNAMES", "api")
	if l, err := passedSocket("api"); l != nil || err != nil {
		t.Errorf("got %v, %v", l, err)
	}
}

func TestTheServiceManagerIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	notify("READY=1")
	buf := make([]byte, 64)
	if err := l.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := l.Read(buf)
	if err != nil || string(buf[:n]) != "READY=1" {
		t.Errorf("got %q, %v", buf[:n], err)
	}
}

// TestAServerStartsServesAndStopsWhole runs the real thing on loopback: embedded store, bootstrap, API, and an orderly end.
func TestAServerStartsServesAndStopsWhole(t *testing.T) {
	dir := t.TempDir()
	c := config.Default()
	c.Server.APIListen, c.Server.AgentListen = freeport.Address(t), freeport.Address(t)
	c.Server.DataDir, c.Server.JoinTokenFile = dir, filepath.Join(dir, "token")
	c.Server.LogLevel, c.Server.ShutdownTimeout = "error", time.Second
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- runServer(ctx, c) }()
	wait, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	url := "http://" + c.Server.APIListen
	if err := answers(wait, url+"/healthz"); err != nil {
		t.Fatal(err)
	}
	if err := accepts(wait, c.Server.AgentListen); err != nil {
		t.Errorf("nobody accepts agents: %v", err)
	}
	for path, want := range map[string]int{"/": 200, "/compute/v2.1/servers": 401, "/godwit/v1/hosts": 401, "/metrics": 200, "/nothing": 404} {
		resp, err := http.Get(url + path)
		if err != nil || resp.StatusCode != want {
			t.Errorf("%s: %v, %v", path, resp, err)
			continue
		}
		resp.Body.Close()
	}
	for _, file := range []string{"openrc", "clouds.yaml", "token"} {
		if info, err := os.Stat(filepath.Join(dir, file)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v", file, err)
		}
	}
	stop()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the server ended with %v", err)
		}
	case <-wait.Done():
		t.Fatal("the server does not stop")
	}
}

// accepts waits until somebody listens at the address.
func accepts(ctx context.Context, address string) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// answers waits until the URL answers 200.
func answers(ctx context.Context, url string) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		resp, err := http.Get(url)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
