package fencetest

import (
	"encoding/binary"
	"fmt"
)

// Completion codes (IPMI 2.0, table 5-2).
const (
	codeOK             = 0x00
	codeInvalidCommand = 0xc1
	codeDataLength     = 0xc7
	codeDataField      = 0xcc
	codePrivilege      = 0xd4
)

// Privilege levels (IPMI 2.0, section 6.8).
const (
	levelUser     = 2
	levelOperator = 3
	levelAdmin    = 4
)

// The commands that this BMC has, by network function and number.
var (
	cmdDeviceID      = command{0x06, 0x01}
	cmdAuthCaps      = command{0x06, 0x38}
	cmdSetPrivilege  = command{0x06, 0x3b}
	cmdCloseSession  = command{0x06, 0x3c}
	cmdChassisStatus = command{0x00, 0x01}
	cmdChassis       = command{0x00, 0x02}
	cmdPowerReading  = command{0x2c, 0x02} // group extension
)

type command struct{ netFn, number byte }

// groupDCMI is the first byte of every DCMI request and answer.
const groupDCMI = 0xdc

// request is an IPMI message (IPMI 2.0, figure 13-4) without its wrapping.
type request struct {
	command
	from, fromLUN byte // rqAddr and rqLUN
	number        byte // rqSeq
	data          []byte
}

func checksum(b []byte) (sum byte) {
	for _, x := range b {
		sum -= x
	}
	return sum
}

const (
	bmcAddress  = 0x20
	messageSize = 7 // of a request without data
)

func parseRequest(m []byte) (request, error) {
	if len(m) < messageSize {
		return request{}, fmt.Errorf("message of %d bytes", len(m))
	}
	if m[2] != checksum(m[:2]) || m[len(m)-1] != checksum(m[3:len(m)-1]) {
		return request{}, fmt.Errorf("message with a wrong checksum: % x", m)
	}
	if m[0] != bmcAddress || m[1]&3 != 0 {
		return request{}, fmt.Errorf("message to %#x, unit %d", m[0], m[1]&3)
	}
	if m[3]&1 == 0 {
		return request{}, fmt.Errorf("message from %#x, which is no software's address", m[3])
	}
	return request{command{m[1] >> 2, m[5]}, m[3], m[4] & 3, m[4] >> 2, m[6 : len(m)-1]}, nil
}

// answer is the message that answers a request.
func (r request) answer(code byte, data []byte) []byte {
	out := []byte{r.from, (r.netFn+1)<<2 | r.fromLUN, 0}
	out[2] = checksum(out[:2])
	body := append([]byte{bmcAddress, r.number << 2, r.command.number, code}, data...)
	return append(append(out, body...), checksum(body))
}

// perform carries a command out, at a session's privilege. Callers hold b.mu.
func (b *BMC) perform(s *session, r request) (code byte, data []byte) {
	switch r.command {
	case cmdDeviceID:
		return codeOK, []byte{0x20, 0x01, 0x02, 0x00, 0x02, 0x80, 0x57, 0x01, 0x00, 0x00, 0x00} // IPMI 2.0, a chassis device
	case cmdAuthCaps:
		return b.capabilities(r)
	case cmdSetPrivilege:
		return s.raise(r)
	case cmdCloseSession:
		if len(r.data) != 4 || binary.LittleEndian.Uint32(r.data) != s.id {
			return codeDataField, nil
		}
		s.closed = true
		return codeOK, nil
	case cmdChassisStatus:
		power := byte(0)
		if b.on {
			power = 1
		}
		return codeOK, []byte{power, 0, 0}
	case cmdChassis:
		return b.chassis(s, r)
	case cmdPowerReading:
		return b.powerReading(s, r)
	}
	return codeInvalidCommand, nil
}

// capabilities says that there is IPMI 2.0 with users that have names, and nothing without a password (IPMI 2.0, section 22.13).
func (b *BMC) capabilities(r request) (byte, []byte) {
	if len(r.data) != 2 {
		return codeDataLength, nil
	}
	if level := r.data[1]; level < levelUser || level > levelAdmin {
		return codeDataField, nil
	}
	const extended, namedUsers, version2 = 0x80, 0x04, 0x02
	return codeOK, []byte{0x01, extended, namedUsers, version2, 0, 0, 0, 0}
}

// raise is Set Session Privilege Level: a session begins as a user's, whatever it may become (IPMI 2.0, section 22.18).
func (s *session) raise(r request) (byte, []byte) {
	if len(r.data) != 1 {
		return codeDataLength, nil
	}
	const beyond = 0x81
	if r.data[0] > s.levelMax {
		return beyond, nil
	}
	if r.data[0] != 0 { // 0 only asks
		s.level = r.data[0]
	}
	return codeOK, []byte{s.level}
}

func (b *BMC) chassis(s *session, r request) (byte, []byte) {
	if s.level < levelOperator {
		return codePrivilege, nil
	}
	if len(r.data) != 1 {
		return codeDataLength, nil
	}
	const down, up, soft = 0, 1, 5
	switch r.data[0] {
	case down, soft:
		b.on = false
	case up:
		b.on = true
	default:
		return codeDataField, nil
	}
	return codeOK, nil
}

// powerReading is DCMI's Get Power Reading (DCMI 1.5, table 6-16) in mode 1, system power statistics.
func (b *BMC) powerReading(s *session, r request) (byte, []byte) {
	if len(r.data) == 0 || r.data[0] != groupDCMI {
		return codeInvalidCommand, nil
	}
	if b.reading == nil { // a BMC without DCMI
		return codeInvalidCommand, nil
	}
	if s.level < levelUser {
		return codePrivilege, nil
	}
	const statistics = 1
	switch {
	case len(r.data) != 4:
		return codeDataLength, nil
	case r.data[1] != statistics || r.data[2] != 0 || r.data[3] != 0:
		return codeDataField, nil
	}
	b.readings++
	out := []byte{groupDCMI}
	for _, watts := range []uint16{b.reading.Now, b.reading.Least, b.reading.Most, b.reading.Mean} {
		out = binary.LittleEndian.AppendUint16(out, watts)
	}
	out = binary.LittleEndian.AppendUint32(out, uint32(b.reading.At.Unix()))
	out = binary.LittleEndian.AppendUint32(out, uint32(b.reading.Period.Milliseconds()))
	const active = 0x40
	if b.reading.Inactive {
		return codeOK, append(out, 0)
	}
	return codeOK, append(out, active)
}
