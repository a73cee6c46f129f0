package fencetest

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"
)

// Reading is what DCMI's Get Power Reading tells: watts now, and the least, most and mean of the last Period.
type Reading struct {
	Now, Least, Most, Mean uint16
	At                     time.Time
	Period                 time.Duration
	Inactive               bool // power measurement is off
}

// BMC is a running BMC whose machine is on.
type BMC struct {
	user, password string
	conn           *net.UDPConn
	done           chan struct{}

	mu         sync.Mutex // guards what follows
	on         bool
	reading    *Reading // nil: it has no DCMI
	readings   int      // answered
	dropping   int      // answers that get lost
	sessions   map[uint32]*session
	next       uint32 // session's number
	violations []string
}

// session is one between its opening and its end.
type session struct {
	id, console     uint32
	consoleRandom   []byte
	bmcRandom       []byte
	roleAndName     []byte
	levelMax, level byte
	keys            keys
	active, closed  bool
	received        map[uint32]bool // sequence numbers
	highest, sent   uint32
	last            []byte // the last packet, to tell one that was sent again
}

// guid is what RAKP 2 tells of the machine.
var guid = []byte("godwit-fencetest")

const suiteSHA1 = 1 // RAKP-HMAC-SHA1, HMAC-SHA1-96 and AES-CBC-128 all have number 1 in their lists

// Start runs a BMC with one user until the test ends, which then fails by what the BMC noted. Sessions that a caller left open are no fault of the
// protocol: see Open.
func Start(t testing.TB, user, password string) *BMC {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	const firstSession = 0x1000
	b := &BMC{user: user, password: password, conn: conn, done: make(chan struct{}), on: true, sessions: map[uint32]*session{}, next: firstSession}
	go b.serve()
	t.Cleanup(func() {
		_ = conn.Close()
		<-b.done
		for _, v := range b.violations {
			t.Errorf("BMC: %s", v)
		}
	})
	return b
}

// Address is where it listens, IP:port.
func (b *BMC) Address() string { return b.conn.LocalAddr().String() }

// Read has it answer power readings so from now on; nil: it has no DCMI.
func (b *BMC) Read(r *Reading) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reading = r
}

// Readings is how many power readings it has answered.
func (b *BMC) Readings() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.readings
}

// LoseAnswers has the next n answers get lost on their way.
func (b *BMC) LoseAnswers(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dropping = n
}

// Open is how many sessions there are that nobody has closed. A BMC has few, and forgets one that is left open only after a minute.
func (b *BMC) Open() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, s := range b.sessions {
		if s.active && !s.closed {
			n++
		}
	}
	return n
}

func (b *BMC) serve() {
	defer close(b.done)
	buffer := make([]byte, 1500)
	for {
		n, from, err := b.conn.ReadFromUDP(buffer)
		if err != nil {
			return // closed
		}
		if answer := b.hear(bytes.Clone(buffer[:n])); answer != nil {
			_, _ = b.conn.WriteToUDP(answer, from) // who asked may be gone
		}
	}
}

func (b *BMC) hear(raw []byte) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	answer, err := b.receive(raw)
	if err != nil {
		b.violations = append(b.violations, err.Error())
		return nil
	}
	if answer != nil && b.dropping > 0 {
		b.dropping--
		return nil
	}
	return answer
}

func (b *BMC) receive(raw []byte) ([]byte, error) {
	if len(raw) < rmcpSize+1 || !bytes.Equal(raw[:rmcpSize], rmcpHeader) {
		return nil, fmt.Errorf("no RMCP packet of class IPMI: % x", raw)
	}
	if raw[rmcpSize] == authNone {
		return b.outside(raw)
	}
	p, rest, err := parseHeader(raw)
	if err != nil {
		return nil, err
	}
	if p.kind == payloadIPMI {
		return b.inside(p.session, raw)
	}
	if p.session != 0 || p.sequence != 0 || len(rest) != 0 {
		return nil, fmt.Errorf("set-up of a session in session %#x, sequence %d, with %d bytes after it", p.session, p.sequence, len(rest))
	}
	switch p.kind {
	case payloadOpen:
		return b.open(p.payload)
	case payloadRAKP1:
		return b.rakp1(p.payload)
	case payloadRAKP3:
		return b.rakp3(p.payload)
	}
	return nil, fmt.Errorf("payload of type %#x", p.kind)
}

// outside answers what may be asked without a session, in IPMI 1.5's header (IPMI 2.0, table 13-9).
func (b *BMC) outside(raw []byte) ([]byte, error) {
	const size = 10
	h := raw[rmcpSize:]
	if len(h) < size || !bytes.Equal(h[:9], make([]byte, 9)) || int(h[9]) != len(h)-size {
		return nil, fmt.Errorf("packet outside a session: % x", raw)
	}
	r, err := parseRequest(h[size:])
	if err != nil {
		return nil, err
	}
	if r.command != cmdAuthCaps {
		return nil, fmt.Errorf("command %#x of %#x outside a session", r.command.number, r.netFn)
	}
	message := r.answer(b.capabilities(r))
	out := append(append([]byte{}, rmcpHeader...), make([]byte, 9)...)
	return append(append(out, byte(len(message))), message...), nil
}

