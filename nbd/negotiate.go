package nbd

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"unicode/utf8"
)

// Peer is who negotiates.
type Peer struct {
	Addr net.Addr
	TLS  *tls.ConnectionState // nil: in the clear
}

// TLSMode says what a server thinks of connections in the clear.
type TLSMode int

// The modes.
const (
	TLSOff      TLSMode = iota // none is offered
	TLSOptional                // offered
	TLSRequired                // nothing else is answered before it
)

// Next is what the owner of a Negotiation does next.
type Next int

// What comes next.
const (
	More     Next = iota // feed more bytes
	StartTLS             // send what is to be sent, then go on with Secured over TLS
	Transmit             // send what is to be sent, then make a Conn of Result
	Hangup               // send what is to be sent, then close the connection
)

const (
	// optionBytesMax bounds the data of an option: two strings of the greatest length the protocol allows and a few queries.
	optionBytesMax = 4 * stringMax
	// optionsMax bounds how many options a client may send; real ones send ten.
	optionsMax = 128
	// queriesMax bounds the metadata contexts a client may ask for at once.
	queriesMax = 64
)

// Negotiation is the server's side of the handshake: bytes in, bytes out. Make it with NewNegotiation, send Greeting, then Feed it.
type Negotiation struct {
	exports Exports
	mode    TLSMode
	peer    Peer

	partial    []byte // of a message that has not arrived whole
	greeted    bool   // the client's flags have arrived
	noZeroes   bool
	fixed      bool
	structured bool
	options    int
	context    string // the export for which base:allocation was selected
	selected   bool
	result     Result
	err        error
}

// Result is what was agreed.
type Result struct {
	Export     string
	Device     Device
	Info       Info
	Structured bool // structured replies
	Status     bool // base:allocation was selected
}

// NewNegotiation starts a negotiation with a client in the clear.
func NewNegotiation(exports Exports, mode TLSMode, peer Peer) *Negotiation {
	return &Negotiation{exports: exports, mode: mode, peer: peer}
}

// Greeting returns what the server says first.
func (n *Negotiation) Greeting() []byte {
	p := make([]byte, 0, greetingBytes)
	p = binary.BigEndian.AppendUint64(p, magicGreeting)
	p = binary.BigEndian.AppendUint64(p, magicOption)
	return binary.BigEndian.AppendUint16(p, handshakeFixedNewstyle|handshakeNoZeroes)
}

// Secured tells that TLS has been set up. What was agreed before is forgotten, as the protocol demands: it came in the clear.
func (n *Negotiation) Secured(state tls.ConnectionState) {
	n.peer.TLS = &state
	n.structured, n.selected, n.context = false, false, ""
}

// Result returns what was agreed; it is complete after Transmit.
func (n *Negotiation) Result() Result { return n.result }

// Err returns why the answer was Hangup; nil when the client wanted it.
func (n *Negotiation) Err() error { return n.err }

// Feed takes bytes from the client. It appends what to send to out, and says what to do next. It takes all bytes unless the next is another
// phase, to which the rest belongs.
func (n *Negotiation) Feed(p, out []byte) (taken int, _ []byte, next Next) {
	for {
		need := n.need()
		if need > optionHeadBytes+optionBytesMax {
			return taken, out, n.hangup(violation("option with %d bytes of data", need-optionHeadBytes))
		}
		k := min(need-len(n.partial), len(p)-taken)
		n.partial = append(n.partial, p[taken:taken+k]...)
		taken += k
		if len(n.partial) < need {
			return taken, out, More
		}
		if n.need() > need {
			continue // the head tells that there is data
		}
		message := n.partial
		n.partial = nil
		if out, next = n.message(message, out); next != More {
			return taken, out, next
		}
	}
}

// need returns how long the message being received is, as far as is known.
func (n *Negotiation) need() int {
	if !n.greeted {
		return clientFlagsBytes
	}
	if len(n.partial) < optionHeadBytes {
		return optionHeadBytes
	}
	return optionHeadBytes + int(binary.BigEndian.Uint32(n.partial[12:]))
}

func (n *Negotiation) hangup(err error) Next {
	n.err = err
	return Hangup
}

// message answers one complete message.
func (n *Negotiation) message(m, out []byte) ([]byte, Next) {
	if !n.greeted {
		return out, n.flags(binary.BigEndian.Uint32(m))
	}
	if magic := binary.BigEndian.Uint64(m); magic != magicOption {
		return out, n.hangup(violation("option magic %#x", magic))
	}
	if n.options++; n.options > optionsMax {
		return out, n.hangup(violation("more than %d options", optionsMax))
	}
	return n.option(Option(binary.BigEndian.Uint32(m[8:])), m[optionHeadBytes:], out)
}

