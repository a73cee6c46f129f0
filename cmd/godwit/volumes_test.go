package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostapitest"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/test/freeport"
)

// asProgram, set in the environment, makes the test's binary be godwit: a process that can be killed.
const asProgram = "RUN_AS_GODWIT"

// volumesMax bounds every wait of these tests; only a bug reaches it.
const volumesMax = 30 * time.Second

// storage is a volume service in a process of its own, its server in this one, and what hosts need to be its clients.
type storage struct {
	t      *testing.T
	dir    string
	token  hostapi.JoinToken
	server *hostapi.Server
	listen string // of the server
	port   int    // of the service
	engine string
	cmd    *exec.Cmd
}

func newStorage(t *testing.T, engine string) *storage {
	t.Helper()
	ca, err := hostapi.NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	s := &storage{t: t, dir: t.TempDir(), token: hostapi.NewJoinToken(ca.Fingerprint()), engine: engine}
	s.server, err = hostapi.NewServer(hostapi.ServerOptions{
		Authority: ca, Admit: hostapi.AdmitToken(s.token), Images: hostapitest.NoImages{}, Sessions: hostapitest.Deaf{}, Volumes: hostapitest.Deaf{},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.port = freeport.Find(t)
	if err := os.WriteFile(filepath.Join(s.dir, "token"), []byte(s.token.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// serve runs the server until stop is called, on the same address each time.
func (s *storage) serve() (stop func()) {
	s.t.Helper()
	if s.listen == "" {
		s.listen = freeport.Address(s.t)
	}
	l, err := net.Listen("tcp", s.listen)
	if err != nil {
		s.t.Fatal(err)
	}
	s.listen = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var owned sync.WaitGroup
	owned.Go(func() { _ = s.server.Serve(ctx, l) })
	stop = sync.OnceFunc(func() { cancel(); owned.Wait() })
	s.t.Cleanup(stop)
	return stop
}

// start starts the service's process.
func (s *storage) start() {
	s.t.Helper()
	s.cmd = exec.Command(os.Args[0], "volumes", "--config", "/dev/null", "--server", s.listen, "--name", "storage-1", "--join-token-file", filepath.Join(s.dir, "token"),
		"--data-dir", filepath.Join(s.dir, "service"), "--backends", "main:file:"+filepath.Join(s.dir, "main"), "--engine", s.engine,
		"--nbd-listen", fmt.Sprintf("127.0.0.1:%d", s.port))
	s.cmd.Env = append(os.Environ(), asProgram+"=1")
	s.cmd.Stdout, s.cmd.Stderr = s.t.Output(), s.t.Output()
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(s.kill)
}

// kill ends the process without warning.
func (s *storage) kill() {
	if s.cmd.ProcessState == nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	}
}

// client waits for the service to be connected.
func (s *storage) client() hostpb.VolumeHostClient {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), volumesMax)
	defer cancel()
	for {
		client, err := s.server.Pool().WaitVolumes(ctx, "storage-1")
		if err == nil {
			_, err = client.InspectVolume(ctx, &hostpb.InspectVolumeRequest{VolumeId: "none"})
		}
		switch {
		case err == nil:
			return client
		case !cloud.Is(err, cloud.KindUnavailable) || ctx.Err() != nil: // a connection that is about to be replaced
			s.t.Fatal(err)
		}
	}
}

// host enrols a compute host and returns a directory with its certificates as QEMU wants them.
func (s *storage) host(name cloud.HostName) string {
	s.t.Helper()
	agent, err := hostapi.Dial(s.t.Context(), hostapi.AgentOptions{
		Servers: []string{s.listen}, Name: name, Token: s.token.String(), CertDir: s.t.TempDir(), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	dir, files := s.t.TempDir(), agent.Files()
	err = errors.Join(
		os.Symlink(files.CA, filepath.Join(dir, "ca-cert.pem")), os.Symlink(files.Cert, filepath.Join(dir, "client-cert.pem")),
		os.Symlink(files.Key, filepath.Join(dir, "client-key.pem")),
	)
	if err != nil {
		s.t.Fatal(err)
	}
	return dir
}

// qemu runs qemu-io's commands on an export, as the host whose certificates are in dir; without any if dir is empty.
func (s *storage) qemu(dir, export string, commands ...string) error {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), volumesMax)
	defer cancel()
	image := fmt.Sprintf("driver=raw,file.driver=nbd,file.server.type=inet,file.server.host=127.0.0.1,file.server.port=%d,file.export=%s", s.port, export)
	var argv []string
	if dir != "" {
		argv = append(argv, "--object", "tls-creds-x509,id=tls,endpoint=client,dir="+dir)
		image += ",file.tls-creds=tls,file.tls-hostname=storage-1"
	}
	argv = append(argv, "--image-opts", image)
	for _, c := range commands {
		argv = append(argv, "-c", c)
	}
	out, err := exec.CommandContext(ctx, "qemu-io", argv...).CombinedOutput()
	if err == nil && (strings.Contains(string(out), "error") || strings.Contains(string(out), "failed")) {
		err = errors.New("a command failed") // of which qemu-io's exit status says nothing
	}
	if err != nil {
		return fmt.Errorf("qemu-io %q: %w: %s", commands, err, out)
	}
	return nil
}

func volumeCall(generation int64) *hostpb.VolumeCall {
	return &hostpb.VolumeCall{VolumeId: "v1", Generation: generation, RunId: "run"}
}

// attached makes a volume and opens it for compute-1.
func (s *storage) attached() (export string) {
	s.t.Helper()
	client := s.client()
	if _, err := client.CreateVolume(s.t.Context(), &hostpb.CreateVolumeRequest{Call: volumeCall(1), Backend: "main", Bytes: 64 << 20}); err != nil {
		s.t.Fatal(err)
	}
	a, err := client.OpenAttachment(s.t.Context(), &hostpb.OpenAttachmentRequest{Call: volumeCall(2), AttachmentId: "a1", Host: "compute-1"})
	if err != nil {
		s.t.Fatal(err)
	}
	if a.GetPort() != int64(s.port) || a.GetTlsHostname() != "storage-1" {
		s.t.Errorf("hosts are told %v", a)
	}
	return a.GetExport()
}

func TestAVolumeIsServedToItsHostAlone(t *testing.T) {
	for _, engine := range []string{"auto", "threads"} {
		t.Run(engine, func(t *testing.T) {
			s := newStorage(t, engine)
			s.serve()
			s.start()
			export := s.attached()
			own, other := s.host("compute-1"), s.host("compute-2")
			if err := s.qemu(own, export, "write -P 0x5a 1M 2M", "flush", "read -P 0x5a 1M 2M", "read -P 0 8M 1M"); err != nil {
				t.Error(err)
			}
			for name, err := range map[string]error{
				"another host's certificate": s.qemu(other, export, "read 0 4k"),
				"no certificate":             s.qemu("", export, "read 0 4k"),
				"another export":             s.qemu(own, "v1/a2", "read 0 4k"),
			} {
				if err == nil {
					t.Errorf("%s: the volume was opened", name)
				}
			}
		})
	}
}

func TestAKilledVolumeServiceComesBackWithWhatItHad(t *testing.T) {
	s := newStorage(t, "auto")
	stop := s.serve()
	s.start()
	export, own := s.attached(), s.host("compute-1")
	if err := s.qemu(own, export, "write -P 0x5a 0 1M", "flush"); err != nil {
		t.Fatal(err)
	}
	s.kill()
	stop() // godwit's server is away too: guests must not need it
	s.start()
	deadline := time.Now().Add(volumesMax)
	for err := error(nil); ; {
		if err = s.qemu(own, export, "read -P 0x5a 0 1M", "write -P 0x33 1M 1M", "flush"); err == nil {
			break
		}
		if time.Now().After(deadline) || s.cmd.ProcessState != nil {
			t.Fatalf("without its server the service does not serve: %v", err)
		}
	}
	s.serve()
	state, err := s.client().InspectVolume(t.Context(), &hostpb.InspectVolumeRequest{VolumeId: "v1"})
	if err != nil || len(state.GetAttachments()) != 1 || state.GetAttachments()[0].GetRole() != hostpb.AttachmentRole_ATTACHMENT_ROLE_WRITER {
		t.Errorf("after the restart: %v, %v", state, err)
	}
}

func TestAVolumeServiceThatIsToldToStopEndsWell(t *testing.T) {
	s := newStorage(t, "auto")
	s.serve()
	s.start()
	s.attached()
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Wait(); err != nil {
		t.Error(err)
	}
}
