package vpntest

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

const (
	protocolICMP   = 1
	protocolICMPv6 = 58
)

// echo is the type of echo requests and replies.
var echo = map[byte]struct{ request, reply byte }{
	protocolICMP:   {8, 0},
	protocolICMPv6: {128, 129},
}

// EchoRequest returns an ICMP or ICMPv6 echo request packet.
func EchoRequest(src, dst netip.Addr, id, seq uint16, payload []byte) []byte {
	protocol := byte(protocolICMP)
	if dst.Is6() {
		protocol = protocolICMPv6
	}
	icmp := make([]byte, 8, 8+len(payload))
	icmp[0] = echo[protocol].request
	binary.BigEndian.PutUint16(icmp[4:], id)
	binary.BigEndian.PutUint16(icmp[6:], seq)
	return Packet(src, dst, protocol, append(icmp, payload...))
}

// EchoReply returns the reply to an echo request to one of those addresses, to any if none is given; nil: it is none.
func EchoReply(packet []byte, addrs ...netip.Addr) []byte {
	src, dst, protocol, icmp, ok := Parse(packet)
	kind, known := echo[protocol]
	if !ok || !known || len(icmp) < 8 || icmp[0] != kind.request || len(addrs) > 0 && !slices.Contains(addrs, dst) {
		return nil
	}
	reply := slices.Clone(icmp)
	reply[0] = kind.reply
	return Packet(dst, src, protocol, reply)
}

// Packet returns an IP packet. The checksums of the IPv4 header and of ICMP and ICMPv6 are filled in.
func Packet(src, dst netip.Addr, protocol byte, payload []byte) []byte {
	if dst.Is4() {
		return packet4(src, dst, protocol, payload)
	}
	return packet6(src, dst, protocol, payload)
}

func packet4(src, dst netip.Addr, protocol byte, payload []byte) []byte {
	b := make([]byte, 20, 20+len(payload))
	b[0], b[8], b[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	b = append(b, payload...)
	if protocol == protocolICMP && len(payload) >= 4 {
		b[22], b[23] = 0, 0
		binary.BigEndian.PutUint16(b[22:], checksum(b[20:]))
	}
	return b
}

func packet6(src, dst netip.Addr, protocol byte, payload []byte) []byte {
	b := make([]byte, 40, 40+len(payload))
	b[0], b[6], b[7] = 0x60, protocol, 64
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	b = append(b, payload...)
	if protocol == protocolICMPv6 && len(payload) >= 4 {
		b[42], b[43] = 0, 0
		pseudo := append(slices.Clone(b[8:40]), 0, 0, byte(len(payload)>>8), byte(len(payload)), 0, 0, 0, protocol)
		binary.BigEndian.PutUint16(b[42:], checksum(append(pseudo, b[40:]...)))
	}
	return b
}

// Parse takes an IP packet without options or extension headers apart.
func Parse(packet []byte) (src, dst netip.Addr, protocol byte, payload []byte, ok bool) {
	switch {
	case len(packet) >= 20 && packet[0] == 0x45:
		n := int(binary.BigEndian.Uint16(packet[2:]))
		if n < 20 || n > len(packet) {
			return src, dst, 0, nil, false
		}
		return netip.AddrFrom4([4]byte(packet[12:16])), netip.AddrFrom4([4]byte(packet[16:20])), packet[9], packet[20:n], true
	case len(packet) >= 40 && packet[0]>>4 == 6:
		n := 40 + int(binary.BigEndian.Uint16(packet[4:]))
		if n > len(packet) {
			return src, dst, 0, nil, false
		}
		return netip.AddrFrom16([16]byte(packet[8:24])), netip.AddrFrom16([16]byte(packet[24:40])), packet[6], packet[40:n], true
	}
	return src, dst, 0, nil, false
}

// checksum is the Internet checksum (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