// flags takes the client's answer to the greeting.
func (n *Negotiation) flags(flags uint32) Next {
	if flags&^(handshakeFixedNewstyle|handshakeNoZeroes) != 0 {
		return n.hangup(violation("client flags %#x", flags))
	}
	n.greeted, n.fixed, n.noZeroes = true, flags&handshakeFixedNewstyle != 0, flags&handshakeNoZeroes != 0
	return More
}

// option answers one option.
func (n *Negotiation) option(o Option, data, out []byte) ([]byte, Next) {
	if !n.fixed && o != OptExportName {
		return out, n.hangup(violation("option %d without fixed newstyle", o))
	}
	if n.mode == TLSRequired && n.peer.TLS == nil && o != OptStartTLS && o != OptAbort {
		if o == OptExportName {
			return out, n.hangup(errors.New("nbd: client did not start TLS"))
		}
		return refuse(out, o, repErrTLSRequired, "start TLS first"), More
	}
	switch o {
	case OptExportName:
		return n.exportName(string(data), out)
	case OptAbort:
		return reply(out, o, repAck, nil), n.hangup(nil)
	case OptList:
		return n.list(data, out), More
	case OptStartTLS:
		return n.startTLS(data, out)
	case OptInfo, OptGo:
		return n.info(o, data, out)
	case OptStructuredReply:
		if len(data) > 0 {
			return refuse(out, o, repErrInvalid, "the option has no data"), More
		}
		n.structured = true
		return reply(out, o, repAck, nil), More
	case OptListMetaContext, OptSetMetaContext:
		return n.metaContext(o, data, out), More
	default: // OptExtendedHeaders too
		return refuse(out, o, repErrUnsup, fmt.Sprintf("option %d is not known", o)), More
	}
}

// reply appends a reply to an option.
func reply(out []byte, o Option, r optionReply, data []byte) []byte {
	out = binary.BigEndian.AppendUint64(out, magicOptionRep)
	out = binary.BigEndian.AppendUint32(out, uint32(o))
	out = binary.BigEndian.AppendUint32(out, uint32(r))
	out = binary.BigEndian.AppendUint32(out, uint32(len(data)))
	return append(out, data...)
}

func refuse(out []byte, o Option, r optionReply, why string) []byte {
	return reply(out, o, r, []byte(clip(why)))
}

// clip makes a text fit for the wire.
func clip(s string) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "?")
	if len(s) <= messageMax {
		return s
	}
	return strings.ToValidUTF8(s[:messageMax], "")
}

// messageMax bounds the messages we send; the protocol recommends it.
const messageMax = 256

func (n *Negotiation) list(data, out []byte) []byte {
	if len(data) > 0 {
		return refuse(out, OptList, repErrInvalid, "the option has no data")
	}
	for _, l := range n.exports.List(n.peer) {
		item := binary.BigEndian.AppendUint32(nil, uint32(len(l.Name)))
		item = append(item, l.Name...)
		out = reply(out, OptList, repServer, append(item, clip(l.Description)...))
	}
	return reply(out, OptList, repAck, nil)
}

func (n *Negotiation) startTLS(data, out []byte) ([]byte, Next) {
	switch {
	case len(data) > 0:
		return refuse(out, OptStartTLS, repErrInvalid, "the option has no data"), More
	case n.peer.TLS != nil:
		return refuse(out, OptStartTLS, repErrInvalid, "TLS is on already"), More
	case n.mode == TLSOff:
		return refuse(out, OptStartTLS, repErrPolicy, "this server has no TLS"), More
	}
	return reply(out, OptStartTLS, repAck, nil), StartTLS
}

// find looks for an export.
func (n *Negotiation) find(name string) (Device, Info, optionReply, error) {
	if err := checkName(name); err != nil {
		return nil, Info{}, repErrInvalid, err
	}
	device, err := n.exports.Find(name, n.peer)
	if err != nil {
		kind := optionReply(repErrUnknown)
		if errors.Is(err, NotPermitted) {
			kind = repErrPolicy
		}
		return nil, Info{}, kind, err
	}
	info, err := device.Info().normal()
	if err != nil {
		return nil, Info{}, repErrPlatform, err
	}
	info.Flags |= FlagHasFlags
	if n.structured {
		info.Flags |= FlagDF
	}
	if info.Flags&FlagWriteZeroes == 0 {
		info.Flags &^= FlagFastZero
	}
	return device, info, repAck, nil
}

func checkName(name string) error {
	if len(name) > stringMax || !utf8.ValidString(name) || strings.Contains(name, "\x00") {
		return errors.New("the export's name is not a string as the protocol wants it")
	}
	return nil
}

// exportName is the old way into transmission, which cannot be refused otherwise than by hanging up.
func (n *Negotiation) exportName(name string, out []byte) ([]byte, Next) {
	device, info, _, err := n.find(name)
	if err == nil && info.BlockMin > 1 {
		err = fmt.Errorf("export %q wants blocks of %d bytes, of which the client did not ask", name, info.BlockMin)
	}
	if err != nil {
		return out, n.hangup(fmt.Errorf("nbd: %w", err))
	}
	out = binary.BigEndian.AppendUint64(out, device.Size())
	out = binary.BigEndian.AppendUint16(out, uint16(info.Flags))
	if !n.noZeroes {
		out = append(out, make([]byte, exportNameZeroes)...)
	}
	n.agree(name, device, info)
	return out, Transmit
}

