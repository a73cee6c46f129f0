package nbd

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// talk is the client's side of a negotiation as bytes.
type talk struct{ bytes.Buffer }

func (k *talk) flags(f uint32) *talk {
	k.Write(binary.BigEndian.AppendUint32(nil, f))
	return k
}

func (k *talk) option(o Option, data ...any) *talk {
	var d []byte
	for _, x := range data {
		switch x := x.(type) {
		case string:
			d = append(binary.BigEndian.AppendUint32(d, uint32(len(x))), x...)
		case uint32:
			d = binary.BigEndian.AppendUint32(d, x)
		case uint16:
			d = binary.BigEndian.AppendUint16(d, x)
		case []byte:
			d = append(d, x...)
		}
	}
	k.Write(binary.BigEndian.AppendUint64(nil, magicOption))
	k.Write(binary.BigEndian.AppendUint32(nil, uint32(o)))
	k.Write(binary.BigEndian.AppendUint32(nil, uint32(len(d))))
	k.Write(d)
	return k
}

// replies parses what the server said to options.
func replies(t testing.TB, out []byte) (types []optionReply, data []string) {
	t.Helper()
	for len(out) > 0 {
		if len(out) < optionReplyHeadBytes || binary.BigEndian.Uint64(out) != magicOptionRep {
			t.Fatalf("not a reply: %x", out)
		}
		n := int(binary.BigEndian.Uint32(out[16:]))
		types = append(types, optionReply(binary.BigEndian.Uint32(out[12:])))
		data = append(data, string(out[optionReplyHeadBytes:optionReplyHeadBytes+n]))
		out = out[optionReplyHeadBytes+n:]
	}
	return types, data
}

func negotiation(mode TLSMode) *Negotiation {
	_, d := memoryDevice(1 << 20)
	big := NewBlocking(nil, Info{Flags: FlagReadOnly, BlockMin: 4096}, func() uint64 { return 8192 }, 0)
	return NewNegotiation(exports{"disk": d, "big": big}, mode, Peer{})
}

const bothFlags = handshakeFixedNewstyle | handshakeNoZeroes