// refusal of a step of the set-up (IPMI 2.0, table 13-15).
const (
	refusedSession   = 0x02
	refusedIntegrity = 0x0f
	refusedName      = 0x0d
	refusedSuite     = 0x11
)

func setUp(kind byte, payload ...[]byte) []byte {
	return packet{kind: kind, payload: bytes.Join(payload, nil)}.bytes(0)
}

func number(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }

func (b *BMC) open(m []byte) ([]byte, error) {
	const size = 32
	if len(m) != size {
		return nil, fmt.Errorf("open session request of %d bytes", len(m))
	}
	console := binary.LittleEndian.Uint32(m[4:])
	for i, part := range [][]byte{m[8:16], m[16:24], m[24:32]} {
		if !bytes.Equal(part, []byte{byte(i), 0, 0, 8, suiteSHA1, 0, 0, 0}) {
			return setUp(payloadOpened, []byte{m[0], refusedSuite, 0, 0}, number(console)), nil
		}
	}
	if console == 0 {
		return nil, fmt.Errorf("open session request without the console's session")
	}
	s := &session{id: b.next, console: console, received: map[uint32]bool{}, level: levelUser}
	b.next++
	b.sessions[s.id] = s
	return setUp(payloadOpened, []byte{m[0], 0, levelAdmin, 0}, number(console), number(s.id), m[8:32]), nil
}

func (b *BMC) rakp1(m []byte) ([]byte, error) {
	const fixed = 28
	if len(m) < fixed || len(m) != fixed+int(m[27]) {
		return nil, fmt.Errorf("RAKP 1 of %d bytes", len(m))
	}
	s := b.sessions[binary.LittleEndian.Uint32(m[4:])]
	if s == nil || s.active {
		return setUp(payloadRAKP2, []byte{m[0], refusedSession, 0, 0}, m[4:8]), nil
	}
	if string(m[fixed:]) != b.user {
		return setUp(payloadRAKP2, []byte{m[0], refusedName, 0, 0}, number(s.console)), nil
	}
	s.consoleRandom, s.roleAndName, s.levelMax = m[8:24], append([]byte{m[24], m[27]}, m[fixed:]...), m[24]&0x0f
	s.bmcRandom = make([]byte, 16)
	_, _ = rand.Read(s.bmcRandom) // never fails
	code := mac([]byte(b.password), number(s.console), number(s.id), s.consoleRandom, s.bmcRandom, guid, s.roleAndName)
	return setUp(payloadRAKP2, []byte{m[0], 0, 0, 0}, number(s.console), s.bmcRandom, guid, code), nil
}

func (b *BMC) rakp3(m []byte) ([]byte, error) {
	const fixed = 8
	if len(m) < fixed {
		return nil, fmt.Errorf("RAKP 3 of %d bytes", len(m))
	}
	s := b.sessions[binary.LittleEndian.Uint32(m[4:])]
	if s == nil || s.bmcRandom == nil || m[1] != 0 { // the console does not go on
		return nil, nil
	}
	want := mac([]byte(b.password), s.bmcRandom, number(s.console), s.roleAndName)
	if !hmac.Equal(want, m[fixed:]) {
		return setUp(payloadRAKP4, []byte{m[0], refusedIntegrity, 0, 0}, number(s.console)), nil
	}
	s.keys, s.active = deriveKeys([]byte(b.password), s.consoleRandom, s.bmcRandom, s.roleAndName), true
	check := mac(s.keys.sik, s.consoleRandom, number(s.id), guid)[:authCodeSize]
	return setUp(payloadRAKP4, []byte{m[0], 0, 0, 0}, number(s.console), check), nil
}

// inside answers a packet of a session.
func (b *BMC) inside(id uint32, raw []byte) ([]byte, error) {
	s := b.sessions[id]
	if s == nil || !s.active || s.closed {
		return nil, fmt.Errorf("packet of session %#x, which there is not", id)
	}
	p, err := s.keys.open(raw)
	if err != nil {
		return nil, err
	}
	if fresh, err := s.fresh(p.sequence, raw); !fresh || err != nil {
		return nil, err
	}
	r, err := parseRequest(p.payload)
	if err != nil {
		return nil, err
	}
	message := r.answer(b.perform(s, r))
	s.sent++
	return s.keys.seal(packet{session: s.console, sequence: s.sent, payload: message})
}

// fresh applies the sliding window of sequence numbers (IPMI 2.0, section 6.12.13): what was heard before is dropped, and no fault if it is the very same.
func (s *session) fresh(sequence uint32, raw []byte) (bool, error) {
	const ahead, behind = 15, 16
	if s.received[sequence] {
		if !bytes.Equal(raw, s.last) {
			return false, fmt.Errorf("sequence number %d is used twice", sequence)
		}
		return false, nil
	}
	if sequence == 0 || sequence > s.highest+ahead || sequence+behind < s.highest {
		return false, fmt.Errorf("sequence number %d after %d", sequence, s.highest)
	}
	s.received[sequence], s.last, s.highest = true, raw, max(s.highest, sequence)
	return true, nil
}
