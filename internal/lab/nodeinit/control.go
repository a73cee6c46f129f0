package nodeinit

import (
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"time"
)

const (
	// requestBytesMax bounds a control request; the longest real one is under 100 bytes.
	requestBytesMax = 4096
	// requestWait bounds how long a silent client may hold a connection before it sends its request.
	requestWait = 10 * time.Second
	// connectionsMax bounds control connections served at once; the tool opens one at a time, tests a few.
	connectionsMax = 64
)

// request is a Request on its way to the supervisor. reply has room for one answer, so the supervisor never waits for a client.
type request struct {
	Request
	reply chan Reply
}

// serveControl accepts control connections for the life of the node. Each carries one request and one reply.
func serveControl(l net.Listener, requests chan<- request, log *slog.Logger) {
	slots := make(chan struct{}, connectionsMax)
	for {
		conn, err := l.Accept()
		if err != nil {
			log.Error("control socket is gone", "err", err)
			return
		}
		slots <- struct{}{}
		go func() {
			defer func() { conn.Close(); <-slots }()
			serveOne(conn, requests)
		}()
	}
}

func serveOne(conn net.Conn, requests chan<- request) {
	conn.SetReadDeadline(time.Now().Add(requestWait))
	req := request{reply: make(chan Reply, 1)}
	if err := json.NewDecoder(io.LimitReader(conn, requestBytesMax)).Decode(&req.Request); err != nil {
		json.NewEncoder(conn).Encode(Reply{Err: "bad request: " + err.Error()})
		return
	}
	requests <- req
	json.NewEncoder(conn).Encode(<-req.reply)
}
