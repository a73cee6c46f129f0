package blockserve

import (
	"crypto/tls"
	"io"
	mathrand "math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/volume"
	"github.com/godwit-cloud/godwit/nbd"
)

// Of all names one leads to the attachment, and that for its host only.
func FuzzExportName(f *testing.F) {
	k := keep(f, f.TempDir(), false, Options{Engine: Threads})
	export := k.open("aaaaaaaa-0000-0000-0000-000000000001", false)
	for _, seed := range []string{export, "", "/", string(k.id), export + "/", "../" + export, string(k.id) + "/\x00", export[:len(export)-1]} {
		f.Add(seed, string(hostOfTest))
	}
	f.Add(export, "compute-2")
	exports := Stores(k.store)
	f.Fuzz(func(t *testing.T, name, host string) {
		lease, err := exports.Admit(name, volume.Visit{Host: cloud.HostName(host)})
		if err == nil {
			defer lease.Close()
		}
		ours := host == string(hostOfTest) || host == "" // without TLS nobody has a name
		if let := err == nil; let != (name == export && ours) {
			t.Fatalf("%q for host %q: %v", name, host, err)
		}
		if name == export && !ours && !cloud.Is(err, cloud.KindForbidden) {
			t.Fatalf("another host is told: %v", err)
		}
	})
}

// What a client that has shaken hands says within TLS, and what it says instead of records, in whatever pieces they arrive, ends its own connection at
// most: TLS runs over memory here, on a loop that others share.
func FuzzTLSOverMemory(f *testing.F) {
	a := newAuthority(f)
	w := newWorld(f, Ring, setting{options: Options{Loops: 1}})
	l := w.listen("tcp", a.server())
	good := w.dial(l, nbd.ClientOptions{Export: "a", TLS: a.client(string(hostOfTest))})
	config := a.client(string(hostOfTest))
	config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	f.Add([]byte(nil), []byte(nil), uint64(0))
	f.Add(append(request(nbd.CmdWrite, 0, 1, 0, 4096), make([]byte, 4096)...), []byte{23, 3, 3, 0, 4, 1, 2, 3, 4}, uint64(1))
	f.Add(append(request(nbd.CmdRead, 0, 1, 0, 100_000), request(nbd.CmdDisc, 0, 2, 0, 0)...), []byte{21, 3, 3, 0, 2, 1, 0}, uint64(2))
	f.Add(request(nbd.CmdWrite, 0, 1, 0, 1<<20)[:13], []byte{22, 3, 3, 255, 255}, uint64(3))
	f.Fuzz(func(t *testing.T, within, instead []byte, seed uint64) {
		conn, err := net.Dial("tcp", l.Addr().String())
		must(t, err)
		defer conn.Close()
		must(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
		_, err = conn.Write([]byte{0, 0, 0, 3, 'I', 'H', 'A', 'V', 'E', 'O', 'P', 'T', 0, 0, 0, 5, 0, 0, 0, 0})
		must(t, err)
		_, err = io.ReadFull(conn, make([]byte, 18+20))
		must(t, err)
		torn := pieces{conn, mathrand.New(mathrand.NewPCG(seed, 1))}
		secured := tls.Client(torn, config)
		must(t, secured.Handshake())
		_, err = secured.Write([]byte{'I', 'H', 'A', 'V', 'E', 'O', 'P', 'T', 0, 0, 0, 7, 0, 0, 0, 9, 0, 0, 0, 1, 'a', 0, 1, 0, 3})
		must(t, err)
		_, err = secured.Read(make([]byte, 1000))
		must(t, err)
		go func() { _, _ = io.Copy(io.Discard, conn) }() // ends with the connection
		if len(within) > 0 {
			_, _ = secured.Write(within) // the server may have hung up
		}
		_, _ = torn.Write(instead)
		if _, err := good.WriteAt([]byte{1, 2, 3}, 7); err != nil {
			t.Fatalf("another connection: %v", err)
		}
	})
}