func TestOptionsAreAnsweredAsTheProtocolSays(t *testing.T) {
	for _, try := range []struct {
		name string
		mode TLSMode
		say  *talk
		want []optionReply
		next Next
	}{
		{"go", TLSOff, new(talk).option(OptGo, "disk", uint16(0)), []optionReply{repInfo, repAck}, Transmit},
		{"info, all of it", TLSOff, new(talk).option(OptInfo, "disk", uint16(4), uint16(0), uint16(1), uint16(2), uint16(3)),
			[]optionReply{repInfo, repInfo, repInfo, repInfo, repAck}, More},
		{"unknown export", TLSOff, new(talk).option(OptGo, "none", uint16(0)), []optionReply{repErrUnknown}, More},
		{"block size required", TLSOff, new(talk).option(OptGo, "big", uint16(0)), []optionReply{repInfo, repInfo, repErrBlockSizeReqd}, More},
		{"block size asked", TLSOff, new(talk).option(OptGo, "big", uint16(1), uint16(3)), []optionReply{repInfo, repInfo, repAck}, Transmit},
		{"block size not required for info", TLSOff, new(talk).option(OptInfo, "big", uint16(0)), []optionReply{repInfo, repInfo, repAck}, More},
		{"name longer than the option", TLSOff, new(talk).option(OptGo, uint32(1000), uint16(0)), []optionReply{repErrInvalid}, More},
		{"more requests than the option", TLSOff, new(talk).option(OptGo, "disk", uint16(2), uint16(3)), []optionReply{repErrInvalid}, More},
		{"empty go", TLSOff, new(talk).option(OptGo), []optionReply{repErrInvalid}, More},
		{"name with NUL", TLSOff, new(talk).option(OptGo, "a\x00b", uint16(0)), []optionReply{repErrInvalid}, More},
		{"list", TLSOff, new(talk).option(OptList), []optionReply{repServer, repServer, repAck}, More},
		{"list with data", TLSOff, new(talk).option(OptList, "x"), []optionReply{repErrInvalid}, More},
		{"abort", TLSOff, new(talk).option(OptAbort), []optionReply{repAck}, Hangup},
		{"unknown option", TLSOff, new(talk).option(77, "data"), []optionReply{repErrUnsup}, More},
		{"extended headers", TLSOff, new(talk).option(OptExtendedHeaders), []optionReply{repErrUnsup}, More},
		{"structured with data", TLSOff, new(talk).option(OptStructuredReply, "x"), []optionReply{repErrInvalid}, More},
		{"context before structured", TLSOff, new(talk).option(OptSetMetaContext, "disk", uint32(1), ContextAllocation), []optionReply{repErrInvalid}, More},
		{"context", TLSOff, new(talk).option(OptStructuredReply).option(OptSetMetaContext, "disk", uint32(2), "x-y:z", ContextAllocation),
			[]optionReply{repAck, repMetaContext, repAck}, More},
		{"list contexts", TLSOff, new(talk).option(OptStructuredReply).option(OptListMetaContext, "disk", uint32(0)), []optionReply{repAck, repMetaContext, repAck}, More},
		{"list contexts by wildcard", TLSOff, new(talk).option(OptStructuredReply).option(OptListMetaContext, "disk", uint32(1), "base:"), []optionReply{repAck, repMetaContext, repAck}, More},
		{"set by wildcard selects nothing", TLSOff, new(talk).option(OptStructuredReply).option(OptSetMetaContext, "disk", uint32(1), "base:"), []optionReply{repAck, repAck}, More},
		{"context of an export without", TLSOff, new(talk).option(OptStructuredReply).option(OptSetMetaContext, "big", uint32(1), ContextAllocation), []optionReply{repAck, repAck}, More},
		{"contexts without end", TLSOff, new(talk).option(OptStructuredReply).option(OptSetMetaContext, "disk", uint32(1<<31)), []optionReply{repAck, repErrTooBig}, More},
		{"query longer than the option", TLSOff, new(talk).option(OptStructuredReply).option(OptSetMetaContext, "disk", uint32(1), uint32(99)), []optionReply{repAck, repErrInvalid}, More},
		{"no TLS here", TLSOff, new(talk).option(OptStartTLS), []optionReply{repErrPolicy}, More},
		{"start TLS", TLSOptional, new(talk).option(OptStartTLS), []optionReply{repAck}, StartTLS},
		{"start TLS with data", TLSOptional, new(talk).option(OptStartTLS, "x"), []optionReply{repErrInvalid}, More},
		{"TLS required", TLSRequired, new(talk).option(OptList).option(OptGo, "disk", uint16(0)), []optionReply{repErrTLSRequired, repErrTLSRequired}, More},
		{"TLS required, abort", TLSRequired, new(talk).option(OptAbort), []optionReply{repAck}, Hangup},
	} {
		n := negotiation(try.mode)
		taken, out, next := n.Feed(append(new(talk).flags(bothFlags).Bytes(), try.say.Bytes()...), nil)
		types, _ := replies(t, out)
		if len(types) != len(try.want) || next != try.next || taken != 4+try.say.Len() {
			t.Errorf("%s: got %#x and %v, want %#x and %v", try.name, types, next, try.want, try.next)
			continue
		}
		for i := range types {
			if types[i] != try.want[i] {
				t.Errorf("%s: got %#x, want %#x", try.name, types, try.want)
			}
		}
	}
}

func TestWhatBreaksTheHandshakeIsCutOff(t *testing.T) {
	for name, say := range map[string]*talk{
		"unknown flags":                       new(talk).flags(1 << 7),
		"wrong magic":                         {*bytes.NewBuffer(append(new(talk).flags(bothFlags).Bytes(), make([]byte, optionHeadBytes)...))},
		"huge option":                         {*bytes.NewBuffer(new(talk).flags(bothFlags).option(OptGo, make([]byte, optionBytesMax+1)).Bytes())},
		"option without fixed newstyle":       new(talk).flags(0).option(OptList),
		"export name that does not exist":     new(talk).flags(bothFlags).option(OptExportName, []byte("none")),
		"export name that wants large blocks": new(talk).flags(bothFlags).option(OptExportName, []byte("big")),
	} {
		if _, _, next := negotiation(TLSOff).Feed(say.Bytes(), nil); next != Hangup {
			t.Errorf("%s: next is %v", name, next)
		}
	}
	n, say := negotiation(TLSOff), new(talk).flags(bothFlags)
	for range optionsMax + 1 {
		say.option(OptStructuredReply)
	}
	if _, _, next := n.Feed(say.Bytes(), nil); next != Hangup || !errors.Is(n.Err(), ErrProtocol) {
		t.Errorf("options without end: next is %v, %v", next, n.Err())
	}
	if _, _, next := negotiation(TLSRequired).Feed(new(talk).flags(bothFlags).option(OptExportName, []byte("disk")).Bytes(), nil); next != Hangup {
		t.Errorf("export name without TLS: next is %v", next)
	}
}

func TestExportNameEndsWithZeroesForThoseWhoWantThem(t *testing.T) {
	for flags, want := range map[uint32]int{0: exportNameReplyBytes + exportNameZeroes, bothFlags: exportNameReplyBytes} {
		n := negotiation(TLSOff)
		_, out, next := n.Feed(new(talk).flags(flags).option(OptExportName, []byte("disk")).Bytes(), nil)
		if next != Transmit || len(out) != want || binary.BigEndian.Uint64(out) != 1<<20 {
			t.Errorf("flags %d: %d bytes, next %v", flags, len(out), next)
		}
	}
}

