package fencetest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
)

// The RMCP+ packet (IPMI 2.0, table 13-8), the parts that cipher suite 3 needs.
const (
	rmcpSize       = 4
	authNone       = 0x00 // an IPMI 1.5 header without authentication
	authRMCPPlus   = 0x06
	headerSize     = 12 // of RMCP+, after RMCP's own
	authCodeSize   = 12 // HMAC-SHA1-96
	nextHeader     = 0x07
	flagEncrypted  = 0x80
	flagSigned     = 0x40
	payloadIPMI    = 0x00
	payloadOpen    = 0x10
	payloadOpened  = 0x11
	payloadRAKP1   = 0x12
	payloadRAKP2   = 0x13
	payloadRAKP3   = 0x14
	payloadRAKP4   = 0x15
	payloadsMask   = 0x3f
	integrityAlign = 4
)

var rmcpHeader = []byte{0x06, 0x00, 0xff, 0x07} // version 1.0, no acknowledgement wanted, class IPMI

// packet is an RMCP+ packet without its wrapping.
type packet struct {
	kind     byte // payload type
	session  uint32
	sequence uint32
	payload  []byte
}

// keys are what a session's ends derive of the password and their random numbers (IPMI 2.0, sections 13.31 and 13.32).
type keys struct{ sik, k1, aes []byte }

func mac(key []byte, parts ...[]byte) []byte {
	h := hmac.New(sha1.New, key)
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

func deriveKeys(password, consoleRandom, bmcRandom, roleAndName []byte) keys {
	sik := mac(password, consoleRandom, bmcRandom, roleAndName)
	constant := func(b byte) []byte {
		out := make([]byte, sha1.Size)
		for i := range out {
			out[i] = b
		}
		return out
	}
	return keys{sik: sik, k1: mac(sik, constant(1)), aes: mac(sik, constant(2))[:aes.BlockSize]}
}

// open takes a packet of a session apart; any deviation from the standard is an error.
func (k keys) open(raw []byte) (packet, error) {
	p, rest, err := parseHeader(raw)
	if err != nil {
		return p, err
	}
	if raw[rmcpSize+1]&(flagEncrypted|flagSigned) != flagEncrypted|flagSigned {
		return p, errors.New("a packet of the session is not encrypted or not signed")
	}
	size := len(p.payload)
	pad := (integrityAlign - (headerSize+size+2)%integrityAlign) % integrityAlign
	if len(rest) != pad+2+authCodeSize {
		return p, fmt.Errorf("trailer of %d bytes, want %d of padding, 2 and %d", len(rest), pad, authCodeSize)
	}
	for _, b := range rest[:pad] {
		if b != 0xff {
			return p, fmt.Errorf("integrity pad % x", rest[:pad])
		}
	}
	if rest[pad] != byte(pad) || rest[pad+1] != nextHeader {
		return p, fmt.Errorf("pad length and next header % x, want %d and 7", rest[pad:pad+2], pad)
	}
	signed := raw[rmcpSize : len(raw)-authCodeSize]
	if !hmac.Equal(mac(k.k1, signed)[:authCodeSize], raw[len(raw)-authCodeSize:]) {
		return p, errors.New("the signature is wrong")
	}
	p.payload, err = k.decrypt(p.payload)
	return p, err
}

// parseHeader returns a packet with its payload as it is on the wire, and what follows it.
func parseHeader(raw []byte) (packet, []byte, error) {
	if len(raw) < rmcpSize+headerSize || raw[rmcpSize] != authRMCPPlus {
		return packet{}, nil, fmt.Errorf("no RMCP+ packet: % x", raw)
	}
	h := raw[rmcpSize:]
	p := packet{kind: h[1] & payloadsMask, session: binary.LittleEndian.Uint32(h[2:]), sequence: binary.LittleEndian.Uint32(h[6:])}
	size := int(binary.LittleEndian.Uint16(h[10:]))
	if len(h) < headerSize+size {
		return p, nil, fmt.Errorf("payload of %d bytes, said to be %d", len(h)-headerSize, size)
	}
	p.payload = h[headerSize : headerSize+size]
	return p, h[headerSize+size:], nil
}

// decrypt undoes AES-CBC-128 (IPMI 2.0, section 13.29): a random block first; padding 1, 2, 3 ... and its length last.
func (k keys) decrypt(raw []byte) ([]byte, error) {
	if len(raw) < 2*aes.BlockSize || len(raw)%aes.BlockSize != 0 {
		return nil, fmt.Errorf("encrypted payload of %d bytes", len(raw))
	}
	block, err := aes.NewCipher(k.aes)
	if err != nil {
		return nil, err
	}
	out := make([]byte, len(raw)-aes.BlockSize)
	cipher.NewCBCDecrypter(block, raw[:aes.BlockSize]).CryptBlocks(out, raw[aes.BlockSize:])
	pad := int(out[len(out)-1])
	if pad >= aes.BlockSize || pad > len(out)-1 {
		return nil, fmt.Errorf("confidentiality pad of %d bytes", pad)
	}
	text := out[:len(out)-1-pad]
	for i, b := range out[len(text) : len(text)+pad] {
		if b != byte(i+1) {
			return nil, fmt.Errorf("confidentiality pad % x", out[len(text):len(text)+pad])
		}
	}
	return text, nil
}

// seal makes the bytes of a packet of a session.
func (k keys) seal(p packet) ([]byte, error) {
	block, err := aes.NewCipher(k.aes)
	if err != nil {
		return nil, err
	}
	pad := (aes.BlockSize - (len(p.payload)+1)%aes.BlockSize) % aes.BlockSize
	text := append([]byte{}, p.payload...)
	for i := range pad {
		text = append(text, byte(i+1))
	}
	text = append(text, byte(pad))
	body := make([]byte, aes.BlockSize+len(text))
	_, _ = rand.Read(body[:aes.BlockSize]) // never fails
	cipher.NewCBCEncrypter(block, body[:aes.BlockSize]).CryptBlocks(body[aes.BlockSize:], text)
	p.payload = body
	out := p.bytes(flagEncrypted | flagSigned)
	trailing := (integrityAlign - (len(out)-rmcpSize+2)%integrityAlign) % integrityAlign
	for range trailing {
		out = append(out, 0xff)
	}
	out = append(out, byte(trailing), nextHeader)
	return append(out, mac(k.k1, out[rmcpSize:])[:authCodeSize]...), nil
}

// bytes are the packet with its headers and no trailer.
func (p packet) bytes(flags byte) []byte {
	out := append([]byte{}, rmcpHeader...)
	out = append(out, authRMCPPlus, p.kind|flags)
	out = binary.LittleEndian.AppendUint32(out, p.session)
	out = binary.LittleEndian.AppendUint32(out, p.sequence)
	out = binary.LittleEndian.AppendUint16(out, uint16(len(p.payload)))
	return append(out, p.payload...)
}
