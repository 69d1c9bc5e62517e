package vpn

import (
	"errors"
	"net/netip"
	"time"

	"golang.org/x/crypto/blake2s"
)

// Why an export is refused.
var (
	errMalformed   = errors.New("malformed")
	errIncarnation = errors.New("made for another incarnation")
	errTooOld      = errors.New("keys are too old")
	errNotEnrolled = errors.New("device is not enrolled")
	errOverlap     = errors.New("counters are not above all that were held of the keys")
	errReplaced    = errors.New("a newer export is held")
	errFull        = errors.New("too many sessions are held")
)

// An export, all integers little endian:
//
//	version 1 │ keypairs │ for │ by │ number │ device │ received │ sent │ family │ address │ port │ keypair…
//	        1          1     8    8        8       32         12     12        1        16      2   = 101
//	keypair   send │ receive │ local │ remote │ age ms │ initiator │ depth │ counters from │ floor
//	            32        32       4        4        4           1       1               8       8   = 94
const (
	exportVersion    = 1
	exportHeader     = 101
	exportKeypair    = 94
	maxExportedPairs = 2
)

// session is what an export says.
type session struct {
	to, from uint64 // incarnations
	number   uint64 // of the exports made by from
	device   Key
	received Timestamp
	sent     Timestamp
	address  netip.AddrPort // invalid: none
	n        int            // keypairs
	pairs    [maxExportedPairs]exportedKeys
}

// exportedKeys is an exported keypair, the current one first. When it is the exporter's own keys leave with it, so it is erased
// after use.
type exportedKeys struct {
	id            keyID
	send, receive Key
	local, remote uint32
	age           time.Duration // when it was exported or imported
	initiator     bool
	part          part
	floor         uint64
}

// keyID names the keys of a keypair without telling them.
type keyID [16]byte

func identify(send, receive *Key) keyID {
	var both [64]byte
	copy(both[:], send[:])
	copy(both[32:], receive[:])
	sum := blake2s.Sum256(both[:])
	clear(both[:])
	return keyID(sum[:])
}

func (s *session) erase() {
	for i := range s.pairs {
		clear(s.pairs[i].send[:])
		clear(s.pairs[i].receive[:])
	}
}

// encode makes the export. Ages are rounded up: keys are never younger at their heir.
func (s *session) encode() []byte {
	b := make([]byte, 0, exportHeader+s.n*exportKeypair)
	b = append(b, exportVersion, byte(s.n))
	b = le.AppendUint64(b, s.to)
	b = le.AppendUint64(b, s.from)
	b = le.AppendUint64(b, s.number)
	b = append(b, s.device[:]...)
	b = append(b, s.received[:]...)
	b = append(b, s.sent[:]...)
	var family byte
	var address [16]byte
	switch a := s.address.Addr(); {
	case a.Is4():
		family = 4
		copy(address[:], a.AsSlice())
	case a.Is6():
		family, address = 6, a.As16()
	}
	b = append(b, family)
	b = append(b, address[:]...)
	b = le.AppendUint16(b, s.address.Port())
	for _, p := range s.pairs[:s.n] {
		b = append(b, p.send[:]...)
		b = append(b, p.receive[:]...)
		b = le.AppendUint32(b, p.local)
		b = le.AppendUint32(b, p.remote)
		b = le.AppendUint32(b, uint32((p.age+time.Millisecond-1)/time.Millisecond))
		var initiator byte
		if p.initiator {
			initiator = 1
		}
		b = append(b, initiator, p.part.depth)
		b = le.AppendUint64(b, p.part.lo)
		b = le.AppendUint64(b, p.floor)
	}
	return b
}

// decode is the strict inverse of encode.
func decode(b []byte) (s session, err error) {
	if len(b) < exportHeader || b[0] != exportVersion {
		return s, errMalformed
	}
	s.n = int(b[1])
	if s.n < 1 || s.n > maxExportedPairs || len(b) != exportHeader+s.n*exportKeypair {
		return s, errMalformed
	}
	s.to, s.from, s.number = le.Uint64(b[2:]), le.Uint64(b[10:]), le.Uint64(b[18:])
	s.device = Key(b[26:58])
	s.received, s.sent = Timestamp(b[58:70]), Timestamp(b[70:82])
	var ok bool
	if s.address, ok = decodeAddress(b[82], [16]byte(b[83:99]), le.Uint16(b[99:])); !ok || s.device == (Key{}) {
		return s, errMalformed
	}
	for i := range s.pairs[:s.n] {
		if s.pairs[i], ok = decodePair(b[exportHeader+i*exportKeypair:]); !ok {
			s.erase()
			return s, errMalformed
		}
	}
	if s.n == 2 && (s.pairs[0].id == s.pairs[1].id || s.pairs[0].age > s.pairs[1].age) {
		s.erase()
		return s, errMalformed
	}
	return s, nil
}

func decodeAddress(family byte, address [16]byte, port uint16) (a netip.AddrPort, ok bool) {
	switch family {
	case 0:
		return a, address == [16]byte{} && port == 0
	case 4:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(address[:])), port), port != 0 && [12]byte(address[4:]) == [12]byte{}
	case 6:
		ip := netip.AddrFrom16(address)
		return netip.AddrPortFrom(ip, port), port != 0 && !ip.Is4In6()
	}
	return a, false
}

// decodePair takes the keypair at the beginning of b, which is long enough.
func decodePair(b []byte) (p exportedKeys, ok bool) {
	p = exportedKeys{
		send: Key(b), receive: Key(b[32:]),
		local: le.Uint32(b[64:]), remote: le.Uint32(b[68:]),
		age:       time.Duration(le.Uint32(b[72:])) * time.Millisecond,
		initiator: b[76] == 1,
		part:      part{lo: le.Uint64(b[78:]), depth: b[77]},
		floor:     le.Uint64(b[86:]),
	}
	p.id = identify(&p.send, &p.receive)
	ok = b[76] <= 1 && p.part.valid() && p.floor <= RejectAfterMessages && p.local != 0
	return p, ok
}