func TestTLSForgetsWhatWasAgreedInTheClear(t *testing.T) {
	n := negotiation(TLSOptional)
	n.Feed(new(talk).flags(bothFlags).option(OptStructuredReply).option(OptSetMetaContext, "disk", uint32(1), ContextAllocation).option(OptStartTLS).Bytes(), nil)
	n.Secured(tls.ConnectionState{})
	_, out, next := n.Feed(new(talk).option(OptStartTLS).option(OptGo, "disk", uint16(0)).Bytes(), nil)
	types, _ := replies(t, out)
	if r := n.Result(); next != Transmit || r.Structured || r.Status || types[0] != repErrInvalid {
		t.Errorf("structured %v, status %v, replies %#x", r.Structured, r.Status, types)
	}
}

func TestBytesAfterStartTLSAreNotTakenAsOptions(t *testing.T) {
	n := negotiation(TLSOptional)
	head := new(talk).flags(bothFlags).option(OptStartTLS)
	whole := append(bytes.Clone(head.Bytes()), new(talk).option(OptStructuredReply).Bytes()...)
	if taken, _, next := n.Feed(whole, nil); taken != head.Len() || next != StartTLS {
		t.Errorf("took %d bytes of %d, next %v", taken, head.Len(), next)
	}
}

func TestContextOfAnotherExportDoesNotCount(t *testing.T) {
	_, d := memoryDevice(4096)
	n := NewNegotiation(exports{"a": d, "b": d}, TLSOff, Peer{})
	n.Feed(new(talk).flags(bothFlags).option(OptStructuredReply).option(OptSetMetaContext, "a", uint32(1), ContextAllocation).option(OptGo, "b", uint16(0)).Bytes(), nil)
	if r := n.Result(); r.Export != "b" || r.Status {
		t.Errorf("export %q, status %v", r.Export, r.Status)
	}
}

func TestMessagesToPeopleAreClippedToValidText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := clip(string(rapid.SliceOf(rapid.Byte()).Draw(t, "s")))
		if len(s) > messageMax || strings.Contains(s, "\x00") || strings.ToValidUTF8(s, "") != s {
			t.Fatalf("clipped to %q", s)
		}
	})
}

// However the bytes are cut, the answers are the same.
func TestNegotiationDoesNotDependOnHowBytesArrive(t *testing.T) {
	say := new(talk).flags(bothFlags).option(OptList).option(OptStructuredReply).option(OptSetMetaContext, "disk", uint32(1), ContextAllocation).
		option(OptInfo, "none", uint16(0)).option(OptGo, "disk", uint16(1), uint16(3)).Bytes()
	_, want, _ := negotiation(TLSOff).Feed(say, nil)
	rapid.Check(t, func(t *rapid.T) {
		n, rest := negotiation(TLSOff), say
		var out []byte
		next := More
		for len(rest) > 0 && next == More {
			k := rapid.IntRange(1, len(rest)).Draw(t, "k")
			var taken int
			taken, out, next = n.Feed(rest[:k], out)
			if taken != k {
				t.Fatalf("took %d of %d bytes", taken, k)
			}
			rest = rest[k:]
		}
		// The list comes in any order, so compare what does not depend on it.
		if next != Transmit || len(out) != len(want) {
			t.Fatalf("next %v, %d bytes of answers, want %d", next, len(out), len(want))
		}
	})
}

func FuzzNegotiation(f *testing.F) {
	f.Add(new(talk).flags(bothFlags).option(OptGo, "disk", uint16(1), uint16(3)).Bytes(), uint8(0))
	f.Add(new(talk).flags(bothFlags).option(OptStructuredReply).option(OptSetMetaContext, "disk", uint32(1), ContextAllocation).Bytes(), uint8(1))
	f.Add(new(talk).flags(0).option(OptExportName, []byte("disk")).Bytes(), uint8(2))
	f.Fuzz(func(t *testing.T, p []byte, mode uint8) {
		n := negotiation(TLSMode(mode % 3))
		for len(p) > 0 {
			k := min(len(p), 1+len(p)/2)
			taken, out, next := n.Feed(p[:k], nil)
			if taken > k || next == More && taken != k {
				t.Fatalf("took %d of %d, next %v", taken, k, next)
			}
			if len(n.partial) > optionHeadBytes+optionBytesMax || len(out) > 1<<20 {
				t.Fatalf("holds %d bytes, answers %d", len(n.partial), len(out))
			}
			if next != More {
				return
			}
			p = p[k:]
		}
	})
}