func (n *Negotiation) agree(name string, device Device, info Info) {
	n.result = Result{Export: name, Device: device, Info: info, Structured: n.structured, Status: n.selected && n.context == name && info.Status}
}

// info answers OptInfo and OptGo.
func (n *Negotiation) info(o Option, data, out []byte) ([]byte, Next) {
	name, wanted, ok := parseInfo(data)
	if !ok {
		return refuse(out, o, repErrInvalid, "lengths in the option do not add up"), More
	}
	device, info, kind, err := n.find(name)
	if err != nil {
		return refuse(out, o, kind, err.Error()), More
	}
	export := binary.BigEndian.AppendUint16(nil, infoExport)
	export = binary.BigEndian.AppendUint64(export, device.Size())
	export = binary.BigEndian.AppendUint16(export, uint16(info.Flags))
	out = reply(out, o, repInfo, export)
	if wanted[infoName] {
		out = reply(out, o, repInfo, append(binary.BigEndian.AppendUint16(nil, infoName), name...))
	}
	if wanted[infoDescription] && info.Description != "" {
		out = reply(out, o, repInfo, append(binary.BigEndian.AppendUint16(nil, infoDescription), clip(info.Description)...))
	}
	if wanted[infoBlockSize] || info.BlockMin > 1 {
		sizes := binary.BigEndian.AppendUint16(nil, infoBlockSize)
		for _, size := range []uint32{info.BlockMin, info.BlockPreferred, info.PayloadMax} {
			sizes = binary.BigEndian.AppendUint32(sizes, size)
		}
		out = reply(out, o, repInfo, sizes)
	}
	if o == OptGo && info.BlockMin > 1 && !wanted[infoBlockSize] {
		return refuse(out, o, repErrBlockSizeReqd, fmt.Sprintf("ask for the block size: it is %d", info.BlockMin)), More
	}
	out = reply(out, o, repAck, nil)
	if o == OptInfo {
		return out, More
	}
	n.agree(name, device, info)
	return out, Transmit
}

// parseInfo takes the data of OptInfo and OptGo apart.
func parseInfo(data []byte) (name string, wanted map[uint16]bool, ok bool) {
	s := bytes.NewBuffer(data)
	name, ok = takeString(s)
	if !ok || s.Len() < 2 {
		return "", nil, false
	}
	count := int(binary.BigEndian.Uint16(s.Next(2)))
	if s.Len() != 2*count {
		return "", nil, false
	}
	wanted = map[uint16]bool{}
	for range count {
		wanted[binary.BigEndian.Uint16(s.Next(2))] = true
	}
	return name, wanted, true
}

// takeString takes a length of 32 bits and as many bytes.
func takeString(s *bytes.Buffer) (string, bool) {
	n, ok := takeUint32(s)
	if !ok || uint64(n) > uint64(s.Len()) {
		return "", false
	}
	return string(s.Next(int(n))), true
}

func takeUint32(s *bytes.Buffer) (uint32, bool) {
	if s.Len() < 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(s.Next(4)), true
}

// metaContext answers OptListMetaContext and OptSetMetaContext.
func (n *Negotiation) metaContext(o Option, data, out []byte) []byte {
	if o == OptSetMetaContext {
		n.selected, n.context = false, "" // also if this one fails
	}
	if !n.structured {
		return refuse(out, o, repErrInvalid, "ask for structured replies first")
	}
	s := bytes.NewBuffer(data)
	name, ok := takeString(s)
	count, ok2 := takeUint32(s)
	if !ok || !ok2 {
		return refuse(out, o, repErrInvalid, "lengths in the option do not add up")
	}
	if count > queriesMax {
		return refuse(out, o, repErrTooBig, fmt.Sprintf("more than %d queries", queriesMax))
	}
	matched := o == OptListMetaContext && count == 0
	for range count {
		query, ok := takeString(s)
		if !ok {
			return refuse(out, o, repErrInvalid, "lengths in the option do not add up")
		}
		matched = matched || query == ContextAllocation || o == OptListMetaContext && query == contextNamespace
	}
	if s.Len() > 0 {
		return refuse(out, o, repErrInvalid, "bytes follow the last query")
	}
	_, info, kind, err := n.find(name)
	if err != nil {
		return refuse(out, o, kind, err.Error())
	}
	if matched && info.Status {
		id := uint32(0)
		if o == OptSetMetaContext {
			id = allocationID
			n.selected, n.context = true, name
		}
		out = reply(out, o, repMetaContext, append(binary.BigEndian.AppendUint32(nil, id), ContextAllocation...))
	}
	return reply(out, o, repAck, nil)
}
